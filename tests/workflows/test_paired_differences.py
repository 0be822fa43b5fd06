"""Laws of the corrected resampled t interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tabwright.workflows.paired_differences import paired_difference


def test_without_correction_it_is_the_paired_t_test() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, 12)
    # A share of next to nothing leaves the plain variance of the mean.
    gap = paired_difference(values, test_share=1e-12, coverage=0.9)
    plain = stats.ttest_1samp(values, 0.0)
    low, high = plain.confidence_interval(0.9)
    assert (gap.low, gap.high) == pytest.approx((low, high))
    one_sided = stats.ttest_1samp(values, 0.0, alternative="greater").pvalue
    assert gap.probability_above == pytest.approx(1.0 - one_sided)


def test_the_correction_by_hand() -> None:
    values = np.array([0.1, 0.3, 0.2, 0.4, 0.0])
    gap = paired_difference(values, test_share=0.25)
    error = np.sqrt((1 / 5 + 1 / 4) * values.var(ddof=1))
    assert gap.mean == pytest.approx(0.2)
    assert gap.high - gap.mean == pytest.approx(2.776445105 * error)
    assert gap.mean - gap.low == pytest.approx(gap.high - gap.mean)


def test_turning_the_models_round_turns_the_interval_round() -> None:
    values = np.array([0.1, 0.3, -0.2, 0.4])
    one, other = (paired_difference(v, test_share=0.25) for v in (values, -values))
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.probability_above == pytest.approx(1.0 - other.probability_above)


def test_it_covers_where_the_naive_interval_does_not() -> None:
    # Cross-validated differences share a part that every fold has in common.
    rng = np.random.default_rng(0)
    covered = naive = 0
    for _ in range(2000):
        values = rng.normal(0.0, 0.5) + rng.normal(size=5)
        covered += abs(paired_difference(values, test_share=0.25).mean) <= (
            paired_difference(values, test_share=0.25).high
            - paired_difference(values, test_share=0.25).mean
        )
        naive += abs(values.mean()) <= 2.776445105 * values.std(ddof=1) / np.sqrt(5)
    assert covered / 2000 > 0.935
    assert naive / 2000 < 0.90


def test_equal_differences_leave_no_doubt() -> None:
    gap = paired_difference([0.5, 0.5], test_share=1.0)
    assert (gap.low, gap.high, gap.probability_above) == (0.5, 0.5, 1.0)
    assert gap.is_clear
    same = paired_difference([0.0, 0.0], test_share=1.0)
    assert same.probability_above == 0.5
    assert not same.is_clear


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least 2 finite numbers"):
        paired_difference([0.5], test_share=1.0)
    with pytest.raises(ValueError, match="at least 2 finite numbers"):
        paired_difference([0.5, np.nan], test_share=1.0)
    with pytest.raises(ValueError, match="test_share must be above 0; got 0"):
        paired_difference([0.5, 0.4], test_share=0.0)
    with pytest.raises(ValueError, match="coverage must be above 0 and below 1; got 1"):
        paired_difference([0.5, 0.4], test_share=0.5, coverage=1.0)
