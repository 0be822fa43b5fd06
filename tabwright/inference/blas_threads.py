"""One thread inside a matrix product, and threads of our own around many of them.

Threads inside the products of small matrices wait for each other longer than they compute, and cut
them where a row's place would show. What can be cut into blocks is therefore shared out block by
block.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from threadpoolctl import LibController, ThreadpoolController

_lock = threading.Lock()
_users = 0
_before: list[tuple[LibController, int]] = []
# Fewer blocks than this are not worth a thread.
_LEAST_BLOCKS = 4


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let every BLAS of the process use one thread, and leave the numbers as they were.

    The numbers are those of the process: of several users at the same time the first one sets
    them and the last one restores them.
    """
    global _users
    with _lock:
        if _users == 0:
            # `limit` of the library takes ten times as long, a tenth of what one row takes.
            _before[:] = [(found, n) for found in _blas() if (n := found.num_threads or 1) > 1]
            for found, _ in _before:
                found.set_num_threads(1)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                for found, n in _before:
                    found.set_num_threads(n)


def for_each_block(function: Callable[[Iterator[int]], None], starts: range) -> None:
    """Call `function` in as many threads as a BLAS may use, with one iterator for all of them.

    `function`: takes the next block from the iterator until there is none.
    """
    blocks = iter(starts)
    n_threads = min(_allowed_threads(), len(starts)) if len(starts) >= _LEAST_BLOCKS else 1
    with one_blas_thread():
        if n_threads < 2:
            function(blocks)
            return
        # Threads made for a call do not outlive it: nothing of them is missing after a fork.
        with ThreadPoolExecutor(n_threads - 1) as pool:
            others = [pool.submit(function, blocks) for _ in range(n_threads - 1)]
            try:
                function(blocks)
            finally:
                # After an error or Ctrl-C nobody begins another block.
                for _ in blocks:
                    pass
            for other in others:
                other.result()


def _allowed_threads() -> int:
    """Threads of the BLAS that may use most of them; 1 while one of ours runs with one."""
    return max((found.num_threads or 1 for found in _blas()), default=1)


def _blas() -> list[LibController]:
    """Every BLAS of the process. To look for them takes a millisecond, more than some calls."""
    # A library comes with a module: nothing new is there while there are as many modules.
    return _found_with(len(sys.modules))


@functools.lru_cache(maxsize=1)
def _found_with(n_modules: int) -> list[LibController]:
    found: list[LibController] = ThreadpoolController().select(user_api="blas").lib_controllers
    return found
