"""The fast layers: linear → batch norm → ReLU → dropout with a member axis, and its own backward.

Every tensor has a leading member axis. `forward_hidden` and `backward_hidden` work in buffers
that are allocated once (`HiddenWork`): matrix products here, all between them by `kernels` or
`compiled`. `linear_bn_relu_dropout` is the same as a differentiable function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tabwright.training.engine.compiled_kernels import CompiledKernels
from tabwright.training.engine.dropout import DropoutMask, Part
from tabwright.training.engine.torch_kernels import LayerBuffers, TorchKernels

__all__ = [
    "BFloat16Products",
    "HiddenWeights",
    "HiddenWork",
    "backward_hidden",
    "forward_hidden",
    "head_values",
    "linear_bn_relu_dropout",
]


class HiddenWeights:
    """What a hidden layer learns, or the gradient of it: views of flat buffers.

    The linear layer's bias is not among them: batch norm takes it away again, so that its
    gradient is zero; it only shifts the mean that enters the running statistics.

    Parameters
    ----------
    weight : Tensor of shape (n_members, hidden_dim, input_dim)
    norm : Tensor of shape (n_members, 2, hidden_dim)
        Batch norm's bias and weight, in this order.
    """

    def __init__(self, weight: Tensor, norm: Tensor) -> None:
        self.weight, self.norm = weight, norm
        self.transposed = weight.transpose(1, 2)


class BFloat16Products:
    """The matrix products of one hidden layer in bfloat16, everything around them in float32.

    Weights, gradients and sums stay float32; what enters a product is rounded to 8 bits of
    mantissa first, and products add up in float32 inside the kernel. The first buffers are made
    by the first pass.
    """

    def __init__(self) -> None:
        self._sizes: tuple[int, ...] = ()

    def _make(self, x: Tensor, weight: Tensor, output: Tensor) -> None:
        # Members that see the same rows share them here too.
        is_shared = len(x) > 1 and x.stride(0) == 0
        half = torch.bfloat16
        own = torch.empty_like(x[:1] if is_shared else x, dtype=half)
        self._x_to = own
        self._x = own.expand(len(x), -1, -1)
        self._weight = torch.empty_like(weight, dtype=half, memory_format=torch.contiguous_format)
        self._transposed = self._weight.transpose(1, 2)
        self._output = torch.empty_like(output, dtype=half)
        self._output_transposed = self._output.transpose(1, 2)
        self._weight_gradient = torch.empty_like(self._weight)
        self._x_gradient = torch.empty_like(x, dtype=half, memory_format=torch.contiguous_format)
        self._sizes = (*x.shape, *output.shape)

    def forward(self, x: Tensor, weight: Tensor, output: Tensor) -> None:
        """`x` times the transposed weight, into `output`."""
        if self._sizes != (*x.shape, *output.shape):
            self._make(x, weight, output)
        self._x_to.copy_(x[: len(self._x_to)])
        self._weight.copy_(weight)
        torch.bmm(self._x, self._transposed, out=self._output)
        output.copy_(self._output)

    def backward(
        self,
        gradient: Tensor,
        weight_gradient: Tensor,
        x_gradient: Tensor | None,
        *,
        accumulate: bool,
    ) -> None:
        """Gradients in the weight and in the last `forward`'s `x`, from that in its output."""
        self._output.copy_(gradient)
        torch.bmm(self._output_transposed, self._x, out=self._weight_gradient)
        weight_gradient.copy_(self._weight_gradient)
        if x_gradient is None:
            return
        torch.bmm(self._output, self._weight, out=self._x_gradient)
        if accumulate:
            x_gradient.add_(self._x_gradient)
        else:
            x_gradient.copy_(self._x_gradient)


class HiddenWork:
    """Buffers of one hidden layer for one batch size.

    Parameters
    ----------
    rate : float
        Dropout rate, below 1; at or below 0 none.
    total, square_sum : Tensor of shape (n_members, 1, hidden_dim)
        Where the forward pass leaves the batch's sum before normalisation, without the linear
        layer's bias, and the sum of squared distances from the mean.
    scratch : Tensor of shape (n_members, batch, hidden_dim)
        Holds nothing between two passes; layers may share it.
    part : Part, optional
        Which rows of a batch these are, where several workers share one.
    all_reduce : callable, optional
        Sums a tensor over the workers, in place: batch norm's statistics are those of the whole
        batch then.
    products : BFloat16Products, optional
        Computes the matrix products; by default they are in the dtype of the weights.
    is_compiled : bool, default=False
        All but the matrix products by compiled kernels, for float32 on a CPU.

    Raises
    ------
    ValueError
        If the kernels cannot be compiled.
    """

    def __init__(
        self,
        rate: float,
        total: Tensor,
        square_sum: Tensor,
        scratch: Tensor,
        *,
        part: Part | None = None,
        all_reduce: Callable[[Tensor], None] | None = None,
        products: BFloat16Products | None = None,
        is_compiled: bool = False,
    ) -> None:
        self.all_reduce = all_reduce
        self.products = products
        self.total, self.square_sum, self.scratch = total, square_sum, scratch
        n_members, batch, hidden_dim = scratch.shape
        mask = None
        if rate > 0.0:
            # Less memory touched is time saved: hashes go where nothing else is at that moment.
            bits = scratch.view(torch.int32) if scratch.dtype == torch.float32 else None
            mask = DropoutMask(
                rate, (n_members, batch, hidden_dim), scratch.dtype, scratch.device, part, bits
            )
        pair = scratch.new_empty(n_members, 2, hidden_dim)
        self.centred, self.output = torch.empty_like(scratch), torch.empty_like(scratch)
        self.sums = torch.empty_like(pair)
        buffers = LayerBuffers(
            centred=self.centred,
            output=self.output,
            scratch=scratch,
            total=total,
            square_sum=square_sum,
            gain=torch.empty_like(pair),
            affine=torch.empty_like(pair),
            sums=self.sums,
        )
        keep = 1.0 - max(rate, 0.0)
        kind = CompiledKernels if is_compiled else TorchKernels
        self.kernels = kind(buffers, mask, keep, batch if part is None else part.n_rows)


def forward_hidden(
    x: Tensor,
    weights: HiddenWeights,
    work: HiddenWork,
    *,
    residual: Tensor | None = None,
    key: Tensor | None = None,
) -> Tensor:
    """Linear, batch norm by the batch's own statistics, (+ residual), ReLU, dropout.

    The mean comes off before anything is squared: the difference of two large sums would leave
    nothing of a small variance in float32.

    Parameters
    ----------
    x : Tensor of shape (n_members, batch, input_dim)
    weights : HiddenWeights
    work : HiddenWork
        Holds afterwards what `backward_hidden` needs.
    residual : Tensor of shape (n_members, batch, hidden_dim), optional
        Added before the ReLU.
    key : Tensor of shape (n_members, 1, 1), int32
        Of `dropout_keys`; only where there is dropout.

    Returns
    -------
    Tensor of shape (n_members, batch, hidden_dim)
        `work.output`.
    """
    if work.products is None:
        torch.bmm(x, weights.transposed, out=work.centred)
    else:
        work.products.forward(x, weights.weight, work.centred)
    kernels = work.kernels
    kernels.sum_values()
    if work.all_reduce is not None:
        work.all_reduce(work.total)
    kernels.centre()
    if work.all_reduce is not None:
        work.all_reduce(work.square_sum)
    kernels.normalise(weights.norm, residual, key)
    return work.output


def backward_hidden(
    gradient: Tensor,
    x: Tensor,
    weights: HiddenWeights,
    work: HiddenWork,
    gradients: HiddenWeights,
    *,
    x_gradient: Tensor | None,
    accumulate: bool = False,
) -> None:
    """Gradients of the layer, after `forward_hidden` on the same `x` and `work`.

    Parameters
    ----------
    gradient : Tensor of shape (n_members, batch, hidden_dim)
        In the layer's output; changed in place to the gradient before ReLU and dropout, which is
        also that in the residual.
    x : Tensor of shape (n_members, batch, input_dim)
    weights : HiddenWeights
    work : HiddenWork
    gradients : HiddenWeights
        Where the gradients go.
    x_gradient : Tensor of shape (n_members, batch, input_dim) or None
        Where the gradient in `x` goes; None: not wanted. May be `gradient` itself.
    accumulate : bool, default=False
        Add to what `x_gradient` holds.
    """
    kernels, inner = work.kernels, work.scratch
    kernels.sum_gradients(gradient, gradients.norm)
    if work.all_reduce is not None:
        # The gradients stay the worker's own, to be summed with all the others.
        work.all_reduce(work.sums)
    kernels.inner_gradient(gradient, inner)
    if work.products is not None:
        work.products.backward(inner, gradients.weight, x_gradient, accumulate=accumulate)
        return
    torch.bmm(inner.transpose(1, 2), x, out=gradients.weight)
    if x_gradient is None:
        return
    if accumulate:
        x_gradient.baddbmm_(inner, weights.weight)
    else:
        torch.bmm(inner, weights.weight, out=x_gradient)


def head_values(bias: Tensor, x: Tensor, transposed: Tensor, out: Tensor) -> None:
    """The last linear layer, into `out`: the same bits for a member whoever is beside it.

    Parameters
    ----------
    bias : Tensor of shape (n_members, 1, output_dim)
    x : Tensor of shape (n_members, batch, input_dim)
    transposed : Tensor of shape (n_members, input_dim, output_dim)
        The weight.
    out : Tensor of shape (n_members, batch, output_dim)
    """
    if out.shape[2] > 1 or out.device.type != "cpu":
        torch.baddbmm(bias, x, transposed, out=out)
        return
    # With one output, torch multiplies several members in another order than one alone.
    for member, own in enumerate(out):
        torch.addmm(bias[member], x[member], transposed[member], out=own)


# ---------------------------------------------------------------------------------------------
# The same as a differentiable function
# ---------------------------------------------------------------------------------------------


class _LinearBNReLUDropout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        rate: float,
        key: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n_members, batch, _ = x.shape
        total, square_sum = (x.new_empty(n_members, 1, weight.shape[1]) for _ in range(2))
        scratch = x.new_empty(n_members, batch, weight.shape[1])
        ctx.work = HiddenWork(rate, total, square_sum, scratch)
        norm = torch.stack([norm_bias, norm_weight], dim=1)
        ctx.weights = HiddenWeights(weight, norm)
        ctx.save_for_backward(x, weight)
        output = forward_hidden(x, ctx.weights, ctx.work, key=key)
        means, variances = total[:, 0] / batch + bias, square_sum[:, 0] / (batch - 1)
        ctx.mark_non_differentiable(means, variances)
        return output, means, variances

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradients = HiddenWeights(torch.empty_like(weight), torch.empty_like(ctx.weights.norm))
        wants_x = ctx.needs_input_grad[0]
        x_gradient = torch.empty_like(x) if wants_x else None
        backward_hidden(
            output_gradients[0].clone(memory_format=torch.contiguous_format),
            x,
            ctx.weights,
            ctx.work,
            gradients,
            x_gradient=x_gradient,
        )
        norm_bias, norm_weight = gradients.norm.unbind(1)
        no_gradient = torch.zeros_like(norm_bias)
        return x_gradient, gradients.weight, no_gradient, norm_weight, norm_bias, None, None


def linear_bn_relu_dropout(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    rate: float = 0.0,
    key: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A hidden layer of several members in training mode, differentiable once.

    Parameters
    ----------
    x : Tensor of shape (n_members, batch, input_dim)
        At least two rows a batch.
    weight : Tensor of shape (n_members, hidden_dim, input_dim)
    bias, norm_weight, norm_bias : Tensor of shape (n_members, hidden_dim)
        The bias has a gradient of exactly zero.
    rate : float, default=0.0
        Dropout rate, below 1.
    key : Tensor of shape (n_members, 1, 1), int32
        Of `dropout_keys`; needed where `rate` is above 0.

    Returns
    -------
    output : Tensor of shape (n_members, batch, hidden_dim)
    mean, variance : Tensor of shape (n_members, hidden_dim)
        Of the batch before normalisation, the variance unbiased: what enters batch norm's
        running statistics. Without a gradient.

    Raises
    ------
    ValueError
        If the batch has fewer than two rows, or dropout lacks a key.
    """
    if x.shape[1] < 2:
        raise ValueError(f"batch norm needs at least 2 rows in training; got {x.shape[1]}")
    outputs: tuple[Tensor, Tensor, Tensor] = _LinearBNReLUDropout.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, norm_weight, norm_bias, rate, key
    )
    return outputs
