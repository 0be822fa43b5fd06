"""`TargetScale`: how a regression target is standardised for the networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    pass

__all__ = ["TargetScale"]


@dataclass(frozen=True)
class TargetScale:
    """How a regression target is standardised for the networks.

    Parameters
    ----------
    mean, scale : float
        Weighted mean and standard deviation over the training rows; a constant target has scale 1.
    low, high : float
        Range of the target over the training rows; predictions are clamped to it, as RealMLP does
        (Holzmüller, Grinsztajn, Steinwart, "Better by Default", 2024, appendix A).
    """

    mean: float
    scale: float
    low: float
    high: float

    @classmethod
    def fit(cls, target: np.ndarray, sample_weight: np.ndarray | None = None) -> TargetScale:
        """Fit on training targets of shape (n_rows,), float64."""
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

    def standardise(self, target: np.ndarray) -> np.ndarray:
        """Target in standard units, float32 of shape (n_rows, 1)."""
        unit = target / self.scale - self.mean / self.scale
        limit = float(np.finfo(np.float32).max)
        return np.clip(unit, -limit, limit).astype(np.float32)[:, None]

    def restore(self, output: np.ndarray) -> np.ndarray:
        """Network outputs, float64 of shape (n_rows,), in the target's own units, clamped."""
        return np.clip(output * self.scale + self.mean, self.low, self.high)
