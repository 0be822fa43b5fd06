"""Levels moved by held-out rows: right where they were wrong, left alone where they were right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from tabwright.calibration.quantile_shifts import fit_quantile_shifts, shifted_quantiles

LEVELS = (0.1, 0.5, 0.9)
EXACT = norm.ppf(LEVELS)


def _rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and the spread of each row."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(size=n))
    return scale * rng.normal(size=n), scale


def _shares(target: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    shares: np.ndarray = (target[:, None] <= quantiles).mean(axis=0)
    return shares


def test_levels_that_are_wrong_become_right_for_new_rows() -> None:
    wrong = 0.6 * EXACT + 0.3
    y, scale = _rows(2000, 0)
    shifts = fit_quantile_shifts(y, scale[:, None] * wrong, LEVELS, scale)
    new, own = _rows(20_000, 1)
    quantiles = own[:, None] * wrong
    assert np.abs(_shares(new, quantiles) - LEVELS).max() > 0.05
    moved = shifted_quantiles(quantiles, shifts, own)
    assert np.abs(_shares(new, moved) - LEVELS).max() < 0.02


def test_exact_quantiles_of_few_rows_lose_little() -> None:
    """Most draws leave them alone; a shift that is not shrunk is off by 0.05 on the mean here."""
    off, plain, untouched = [], [], 0
    for seed in range(100):
        y, scale = _rows(40, seed)
        shifts = fit_quantile_shifts(y, scale[:, None] * EXACT, LEVELS, scale)
        untouched += not shifts
        beyond = y / scale
        off.append(np.abs(norm.cdf(EXACT + np.array(shifts or (0.0,) * 3)) - LEVELS).mean())
        plain.append(np.abs(norm.cdf(np.quantile(beyond, LEVELS)) - LEVELS).mean())
    assert untouched > 50
    assert np.mean(off) < 0.4 * np.mean(plain)


def test_equal_weights_are_none_and_rows_without_weight_are_not_there() -> None:
    y, scale = _rows(300, 2)
    quantiles = scale[:, None] * (EXACT + 0.5)
    known = fit_quantile_shifts(y, quantiles, LEVELS, scale)
    assert known
    same = fit_quantile_shifts(y, quantiles, LEVELS, scale, np.full(300, 7.0))
    assert same == pytest.approx(known)
    more = np.concatenate([y, y + 50]), np.vstack([quantiles, quantiles]), np.tile(scale, 2)
    weight = np.repeat([1.0, 1e-12], 300)
    with_others = fit_quantile_shifts(more[0], more[1], LEVELS, more[2], weight)
    assert with_others == pytest.approx(known, rel=0.05, abs=0.02)


@given(
    st.lists(st.floats(-100, 100), min_size=3, max_size=3),
    st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    st.floats(1e-6, 100),
)
def test_shifted_levels_never_cross(row: list[float], shifts: list[float], scale: float) -> None:
    moved = shifted_quantiles(np.array([sorted(row)]), shifts, np.array([scale]))
    assert (np.diff(moved, axis=1) >= 0).all()
