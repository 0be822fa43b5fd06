"""Calibrated probabilities: how a calibrator is fitted, and whether it is accepted.

A calibrator is fitted on rows that did not train the networks, and accepted only where rows held
out from it say that it helps. What a calibrator is lives in `calibration/calibrator.py`, decisions
from probabilities in `calibration/decisions.py`, prediction intervals in
`calibration/intervals.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from tabwright.calibration.calibrator import (
    LARGEST_SCALE,
    Calibrator,
    CalibratorKind,
    log_odds,
    log_proba,
    scale_temperature,
    smoothed_logs,
    softmax,
    two_columns,
)
from tabwright.settings import CalibrationName
from tabwright.splits import scrambled
from tabwright.weighted_metrics import row_log_loss

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]
    IntArray = NDArray[np.int64]

# Pull of a temperature towards 1, in rows. In simulations of 20 to 500 validation rows it kept the
# worst harm lowest of the strengths 0, 1 and 3 and cost nothing where there was much to gain.
_PULL = 3.0
_LARGEST_BIAS = 10.0
_LARGEST_OFF_DIAGONAL = 2.0
_MIN_ROWS = 10
_MIN_ROWS_ISOTONIC = 10_000
_MAX_CLASSES_STRUCTURED = 64
# Copies of a row may differ by rounding: networks compute them at different places of a batch.
_DIGITS = 4
_LARGEST_COUNT = 2.0**31


class CalibrationFit(NamedTuple):
    """What came of a calibration.

    `calibrator`: the accepted one, or the identity.
    `accepted`: whether `calibrator` is other than the identity.
    `gain`: drop in log-loss (nats) on rows held out from the fit, of the accepted calibrator or of
        the best one refused; negative where it did harm, 0 where none was tried.
    `standard_error`: of `gain`, from the differences row by row.
    `message`: a sentence for people.
    """

    calibrator: Calibrator
    accepted: bool
    gain: float
    standard_error: float
    message: str


def check_calibration(kind: CalibrationName, n_classes: int) -> None:
    """Refuse a calibration that does not fit the number of classes.

    Raises `ValueError`: an unknown kind; "logistic" for more than two classes; "vector" or
        "structured" for two.
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
    class_weights: ArrayLike | None = None,
    random_state: int = 0,
) -> CalibrationFit:
    """Fit a calibrator on rows that did not train the model, if it helps.

    Each candidate is judged by cross-fitting: every row's log-loss under a calibrator fitted
    without it, and without the rows of the same probabilities, among which its copies are. It is
    accepted where log-loss drops by more than one standard error of the differences row by row,
    and is then fitted on all rows; otherwise the identity is kept. "auto" tries temperature;
    logistic (two classes), or vector and structured (more); isotonic from 10,000 rows; in this
    order, and each must beat what was accepted before it by more than one standard error.

    Temperature: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks",
    2017. Logistic on log-odds: Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    Vector and structured: Berta, Holzmüller, Jordan and Bach, "Structured Matrix Scaling for
    Multi-Class Calibration", 2025. Isotonic: Zadrozny and Elkan, 2002. Deviations: scales are
    bounded, a penalty draws temperature and scale to 1, and the labels are smoothed by one row of
    the uniform distribution, so that a few rows that are all predicted right prove little.

    `proba`: (n, C), float64; probabilities of the averaged networks.
    `codes`: (n,), int. True classes, 0 to C - 1; classes may be absent.
    `kind`: the one calibrator to try, or "auto".
    `sample_weight`: (n,). Weights of the rows. Whole numbers count rows: a weight of 2 gives what
        the row twice gives. Of other weights the scale does not matter: penalties and standard
        errors count the effective number of rows (Kish, "Survey Sampling", 1965).
    `class_weights`: (C,); factors of the rows' weights that never count rows.
    `random_state`: seed of the folds.
    Raises `ValueError`: a kind that does not fit the number of classes; see `check_calibration`.
    """
    p = np.asarray(proba, dtype=np.float64)
    y = np.asarray(codes, dtype=np.int64)
    check_calibration(kind, p.shape[1])
    rows = _weighted_rows(p, y, sample_weight, class_weights)
    if rows is None or rows.n_rows < _MIN_ROWS:
        n_rows = 0 if rows is None else rows.n_rows
        return _kept(f"{n_rows:.0f} validation rows are too few to calibrate on")
    kinds = _kinds(rows, random_state)
    n_kinds = int(kinds.max()) + 1
    if n_kinds < 2:
        return _kept("all validation rows have the same probabilities")
    candidates = _candidates(kind, p.shape[1], rows.n_rows, n_kinds)
    if not candidates and n_kinds < _MIN_ROWS:
        return _kept(f"{kind} calibration needs {_MIN_ROWS} different predictions; got {n_kinds}")
    if not candidates:
        return _kept(
            f"isotonic calibration needs {_MIN_ROWS_ISOTONIC} validation rows; "
            f"got {rows.n_rows:.0f}"
        )
    return _choose(rows, candidates, _folds(rows, kinds, 10 if rows.n_rows < 1_000 else 5))


def refined_log_loss(
    proba: FloatArray,
    codes: IntArray,
    sample_weight: FloatArray | None = None,
    class_weights: FloatArray | None = None,
) -> float:
    """Log-loss after the best temperature: what a model is worth once calibrated.

    Berta, Holzmüller, Jordan and Bach, "Rethinking Early Stopping: Refine, Then Calibrate", 2025:
    choosing the epoch by it lets the networks refine beyond the epoch at which raw log-loss is
    lowest. The temperature is fitted on the same rows; with one parameter the bias is below
    1 / (2 n) nats.

    `proba`: (n, C), float64; probabilities.
    `codes`: (n,), int. True classes.
    `sample_weight`, `class_weights`: (n,) and of shape (C,); as in `fit_calibrator`.
    """
    rows = _some_rows(proba, codes, sample_weight, class_weights)
    value = _inverse_temperature(log_proba(rows.proba), rows)
    return float(rows.weight @ row_log_loss(rows.codes, scale_temperature(rows.proba, value)))


class _Rows:
    """Rows to fit on: how many each stands for, what each of these weighs, how labels are smoothed.

    `weight` sums to 1. Nothing that is fitted here tells a row of count 2 from the row twice.
    """

    def __init__(
        self, proba: FloatArray, codes: IntArray, counts: FloatArray, unit_weight: FloatArray
    ) -> None:
        self.proba = proba
        self.codes = codes
        self.counts = counts
        # Nothing depends on their scale, and squares of extreme ones would not be finite.
        self.unit_weight = unit_weight / unit_weight.max()
        self.n_rows = float(counts.sum())
        weight = counts * self.unit_weight
        self.weight = weight / weight.sum()
        self.n_effective = _effective_rows(counts, self.unit_weight)
        self.uniform = 1.0 / (self.n_effective + 1.0)

    def take(self, index: NDArray[Any]) -> _Rows:
        return _Rows(
            self.proba[index], self.codes[index], self.counts[index], self.unit_weight[index]
        )

    def mean_and_error(self, values: FloatArray) -> tuple[float, float]:
        """Weighted mean of one value a row, and its standard error."""
        mean = float(self.weight @ values)
        # A row of count c has c shares of its weight, each of them with the same value.
        spread = float(((self.weight * (values - mean)) ** 2 / self.counts).sum())
        return mean, math.sqrt(spread * self.n_rows / (self.n_rows - 1.0))

    def labels(self) -> FloatArray:
        """One-hot labels, smoothed by one row of the uniform distribution: shape (n, C)."""
        labels = np.full_like(self.proba, self.uniform / self.proba.shape[1])
        labels[np.arange(len(labels)), self.codes] += 1.0 - self.uniform
        return labels


def _weighted_rows(
    proba: FloatArray,
    codes: IntArray,
    sample_weight: ArrayLike | None,
    class_weights: ArrayLike | None,
) -> _Rows | None:
    """The rows of positive weight, counted by their weights where these are whole numbers."""
    ones = np.ones(len(codes))
    weight = ones if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    by_class = ones if class_weights is None else np.asarray(class_weights, np.float64)[codes]
    used = (weight > 0.0) & (by_class > 0.0)
    if not used.any():
        return None
    proba, codes, weight, by_class = proba[used], codes[used], weight[used], by_class[used]
    counts = np.rint(weight)
    # 3 times 0.1 times 10 is 3 but for rounding; and above 2**52 every float is whole.
    if counts.max() <= _LARGEST_COUNT and np.allclose(weight, counts, rtol=1e-9, atol=0.0):
        return _Rows(proba, codes, counts, by_class)
    return _Rows(proba, codes, ones[used], weight / weight.max() * by_class)


def _some_rows(
    proba: FloatArray,
    codes: IntArray,
    sample_weight: FloatArray | None,
    class_weights: FloatArray | None,
) -> _Rows:
    """The rows of positive weight, of which there must be one."""
    rows = _weighted_rows(proba, codes, sample_weight, class_weights)
    if rows is None:
        raise ValueError("at least one row of positive weight is needed; got none")
    return rows


def _effective_rows(counts: FloatArray, unit_weight: FloatArray) -> float:
    total = float((counts * unit_weight).sum())
    return total**2 / float((counts * unit_weight**2).sum())


def _kinds(rows: _Rows, random_state: int) -> IntArray:
    """A number for each row, from 0, equal where the probabilities are, in random order.

    The order is that of a hash of the probabilities themselves: a copy more or less, or one that
    rounding took away from the others, moves no other row far.
    """
    logs = (log_proba(rows.proba) * 10.0**_DIGITS).round().astype(np.int64).view(np.uint64)
    draw = np.random.default_rng(random_state)
    factors = draw.integers(0, 2**63, logs.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes = scrambled((logs * factors).sum(axis=1, dtype=np.uint64))
    return np.unique(hashes, return_inverse=True)[1].astype(np.int64)


def _folds(rows: _Rows, kinds: IntArray, n_folds: int) -> IntArray:
    """A fold for each row; those of one kind lie together, and classes are spread.

    A copy of a row would else be predicted by a calibrator that has seen it.
    """
    n_classes = rows.proba.shape[1]
    mass = np.zeros((int(kinds.max()) + 1, n_classes))
    np.add.at(mass, (kinds, rows.codes), rows.weight)
    class_of = mass.argmax(axis=1)
    folds = np.empty(len(mass), dtype=np.int64)
    start = 0
    for label in range(n_classes):
        members = np.flatnonzero(class_of == label)
        # Runs of equal length; a class of few kinds begins where the one before it ended.
        folds[members] = (
            start + np.arange(len(members)) * n_folds // max(len(members), n_folds)
        ) % n_folds
        start += min(len(members), n_folds)
    # Numbered anew, since few kinds fill few folds.
    return np.unique(folds, return_inverse=True)[1].astype(np.int64)[kinds]


def _candidates(
    kind: CalibrationName, n_classes: int, n_rows: float, n_kinds: int
) -> list[tuple[CalibratorKind, Callable[[_Rows], Calibrator]]]:
    """The calibrators that may be fitted to so many rows and classes, simplest first."""
    fits: dict[CalibratorKind, Callable[[_Rows], Calibrator]] = {"temperature": _fit_temperature}
    if n_classes == 2:
        fits["logistic"] = _fit_logistic
    elif n_kinds >= _MIN_ROWS:
        fits["vector"] = lambda rows: _fit_matrix(rows, "vector")
        if n_classes <= _MAX_CLASSES_STRUCTURED or kind == "structured":
            fits["structured"] = lambda rows: _fit_matrix(rows, "structured")
    if n_rows >= _MIN_ROWS_ISOTONIC and n_kinds >= _MIN_ROWS:
        fits["isotonic"] = _fit_isotonic
    return [(name, fit) for name, fit in fits.items() if kind in ("auto", name)]


def _choose(
    rows: _Rows,
    candidates: list[tuple[CalibratorKind, Callable[[_Rows], Calibrator]]],
    folds: IntArray,
) -> CalibrationFit:
    """The calibrator of the least loss on held-out folds, if it gains more than chance."""
    before = row_log_loss(rows.codes, rows.proba)
    best, best_fit = before, None
    refused: tuple[float, float, str] = (-math.inf, 0.0, "")
    for name, fit in candidates:
        after = np.empty_like(before)
        for fold in range(int(folds.max()) + 1):
            held_out = folds == fold
            fitted = fit(rows.take(~held_out))
            after[held_out] = row_log_loss(rows.codes[held_out], fitted.apply(rows.proba[held_out]))
        gain, error = rows.mean_and_error(best - after)
        # Below 1e-9 nats a difference is rounding.
        if gain > error + 1e-9:
            best, best_fit = after, fit
        elif best_fit is None:
            refused = max(refused, (gain, error, name))
    before_loss = float(rows.weight @ before)
    if best_fit is None:
        gain, error, refused_name = refused
        return _kept(
            f"{refused_name} calibration changes log-loss on held-out validation rows by "
            f"{-gain:+.2g}, from {before_loss:.4g}, with a standard error of {error:.2g}",
            gain,
            error,
        )
    gain, error = rows.mean_and_error(before - best)
    calibrator = best_fit(rows)
    message = (
        f"calibrated ({calibrator.describe()}): log-loss on held-out validation rows drops from "
        f"{before_loss:.4g} by {gain:.4g}, with a standard error of {error:.2g}"
    )
    return CalibrationFit(calibrator, True, gain, error, message)


def _kept(reason: str, gain: float = 0.0, error: float = 0.0) -> CalibrationFit:
    message = f"not calibrated: {reason}; the probabilities are the model's own"
    return CalibrationFit(Calibrator(), False, gain, error, message)


def _fit_temperature(rows: _Rows) -> Calibrator:
    value = _inverse_temperature(log_proba(rows.proba), rows)
    return Calibrator("temperature", {"inverse_temperature": np.array([value])})


def _inverse_temperature(logs: FloatArray, rows: _Rows) -> float:
    """The factor of the log-probabilities, by Newton steps kept inside a shrinking bracket."""
    label_term = float(rows.weight @ (rows.labels() * logs).sum(axis=1))
    pull = 2.0 * _PULL / rows.n_effective

    def slopes(value: float) -> tuple[float, float]:
        scaled = softmax(value * logs)
        mean = (scaled * logs).sum(axis=1)
        variance = (scaled * (logs - mean[:, None]) ** 2).sum(axis=1)
        first = float(rows.weight @ mean) - label_term + pull * (value - 1.0)
        return first, float(rows.weight @ variance) + pull

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
    """Slope and intercept on the log-odds of two classes."""
    from scipy.optimize import minimize

    odds = log_odds(rows.proba)
    label = rows.labels()[:, 1]

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        scores = theta[0] * odds + theta[1]
        residual = rows.weight * (two_columns(scores)[:, 1] - label)
        value = rows.weight @ (np.logaddexp(0.0, scores) - label * scores)
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
    """Vector or structured scaling: scales, biases and, if structured, a matrix."""
    from scipy.optimize import minimize

    n_classes = rows.proba.shape[1]
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
        value = -float(rows.weight @ (labels * scores).sum(axis=1))
        residual = (np.exp(scores) - labels) * rows.weight[:, None]
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
    """An isotonic regression per class, as the points between which `np.interp` draws lines."""
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
