"""Maps from probabilities to better ones, ready to apply: calibrators, and other class priors.

NumPy alone. How a calibrator is fitted, and whether it is accepted, is decided in
`calibration/fit.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from tabwright.artifact.schema import Reader, TensorBag

    FloatArray = NDArray[np.float64]

CalibratorKind = Literal["identity", "temperature", "logistic", "vector", "structured", "isotonic"]

# Temperatures lie between 1 / 5 and 5, and so do the other scales: no table can drive one further.
LARGEST_SCALE = 5.0
SMALLEST_PROBABILITY = 1e-12
# Classes of one row that Python's own floats are quicker for.
_MOST_PYTHON = 32
# Share of the uncalibrated probability in an isotonic one: keeps different rows different.
ISOTONIC_BLEND = 1e-3


@dataclass(frozen=True, eq=False)
class Calibrator:
    """A fitted map from probabilities to better ones.

    `kind`: "identity" changes nothing, to the last bit. "temperature" divides the logs of the
        probabilities by one number and keeps the most probable class. "logistic" (two classes)
        scales and shifts the log-odds. "vector" and "structured" map the logs of the
        temperature-scaled probabilities by a diagonal or a full matrix and a shift. "isotonic"
        applies a monotone function to each class's probability.
    `arrays`: the fitted numbers; their names depend on the kind.
    """

    kind: CalibratorKind = "identity"
    arrays: Mapping[str, FloatArray] = field(default_factory=dict)

    def apply(self, proba: FloatArray) -> FloatArray:
        """Calibrate probabilities.

        `proba`: (n, C), float64; probabilities; zeros are allowed.
        Returns: (n, C), float64; rows sum to 1.
        """
        if self.kind == "identity":
            return proba
        if self.kind == "temperature":
            return scale_temperature(proba, float(self.arrays["inverse_temperature"][0]))
        if self.kind == "logistic":
            scale, shift = self.arrays["coefficients"]
            return two_columns(scale * log_odds(proba) + shift)
        if self.kind == "isotonic":
            return self._isotonic(proba)
        logs = smoothed_logs(
            proba, float(self.arrays["inverse_temperature"][0]), float(self.arrays["uniform"][0])
        )
        weight = self.arrays["weight"]
        mapped = logs * weight if self.kind == "vector" else logs @ weight.T
        return softmax(mapped + self.arrays["bias"])

    def _isotonic(self, proba: FloatArray) -> FloatArray:
        """Each class by its own piecewise linear function, blended with the input."""
        ends = np.cumsum(self.arrays["lengths"]).astype(np.int64)
        calibrated = np.empty_like(proba)
        # Two classes have one function, of class 1; class 0 gets the rest.
        columns = [1] if len(ends) == 1 else range(len(ends))
        for column, end, length in zip(columns, ends, self.arrays["lengths"], strict=True):
            part = slice(int(end) - int(length), int(end))
            calibrated[:, column] = np.interp(
                proba[:, column], self.arrays["inputs"][part], self.arrays["outputs"][part]
            )
        if len(ends) == 1:
            calibrated[:, 0] = 1.0 - calibrated[:, 1]
        calibrated = (1.0 - ISOTONIC_BLEND) * calibrated + ISOTONIC_BLEND * proba
        return cast("FloatArray", calibrated / calibrated.sum(axis=1, keepdims=True))

    def describe(self) -> str:
        """The kind, with the temperature where there is one, for messages."""
        if "inverse_temperature" in self.arrays and self.kind == "temperature":
            return f"temperature {1.0 / float(self.arrays['inverse_temperature'][0]):.3g}"
        return self.kind

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The document and the arrays that `from_state` reads."""
        return {"kind": self.kind}, dict(self.arrays)

    @classmethod
    def from_state(cls, document: Reader, tensors: TensorBag, *, n_classes: int) -> Calibrator:
        """Read a calibrator of a saved model.

        `n_classes`: classes of the model.
        Raises `ArtifactError`: unknown keys, wrong shapes, numbers that no fit can give.
        """
        kind = document.choice("kind", get_args(CalibratorKind))
        if (kind == "logistic" and n_classes != 2) or (
            kind in ("vector", "structured") and n_classes == 2
        ):
            raise document.fail("kind", f"one that fits {n_classes} classes")
        shapes: dict[str, tuple[int | None, ...]] = {}
        if kind in ("temperature", "vector", "structured"):
            shapes["inverse_temperature"] = (1,)
        if kind == "logistic":
            shapes["coefficients"] = (2,)
        if kind in ("vector", "structured"):
            shapes["uniform"] = (1,)
            shapes["bias"] = (n_classes,)
            shapes["weight"] = (n_classes,) if kind == "vector" else (n_classes, n_classes)
        if kind == "isotonic":
            shapes |= {"inputs": (None,), "outputs": (None,)}
            shapes["lengths"] = (1 if n_classes == 2 else n_classes,)
        arrays = {name: tensors.take(name, "float64", shape) for name, shape in shapes.items()}
        _check_arrays(arrays, document)
        document.done()
        tensors.done()
        return cls(kind, arrays)


def change_prior(proba: FloatArray, log_ratio: ArrayLike) -> FloatArray:
    """Probabilities under another class prior, exact by Bayes' rule.

    Elkan, "The Foundations of Cost-Sensitive Learning", 2001, theorem 2, for any number of
    classes.

    `proba`: (n, C), float64; probabilities.
    `log_ratio`: (C,). Log of the new prior minus log of the prior that `proba` means; adding a
        constant changes nothing. See `prior_log_ratio`.
    Returns: (n, C), float64; rows sum to 1; zeros stay zero.
    """
    ratio = np.asarray(log_ratio, dtype=np.float64)
    if ratio.shape != proba.shape[1:] or not np.isfinite(ratio).all():
        raise ValueError(
            f"log_ratio must hold {proba.shape[1]} finite numbers, one a class; got {log_ratio!r}"
        )
    with np.errstate(divide="ignore"):
        return softmax(np.log(proba) + ratio)


def prior_log_ratio(
    prior: Literal["training", "balanced"] | ArrayLike,
    *,
    class_prior: ArrayLike,
    class_weights: ArrayLike | None = None,
) -> FloatArray:
    """What to add to the log-probabilities of a network trained under class weights.

    Training under weights w on classes with shares q fits the prior q w, up to a factor. The
    ratio to a prior r is therefore log r - log q - log w.

    `prior`: (C,); the wanted prior: the shares among the training rows, equal shares, or positive
        shares of one's own (divided by their sum).
    `class_prior`: (C,); shares of the classes among the training rows.
    `class_weights`: (C,); the weights trained under; None: all equal.
    Returns: (C,), float64; for `change_prior`.
    Raises `ValueError`: a prior of another kind or length, or with shares that are not positive.
    """
    seen = np.asarray(class_prior, dtype=np.float64)
    weights = np.ones_like(seen) if class_weights is None else np.asarray(class_weights, np.float64)
    if isinstance(prior, str):
        if prior not in ("training", "balanced"):
            raise ValueError(f"prior must be 'training', 'balanced' or an array; got {prior!r}")
        wanted = seen if prior == "training" else np.ones_like(seen)
    else:
        wanted = np.asarray(prior, dtype=np.float64)
    if wanted.shape != seen.shape or not (np.isfinite(wanted) & (wanted > 0.0)).all():
        raise ValueError(f"prior must hold {len(seen)} positive shares, one a class; got {prior!r}")
    return cast("FloatArray", np.log(wanted / wanted.sum()) - np.log(seen) - np.log(weights))


def _check_arrays(arrays: Mapping[str, FloatArray], document: Reader) -> None:
    """Refuse arrays that no fit gives, such as probabilities outside (0, 1)."""

    def require(ok: object, rule: str) -> None:
        if not ok:
            raise document.fail("kind", f"backed by arrays that a fit can give: {rule}")

    for name in ("inverse_temperature", "coefficients"):
        if name in arrays:
            scale = arrays[name][0]
            require(1.0 / LARGEST_SCALE <= scale <= LARGEST_SCALE, f"{name} in [1 / 5, 5]")
    if "uniform" in arrays:
        require(0.0 < arrays["uniform"][0] <= 1.0, "uniform in (0, 1]")
    if "lengths" in arrays:
        lengths = arrays["lengths"]
        whole = (lengths >= 1.0).all() and (lengths == np.floor(lengths)).all()
        require(whole and lengths.sum() == len(arrays["inputs"]), "lengths that sum to the inputs")
        require(len(arrays["inputs"]) == len(arrays["outputs"]), "an output for each input")
        inside = (arrays["outputs"] > 0.0) & (arrays["outputs"] < 1.0)
        require(inside.all(), "outputs in (0, 1)")
        starts = np.cumsum(lengths)[:-1].astype(np.int64)
        for name in ("inputs", "outputs"):
            parts = np.split(arrays[name], starts)
            require(all((np.diff(part) >= 0.0).all() for part in parts), f"rising {name}")


def log_proba(proba: FloatArray) -> FloatArray:
    """Logs of probabilities, those below 1e-12 as if they were 1e-12."""
    return cast("FloatArray", np.log(np.clip(proba, SMALLEST_PROBABILITY, 1.0)))


def log_odds(proba: FloatArray) -> FloatArray:
    """Log-odds of class 1 against class 0, shape (n,)."""
    logs = log_proba(proba)
    return logs[:, 1] - logs[:, 0]


def softmax(scores: FloatArray) -> FloatArray:
    """Probabilities along the last axis of scores of shape (n, C)."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return cast("FloatArray", shifted / shifted.sum(axis=1, keepdims=True))


def two_columns(scores: FloatArray) -> FloatArray:
    """Log-odds of class 1, shape (n,), to probabilities of both classes, shape (n, 2)."""
    return softmax(np.stack([-0.5 * scores, 0.5 * scores], axis=1))


def scale_temperature(proba: FloatArray, inverse: float) -> FloatArray:
    """Temperature scaling; the argmax of every row stays."""
    if len(proba) == 1 and proba.shape[1] <= _MOST_PYTHON:
        return np.array([_scale_row(proba[0].tolist(), inverse)])
    scaled = softmax(inverse * log_proba(proba))
    # Two probabilities a rounding error apart can come out equal or swapped: the argmax stays.
    rows = np.flatnonzero(scaled.argmax(axis=1) != proba.argmax(axis=1))
    if len(rows):
        top = proba[rows].argmax(axis=1)
        scaled[rows, top] = np.nextafter(scaled[rows].max(axis=1), 2.0)
    return scaled


def _scale_row(proba: list[float], inverse: float) -> list[float]:
    """The same for one row, in Python's own floats: NumPy takes longer to get going."""
    logs = [inverse * math.log(min(max(p, SMALLEST_PROBABILITY), 1.0)) for p in proba]
    top = max(logs)
    scaled = [math.exp(value - top) for value in logs]
    total = sum(scaled)
    scaled = [value / total for value in scaled]
    first = proba.index(max(proba))
    if scaled.index(max(scaled)) != first:
        scaled[first] = math.nextafter(max(scaled), 2.0)
    return scaled


def smoothed_logs(proba: FloatArray, inverse: float, uniform: float) -> FloatArray:
    """Logs of temperature-scaled probabilities mixed with a share of the uniform distribution."""
    scaled = softmax(inverse * log_proba(proba))
    return cast("FloatArray", np.log((1.0 - uniform) * scaled + uniform / proba.shape[1]))
