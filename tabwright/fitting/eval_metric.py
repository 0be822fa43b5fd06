"""What chooses the epoch in place of the loss: a scorer of scikit-learn, or a function.

`eval_metric_of` reads what a user gave. An `EvalMetric` scores predictions that are there already,
one network at a time; it knows nothing of the networks.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tabwright.errors import nearest_name
from tabwright.settings import Task
from tabwright.tables.labelled import LabelledRows

# scikit-learn's functions that end so are to be minimised; its others are to be maximised.
_MINIMISED = ("_error", "_loss", "_deviance")


@dataclass(frozen=True)
class EvalMetric:
    """A score of predictions on rows with a target; greater is better.

    `scorer`: as scikit-learn has them: `scorer(estimator, X, y, sample_weight=...)`.
    `by_code`: whether labels are told by their number: scikit-learn's own metrics take label 1 for
        the positive one, which is then the last of two, whatever the labels.
    """

    name: str
    scorer: Callable[..., Any]
    takes_weight: bool
    by_code: bool = False

    def __call__(
        self,
        y: np.ndarray,
        prediction: np.ndarray,
        sample_weight: np.ndarray | None = None,
        *,
        classes: np.ndarray | None = None,
    ) -> float:
        """Score predictions.

        `y`: (n_rows,); labels, or values.
        `prediction`: (n_rows, n_classes) or (n_rows,), float64; probabilities, or values in the
            target's own units.
        `sample_weight`: (n_rows,), float64; not used where the scorer takes none.
        `classes`: (n_classes,); the labels that the columns stand for; None in regression.
        """
        if classes is not None and self.by_code:
            y, classes = np.searchsorted(classes, y), np.arange(len(classes))
        weight = {}
        if sample_weight is not None and self.takes_weight:
            weight = {"sample_weight": sample_weight}
        score = self.scorer(_answers(prediction, classes), np.empty((len(y), 1)), y, **weight)
        if np.ndim(score):
            raise TypeError(f"a score is one number, not an array of shape {np.shape(score)}")
        return float(score)

    def check(self, rows: LabelledRows, classes: np.ndarray | None) -> None:
        """Refuse a metric that cannot score these rows, by predictions near their target.

        `classes`: of which the target holds codes; None in regression.
        Raises `ValueError` if it fails, or gives no finite number.
        """
        y = rows.target if classes is None else classes[rows.target]
        if classes is None:
            prediction = 0.9 * y + 0.1 * y.mean()
        else:
            prediction = 0.5 * (y[:, None] == classes) + 0.5 / len(classes)
        rule = f"eval_metric {self.name!r} must score the {len(y):,} validation rows"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                score = self(y, prediction, rows.weight, classes=classes)
        except Exception as error:
            # Whatever a function of the user's raises, it is raised before the long work.
            way_out = "give another metric"
            if not self.by_code:
                given = "values" if classes is None else "probabilities"
                way_out = (
                    f"a function is given {given}: wrap one of labels in "
                    "sklearn.metrics.make_scorer, or give another metric"
                )
            elif classes is not None and len(classes) > 2:
                way_out += "; some are for two labels, and have forms for more, as f1_macro"
            raise ValueError(
                f"{rule}; got {type(error).__name__}: {str(error).rstrip('.')}; {way_out}"
            ) from error
        if not np.isfinite(score):
            raise ValueError(
                f"{rule}; got {score} for predictions near their target (do they hold one class, "
                "or one value?); hold more rows out, or give another metric"
            )


def metric_name(metric: object) -> str | None:
    """What a model file calls a metric: a scorer's name, or that of the function behind it."""
    if metric is None or isinstance(metric, str):
        return metric
    function = getattr(metric, "_score_func", metric)
    return str(getattr(function, "__name__", type(function).__name__))


def check_metric_name(name: str) -> None:
    """Refuse a name that no scorer of scikit-learn has."""
    from sklearn.metrics import get_scorer_names

    if name not in get_scorer_names():
        hint = nearest_name(name, get_scorer_names(), otherwise="or give the function itself")
        raise ValueError(
            "eval_metric must be a scorer of scikit-learn (sklearn.metrics.get_scorer_names), "
            f"or a function; got {name!r}{hint}"
        )


def metrics_of(task: Task) -> list[str]:
    """The names of scikit-learn's scorers that judge predictions of a task."""
    from sklearn.metrics import get_scorer_names

    # Of several labels a row.
    names = (name for name in get_scorer_names() if not name.endswith("_samples"))
    return [name for name in names if _task_of(name) == task]


def _task_of(name: str) -> Task | None:
    """What a scorer of scikit-learn judges; None: clusters."""
    from sklearn.metrics import get_scorer

    home = get_scorer(name)._score_func.__module__
    if ".cluster." in home:
        return None
    return "regression" if home.endswith("_regression") else "classification"


def eval_metric_of(metric: object, task: Task) -> EvalMetric | None:
    """Read what chooses the epoch.

    `metric`: A name of `sklearn.metrics.get_scorer_names()`; a scorer, whose first argument is
        called `estimator`; or a function `(y_true, prediction)` or `(y_true, prediction,
        sample_weight=...)`. The prediction is the value in regression, the probability of the
        second label of two, or the probabilities of shape (n_rows, n_classes). As in scikit-learn,
        a function whose name ends with `_error`, `_loss` or `_deviance` is minimised, any other
        maximised.
    Raises `ValueError` if it is none of these, no scorer has the name, or that scorer is of the
        other task.
    """
    if metric is None:
        return None
    from sklearn.metrics import get_scorer, make_scorer

    name = metric_name(metric) or ""
    if isinstance(metric, str):
        check_metric_name(metric)
        _check_task(metric, task)
        scorer = get_scorer(metric)
    elif not callable(metric) or isinstance(metric, type):
        raise ValueError(
            "eval_metric must be the name of a scorer, a scorer, or a function of (y_true, "
            f"prediction); got {metric!r}"
        )
    else:
        scorer = metric
    parameters = _parameters(scorer)
    if next(iter(parameters), None) != "estimator":
        scorer = make_scorer(
            scorer,
            response_method="predict_proba" if task == "classification" else "predict",
            greater_is_better=not name.endswith(_MINIMISED),
        )
    function = getattr(scorer, "_score_func", scorer)
    inner = _parameters(function)
    takes_weight = "sample_weight" in inner or any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in inner.values()
    )
    # Of a function; a scorer of ones own is an object of a class of scikit-learn.
    home = getattr(metric, "__module__", "") if hasattr(metric, "__name__") else ""
    by_code = isinstance(metric, str) or str(home).startswith("sklearn.")
    return EvalMetric(name, scorer, takes_weight, by_code)


def _check_task(name: str, task: Task) -> None:
    """Refuse the name of a scorer that judges predictions of the other task."""
    other = _task_of(name)
    if other in (None, task):
        return
    way_out = "use TabularRegressor for quantities"
    if task == "regression":
        way_out = "use TabularClassifier if these are labels"
    raise ValueError(
        f"eval_metric must be a metric of {task}; got {name!r}, which is of {other}; those of "
        f"{task} are {', '.join(metrics_of(task))}; or {way_out}"
    )


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        # Some functions of C have no signature.
        return {}


def _answers(prediction: np.ndarray, classes: np.ndarray | None) -> Any:
    """Predictions as the fitted estimator that scorers want, whatever rows it is asked about."""
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    if classes is None:

        class Values(RegressorMixin, BaseEstimator):  # type: ignore[misc]
            def __sklearn_is_fitted__(self) -> bool:
                return True

            def predict(self, X: object) -> np.ndarray:
                return prediction

        return Values()

    labels = classes[prediction.argmax(axis=1)]

    class Probabilities(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """A fitted classifier of fixed answers, as scorers of scikit-learn take it."""

        classes_ = classes

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict_proba(self, X: object) -> np.ndarray:
            return prediction

        def predict(self, X: object) -> Any:
            return labels

    return Probabilities()
