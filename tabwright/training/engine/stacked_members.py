"""Several networks of one architecture, trained as one stacked computation without autograd.

`StackedMembers` takes `models.py` modules apart into flat buffers, trains them side by side by
the `passes` of a batch and the optimiser of `optimizer`, and puts them together again. Which
members a thread and a kernel take is the affair of `lanes`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tabwright.settings import Precision
from tabwright.training.engine.adamw import FlatAdamW
from tabwright.training.engine.compiled_kernels import has_compiled_kernels
from tabwright.training.engine.dropout import Part, dropout_keys, seeds_on
from tabwright.training.engine.layers import head_values
from tabwright.training.engine.passes import BatchWork, MemberGroup, Stack
from tabwright.training.engine.tensor_layout import FlatTensors, TensorLayout
from tabwright.training.engine.threads import Threads, lanes_of, members_together, pieces_of
from tabwright.training.engine.torch_kernels import BATCH_NORM_EPS

__all__ = ["Kernels", "StackedMembers"]

Kernels = Literal["auto", "torch", "compiled"]

_STEPS_PER_BLOCK = 256
_EVALUATION_ROWS = 512


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
    kernels : {"auto", "torch", "compiled"}, default="auto"
        What computes the hidden layers: torch's operations, or the compiled functions of the
        extension, for modules in float32 on a CPU; "auto": the latter where they are there.

    Raises
    ------
    TypeError
        If the modules are not of one architecture that is known here (`trainer.members_of` takes
        any).
    ValueError
        If there is no module, the seeds are not as many, `n_threads` is below 1, the precision or
        the kernels are not known, not for such modules, or not built.
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
        kernels: Kernels = "auto",
    ) -> None:
        if not modules:
            raise ValueError("modules must hold at least one network; got none")
        if len(seeds) != len(modules):
            raise ValueError(f"seeds must be one per module ({len(modules)}); got {len(seeds)}")
        if n_threads < 1:
            raise ValueError(f"n_threads must be at least 1; got {n_threads}")
        self._architecture = arch = TensorLayout.of(modules[0])
        if any(TensorLayout.of(module) != arch for module in modules):
            raise TypeError("modules must all be of one architecture, shapes, dtype and device")
        if precision not in get_args(Precision):
            raise ValueError(
                f"precision must be one of {', '.join(get_args(Precision))}; got {precision!r}"
            )
        in_half = precision == "bfloat16"
        can_compile = arch.dtype == torch.float32 and arch.device.type == "cpu"
        if in_half and arch.dtype != torch.float32:
            raise ValueError(f"precision 'bfloat16' is for modules in float32; got {arch.dtype}")
        if kernels not in get_args(Kernels):
            raise ValueError(
                f"kernels must be one of {', '.join(get_args(Kernels))}; got {kernels!r}"
            )
        if kernels == "compiled" and not can_compile:
            raise ValueError(
                "kernels 'compiled' are for modules in float32 on a CPU; "
                f"got {arch.dtype} on {arch.device}"
            )
        is_compiled = kernels == "compiled" or (
            kernels == "auto" and can_compile and has_compiled_kernels()
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
        self._stack = Stack(
            arch,
            self._parameters,
            self._gradients,
            self._statistics,
            all_reduce,
            in_half,
            is_compiled,
        )
        self._n_batches = [0] * n_members
        self._best_n_batches = [0] * n_members
        self._active = [True] * n_members
        self._all_reduce = all_reduce
        # Sums over workers must come in the same order in each of them.
        is_threaded = arch.device.type == "cpu" and all_reduce is None
        self._threads = Threads(min(n_threads, n_members) if is_threaded else 1)
        self._optimizer = FlatAdamW(
            self._parameters.memory,
            self._gradients.memory,
            self._parameters.offset(arch.plain()[0]),
            betas=betas,
            is_compiled=is_compiled,
        )
        for k in range(n_members):
            self._fill(k)
            self.snapshot(k)
        self._lanes = lanes_of(self._active, 1)
        self._work: dict[tuple[int, Part | None], BatchWork] = {}
        self._keys: tuple[int, Tensor] | None = None

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
    def dtype(self) -> torch.dtype:
        """Of their parameters."""
        return self._architecture.dtype

    @property
    def n_threads(self) -> int:
        """Threads that may share them, at the most."""
        return self._threads.n_threads

    @property
    def is_shared(self) -> bool:
        """Whether several workers share every batch."""
        return self._all_reduce is not None

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
        self._prepare(x, step=step, part=part)
        work = self._work[len(x), part]
        self._lanes = work.slices
        shared = x.unsqueeze(0)

        def forward(groups: list[MemberGroup]) -> None:
            for group in groups:
                group.forward(shared)

        def backward(groups: list[MemberGroup]) -> None:
            for group in groups:
                group.backward(shared, gradient[group.members])

        self._threads.run(forward, work.lanes)
        gradient = loss_grad(work.logits)
        self._threads.run(backward, work.lanes)
        if self._all_reduce is not None:
            self._all_reduce(self._gradients.memory)
        self._count_batch()
        return work.logits

    def _prepare(self, x: Tensor, *, step: int, part: Part | None = None) -> None:
        """Checks, buffers and dropout of a step; parameters and errors are `forward_backward`'s."""
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
            lanes = self._threads.share(self._active, len(x) * arch.hidden_dim)
            work = self._work[len(x), part] = BatchWork(self._stack, lanes, len(x), part)
        if arch.has_dropout:
            work.keys.copy_(self._step_keys(step))

    def _count_batch(self) -> None:
        for k, is_active in enumerate(self._active):
            self._n_batches[k] += is_active

    def train_block(
        self,
        batches: Sequence[Tensor],
        loss_grad: Callable[[int, slice, Tensor], Tensor],
        *,
        step: int,
        learning_rates: Sequence[float],
        weight_decay: float,
    ) -> None:
        """A step of the active members for each of several batches.

        The same as `forward_backward` and `optimizer_step` for one batch after the other. But
        members know nothing of one another: every thread takes its own through all batches before
        it waits for the others, since waiting costs as much as a step of small networks.

        Parameters
        ----------
        batches : sequence of Tensor of shape (batch, input_dim)
            All of one shape.
        loss_grad : callable
            Maps the place of a batch, a slice of members, and their logits of shape
            (n_chosen, batch, output_dim) to the gradient of their losses in those. Threads call
            it at the same time, for other members each.
        step : int
            Number of the first step.
        learning_rates : sequence of float
            One per batch.
        weight_decay : float

        Raises
        ------
        ValueError
            If workers share the batches, the batches differ in shape, or there are not as many
            learning rates, besides the errors of `forward_backward`.
        """
        if self.is_shared:
            raise ValueError("workers that share a batch must wait for each other in every step")
        shapes = {tuple(x.shape) for x in batches}
        if len(shapes) != 1 or len(learning_rates) != len(batches):
            raise ValueError(
                "a block must hold batches of one shape and as many learning rates; got shapes "
                f"{sorted(shapes)}, {len(batches)} batches and {len(learning_rates)} rates"
            )
        self._prepare(batches[0], step=step)
        keys: list[Tensor] = []
        if self._architecture.has_dropout:
            keys = [self._step_keys(step + i) for i in range(len(batches))]

        def take(groups: list[MemberGroup]) -> None:
            for i, x in enumerate(batches):
                shared = x.unsqueeze(0)
                for group in groups:
                    if keys:
                        group.keys.copy_(keys[i][:, group.members])
                    group.forward(shared)
                    group.backward(shared, loss_grad(i, group.members, group.logits))
                    self._optimizer.step(learning_rates[i], weight_decay, group.members)

        self._threads.run(take, self._work[len(batches[0]), None].lanes)
        for _ in batches:
            self._count_batch()

    def optimizer_step(self, learning_rate: float, weight_decay: float) -> None:
        """One step of AdamW for every active member; decay on linear weights only.

        Parameters
        ----------
        learning_rate : float
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
            self._lanes = lanes_of(changed, 1)
            self._work.clear()
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
        together = members_together(self._architecture, self.n_members, rows)

        def evaluate(lane: list[slice]) -> None:
            for members in pieces_of(lane, together):
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
        head_values(shift, values, weight, out)
