"""Laws of the training loop, on the reference members and on a table of a few columns."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from ai.ml.frameworks.pytorch.models import build_model
from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.fitting import networks
from tabwright.settings import FitSettings
from tabwright.tables import profile_table
from tabwright.training.batches import HeldOutRows, Inputs, MemoryRows, batch_bounds
from tabwright.training.checkpoints import Checkpointer
from tabwright.training.engine.autograd_members import ReferenceMembers
from tabwright.training.engine.stacked_members import StackedMembers
from tabwright.training.loop import (
    Epoch,
    Members,
    Trained,
    learning_rate_at,
    members_of,
    train,
)
from tabwright.training.objectives import Objective

N_ROWS, INPUT_DIM = 90, 5


def _data(seed: int = 0) -> tuple[Inputs, Objective]:
    """Standard normal rows, through an encoder that leaves them almost as they are."""
    x = np.random.default_rng(seed).normal(size=(N_ROWS, INPUT_DIM))
    frame = pl.DataFrame(x, schema=[f"x{i}" for i in range(INPUT_DIM)])
    encoder = TableEncoder("standard")
    compact = encoder.fit_transform(
        RowsToFit(frame, profile_table(frame), target=None, task="classification")
    )
    inputs = Inputs(encoder, compact, torch.device("cpu"))
    return inputs, Objective(torch.from_numpy((x[:, 0] * x[:, 1] > 0).astype(np.int64)))


def _members(n_members: int = 2, seed: int = 0) -> ReferenceMembers:
    torch.manual_seed(seed)
    modules = [build_model(INPUT_DIM, 2, "mlp_dense", 16, 1, 0.1) for _ in range(n_members)]
    return ReferenceMembers(modules, seeds=range(n_members))


def _settings(**values: Any) -> FitSettings:
    values = {"max_epochs": 6, "batch_size": 32, "learning_rate": 0.01, **values}
    return FitSettings(task="classification", **values).resolved(n_rows=N_ROWS)


def _train(
    settings: FitSettings,
    score: Callable[[Tensor], Tensor] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    members: Members | None = None,
    checkpointer: Checkpointer | None = None,
    keep_interrupted: bool = True,
) -> Trained:
    inputs, objective = _data()
    held_out, held_out_objective = _data(seed=1)
    return train(
        members or _members(),
        MemoryRows(inputs, objective, settings.batch_size or 32, settings.random_state),
        HeldOutRows(held_out, score or held_out_objective.loss),
        settings,
        on_epoch=on_epoch,
        checkpointer=checkpointer,
        keep_interrupted=keep_interrupted,
    )


@pytest.mark.parametrize(
    ("n_rows", "batch_size", "expected"),
    [
        (64, 32, [(0, 32), (32, 64)]),
        (65, 32, [(0, 32), (32, 65)]),
        (71, 32, [(0, 32), (32, 71)]),
        (72, 32, [(0, 32), (32, 64), (64, 72)]),
        (5, 32, [(0, 5)]),
        (9, 1, [(0, 9)]),
        (17, 1, [(0, 8), (8, 17)]),
    ],
)
def test_a_short_last_batch_joins_the_one_before(
    n_rows: int, batch_size: int, expected: list[tuple[int, int]]
) -> None:
    assert batch_bounds(n_rows, batch_size) == expected


def test_the_schedule_warms_up_peaks_and_ends_near_zero() -> None:
    rates = [learning_rate_at(step / 1000, 1.0) for step in range(1000)]
    peak = rates.index(max(rates))
    assert 0 < rates[0] < 0.1
    assert 0.97 < max(rates) <= 1.0
    assert peak < 30
    assert rates[-1] < 1e-5
    assert all(a >= b for a, b in zip(rates[peak:], rates[peak + 1 :], strict=False))


class _OtherNetwork(nn.Module):
    """What the fast engine does not know: other layers, another forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.norm = nn.Linear(INPUT_DIM, 8), nn.LayerNorm(8)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.head(self.drop(torch.sin(self.norm(self.gate(x)))))
        return hidden


def test_other_modules_are_trained_by_plain_autograd() -> None:
    """Weights after four epochs are those of torch's own loop over the same batches."""
    torch.manual_seed(3)
    modules = [_OtherNetwork(), _OtherNetwork()]
    members = members_of(modules, seeds=[4, 9])
    assert isinstance(members, ReferenceMembers)
    settings = _settings(max_epochs=4, n_members=2)
    inputs, objective = _data()
    rows = MemoryRows(inputs, objective, 32, settings.random_state)
    trained = train(members, rows, None, settings, stop_at=[4, 4])
    for module, seed, after in zip(modules, (4, 9), trained.modules, strict=True):
        weights = [module.gate.weight, module.head.weight]
        others = [p for p in module.parameters() if all(p is not w for w in weights)]
        groups: list[dict[str, Any]] = [
            {"params": weights},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        rows = MemoryRows(inputs, objective, 32, settings.random_state)
        n_steps, step = 4 * rows.n_batches, 0
        for epoch in range(1, 5):
            for batch in rows.epoch(epoch):
                assert batch.rows is not None
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate_at(step / n_steps, settings.learning_rate)
                torch.manual_seed(seed * 1_000_003 + step)
                loss = nn.functional.cross_entropy(module(batch.x), objective.targets[batch.rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                step += 1
        for name, value in module.state_dict().items():
            torch.testing.assert_close(after.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_known_modules_are_stacked_and_changed_ones_are_not() -> None:
    modules = [build_model(INPUT_DIM, 2, mode, 16, 1, 0.1) for mode in ("mlp_dense", "tabresnet")]
    assert isinstance(members_of(modules[:1], seeds=[0]), StackedMembers)
    assert isinstance(members_of(modules, seeds=[0, 1]), ReferenceMembers)
    modules[0].get_submodule("net").relu1 = nn.GELU()
    assert isinstance(members_of(modules[:1], seeds=[0]), ReferenceMembers)
    with pytest.raises(ValueError, match=r"must be of one architecture.*got MLP; leave"):
        members_of(modules[:1], seeds=[0], precision="bfloat16")
    with pytest.raises(ValueError, match="at least one network; got none"):
        members_of([], seeds=[])
    with pytest.raises(ValueError, match=r"one per module \(2\); got 1"):
        members_of(modules, seeds=[0])


def test_each_member_keeps_its_own_best_epoch() -> None:
    wanted = [2, 5]
    epoch = 0

    def score(logits: Tensor) -> Tensor:
        nonlocal epoch
        epoch += 1
        return torch.tensor([abs(epoch - best) + 1.0 for best in wanted], dtype=torch.float64)

    states: list[list[Tensor]] = []
    members = _members()
    trained = _train(
        _settings(patience=None),
        score,
        lambda _: states.append(
            [m.state_dict()["net.linear1.weight"].clone() for m in members.modules()]
        ),
        members,
    )
    assert trained.best_epochs == (2, 5)
    assert trained.stopped == "schedule"
    for k, best in enumerate(wanted):
        torch.testing.assert_close(
            trained.modules[k].state_dict()["net.linear1.weight"],
            states[best - 1][k],
            rtol=0,
            atol=0,
        )


def test_patience_stops_a_member_and_then_the_run() -> None:
    epoch = 0

    def score(logits: Tensor) -> Tensor:
        nonlocal epoch
        epoch += 1
        return torch.tensor([1.0 if epoch == 1 else 2.0, 1.0 / min(epoch, 3)], dtype=torch.float64)

    trained = _train(_settings(patience=2, max_epochs=30), score)
    assert trained.best_epochs == (1, 3)
    assert trained.stopped == "patience"
    assert len(trained.history) == 5


class _BestAt:
    """Validation losses whose lowest are those of given epochs, one per member."""

    def __init__(self, *best: int) -> None:
        self._best, self._epoch = best, 0

    def __call__(self, logits: Tensor) -> Tensor:
        self._epoch += 1
        return torch.tensor([abs(self._epoch - best) for best in self._best], dtype=torch.float64)


@pytest.mark.parametrize(
    ("values", "n_epochs"),
    [
        ({}, 18),  # two fifths of 30 epochs after epoch 6
        ({"patience": 30}, 30),
        ({"eval_metric": "accuracy"}, 30),
        ({"training_mode": "linear_glm_baseline"}, 30),
        ({"max_epochs": 12}, 12),
        ({"max_epochs": 16}, 14),  # no fewer than eight
    ],
)
def test_classifiers_end_once_no_member_gains(values: dict[str, Any], n_epochs: int) -> None:
    settings = _settings(**{"max_epochs": 30, **values})
    trained = _train(settings, _BestAt(3, 6))
    assert trained.best_epochs == (3, 6)
    assert len(trained.history) == n_epochs
    assert trained.stopped == ("schedule" if n_epochs == settings.max_epochs else "patience")


def test_a_run_that_ends_early_is_the_first_part_of_one_that_does_not() -> None:
    short = _train(_settings(max_epochs=30), _BestAt(3, 6))
    whole = _train(_settings(max_epochs=30, patience=30), _BestAt(3, 6))
    for one, other in zip(short.history, whole.history[:18], strict=True):
        assert (one.train_loss, one.learning_rate) == (other.train_loss, other.learning_rate)
    for a, b in zip(short.modules, whole.modules, strict=True):
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name])


def test_the_same_call_gives_the_same_bits_and_leaves_the_world_as_it_was() -> None:
    generator_state = torch.get_rng_state()
    threads = torch.get_num_threads()
    first = _train(_settings()).modules
    torch.set_rng_state(generator_state)
    second = _train(_settings()).modules
    assert torch.get_num_threads() == threads
    for a, b in zip(first, second, strict=True):
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name])


def test_training_does_not_touch_the_global_random_stream() -> None:
    members = _members()
    before = torch.get_rng_state()
    _train(_settings(), members=members)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_is_not_finite_keeps_the_last_good_epoch() -> None:
    losses = iter([1.0, 0.5, math.nan])

    def score(logits: Tensor) -> Tensor:
        return torch.full((2,), next(losses), dtype=torch.float64)

    with pytest.warns(RuntimeWarning, match="non-finite in epoch 3; .* lower learning_rate"):
        trained = _train(_settings(), score)
    assert trained.stopped == "non-finite"
    assert trained.best_epochs == (2, 2)


def test_a_loss_that_is_never_finite_is_an_error_with_a_way_out() -> None:
    def score(logits: Tensor) -> Tensor:
        return torch.full((2,), math.inf, dtype=torch.float64)

    with pytest.raises(FloatingPointError, match="not finite in the first epoch; try a lower"):
        _train(_settings(), score)


def test_an_interrupt_keeps_the_best_so_far() -> None:
    def interrupt(epoch: Epoch) -> None:
        if epoch.epoch == 3:
            raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="interrupted in epoch"):
        trained = _train(_settings(), on_epoch=interrupt)
    assert trained.stopped == "interrupted"
    assert len(trained.history) == 3
    assert all(1 <= epoch <= 3 for epoch in trained.best_epochs)
    with pytest.raises(KeyboardInterrupt):
        _train(_settings(), on_epoch=interrupt, keep_interrupted=False)


def test_training_lowers_the_loss() -> None:
    trained = _train(_settings(max_epochs=60, patience=None))
    assert trained.history[-1].train_loss < 0.5 * trained.history[0].train_loss


def test_unresolved_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="resolved before training"):
        _train(FitSettings(task="classification"))


def test_runs_at_once_leave_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        inside, leave = threading.Barrier(2), threading.Event()

        def hold(epoch: Epoch) -> None:
            if epoch.epoch == 1:
                inside.wait(30)
                leave.wait(30)

        other = threading.Thread(target=_train, args=(_settings(),), kwargs={"on_epoch": hold})
        other.start()
        inside.wait(30)
        _train(_settings())
        leave.set()
        other.join(30)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_networks_made_in_several_threads_are_those_of_their_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Modules draw from the one generator of the process; fits may run side by side."""

    def slowly(*arguments: Any) -> nn.Module:
        network = build_model(*arguments)
        time.sleep(0.01)  # another thread would seed the generator now
        for parameter in network.parameters():
            nn.init.normal_(parameter)
        return network

    monkeypatch.setattr(networks, "build_model", slowly)
    settings = FitSettings(task="classification", hidden_dim=4, num_hidden_layers=1, dropout=0.0)

    def made(seed: int) -> list[Tensor]:
        return list(networks.new_network(settings, 3, 2, seed).parameters())

    alone = [made(seed) for seed in range(8)]
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(made, range(8)))
    assert torch.equal(torch.get_rng_state(), before)
    for mine, theirs in zip(together, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
