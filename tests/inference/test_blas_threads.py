"""Blocks over threads: every block once, the BLAS as it was, nothing begun after an error."""

import threading
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from tabwright.inference import blas_threads
from tabwright.inference.blas_threads import for_each_block, one_blas_thread
from tabwright.inference.numpy_network import _Workspace
from tabwright.inference.row_products import DenseLayers
from tests.inference.test_numpy_network import build, rows


def blas_numbers() -> set[int]:
    return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"}


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("n_blocks", [0, 1, 3, 4, 50])
def test_every_block_is_taken_once(n_threads: int, n_blocks: int) -> None:
    taken: list[int] = []
    seen: set[int] = set()
    n_takers = min(n_threads, n_blocks) if n_blocks >= blas_threads._LEAST_BLOCKS else 1
    together = threading.Barrier(n_takers)

    def function(blocks: Iterator[int]) -> None:
        # Passes only when as many threads are here as were asked for.
        together.wait(timeout=30)
        seen.update(blas_numbers())
        taken.extend(blocks)

    with threadpool_limits(n_threads, user_api="blas"):
        for_each_block(function, range(0, 3 * n_blocks, 3))
        assert blas_numbers() == {n_threads}
    assert sorted(taken) == list(range(0, 3 * n_blocks, 3))
    assert seen == {1}


def test_an_error_in_any_thread_ends_the_call() -> None:
    taken: list[int] = []
    here = threading.current_thread()
    together = threading.Barrier(2)

    def function(blocks: Iterator[int], fails_here: bool) -> None:
        together.wait(timeout=30)
        if (threading.current_thread() is here) == fails_here:
            raise RuntimeError("a block failed")
        taken.extend(blocks)

    for fails_here in (True, False):
        with (
            threadpool_limits(2, user_api="blas"),
            pytest.raises(RuntimeError, match="a block failed"),
        ):
            for_each_block(partial(function, fails_here=fails_here), range(10**6))
        assert blas_threads._users == 0


def test_the_last_user_restores_the_numbers() -> None:
    with threadpool_limits(2, user_api="blas"):
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert blas_numbers() == {1}
        second.__exit__(None, None, None)
        assert blas_numbers() == {2}


@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet", "linear_glm_baseline"])
def test_predictions_do_not_depend_on_the_number_of_threads(mode: str) -> None:
    network, _ = build(mode, 3)  # type: ignore[arg-type]
    x = rows(5_000)
    x[4_321] = 3e38
    said = []
    for n_threads in (1, 2, 5):
        with threadpool_limits(n_threads, user_api="blas"):
            said.append(network.probabilities(x))
            said.append(network.values(x))
            said.append(network.logits(x))
    for other in said[3:]:
        assert any(np.array_equal(other, first) for first in said[:3])
    assert np.isfinite(said[0]).all()


@pytest.mark.parametrize("n_rows", [1, 3_000])
def test_rows_that_overflow_are_computed_again_by_one_thread(
    n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, _ = build("mlp_dense", 2)
    seen: set[int] = set()
    forward = network._forward

    def watched(layers: DenseLayers, work: _Workspace) -> None:
        seen.update(blas_numbers())
        forward(layers, work)

    monkeypatch.setattr(network, "_forward", watched)
    x = np.full((n_rows, network.input_dim), 3e38, dtype=np.float32)
    with threadpool_limits(2, user_api="blas"):
        assert np.isfinite(network.probabilities(x)).all()
        assert blas_numbers() == {2}
    assert seen == {1}
