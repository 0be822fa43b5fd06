"""What rows are trained on, as compiled steps read it: `RowGoal`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from tabwright.regression import LARGEST_LOG, OBJECTIVES, RegressionObjective

_CPU = torch.device("cpu")


class GoalStruct(ctypes.Structure):
    """`goal` of `kernels.c`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("codes", "values", "weights", "soft", "labelled")),
        ("value_loss", ctypes.c_int64),
        ("largest_log", ctypes.c_double),
        ("levels", ctypes.c_void_p),
    )


class RowGoal:
    """What rows of a table are trained on: the data of an `objectives.Objective`.

    `targets`: (n_rows,), int64, or (n_rows, 1), float32; class codes or values.
    `weights`: (n_rows,), float32.
    `soft`: (n_rows, n_outputs), float32; a teacher's probabilities or values.
    `labelled`: (n_rows,), bool.
    `teacher_weights`, `temperatures`: one for all members, or one each.
    `objective`: of values; with soft targets, squared error.
    `levels`: of quantiles, one for each output.
    Raises `ValueError` if the tensors do not belong to the same rows, a class code is negative, or
        an objective has soft targets that it cannot have.
    """

    def __init__(
        self,
        targets: Tensor,
        weights: Tensor | None,
        soft: Tensor | None,
        labelled: Tensor | None,
        teacher_weights: Sequence[float],
        temperatures: Sequence[float],
        objective: RegressionObjective = "squared_error",
        levels: Sequence[float] = (),
    ) -> None:
        if objective != "squared_error" and soft is not None:
            raise ValueError(
                f"soft targets are for squared error and for classes; got objective {objective!r}"
            )
        self._value_loss = OBJECTIVES.index(objective)
        self._levels = torch.tensor(levels, dtype=torch.float64)
        self.n_rows, self.is_classification = len(targets), not targets.is_floating_point()
        if self.is_classification and (targets.ndim != 1 or targets.dtype == torch.bool):
            raise ValueError(
                f"targets must be class codes of shape (n_rows,); got {targets.dtype} of shape "
                f"{tuple(targets.shape)}"
            )
        # Copies: nobody can change what was checked.
        dtype = torch.int64 if self.is_classification else torch.float32
        self._targets = targets.to(_CPU, dtype, copy=True).contiguous()
        self.n_outputs = len(levels) if objective == "quantile" else 1
        if self.is_classification and self.n_rows:
            least, most = (int(value) for value in self._targets.aminmax())
            if least < 0:
                raise ValueError(f"class codes must be 0 or more; got {least}")
            self.n_outputs = most + 1
        for name, value in (("weights", weights), ("labelled", labelled)):
            if value is not None and value.shape != (self.n_rows,):
                raise ValueError(
                    f"{name} must be one per row ({self.n_rows}); got shape {tuple(value.shape)}"
                )
        self._weights = _own(weights, torch.float32)
        self._soft = _own(soft, torch.float32)
        self._labelled = _own(labelled, torch.uint8)
        self.n_soft = None if self._soft is None else self._soft.shape[1]
        self.teacher_weights, self.temperatures = list(teacher_weights), list(temperatures)

    def struct(self, n_outputs: int) -> GoalStruct:
        """For logits of so many columns."""
        more = " or more" if self.is_classification else ""
        fits = n_outputs >= self.n_outputs if more else n_outputs == self.n_outputs
        if not fits or self.n_soft not in (None, n_outputs):
            raise ValueError(
                f"logits must have {self.n_outputs} columns{more}, and as many as the soft "
                f"targets ({self.n_soft}); got {n_outputs}"
            )
        targets = self._targets.data_ptr()
        return GoalStruct(
            targets if self.is_classification else None,
            None if self.is_classification else targets,
            *map(address, (self._weights, self._soft, self._labelled)),
            self._value_loss,
            LARGEST_LOG,
            self._levels.data_ptr(),
        )


def _own(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(_CPU, dtype, copy=True).contiguous()


def address(tensor: Tensor | None) -> int | None:
    """Where the elements of a tensor begin."""
    return None if tensor is None else tensor.data_ptr()
