"""Which members of an ensemble each worker trains, and with whom it shares their batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tabwright.distributed.workers import Workers


@dataclass(frozen=True)
class MemberAssignment:
    """Which members of an ensemble a worker trains, and with whom it shares their batches.

    Members train independently, so they are distributed first: to as many teams of equal size
    as there are shares of equal size. The workers of a team share the
    rows of every batch, and must sum several times a step.

    `n_members`: members of the ensemble.
    `first`: the first of those that this worker's team trains.
    `n_own`: how many it trains.
    """

    n_members: int
    first: int
    n_own: int
    team: Workers
    everyone: Workers

    @classmethod
    def of(cls, workers: Workers, n_members: int) -> MemberAssignment:
        """Assign members to the teams of these workers; every worker must call this."""
        n_teams = math.gcd(workers.size, n_members)
        share = n_members // n_teams
        first = workers.rank // (workers.size // n_teams) * share
        return cls(n_members, first, share, workers.team(n_teams), workers)

    @property
    def assigned(self) -> slice:
        """The members that this worker's team trains."""
        return slice(self.first, self.first + self.n_own)

    def total(self, assigned: Tensor) -> Tensor:
        """Sums over the workers of each team, of all members side by side; all must ask.

        `assigned`: (n_own, ...); of a dtype that can be summed.
        Returns: (n_members, ...).
        """
        if self.everyone.size == 1:
            return assigned
        whole = assigned.new_zeros(self.n_members, *assigned.shape[1:])
        whole[self.assigned] = assigned
        self.everyone.all_reduce(whole)
        return whole

    def every(self, assigned: Tensor) -> Tensor:
        """As `total`, of values that all workers of a team have alike, of any dtype."""
        if assigned.dtype == torch.bool:
            return self.every(assigned.to(torch.uint8)).to(torch.bool)
        return self.total(assigned if self.team.is_first else torch.zeros_like(assigned))
