"""The training loss of an epoch under way; it stays on the device, so that no step waits for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class RunningLoss:
    """Sums of training losses per member since they were taken, and how many rows they are of."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._row_count = 0

    def begin(self, n_members: int, device: torch.device) -> Tensor:
        """Where the losses add up: float64 of shape (n_members,), the same every time.

        Raises `ValueError` if the sums come from a state of another number of members.
        """
        sums = self._sums
        if sums is not None and len(sums) == n_members:
            return sums
        if sums is not None and self._row_count:
            raise ValueError(
                f"the running loss must be of shape ({n_members},); got {tuple(sums.shape)}; "
                "start without the state"
            )
        # A tensor made in inference mode could change in that mode alone.
        with torch.inference_mode(False):
            self._sums = torch.zeros(n_members, dtype=torch.float64, device=device)
        return self._sums

    def count(self, n_rows: int) -> None:
        """Say of how many rows losses were added to the sums."""
        self._row_count += n_rows

    def state(self) -> dict[str, Tensor]:
        """Sums of shape (n_members,), or (0,) before a batch, and the rows."""
        sums = torch.zeros(0, dtype=torch.float64)
        if self._sums is not None and self._row_count:
            sums = self._sums.clone()
        return {"loss_sum": sums, "row_count": torch.tensor([self._row_count])}

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Continue from what `state` returned.

        Raises `ValueError` if the sums are not one float64 per member. How many members there are
            is seen by the next batch, which refuses others.
        """
        sums, n_rows = state["loss_sum"], int(state["row_count"][0])
        if sums.ndim != 1 or sums.dtype != torch.float64 or bool(len(sums)) != (n_rows > 0):
            raise ValueError(
                "loss_sum of the state must be one float64 per member, or none before a batch; "
                f"got {sums.dtype} of shape {tuple(sums.shape)} over {n_rows} rows"
            )
        self._sums = sums.to(device, copy=True) if len(sums) else None
        self._row_count = n_rows

    def take(self) -> Tensor:
        """Mean loss per member since the last call, shape (n_members,); starts anew."""
        if self._sums is None or not self._row_count:
            raise RuntimeError("no batch was seen since the last call")
        mean = self._sums / self._row_count
        self._sums.zero_()
        self._row_count = 0
        return mean
