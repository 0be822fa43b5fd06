"""A training step beside its matrix products, compiled by the machine's C compiler.

The functions of `kernels.c` pass over a layer's values half as often as torch's operations do,
and one call of them replaces many: for a whole pass of a network see `compiled_network`. The
compiler runs once in a process, in about a second, in a folder of its own that is gone
afterwards: no compiled code is left on disk, or read from there.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

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
]

_SOURCE = Path(__file__).with_name("kernels.c")
_COMPILERS = ("cc", "gcc", "clang")
# Products and sums are rounded one by one: the result does not depend on what the compiler fuses.
_FLAGS = (
    *("-std=c11", "-O3", "-shared", "-fPIC"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
)
# The first of these that the compiler takes.
_FOR_THIS_MACHINE = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ())
_SECONDS = 120
_INTEGER, _POINTER, _DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
_SIGNATURES = {
    "hidden_total": (_POINTER,),
    "hidden_centre": (_POINTER,),
    "hidden_output": (_POINTER, _POINTER, _INTEGER, _POINTER, _INTEGER, _POINTER),
    "hidden_sums": (_POINTER, _POINTER, _POINTER, _INTEGER),
    "hidden_inner": (_POINTER, _POINTER, _POINTER),
    "cross_entropy": (*[_INTEGER] * 4, *[_POINTER] * 6),
    "adamw": (*[_INTEGER] * 2, *[_POINTER] * 5, *[_DOUBLE] * 5),
    "product": (_POINTER, *[_INTEGER] * 3, *[_POINTER] * 3),
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
def compiled_kernels() -> ctypes.CDLL:
    """The functions of `kernels.c`, compiled at the first call.

    The compiler is the command of the environment variable CC, or the first of cc, gcc and clang.

    Raises
    ------
    ValueError
        If there is no compiler, or it fails.
    """
    compiler = _compiler()
    with tempfile.TemporaryDirectory(prefix="tabwright-kernels-") as folder:
        library = Path(folder) / "kernels.so"
        _compile(compiler, library)
        try:
            loaded = ctypes.CDLL(str(library))
        except OSError as error:
            raise _refusal(f"cannot load what {compiler[0]} made: {error}") from error
    for name, arguments in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, None
    loaded.cross_entropy.restype = _INTEGER
    return loaded


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


def _refusal(reason: str) -> ValueError:
    return ValueError(
        f"kernels='compiled' {reason}; install a C compiler, name one in CC, or train with "
        "kernels='torch'"
    )


def _compiler() -> list[str]:
    """The compiler's command, in words."""
    wanted = os.environ.get("CC", "")
    try:
        named = shlex.split(wanted)
    except ValueError as error:
        raise _refusal(f"needs a C compiler; CC is no command ({error}): {wanted}") from error
    compiler = named or [name for name in _COMPILERS if shutil.which(name)][:1]
    if not compiler or shutil.which(compiler[0]) is None:
        tried = compiler[0] if compiler else ", ".join(_COMPILERS)
        raise _refusal(f"needs a C compiler; not found: {tried}")
    return compiler


def _compile(compiler: list[str], library: Path) -> None:
    """Compile for this machine, as well as the compiler knows it."""
    for machine in _FOR_THIS_MACHINE:
        command = [*compiler, *_FLAGS, *machine, str(_SOURCE), "-o", str(library), "-lm"]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                timeout=_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _refusal(f"needs a C compiler; {compiler[0]} did not run: {error}") from error
        if done.returncode == 0:
            return
    said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
    raise _refusal(f"needs a C compiler; {compiler[0]} failed: {said}")


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
        If the kernels cannot be compiled.
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
