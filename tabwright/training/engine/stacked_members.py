"""Several networks of one architecture, trained side by side.

`StackedMembers` takes `models.py` modules apart into flat buffers, trains them there by
`CompiledSteps` or `AutogradSteps`, and puts them together again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tabwright.settings import Precision
from tabwright.training.engine.autograd_members import ADAMW_BETAS, AutogradSteps
from tabwright.training.engine.compiled_kernels import has_compiled_kernels
from tabwright.training.engine.compiled_steps import AdamWSettings, CompiledSteps
from tabwright.training.engine.dropout import Part, dropout_keys, seeds_on
from tabwright.training.engine.row_goal import RowGoal
from tabwright.training.engine.row_table import RowTable
from tabwright.training.engine.tensor_layout import (
    BATCH_NORM_EPS,
    FlatTensors,
    MemberBuffers,
    TensorLayout,
)

Engine = Literal["auto", "torch", "compiled"]

_STEPS_PER_BLOCK = 256
_EVALUATION_ROWS = 512
# The default of `torch.optim.AdamW`.
_ADAMW_EPS = 1e-8


class StackedMembers:
    """Networks of one architecture, trained side by side.

    The bias of a linear layer in front of batch norm has a gradient of zero: it keeps its first
    value (under autograd it would wander by rounding errors, to no effect).

    `modules`: `MLP`, `TabResNet` or `LinearBaseline`, all of one architecture, shapes, dtype and
        device. They are copied.
    `seeds`: one per module: the seed of its dropout. A member's stream depends on nothing else.
    `n_threads`: at most so many threads share compiled steps. The result does not depend on it, bit
        for bit. Operations should use one thread each meanwhile, which the training loop sees to.
    `all_reduce`: sums a tensor over the workers that share every batch, in place. Gradients are
        then those of the whole batch, and so are batch norm's statistics: the result does not
        depend on how many workers there are, up to rounding.
    `precision`: what the hidden layers' matrix products are computed in, for modules in float32.
    `engine`: what takes the steps. "auto": the compiled functions of the extension where they are
        built, for modules in float32 on a CPU whose batches are not shared by workers, and PyTorch
        for all else.
    Raises `TypeError` if the modules are not of one architecture that is known here
        (`loop.members_of` takes any).
    Raises `ValueError` if there is no module, the seeds are not as many, `n_threads` is below 1,
        the precision or the engine are not known, not for such modules, or not built.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        *,
        seeds: Sequence[int],
        n_threads: int = 1,
        all_reduce: Callable[[Tensor], None] | None = None,
        precision: Precision = "float32",
        engine: Engine = "auto",
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
        if precision == "bfloat16" and arch.dtype != torch.float32:
            raise ValueError(f"precision 'bfloat16' is for modules in float32; got {arch.dtype}")
        if engine not in get_args(Engine):
            raise ValueError(f"engine must be one of {', '.join(get_args(Engine))}; got {engine!r}")
        can_compile = (
            arch.dtype == torch.float32
            and arch.device.type == "cpu"
            and precision == "float32"
            and all_reduce is None
        )
        if engine == "compiled" and not can_compile:
            raise ValueError(
                "engine 'compiled' is for modules in float32 on a CPU, in that precision, whose "
                f"batches no workers share; got {arch.dtype} on {arch.device}, precision "
                f"{precision!r}"
            )
        n_members = len(modules)
        self._templates = [copy.deepcopy(module).eval() for module in modules]
        self._seeds = seeds_on(arch.device, seeds)
        self._buffers = MemberBuffers(arch, n_members)
        self._best_parameters = self._buffers.parameters.like()
        self._best_statistics = self._buffers.statistics.like()
        self._biases = FlatTensors(arch.biases(), n_members, arch.dtype, arch.device)
        self._compiled: CompiledSteps | None = None
        self._autograd: AutogradSteps | None = None
        if engine == "compiled" or (engine == "auto" and can_compile and has_compiled_kernels()):
            self._compiled = CompiledSteps(arch, self._buffers, n_threads)
        else:
            self._autograd = AutogradSteps(
                arch,
                self._buffers,
                all_reduce=all_reduce,
                in_half=precision == "bfloat16",
            )
        self._n_batches = [0] * n_members
        self._best_n_batches = [0] * n_members
        self._active = [True] * n_members
        for k in range(n_members):
            self._fill(k)
            self.snapshot(k)
        self._keys: tuple[int, Tensor] | None = None

    # -- training -----------------------------------------------------------------------------

    @property
    def n_members(self) -> int:
        """How many networks there are."""
        return len(self._templates)

    @property
    def compiled(self) -> StackedMembers | None:
        """These members where they can `train_run`, else None."""
        return None if self._compiled is None else self

    @property
    def needs_dense_rows(self) -> bool:
        """Whether a `RowTable` must have all inputs as numbers."""
        return not self._architecture.hidden

    def forward_backward(
        self,
        x: Tensor,
        loss_grad: Callable[[Tensor], Tensor],
        *,
        step: int,
        part: Part | None = None,
    ) -> Tensor:
        """Run forward in training mode and backward from the gradient that `loss_grad` gives.

        `x`: (batch, input_dim); at least two rows, where the architecture has batch norm; of a part
            of a batch, the whole.
        `loss_grad`: maps logits of shape (n_members, batch, output_dim) to the loss's gradient in
            them. It must neither change the logits nor keep them.
        `step`: number of the step; the dropout of a step depends on it and on the member's seed
            only.
        `part`: which rows of the batch `x` holds, where workers share it. The loss's gradient is
            then that of the whole batch's mean loss.
        Returns: (n_members, batch, output_dim); the logits; zero for members that do not train.
        Raises `ValueError` if `x` has another shape, or one row where batch norm needs two.
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
        keys = self._step_keys(step) if arch.has_dropout else None
        logits = x.new_zeros(self.n_members, len(x), arch.output_dim)
        active = self._active_members
        if self._autograd is not None:

            def gradient(active_logits: Tensor) -> Tensor:
                logits[active] = active_logits
                return loss_grad(logits)[active]

            own_keys = None if keys is None else keys[:, active]
            self._autograd.forward_backward(active, x, gradient, own_keys, part)
        elif self._compiled is not None:
            if part not in (None, Part(0, len(x))):
                raise ValueError(f"compiled steps take whole batches; got a part, {part}")
            x = x.contiguous()
            for k in active:
                self._compiled.forward(k, x, keys, logits[k])
            gradients = loss_grad(logits).contiguous()
            for k in active:
                self._compiled.backward(k, x, gradients[k])
        self._count_batches(1)
        return logits

    def optimizer_step(self, learning_rate: float, weight_decay: float) -> None:
        """One step of AdamW for every active member; decay on linear weights only."""
        if self._autograd is not None:
            self._autograd.update(self._active_members, learning_rate, weight_decay)
        elif self._compiled is not None:
            for k in self._active_members:
                self._compiled.update(k, learning_rate, self._adamw(weight_decay))

    def train_run(
        self,
        table: RowTable,
        goal: RowGoal,
        rows: Tensor,
        *,
        step: int,
        hide_keys: Tensor | None,
        learning_rates: Sequence[float],
        weight_decay: float,
        loss_sums: Tensor,
    ) -> None:
        """A compiled step of the active members for each batch of a run.

        `rows`: (n_batches, batch), int64.
        `hide_keys`: (n_batches,), int32; odd factors that decide which levels of the table are
            hidden in a batch.
        `loss_sums`: (n_members,), float64; each member's losses of all rows are added to it.
        Raises `ValueError`, `IndexError` if the members take no compiled steps (`compiled` is
            None), besides the errors of `CompiledSteps.take`.
        """
        if self._compiled is None:
            raise ValueError("runs are for compiled steps; use forward_backward")
        keys = None
        if self._architecture.has_dropout:
            keys = torch.stack([self._step_keys(step + i) for i in range(len(rows))])
        self._compiled.take(
            self._active_members,
            table,
            goal,
            rows,
            keys=keys,
            hide_keys=hide_keys,
            learning_rates=learning_rates,
            adamw=self._adamw(weight_decay),
            loss_sums=loss_sums,
        )
        self._count_batches(len(rows))

    @property
    def _active_members(self) -> list[int]:
        return [k for k, is_active in enumerate(self._active) if is_active]

    def _adamw(self, weight_decay: float) -> AdamWSettings:
        return AdamWSettings(ADAMW_BETAS, _ADAMW_EPS, weight_decay)

    def _count_batches(self, n_batches: int) -> None:
        for k in self._active_members:
            self._n_batches[k] += n_batches

    def set_active(self, active: Sequence[bool]) -> None:
        """Say which members still train; the others stay as they are, and cost nothing."""
        if len(active) != self.n_members:
            raise ValueError(f"active must be one per member ({self.n_members}); got {len(active)}")
        changed = [bool(value) for value in active]
        if changed != self._active:
            self._active = changed
            # Nobody writes these any more; sums over workers would double them step after step.
            for k in range(self.n_members):
                if not changed[k]:
                    self._buffers.gradients.memory[k].zero_()

    # -- evaluation ---------------------------------------------------------------------------

    def logits(self, x: Tensor) -> Tensor:
        """Logits in eval mode.

        `x`: (batch, input_dim).
        Returns: (n_members, batch, output_dim).
        """
        out = x.new_empty(self.n_members, len(x), self._architecture.output_dim)
        rows = _EVALUATION_ROWS if x.device.type == "cpu" else max(1, len(x))
        with torch.inference_mode():
            # One member after the other on a CPU: the bits are those that it has alone.
            n_together = 1 if x.device.type == "cpu" else self.n_members
            every = self._folded()
            for first in range(0, self.n_members, n_together):
                members = slice(first, first + n_together)
                layers = [(weight[members], shift[members]) for weight, shift in every]
                for start in range(0, len(x), rows):
                    block = slice(start, start + rows)
                    self._evaluate(layers, x[block], out[members, block])
        return out

    def modules(self) -> list[nn.Module]:
        """The members as ordinary modules of `models.py`, copies, in eval mode."""
        modules = [copy.deepcopy(template) for template in self._templates]
        for k, module in enumerate(modules):
            state = module.state_dict()
            for flat in (self._buffers.parameters, self._biases, self._buffers.statistics):
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
        return gradients | {
            name: value.clone() for name, value in self._buffers.gradients.named(member)
        }

    # -- best states and resuming -------------------------------------------------------------

    def snapshot(self, member: int) -> None:
        """Keep the member's present state as its best."""
        self._best_parameters.memory[member].copy_(self._buffers.parameters.memory[member])
        self._best_statistics.memory[member].copy_(self._buffers.statistics.memory[member])
        self._best_n_batches[member] = self._n_batches[member]

    def restore(self) -> None:
        """Bring every member back to its best state."""
        self._buffers.parameters.memory.copy_(self._best_parameters.memory)
        self._buffers.statistics.memory.copy_(self._best_statistics.memory)
        self._n_batches = list(self._best_n_batches)

    def state(self) -> dict[str, Tensor]:
        """All that an exact resumption needs, copied to the CPU.

        Returns: parameters, AdamW's running averages and counts of steps, running statistics, best
            states, and which members are active. Meant for `load_state` of members that were made
            from the same modules and seeds.
        """
        return {name: value.to("cpu", copy=True) for name, value in self._saved()} | {
            "n_batches": torch.tensor(self._n_batches, dtype=torch.int64),
            "best_n_batches": torch.tensor(self._best_n_batches, dtype=torch.int64),
            "active": torch.tensor(self._active, dtype=torch.bool),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned.

        Raises `ValueError` if a tensor is missing, is not known, or has another shape or dtype than
            these members need; nothing is changed then.
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
        for name, buffer in self._saved():
            buffer.copy_(state[name])
        self._n_batches = state["n_batches"].tolist()
        self._best_n_batches = state["best_n_batches"].tolist()
        self.set_active(state["active"].tolist())

    # -- private ------------------------------------------------------------------------------

    def _saved(self) -> Iterator[tuple[str, Tensor]]:
        """Name and memory of all that a resumption needs."""
        yield "parameters", self._buffers.parameters.memory
        yield "biases", self._biases.memory
        yield "first_moments", self._buffers.first_moments
        yield "second_moments", self._buffers.second_moments
        yield "steps", self._buffers.steps
        yield "statistics", self._buffers.statistics.memory
        yield "best_parameters", self._best_parameters.memory
        yield "best_statistics", self._best_statistics.memory

    def _fill(self, member: int) -> None:
        """Copy a member's state; running means go without the bias that the layer lacks here."""
        state = self._templates[member].state_dict()
        for flat in (self._buffers.parameters, self._biases, self._buffers.statistics):
            for name, value in flat.named(member):
                value.copy_(state[name])
        statistics = dict(self._buffers.statistics.named(member))
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

    def _folded(self) -> list[tuple[Tensor, Tensor]]:
        """Transposed weights and biases of the members' layers, batch norm folded in."""
        arch, everyone = self._architecture, slice(None)
        means, variances = (
            self._buffers.statistics.view(piece, everyone) for piece in arch.statistics()
        )
        layers = []
        for i, (linear, norm) in enumerate(
            zip(arch.decayed()[:-1], arch.plain()[:-1], strict=True)
        ):
            shift, scale = self._buffers.parameters.view(norm, everyone).unsqueeze(2).unbind(1)
            scale = scale * (variances[:, i : i + 1] + BATCH_NORM_EPS).rsqrt()
            weight = self._buffers.parameters.view(linear, everyone)[:, 0]
            layers.append((weight * scale, shift - means[:, i : i + 1] * scale))
        weight = self._buffers.parameters.view(arch.decayed()[-1], everyone)[:, 0]
        return [
            *layers,
            (weight.transpose(1, 2), self._buffers.parameters.view(arch.plain()[-1], everyone)),
        ]

    def _evaluate(self, layers: list[tuple[Tensor, Tensor]], x: Tensor, out: Tensor) -> None:
        """Outputs of shape (members, n, outputs) by layers with folded batch norm."""
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
