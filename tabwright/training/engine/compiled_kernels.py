"""A training step beside its matrix products, in C.

The extension module `_kernels` is built with the package. Its functions pass over a layer's values
half as often as torch's operations do, and one call of them replaces many: for a whole pass of a
network see `compiled_network`. It holds them for several instruction sets; the widest that the
processor has is used.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from tabwright.training.engine.dropout import DropoutMask
from tabwright.training.engine.torch_kernels import BATCH_NORM_EPS, LayerBuffers, LayerKernels

__all__ = [
    "CompiledAdamW",
    "CompiledCrossEntropy",
    "CompiledKernels",
    "check_memory",
    "compiled_kernels",
    "engine_name",
    "has_compiled_kernels",
]

_INTEGER, _POINTER, _DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
_SIGNATURES = {
    "hidden_total": (_POINTER,),
    "hidden_centre": (_POINTER,),
    "hidden_output": (_POINTER, _POINTER, _INTEGER, _POINTER, _INTEGER, _POINTER),
    "hidden_sums": (_POINTER, _POINTER, _POINTER, _INTEGER),
    "hidden_inner": (_POINTER, _POINTER, _POINTER),
    "cross_entropy": (*[_INTEGER] * 4, *[_POINTER] * 6),
    "adamw": (*[_INTEGER] * 2, *[_POINTER] * 5, *[_DOUBLE] * 5),
    "product_alone": (_POINTER, *[_INTEGER] * 3, *[_POINTER] * 3),
    "network_forward": (_POINTER, _POINTER),
    "network_backward": (_POINTER, _POINTER, _POINTER),
}


class _Layer(ctypes.Structure):
    """The struct of `kernels.c`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_members", "n_rows", "n_columns")),
        ("statistics_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("centred", "output", "total", "square_sum")),
        *((name, ctypes.c_void_p) for name in ("gain", "affine", "sums", "elements")),
        ("limit", ctypes.c_float),
        *((name, ctypes.c_float) for name in ("minus_inverse", "eps", "share", "minus_share")),
    )


@functools.cache
def _instruction_sets() -> dict[str, dict[str, int]]:
    """Addresses of functions by instruction set, from the narrowest; none without the extension."""
    try:
        from tabwright.training.engine._kernels import instruction_sets
    except ModuleNotFoundError:
        return {}
    return instruction_sets()


def has_compiled_kernels() -> bool:
    """Whether the extension module was built with this installation."""
    return bool(_instruction_sets())


def engine_name() -> str:
    """What computes a step on a CPU in float32, for records: "compiled, avx2" or "torch"."""
    return f"compiled, {list(_instruction_sets())[-1]}" if has_compiled_kernels() else "torch"


@functools.cache
def compiled_kernels(instruction_set: str | None = None) -> SimpleNamespace:
    """The functions of `kernels.c`, callable by their names there.

    Parameters
    ----------
    instruction_set : str, optional
        "baseline", "avx2" or "avx512"; None: the widest that this processor has.

    Raises
    ------
    ValueError
        If the extension is not built, or the processor lacks the instruction set.
    """
    sets = _instruction_sets()
    if not sets:
        raise ValueError(
            "compiled kernels need the extension module, and this installation was built without "
            "it; install a C compiler and the package again"
        )
    wanted = list(sets)[-1] if instruction_set is None else instruction_set
    if wanted not in sets:
        raise ValueError(
            f"instruction_set must be one of {', '.join(sets)} on this processor; got {wanted!r}"
        )
    functions = {}
    for name, address in sets[wanted].items():
        returned = _INTEGER if name == "cross_entropy" else None
        # Calls through such a prototype let go of the interpreter's lock.
        functions[name] = ctypes.CFUNCTYPE(returned, *_SIGNATURES[name])(address)
    return SimpleNamespace(**functions)


def check_memory(given: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
    """Refuse a tensor whose address says too little: nobody looks behind it any more.

    Raises
    ------
    ValueError
        If it has another shape or dtype, gaps between its elements, or lies on another device.
    """
    fits = given.shape == tuple(shape) and given.dtype == dtype
    if not (fits and given.is_contiguous() and given.device.type == "cpu"):
        raise ValueError(
            f"compiled kernels take contiguous {dtype} of shape {tuple(shape)} on the CPU; got "
            f"{given.dtype} of shape {tuple(given.shape)}, strides {given.stride()}, on "
            f"{given.device}"
        )


class CompiledKernels(LayerKernels):
    """The operations between two matrix products, compiled.

    What they compute is the same up to rounding, and exactly the same elements are dropped.

    Parameters
    ----------
    buffers : LayerBuffers
        In float32 on the CPU, without gaps; `total` and `square_sum` alike in strides, with gaps
        between members only.
    mask : DropoutMask or None
    keep : float
    n_rows : int
        As for `TorchKernels`.

    Attributes
    ----------
    address : int
        Of the layer's struct, for functions of `kernels.c`.

    Raises
    ------
    ValueError
        If the extension is not built.
    """

    def __init__(
        self, buffers: LayerBuffers, mask: DropoutMask | None, keep: float, n_rows: int
    ) -> None:
        for tensor in (buffers.centred, buffers.output, buffers.scratch):
            check_memory(tensor, buffers.centred.shape)
        for tensor in (buffers.gain, buffers.affine, buffers.sums):
            check_memory(tensor, (len(buffers.centred), 2, buffers.centred.shape[2]))
        kernels = compiled_kernels()
        hashes = None if mask is None else mask.hashes
        elements, limit = (None, 0.0) if hashes is None else hashes
        self._is_keyed = hashes is not None
        # Dropout at the highest rates is torch's affair.
        self._mask = mask if hashes is None else None
        self._result = buffers.output
        buffers.gain.fill_(1.0 / keep)
        share = keep**2 / n_rows
        # The struct knows addresses only.
        self._alive = (buffers, elements)
        self._layer = _Layer(
            *buffers.centred.shape,
            buffers.total.stride(0),
            *(
                getattr(buffers, name).data_ptr()
                for name in ("centred", "output", "total", "square_sum", "gain", "affine", "sums")
            ),
            None if elements is None else elements.data_ptr(),
            limit=limit,
            minus_inverse=-1 / n_rows,
            eps=BATCH_NORM_EPS * keep**2,
            share=share,
            minus_share=-share,
        )
        self.address = ctypes.addressof(self._layer)
        self._total, self._centre = kernels.hidden_total, kernels.hidden_centre
        self._output, self._sums = kernels.hidden_output, kernels.hidden_sums
        self._inner = kernels.hidden_inner

    def sum_values(self) -> None:
        self._total(self.address)

    def centre(self) -> None:
        self._centre(self.address)

    def normalise(self, norm: Tensor, residual: Tensor | None, key: Tensor | None) -> None:
        if self._is_keyed and key is None:
            raise ValueError("a layer with dropout needs a key; make one with dropout_keys")
        self._output(
            self.address,
            norm.data_ptr(),
            norm.stride(0),
            None if residual is None else residual.data_ptr(),
            0 if residual is None else residual.stride(0),
            None if key is None else key.data_ptr(),
        )
        if self._mask is not None:
            self._mask.apply_(self._result, key)

    def sum_gradients(self, gradient: Tensor, norm_gradient: Tensor) -> None:
        self._sums(
            self.address, gradient.data_ptr(), norm_gradient.data_ptr(), norm_gradient.stride(0)
        )

    def inner_gradient(self, gradient: Tensor, inner: Tensor) -> None:
        self._inner(self.address, gradient.data_ptr(), inner.data_ptr())


class CompiledCrossEntropy:
    """The gradient of a mean cross-entropy in the logits, as `objectives.Objective` has it.

    Parameters
    ----------
    targets : Tensor of shape (n_rows,), int64
        Class codes.
    weights : Tensor of shape (n_rows,), or None
        Of the rows; None: all weigh 1.
    """

    def __init__(self, targets: Tensor, weights: Tensor | None) -> None:
        if targets.ndim != 1 or targets.is_floating_point() or targets.dtype == torch.bool:
            raise ValueError(
                f"targets must be class codes of shape (n_rows,); got {targets.dtype} of shape "
                f"{tuple(targets.shape)}"
            )
        if weights is not None and weights.shape != targets.shape:
            raise ValueError(
                f"weights must be one per row ({len(targets)}); got shape {tuple(weights.shape)}"
            )
        # A copy: nobody can change what was checked.
        self._targets = targets.to("cpu", torch.int64, copy=True).contiguous()
        if len(targets) and int(self._targets.min()) < 0:
            raise ValueError(f"class codes must be 0 or more; got {int(self._targets.min())}")
        self._n_classes = int(self._targets.max()) + 1 if len(targets) else 0
        self._weights = None if weights is None else weights.to("cpu", torch.float32).contiguous()
        self._function = compiled_kernels().cross_entropy

    def gradient(self, logits: Tensor, rows: Tensor, loss_sums: Tensor) -> Tensor:
        """Gradient of each member's mean loss over a batch.

        Parameters
        ----------
        logits : Tensor of shape (n_members, batch, n_classes), float32
        rows : Tensor of shape (batch,), int64
            Which rows of the targets the batch holds.
        loss_sums : Tensor of shape (n_members,), float32
            Each member's sum of losses is added to it.

        Returns
        -------
        Tensor of shape (n_members, batch, n_classes)
        """
        # Addresses leave here, and no kernel looks at what is behind them. The objective has seen
        # to `loss_sums`.
        _, batch, n_classes = logits.shape
        if rows.dtype != torch.int64 or rows.shape != (batch,):
            raise ValueError(
                f"rows must be int64 of shape ({batch},); got {rows.dtype} of {tuple(rows.shape)}"
            )
        if n_classes < self._n_classes:
            raise ValueError(f"logits must have {self._n_classes} classes or more; got {n_classes}")
        logits, rows = logits.contiguous(), rows.contiguous()
        gradient = torch.empty_like(logits)
        found = self._function(
            *logits.shape,
            len(self._targets),
            logits.data_ptr(),
            rows.data_ptr(),
            self._targets.data_ptr(),
            None if self._weights is None else self._weights.data_ptr(),
            gradient.data_ptr(),
            loss_sums.data_ptr(),
        )
        if found >= 0:
            raise IndexError(
                f"rows must be from 0 to {len(self._targets) - 1}; got {int(rows[found])}"
            )
        return gradient


class CompiledAdamW:
    """AdamW's step on rows of flat buffers, as `optimizer.FlatAdamW` has it.

    Parameters
    ----------
    parameters, gradients, first_moments, second_moments : Tensor of shape (n_members, size)
        In float32, without gaps.
    steps : Tensor of shape (n_members,), float32
        Steps done by each member; counted here.
    n_decayed : int
        Columns that weight decay acts on, from the left.
    """

    def __init__(
        self,
        parameters: Tensor,
        gradients: Tensor,
        first_moments: Tensor,
        second_moments: Tensor,
        steps: Tensor,
        n_decayed: int,
    ) -> None:
        for tensor in (parameters, gradients, first_moments, second_moments):
            check_memory(tensor, parameters.shape)
        check_memory(steps, parameters.shape[:1])
        # Addresses stay: the buffers change in place only.
        self._alive = (parameters, gradients, first_moments, second_moments, steps)
        self._sizes = (parameters.shape[1], n_decayed)
        self._rows = [
            tuple(tensor.data_ptr() for tensor in row) for row in zip(*self._alive, strict=True)
        ]
        self._function = compiled_kernels().adamw

    def step(
        self,
        member: int,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        """One member's step."""
        self._function(*self._sizes, *self._rows[member], learning_rate, weight_decay, *betas, eps)
