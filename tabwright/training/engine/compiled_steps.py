"""Steps of stacked members in C: many batches in one call, by several threads.

`CompiledSteps` puts together the structs that `kernels.c` reads: addresses of buffers that stay
where they are. Threads call C, which lets go of the interpreter's lock, for their own members each,
or for their own hidden units of a member where there are fewer members than threads.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import torch
from torch import Tensor

from tabwright.training.engine.compiled_kernels import (
    blas_sgemm,
    check_memory,
    compiled_kernels,
    may_be_shared,
)
from tabwright.training.engine.dropout import drop_below, element_hashes
from tabwright.training.engine.row_goal import RowGoal, address
from tabwright.training.engine.row_table import RowTable
from tabwright.training.engine.tensor_layout import (
    BATCH_NORM_EPS,
    BATCH_NORM_MOMENTUM,
    MemberBuffers,
    TensorLayout,
)

# Float32 numbers in a register of AVX-512, the widest that the kernels use.
_VECTOR = 16
# Hidden values of a batch, in elements, that are worth a thread: of a run of batches where each
# thread has members of its own, and of one batch where threads wait for each other in every layer.
_WORTH_A_THREAD = 2**16
_WORTH_SHARING = 2**13


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("weight", "norm", "mean", "variance")),
        *((name, ctypes.c_int64) for name in ("opens_block", "closes_block")),
        ("elements", ctypes.c_void_p),
        ("drop_below", ctypes.c_int64),
        ("keep", ctypes.c_double),
    )


class _Network(ctypes.Structure):
    _fields_ = (
        ("product", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("input_dim", "hidden_dim", "output_dim", "n_layers")),
        ("layers", ctypes.POINTER(_Layer)),
        *((name, ctypes.c_int64) for name in ("head", "head_bias", "n_parameters", "n_decayed")),
        *((name, ctypes.c_double) for name in ("eps", "momentum")),
    )


class _Member(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("parameters", "gradients")),
        *((name, ctypes.c_void_p) for name in ("first_moments", "second_moments")),
        *((name, ctypes.c_void_p) for name in ("steps", "statistics", "loss_sum")),
        ("index", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("teacher_weight", "temperature")),
    )


class _Run(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_rows", "n_batches", "n_members")),
        *((name, ctypes.c_void_p) for name in ("rows", "keys", "hide_keys", "learning_rates")),
        *((name, ctypes.c_double) for name in ("weight_decay", "beta1", "beta2", "least")),
    )


class _Workspace(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "shares", "bins", "flags", "sums")),
        *((name, ctypes.c_void_p) for name in ("values", "outputs", "minus_mean", "std", "scale")),
        *((name, ctypes.c_void_p) for name in ("gradient", "spare", "inner_0", "inner_1")),
        *((name, ctypes.c_void_p) for name in ("logits", "logits_gradient", "losses")),
        *((name, ctypes.c_int64) for name in ("arrived", "round")),
    )


class AdamWSettings(NamedTuple):
    """AdamW's, apart from its learning rate."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float


def _float32(*shape: int) -> Tensor:
    """Unset memory, whatever the default dtype."""
    return torch.empty(*shape, dtype=torch.float32)


class _Team(NamedTuple):
    """Threads that share members, and the members, one after the other."""

    threads: range
    members: list[int]


def teams_of(members: Sequence[int], n_threads: int, *, can_share: bool) -> list[_Team]:
    """Members shared out to threads, and threads to members where that keeps all of them busy."""
    n_shared = n_threads // math.gcd(len(members), n_threads) if can_share else 1
    n_teams = n_threads // n_shared
    bounds = [len(members) * i // n_teams for i in range(n_teams + 1)]
    return [
        _Team(range(i * n_shared, (i + 1) * n_shared), list(members[bounds[i] : bounds[i + 1]]))
        for i in range(n_teams)
        if bounds[i] < bounds[i + 1]
    ]


class CompiledSteps:
    """Steps of stacked members in float32 on a CPU.

    `buffers`: they stay where they are, and are read and written there.
    Raises `ValueError` if a buffer has gaps or another type.
    """

    def __init__(self, layout: TensorLayout, buffers: MemberBuffers, n_threads: int) -> None:
        for tensor in (buffers.parameters.memory, *buffers.trained()):
            check_memory(tensor, buffers.parameters.memory.shape)
        check_memory(buffers.statistics.memory, buffers.statistics.memory.shape)
        check_memory(buffers.steps, (buffers.n_members,))
        self._layout, self._buffers, self.n_threads = layout, buffers, n_threads
        self._kernels = compiled_kernels()
        self._networks: dict[int, tuple[_Network, object]] = {}
        self._workspaces: dict[tuple[object, ...], tuple[_Workspace, object]] = {}
        # The threads end with the pool, which ends with its owner; idle ones sleep.
        self._pool = ThreadPoolExecutor(n_threads - 1) if n_threads > 1 else None

    # -- many batches ---------------------------------------------------------------------------

    def take(
        self,
        active: Sequence[int],
        table: RowTable,
        goal: RowGoal,
        rows: Tensor,
        *,
        keys: Tensor | None,
        hide_keys: Tensor | None,
        learning_rates: Sequence[float],
        adamw: AdamWSettings,
        loss_sums: Tensor,
    ) -> None:
        """A step of some members for every batch of a run.

        `rows`: (n_batches, batch), int64.
        `keys`: (n_batches, n_layers, n_members), int32; of `dropout_keys`.
        `hide_keys`: (n_batches,), int32; odd factors that decide which levels are hidden.
        `loss_sums`: (n_members,), float64; each member's losses of all rows are added to it.
        Raises `ValueError` if table, goal, rows, keys and learning rates do not belong together.
        Raises `IndexError` if there is no such row.
        """
        layout, n_members = self._layout, self._buffers.n_members
        n_batches, batch = rows.shape
        check_memory(rows, (n_batches, batch), torch.int64)
        check_memory(loss_sums, (n_members,), torch.float64)
        if keys is not None:
            check_memory(keys, (n_batches, len(layout.hidden), n_members), torch.int32)
        if hide_keys is not None:
            check_memory(hide_keys, (n_batches,), torch.int32)
        if table.hides and hide_keys is None:
            raise ValueError("a table whose levels are hidden at random needs hide_keys; got None")
        if table.n_rows != goal.n_rows or len(learning_rates) != n_batches:
            raise ValueError(
                f"table and goal must have the same rows, batches a learning rate each; got "
                f"{table.n_rows} and {goal.n_rows} rows, {n_batches} batches and "
                f"{len(learning_rates)} rates"
            )
        self._check_table(table, batch)
        for of_members in (goal.teacher_weights, goal.temperatures):
            if len(of_members) not in (1, n_members):
                raise ValueError(
                    f"a goal's teacher must be that of {n_members} members; got {len(of_members)}"
                )
        least, most = (int(value) for value in rows.aminmax())
        if least < 0 or most >= table.n_rows:
            raise IndexError(
                f"rows must be from 0 to {table.n_rows - 1}; got {least if least < 0 else most}"
            )
        rates = torch.tensor(learning_rates, dtype=torch.float64)
        teams = self._teams(active, batch, n_batches)
        run = _Run(
            n_rows=batch,
            n_batches=n_batches,
            n_members=n_members,
            rows=rows.data_ptr(),
            keys=address(keys),
            hide_keys=address(hide_keys),
            learning_rates=rates.data_ptr(),
            weight_decay=adamw.weight_decay,
            beta1=adamw.betas[0],
            beta2=adamw.betas[1],
            least=adamw.eps,
        )
        table_struct, goal_struct = table.struct(batch), goal.struct(layout.output_dim)
        network = self._network(batch)
        calls, alive = [], []
        for team in teams:
            structs = (network, self._members(team.members, loss_sums, goal))
            rest = (self._workspace(batch, table, team), table_struct, goal_struct, run)
            alive.append((structs, rest))
            n_threads = len(team.threads)
            calls += [
                (
                    *map(ctypes.addressof, structs),
                    len(team.members),
                    *map(ctypes.addressof, rest),
                    thread,
                    n_threads,
                )
                for thread in range(n_threads)
            ]
        self._run(calls)

    def _run(self, calls: list[tuple[int, ...]]) -> None:
        """All calls at once, the first in this thread; those of a team wait for each other."""
        function: Callable[..., None] = self._kernels.network_steps
        others: list[Future[None]] = []
        if self._pool is not None:
            others = [self._pool.submit(function, *call) for call in calls[1:]]
        try:
            function(*calls[0])
        finally:
            wait(others)
        for other in others:
            other.result()

    def _teams(self, active: Sequence[int], batch: int, n_batches: int) -> list[_Team]:
        """Which threads train which members; small steps take one thread."""
        layout = self._layout
        size = batch * layout.hidden_dim
        n_threads = self.n_threads
        if len(active) * size * n_batches < n_threads * _WORTH_A_THREAD:
            n_threads = 1
        can_share = size >= _WORTH_SHARING * n_threads and layout.hidden_dim >= 2 * _VECTOR * (
            n_threads
        )
        teams = teams_of(active, n_threads, can_share=can_share)
        most = max((len(team.threads) for team in teams), default=1)
        sizes = (layout.input_dim, layout.hidden_dim, layout.output_dim)
        if most > 1 and not may_be_shared(batch, *sizes, most):
            teams = teams_of(active, n_threads, can_share=False)
        return teams

    def _members(
        self, members: Sequence[int], loss_sums: Tensor, goal: RowGoal | None
    ) -> ctypes.Array[_Member]:
        """The addresses of each member's parameters, state and targets, as C takes them."""

        def of(values: list[float], member: int) -> float:
            return values[0] if len(values) == 1 else values[member]

        buffers = self._buffers
        rows = [buffers.parameters.memory, *buffers.trained(), buffers.steps]
        return (_Member * len(members))(
            *(
                _Member(
                    *(tensor[k].data_ptr() for tensor in rows),
                    buffers.statistics.memory[k].data_ptr(),
                    loss_sums[k].data_ptr(),
                    k,
                    0.0 if goal is None else of(goal.teacher_weights, k),
                    1.0 if goal is None else of(goal.temperatures, k),
                )
                for k in members
            )
        )

    # -- one batch ------------------------------------------------------------------------------

    def forward(self, member: int, x: Tensor, keys: Tensor | None, logits: Tensor) -> None:
        """Logits in training mode of a batch; running statistics move.

        `x`: (batch, input_dim), float32.
        `keys`: (n_layers, n_members), int32.
        `logits`: (batch, output_dim), float32.
        """
        layout = self._layout
        check_memory(logits, (len(x), layout.output_dim))
        key, stride = None, 0
        if keys is not None:
            check_memory(keys, (len(layout.hidden), self._buffers.n_members), torch.int32)
            key, stride = keys[:, member:].data_ptr(), keys.stride(0)
        structs = self._structs(member, x)
        addresses = map(ctypes.addressof, structs)
        self._kernels.network_forward(*addresses, len(x), key, stride, logits.data_ptr())

    def backward(self, member: int, x: Tensor, logits_gradient: Tensor) -> None:
        """All gradients of a member, after its `forward` on the same `x`.

        `x`: (batch, input_dim), float32.
        `logits_gradient`: (batch, output_dim), float32.
        """
        check_memory(logits_gradient, (len(x), self._layout.output_dim))
        structs = self._structs(member, x)
        addresses = map(ctypes.addressof, structs)
        self._kernels.network_backward(*addresses, len(x), logits_gradient.data_ptr())

    def update(self, member: int, learning_rate: float, adamw: AdamWSettings) -> None:
        """AdamW's step of a member."""
        buffers = self._buffers
        size = buffers.parameters.memory.shape[1]
        buffers.steps[member] += 1
        rows = (buffers.parameters.memory, *buffers.trained())
        self._kernels.adamw(
            0,
            size,
            buffers.n_decayed,
            *(tensor[member].data_ptr() for tensor in rows),
            float(buffers.steps[member]),
            learning_rate,
            adamw.weight_decay,
            *adamw.betas,
            adamw.eps,
        )

    # -- structs --------------------------------------------------------------------------------

    def _structs(self, member: int, x: Tensor) -> tuple[ctypes.Structure, ...]:
        """Of one member's pass over a batch; every member has a workspace of its own."""
        check_memory(x, (len(x), self._layout.input_dim))
        table = RowTable.dense(x)
        no_sums = torch.zeros(self._buffers.n_members, dtype=torch.float64)
        return (
            self._network(len(x)),
            self._members([member], no_sums, None)[0],
            self._workspace(len(x), table, _Team(range(member, member + 1), [member])),
            table.struct(len(x)),
        )

    def _check_table(self, table: RowTable, batch: int) -> None:
        """Refuse rows that the kernels cannot take."""
        layout = self._layout
        if table.input_dim != layout.input_dim:
            raise ValueError(
                f"rows must have {layout.input_dim} inputs; got {table.input_dim}; encode them "
                "with the encoder of this model"
            )
        if not layout.hidden and table.n_dense != table.input_dim:
            raise ValueError("a network without hidden layers needs all inputs as numbers")
        if layout.hidden and batch < 2:
            raise ValueError(
                f"batch norm needs at least 2 rows in training; got {batch}; join the last batch "
                "to the one before"
            )

    def _network(self, batch: int) -> _Network:
        """The layers for batches of this size, as C takes them."""
        if batch in self._networks:
            return self._networks[batch][0]
        layout, buffers = self._layout, self._buffers
        pieces, norms = layout.decayed(), layout.plain()
        of_mean, of_variance = map(buffers.statistics.offset, layout.statistics())
        alive = []
        layers = []
        for i, layer in enumerate(layout.hidden):
            elements = None
            if layer.rate > 0:
                elements = element_hashes(batch, layout.hidden_dim, torch.device("cpu"))
                alive.append(elements)
            layers.append(
                _Layer(
                    buffers.parameters.offset(pieces[i]),
                    buffers.parameters.offset(norms[i]),
                    of_mean + i * layout.hidden_dim,
                    of_variance + i * layout.hidden_dim,
                    layer.opens_block,
                    layer.closes_block,
                    address(elements),
                    drop_below(max(layer.rate, 0.0)),
                    1.0 - max(layer.rate, 0.0),
                )
            )
        found = _Network(
            blas_sgemm(),
            layout.input_dim,
            layout.hidden_dim,
            layout.output_dim,
            len(layers),
            (_Layer * len(layers))(*layers),
            buffers.parameters.offset(pieces[-1]),
            buffers.parameters.offset(norms[-1]),
            buffers.parameters.memory.shape[1],
            buffers.n_decayed,
            BATCH_NORM_EPS,
            BATCH_NORM_MOMENTUM,
        )
        self._networks[batch] = (found, alive)
        return found

    def _workspace(self, batch: int, table: RowTable, team: _Team) -> _Workspace:
        """The buffers that a team needs for batches of this size, kept for the next ones."""
        layout = self._layout
        sizes = (batch, table.n_dense, table.n_binned, table.n_flags)
        place = (*sizes, len(team.threads), team.threads.start)
        if place in self._workspaces:
            return self._workspaces[place][0]
        n_layers, units, n_outputs = len(layout.hidden), layout.hidden_dim, layout.output_dim
        hidden = (batch, units)
        space = max(batch * units, 2 * n_outputs * len(team.threads))
        kept = [
            _float32(batch, table.n_dense),
            _float32(table.n_binned, batch),
            torch.empty(table.n_binned, batch, dtype=torch.int32),
            torch.empty(table.n_flags, batch, dtype=torch.int32),
            _float32(layout.input_dim if table.n_binned else 0, units),
            *(_float32(n_layers, *hidden) for _ in range(2)),
            *(_float32(n_layers, units) for _ in range(3)),
            _float32(*hidden),
            _float32(space),
            *(_float32(*hidden) for _ in range(2)),
            *(_float32(batch, n_outputs) for _ in range(2)),
            torch.empty(batch, dtype=torch.float64),
        ]
        found = _Workspace(*(tensor.data_ptr() for tensor in kept), 0, 0)
        self._workspaces[place] = (found, kept)
        return found
