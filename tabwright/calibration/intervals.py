"""Prediction intervals for regression, from residuals of rows held out for them.

Conformal prediction: whatever the model, an interval as wide as the right quantile of held-out
residuals covers a new row of the same kind with at least the wanted probability. NumPy alone.

Here live also the choice of those rows (`interval_rows`) and the cross version for tables that have
none to spare (`CrossPredictions`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from tabwright.artifact.format_versions import left_out
from tabwright.splits import fold_rows, split_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from tabwright.artifact.schema import Reader, TensorBag

    FloatArray = NDArray[np.float64]

IntervalKind = Literal["split", "cross"]
IntervalScale = Literal["constant", "network", "quantiles"]

# The tail is kept whole, since high coverages are decided there.
_MAX_RESIDUALS = 4096
_MAX_TAIL = 1024
# From so many validation rows on, a quarter of them is set aside: the epoch loses little by it,
# and 200 residuals put the coverage within about 2 points of the wanted one.
_SPLIT_FROM = 800
_SHARE_ASIDE = 0.25
_N_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Intervals:
    """Quantiles of absolute residuals, ready to widen a prediction.

    `kind`: "split": residuals of the very model that predicts, on rows it did not see. Coverage is
        then at least the wanted one for exchangeable rows, and at most 1 / (n + 1) above it when
        residuals have no ties (Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, "Distribution-Free
        Predictive Inference for Regression", 2018, theorem 2.2). "cross": out-of-fold residuals of
        models fitted on parts of the rows, for tables too small to set rows aside. As the
        jackknife, it comes without a guarantee for unstable models (Barber, Candès, Ramdas and
        Tibshirani, "Predictive Inference with the Jackknife+", 2021).
    `residuals`: (m,), float64; absolute residuals, rising, in the target's unit; at most 4,096 of
        them.
    `levels`: (m,), float64; the coverage that each residual, taken as half-width, guarantees;
        rising, below 1.
    `scale`: what residuals, and half-widths, are multiples of: the target's unit, the absolute
        residual that a network expects of the row, or half the gap between the row's outer
        quantiles, around their middle.
    """

    kind: IntervalKind
    residuals: FloatArray
    levels: FloatArray
    scale: IntervalScale = "constant"

    def half_width(self, coverage: float) -> float:
        """Half the width of the interval, in the target's unit or multiples of `scale`.

        `coverage`: wanted coverage, in (0, 1).
        Returns: infinite above the last of `levels`: 9 rows can guarantee 90 %, not 95 %.
        """
        if not (isinstance(coverage, float | int) and 0.0 < coverage < 1.0):
            raise ValueError(f"coverage must be above 0 and below 1; got {coverage!r}")
        at = int(np.searchsorted(self.levels, coverage * (1.0 - 1e-12)))
        return float(self.residuals[at]) if at < len(self.residuals) else float("inf")

    def interval(
        self, prediction: ArrayLike, coverage: float = 0.9
    ) -> tuple[FloatArray, FloatArray]:
        """Lower and upper ends around predictions.

        `prediction`: (n,), float64; predicted values.
        `coverage`: wanted coverage, in (0, 1); on average over rows, not for each row.
        Returns: (n,), float64; infinite where so few rows cannot guarantee the coverage.
        """
        value = np.asarray(prediction, dtype=np.float64)
        width = self.half_width(coverage)
        return value - width, value + width

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The document and the arrays that `from_state` reads."""
        document: dict[str, Any] = {"kind": self.kind}
        if not left_out("intervals.scale", self.scale, "constant"):
            document["scale"] = self.scale
        return document, {"residuals": self.residuals, "levels": self.levels}

    @classmethod
    def from_state(cls, document: Reader, tensors: TensorBag) -> Intervals:
        """Read the intervals of a saved model.

        Raises `ArtifactError`: unknown keys, arrays of different lengths, values that do not rise.
        """
        kind = document.choice("kind", get_args(IntervalKind))
        residuals = tensors.take("residuals", "float64", (None,))
        levels = tensors.take("levels", "float64", (len(residuals),))
        ok = (
            0 < len(residuals) <= _MAX_RESIDUALS
            and (np.diff(residuals, prepend=0.0) >= 0.0).all()
            and (np.diff(levels, prepend=0.0) > 0.0).all()
            and levels[-1] < 1.0
        )
        if not ok:
            raise document.fail("kind", "backed by residuals and levels that rise")
        scale: IntervalScale = "constant"
        if "scale" in document:
            scale = document.choice("scale", get_args(IntervalScale))
        document.done()
        tensors.done()
        return cls(kind, residuals, levels, scale)


def fit_intervals(
    y: ArrayLike,
    prediction: ArrayLike,
    *,
    kind: IntervalKind = "split",
    sample_weight: ArrayLike | None = None,
    scale: IntervalScale = "constant",
    row_scale: ArrayLike | None = None,
) -> Intervals:
    """Take the quantiles of the absolute residuals of rows held out for them.

    `y`, `prediction`: (n,), float64; true values and held-out ("split") or out-of-fold ("cross")
        predictions.
    `kind`: where the predictions come from; see `Intervals`.
    `sample_weight`: (n,); weights of the rows, as in Tibshirani, Barber, Candès and Ramdas,
        "Conformal Prediction Under Covariate Shift", 2019, section 2; a new row is taken to have
        the mean weight.
    `row_scale`: (n,); what the residuals are divided by, above 0; with "constant" nothing.
    Raises `ValueError`: no row of positive weight, different lengths, values that are not finite.
    """
    target = np.asarray(y, dtype=np.float64)
    value = np.asarray(prediction, dtype=np.float64)
    weight = (
        np.ones(len(target)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    )
    if target.ndim != 1 or value.shape != target.shape or weight.shape != target.shape:
        raise ValueError(
            "y, prediction and sample_weight must be 1-D of one length; got "
            f"{target.shape}, {value.shape} and {weight.shape}"
        )
    used = weight > 0.0
    if not used.any():
        raise ValueError("at least one row of positive weight is needed; got none")
    residuals, weight = np.abs(target - value)[used], weight[used]
    if row_scale is not None:
        residuals = residuals / np.asarray(row_scale, dtype=np.float64)[used]
    if not np.isfinite(residuals).all():
        raise ValueError("y and prediction must be finite; got missing or infinite values")
    order = np.argsort(residuals, kind="stable")
    levels = np.cumsum(weight[order]) / (weight.sum() + weight.mean())
    kept = _kept(len(levels))
    return Intervals(kind, residuals[order][kept], levels[kept], scale)


@dataclass(frozen=True, eq=False)
class IntervalRows:
    """Which validation rows give the residuals, and how.

    `kind`: None: no rows can, and `message` says why.
    `choosing`, `aside`: int64; numbers of the rows that choose the epoch, and of those that choose
        nothing ("split").
    `folds`: (n_rows,), int64; "cross": the fold of each row.
    `message`: what was decided, in a sentence for people.
    """

    kind: IntervalKind | None
    choosing: NDArray[np.int64]
    aside: NDArray[np.int64]
    folds: NDArray[np.int64] | None
    message: str


def interval_rows(
    n_rows: int,
    *,
    groups: ArrayLike | None = None,
    time: ArrayLike | None = None,
    random_state: int,
) -> IntervalRows:
    """Decide which validation rows give the residuals of the intervals.

    From 800 rows on, and always with `time`, a quarter is set aside that has no part in anything
    else. Below, every row helps to choose the epoch, and each fold of rows is predicted by the
    epochs that the other folds would have chosen.

    `n_rows`: validation rows.
    `groups`: (n_rows,); rows of one group stay together.
    `time`: (n_rows,); the rows set aside are strictly later than those that choose.
    """
    every, nothing = np.arange(n_rows), np.empty(0, dtype=np.int64)
    n_units = n_rows
    unit = "rows"
    if time is not None:
        n_units, unit = len(np.unique(np.asarray(time))), "times"
    elif groups is not None:
        n_units, unit = len(np.unique(np.asarray(groups))), "groups"
    if n_units < 2:
        message = f"no intervals: they need at least 2 validation {unit}; got {n_units}"
        return IntervalRows(None, every, nothing, None, message)
    if time is not None or n_rows >= _SPLIT_FROM:
        choosing, aside = split_rows(
            n_rows, fraction=_SHARE_ASIDE, groups=groups, time=time, random_state=random_state
        )
        message = f"split conformal: {len(aside):,} validation rows held out for the intervals"
        return IntervalRows("split", choosing, aside, None, message)
    n_folds = min(_N_FOLDS, n_units)
    folds = fold_rows(n_rows, n_folds, groups=groups, random_state=random_state)
    message = f"cross-conformal: {n_rows:,} validation rows in {n_folds} folds"
    return IntervalRows("cross", every, nothing, folds, message)


class CrossPredictions:
    """Predictions for validation rows, each from epochs that other validation rows chose.

    Fed with the predictions of every epoch, it keeps for each fold those of the epoch at which the
    loss over the other folds, or what chooses in its place, was lowest, member by member. That
    costs no second training, since the rows of a fold decide nothing else but the epoch; patience
    alone still looks at all of them.

    `folds`: (n_rows,), int64; the fold of each row, 0, 1, ...
    `sample_weight`: (n_rows,), float64.
    """

    def __init__(self, folds: NDArray[np.int64], sample_weight: FloatArray | None = None) -> None:
        self._folds = folds
        weight = np.ones(len(folds)) if sample_weight is None else sample_weight
        member_of = folds[:, None] == np.arange(int(folds.max()) + 1)
        # One row a validation row, one column a fold: the weight where the row lies elsewhere.
        self._elsewhere = weight[:, None] * ~member_of
        self._lowest: FloatArray | None = None
        self._kept: FloatArray | None = None

    @property
    def n_folds(self) -> int:
        """How many folds the rows lie in."""
        return int(self._elsewhere.shape[1])

    def elsewhere(self, fold: int) -> NDArray[np.int64]:
        """Numbers of the rows that choose the epoch for a fold."""
        return np.flatnonzero(self._folds != fold)

    def fold_losses(self, row_losses: FloatArray) -> FloatArray:
        """Sums of losses of shape (n_members, n_rows) over the rows `elsewhere` of each fold."""
        sums: FloatArray = row_losses @ self._elsewhere
        return sums

    def see(self, values: FloatArray, losses: FloatArray) -> None:
        """Take in one epoch.

        `values`: (n_members, n_rows), float64; predictions in standard units.
        `losses`: (n_members, n_folds), float64; what chooses, on the rows `elsewhere`:
            `fold_losses`, or NaN where there is none.
        """
        if self._lowest is None or self._kept is None:
            self._lowest = np.full((len(values), self._elsewhere.shape[1]), np.inf)
            self._kept = values.copy()
        better = losses < self._lowest
        self._lowest = np.where(better, losses, self._lowest)
        kept = better[:, self._folds]
        if values.ndim > kept.ndim:
            kept = kept[..., None]
        self._kept = np.where(kept, values, self._kept)

    def state(self) -> dict[str, FloatArray]:
        """What was kept so far, for each member: of folds and of rows; or empty."""
        if self._lowest is None or self._kept is None:
            return {"lowest": np.empty((0, 0)), "kept": np.empty((0, 0))}
        return {"lowest": self._lowest, "kept": self._kept}

    def load_state(self, state: Mapping[str, FloatArray]) -> None:
        """Continue from what `state` returned."""
        if len(state["lowest"]):
            self._lowest, self._kept = state["lowest"], state["kept"]

    @classmethod
    def best_of(cls, tried: Sequence[CrossPredictions], n_members: int) -> CrossPredictions:
        """Several candidates that saw the same rows as one: each fold keeps the best of them.

        `tried`: each was fed with the outputs of one or more candidates of `n_members` members, one
            candidate after the other.
        Returns: for each fold the candidate whose loss over the other folds was lowest.
        """
        first = tried[0]
        best = cls(first._folds)
        kept = [one._kept for one in tried if one._kept is not None]
        lowest = [one._lowest for one in tried if one._lowest is not None]
        if not kept:
            return best
        outputs = np.concatenate(kept).reshape(-1, n_members, len(first._folds)).mean(axis=1)
        losses = np.concatenate(lowest)
        losses = losses.reshape(-1, n_members, losses.shape[1]).mean(axis=1)
        chosen = losses.argmin(axis=0)
        best._kept = outputs[chosen[first._folds], np.arange(len(first._folds))][None]
        return best

    def predictions(self) -> FloatArray:
        """Mean over the members of what each fold kept, in standard units: a row for each row."""
        if self._kept is None:
            raise ValueError("no epoch was seen; call see(values, row_losses) after each")
        mean: FloatArray = self._kept.mean(axis=0)
        return mean


def _kept(n_rows: int) -> NDArray[np.int64]:
    """Which of many ordered residuals to keep: all of the tail, an even share of the rest.

    A level that falls between two kept residuals takes the higher one, so coverage never drops.
    """
    if n_rows <= _MAX_RESIDUALS:
        return np.arange(n_rows)
    rest = np.linspace(0, n_rows - _MAX_TAIL - 1, _MAX_RESIDUALS - _MAX_TAIL).astype(np.int64)
    return cast("NDArray[np.int64]", np.concatenate([rest, np.arange(n_rows - _MAX_TAIL, n_rows)]))
