"""Members shared out to threads, and taken together where a kernel takes several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from tabwright.training.engine.tensor_layout import TensorLayout

__all__ = ["Threads", "lanes_of", "members_together", "pieces_of"]

_T = TypeVar("_T")

# Members are computed together on a CPU while their hidden values, in elements, stay below this:
# small operations cost their call, large ones the way to memory.
_TOGETHER = 2**18
_VECTOR = 16
# Hidden values, in elements, that a thread must have of its own to gain more than it waits.
_WORTH_A_THREAD = 2**16


class Threads:
    """A function applied to several lists at once, the first of them in the calling thread."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        # The threads end with the pool, which ends with its owner; idle ones sleep.
        self._pool = ThreadPoolExecutor(n_threads - 1) if n_threads > 1 else None

    def share(self, active: Sequence[bool], size: int) -> list[list[slice]]:
        """The active members by thread, given the hidden values of a member, in elements."""
        is_worth_it = sum(active) * size >= self.n_threads * _WORTH_A_THREAD
        return lanes_of(active, self.n_threads if is_worth_it else 1)

    def run(self, function: Callable[[list[_T]], None], lanes: Sequence[list[_T]]) -> None:
        """Return when all are done, even if one raises."""
        if self._pool is None or len(lanes) == 1:
            for lane in lanes:
                _call(function, lane)
            return
        inside = torch.get_num_threads()
        others = [self._pool.submit(_call_there, function, lane, inside) for lane in lanes[1:]]
        try:
            _call(function, lanes[0])
        finally:
            wait(others)
        for other in others:
            other.result()


def _call_there(function: Callable[[list[_T]], None], lane: list[_T], inside: int) -> None:
    # A thread begins with the number of the process, which another fit may have set anew since;
    # asking for it is what makes torch, and the BLAS under it, have one at all.
    if torch.get_num_threads() != inside:
        torch.set_num_threads(inside)
    _call(function, lane)


def _call(function: Callable[[list[_T]], None], lane: list[_T]) -> None:
    # Inference mode takes a twentieth off a step of many small operations. It is the thread's own.
    with torch.inference_mode():
        function(lane)


def members_together(arch: TensorLayout, n_members: int, batch: int) -> int:
    """How many members one kernel shall take.

    On a CPU a member's values must fill whole vectors: then their bits do not depend on where
    they lie, and a member computed among others equals the same member alone.
    """
    if arch.device.type != "cpu":
        return n_members
    if batch * arch.hidden_dim % _VECTOR:
        return 1
    return max(1, _TOGETHER // (batch * max(arch.hidden_dim, arch.input_dim)))


def lanes_of(active: Sequence[bool], n_threads: int) -> list[list[slice]]:
    """The active members in about equal shares, each as runs of neighbours."""
    chosen = [k for k, is_active in enumerate(active) if is_active]
    lanes = []
    for thread in range(n_threads):
        low, high = (len(chosen) * i // n_threads for i in (thread, thread + 1))
        lane: list[slice] = []
        for k in chosen[low:high]:
            if lane and lane[-1].stop == k:
                lane[-1] = slice(lane[-1].start, k + 1)
            else:
                lane.append(slice(k, k + 1))
        lanes.append(lane)
    return lanes


def pieces_of(lane: Sequence[slice], size: int) -> Iterator[slice]:
    """Runs of members in pieces of at most `size`, as even as can be."""
    for run in lane:
        length = run.stop - run.start
        n_pieces = -(-length // size)
        for i in range(n_pieces):
            yield slice(
                run.start + length * i // n_pieces, run.start + length * (i + 1) // n_pieces
            )
