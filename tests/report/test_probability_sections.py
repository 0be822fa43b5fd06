"""Whether probabilities are right, in a sentence that its own numbers bear out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tabwright.report.probability_sections import calibration_answer


def _answer(n_wrong_bins: int) -> str:
    """The answer on 1,500 rows of three classes, in 15 bins, the first of which are far off."""
    p = np.linspace(0.5, 0.95, 1500)
    # As many events as the probabilities add up to, everywhere.
    right = np.diff(np.floor(np.cumsum(p)), prepend=0.0) > 0
    right[: n_wrong_bins * 100] = False
    output = np.column_stack([p, (1 - p) / 2, (1 - p) / 2])
    found = SimpleNamespace(output=output, target=np.where(right, 0, 1), weight=None, rule=None)
    return calibration_answer(None, found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("n_wrong_bins", "verdict", "agreeing"),
    [
        (0, "are right as far as these rows can tell", "in 15 of 15 bins"),
        (3, "may be too high", "in 12 of 15 bins"),
        (6, "are not right, on the whole too high", "in 9 of 15 bins"),
    ],
)
def test_the_verdict_follows_the_bins(n_wrong_bins: int, verdict: str, agreeing: str) -> None:
    answer = _answer(n_wrong_bins)
    assert answer.startswith(f"The probabilities of the most probable class {verdict}: {agreeing}")
    assert ("were they right, so few bins would in 4\u00a0% of cases" in answer) == (
        n_wrong_bins == 3
    )
