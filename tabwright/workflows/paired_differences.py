"""Is one model better than another? Paired differences of cross-validation, with intervals.

The scores of folds are not independent: their training rows overlap. The corrected resampled
t-test allows for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class PairedDifference:
    """How much one model's scores lie above another's.

    `mean`: mean difference over the folds.
    `low`, `high`: ends of the interval.
    `probability_above`: probability that the true difference is above 0.
    """

    mean: float
    low: float
    high: float
    probability_above: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0.0 or self.high < 0.0


def paired_difference(
    differences: ArrayLike, *, test_share: float, coverage: float = 0.95
) -> PairedDifference:
    """The mean difference of paired scores, with the corrected resampled t interval.

    Nadeau and Bengio, "Inference for the Generalization Error", Machine Learning 52, 2003,
    section 4.2: the variance of the mean over J folds is taken as (1/J + n_test/n_train) times
    the variance between folds, with J - 1 degrees of freedom. That it also holds the posterior of
    the difference, from which the probability comes, is in Corani and Benavoli, "A Bayesian
    approach for comparing cross-validated algorithms on multiple data sets", Machine Learning
    100, 2015, section 3.1.

    `differences`: (n_folds,); one model's score less the other's on the same rows, fold by fold; at
        least 2.
    `test_share`: n_test / n_train of a fold, above 0.
    Raises `ValueError`: fewer than 2 differences, some that are not finite, or arguments out of
        range.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"differences must be at least 2 finite numbers, one a fold; got shape {values.shape}"
        )
    if not test_share > 0.0:
        raise ValueError(f"test_share must be above 0; got {test_share!r}")
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage must be above 0 and below 1; got {coverage!r}")
    from scipy import stats

    mean = float(values.mean())
    error = math.sqrt((1.0 / len(values) + test_share) * float(values.var(ddof=1)))
    if error == 0.0:
        return PairedDifference(mean, mean, mean, 0.5 + 0.5 * float(np.sign(mean)))
    freedom = len(values) - 1
    reach = float(stats.t.ppf(0.5 + coverage / 2.0, freedom)) * error
    above = float(stats.t.cdf(mean / error, freedom))
    return PairedDifference(mean, mean - reach, mean + reach, above)
