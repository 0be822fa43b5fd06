"""Interactions of numeric columns that a table needs, as columns of its encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tabwright.distillation.interaction_search import find_interactions
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.encoding.interactions import Interaction
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.fitting.combination import EncodedRows, tree_problem
from tabwright.fitting.targets import Targets
from tabwright.settings import FitSettings
from tabwright.training.time_limit import TimeLimit


def with_interactions(
    encoder: TableEncoder,
    to_fit: RowsToFit,
    training: EncodedRows,
    targets: Targets,
    settings: FitSettings,
    *,
    known: Sequence[Interaction] | None = None,
    on_message: Callable[[str], None] | None = None,
    limit: TimeLimit | None = None,
) -> tuple[TableEncoder, Compact]:
    """The encoder with columns of interactions, where trees predict held-out rows better with them.

    `linear_glm_baseline` has none: it is the model of single columns.

    `to_fit`, `training`: the training rows, and what `encoder.fit_transform` made of them.
    `known`: those of a fit before this one, in place of a search.
    `on_message`: called with those that are found.
    `limit`: see `find_interactions`.
    """
    compact, rows = training
    if settings.training_mode == "linear_glm_baseline":
        return encoder, compact
    if known is None:
        known = find_interactions(
            tree_problem(encoder, training, targets, settings.random_state),
            encoder.plan_,
            rows.groups,
            None if limit is None else limit.asked,
        )
    if not known:
        return encoder, compact
    encoder, compact = encoder.with_interactions(known, to_fit, compact)
    names = ", ".join(map(encoder.plan_.pair_name, encoder.plan_.interactions))
    if on_message is not None:
        on_message(f"further columns, with which held-out rows are predicted better: {names}")
    return encoder, compact
