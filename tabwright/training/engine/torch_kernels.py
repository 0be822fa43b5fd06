"""What a hidden layer computes between its matrix products: batch norm, ReLU and dropout.

`LayerKernels` says what there is to do. `TorchKernels` does it by torch's operations, on any
device and in any precision, `compiled.CompiledKernels` by compiled functions.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tabwright.training.engine.dropout import DropoutMask

__all__ = ["BATCH_NORM_EPS", "BATCH_NORM_MOMENTUM", "LayerBuffers", "LayerKernels", "TorchKernels"]

BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1

_threshold_backward = torch.ops.aten.threshold_backward.grad_input


class LayerBuffers(NamedTuple):
    """The memory that one hidden layer works in.

    Parameters
    ----------
    centred, output, scratch : Tensor of shape (n_members, batch, hidden_dim)
        The linear layer's values, of which the mean is taken off; the layer's output; what holds
        nothing between two passes.
    total, square_sum : Tensor of shape (n_members, 1, hidden_dim)
        Sum over the batch before the mean is taken off, and sum of squares after it.
    gain : Tensor of shape (n_members, 2, hidden_dim)
        What turns batch norm's bias and weight into `affine`, its shift and scale, and the two
        sums of the backward pass into gradients.
    affine, sums : Tensor of shape (n_members, 2, hidden_dim)
    """

    centred: Tensor
    output: Tensor
    scratch: Tensor
    total: Tensor
    square_sum: Tensor
    gain: Tensor
    affine: Tensor
    sums: Tensor


class LayerKernels(Protocol):
    """What happens between two matrix products, in this order, over the buffers of a layer."""

    def sum_values(self) -> None:
        """Sum the columns of `centred` into `total`."""

    def centre(self) -> None:
        """Take the mean off `centred`, and sum its squares into `square_sum`.

        The mean comes off before anything is squared: the difference of two large sums would
        leave nothing of a small variance in float32.
        """

    def normalise(self, norm: Tensor, residual: Tensor | None, key: Tensor | None) -> None:
        """Batch norm, (+ residual), ReLU and dropout, into `output`.

        Parameters
        ----------
        norm : Tensor of shape (n_members, 2, hidden_dim)
            Batch norm's bias and weight.
        residual : Tensor of shape (n_members, batch, hidden_dim) or None
        key : Tensor of shape (n_members, 1, 1), int32, or None
            Of `dropout_keys`.

        Raises
        ------
        ValueError
            If dropout lacks a key.
        """

    def sum_gradients(self, gradient: Tensor, norm_gradient: Tensor) -> None:
        """Take `gradient` back through dropout and ReLU; batch norm's gradients from its sums.

        Parameters
        ----------
        gradient : Tensor of shape (n_members, batch, hidden_dim)
            Changed in place.
        norm_gradient : Tensor of shape (n_members, 2, hidden_dim)
            Where the gradients in `norm` go; `sums` holds what they are made of.
        """

    def inner_gradient(self, gradient: Tensor, inner: Tensor) -> None:
        """The gradient in front of batch norm, from that behind it and from `sums`.

        S. Ioffe and C. Szegedy, "Batch Normalization", 2015, section 3: the gradient loses its
        mean and its part along the normalised values.

        Parameters
        ----------
        gradient, inner : Tensor of shape (n_members, batch, hidden_dim)
            Where it comes from, and where it goes.
        """


class TorchKernels(LayerKernels):
    """The operations between two matrix products, by torch.

    Parameters
    ----------
    buffers : LayerBuffers
    mask : DropoutMask or None
        None: no dropout.
    keep : float
        Share of the elements that dropout keeps. They grow by 1 / `keep`; the factor rides on
        batch norm's scale and shift.
    n_rows : int
        Rows of the whole batch, of which these may be a part.
    """

    def __init__(
        self, buffers: LayerBuffers, mask: DropoutMask | None, keep: float, n_rows: int
    ) -> None:
        self._buffers, self._mask = buffers, mask
        self._minus_inverse = -1 / n_rows
        self._eps = torch.full_like(buffers.total, BATCH_NORM_EPS * keep**2)
        self._share = keep**2 / n_rows
        # A tensor, since a Python number in a product costs more than the product.
        self._minus_share = buffers.total.new_full((), -self._share)
        buffers.gain.fill_(1.0 / keep)
        self._gain_of_std = buffers.gain[:, 1:]
        self._shift, self._scale = buffers.affine[:, :1], buffers.affine[:, 1:]
        self._sum_of_gradient, self._sum_of_product = buffers.sums[:, :1], buffers.sums[:, 1:]
        self._pull = torch.empty_like(buffers.sums)
        self._pull_of_mean, self._pull_of_std = self._pull[:, :1], self._pull[:, 1:]

    def sum_values(self) -> None:
        torch.sum(self._buffers.centred, 1, keepdim=True, out=self._buffers.total)

    def centre(self) -> None:
        centred, total, scratch = self._buffers.centred, self._buffers.total, self._buffers.scratch
        centred.add_(total, alpha=self._minus_inverse)
        torch.mul(centred, centred, out=scratch)
        torch.sum(scratch, 1, keepdim=True, out=self._buffers.square_sum)

    def normalise(self, norm: Tensor, residual: Tensor | None, key: Tensor | None) -> None:
        buffers = self._buffers
        gain_of_std = self._gain_of_std
        torch.add(self._eps, buffers.square_sum, alpha=self._share, out=gain_of_std).rsqrt_()
        torch.mul(norm, buffers.gain, out=buffers.affine)
        output = torch.addcmul(self._shift, buffers.centred, self._scale, out=buffers.output)
        if residual is not None:
            output.add_(residual)
        output.relu_()
        if self._mask is not None:
            self._mask.apply_(output, key)

    def sum_gradients(self, gradient: Tensor, norm_gradient: Tensor) -> None:
        buffers = self._buffers
        # An output is positive where the ReLU let it pass and dropout kept it.
        _threshold_backward(gradient, buffers.output, 0, grad_input=gradient)
        torch.sum(gradient, 1, keepdim=True, out=self._sum_of_gradient)
        torch.mul(gradient, buffers.centred, out=buffers.scratch)
        torch.sum(buffers.scratch, 1, keepdim=True, out=self._sum_of_product)
        torch.mul(buffers.sums, buffers.gain, out=norm_gradient)

    def inner_gradient(self, gradient: Tensor, inner: Tensor) -> None:
        buffers, pull = self._buffers, self._pull
        torch.mul(buffers.sums, buffers.gain, out=pull).mul_(buffers.gain)
        pull.mul_(self._scale).mul_(self._minus_share)
        torch.addcmul(self._pull_of_mean, buffers.centred, self._pull_of_std, out=inner)
        inner.addcmul_(gradient, self._scale)
