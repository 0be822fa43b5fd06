"""Category columns: levels, rare ones, cross-fitted statistics."""

import numpy as np
import polars as pl
import pytest

from tabwright.encoding.categorical import (
    FIRST_LEVEL,
    MISSING,
    UNKNOWN,
    StatisticsTarget,
    fit_category,
    rare_below,
)
from tabwright.tables import to_levels


def _about(
    n_rows: int, target: np.ndarray | None = None, weight: np.ndarray | None = None
) -> StatisticsTarget:
    return StatisticsTarget.of(n_rows, target, "regression", weight, 0)


def _no_target() -> StatisticsTarget:
    raise AssertionError("statistics were not needed")


def test_levels_go_by_frequency_then_by_name() -> None:
    series = pl.Series(["b", "a", "c", "c", "b", "a", "c"])
    column, codes, own = fit_category(series, _no_target, max_levels=10, min_count=1)
    assert column.levels == ("c", "a", "b")
    assert codes.tolist() == [4, 3, 2, 2, 4, 3, 2]
    assert own is None


def test_rare_levels_are_pooled_with_the_unknown_and_missing_is_its_own() -> None:
    series = pl.Series(["a"] * 5 + ["b"] * 2 + [None])
    column, codes, _ = fit_category(series, _no_target, max_levels=10, min_count=3)
    assert column.levels == ("a",)
    assert codes.tolist() == [FIRST_LEVEL] * 5 + [UNKNOWN] * 2 + [MISSING]
    assert column.codes(pl.Series(["never seen", None, "a"])).tolist() == [UNKNOWN, MISSING, 2]


@pytest.mark.parametrize(("n_rows", "count"), [(10, 2), (700, 3), (2_000, 10), (10**6, 10)])
def test_a_level_needs_one_row_in_two_hundred(n_rows: int, count: int) -> None:
    assert rare_below(n_rows) == count


def test_all_missing_and_all_distinct_columns_have_no_levels() -> None:
    for series in (pl.Series([None] * 4, dtype=pl.String), pl.Series(["a", "b", "c", "d"])):
        column, codes, _ = fit_category(series, _no_target, max_levels=10, min_count=2)
        assert column.levels == ()
        assert set(codes.tolist()) <= {MISSING, UNKNOWN}


def _many(n_rows: int = 4_000, n_levels: int = 200) -> tuple[pl.Series, np.ndarray]:
    levels = np.random.default_rng(1).integers(0, n_levels, n_rows)
    return pl.Series([f"level {level}" for level in levels]), levels


def test_many_levels_get_inputs_for_the_most_frequent_and_statistics_for_all() -> None:
    series, levels = _many()
    target = levels / 100.0
    column, codes, own = fit_category(
        series, lambda: _about(len(series), target), max_levels=10, min_count=2
    )
    assert column.n_inputs == 10
    assert len(column.levels) == 200
    assert column.statistics is not None
    assert own is not None
    assert column.statistics.shape == (202, 2)
    assert (column.input_codes(codes) < FIRST_LEVEL + 10).all()
    assert np.corrcoef(column.statistics[codes, 0], target)[0, 1] > 0.9
    assert np.corrcoef(own[:, 0], target)[0, 1] > 0.9


def test_statistics_of_a_training_row_know_nothing_of_its_own_target() -> None:
    """Against pure noise a leaking statistic correlates with the target; this one does not."""
    series, _ = _many(n_levels=1_500)
    target = np.random.default_rng(2).normal(size=len(series))
    column, codes, own = fit_category(
        series, lambda: _about(len(series), target), max_levels=10, min_count=2
    )
    assert own is not None
    assert column.statistics is not None
    assert np.corrcoef(column.statistics[codes, 0], target)[0, 1] > 0.3
    assert np.corrcoef(own[:, 0], target)[0, 1] < 0.05


def test_changing_one_target_leaves_the_statistics_of_its_own_fold_alone() -> None:
    series, _ = _many()
    target = np.random.default_rng(2).normal(size=len(series))
    about = _about(len(series), target)
    other_columns = about.columns.copy()
    other_columns[0] += 100.0
    other = StatisticsTarget(other_columns, about.names, about.weight, about.fold)
    _, codes, one = fit_category(series, lambda: about, max_levels=10, min_count=2)
    _, _, two = fit_category(series, lambda: other, max_levels=10, min_count=2)
    assert one is not None
    assert two is not None
    # The common centre and scale move; ranks within the fold do not.
    fold = about.fold == about.fold[0]
    order = np.argsort(one[fold, 0], kind="stable")
    assert (np.diff(two[fold, 0][order]) >= 0).all()
    level = (codes == codes[0]) & ~fold
    assert (two[level, 0] > two[fold, 0].max()).all()


def test_weights_count_as_repeated_rows() -> None:
    series, levels = _many(n_rows=1_000, n_levels=60)
    target = np.sin(levels.astype(np.float64))
    weight = np.where(np.arange(1_000) % 2 == 0, 3.0, 1e-9)
    even = pl.Series(series.to_list()[::2])
    weighted, _, _ = fit_category(
        series, lambda: _about(1_000, target, weight), max_levels=5, min_count=2
    )
    table = weighted.statistics
    assert table is not None
    alone, _, _ = fit_category(even, lambda: _about(500, target[::2]), max_levels=5, min_count=2)
    assert alone.statistics is not None
    shared = [level for level in alone.levels if level in weighted.levels]
    one = [table[2 + weighted.levels.index(level), 0] for level in shared]
    two = [alone.statistics[2 + alone.levels.index(level), 0] for level in shared]
    assert np.corrcoef(one, two)[0, 1] > 0.99


def test_an_unseen_level_looks_like_one_the_other_folds_lack() -> None:
    rows = [f"level {k}" for k in range(300) for _ in range(3)] + ["once"]
    series = pl.Series(rows)
    target = np.arange(len(rows), dtype=np.float64)
    column, codes, own = fit_category(
        series, lambda: _about(len(rows), target), max_levels=5, min_count=2
    )
    assert own is not None
    assert column.statistics is not None
    assert codes[-1] == UNKNOWN
    assert own[-1, -1] == column.statistics[UNKNOWN, -1] == own[:, -1].min()


@pytest.mark.parametrize(("n_classes", "n_columns"), [(2, 1), (3, 3), (30, 8)])
def test_classes_share_a_bounded_number_of_statistics(n_classes: int, n_columns: int) -> None:
    target = np.arange(600) % n_classes
    about = StatisticsTarget.of(600, target, "classification", None, 0)
    assert about.columns.shape == (600, n_columns)
    np.testing.assert_allclose(about.columns.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(about.columns.std(axis=0), 1.0)


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Int64, pl.Float64])
def test_codes_of_cells_are_those_of_their_levels(dtype: type[pl.DataType]) -> None:
    cells = ["1", "2", None, "3", "7"]
    if dtype in (pl.String, pl.Categorical):
        cells += [" 1 ", "1.0", "TRUE", "true", "NA", "", "never", " 2", "2"]
    column, _, _ = fit_category(
        pl.Series(["1", "true", "2", None] * 10), _no_target, max_levels=9, min_count=1
    )
    for n_rows in (1, 2, len(cells)):
        for start in range(len(cells)):
            part = pl.Series(cells, dtype=pl.String)[start : start + n_rows].cast(dtype)
            found = column.codes_of_cells(part)
            assert found.dtype == np.int32
            assert found.tolist() == column.codes(to_levels(part)).tolist()
