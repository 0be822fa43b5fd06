"""The fast layers: linear → batch norm → ReLU → dropout with a member axis, and its own backward.

Every tensor has a leading member axis. `forward_hidden` and `backward_hidden` work in buffers
that are allocated once (`HiddenWork`); `linear_bn_relu_dropout` is the same as a differentiable
function. Dropout draws from a hash of (seed, layer, step, row, column): no generator, no state.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "BATCH_NORM_EPS",
    "BATCH_NORM_MOMENTUM",
    "BFloat16Products",
    "DropoutMask",
    "HiddenWeights",
    "HiddenWork",
    "Part",
    "backward_hidden",
    "dropout_keys",
    "forward_hidden",
    "linear_bn_relu_dropout",
]

BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1

_threshold_backward = torch.ops.aten.threshold_backward.grad_input


class Part(NamedTuple):
    """A worker's rows of a batch that several workers share.

    Parameters
    ----------
    start : int
        Place of the first of them in the batch.
    n_rows : int
        Rows of the whole batch.
    """

    start: int
    n_rows: int


# ---------------------------------------------------------------------------------------------
# Dropout by a hash
# ---------------------------------------------------------------------------------------------

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, odd, as a signed integer
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685


def _scramble(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64: a bijection of 64-bit integers without structure left.

    G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators", 2014,
    figure 16.
    """
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    # torch shifts arithmetically; the mask takes the copies of the sign away.
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def dropout_keys(seeds: Sequence[int], n_layers: int, steps: Tensor) -> Tensor:
    """What the dropout of each step, layer and member depends on besides the element.

    Parameters
    ----------
    seeds : sequence of int
        One per member, of any size.
    n_layers : int
    steps : Tensor of shape (n_steps,), int64

    Returns
    -------
    Tensor of shape (n_steps, n_layers, n_members), int32
        Odd factors. Those of a member depend on no other member.
    """
    signed = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
    device = steps.device
    z = _scramble(torch.tensor(signed, dtype=torch.int64, device=device) + _GOLDEN)
    layers = torch.arange(1, n_layers + 1, device=device)
    z = _scramble(z + layers[:, None] * _GOLDEN)
    z = _scramble(z + (steps[:, None, None] + 1) * _GOLDEN)
    return _low_half(z) | 1


def _low_half(z: Tensor) -> Tensor:
    return z.unsqueeze(-1).contiguous().view(torch.int32)[..., 0]


@functools.lru_cache(maxsize=16)
def _element_hashes(n_rows: int, n_columns: int, device: torch.device) -> Tensor:
    index = torch.arange(n_rows * n_columns, device=device)
    hashed = _low_half(_scramble((index + 1) * _GOLDEN)) | 1
    return hashed.view(1, n_rows, n_columns)


# Patterns of a negative float32 that is a number: -0.0 down to minus infinity.
_NEGATIVES = 0x7F800001


def _limit(rate: float) -> float:
    """The float32 below or at which lies the given share of all bit patterns, as floats.

    NaN patterns lie nowhere; at most 0.996 of all patterns are numbers.
    """
    count = round(rate * 2**32)
    bits = -(2**31) + _NEGATIVES - count if count <= _NEGATIVES else count - _NEGATIVES - 1
    limit: float = struct.unpack("<f", struct.pack("<i", bits))[0]
    return limit


class DropoutMask:
    """Zeroes elements at random, by a hash of the element and of the step's key.

    Every element has a fixed random odd number, and every step, layer and member a random odd
    factor; their product modulo 2**32 decides (multiplicative hashing: M. Dietzfelbinger,
    T. Hagerup, J. Katajainen and M. Penttonen, "A reliable randomized algorithm for the
    closest-pair problem", 1997, section 2).

    Parameters
    ----------
    rate : float
        Share of the elements to zero, in (0, 1), kept to 2**-32.
    shape : tuple of int
        (n_members, batch, hidden_dim).
    dtype : torch.dtype
    device : torch.device
    part : Part, optional
        Which rows of a batch these are; by default a batch of their own.
    bits : Tensor of that shape, int32, optional
        Where to work; by default memory of its own.
    """

    def __init__(
        self,
        rate: float,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        device: torch.device,
        part: Part | None = None,
        bits: Tensor | None = None,
    ) -> None:
        self._rate = rate
        if part is None:
            self._elements = _element_hashes(shape[1], shape[2], device)
        else:
            whole = _element_hashes(part.n_rows, shape[2], device)
            self._elements = whole[:, part.start : part.start + shape[1]]
        self._bits = torch.empty(shape, dtype=torch.int32, device=device) if bits is None else bits
        # One operation compares floats and zeroes, none does so with integers: the bits are read
        # as floats, of which `_limit` knows the order.
        self._floats = self._bits.view(torch.float32)
        self._limit = _limit(rate) if rate <= 0.99 else None
        self._in_one = self._limit is not None and dtype == torch.float32

    def apply_(self, values: Tensor, key: Tensor) -> None:
        """Zero elements of `values`, of shape (n_members, batch, hidden_dim), in place.

        Parameters
        ----------
        values : Tensor of shape (n_members, batch, hidden_dim)
        key : Tensor of shape (n_members, 1, 1), int32
            Of `dropout_keys`.
        """
        bits = torch.mul(self._elements, key, out=self._bits)
        if self._in_one:
            _threshold_backward(values, self._floats, self._limit, grad_input=values)
        elif self._limit is not None:
            values.masked_fill_(self._floats <= self._limit, 0.0)
        else:
            values.masked_fill_(bits < round(self._rate * 2**32) - 2**31, 0.0)


# ---------------------------------------------------------------------------------------------
# A hidden layer
# ---------------------------------------------------------------------------------------------


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
    ) -> None:
        n_members, batch, hidden_dim = scratch.shape
        keep = 1.0 - max(rate, 0.0)
        self.all_reduce = all_reduce
        self.products = products
        self.batch = batch if part is None else part.n_rows
        # Kept elements grow by 1 / keep; the factor rides on batch norm's scale and shift.
        self.mask = None
        if rate > 0.0:
            # Less memory touched is time saved: hashes go where nothing else is at that moment.
            bits = scratch.view(torch.int32) if scratch.dtype == torch.float32 else None
            shape = (n_members, batch, hidden_dim)
            self.mask = DropoutMask(rate, shape, scratch.dtype, scratch.device, part, bits)
        self.total, self.square_sum, self.scratch = total, square_sum, scratch
        self.centred = torch.empty_like(scratch)
        self.output = torch.empty_like(scratch)
        self.eps = torch.full_like(total, BATCH_NORM_EPS * keep**2)
        self.share = keep**2 / self.batch
        pair = scratch.new_empty(n_members, 2, hidden_dim)
        # The growth, and the growth over the standard deviation: what turns batch norm's bias and
        # weight into shift and scale, and the two sums of the backward pass into gradients.
        self.gain = torch.full_like(pair, 1.0 / keep)
        self.gain_of_std = self.gain[:, 1:]
        self.affine = torch.empty_like(pair)
        self.shift, self.scale = self.affine[:, :1], self.affine[:, 1:]
        self.sums = torch.empty_like(pair)
        self.sum_of_gradient, self.sum_of_product = self.sums[:, :1], self.sums[:, 1:]
        self.pull = torch.empty_like(pair)
        self.pull_of_mean, self.pull_of_std = self.pull[:, :1], self.pull[:, 1:]
        # A tensor, since a Python number in a product costs more than the product.
        self.minus_share = scratch.new_tensor(-self.share)


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
    centred = work.centred
    if work.products is None:
        torch.bmm(x, weights.transposed, out=centred)
    else:
        work.products.forward(x, weights.weight, centred)
    torch.sum(centred, 1, keepdim=True, out=work.total)
    if work.all_reduce is not None:
        work.all_reduce(work.total)
    centred.add_(work.total, alpha=-1 / work.batch)
    torch.mul(centred, centred, out=work.scratch)
    torch.sum(work.scratch, 1, keepdim=True, out=work.square_sum)
    if work.all_reduce is not None:
        work.all_reduce(work.square_sum)
    torch.add(work.eps, work.square_sum, alpha=work.share, out=work.gain_of_std).rsqrt_()
    torch.mul(weights.norm, work.gain, out=work.affine)
    output = torch.addcmul(work.shift, centred, work.scale, out=work.output)
    if residual is not None:
        output.add_(residual)
    output.relu_()
    if work.mask is not None:
        if key is None:
            raise ValueError("a layer with dropout needs a key; make one with dropout_keys")
        work.mask.apply_(output, key)
    return output


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
    # An output is positive where the ReLU let it pass and dropout kept it.
    _threshold_backward(gradient, work.output, 0, grad_input=gradient)
    torch.sum(gradient, 1, keepdim=True, out=work.sum_of_gradient)
    torch.mul(gradient, work.centred, out=work.scratch)
    torch.sum(work.scratch, 1, keepdim=True, out=work.sum_of_product)
    torch.mul(work.sums, work.gain, out=gradients.norm)
    # S. Ioffe and C. Szegedy, "Batch Normalization", 2015, section 3: the gradient loses its mean
    # and its part along the normalised values.
    norm = gradients.norm
    if work.all_reduce is not None:
        # The gradients stay the worker's own, to be summed with all the others.
        work.all_reduce(work.sums)
        norm = torch.mul(work.sums, work.gain, out=work.pull)
    torch.mul(norm, work.gain, out=work.pull).mul_(work.scale).mul_(work.minus_share)
    inner = torch.addcmul(work.pull_of_mean, work.centred, work.pull_of_std, out=work.scratch)
    inner.addcmul_(gradient, work.scale)
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
