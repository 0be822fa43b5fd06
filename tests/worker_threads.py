"""Workers that are threads of the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from tabwright.distributed.workers import ALONE, Workers

_T = TypeVar("_T")


class _Table:
    """Where the threads of a group lay down what they give each other."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=30)
        self.given: list[Any] = [None] * size
        self.teams: dict[int, list[_Table]] = {}
        self.lock = threading.Lock()


@dataclass(frozen=True)
class ThreadWorkers(Workers):
    """One of the threads, as it sees them all."""

    table: _Table = field(default_factory=lambda: _Table(1))

    def _together(self, value: Any) -> list[Any]:
        self.table.given[self.rank] = value
        self.table.barrier.wait()
        every = list(self.table.given)
        self.table.barrier.wait()
        return every

    def team(self, n_teams: int) -> Workers:
        if n_teams == 1:
            return self
        size = self.size // n_teams
        if size == 1:
            return ALONE
        with self.table.lock:
            tables = self.table.teams.setdefault(n_teams, [_Table(size) for _ in range(n_teams)])
        number, rank = divmod(self.rank, size)
        return ThreadWorkers(rank, size, table=tables[number])

    def all_reduce(self, values: torch.Tensor) -> None:
        values.copy_(torch.stack(self._together(values.clone())).sum(0))

    def from_first(self, value: _T) -> _T:
        first: _T = self._together(value)[0]
        return first


def in_threads(work: Callable[[Workers], _T], size: int = 2) -> list[_T]:
    """What each of so many workers returns, by rank."""
    table = _Table(size)
    everyone = [ThreadWorkers(rank, size, table=table) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, everyone))
