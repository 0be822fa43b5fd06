"""Trees in C give the bits of trees in NumPy."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from tabwright.inference import tree_ensemble
from tabwright.inference.compiled import functions
from tests.inference.test_tree_ensemble import random_arrays, random_rows, read

INSTRUCTION_SETS = list(functions.instruction_sets())


@pytest.mark.skipif(not INSTRUCTION_SETS, reason="the extension module was not built")
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_instruction_sets_and_threads_give_the_bits_of_numpy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {name: functions.instruction_sets()[name]}
    monkeypatch.setattr(functions, "instruction_sets", lambda: own)
    rng = np.random.default_rng(5)
    # More rows than one thread takes at once, and a last block that is not full.
    rows = random_rows(rng, 10_001)
    for sizes in ([31] * 20, [64, 40] * 10, [9, 65, 1, 200] * 5):
        for n_outputs in (1, 2):
            trees = read(random_arrays(rng, sizes, n_outputs))
            with threadpool_limits(2):
                sums = trees.raw(rows)
            np.testing.assert_array_equal(sums, trees.raw_in_numpy(rows))
            # Features of other trees, and rows that do not lie side by side.
            with pytest.raises(ValueError, match=r"features must have shape \(n, 4\); got"):
                trees.raw(rows[:, :3])
            apart = np.repeat(rows[:100], 2, axis=1)[:, ::2]
            np.testing.assert_array_equal(trees.raw(apart), sums[:100])


def test_trees_without_the_extension_go_by_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    arrays, rows = random_arrays(rng, [9, 31, 1, 70], 2), random_rows(rng, 40)
    expected = read(arrays).raw(rows)
    monkeypatch.setattr(tree_ensemble, "instruction_sets", dict)
    trees = read(arrays)
    np.testing.assert_array_equal(trees.raw(rows), expected)
    assert trees._compiled is None


def test_a_pickle_holds_no_addresses() -> None:
    rng = np.random.default_rng(7)
    trees, rows = read(random_arrays(rng, [9, 3], 1)), random_rows(rng, 40)
    expected = trees.raw(rows)
    again = pickle.loads(pickle.dumps(trees))
    assert not {"_masks", "_compiled"} & vars(again).keys()
    np.testing.assert_array_equal(again.raw(rows), expected)
