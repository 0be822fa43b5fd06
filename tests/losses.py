"""A loss that many tests compare."""

from numpy.typing import ArrayLike

from tabwright.metrics import score_classification


def log_loss(codes: ArrayLike, proba: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Mean negative log of the true class's probability, in nats, as it is reported."""
    return score_classification(codes, proba, sample_weight)["log_loss"]
