"""An ensemble whose members are distributed across workers, as the training loop sees it.

`ShardedMembers` trains a team's own members and answers for all; `ShardedHeldOut` does the same for
losses. Who has which members is a `distributed.MemberAssignment`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tabwright.distributed.member_assignment import MemberAssignment
from tabwright.settings import Precision
from tabwright.training.batches import HeldOut
from tabwright.training.engine.dropout import Part
from tabwright.training.engine.stacked_members import StackedMembers


class ShardedMembers:
    """`StackedMembers` of which each team of workers trains its own.

    Methods that take or give something per member speak of all members, by their numbers in the
    ensemble; forward passes are those of the own.

    `modules`: all members, the same at every worker.
    `seeds`: one per member.
    `n_threads`: as for `StackedMembers`.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        *,
        seeds: Sequence[int],
        assignment: MemberAssignment,
        n_threads: int = 1,
        precision: Precision = "float32",
    ) -> None:
        self._every, self._seeds, self._assignment = list(modules), list(seeds), assignment
        self._trained = StackedMembers(
            self._every[assignment.assigned],
            seeds=self._seeds[assignment.assigned],
            n_threads=n_threads,
            all_reduce=assignment.team.all_reduce if assignment.team.size > 1 else None,
            precision=precision,
        )

    @property
    def n_members(self) -> int:
        """How many networks the ensemble has."""
        return self._assignment.n_members

    @property
    def compiled(self) -> StackedMembers | None:
        """The own members where they take compiled steps."""
        return self._trained.compiled

    def forward_backward(
        self,
        x: Tensor,
        loss_grad: Callable[[Tensor], Tensor],
        *,
        step: int,
        part: Part | None = None,
    ) -> Tensor:
        """As of `StackedMembers`, for the own members: logits of shape (n_own, batch, ...)."""
        return self._trained.forward_backward(x, loss_grad, step=step, part=part)

    def optimizer_step(self, learning_rate: float, weight_decay: float) -> None:
        """One step for every own member that is active."""
        self._trained.optimizer_step(learning_rate, weight_decay)

    def logits(self, x: Tensor) -> Tensor:
        """Logits of the own members in eval mode, of shape (n_own, batch, output_dim)."""
        return self._trained.logits(x)

    def set_active(self, active: Sequence[bool]) -> None:
        """Say which members of the ensemble still train."""
        if len(active) != self.n_members:
            raise ValueError(f"active must be one per member ({self.n_members}); got {len(active)}")
        self._trained.set_active(active[self._assignment.assigned])

    def snapshot(self, member: int) -> None:
        """Keep a member's present state as its best, where it is trained here."""
        place = member - self._assignment.first
        if 0 <= place < self._assignment.n_own:
            self._trained.snapshot(place)

    def restore(self) -> None:
        """Bring every member back to its best state."""
        self._trained.restore()

    def modules(self) -> list[nn.Module]:
        """All members as ordinary modules, copies, in eval mode; all workers must ask."""
        if self._assignment.n_own == self.n_members:
            return self._trained.modules()
        whole = StackedMembers(self._every, seeds=self._seeds)
        whole.load_state(self.state())
        return whole.modules()

    def state(self) -> dict[str, Tensor]:
        """The state of all members, as one worker alone would have it; all workers must ask."""
        return {
            name: self._assignment.every(value) for name, value in self._trained.state().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned, with any number of workers."""
        self._trained.load_state(
            {name: value[self._assignment.assigned] for name, value in state.items()}
        )


class ShardedHeldOut:
    """Held-out rows that every worker has whole: each scores its own members."""

    def __init__(self, held_out: HeldOut, assignment: MemberAssignment) -> None:
        self._held_out, self._assignment = held_out, assignment

    def losses(self, logits: Callable[[Tensor], Tensor]) -> Tensor:
        """One loss per member of the ensemble; all workers must ask."""
        return self._assignment.every(self._held_out.losses(logits).to(torch.float64))

    def state(self) -> dict[str, Tensor]:
        return self._held_out.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._held_out.load_state(state)
