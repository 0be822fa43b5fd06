"""Laws of the splits: nothing straddles, nothing is lost, the same call gives the same rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import (
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    LeaveOneGroupOut,
    PredefinedSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)

from tabwright.splits import (
    are_forward,
    fold_rows,
    forward_folds,
    split_by_hash,
    split_rows,
    splits_of,
    splits_within,
    stable_row_hash,
)

fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**63 - 1)


def assert_partition(train: np.ndarray, validation: np.ndarray, n_rows: int) -> None:
    assert train.dtype == validation.dtype == np.int64
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(n_rows))


@given(st.integers(2, 60), fractions, seeds)
def test_plain_split_has_the_wanted_size(n_rows: int, fraction: float, seed: int) -> None:
    train, validation = split_rows(n_rows, fraction=fraction, random_state=seed)
    assert_partition(train, validation, n_rows)
    assert len(validation) == min(max(round(fraction * n_rows), 1), n_rows - 1)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=60), fractions, seeds)
def test_every_class_keeps_a_training_row(codes: list[int], fraction: float, seed: int) -> None:
    y = np.array(codes)
    train, validation = split_rows(len(y), fraction=fraction, codes=y, random_state=seed)
    assert_partition(train, validation, len(y))
    assert set(y[train]) == set(y)
    assert (len(validation) == 0) == (len(set(codes)) == len(codes))


@given(seeds, fractions)
def test_classes_are_in_proportion(seed: int, fraction: float) -> None:
    y = np.random.default_rng(seed).integers(0, 4, 200)
    _, validation = split_rows(200, fraction=fraction, codes=y, random_state=seed)
    wanted = np.bincount(y, minlength=4) * len(validation) / 200
    assert (np.abs(np.bincount(y[validation], minlength=4) - wanted) <= 1.0 + 1e-9).all()


def test_equal_remainders_favour_no_class() -> None:
    y = np.repeat(np.arange(10), 5)
    hits = np.zeros(10)
    for seed in range(300):
        _, validation = split_rows(50, fraction=0.1, codes=y, random_state=seed)
        hits += np.bincount(y[validation], minlength=10)
    assert hits.min() > 100
    assert hits.max() < 200


@given(st.lists(st.integers(0, 8), min_size=2, max_size=60), fractions, seeds)
def test_groups_never_straddle(groups: list[int], fraction: float, seed: int) -> None:
    g = np.array(groups)
    if len(set(groups)) == 1:
        with pytest.raises(ValueError, match="at least 2 different groups"):
            split_rows(len(g), fraction=fraction, groups=g, random_state=seed)
        return
    train, validation = split_rows(len(g), fraction=fraction, groups=g, random_state=seed)
    assert_partition(train, validation, len(g))
    assert len(train)
    assert len(validation)
    assert not set(g[train]) & set(g[validation])


def test_grouped_split_is_stratified_and_sized() -> None:
    rng = np.random.default_rng(0)
    groups = np.array([f"customer {i}" for i in rng.integers(0, 300, 3000)], dtype=object)
    y = (rng.random(3000) < 0.1).astype(int)
    for seed in range(5):
        train, validation = split_rows(
            3000, fraction=0.2, codes=y, groups=groups, random_state=seed
        )
        assert not set(groups[train]) & set(groups[validation])
        assert len(validation) == pytest.approx(600, abs=30)
        assert y[validation].sum() == pytest.approx(0.2 * y.sum(), abs=4)


def test_a_class_inside_one_group_stays_in_training() -> None:
    y = np.array([0] * 8 + [1] * 2)
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    for seed in range(20):
        train, _ = split_rows(10, fraction=0.5, codes=y, groups=groups, random_state=seed)
        assert {8, 9} <= set(train.tolist())
    with pytest.raises(ValueError, match="no group can be set aside"):
        split_rows(4, fraction=0.5, codes=[0, 0, 1, 1], groups=[7, 7, 9, 9], random_state=0)


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), fractions)
def test_validation_is_strictly_later(times: list[int], fraction: float) -> None:
    t = np.array(times)
    if len(set(times)) == 1:
        with pytest.raises(ValueError, match="at least 2 different values"):
            split_rows(len(t), fraction=fraction, time=t, random_state=0)
        return
    train, validation = split_rows(len(t), fraction=fraction, time=t, random_state=0)
    assert_partition(train, validation, len(t))
    assert t[train].max() < t[validation].min()


def test_distinct_times_give_the_wanted_size_in_any_row_order() -> None:
    t = np.random.default_rng(3).permutation(100).astype("datetime64[D]")
    _, validation = split_rows(100, fraction=0.2, time=t, random_state=0)
    assert len(validation) == 20
    assert t[validation].min() == np.datetime64("1970-03-22")


def test_a_late_class_moves_the_time_boundary() -> None:
    y = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    train, validation = split_rows(10, fraction=0.5, codes=y, time=range(10), random_state=0)
    assert validation.tolist() == [7, 8, 9]
    assert train.tolist() == list(range(7))
    with pytest.raises(ValueError, match="first appears at the last time, 3"):
        split_rows(4, fraction=0.5, codes=[0, 0, 0, 1], time=range(4), random_state=0)


@pytest.mark.parametrize("kind", ["plain", "codes", "groups"])
def test_same_seed_same_rows_other_seed_other_rows(kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 20, 200)
    arrays = {} if kind == "plain" else {kind: values}
    first, again, other = (
        split_rows(200, fraction=0.3, random_state=seed, **arrays)[1] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="n_samples=1"):
        split_rows(1, fraction=0.2, random_state=0)
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="fraction must be above 0 and below 1; got"):
            split_rows(5, fraction=fraction, random_state=0)
        with pytest.raises(ValueError, match="fraction must be above 0 and below 1; got"):
            split_by_hash(np.zeros(1, dtype=np.uint64), fraction)
    with pytest.raises(ValueError, match=r"time must have no missing values; got 1, .* row 1"):
        split_rows(3, fraction=0.5, time=[0.0, np.nan, 2.0], random_state=0)
    with pytest.raises(ValueError, match="time must have no missing values"):
        split_rows(2, fraction=0.5, time=np.array(["2020", "NaT"], "M8[D]"), random_state=0)
    with pytest.raises(ValueError, match="time must hold numbers or datetimes; got dtype <U"):
        split_rows(2, fraction=0.5, time=["a", "b"], random_state=0)
    with pytest.raises(ValueError, match="groups must have no missing values"):
        split_rows(2, fraction=0.5, groups=np.array(["a", None]), random_state=0)
    with pytest.raises(ValueError, match=r"codes must have shape \(3,\)"):
        split_rows(3, fraction=0.5, codes=[0, 1], random_state=0)
    with pytest.raises(ValueError, match="give one of them"):
        split_rows(2, fraction=0.5, groups=[0, 1], time=[0, 1], random_state=0)
    with pytest.raises(ValueError, match="n_folds must be from 2 to the 3 rows; got 4"):
        fold_rows(3, 4, random_state=0)
    with pytest.raises(ValueError, match="n_folds must be from 2 to the 2 groups; got 3"):
        fold_rows(4, 3, groups=[0, 0, 1, 1], random_state=0)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.integers(2, 8), seeds)
def test_folds_are_even_in_size_and_class(codes: list[int], n_folds: int, seed: int) -> None:
    n_folds = min(n_folds, len(codes))
    y = np.array(codes)
    folds = fold_rows(len(y), n_folds, y, random_state=seed)
    sizes = np.bincount(folds, minlength=n_folds)
    assert sizes.max() - sizes.min() <= 1
    for label in set(codes):
        per_fold = np.bincount(folds[y == label], minlength=n_folds)
        assert per_fold.max() - per_fold.min() <= 1


@settings(max_examples=50)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=60), st.integers(2, 8), seeds)
def test_grouped_folds(groups: list[int], n_folds: int, seed: int) -> None:
    g = np.array(groups)
    n_folds = min(n_folds, len(set(groups)))
    if n_folds < 2:
        return
    y = g % 2
    folds = fold_rows(len(g), n_folds, y, g, random_state=seed)
    assert set(folds) == set(range(n_folds))
    for group in set(groups):
        assert len(set(folds[g == group])) == 1


def test_grouped_folds_share_out_the_classes() -> None:
    rng = np.random.default_rng(0)
    groups = np.arange(60) // 2
    y = np.repeat(rng.permutation([0] * 20 + [1] * 10), 2)
    for seed in range(5):
        folds = fold_rows(60, 5, y, groups, random_state=seed)
        assert np.bincount(folds[y == 1]).tolist() == [4] * 5
        assert np.bincount(folds[y == 0]).tolist() == [8] * 5


def test_folds_are_as_even_as_scikit_learns() -> None:
    y = np.random.default_rng(0).integers(0, 7, 500)
    ours = fold_rows(500, 5, y, random_state=0)
    theirs = [test for _, test in StratifiedKFold(5, shuffle=True).split(y, y)]
    for fold in range(5):
        ours_counts = np.bincount(y[ours == fold])
        assert np.abs(ours_counts - np.bincount(y[theirs[fold]])).max() <= 1


def _splitmix64(state: int) -> int:
    mask = 2**64 - 1
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)


def test_row_hash_is_the_published_one() -> None:
    # The published outputs of SplitMix64 from state 0 check the plain-Python form ...
    step = 0x9E3779B97F4A7C15
    assert [_splitmix64(step * i % 2**64) for i in (1, 2, 3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]
    # ... and that form checks ours.
    start = int.from_bytes(hashlib.blake2b(b"7\0a.csv", digest_size=8).digest(), "little")
    rows = [0, 1, 2, 10**12]
    expected = [_splitmix64((start + (row + 1) * step) % 2**64) for row in rows]
    assert stable_row_hash(7, "a.csv", rows).tolist() == expected


def test_row_hash_golden_values() -> None:
    # These may never change: a model's test rows are found again by them.
    assert stable_row_hash(0, "table.csv", [0, 1, 2]).tolist() == [
        10491145018423437613,
        17245692510873881634,
        228461425294264843,
    ]


def test_hash_split_is_stable_nested_and_sized() -> None:
    rows = np.arange(20_000)
    hashes = stable_row_hash(1, "rows.parquet", rows)
    chunked = np.concatenate([stable_row_hash(1, "rows.parquet", c) for c in np.split(rows, 8)])
    assert np.array_equal(hashes, chunked)
    small, large = split_by_hash(hashes, 0.1), split_by_hash(hashes, 0.3)
    assert small.mean() == pytest.approx(0.1, abs=0.01)
    assert large.mean() == pytest.approx(0.3, abs=0.015)
    assert large[small].all()
    other = split_by_hash(stable_row_hash(1, "other.parquet", rows), 0.1)
    assert (small & other).mean() == pytest.approx(0.01, abs=0.004)


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 6))
def test_forward_folds_train_on_the_past_only(seed: int, n_rows: int, n_folds: int) -> None:
    time = np.random.default_rng(seed).integers(0, 15, n_rows)
    if n_folds >= len(np.unique(time)):
        with pytest.raises(ValueError, match="one fewer than the distinct times; got"):
            forward_folds(time, n_folds)
        return
    folds = forward_folds(time, n_folds)
    assert len(folds) == n_folds
    tested: list[int] = []
    for train, test in folds:
        assert len(train) > 0
        assert len(test) > 0
        assert time[train].max() < time[test].min()
        assert tested == [] or set(tested) <= set(train)
        tested += test.tolist()
    assert len(tested) == len(set(tested))
    assert len(folds[-1][0]) + len(folds[-1][1]) == n_rows


def test_forward_folds_are_even_where_times_allow() -> None:
    time = np.random.default_rng(0).permutation(120)
    assert [len(test) for _, test in forward_folds(time, 5)] == [20] * 5
    assert [len(train) for train, _ in forward_folds(time, 5)] == [20, 40, 60, 80, 100]
    days = np.array(["2024-02-01", "2023-12-31", "2024-01-15"], dtype="datetime64[D]")
    assert [test.tolist() for _, test in forward_folds(days, 2)] == [[2], [0]]


Y = np.array([0, 1] * 10)
GROUPS = np.repeat(np.arange(5), 4)


class _HalvesTwice:
    """A splitter of one's own: nothing but the method."""

    def split(self, X: object, y: object, groups: object) -> Iterator[tuple[list[int], range]]:
        yield [19, 3, 4], range(10, 12)
        yield list(range(10)), range(10, 20)


@pytest.mark.parametrize(
    ("splitter", "n_splits"),
    [
        (KFold(4), 4),
        (StratifiedKFold(5), 5),
        (GroupKFold(3), 3),
        (LeaveOneGroupOut(), 5),
        (GroupShuffleSplit(2, random_state=0), 2),
        (TimeSeriesSplit(3), 3),
        (PredefinedSplit(np.repeat([-1, 0, 1, -1], 5)), 2),
        (_HalvesTwice(), 2),
        ([(range(5), np.arange(5, 9))], 1),
        (iter([(range(5), np.arange(5, 9))]), 1),
    ],
    ids=lambda splitter: type(splitter).__name__,
)
def test_splits_are_those_of_the_splitter(splitter: Any, n_splits: int) -> None:
    # Others warn that they take no notice of groups.
    groups = GROUPS if "Group" in type(splitter).__name__ else None
    if hasattr(splitter, "split"):
        wanted = list(splitter.split(np.zeros((20, 1)), Y, groups))
    else:
        splitter = list(splitter)
        wanted = splitter
    found = splits_of(splitter, 20, y=Y, groups=groups)
    assert len(found) == len(wanted) == n_splits
    for (train, test), (own_train, own_test) in zip(found, wanted, strict=True):
        assert train.tolist() == sorted(own_train)
        assert test.tolist() == sorted(own_test)


@pytest.mark.parametrize(
    ("validation", "said"),
    [
        (5, "must be a splitter with a method split"),
        ("kfold", "must be a splitter with a method split"),
        (KFold(30), "KFold cannot split these 20 rows"),
        (KFold, r"a splitter, not its class; got the class KFold; write KFold\(\.\.\.\)"),
        (GroupKFold(2), "'groups' parameter should not be None"),
        ([], "at least one split; got none from list"),
        (PredefinedSplit(np.repeat([-1, 0], 5)), "a fold for each of 20 rows; got 10; -1 keeps"),
        (PredefinedSplit(np.full(20, -1)), "at least one split; got none from PredefinedSplit"),
        ([([0, 1], [])], "the test rows of split 1 of validation are none"),
        ([([0], [1]), ([], [1])], "the train rows of split 2 of validation are none"),
        ([([0, 1], [2, 20])], "must be from 0 to 19; got 20"),
        ([([0, -1], [2])], "must be from 0 to 19; got -1"),
        ([([0, 1], [1, 2])], "has 1 in both, the first is row 1"),
        ([([0, 0], [1])], "got row 0 twice"),
        ([([0.0, 1.0], [2])], "must be row numbers"),
        ([[0, 1, 2]], "a pair of arrays of row numbers"),
        ([3], "a pair of arrays of row numbers"),
    ],
)
def test_splits_that_cannot_be_are_refused(validation: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        splits_of(validation, 20, y=Y)


def test_splits_within_some_of_the_rows() -> None:
    splits = splits_of(TimeSeriesSplit(3), 20)
    assert are_forward(splits)
    assert not are_forward(splits_of(KFold(4), 20))
    index = splits[2][0]
    inner = splits_within(splits, index)
    # The last one tests the rows that stand outside.
    assert len(inner) == 2
    for (train, test), (own_train, own_test) in zip(inner, splits, strict=False):
        assert index[train].tolist() == own_train.tolist()
        assert index[test].tolist() == own_test.tolist()
    assert splits_within(splits, splits[0][0]) == []
