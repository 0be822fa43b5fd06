"""Numeric encodings, column by column."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tabwright.encoding.numeric import (
    SAMPLE_ROWS,
    NumericColumns,
    NumericFit,
    ResolvedEncoding,
    bins_per_column,
    fit_numeric,
    resolve_encoding,
)
from tabwright.encoding.supervised.tree_thresholds import TreeTarget

ENCODINGS: tuple[ResolvedEncoding, ...] = get_args(ResolvedEncoding)
FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=64)


def _fit(
    values: NDArray[np.float64],
    encoding: ResolvedEncoding = "quantile_ple",
    n_bins: int = 16,
    target: NDArray[np.float64] | None = None,
) -> NumericFit:
    goal = np.arange(len(values), dtype=np.float64) if target is None else target
    tree = TreeTarget(goal, "regression", None, 0)
    return fit_numeric(values, None, encoding, n_bins=n_bins, tree=tree)


def _columns(fit: NumericFit, encoding: ResolvedEncoding) -> NumericColumns:
    return NumericColumns.of([fit], encoding, keep_value=True)


@given(st.lists(FLOATS, min_size=1, max_size=60), st.lists(FLOATS, max_size=20))
@example([0.0, 922939834738.0, 2.4833824055508578e-297], [])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_number_gives_a_finite_float32(
    encoding: ResolvedEncoding, training: list[float], later: list[float]
) -> None:
    fit = _fit(np.array(training), encoding)
    columns = _columns(fit, encoding)
    values = np.array([*training, *later, 1e300, -1e300, np.inf, -np.inf, 5e-324])
    encoded = columns.encode(0, values).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(encoded), np.isnan(values))
    assert np.isfinite(encoded[~np.isnan(values)] ** 2).all()
    source, left, inverse = columns.bins()
    assert len(source) == len(left) == len(inverse) <= 16
    assert np.isfinite(inverse).all()
    assert (inverse > 0).all()


@given(st.lists(FLOATS, min_size=1, max_size=60), st.lists(FLOATS, min_size=1, max_size=20))
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_one_value_is_encoded_as_many(
    encoding: ResolvedEncoding, training: list[float], later: list[float]
) -> None:
    columns = _columns(_fit(np.array(training), encoding), encoding)
    known = np.array([value for value in later if value == value])
    scalar = columns.scalar(0)
    np.testing.assert_array_equal(columns.encode(0, known), [scalar(v) for v in known.tolist()])


def test_standard_is_mean_and_standard_deviation() -> None:
    values = np.random.default_rng(0).normal(5.0, 3.0, 1_000)
    encoded = _columns(_fit(values, "standard"), "standard").encode(0, values)
    np.testing.assert_allclose(encoded, (values - values.mean()) / values.std(), atol=1e-12)


def test_robust_scale_is_one_over_the_interquartile_range() -> None:
    values = np.random.default_rng(0).exponential(size=1_001)
    fit = _fit(values, "robust")
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    assert fit.centre == pytest.approx(middle)
    assert fit.scale == pytest.approx(1 / (high - low))


def test_robust_scale_falls_back_on_the_range_then_on_zero() -> None:
    assert _fit(np.array([0.0] * 9 + [8.0]), "robust").scale == 2 / 8
    assert _fit(np.full(10, 3.0), "robust").scale == 0.0


def test_values_squares_of_which_overflow_keep_their_order() -> None:
    values = np.array([-1e308, -1e200, 0.0, 1e200, 1e308])
    for encoding in ("standard", "robust"):
        encoded = _columns(_fit(values, encoding), encoding).encode(0, values)
        assert (np.diff(encoded) >= 0).all()
        assert encoded[0] < encoded[2] < encoded[-1]


def test_infinity_sits_past_the_training_range_by_its_own_length() -> None:
    values = np.linspace(0.0, 10.0, 11)
    fit = _fit(values, "robust")
    assert (fit.lower, fit.upper) == (-10.0, 20.0)
    columns = _columns(fit, "robust")
    same = columns.encode(0, np.array([np.inf, 20.0, 1e300]))
    assert same[0] == same[1] == same[2]


def test_a_single_outlier_does_not_move_the_robust_scale() -> None:
    values = np.random.default_rng(0).normal(size=999)
    fit, with_outlier = _fit(values, "robust"), _fit(np.append(values, 1e300), "robust")
    assert with_outlier.scale == pytest.approx(fit.scale, rel=0.02)


def test_quantile_bins_hold_equal_shares() -> None:
    values = np.random.default_rng(0).exponential(size=16_000)
    fit = _fit(values)
    scaled = _columns(fit, "quantile_ple").encode(0, values)
    counts, _ = np.histogram(scaled, bins=fit.edges.astype(np.float64))
    assert len(counts) == 16
    assert counts.min() > 950
    assert counts.max() < 1_050


def test_few_distinct_values_make_one_bin_less_than_values() -> None:
    values = np.random.default_rng(0).integers(1, 6, 500).astype(np.float64)
    fit = _fit(values)
    np.testing.assert_allclose(fit.edges / fit.scale + fit.centre, [1, 2, 3, 4, 5], rtol=1e-6)


def test_a_column_that_is_mostly_zero_keeps_bins_for_the_rest() -> None:
    generator = np.random.default_rng(0)
    values = np.where(generator.random(5_000) < 0.95, 0.0, generator.exponential(size=5_000))
    fit = _fit(values)
    zero = np.float32((0.0 - fit.centre) * fit.scale)
    assert zero in fit.edges
    assert (fit.edges > zero).sum() >= 14


def test_a_constant_column_has_no_bins_and_encodes_to_zero() -> None:
    fit = _fit(np.full(20, 7.0))
    assert len(fit.edges) == 0
    encoded = _columns(fit, "quantile_ple").encode(0, np.array([7.0, -np.inf, 1e300]))
    np.testing.assert_array_equal(encoded, 0.0)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_column_of_missing_values_fits(encoding: ResolvedEncoding) -> None:
    columns = _columns(_fit(np.full(5, np.nan), encoding), encoding)
    assert columns.encode(0, np.array([1.0]))[0] == 0.0
    assert len(columns.bins()[0]) == 0


def test_tree_bins_find_the_step_in_the_target() -> None:
    values = np.random.default_rng(0).random(2_000)
    fit = _fit(values, "tree_ple", n_bins=2, target=(values > 0.3).astype(np.float64))
    inner = fit.edges[1:-1] / fit.scale + fit.centre
    assert inner == pytest.approx([0.3], abs=0.005)


def test_tree_bins_honour_sample_weights() -> None:
    values = np.tile(np.arange(10.0), 200)
    noisy = np.arange(2_000) % 3 == 0
    target = np.where(noisy, values > 7, values > 2).astype(np.int64)
    for weight, step in ((np.where(noisy, 1e-6, 1.0), 2.5), (np.where(noisy, 1.0, 1e-6), 7.5)):
        tree = TreeTarget(target, "classification", weight, 0)
        fit = fit_numeric(values, None, "tree_ple", n_bins=2, tree=tree)
        assert fit.edges[1:-1] / fit.scale + fit.centre == pytest.approx([step])


def test_tree_bins_take_targets_of_any_size() -> None:
    values = np.random.default_rng(0).random(500)
    for size in (1e-300, 1e300):
        fit = _fit(values, "tree_ple", n_bins=2, target=np.where(values > 0.5, size, 0.0))
        assert len(fit.edges) == 3


def test_normal_scores_are_normal_and_monotone() -> None:
    values = np.random.default_rng(0).exponential(size=5_000) ** 3
    encoded = _columns(_fit(values, "quantile_normal"), "quantile_normal").encode(0, values)
    assert abs(encoded.mean()) < 0.02
    assert encoded.std() == pytest.approx(1.0, abs=0.03)
    assert (np.diff(encoded[np.argsort(values)]) >= 0).all()


def test_bins_see_the_sampled_rows_only() -> None:
    values = np.concatenate([np.arange(100.0), np.full(100, 1e6)])
    sample = np.arange(100)
    fit = fit_numeric(values, sample, "quantile_ple", n_bins=4)
    np.testing.assert_allclose(fit.edges / fit.scale + fit.centre, [0, 25, 50, 74, 99], atol=0.6)
    assert SAMPLE_ROWS == 100_000


def test_wide_tables_get_fewer_bins_and_the_widest_none() -> None:
    assert bins_per_column(16, 100) == 16
    assert bins_per_column(16, 4_096) == 4
    assert resolve_encoding("quantile_ple", 8_000) == "quantile_ple"
    assert resolve_encoding("tree_ple", 10_000) == "robust"
    assert resolve_encoding("standard", 10_000) == "standard"
