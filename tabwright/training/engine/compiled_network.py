"""The passes of a whole network in one call each: compiled, with the BLAS that SciPy has.

A step of a small network spends much of its time on calls through Python. SciPy hands out the
addresses of its BLAS functions for compiled code (`scipy.linalg.cython_blas`).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tabwright.training.engine.compiled_kernels import (
    CompiledKernels,
    check_memory,
    compiled_kernels,
)

__all__ = ["CompiledNetwork", "Layer", "NetworkBuffers", "blas_sgemm"]


class _Hidden(ctypes.Structure):
    """A struct of `kernels.c`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("between", "weight", "norm")),
        *((name, ctypes.c_void_p) for name in ("weight_gradient", "norm_gradient", "key")),
        *((name, ctypes.c_int64) for name in ("opens_block", "closes_block")),
    )


class _Network(ctypes.Structure):
    """A struct of `kernels.c`."""

    _fields_ = (
        ("product", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("n_rows", "input_dim", "hidden_dim", "output_dim")),
        ("n_hidden", ctypes.c_int64),
        ("hidden", ctypes.POINTER(_Hidden)),
        *((name, ctypes.c_void_p) for name in ("head", "head_bias")),
        *((name, ctypes.c_void_p) for name in ("head_gradient", "head_bias_gradient")),
        *((name, ctypes.c_void_p) for name in ("logits", "outer")),
        *((name, ctypes.c_void_p) for name in ("gradient", "spare", "scratch")),
        ("n_statistics", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("running", "sums", "shares")),
        ("kept_share", ctypes.c_float),
    )


@functools.cache
def blas_sgemm() -> int:
    """Address of SciPy's `sgemm`, whose integers have 32 bits.

    Raises
    ------
    RuntimeError
        If it does not multiply as a BLAS does.
    """
    from scipy.linalg import cython_blas

    capsule = cython_blas.__pyx_capi__["sgemm"]
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.argtypes, name_of.restype = (ctypes.py_object,), ctypes.c_char_p
    pointer_of.argtypes = (ctypes.py_object, ctypes.c_char_p)
    pointer_of.restype = ctypes.c_void_p
    address = int(pointer_of(capsule, name_of(capsule)))
    # Small whole numbers: their sums are exact in any order.
    x, weight = torch.arange(15.0).view(5, 3) - 6, torch.arange(12.0).view(4, 3) % 5
    z = torch.full((5, 4), float("nan"))
    compiled_kernels().product_alone(
        address, 5, 3, 4, x.data_ptr(), weight.data_ptr(), z.data_ptr()
    )
    if not torch.equal(z, x @ weight.T):
        raise RuntimeError("scipy.linalg.cython_blas.sgemm must multiply matrices; it does not")
    return address


class Layer(NamedTuple):
    """A hidden layer of one member, and the memory of its passes over a batch.

    Parameters
    ----------
    kernels : CompiledKernels
        Of a single member.
    weight, weight_gradient : Tensor of shape (hidden_dim, input_dim)
    norm, norm_gradient : Tensor of shape (2, hidden_dim)
    key : Tensor of shape (1, 1), int32
        Where the step's dropout key stands.
    opens_block, closes_block : bool
        The layer's place in a residual block.
    """

    kernels: CompiledKernels
    weight: Tensor
    norm: Tensor
    weight_gradient: Tensor
    norm_gradient: Tensor
    key: Tensor
    opens_block: bool
    closes_block: bool


class NetworkBuffers(NamedTuple):
    """The rest of one member.

    Parameters
    ----------
    head, head_gradient : Tensor of shape (output_dim, hidden_dim)
        The last layer's weight; (output_dim, input_dim) where there is no hidden layer.
    head_bias, head_bias_gradient : Tensor of shape (output_dim,)
    logits, outer : Tensor of shape (batch, output_dim)
        Where the logits go, and memory of their size that nothing else uses.
    gradient, spare, scratch : Tensor of shape (batch, hidden_dim)
        Hold nothing between two passes.
    running, sums, shares : Tensor of shape (n_statistics,)
        Running statistics, the batch's sums in the same order, and what turns those into the
        batch's part of the statistics.
    """

    head: Tensor
    head_gradient: Tensor
    head_bias: Tensor
    head_bias_gradient: Tensor
    logits: Tensor
    outer: Tensor
    gradient: Tensor
    spare: Tensor
    scratch: Tensor
    running: Tensor
    sums: Tensor
    shares: Tensor


class CompiledNetwork:
    """One member's passes over batches of one size, in float32 on a CPU.

    Parameters
    ----------
    layers : sequence of Layer
    buffers : NetworkBuffers
        All tensors without gaps. They stay where they are, and are read and written there.
    input_dim : int
    kept_share : float
        Of running statistics in a step.

    Raises
    ------
    ValueError
        If a tensor has gaps or another type.
    """

    def __init__(
        self, layers: Sequence[Layer], buffers: NetworkBuffers, input_dim: int, kept_share: float
    ) -> None:
        n_rows, output_dim = buffers.logits.shape
        for layer in layers:
            for tensor in (layer.weight, layer.norm, layer.weight_gradient, layer.norm_gradient):
                check_memory(tensor, tensor.shape)
            check_memory(layer.key, (1, 1), torch.int32)
        for tensor in buffers:
            check_memory(tensor, tensor.shape)
        self._x_shape, self._logits_shape = (n_rows, input_dim), (n_rows, output_dim)
        self._alive = (tuple(layers), buffers)
        self._hidden = (_Hidden * len(layers))(
            *(
                _Hidden(
                    layer.kernels.address,
                    *(tensor.data_ptr() for tensor in layer[1:6]),
                    layer.opens_block,
                    layer.closes_block,
                )
                for layer in layers
            )
        )
        self._network = _Network(
            blas_sgemm(),
            n_rows,
            input_dim,
            buffers.gradient.shape[1],
            output_dim,
            len(layers),
            self._hidden,
            *(
                getattr(buffers, name).data_ptr()
                for name in ("head", "head_bias", "head_gradient", "head_bias_gradient")
            ),
            *(
                getattr(buffers, name).data_ptr()
                for name in ("logits", "outer", "gradient", "spare", "scratch")
            ),
            buffers.running.numel() if layers else 0,
            *(getattr(buffers, name).data_ptr() for name in ("running", "sums", "shares")),
            kept_share=kept_share,
        )
        self._address = ctypes.addressof(self._network)
        kernels = compiled_kernels()
        self._forward, self._backward = kernels.network_forward, kernels.network_backward

    def forward(self, x: Tensor) -> None:
        """Logits in training mode, and the step of the running statistics.

        Parameters
        ----------
        x : Tensor of shape (batch, input_dim)
        """
        check_memory(x, self._x_shape)
        self._forward(self._address, x.data_ptr())

    def backward(self, x: Tensor, logits_gradient: Tensor) -> None:
        """All gradients, after `forward` on the same `x`.

        Parameters
        ----------
        x : Tensor of shape (batch, input_dim)
        logits_gradient : Tensor of shape (batch, output_dim)
        """
        check_memory(x, self._x_shape)
        check_memory(logits_gradient, self._logits_shape)
        self._backward(self._address, x.data_ptr(), logits_gradient.data_ptr())
