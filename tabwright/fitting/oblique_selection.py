"""Which pairwise linear features of the encoder a network keeps: all of them, or none.

Held-out rows have shown that these features tell what random units of a network do not. But a
network that learns may find the same by itself, and further inputs can then raise its loss, as on
chessboards of whole numbers (`benchmarks/sums.py`). So a network with them is compared with one
without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.fitting.member_training import RunControl, train_members
from tabwright.fitting.networks import training_device
from tabwright.fitting.targets import Targets
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows
from tabwright.training.time_limit import TimeLimit, TimeLimitError

_MOST_ROWS = 16_000
_MOST_COMPARISONS = 2
_HELD_OUT_SHARE = 0.2
_PARTS = 20
# One side of a normal at 95 %.
_STANDARD_ERRORS = 1.64
_FEWEST_ROWS = 500
# Share of the loss that the features must save.
_LEAST_GAIN = 0.01
_SHARE_OF_TIME = 0.05


def without_obliques(encoder: TableEncoder, compact: Compact) -> tuple[TableEncoder, Compact]:
    """An encoder and its compact training rows, both without pairwise linear features."""
    n_own = encoder.layout.n_numeric - len(encoder.plan_.obliques)
    numeric = np.ascontiguousarray(compact.numeric[:, :n_own])
    return encoder.without_obliques(), Compact(numeric, compact.codes)


def select_obliques(
    encoder: TableEncoder,
    compact: Compact,
    rows: LabelledRows,
    targets: Targets,
    settings: FitSettings,
    on_message: Callable[[str], None] | None = None,
    limit: TimeLimit | None = None,
) -> tuple[TableEncoder, Compact]:
    """The encoder with its pairwise linear features where a network is better with them.

    One network each is trained as the settings say, on four fifths of at most 16,000 of the rows,
    from the same seed and with the same fifth to choose its epoch and to judge it. The features
    are kept if they save 1 % of the loss, and more than 1.64 of its standard errors over 20 parts
    of that fifth. Where they save 1 % but not so many errors, the same is done with another fifth,
    and both decide together. Where there are none nothing is trained. The search has seen all of
    these rows, so that this is no second test of what it found: it asks what a network makes of it.

    `rows`: the same rows. Those of one group are on one side. With a time the rows that judge are
        later than those that learn, and there is one comparison.
    `on_message`: called with the features before networks are compared, and with the outcome.
    `limit`: a twentieth of what is left is for each network that is compared.
    """
    if not encoder.plan_.obliques:
        return encoder, compact
    emit = on_message or (lambda message: None)
    names = ", ".join(encoder.plan_.oblique_name(oblique) for oblique in encoder.plan_.obliques)
    sides = list(_sides(rows, settings.random_state))
    if not sides:
        emit(f"pairwise linear features that may help: {names}; left out: too few rows to compare")
        return without_obliques(encoder, compact)
    emit(f"pairwise linear features that may help: {names}; two networks are compared first")
    without, those = np.empty(0), np.empty(0)
    for learning, judging in sides:
        learned, judged = (
            _Encoded(encoder, compact.take(index), rows.take(index))
            for index in (learning, judging)
        )
        plain_learned, plain_judged = learned.without_obliques(), judged.without_obliques()
        without = np.append(
            without, _part_losses(plain_learned, plain_judged, targets, settings, limit)
        )
        those = np.append(those, _part_losses(learned, judged, targets, settings, limit))
        if len(those) < 2 or not (np.isfinite(without).all() and np.isfinite(those).all()):
            break
        gains = without - those
        error = gains.std(ddof=1) / np.sqrt(len(gains))
        least = _LEAST_GAIN * without.mean()
        if gains.mean() > max(least, _STANDARD_ERRORS * error):
            emit("the column combinations are kept: the network with them is better")
            return encoder, compact
        if gains.mean() <= least:
            break
    emit("the column combinations are left out: the network with them is no better")
    return without_obliques(encoder, compact)


class _Encoded(NamedTuple):
    """Rows, what an encoder made of them, and the encoder."""

    encoder: TableEncoder
    compact: Compact
    rows: LabelledRows

    def without_obliques(self) -> _Encoded:
        return _Encoded(*without_obliques(self.encoder, self.compact), self.rows)


def _part_losses(
    learned: _Encoded,
    judged: _Encoded,
    targets: Targets,
    settings: FitSettings,
    limit: TimeLimit | None,
) -> np.ndarray:
    """Losses of one network on parts of the rows that judge it, infinite where it fails."""
    parts = np.array_split(np.arange(len(judged.rows)), min(_PARTS, len(judged.rows)))
    try:
        trained = train_members(
            replace(settings, n_members=1),
            learned.encoder,
            (learned.compact, learned.rows),
            (judged.compact, judged.rows),
            targets,
            control=RunControl(
                keep_interrupted=False,
                limit=None if limit is None else limit.part(_SHARE_OF_TIME),
            ),
        )
    except (FloatingPointError, TimeLimitError):
        # What cannot be trained saves nothing; the fit itself says so if it fails too.
        return np.full(len(parts), np.inf)
    (module,) = trained.modules
    device = training_device(settings)
    x = torch.from_numpy(judged.encoder.expand(judged.compact)).to(device)
    with torch.no_grad():
        logits = module(x).unsqueeze(0)
    losses = [
        targets.on(judged.rows.take(part), device).loss(logits[:, torch.from_numpy(part)])
        for part in parts
    ]
    return np.array([float(loss) for loss in losses])


def _sides(rows: LabelledRows, random_state: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows that learn and the rows that judge, as often as there are others to judge."""
    draw = np.random.default_rng((random_state, _MOST_ROWS))
    drawn = draw.permutation(len(rows))[:_MOST_ROWS]
    n_judges = max(1, round(_HELD_OUT_SHARE * len(drawn)))
    place = np.arange(len(drawn))
    n_comparisons = _MOST_COMPARISONS
    if rows.groups is not None:
        number = np.unique(rows.groups[drawn], return_inverse=True)[1]
        place = draw.permutation(int(number.max()) + 1)[number]
    elif rows.time is not None:
        # The latest judge, and no others are as late.
        place = -np.unique(rows.time[drawn], return_inverse=True)[1]
        n_comparisons = 1
    ends = np.sort(place)
    low = ends[0] - 1
    for turn in range(n_comparisons):
        high = ends[min((turn + 1) * n_judges, len(ends)) - 1]
        is_judge = (low < place) & (place <= high)
        low = high
        if is_judge.any() and (~is_judge).sum() >= _FEWEST_ROWS:
            yield drawn[~is_judge], drawn[is_judge]
