"""Cross-validated comparison: all modes that fit the task, beside tree ensembles.

What `tabwright compare` does, as a function. Every candidate sees the same folds; each sets its
own validation rows aside inside the training rows of a fold. The references are the ensembles of
`tree_kinds`, whose number of boosting rounds is chosen by cross-validation inside the training
rows too (`teachers.soft_labels`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import polars as pl
import torch

from tabwright.artifact.container import pack
from tabwright.distillation.teachers import soft_labels
from tabwright.distillation.trees.problem import TeacherKind
from tabwright.errors import install_command
from tabwright.fitting.arguments import Columns
from tabwright.fitting.data_checks import read_checked_table
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.predictor import Predictor
from tabwright.metrics import score_classification, score_regression
from tabwright.regression import check_target
from tabwright.settings import FitSettings, Task
from tabwright.splits import splits_within
from tabwright.tables.labelled import (
    TrainingTable,
)
from tabwright.workflows.folds import folds_of
from tabwright.workflows.ranking import CandidateScores, Ranking
from tabwright.workflows.requests.compare import CompareRequest, check_comparison
from tabwright.workflows.run_settings import using_threads
from tabwright.workflows.train import run_training

if TYPE_CHECKING:
    from tabwright.splits import Splits

REFERENCES: Final[tuple[TeacherKind, ...]] = ("hist_gradient_boosting", "lightgbm", "catboost")

_HIGHER_IS_BETTER: Final = frozenset(
    ("accuracy", "balanced_accuracy", "auc", "average_precision", "r2", "d2")
)
_INNER_FOLDS = 3


@dataclass(frozen=True)
class Comparison:
    """What came of a comparison.

    `metric`: the one that judged.
    `candidates`: the best first.
    `use`: the mode of ours to use.
    `probability_best`: probability that `use` is better than the next candidate after it, or, where
        a reference comes before it, better than that reference.
    `advice`: which to use and how sure that is, in sentences.
    `messages`: what was decided on the way.
    `saved`: where the mode to use was saved, fitted on all rows; where a reference came first, with
        its trees beside the networks.
    `saved_weights`: of the networks and of each kind of trees, in what was saved, if it has trees.
    """

    task: Task
    metric: str
    n_rows: int
    n_folds: int
    n_repeats: int
    candidates: tuple[CandidateScores, ...]
    use: str
    probability_best: float
    advice: tuple[str, ...]
    messages: tuple[str, ...]
    seconds: float
    saved: Path | None = None
    saved_weights: dict[str, float] = field(default_factory=dict)


class _Fitted(Protocol):
    @property
    def size_bytes(self) -> int | None: ...

    def predict(self, frame: pl.DataFrame) -> np.ndarray: ...


class _Fit(Protocol):
    """Fits a candidate to training rows; `inner` holds rows out of them, the last split."""

    def __call__(self, train: TrainingTable, inner: Splits | None) -> _Fitted: ...


class Progress(Protocol):
    """Told how many fits more are done, and which comes next."""

    def __call__(self, count: int, text: str = "") -> None: ...


def run_comparison(
    request: CompareRequest,
    *,
    on_message: Callable[[str], None] | None = None,
    on_start: Callable[[int], Progress] | None = None,
) -> Comparison:
    """Cross-validate the candidates and say which to use.

    `on_message`: called with each decision as it is made.
    `on_start`: called with the number of fits to come; gives what is told of each.
    Raises `TableError` if the table or a column is not what it should be.
    Raises `ValueError` if the request contradicts itself or the table; before any fit.
    """
    started = time.perf_counter()
    messages: list[str] = []

    def emit(message: str) -> None:
        messages.append(message)
        if on_message is not None:
            on_message(message)

    replaced = check_comparison(request)
    if replaced is not None:
        emit(replaced)
    table = read_checked_table(request.table, emit)
    metrics = request.metrics_of(table.task)
    if table.task == "regression":
        check_target(request.objective, table.rows.target)
    metric = request.metric or metrics[0]
    if metric not in metrics:
        raise ValueError(
            f"the metric of a {table.task} task must be one of {', '.join(metrics)}; got {metric!r}"
        )
    modes = request.modes_of(table.task)
    candidates: dict[str, _Fit] = {mode: _mode(request, mode, table.task) for mode in modes}
    references: tuple[TeacherKind, ...] = ()
    if request.has_references:
        references = _references(emit)
    elif request.references:
        emit(
            f"no tree ensembles stand beside: they are fitted for squared error, not for "
            f"{request.objective}"
        )
    for kind in references:
        candidates[kind] = _reference(kind, request)
    table, folds = folds_of(
        table,
        n_folds=request.n_folds,
        n_repeats=request.n_repeats,
        validation=request.validation,
        random_state=request.random_state,
        on_message=emit,
    )
    n_fits = len(folds) * len(candidates)
    emit(f"{len(folds)} folds x {len(candidates)} candidates: {n_fits} fits")
    progress = (
        (lambda count, text="": None)
        if on_start is None
        else on_start(n_fits + (request.save is not None))
    )
    results: dict[str, list[_FoldResult]] = {name: [] for name in candidates}
    with using_threads(request.n_threads):
        for number, (train_index, test_index) in enumerate(folds, 1):
            train, test = table.take(train_index), table.take(test_index)
            inner = None
            if request.validation is not None:
                inner = splits_within(folds, train_index) or None
            for name, fit in candidates.items():
                progress(0, f"fold {number} of {len(folds)}, {name}")
                fitting = partial(fit, inner=inner)
                results[name].append(_judge(fitting, train, test, metrics, request))
                progress(1)
    scored = tuple(
        _candidate(name, name in references, of_folds, metrics)
        for name, of_folds in results.items()
    )
    ranking = Ranking(
        metric,
        sign=-1.0 if metric in _HIGHER_IS_BETTER else 1.0,
        test_share=float(np.mean([len(test) / len(train) for train, test in folds])),
    )
    ranked = ranking.ranked(scored)
    use, probability, advice = ranking.advice(ranked)
    weights: dict[str, float] = {}
    if request.save is not None:
        first = next((kind for kind in references if kind == ranked[0].name), None)
        beside = "" if first is None else f" with {first} beside it"
        progress(0, f"{use}{beside} on all rows")
        done = run_training(request.training_of(use, first))
        if done is not None and done.model.trees is not None:
            weights = done.model.trees.weights_by_kind
            if first in weights:
                _, _, advice = ranking.advice(ranked, saves_trees=True)
        progress(1)
    return Comparison(
        task=table.task,
        metric=metric,
        n_rows=len(table),
        n_folds=request.n_folds if request.validation is None else len(folds),
        n_repeats=request.n_repeats,
        candidates=ranked,
        use=use,
        probability_best=probability,
        advice=advice,
        messages=tuple(messages),
        seconds=time.perf_counter() - started,
        saved=request.save,
        saved_weights=weights,
    )


# ---------------------------------------------------------------------------------------------
# Candidates
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _FittedMode:
    """A network of a mode, fitted."""

    predictor: Predictor

    @property
    def size_bytes(self) -> int:
        return len(pack(*self.predictor.model.to_artifact()))

    def predict(self, frame: pl.DataFrame) -> np.ndarray:
        return self.predictor.judged(self.predictor.model.encoder.transform(frame))


def _mode(request: CompareRequest, mode: str, task: Task) -> _Fit:
    """What fits a mode."""
    settings = request.settings_of(mode, task)

    def fit(train: TrainingTable, inner: Splits | None) -> _FittedMode:
        model = fit_table(
            train.rows,
            settings,
            classes=train.classes,
            validation=inner,
            columns=Columns(profile=train.profile, target_name=request.table.columns.target),
        )
        return _FittedMode(Predictor(model))

    return fit


def _references(on_message: Callable[[str], None]) -> tuple[TeacherKind, ...]:
    found: list[TeacherKind] = []
    for kind in REFERENCES:
        if kind == "hist_gradient_boosting" or find_spec(kind) is not None:
            found.append(kind)
        else:
            on_message(f"{kind} is not installed; to add it, run: {install_command('trees')}")
    return tuple(found)


def _reference(kind: TeacherKind, request: CompareRequest) -> _Fit:
    """What fits a tree ensemble."""

    def fit(train: TrainingTable, inner: Splits | None) -> _Fitted:
        return soft_labels(
            train.rows,
            train.profile,
            task=train.task,
            n_classes=0 if train.classes is None else len(train.classes),
            teacher=kind,
            n_folds=_INNER_FOLDS,
            random_state=request.random_state,
            n_threads=torch.get_num_threads(),
        )

    return fit


# ---------------------------------------------------------------------------------------------
# Scores
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _FoldResult:
    scores: dict[str, float]
    fit_seconds: float
    rows_per_second: float
    size_bytes: int | None


def _judge(
    fit: Callable[[TrainingTable], _Fitted],
    train: TrainingTable,
    test: TrainingTable,
    metrics: Sequence[str],
    request: CompareRequest,
) -> _FoldResult:
    """The scores of one candidate on one fold, with its times and size."""
    started = time.perf_counter()
    fitted = fit(train)
    fitted_at = time.perf_counter()
    output = fitted.predict(test.rows.frame)
    seconds = time.perf_counter() - fitted_at
    judged = (test.rows.target, output, test.rows.weight)
    if test.classes is None:
        quantiles = request.settings.get("quantiles", FitSettings.quantiles)
        scores = score_regression(*judged, objective=request.objective, quantiles=quantiles)
    else:
        scores = score_classification(*judged)
    return _FoldResult(
        scores={name: scores[name] for name in metrics if name in scores},
        fit_seconds=fitted_at - started,
        rows_per_second=len(test) / max(seconds, 1e-9),
        size_bytes=fitted.size_bytes,
    )


def _candidate(
    name: str, is_reference: bool, folds: Sequence[_FoldResult], metrics: Sequence[str]
) -> CandidateScores:
    """The scores of a candidate over the folds."""
    sizes = [fold.size_bytes for fold in folds if fold.size_bytes is not None]
    shared = [metric for metric in metrics if all(metric in fold.scores for fold in folds)]
    return CandidateScores(
        name=name,
        is_reference=is_reference,
        scores={metric: tuple(fold.scores[metric] for fold in folds) for metric in shared},
        fit_seconds=float(np.mean([fold.fit_seconds for fold in folds])),
        rows_per_second=float(np.median([fold.rows_per_second for fold in folds])),
        size_bytes=round(float(np.mean(sizes))) if sizes else None,
    )
