"""The passes of a whole network in one call each: compiled, with the BLAS that torch has.

A step of a small network spends much of its time on calls through Python. Where torch's library
shows the `sgemm` that its own products use, `kernels.c` calls it directly.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tabwright.training.engine.compiled_kernels import (
    CompiledKernels,
    check_memory,
    compiled_kernels,
)

__all__ = ["CompiledNetwork", "Layer", "NetworkBuffers", "torch_sgemm"]


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
def torch_sgemm() -> int | None:
    """Address of the BLAS function that torch's float32 products on a CPU use.

    Returns
    -------
    int or None
        None where torch's library does not show it, or it does not multiply as a BLAS does.
    """
    folder = Path(torch.__file__).parent / "lib"
    found = [path for path in folder.glob("libtorch_cpu.*") if path.suffix in (".so", ".dylib")]
    if not found:
        return None
    function = getattr(ctypes.CDLL(str(found[0])), "sgemm_", None)
    address = ctypes.cast(function, ctypes.c_void_p).value if function is not None else None
    if address is None:
        return None
    # Small whole numbers: their sums are exact in any order.
    x, weight = torch.arange(15.0).view(5, 3) - 6, torch.arange(12.0).view(4, 3) % 5
    z = torch.full((5, 4), float("nan"))
    compiled_kernels().product(address, 5, 3, 4, x.data_ptr(), weight.data_ptr(), z.data_ptr())
    return address if torch.equal(z, x @ weight.T) else None


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
        If torch shows no BLAS (`torch_sgemm` is None), or a tensor has gaps or another type.
    """

    def __init__(
        self, layers: Sequence[Layer], buffers: NetworkBuffers, input_dim: int, kept_share: float
    ) -> None:
        sgemm = torch_sgemm()
        if sgemm is None:
            raise ValueError(
                "a compiled network needs torch's BLAS, which this torch does not show"
            )
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
            sgemm,
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
