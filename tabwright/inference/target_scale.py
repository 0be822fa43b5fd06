"""`TargetScale` of a regression target, and `ResidualScale`: how far predictions are off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tabwright.artifact.schema import prefixed
from tabwright.inference.network_spec import NetworkSpec, take_member
from tabwright.inference.numpy_network import FoldedNetwork
from tabwright.regression import (
    RegressionObjective,
    central_level,
    has_log_link,
    inverse_softplus,
    weighted_quantiles,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tabwright.artifact.schema import Reader, TensorBag
    from tabwright.encoding.encoder import Compact
    from tabwright.encoding.layout import Layout

    FloatArray = NDArray[np.float64]

# An interval is at most so many times, as a logarithm, as wide or narrow as the mean one: what a
# small network says beyond is no estimate.
LARGEST_LOG_SCALE = 3.0
# Quantiles of training targets that are equal begin this far apart, in standard units.
_LEAST_GAP = 1e-2


@dataclass(frozen=True)
class TargetScale:
    """How a regression target is standardised for the networks.

    `mean`: what a constant prediction would be: the weighted mean over the training rows, with
        absolute error their median, with quantiles the one nearest to the median.
    `scale`: the weighted standard deviation; with absolute error and quantiles its like from
        absolute deviations; with a logarithmic link the mean. A constant target has scale 1.
    `low`, `high`: range of the target over the training rows; predictions are clamped to it, as
        RealMLP does (Holzmüller, Grinsztajn, Steinwart, "Better by Default", 2024, appendix A).
    `quantiles`: those of the training rows, where quantiles are predicted.
    `log_link`: whether networks put out logarithms: the target is then scaled and not moved.
    """

    mean: float
    scale: float
    low: float
    high: float
    quantiles: tuple[float, ...] = ()
    log_link: bool = False

    @classmethod
    def fit(cls, target: FloatArray, sample_weight: FloatArray | None = None) -> TargetScale:
        """Fit on training targets of shape (n_rows,), for squared error."""
        low, high = float(target.min()), float(target.max())
        # Centred and scaled by the range first, so that the square of 1e300 does not overflow.
        span = (high / 2 - low / 2) or 1.0
        unit = target / span - low / span
        mean = float(np.average(unit, weights=sample_weight))
        variance = float(np.average((unit - mean) ** 2, weights=sample_weight))
        scale = np.sqrt(variance) * span
        return cls(
            mean=min(max(low + mean * span, low), high),
            scale=float(scale) if np.isfinite(scale) and scale > 0 else 1.0,
            low=low,
            high=high,
        )

    def suited(
        self,
        objective: RegressionObjective,
        levels: Sequence[float],
        target: FloatArray,
        sample_weight: FloatArray | None,
    ) -> TargetScale:
        """The scale for another objective.

        `target`: (n_rows,), float64; training targets, or a sample of them: medians and quantiles
            are of these.
        `sample_weight`: (n_rows,), float64.
        """
        if objective == "squared_error":
            return self
        if has_log_link(objective):
            return replace(self, scale=self.mean if self.mean > 0 else 1.0, log_link=True)
        median = weighted_quantiles(target, (0.5,), sample_weight)[0]
        deviation = np.average(np.abs(target - median), weights=sample_weight)
        # Of a normal target this is its standard deviation.
        scale = float(deviation) * math.sqrt(math.pi / 2)
        scale = scale if math.isfinite(scale) and scale > 0 else self.scale
        if objective == "absolute_error":
            return replace(self, mean=median, scale=scale)
        quantiles = weighted_quantiles(target, levels, sample_weight)
        return replace(
            self, mean=quantiles[central_level(levels)], scale=scale, quantiles=quantiles
        )

    @property
    def constant(self) -> FloatArray | float:
        """The best prediction that is the same for every row: a value, or one for each level."""
        return np.array(self.quantiles) if self.quantiles else self.mean

    def first_outputs(self) -> FloatArray | None:
        """What networks should put out before they have learned anything; None: about 0."""
        if not self.quantiles:
            return None
        standard = (np.array(self.quantiles) - self.mean) / self.scale
        gaps = np.maximum(np.diff(standard), _LEAST_GAP)
        return np.array([standard[0], *(inverse_softplus(float(gap)) for gap in gaps)])

    def standardise(self, target: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Target in standard units, float32 of shape (n_rows, 1)."""
        unit = target / self.scale
        if not self.log_link:
            unit = unit - self.mean / self.scale
        limit = float(np.finfo(np.float32).max)
        standard: NDArray[np.float32] = np.clip(unit, -limit, limit).astype(np.float32)[:, None]
        return standard

    def restore(self, output: FloatArray) -> FloatArray:
        """Values in standard units, of any shape, in the target's own units, clamped."""
        values = output * self.scale
        if not self.log_link:
            values = values + self.mean
        return np.clip(values, self.low, self.high)

    def to_document(self) -> dict[str, Any]:
        """What `from_document` reads."""
        document: dict[str, Any] = {
            name: getattr(self, name) for name in ("mean", "scale", "low", "high")
        }
        return document | ({"quantiles": list(self.quantiles)} if self.quantiles else {})

    @classmethod
    def from_document(
        cls, document: Reader, objective: RegressionObjective, levels: Sequence[float]
    ) -> TargetScale:
        """Read the scale of a saved model.

        Raises `ArtifactError`: unknown keys, values out of range, or not as many quantiles as
            levels.
        """
        low = document.number("low")
        high = document.number("high", low=low)
        mean = document.number("mean", low=low, high=high)
        scale = document.number("scale", low=0.0)
        quantiles: tuple[float, ...] = ()
        if objective == "quantile":
            quantiles = tuple(document.numbers("quantiles", length=len(levels), low=low, high=high))
        document.done()
        if scale == 0:
            raise document.fail("scale", "above 0")
        if list(quantiles) != sorted(quantiles):
            raise document.fail("quantiles", "in rising order")
        return cls(mean, scale, low, high, quantiles, log_link=has_log_link(objective))


@dataclass(frozen=True, eq=False)
class ResidualScale:
    """A small network that puts out the logarithm of a row's expected absolute residual.

    `member`: its `state_dict`.
    `unit`: the mean absolute residual, in the target's unit, of which the network puts out
        multiples.
    """

    architecture: NetworkSpec
    member: dict[str, NDArray[Any]]
    unit: float

    def network(self, layout: Layout | None = None) -> FoldedNetwork:
        """The network, ready to run on encoded rows where the layout is given."""
        return FoldedNetwork([self.member], layout)

    def restore(self, outputs: FloatArray) -> FloatArray:
        """Expected absolute residuals in the target's unit from outputs of shape (n,)."""
        scales: FloatArray = self.unit * np.exp(
            np.clip(outputs, -LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)
        )
        return scales

    def predict(self, network: FoldedNetwork, compact: Compact) -> FloatArray:
        """Expected absolute residuals of encoded rows, of shape (n,)."""
        return self.restore(network.values(compact))

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The document and the arrays that `from_state` reads."""
        document = {"architecture": asdict(self.architecture), "unit": self.unit}
        return document, prefixed("member.", self.member)

    @classmethod
    def from_state(cls, document: Reader, tensors: TensorBag, input_dim: int) -> ResidualScale:
        """Read the scale of a saved model.

        Raises `ArtifactError`: unknown keys, an architecture of other inputs or outputs, tensors
            that do not fit it.
        """
        architecture = NetworkSpec.from_document(document.child("architecture"))
        if (architecture.input_dim, architecture.output_dim) != (input_dim, 1):
            raise document.fail("architecture", f"of {input_dim} inputs and one output")
        unit = document.number("unit", low=0.0)
        if unit == 0:
            raise document.fail("unit", "above 0")
        document.done()
        member = take_member(tensors.scoped("member."), architecture.tensor_shapes())
        return cls(architecture, member, unit)
