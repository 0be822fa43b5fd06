"""Cross-validated fits: networks that each hold out another fold of the rows.

Each row is predicted by networks that did not train on it, and these predictions decide what
validation rows decide elsewhere: calibration, decision rule, intervals, the weights of trees. Every
network chooses its epoch on its own fold.

All networks share one encoder, so that a row is encoded once. It is fitted on all rows, and what it
takes from the targets tells a held-out row next to nothing of its own: target statistics of a row
come from the rows of the other folds, and bins are between thresholds of small trees. On columns
and targets of noise the predictions out of fold are no better than chance (a test).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabwright.calibration.intervals import CrossPredictions
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.errors import warn_caller
from tabwright.fitting.member_training import RunControl, train_members
from tabwright.fitting.targets import Targets
from tabwright.inference.fitted_model import FittedModel, StopReason
from tabwright.inference.predictor import Predictor
from tabwright.settings import FitSettings
from tabwright.splits import fold_rows
from tabwright.tables.labelled import LabelledRows
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.loop import Epoch, Trained
from tabwright.training.time_limit import TimeLimit

# The fold of rows that every network trains on.
_NONE = -1
_NOT_AVERAGED = ("epoch", "seconds", "fold", "n_folds")
_INTERVAL_FOLDS = 5

FloatArray = NDArray[np.float64]


def assign_folds(
    rows: LabelledRows, n_folds: int, *, stratify: bool, random_state: int
) -> tuple[NDArray[np.int64] | None, str]:
    """The fold of each row, or why there are no folds.

    `rows`: groups stay together.
    `n_folds`: fewer where there are not so many rows or groups.
    `stratify`: whether the targets are classes, to be spread over the folds.
    Returns `folds`: (n_rows,), int64; from 0; -1 for rows that every network trains on, without
        which a class would have no training row.
    Returns `reason`: empty where there are folds.
    """
    if rows.time is not None:
        return None, "rows in order of time have no folds: the latest rows validate"
    unit = np.arange(len(rows))
    if rows.groups is not None:
        unit = np.unique(rows.groups, return_inverse=True)[1]
    n_folds = min(n_folds, int(unit.max()) + 1)
    few = "too few rows or groups for folds: one set of rows validates"
    if n_folds < 2:
        return None, few
    folds = fold_rows(
        len(rows),
        n_folds,
        rows.target if stratify else None,
        rows.groups,
        random_state=random_state,
    )
    if stratify:
        for code in np.unique(rows.target):
            of_class = rows.target == code
            if len(np.unique(folds[of_class])) == 1:
                folds[np.isin(unit, unit[of_class])] = _NONE
    kept, counts = np.unique(folds[folds != _NONE], return_counts=True)
    if len(kept) < 2 or len(rows) - counts.max() < 2:
        return None, few
    return np.where(folds == _NONE, _NONE, np.searchsorted(kept, folds)), ""


@dataclass(frozen=True)
class TrainedFold:
    """The networks that hold out one fold.

    `held`: (n,), int64; numbers of the rows held out.
    `interval_values`: (n,) or (n, n_levels), float64; in regression: standardised predictions or
        quantiles of these rows, each from epochs that others of them chose; None where there are no
        others.
    """

    held: NDArray[np.int64]
    trained: Trained
    interval_values: FloatArray | None


def train_folds(
    settings: FitSettings,
    encoder: TableEncoder,
    training: tuple[Compact, LabelledRows],
    targets: Targets,
    folds: NDArray[np.int64],
    *,
    on_epoch: Callable[[Epoch], None] | None,
    on_message: Callable[[str], None],
    checkpoint: Checkpoint | None,
    limit: TimeLimit | None,
) -> list[TrainedFold]:
    """Train the networks of each fold on the rows of the others, one fold after the other.

    An interrupt keeps the folds that are done, and of the fold under way its best epoch so far.

    `settings`: resolved; `n_members` networks are trained per fold.
    `encoder`: fitted.
    `training`: all rows.
    `folds`: (n_rows,), int64; from `assign_folds`.
    `limit`: a fold is begun where it will end in time, as the folds before it tell.
    """
    compact, rows = training
    n_folds = int(folds.max()) + 1
    done: list[TrainedFold] = []
    longest = 0.0
    for fold in range(n_folds):
        if done and limit is not None and longest > limit.remaining:
            on_message(f"{fold} of {n_folds} folds fit into the time")
            break
        begun = time.monotonic()
        stay, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        judging = rows.take(held)
        cross = _cross_predictions(judging, targets, settings.random_state)
        try:
            trained = train_members(
                # Other first weights, orders and dropout in each fold.
                replace(settings, random_state=_seed(settings.random_state, fold)),
                encoder,
                (compact.take(stay), rows.take(stay)),
                (compact.take(held), judging),
                targets,
                cross,
                control=RunControl(
                    on_epoch=_naming_fold(on_epoch, fold + 1, n_folds),
                    checkpoint=None if checkpoint is None else checkpoint.of_fold(fold + 1),
                    limit=limit,
                ),
            )
        except KeyboardInterrupt:
            if not done:
                raise
            warn_caller(
                f"training was interrupted; the networks of {len(done)} of {n_folds} folds are "
                "kept",
                RuntimeWarning,
            )
            last = replace(done[-1].trained, stopped="interrupted")
            done[-1] = replace(done[-1], trained=last)
            return done
        values = None if cross is None else cross.predictions()
        done.append(TrainedFold(held, trained, values))
        longest = max(longest, time.monotonic() - begun)
        if trained.stopped == "interrupted":
            break
    return done


def joined_folds(done: Sequence[TrainedFold]) -> Trained:
    """The networks of all folds as one run; its epochs are means over the folds that had them."""
    runs = [fold.trained for fold in done]
    stopped = {run.stopped for run in runs}
    kinds: tuple[StopReason, ...]
    kinds = ("interrupted", "time limit", "non-finite", "schedule", "patience")
    return Trained(
        [module for run in runs for module in run.modules],
        tuple(epoch for run in runs for epoch in run.best_epochs),
        _mean_history([run.history for run in runs]),
        next(kind for kind in kinds if kind in stopped),
    )


def out_of_fold(model: FittedModel, compact: Compact, done: Sequence[TrainedFold]) -> FloatArray:
    """What networks that did not train on them say of the rows of each fold, fold after fold.

    `model`: with the networks of `joined_folds`.
    `compact`: all training rows.
    Returns: (n, n_classes) or (n,), float64; probabilities, or standardised values.
    """
    outputs, start = [], 0
    for fold in done:
        stop = start + len(fold.trained.modules)
        of_fold = replace(model, members=model.members[start:stop])
        outputs.append(Predictor(of_fold).standardised(compact.take(fold.held)))
        start = stop
    return np.concatenate(outputs)


def _naming_fold(
    on_epoch: Callable[[Epoch], None] | None, fold: int, n_folds: int
) -> Callable[[Epoch], None] | None:
    """`on_epoch` for epochs that know their fold."""
    if on_epoch is None:
        return None

    def on_fold_epoch(epoch: Epoch) -> None:
        on_epoch(replace(epoch, fold=fold, n_folds=n_folds))

    return on_fold_epoch


def _seed(random_state: int, fold: int) -> int:
    """A seed per fold; it does not depend on how many there are."""
    words = np.random.SeedSequence([random_state, fold]).generate_state(2)
    return (int(words[0]) << 31) | (int(words[1]) >> 1)


def _cross_predictions(
    rows: LabelledRows, targets: Targets, random_state: int
) -> CrossPredictions | None:
    """What keeps predictions of a fold's rows by epochs that the others of them would choose."""
    if targets.scale is None:
        return None
    n_units = len(rows) if rows.groups is None else len(np.unique(rows.groups))
    if n_units < 2:
        return None
    parts = fold_rows(
        len(rows), min(_INTERVAL_FOLDS, n_units), groups=rows.groups, random_state=random_state
    )
    return CrossPredictions(parts, rows.weight)


def _mean_history(histories: Sequence[Sequence[Epoch]]) -> tuple[Epoch, ...]:
    """Epoch by epoch the mean over the folds that had it; seconds are of all folds together."""
    names = [field.name for field in fields(Epoch) if field.name not in _NOT_AVERAGED]
    history = []
    for number in range(max(map(len, histories))):
        reached = [epochs[number] for epochs in histories if len(epochs) > number]
        means: dict[str, Any] = {
            name: float(np.mean([getattr(epoch, name) for epoch in reached])) for name in names
        }
        seconds = sum(epochs[min(number, len(epochs) - 1)].seconds for epochs in histories)
        history.append(Epoch(number + 1, **means, seconds=seconds))
    return tuple(history)
