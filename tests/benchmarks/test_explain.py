"""A sample of the benchmark of attributions: they are the sum over all subsets."""

from __future__ import annotations

import pytest

from benchmarks.explain import measured


@pytest.mark.slow
@pytest.mark.shared_data
def test_attributions_are_the_sum_over_all_subsets() -> None:
    *_, error, size = measured("epa_mpg", 1, 5, cap=300)
    assert error < 1e-5 * max(1.0, size)
    assert size > 0
