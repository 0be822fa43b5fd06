"""Whether networks are better with the sums of columns that the encoder found.

Rows held out have proved that the sums tell what random units of a network do not. But a network
that learns may find the same by itself, and further inputs then lead it astray: on chessboards of
whole numbers its loss was higher with them (`benchmarks/sums.py`). So two networks are trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ai.ml.frameworks.pytorch.features import Compact, TableEncoder
from ai.ml.frameworks.pytorch.fit_parts import LabelledRows, Targets, training_device
from ai.ml.frameworks.pytorch.member_training import train_members
from ai.ml.frameworks.pytorch.settings import FitSettings
from ai.ml.frameworks.pytorch.splits import split_rows

__all__ = ["without_needless_sums", "without_sums"]

_MOST_ROWS = 16_000
_HELD_OUT_SHARE = 0.2
_PARTS = 20
_STANDARD_ERRORS = 1.64
_FEWEST_ROWS = 500
# Share of the loss that the sums must save.
_LEAST_GAIN = 0.01


def without_sums(encoder: TableEncoder, compact: Compact) -> tuple[TableEncoder, Compact]:
    """An encoder and the compact form of its training rows, both without sums of columns."""
    n_own = encoder.layout.n_numeric - len(encoder.plan_.obliques)
    numeric = np.ascontiguousarray(compact.numeric[:, :n_own])
    return encoder.without_sums(), Compact(numeric, compact.codes)


def without_needless_sums(
    encoder: TableEncoder,
    compact: Compact,
    rows: LabelledRows,
    targets: Targets,
    settings: FitSettings,
    groups: np.ndarray | None = None,
    time: np.ndarray | None = None,
    on_message: Callable[[str], None] | None = None,
) -> tuple[TableEncoder, Compact]:
    """The encoder with its sums where a network with them is better, otherwise without.

    One network each is trained as the settings say, on four fifths of at most 16,000 of the rows,
    from the same seed and with the same fifth to choose its epoch and to judge it. The sums stay
    if they save 1 % of the loss, and more than 1.64 of its standard errors over 20 parts of that
    fifth (the one-sided 5 % level). Where there are no sums nothing is trained. The search has
    seen all of these rows, so that the trial is no second proof of what it found: it asks what a
    network makes of it.

    Parameters
    ----------
    encoder : TableEncoder
        Fitted.
    compact : Compact
        Its training rows.
    rows : LabelledRows
        The same rows.
    targets : Targets
    settings : FitSettings
        Resolved.
    groups : ndarray of shape (n_rows,), optional
        Rows of one group are on one side.
    time : ndarray of shape (n_rows,), optional
        The rows that judge are later than those that learn.
    on_message : callable, optional
        Told of the sums before networks try them, and of what came of it.

    Returns
    -------
    encoder : TableEncoder
    compact : Compact
    """
    if not encoder.plan_.obliques:
        return encoder, compact
    learning, judging = _sides(len(rows), groups, time, settings.random_state)
    if len(learning) < _FEWEST_ROWS:
        return without_sums(encoder, compact)
    say = on_message or (lambda message: None)
    names = ", ".join(encoder.plan_.oblique_name(own) for own in encoder.plan_.obliques)
    say(f"sums of columns that may help: {names}; two networks try them first")
    parts = np.array_split(np.arange(len(judging)), min(_PARTS, len(judging)))
    learners, judges = rows.take(learning), rows.take(judging)
    device = training_device(settings)

    def losses(own: TableEncoder, learned: Compact, judged: Compact) -> np.ndarray:
        try:
            trained = train_members(
                replace(settings, n_members=1),
                own,
                (learned, learners),
                (judged, judges),
                targets,
                None,
                taught=None,
                on_epoch=None,
                checkpoint=None,
                stop_at=None,
                keep_interrupted=False,
            )
        except FloatingPointError:
            # What cannot be trained saves nothing; the fit itself says so if it fails too.
            return np.full(len(parts), np.inf)
        (module,) = trained.modules
        x = torch.from_numpy(own.expand(judged)).to(device)
        with torch.no_grad():
            logits = module(x).unsqueeze(0)
        return np.array(
            [
                float(targets.on(judges.take(part), device).loss(logits[:, torch.from_numpy(part)]))
                for part in parts
            ]
        )

    learned, judged = compact.take(learning), compact.take(judging)
    plain, plain_learned = without_sums(encoder, learned)
    without = losses(plain, plain_learned, without_sums(encoder, judged)[1])
    those = losses(encoder, learned, judged)
    if np.isfinite(without).all() and np.isfinite(those).all() and len(parts) > 1:
        gains = without - those
        error = gains.std(ddof=1) / np.sqrt(len(gains))
        if gains.mean() > max(_LEAST_GAIN * without.mean(), _STANDARD_ERRORS * error):
            say("the sums stay: the network with them is better")
            return encoder, compact
    say("the sums are left out: the network with them is no better")
    return without_sums(encoder, compact)


def _sides(
    n_rows: int, groups: np.ndarray | None, time: np.ndarray | None, random_state: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that learn and the rows that judge; the first are none where nothing parts them."""
    draw = np.random.default_rng((random_state, _MOST_ROWS))
    drawn = draw.permutation(n_rows)[:_MOST_ROWS]
    if time is not None:
        times = time[drawn]
        if (times == times[0]).all():
            return drawn[:0], drawn
        sides = split_rows(
            len(drawn), fraction=_HELD_OUT_SHARE, time=times, random_state=random_state
        )
        return drawn[sides[0]], drawn[sides[1]]
    n_judges = max(1, round(_HELD_OUT_SHARE * len(drawn)))
    place = np.arange(len(drawn))
    if groups is not None:
        number = np.unique(groups[drawn], return_inverse=True)[1]
        place = draw.permutation(int(number.max()) + 1)[number]
    is_judge = place <= np.sort(place)[n_judges - 1]
    return drawn[~is_judge], drawn[is_judge]
