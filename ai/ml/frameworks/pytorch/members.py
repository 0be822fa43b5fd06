"""Several networks of one architecture, trained as one stacked computation without autograd.

`StackedMembers` takes `models.py` modules apart into flat buffers, trains them side by side by
the kernels of `layers` and the optimiser of `optimizer`, and puts them together again. How many
members a kernel takes at once depends on the device and on the size of a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar, get_args

import torch
from torch import Tensor, nn

from ai.ml.frameworks.pytorch.architecture import Architecture, FlatTensors
from ai.ml.frameworks.pytorch.compiled import CompiledKernels
from ai.ml.frameworks.pytorch.compiled_network import (
    CompiledNetwork,
    Layer,
    NetworkBuffers,
    torch_sgemm,
)
from ai.ml.frameworks.pytorch.dropout import (
    HIGHEST_HASHED_RATE,
    Part,
    dropout_keys,
    seeds_on,
)
from ai.ml.frameworks.pytorch.kernels import BATCH_NORM_EPS, BATCH_NORM_MOMENTUM
from ai.ml.frameworks.pytorch.layers import (
    BFloat16Products,
    HiddenWeights,
    HiddenWork,
    backward_hidden,
    forward_hidden,
)
from ai.ml.frameworks.pytorch.optimizer import FlatAdamW
from ai.ml.frameworks.pytorch.settings import Kernels, Precision

__all__ = ["StackedMembers"]

_T = TypeVar("_T")

_STEPS_PER_BLOCK = 256
_EVALUATION_ROWS = 512
# Members are computed together on a CPU while their hidden values, in elements, stay below this:
# small operations cost their call, large ones the way to memory.
_TOGETHER = 2**18
_VECTOR = 16
# Hidden values, in elements, that a thread must have of its own to gain more than it waits.
_WORTH_A_THREAD = 2**16


class StackedMembers:
    """Networks of one architecture, trained side by side.

    The bias of a linear layer in front of batch norm has a gradient of zero: it keeps its first
    value (under autograd it would wander by rounding errors, to no effect).

    Parameters
    ----------
    modules : sequence of nn.Module
        `MLP`, `TabResNet` or `LinearBaseline`, all of one architecture, shapes, dtype and device.
        They are copied.
    seeds : sequence of int
        One per module: the seed of its dropout. A member's stream depends on nothing else.
    betas : tuple of float, default=(0.9, 0.999)
        AdamW's.
    n_threads : int, default=1
        At most so many threads share the members on a CPU, where the work is worth the waiting
        for each other. The result does not depend on it, bit for bit.
        Operations should then use one thread each (`torch.set_num_threads(1)`, which the trainer
        sees to): threads inside an operation gain nothing at these sizes, and spin while they
        wait.
    all_reduce : callable, optional
        Sums a tensor over the workers that share every batch, in place. Gradients are then those
        of the whole batch, and so are batch norm's statistics: the result does not depend on how
        many workers there are, up to rounding. One thread does the work.
    precision : {"float32", "bfloat16"}, default="float32"
        What the hidden layers' matrix products are computed in, for modules in float32. In
        bfloat16, members stacked and alone agree to its rounding, not bit for bit.
    kernels : {"torch", "compiled"}, default="torch"
        What computes the hidden layers between their matrix products: torch's operations, or
        kernels that a C compiler makes when they are first needed, for modules in float32 on a
        CPU.

    Raises
    ------
    TypeError
        If the modules are not of one architecture that is known here.
    ValueError
        If there is no module, the seeds are not as many, `n_threads` is below 1, the precision or
        the kernels are not known or not for such modules, or the kernels cannot be compiled.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        *,
        seeds: Sequence[int],
        betas: tuple[float, float] = (0.9, 0.999),
        n_threads: int = 1,
        all_reduce: Callable[[Tensor], None] | None = None,
        precision: Precision = "float32",
        kernels: Kernels = "torch",
    ) -> None:
        if not modules:
            raise ValueError("modules must hold at least one network; got none")
        if len(seeds) != len(modules):
            raise ValueError(f"seeds must be one per module ({len(modules)}); got {len(seeds)}")
        if n_threads < 1:
            raise ValueError(f"n_threads must be at least 1; got {n_threads}")
        self._architecture = arch = Architecture.of(modules[0])
        if any(Architecture.of(module) != arch for module in modules):
            raise TypeError("modules must all be of one architecture, shapes, dtype and device")
        if precision not in get_args(Precision):
            raise ValueError(
                f"precision must be one of {', '.join(get_args(Precision))}; got {precision!r}"
            )
        self._in_half = precision == "bfloat16"
        if self._in_half and arch.dtype != torch.float32:
            raise ValueError(f"precision 'bfloat16' is for modules in float32; got {arch.dtype}")
        if kernels not in get_args(Kernels):
            raise ValueError(
                f"kernels must be one of {', '.join(get_args(Kernels))}; got {kernels!r}"
            )
        self._is_compiled = kernels == "compiled"
        if self._is_compiled and (arch.dtype != torch.float32 or arch.device.type != "cpu"):
            raise ValueError(
                "kernels 'compiled' are for modules in float32 on a CPU; "
                f"got {arch.dtype} on {arch.device}"
            )
        # Whole passes are compiled where nothing must happen in their middle.
        self._passes_at_once = (
            self._is_compiled
            and not self._in_half
            and all_reduce is None
            and all(layer.rate <= HIGHEST_HASHED_RATE for layer in arch.hidden)
            and torch_sgemm() is not None
        )
        n_members = len(modules)
        self._templates = [copy.deepcopy(module).eval() for module in modules]
        self._seeds = seeds_on(arch.device, seeds)
        trained = (*arch.decayed(), *arch.plain())
        self._parameters, self._gradients, self._best_parameters = (
            FlatTensors(trained, n_members, arch.dtype, arch.device) for _ in range(3)
        )
        self._biases = FlatTensors(arch.biases(), n_members, arch.dtype, arch.device)
        # Running means stand here without the linear layers' biases.
        self._statistics, self._best_statistics = (
            FlatTensors(arch.statistics(), n_members, arch.dtype, arch.device) for _ in range(2)
        )
        self._n_batches = [0] * n_members
        self._best_n_batches = [0] * n_members
        self._active = [True] * n_members
        self._all_reduce = all_reduce
        # Sums over workers must come in the same order in each of them.
        is_threaded = arch.device.type == "cpu" and all_reduce is None
        self._threads = _Threads(min(n_threads, n_members) if is_threaded else 1)
        self._optimizer = FlatAdamW(
            self._parameters.memory,
            self._gradients.memory,
            self._parameters.offset(arch.plain()[0]),
            betas=betas,
            is_compiled=self._is_compiled,
        )
        for k in range(n_members):
            self._fill(k)
            self.snapshot(k)
        self._lanes = _lanes(self._active, 1)
        self._work: dict[tuple[int, Part | None], _Work] = {}
        self._keys: tuple[int, Tensor] | None = None
        self._buffers_version = 0

    # -- training -----------------------------------------------------------------------------

    @property
    def n_members(self) -> int:
        """How many networks there are."""
        return len(self._templates)

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self._architecture.device

    @property
    def is_shared(self) -> bool:
        """Whether several workers share every batch."""
        return self._all_reduce is not None

    @property
    def buffers_version(self) -> int:
        """Grows when buffers of the step are dropped: what holds their addresses is void then."""
        return self._buffers_version

    def forward_backward(
        self,
        x: Tensor,
        loss_grad: Callable[[Tensor], Tensor],
        *,
        step: int,
        part: Part | None = None,
    ) -> Tensor:
        """Run forward in training mode and backward from the gradient that `loss_grad` gives.

        Members that are not active are left out: their logits are zero.

        Parameters
        ----------
        x : Tensor of shape (batch, input_dim), of the parameters' dtype
            At least two rows, where the architecture has batch norm; of a part of a batch, the
            whole.
        loss_grad : callable
            Maps logits of shape (n_members, batch, output_dim) to the loss's gradient in them. It
            must neither change the logits nor keep them.
        step : int
            Number of the step; the dropout of a step depends on it and on the member's seed only.
        part : Part, optional
            Which rows of the batch `x` holds, where workers share it. The loss's gradient is then
            that of the whole batch's mean loss.

        Returns
        -------
        Tensor of shape (n_members, batch, output_dim)
            The logits; overwritten by the next call.

        Raises
        ------
        ValueError
            If `x` has another shape, or one row where batch norm needs two.
        """
        self.prepare(x, step=step, part=part)
        logits = self.uncounted_forward_backward(x, loss_grad, part=part)
        self.count_batch()
        return logits

    def prepare(self, x: Tensor, *, step: int, part: Part | None = None) -> None:
        """What the host does before `uncounted_forward_backward`: checks, buffers, dropout.

        Parameters and errors are those of `forward_backward`.
        """
        arch = self._architecture
        n_rows = len(x) if part is None else part.n_rows
        if x.ndim != 2 or x.shape[1] != arch.input_dim:
            raise ValueError(
                f"x must have shape (batch, {arch.input_dim}); got {tuple(x.shape)}; "
                "encode the rows with the encoder of this model"
            )
        if arch.hidden and n_rows < 2:
            raise ValueError(
                f"batch norm needs at least 2 rows in training; got {n_rows}; join the last batch "
                "to the one before"
            )
        work = self._work.get((len(x), part))
        if work is None:
            work = self._work[len(x), part] = _Work(self, len(x), part)
        if arch.has_dropout:
            work.keys.copy_(self._step_keys(step))

    def count_batch(self) -> None:
        """Say that the active members saw a batch in `uncounted_forward_backward`."""
        for k, is_active in enumerate(self._active):
            self._n_batches[k] += is_active

    def uncounted_forward_backward(
        self, x: Tensor, loss_grad: Callable[[Tensor], Tensor], *, part: Part | None = None
    ) -> Tensor:
        """`forward_backward` of a batch that was prepared, all but what the host does.

        After a first call with as many rows, nothing but work on the device: a step that was
        captured repeats all of it, at the same addresses while `buffers_version` stays.
        """
        work = self._work[len(x), part]
        self._lanes = work.slices
        shared = x.unsqueeze(0)

        def forward(groups: list[_Group]) -> None:
            for group in groups:
                group.forward(shared)

        def backward(groups: list[_Group]) -> None:
            for group in groups:
                group.backward(shared, gradient)

        self._threads.run(forward, work.lanes)
        gradient = loss_grad(work.logits)
        self._threads.run(backward, work.lanes)
        if self._all_reduce is not None:
            self._all_reduce(self._gradients.memory)
        return work.logits

    def optimizer_step(self, learning_rate: float | Tensor, weight_decay: float) -> None:
        """One step of AdamW for every active member; decay on linear weights only.

        Parameters
        ----------
        learning_rate : float or Tensor of shape ()
        weight_decay : float
        """

        def optimize(lane: list[slice]) -> None:
            for members in lane:
                self._optimizer.step(learning_rate, weight_decay, members)

        self._threads.run(optimize, self._lanes)

    def set_active(self, active: Sequence[bool]) -> None:
        """Say which members still train; the others stay as they are, and cost nothing."""
        if len(active) != self.n_members:
            raise ValueError(f"active must be one per member ({self.n_members}); got {len(active)}")
        changed = [bool(value) for value in active]
        if changed != self._active:
            self._active = changed
            self._lanes = _lanes(changed, 1)
            self._work.clear()
            self._buffers_version += 1
            # Nobody writes these any more; sums over workers would double them step after step.
            for k in range(self.n_members):
                if not changed[k]:
                    self._gradients.memory[k].zero_()

    # -- evaluation ---------------------------------------------------------------------------

    def logits(self, x: Tensor) -> Tensor:
        """Logits in eval mode.

        Parameters
        ----------
        x : Tensor of shape (batch, input_dim), of the parameters' dtype

        Returns
        -------
        Tensor of shape (n_members, batch, output_dim)
        """
        out = x.new_empty(self.n_members, len(x), self._architecture.output_dim)
        rows = _EVALUATION_ROWS if x.device.type == "cpu" else max(1, len(x))
        together = _members_together(self._architecture, self.n_members, rows)

        def evaluate(lane: list[slice]) -> None:
            for members in _pieces(lane, together):
                layers = self._folded(members)
                for start in range(0, len(x), rows):
                    block = slice(start, start + rows)
                    self._evaluate(layers, x[block], out[members, block])

        everyone = [True] * self.n_members
        size = len(x) * self._architecture.hidden_dim
        self._threads.run(evaluate, self._threads.share(everyone, size))
        return out

    def modules(self) -> list[nn.Module]:
        """The members as ordinary modules of `models.py`, copies, in eval mode."""
        modules = [copy.deepcopy(template) for template in self._templates]
        for k, module in enumerate(modules):
            state = module.state_dict()
            for flat in (self._parameters, self._biases, self._statistics):
                for name, value in flat.named(k):
                    state[name].copy_(value)
            for layer in self._architecture.hidden:
                state[f"{layer.norm}.running_mean"].add_(state[f"{layer.linear}.bias"])
                state[f"{layer.norm}.num_batches_tracked"].fill_(self._n_batches[k])
        return modules

    def gradients(self, member: int) -> dict[str, Tensor]:
        """Gradients of the last step by parameter name, copies.

        The zero gradients of biases in front of batch norm are among them.
        """
        gradients = {
            name: torch.zeros_like(value)
            for name, value in self._templates[member].named_parameters()
        }
        return gradients | {name: value.clone() for name, value in self._gradients.named(member)}

    # -- best states and resuming -------------------------------------------------------------

    def snapshot(self, member: int) -> None:
        """Keep the member's present state as its best."""
        self._best_parameters.memory[member].copy_(self._parameters.memory[member])
        self._best_statistics.memory[member].copy_(self._statistics.memory[member])
        self._best_n_batches[member] = self._n_batches[member]

    def restore(self) -> None:
        """Bring every member back to its best state."""
        self._parameters.memory.copy_(self._best_parameters.memory)
        self._statistics.memory.copy_(self._best_statistics.memory)
        self._n_batches = list(self._best_n_batches)

    def state(self) -> dict[str, Tensor]:
        """All that an exact resumption needs, copied to the CPU.

        Returns
        -------
        dict of str to Tensor
            Parameters, AdamW's running averages and counts of steps, running statistics, best
            states, and which members are active. Meant for `load_state` of members that were
            made from the same modules and seeds.
        """
        return {name: value.to("cpu", copy=True) for name, value in self._buffers()} | {
            "n_batches": torch.tensor(self._n_batches, dtype=torch.int64),
            "best_n_batches": torch.tensor(self._best_n_batches, dtype=torch.int64),
            "active": torch.tensor(self._active, dtype=torch.bool),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned.

        Parameters
        ----------
        state : mapping of str to Tensor

        Raises
        ------
        ValueError
            If a tensor is missing, is not known, or has another shape or dtype than these members
            need; nothing is changed then.
        """
        present = self.state()
        if state.keys() != present.keys():
            odd = sorted(state.keys() ^ present.keys())
            raise ValueError(f"the state must hold {sorted(present)}; missing or unknown: {odd}")
        for name, value in present.items():
            given = state[name]
            if given.shape != value.shape or given.dtype != value.dtype:
                raise ValueError(
                    f"{name} of the state must be {value.dtype} of shape {tuple(value.shape)}; got "
                    f"{given.dtype} of shape {tuple(given.shape)}; resume with the same settings"
                )
        for name, buffer in self._buffers():
            buffer.copy_(state[name])
        self._n_batches = state["n_batches"].tolist()
        self._best_n_batches = state["best_n_batches"].tolist()
        self.set_active(state["active"].tolist())

    # -- private ------------------------------------------------------------------------------

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        yield "parameters", self._parameters.memory
        yield "biases", self._biases.memory
        yield "first_moments", self._optimizer.first_moments
        yield "second_moments", self._optimizer.second_moments
        yield "steps", self._optimizer.steps
        yield "statistics", self._statistics.memory
        yield "best_parameters", self._best_parameters.memory
        yield "best_statistics", self._best_statistics.memory

    def _fill(self, member: int) -> None:
        state = self._templates[member].state_dict()
        for flat in (self._parameters, self._biases, self._statistics):
            for name, value in flat.named(member):
                value.copy_(state[name])
        statistics = dict(self._statistics.named(member))
        for layer in self._architecture.hidden:
            statistics[f"{layer.norm}.running_mean"].sub_(state[f"{layer.linear}.bias"])
            self._n_batches[member] = int(state[f"{layer.norm}.num_batches_tracked"])

    def _step_keys(self, step: int) -> Tensor:
        """Keys of one step, shape (n_layers, n_members); a block of steps is made at once."""
        start = step - step % _STEPS_PER_BLOCK
        if self._keys is None or self._keys[0] != start:
            steps = torch.arange(start, start + _STEPS_PER_BLOCK, device=self._architecture.device)
            n_layers = len(self._architecture.hidden)
            self._keys = (start, dropout_keys(self._seeds, n_layers, steps))
        return self._keys[1][step - start]

    def _folded(self, members: slice) -> list[tuple[Tensor, Tensor]]:
        """Transposed weights and biases of the hidden layers, batch norm folded in."""
        arch = self._architecture
        means, variances = (self._statistics.view(piece, members) for piece in arch.statistics())
        layers = []
        for i, (linear, norm) in enumerate(
            zip(arch.decayed()[:-1], arch.plain()[:-1], strict=True)
        ):
            shift, scale = self._parameters.view(norm, members).unsqueeze(2).unbind(1)
            scale = scale * (variances[:, i : i + 1] + BATCH_NORM_EPS).rsqrt()
            weight = self._parameters.view(linear, members)[:, 0]
            layers.append((weight.transpose(1, 2) * scale, shift - means[:, i : i + 1] * scale))
        weight = self._parameters.view(arch.decayed()[-1], members)[:, 0]
        return [
            *layers,
            (weight.transpose(1, 2), self._parameters.view(arch.plain()[-1], members)),
        ]

    def _evaluate(self, layers: list[tuple[Tensor, Tensor]], x: Tensor, out: Tensor) -> None:
        values = x.expand(len(out), -1, -1)
        entry = values
        for layer, (weight, shift) in zip(self._architecture.hidden, layers[:-1], strict=True):
            if layer.opens_block:
                entry = values
            values = torch.baddbmm(shift, values, weight)
            if layer.closes_block:
                values += entry
            values.relu_()
        weight, shift = layers[-1]
        torch.baddbmm(shift, values, weight, out=out)


class _Threads:
    """A function applied to several lists at once, the first of them in the calling thread."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        # The threads end with the pool, which ends with its owner; idle ones sleep. A thread's
        # first question how many threads an operation has is what makes torch tell the BLAS.
        self._pool = (
            ThreadPoolExecutor(n_threads - 1, initializer=torch.get_num_threads)
            if n_threads > 1
            else None
        )

    def share(self, active: Sequence[bool], size: int) -> list[list[slice]]:
        """The active members by thread, given the hidden values of a member, in elements."""
        is_worth_it = sum(active) * size >= self.n_threads * _WORTH_A_THREAD
        return _lanes(active, self.n_threads if is_worth_it else 1)

    def run(self, function: Callable[[list[_T]], None], lanes: Sequence[list[_T]]) -> None:
        """Return when all are done, even if one raises."""
        if self._pool is None or len(lanes) == 1:
            for lane in lanes:
                _call(function, lane)
            return
        others = [self._pool.submit(_call, function, lane) for lane in lanes[1:]]
        try:
            _call(function, lanes[0])
        finally:
            wait(others)
        for other in others:
            other.result()


def _call(function: Callable[[list[_T]], None], lane: list[_T]) -> None:
    # Inference mode takes a twentieth off a step of many small operations. It is the thread's own.
    with torch.inference_mode():
        function(lane)


def _members_together(arch: Architecture, n_members: int, batch: int) -> int:
    """How many members one kernel shall take.

    On a CPU a member's values must fill whole vectors: then their bits do not depend on where
    they lie, and a member computed among others equals the same member alone.
    """
    if arch.device.type != "cpu":
        return n_members
    if batch * arch.hidden_dim % _VECTOR:
        return 1
    return max(1, _TOGETHER // (batch * max(arch.hidden_dim, arch.input_dim)))


def _lanes(active: Sequence[bool], n_threads: int) -> list[list[slice]]:
    """The active members in about equal shares, each as runs of neighbours."""
    chosen = [k for k, is_active in enumerate(active) if is_active]
    lanes = []
    for thread in range(n_threads):
        low, high = (len(chosen) * i // n_threads for i in (thread, thread + 1))
        lane: list[slice] = []
        for k in chosen[low:high]:
            if lane and lane[-1].stop == k:
                lane[-1] = slice(lane[-1].start, k + 1)
            else:
                lane.append(slice(k, k + 1))
        lanes.append(lane)
    return lanes


def _pieces(lane: Sequence[slice], size: int) -> Iterator[slice]:
    """Runs of members in pieces of at most `size`, as even as can be."""
    for run in lane:
        length = run.stop - run.start
        n_pieces = -(-length // size)
        for i in range(n_pieces):
            yield slice(
                run.start + length * i // n_pieces, run.start + length * (i + 1) // n_pieces
            )


class _Work:
    """Buffers for one batch size."""

    def __init__(self, owner: StackedMembers, batch: int, part: Part | None = None) -> None:
        arch = owner._architecture
        like = owner._parameters.memory
        self.logits = like.new_zeros(owner.n_members, batch, arch.output_dim)
        self.keys = torch.zeros(
            len(arch.hidden), owner.n_members, dtype=torch.int32, device=like.device
        )
        # Workers must sum the same pieces, whatever their parts of the batch.
        together = owner.n_members
        if owner._passes_at_once:
            together = 1
        elif owner._all_reduce is None:
            together = _members_together(arch, owner.n_members, batch)
        self.lanes: list[list[_Group]] = []
        self.slices = owner._threads.share(owner._active, batch * arch.hidden_dim)
        for lane in self.slices:
            pieces = list(_pieces(lane, together))
            largest = max((piece.stop - piece.start for piece in pieces), default=0)
            scratch = like.new_empty(3, largest, batch, arch.hidden_dim)
            self.lanes.append([_Group(owner, piece, self, scratch, part) for piece in pieces])


class _Group:
    """Members that are computed at once, for one batch size."""

    def __init__(
        self,
        owner: StackedMembers,
        members: slice,
        work: _Work,
        scratch: Tensor,
        part: Part | None,
    ) -> None:
        arch = owner._architecture
        self._members = members
        self._n_members = n_members = members.stop - members.start
        batch = work.logits.shape[1] if part is None else part.n_rows
        self._hidden = arch.hidden
        self._logits = work.logits[members]
        self._input_dim = arch.input_dim
        self._scratch, self._gradient, self._spare = scratch[:, :n_members].unbind(0)
        self._weights, self._head, self._head_bias = self._views(owner._parameters, arch)
        self._gradients, self._head_gradient, self._head_bias_gradient = self._views(
            owner._gradients, arch
        )
        self._head_transposed = self._head.transpose(1, 2)
        # Sums over the batch of all layers, laid out as the running statistics are, and what
        # turns them into this batch's part of those: the variance is the unbiased one.
        self._running = owner._statistics.memory[members]
        sums = FlatTensors(arch.statistics(), n_members, arch.dtype, arch.device)
        shares = FlatTensors(arch.statistics(), n_members, arch.dtype, arch.device)
        self._sums, self._shares = sums.memory, shares.memory
        everyone = slice(None)
        totals, square_sums = (sums.view(piece, everyone) for piece in arch.statistics())
        self._kept_share = scratch.new_full((), 1 - BATCH_NORM_MOMENTUM)
        if arch.hidden:
            for piece, n_rows in zip(arch.statistics(), (batch, batch - 1), strict=True):
                shares.view(piece, everyone).fill_(BATCH_NORM_MOMENTUM / n_rows)
        self._layers = [
            HiddenWork(
                layer.rate,
                totals[:, i : i + 1],
                square_sums[:, i : i + 1],
                self._scratch,
                part=part,
                all_reduce=owner._all_reduce,
                products=BFloat16Products() if owner._in_half else None,
                is_compiled=owner._is_compiled,
            )
            for i, layer in enumerate(arch.hidden)
        ]
        self._step_keys = [keys[members, None, None] for keys in work.keys]
        self._compiled = self._compiled_network() if owner._passes_at_once else None

    def _compiled_network(self) -> CompiledNetwork:
        layers = [
            Layer(
                work.kernels,
                weights.weight[0],
                weights.norm[0],
                gradients.weight[0],
                gradients.norm[0],
                key[0],
                layer.opens_block,
                layer.closes_block,
            )
            for layer, weights, gradients, work, key in zip(
                self._hidden,
                self._weights,
                self._gradients,
                self._layers,
                self._step_keys,
                strict=True,
            )
            if isinstance(work.kernels, CompiledKernels)
        ]
        buffers = NetworkBuffers(
            head=self._head[0],
            head_gradient=self._head_gradient[0],
            head_bias=self._head_bias[0, 0],
            head_bias_gradient=self._head_bias_gradient[0, 0],
            logits=self._logits[0],
            outer=torch.empty_like(self._logits[0]),
            gradient=self._gradient[0],
            spare=self._spare[0],
            scratch=self._scratch[0],
            running=self._running[0],
            sums=self._sums[0],
            shares=self._shares[0],
        )
        return CompiledNetwork(layers, buffers, self._input_dim, 1 - BATCH_NORM_MOMENTUM)

    def _views(
        self, flat: FlatTensors, arch: Architecture
    ) -> tuple[list[HiddenWeights], Tensor, Tensor]:
        *linears, head = (flat.view(piece, self._members)[:, 0] for piece in arch.decayed())
        *norms, head_bias = (flat.view(piece, self._members) for piece in arch.plain())
        hidden = [HiddenWeights(*pair) for pair in zip(linears, norms, strict=True)]
        return hidden, head, head_bias

    def forward(self, x: Tensor) -> None:
        """Logits in training mode of a batch (1, rows, input_dim); running statistics move."""
        if self._compiled is not None:
            self._compiled.forward(x[0].contiguous())
            return
        values = x if self._n_members == 1 else x.expand(self._n_members, -1, -1)
        entry = values
        for layer, weights, work, key in zip(
            self._hidden, self._weights, self._layers, self._step_keys, strict=True
        ):
            if layer.opens_block:
                entry = values
            residual = entry if layer.closes_block else None
            values = forward_hidden(values, weights, work, residual=residual, key=key)
        torch.baddbmm(self._head_bias, values, self._head_transposed, out=self._logits)
        if self._hidden:
            self._running.mul_(self._kept_share).addcmul_(self._sums, self._shares)

    def backward(self, x: Tensor, logits_gradient: Tensor) -> None:
        """All gradients from that in the logits of all members."""
        if self._compiled is not None:
            self._compiled.backward(
                x[0].contiguous(), logits_gradient[self._members][0].contiguous()
            )
            return
        outer = logits_gradient[self._members]
        x = x if self._n_members == 1 else x.expand(self._n_members, -1, -1)
        last = self._layers[-1].output if self._layers else x
        torch.bmm(outer.transpose(1, 2), last, out=self._head_gradient)
        torch.sum(outer, 1, keepdim=True, out=self._head_bias_gradient)
        if not self._layers:
            return
        gradient, spare = self._gradient, self._spare
        torch.bmm(outer, self._head, out=gradient)
        for i in reversed(range(len(self._layers))):
            layer = self._hidden[i]
            # Inside a block, the gradient in the shortcut waits in the other buffer.
            in_block = layer.opens_block or layer.closes_block
            backward_hidden(
                gradient,
                self._layers[i - 1].output if i else x,
                self._weights[i],
                self._layers[i],
                self._gradients[i],
                x_gradient=None if i == 0 else spare if in_block else gradient,
                accumulate=layer.opens_block,
            )
            if in_block:
                gradient, spare = spare, gradient
