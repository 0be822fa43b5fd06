"""Trees as arrays: two ways down that agree, and no array that is not a tree gets in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.artifact.schema import TensorBag
from tabwright.errors import ArtifactError
from tabwright.inference import tree_ensemble
from tabwright.inference.tree_ensemble import ObliviousTrees, TreeEnsemble

N_FEATURES = 4
VALUES = [-1.0, 0.0, 0.5, 2.0]


def random_arrays(rng: np.random.Generator, sizes: list[int], n_outputs: int) -> dict[str, Any]:
    """Trees of so many leaves each, grown at random; thresholds repeat and may be infinite."""
    right: list[int] = []
    roots = []

    def grow(n_leaves: int) -> None:
        node = len(right)
        right.append(0)
        if n_leaves > 1:
            on_left = int(rng.integers(1, n_leaves))
            grow(on_left)
            right[node] = len(right)
            grow(n_leaves - on_left)

    for size in sizes:
        roots.append(len(right))
        grow(size)
    n = len(right)
    return {
        "baseline": rng.normal(size=n_outputs),
        "roots": np.array(roots, dtype=np.int64),
        "feature": rng.integers(0, N_FEATURES, n).astype(np.int32),
        "threshold": rng.choice([*VALUES, np.inf, -np.inf], n).astype(np.float32),
        "right": np.array(right, dtype=np.int32),
        "missing_left": rng.integers(0, 2, n).astype(np.uint8),
        "value": rng.normal(size=n),
    }


def read(arrays: dict[str, Any]) -> TreeEnsemble:
    return TreeEnsemble.from_arrays(
        "t", TensorBag(arrays), n_features=N_FEATURES, n_outputs=len(arrays["baseline"])
    )


def random_rows(rng: np.random.Generator, n_rows: int) -> np.ndarray:
    edges = [*VALUES, np.nan, np.inf, -np.inf]
    rows = rng.choice([*edges, 0.25, -3.0, 7.0], size=(n_rows, N_FEATURES))
    return rows.astype(np.float32)


def walked(trees: TreeEnsemble, rows: np.ndarray) -> np.ndarray:
    """One node after the other, one row after the other."""
    n_outputs = len(trees.baseline)
    sums = np.tile(trees.baseline, (len(rows), 1))
    for i, row in enumerate(rows):
        for tree, root in enumerate(trees.roots.tolist()):
            node = root
            while trees.right[node]:
                cell = row[trees.feature[node]]
                left = trees.missing_left[node] if np.isnan(cell) else cell <= trees.threshold[node]
                node = node + 1 if left else int(trees.right[node])
            sums[i, tree % n_outputs] += trees.value[node]
    return sums


@given(st.integers(0, 2**32), st.lists(st.sampled_from([1, 2, 5, 31, 33, 64, 65]), min_size=1))
def test_sums_are_those_of_the_way_down(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    n_outputs = 2 if len(sizes) % 2 == 0 else 1
    trees = read(random_arrays(rng, sizes, n_outputs))
    assert (trees._masks is None) == (max(sizes) > 64 or max(sizes) == 1)
    rows = random_rows(rng, 12)
    sums = trees.raw_in_numpy(rows)
    np.testing.assert_allclose(sums, walked(trees, rows), rtol=0, atol=1e-12)
    # As many rows as go tree by tree, in another order, and one alone: the same bits.
    many = np.tile(rows, (50, 1))
    for raw in (trees.raw_in_numpy, trees.raw):
        np.testing.assert_array_equal(raw(many), np.tile(sums, (50, 1)))
        np.testing.assert_array_equal(raw(rows[3:4]), sums[3:4])
        assert raw(rows[:0]).shape == (0, n_outputs)


def test_masks_without_space_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    arrays, rows = random_arrays(rng, [9, 31, 1, 7], 2), random_rows(rng, 600)
    expected = read(arrays).raw(rows)
    monkeypatch.setattr(tree_ensemble, "_MOST_MASK_BYTES", 100)
    trees = read(arrays)
    assert trees._masks is None
    np.testing.assert_allclose(trees.raw(rows), expected, rtol=0, atol=1e-12)


def test_changed_arrays_are_refused_or_are_trees() -> None:
    """No change of an entry brings a loop, a place outside, or another answer on another way."""
    rng = np.random.default_rng(0)
    rows = random_rows(rng, 20)
    refused = 0
    for _ in range(3_000):
        arrays = random_arrays(rng, rng.integers(1, 7, rng.integers(1, 5)).tolist(), 1)
        for _ in range(rng.integers(1, 3)):
            name = rng.choice(["roots", "right", "feature", "missing_left"])
            n = len(arrays["right"])
            new = rng.choice([-1, 0, 1, n - 1, n, n + 1, 255, int(rng.integers(0, n))])
            own = arrays[name]
            own[rng.integers(len(own))] = new % 256 if name == "missing_left" else new
        if rng.random() < 0.1:
            arrays["roots"] = rng.permutation(arrays["roots"])
        try:
            trees = read(arrays)
        except ArtifactError:
            refused += 1
            continue
        np.testing.assert_allclose(trees.raw(rows), walked(trees, rows), rtol=0, atol=1e-12)
    assert 1_000 < refused < 2_900


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_oblivious_trees_answer_a_level_at_once(n_outputs: int) -> None:
    rng = np.random.default_rng(n_outputs)
    n_trees, depth = 5, 3
    trees = ObliviousTrees(
        kind="t",
        n_features=N_FEATURES,
        baseline=rng.normal(size=n_outputs),
        feature=rng.integers(0, N_FEATURES, (n_trees, depth)).astype(np.int32),
        threshold=rng.choice([*VALUES, np.inf], (n_trees, depth)).astype(np.float32),
        value=rng.normal(size=(n_trees, 2**depth, n_outputs)),
    )
    rows = random_rows(rng, 900)
    expected = np.tile(trees.baseline, (len(rows), 1))
    for tree in range(n_trees):
        for i, row in enumerate(rows):
            leaf = 0
            for level in range(depth):
                above = row[trees.feature[tree, level]] > trees.threshold[tree, level]
                leaf += 2**level if above else 0
            expected[i] += trees.value[tree, leaf]
    sums = trees.raw_in_numpy(rows)
    np.testing.assert_allclose(sums, expected, rtol=0, atol=1e-12)
    for raw in (trees.raw_in_numpy, trees.raw):
        np.testing.assert_array_equal(raw(rows), sums)
        np.testing.assert_array_equal(raw(rows[:100]), sums[:100])
        np.testing.assert_array_equal(raw(rows[7:8]), sums[7:8])


def test_sums_of_the_largest_leaves_stay_finite() -> None:
    arrays = random_arrays(np.random.default_rng(0), [3] * 40, 2)
    arrays["value"] = np.where(np.arange(len(arrays["value"])) % 2, 1e300, -1e300)
    proba = read(arrays).predict(random_rows(np.random.default_rng(1), 9), classifies=True)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    arrays["value"][0] = 2e300
    with pytest.raises(ArtifactError, match="at most 1e\\+300"):
        read(arrays)
