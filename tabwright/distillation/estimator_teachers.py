"""Estimators as teachers: scikit-learn's, anything that speaks like them, and models of ours.

An unfitted estimator is cloned and fitted like a tree ensemble; a fitted one is used as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.distillation.tree_columns import MOST_LEVELS
from tabwright.distillation.trees.problem import FitsAtOnce, FittedTrees, Problem
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor

FloatArray = NDArray[np.float64]

_CHUNK_ROWS: Final = 65_536
# No class is ruled out: a student's cross-entropy with a hard 0 learns nothing good.
_SMALLEST: Final = 1e-6


def smoothed(proba: FloatArray) -> FloatArray:
    """Probabilities of at least about 1e-6 whose rows sum to 1."""
    proba = np.maximum(proba, _SMALLEST)
    proba /= proba.sum(axis=1, keepdims=True)
    return proba


def is_fitted(estimator: Any) -> bool:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not hasattr(estimator, "fit") or not hasattr(estimator, "get_params"):
        return True
    if callable(getattr(estimator, "is_fitted", None)):
        return bool(estimator.is_fitted())
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


@dataclass(frozen=True)
class EstimatorLearner(FitsAtOnce):
    """An unfitted estimator as a `Learner`."""

    estimator: Any
    max_levels: int | None = MOST_LEVELS

    @property
    def name(self) -> str:
        return type(self.estimator).__name__

    def versions(self) -> dict[str, str]:
        return _library_of(self.estimator)

    def rounds(self, n_classes: int) -> tuple[int, ...]:
        return (0,)

    def settings(self, n_classes: int) -> dict[str, Any]:
        return _plain_params(self.estimator)

    def fit(self, problem: Problem, n_rounds: int) -> FittedTrees:
        from sklearn.base import clone

        estimator = clone(self.estimator)
        for name, value in sorted(estimator.get_params(deep=True).items()):
            if value is None and name.rpartition("__")[2] == "random_state":
                estimator.set_params(**{name: problem.random_state})
        weights = {}
        if problem.weight is not None:
            weights[_weight_argument(estimator)] = problem.weight
        estimator.fit(problem.values, problem.target, **weights)
        return _FittedClone(estimator, bool(problem.n_classes))


def _weight_argument(estimator: Any) -> str:
    """The name of the `sample_weight` of an estimator, or of a pipeline's last step."""
    from sklearn.utils.validation import has_fit_parameter

    steps = getattr(estimator, "steps", None)
    last, prefix = estimator, ""
    if steps:
        prefix, last = f"{steps[-1][0]}__", steps[-1][1]
    if not has_fit_parameter(last, "sample_weight"):
        raise ValueError(
            f"a teacher must take sample_weight where rows have weights; {type(last).__name__} "
            "does not; choose another teacher, or fit without weights"
        )
    return f"{prefix}sample_weight"


@dataclass(frozen=True)
class _FittedClone:
    """An estimator as trees of one stage."""

    estimator: Any
    classification: bool

    def stages(self, values: FloatArray, rounds: Sequence[int]) -> Iterator[FloatArray]:
        predict = self.estimator.predict_proba if self.classification else self.estimator.predict
        for _ in rounds:
            labels = np.asarray(predict(values), dtype=np.float64)
            yield labels if self.classification else labels.reshape(len(values))


@dataclass(frozen=True)
class FittedEstimator:
    estimator: Any
    n_classes: int
    classes: NDArray[Any] | None

    def predict(self, frame: pl.DataFrame) -> FloatArray:
        return np.concatenate([self._labels(chunk) for chunk in frame.iter_slices(_CHUNK_ROWS)])

    def _labels(self, frame: pl.DataFrame) -> FloatArray:
        """Probabilities (n, n_classes), 0 for classes that it lacks, smoothed; or values (n,)."""
        rows = _as_seen(self.estimator, frame)
        if not self.n_classes:
            values = np.asarray(self.estimator.predict(rows), dtype=np.float64)
            return self._checked(values, (len(frame),), values.size == len(frame)).reshape(-1)
        columns = self._columns()
        proba = np.asarray(self.estimator.predict_proba(rows), dtype=np.float64)
        shape = (len(frame), len(columns))
        self._checked(proba, shape, proba.shape == shape)
        full = np.zeros((len(frame), self.n_classes))
        full[:, columns] = proba
        return smoothed(full)

    def _checked(self, labels: FloatArray, shape: tuple[int, ...], fits: bool) -> FloatArray:
        if not fits or not np.isfinite(labels).all():
            raise ValueError(
                f"a teacher's labels must be finite and of shape {shape}; "
                f"{type(self.estimator).__name__} gave shape {labels.shape}"
            )
        return labels

    def _columns(self) -> list[int]:
        labels = getattr(self.estimator, "classes_", None)
        if labels is None:
            return list(range(self.n_classes))
        return _places(labels, self.classes, self.n_classes, type(self.estimator).__name__)


def _places(
    estimator_classes: Any, classes: NDArray[Any] | None, n_classes: int, name: str
) -> list[int]:
    """Where a teacher's classes stand among those of the target."""
    known = list(range(n_classes)) if classes is None else classes.tolist()
    labels = np.asarray(estimator_classes).tolist()
    strange = [label for label in labels if label not in known]
    if strange:
        raise ValueError(
            f"the classes of a teacher must be among those of the target ({known[:10]}); "
            f"{name} knows {strange[0]!r}; fit it on this target"
        )
    return [known.index(label) for label in labels]


class ModelTeacher:
    """A fitted model of ours as a teacher.

    `n_classes`: 0 in regression.
    `classes`: (n_classes,); the labels that the codes stand for; None: the codes themselves.
    Raises `ValueError` if the model is for another task, or knows other classes.
    """

    def __init__(self, model: FittedModel, n_classes: int, classes: NDArray[Any] | None) -> None:
        task = "classification" if n_classes else "regression"
        if model.settings.task != task:
            raise ValueError(
                f"a teacher for {task} must be a model for {task}; got one for "
                f"{model.settings.task}; choose another model, or check the target"
            )
        self.model = model
        self.predictor = Predictor(model)
        self._n_classes = n_classes
        self._columns = (
            []
            if model.classes is None
            else _places(model.classes, classes, n_classes, "the teacher")
        )

    def predict(self, frame: pl.DataFrame) -> FloatArray:
        """Label rows; see `teachers.FittedTeacher.predict`."""
        if not self._n_classes:
            return self.predictor.predict_values(frame)
        full = np.zeros((len(frame), self._n_classes))
        full[:, self._columns] = self.predictor.predict_proba(frame)
        return smoothed(full)

    def description(self) -> dict[str, Any]:
        """What it is, as plain data."""
        model = self.model
        return {
            "kind": "tabwright",
            "name": model.settings.training_mode,
            "library": "tabwright",
            "version": str(dict(model.card.get("versions", {})).get("tabwright", "")),
            "settings": {
                "n_members": len(model.members),
                "hidden_dim": model.architecture.hidden_dim,
                "num_hidden_layers": model.architecture.num_hidden_layers,
                "numeric_encoding": model.settings.numeric_encoding,
            },
            "out_of_fold": False,
        }


def _as_seen(estimator: Any, frame: pl.DataFrame) -> Any:
    """Rows in the form that an estimator was fitted on, as far as it tells."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        # CatBoost and others have no such attribute; they take columns in order.
        return frame.to_numpy()
    lacking = [name for name in names if name not in frame.columns]
    if lacking:
        raise ValueError(
            f"the teacher was fitted on the column {lacking[0]!r}, which the table lacks "
            f"({len(lacking)} in all); fit it on the columns of this table"
        )
    frame = frame[list(names)]
    try:
        import pandas as pd
    except ModuleNotFoundError:
        return frame
    return pd.DataFrame({name: frame[name].to_numpy() for name in frame.columns})


def describe_estimator(estimator: Any, *, cross_fitted: bool) -> dict[str, Any]:
    return {
        "kind": "estimator",
        "name": type(estimator).__name__,
        **_library_of(estimator),
        "settings": _plain_params(estimator),
        "out_of_fold": cross_fitted,
    }


def _library_of(estimator: Any) -> dict[str, str]:
    package = type(estimator).__module__.partition(".")[0]
    version = getattr(import_module(package), "__version__", "")
    return {"library": package, "version": str(version)}


def _plain_params(estimator: Any) -> dict[str, Any]:
    """Parameters as plain data; what is not a finite number, text or nothing, as short text."""
    get_params = getattr(estimator, "get_params", None)
    params = get_params(deep=False) if callable(get_params) else {}
    plain: dict[str, Any] = {}
    for name, value in sorted(params.items()):
        if isinstance(value, np.generic):
            value = value.item()
        simple = value is None or isinstance(value, bool | int | str)
        if simple or (isinstance(value, float) and math.isfinite(value)):
            plain[name] = value[:200] if isinstance(value, str) else value
        else:
            plain[name] = type(value).__name__ if hasattr(value, "fit") else repr(value)[:200]
    return plain
