"""One thread inside a matrix product, and threads of our own around many of them.

Threads inside the products of small matrices wait for each other longer than they compute. What
can be cut into blocks is therefore shared out block by block.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from threadpoolctl import ThreadpoolController

__all__ = ["for_each_block", "one_blas_thread"]

_lock = threading.Lock()
_users = 0
_restore = contextlib.ExitStack()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let every BLAS of the process use one thread, and leave the numbers as they were.

    The numbers are those of the process: of several users at the same time the first one sets
    them and the last one restores them.
    """
    global _users
    with _lock:
        if _users == 0:
            _restore.enter_context(_blas().limit(limits=1))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _restore.close()


def for_each_block(function: Callable[[Iterator[int]], None], starts: range) -> None:
    """Call `function` in as many threads as a BLAS may use, with one iterator for all of them.

    Parameters
    ----------
    function : callable
        Takes the next block from the iterator until there is none.
    starts : range
        The blocks.
    """
    blocks = iter(starts)
    n_threads = min(_allowed_threads(), len(starts))
    if n_threads < 2:
        function(blocks)
        return
    # Threads made for a call do not outlive it: nothing of them is missing after a fork.
    with one_blas_thread(), ThreadPoolExecutor(n_threads - 1) as pool:
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
    return max((library["num_threads"] for library in _blas().info()), default=1)


def _blas() -> ThreadpoolController:
    """Every BLAS of the process. To look for them takes a millisecond, more than some calls."""
    # A library comes with a module: nothing new is there while there are as many modules.
    return _found_with(len(sys.modules))


@functools.lru_cache(maxsize=1)
def _found_with(n_modules: int) -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")
