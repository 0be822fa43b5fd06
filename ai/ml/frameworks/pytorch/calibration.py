"""Honest probabilities: how a calibrator is fitted, and whether it is accepted.

A calibrator is fitted on rows that did not train the networks, and accepted only where rows held
out from it say that it helps. What a calibrator is lives in `calibrator.py`, decisions from
probabilities in `decisions.py`, prediction intervals in `intervals.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from ai.ml.frameworks.pytorch.calibrator import (
    LARGEST_SCALE,
    Calibrator,
    CalibratorKind,
    change_prior,
    log_odds,
    log_proba,
    prior_log_ratio,
    scale_temperature,
    smoothed_logs,
    softmax,
    two_columns,
)
from ai.ml.frameworks.pytorch.metrics import row_log_loss
from ai.ml.frameworks.pytorch.settings import CalibrationName
from ai.ml.frameworks.pytorch.splits import fold_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]
    IntArray = NDArray[np.int64]

__all__ = [
    "CalibrationFit",
    "Calibrator",
    "change_prior",
    "check_calibration",
    "fit_calibrator",
    "fit_inverse_temperature",
    "prior_log_ratio",
    "refined_log_loss",
]

# Pull of a temperature towards 1, in rows. In simulations of 20 to 500 validation rows it kept the
# worst harm lowest of the strengths 0, 1 and 3 and cost nothing where there was much to gain.
_PULL = 3.0
_LARGEST_BIAS = 10.0
_LARGEST_OFF_DIAGONAL = 2.0
_MIN_ROWS = 10
_MIN_ROWS_ISOTONIC = 10_000
_MAX_CLASSES_STRUCTURED = 64


class CalibrationFit(NamedTuple):
    """What came of a calibration.

    Parameters
    ----------
    calibrator : Calibrator
        The accepted one, or the identity.
    accepted : bool
        Whether `calibrator` is other than the identity.
    gain : float
        Drop in log-loss (nats) on rows held out from the fit, of the accepted calibrator or of
        the best one refused; negative where it did harm, 0 where none was tried.
    standard_error : float
        Of `gain`, from the differences row by row.
    message : str
        A sentence for people.
    """

    calibrator: Calibrator
    accepted: bool
    gain: float
    standard_error: float
    message: str


def check_calibration(kind: CalibrationName, n_classes: int) -> None:
    """Refuse a calibration that does not fit the number of classes.

    Raises
    ------
    ValueError
        An unknown kind; "logistic" for more than two classes; "vector" or "structured" for two.
    """
    if kind not in get_args(CalibrationName):
        names = ", ".join(get_args(CalibrationName))
        raise ValueError(f"calibration must be one of {names}; got {kind!r}")
    if kind == "logistic" and n_classes != 2:
        raise ValueError(
            f"calibration 'logistic' is for two classes; got {n_classes}; use 'vector'"
        )
    if kind in ("vector", "structured") and n_classes == 2:
        raise ValueError(
            f"calibration {kind!r} is for more than two classes; got 2; use 'logistic'"
        )


def fit_calibrator(
    proba: ArrayLike,
    codes: ArrayLike,
    *,
    kind: CalibrationName,
    sample_weight: ArrayLike | None = None,
    random_state: int = 0,
) -> CalibrationFit:
    """Fit a calibrator on rows that did not train the model, if it helps.

    Each candidate is judged by cross-fitting: every row's log-loss under a calibrator fitted
    without it. It is accepted where log-loss drops by more than one standard error of the
    differences row by row, and is then fitted on all rows; otherwise the identity is kept. "auto"
    tries temperature; logistic (two classes), or vector and structured (more); isotonic from
    10,000 rows; in this order, and each must beat what was accepted before it by more than one
    standard error.

    Temperature: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks",
    2017. Logistic on log-odds: Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    Vector and structured: Berta, Holzmüller, Jordan and Bach, "Structured Matrix Scaling for
    Multi-Class Calibration", 2025. Isotonic: Zadrozny and Elkan, 2002. Deviations: scales are
    bounded, a penalty draws temperature and scale to 1, and the labels are smoothed by one row of
    the uniform distribution, so that a few rows that are all predicted right prove little.

    Parameters
    ----------
    proba : array-like of shape (n, C), float64
        Probabilities of the averaged networks.
    codes : array-like of shape (n,), int
        True classes, 0 to C - 1; classes may be absent.
    kind : CalibrationName
        The one calibrator to try, or "auto".
    sample_weight : array-like of shape (n,), optional
        Weights of the rows; their scale does not matter. Penalties and standard errors count
        the effective number of rows (Kish), so a weight of 2 is one row that counts double.
    random_state : int
        Seed of the folds.

    Raises
    ------
    ValueError
        A kind that does not fit the number of classes; see `check_calibration`.
    """
    p = np.asarray(proba, dtype=np.float64)
    y = np.asarray(codes, dtype=np.int64)
    check_calibration(kind, p.shape[1])
    weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    used = weight > 0.0
    rows = _Rows(p[used], y[used], weight[used])
    if len(rows.codes) < _MIN_ROWS:
        return _kept(f"{len(rows.codes)} validation rows are too few to calibrate on")
    candidates = _candidates(kind, p.shape[1], len(rows.codes))
    if not candidates:
        return _kept(
            f"isotonic calibration needs {_MIN_ROWS_ISOTONIC} validation rows; "
            f"got {len(rows.codes)}"
        )
    return _choose(rows, candidates, random_state)


def fit_inverse_temperature(
    proba: FloatArray, codes: IntArray, sample_weight: FloatArray | None = None
) -> float:
    """The inverse temperature that suits the rows best, smoothed and between 1 / 5 and 5.

    Minimises mean log-loss under smoothed labels plus a penalty 3 / n (b - 1)^2, convex in the
    inverse temperature b, by Newton's method kept inside a shrinking bracket.

    Parameters
    ----------
    proba : ndarray of shape (n, C), float64
        Probabilities.
    codes : ndarray of shape (n,), int
        True classes.
    sample_weight : ndarray of shape (n,), optional
        Weights of the rows.
    """
    rows = _Rows(proba, codes, np.ones(len(codes)) if sample_weight is None else sample_weight)
    return _inverse_temperature(log_proba(proba), rows)


def refined_log_loss(
    proba: FloatArray, codes: IntArray, sample_weight: FloatArray | None = None
) -> float:
    """Log-loss after the best temperature: what a model is worth once calibrated.

    Berta, Holzmüller, Jordan and Bach, "Rethinking Early Stopping: Refine, Then Calibrate", 2025:
    choosing the epoch by it lets the networks refine beyond the epoch at which raw log-loss is
    lowest. The temperature is fitted on the same rows; with one parameter the bias is below
    1 / (2 n) nats.

    Parameters
    ----------
    proba : ndarray of shape (n, C), float64
        Probabilities.
    codes : ndarray of shape (n,), int
        True classes.
    sample_weight : ndarray of shape (n,), optional
        Weights of the rows.
    """
    calibrated = scale_temperature(proba, fit_inverse_temperature(proba, codes, sample_weight))
    return float(np.average(row_log_loss(codes, calibrated), weights=sample_weight))


class _Rows:
    """Rows to fit on: weights with a mean of 1, and the smoothed share of each label."""

    def __init__(self, proba: FloatArray, codes: IntArray, weight: FloatArray) -> None:
        self.proba = proba
        self.codes = codes
        self.raw_weight = weight
        self.weight = weight / weight.mean()
        self.n_effective = _effective_rows(weight)
        self.uniform = 1.0 / (self.n_effective + 1.0)

    def take(self, index: NDArray[Any]) -> _Rows:
        return _Rows(self.proba[index], self.codes[index], self.raw_weight[index])

    def labels(self) -> FloatArray:
        """One-hot labels, smoothed by one row of the uniform distribution: shape (n, C)."""
        labels = np.full_like(self.proba, self.uniform / self.proba.shape[1])
        labels[np.arange(len(labels)), self.codes] += 1.0 - self.uniform
        return labels


def _effective_rows(weight: FloatArray) -> float:
    return float(weight.sum() ** 2 / (weight**2).sum())


def _candidates(
    kind: CalibrationName, n_classes: int, n_rows: int
) -> list[tuple[CalibratorKind, Callable[[_Rows], Calibrator]]]:
    fits: dict[CalibratorKind, Callable[[_Rows], Calibrator]] = {"temperature": _fit_temperature}
    if n_classes == 2:
        fits["logistic"] = _fit_logistic
    else:
        fits["vector"] = lambda rows: _fit_matrix(rows, "vector")
        if n_classes <= _MAX_CLASSES_STRUCTURED or kind == "structured":
            fits["structured"] = lambda rows: _fit_matrix(rows, "structured")
    if n_rows >= _MIN_ROWS_ISOTONIC:
        fits["isotonic"] = _fit_isotonic
    return [(name, fit) for name, fit in fits.items() if kind in ("auto", name)]


def _choose(
    rows: _Rows,
    candidates: list[tuple[CalibratorKind, Callable[[_Rows], Calibrator]]],
    random_state: int,
) -> CalibrationFit:
    n_folds = 10 if len(rows.codes) < 1_000 else 5
    folds = fold_rows(len(rows.codes), n_folds, rows.codes, random_state=random_state)
    before = row_log_loss(rows.codes, rows.proba)
    best, best_fit = before, None
    refused: tuple[float, float, str] = (-math.inf, 0.0, "")
    for name, fit in candidates:
        after = np.empty_like(before)
        for fold in range(n_folds):
            held_out = folds == fold
            fitted = fit(rows.take(~held_out))
            after[held_out] = row_log_loss(rows.codes[held_out], fitted.apply(rows.proba[held_out]))
        gain, error = _mean_and_error(best - after, rows.weight)
        # Below 1e-9 nats a difference is rounding.
        if gain > error + 1e-9:
            best, best_fit = after, fit
        elif best_fit is None:
            refused = max(refused, (gain, error, name))
    before_loss = float(np.average(before, weights=rows.weight))
    if best_fit is None:
        gain, error, refused_name = refused
        return _kept(
            f"{refused_name} calibration changes log-loss on held-out validation rows by "
            f"{-gain:+.4g}, from {before_loss:.4g}, with a standard error of {error:.2g}",
            gain,
            error,
        )
    gain, error = _mean_and_error(before - best, rows.weight)
    calibrator = best_fit(rows)
    message = (
        f"calibrated ({calibrator.describe()}): log-loss on held-out validation rows drops from "
        f"{before_loss:.4g} by {gain:.4g}, with a standard error of {error:.2g}"
    )
    return CalibrationFit(calibrator, True, gain, error, message)


def _kept(reason: str, gain: float = 0.0, error: float = 0.0) -> CalibrationFit:
    message = f"not calibrated: {reason}; the probabilities are the networks' own"
    return CalibrationFit(Calibrator(), False, gain, error, message)


def _mean_and_error(values: FloatArray, weight: FloatArray) -> tuple[float, float]:
    mean = float(np.average(values, weights=weight))
    spread = float(((weight * (values - mean)) ** 2).sum())
    n_rows = len(values)
    return mean, math.sqrt(spread * n_rows / (n_rows - 1)) / float(weight.sum())


def _fit_temperature(rows: _Rows) -> Calibrator:
    value = _inverse_temperature(log_proba(rows.proba), rows)
    return Calibrator("temperature", {"inverse_temperature": np.array([value])})


def _inverse_temperature(logs: FloatArray, rows: _Rows) -> float:
    label_term = float(rows.weight @ (rows.labels() * logs).sum(axis=1)) / len(logs)
    pull = 2.0 * _PULL / rows.n_effective

    def slopes(value: float) -> tuple[float, float]:
        scaled = softmax(value * logs)
        mean = (scaled * logs).sum(axis=1)
        variance = (scaled * (logs - mean[:, None]) ** 2).sum(axis=1)
        first = float(rows.weight @ mean) / len(logs) - label_term + pull * (value - 1.0)
        return first, float(rows.weight @ variance) / len(logs) + pull

    low, high, value = 1.0 / LARGEST_SCALE, LARGEST_SCALE, 1.0
    for _ in range(60):
        first, second = slopes(value)
        if first > 0.0:
            high = value
        else:
            low = value
        step = value - first / second
        # Newton where it stays inside the bracket, else the bracket's middle; the ends are
        # reached by halving, so a minimum outside the bounds gives the bound.
        following = step if low < step < high else 0.5 * (low + high)
        if abs(following - value) <= 1e-12 * value:
            return following
        value = following
    return value


def _fit_logistic(rows: _Rows) -> Calibrator:
    from scipy.optimize import minimize

    odds = log_odds(rows.proba)
    label = rows.labels()[:, 1]
    n_rows = len(odds)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        scores = theta[0] * odds + theta[1]
        residual = rows.weight * (two_columns(scores)[:, 1] - label) / n_rows
        value = rows.weight @ (np.logaddexp(0.0, scores) - label * scores) / n_rows
        value += (_PULL * (theta[0] - 1.0) ** 2 + theta[1] ** 2) / rows.n_effective
        pull = 2.0 * np.array([_PULL * (theta[0] - 1.0), theta[1]]) / rows.n_effective
        return float(value), np.array([residual @ odds, residual.sum()]) + pull

    found = minimize(
        loss,
        np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(1.0 / LARGEST_SCALE, LARGEST_SCALE), (-_LARGEST_BIAS, _LARGEST_BIAS)],
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000},
    )
    return Calibrator("logistic", {"coefficients": np.asarray(found.x)})


def _fit_matrix(rows: _Rows, kind: Literal["vector", "structured"]) -> Calibrator:
    from scipy.optimize import minimize

    n_rows, n_classes = rows.proba.shape
    inverse_temperature = _inverse_temperature(log_proba(rows.proba), rows)
    logs = smoothed_logs(rows.proba, inverse_temperature, rows.uniform)
    labels = rows.labels()
    # The paper's penalties: bias and diagonal C / n, off the diagonal C (C - 1) / n.
    diagonal = n_classes / rows.n_effective
    identity = np.eye(n_classes) if kind == "structured" else np.ones(n_classes)
    penalty = np.full(identity.shape, diagonal * (n_classes - 1))
    penalty[identity == 1.0] = diagonal
    size = identity.size

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        change, bias = theta[:size].reshape(identity.shape), theta[size:]
        weight = identity + change
        scores = (logs @ weight.T if kind == "structured" else logs * weight) + bias
        scores = scores - scores.max(axis=1, keepdims=True)
        norm = np.log(np.exp(scores).sum(axis=1, keepdims=True))
        scores -= norm
        value = -float(rows.weight @ (labels * scores).sum(axis=1)) / n_rows
        residual = (np.exp(scores) - labels) * (rows.weight / n_rows)[:, None]
        slope = residual.T @ logs if kind == "structured" else (residual * logs).sum(axis=0)
        value += float((penalty * change**2).sum() + diagonal * (bias**2).sum())
        slope = slope + 2.0 * penalty * change
        return value, np.concatenate([slope.ravel(), residual.sum(axis=0) + 2 * diagonal * bias])

    bounds = [
        (1.0 / LARGEST_SCALE - 1.0, LARGEST_SCALE - 1.0)
        if on_diagonal
        else (-_LARGEST_OFF_DIAGONAL, _LARGEST_OFF_DIAGONAL)
        for on_diagonal in (identity == 1.0).ravel()
    ]
    found = minimize(
        loss,
        np.zeros(size + n_classes),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds + [(-_LARGEST_BIAS, _LARGEST_BIAS)] * n_classes,
        options={"ftol": 1e-10, "gtol": 1e-7, "maxiter": 1000, "maxcor": 30},
    )
    return Calibrator(
        kind,
        {
            "inverse_temperature": np.array([inverse_temperature]),
            "uniform": np.array([rows.uniform]),
            "weight": identity + np.asarray(found.x[:size]).reshape(identity.shape),
            "bias": np.asarray(found.x[size:]),
        },
    )


def _fit_isotonic(rows: _Rows) -> Calibrator:
    from sklearn.isotonic import IsotonicRegression

    n_classes = rows.proba.shape[1]
    smallest = rows.uniform / n_classes
    inputs, outputs, lengths = [], [], []
    for column in [1] if n_classes == 2 else range(n_classes):
        function = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        function.fit(rows.proba[:, column], rows.codes == column, sample_weight=rows.weight)
        inputs.append(np.asarray(function.X_thresholds_, dtype=np.float64))
        values = np.asarray(function.y_thresholds_, dtype=np.float64)
        outputs.append(np.clip(values, smallest, 1.0 - smallest))
        lengths.append(float(len(values)))
    return Calibrator(
        "isotonic",
        {
            "inputs": np.concatenate(inputs),
            "outputs": np.concatenate(outputs),
            "lengths": np.array(lengths),
        },
    )
