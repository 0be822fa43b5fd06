"""A run that is stopped at any step goes on to the same bits; no other run may go on from it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from campaigns.kill_training import difference, rows
from tabwright.artifact.container import read_artifact
from tabwright.errors import ArtifactError
from tabwright.fitting import networks
from tabwright.fitting.arguments import Aims
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel, load_fitted
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows
from tabwright.training import steps
from tabwright.training.batches import Batch
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.engine.compiled_kernels import engine_name
from tabwright.training.engine.stacked_members import StackedMembers
from tabwright.training.steps import Steps

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = FitSettings(
    task="classification", hidden_dim=8, num_hidden_layers=1, n_members=2, max_epochs=6, patience=3
)
N_STEPS = 6 * 4


@pytest.fixture(autouse=True)
def _step_by_step() -> Iterator[None]:
    """One thread: several take steps in blocks, past what `_stop_after` counts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class StopError(Exception):
    """Ends a run where a kill would."""


def _fit(
    checkpoint: Checkpoint | None = None,
    settings: FitSettings = SETTINGS,
    table: LabelledRows | None = None,
) -> FittedModel:
    return fit_table(
        table or rows(), settings, classes=np.array(["no", "yes"]), checkpoint=checkpoint
    )


def _stop_after(monkeypatch: pytest.MonkeyPatch, n_steps: int, how: Callable[[], Any]) -> None:
    count = 0
    take = Steps.take

    def counted(self: Steps, block: Sequence[Batch], **arguments: Any) -> None:
        nonlocal count
        assert len(block) == 1
        if count == n_steps:
            how()
        count += 1
        take(self, block, **arguments)

    monkeypatch.setattr(steps, "_MOST_BATCHES", 1)
    monkeypatch.setattr(Steps, "take", counted)


def _raise() -> None:
    raise StopError


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, patience=1, refit=True)])
def test_a_run_stopped_at_any_step_goes_on_to_the_same_bits(
    settings: FitSettings, tmp_path: Path
) -> None:
    whole = _fit(settings=settings)
    draw = random.Random(0)
    for step in [0, 1, *draw.sample(range(2, N_STEPS), 4)]:
        checkpoint = Checkpoint(tmp_path / f"run{step}.safetensors", 0.0)
        with pytest.MonkeyPatch.context() as patch:
            _stop_after(patch, step, _raise)
            try:
                _fit(checkpoint, settings)
            except StopError:
                assert Path(checkpoint.path).exists() == (step > 0)
            else:
                # Patience ends a run before its last steps.
                assert settings.patience == 1
                assert step > 1
        assert difference(whole, _fit(checkpoint, settings)) is None


def test_a_run_that_its_networks_end_together_ends_there_after_a_stop(tmp_path: Path) -> None:
    noise = replace(rows(), target=np.random.default_rng(0).permutation(rows().target))
    settings = replace(SETTINGS, patience=None, max_epochs=30)
    whole = _fit(settings=settings, table=noise)
    assert whole.stopped == "patience"
    checkpoint = Checkpoint(tmp_path / "run.safetensors", 0.0)
    with pytest.MonkeyPatch.context() as patch:
        _stop_after(patch, N_STEPS // 6 * len(whole.history) - 2, _raise)
        with pytest.raises(StopError):
            _fit(checkpoint, settings, noise)
    assert difference(whole, _fit(checkpoint, settings, noise)) is None


def test_a_limited_run_goes_on_behind_the_last_batch_of_an_epoch(tmp_path: Path) -> None:
    """Its checkpoint has no batch left to time."""
    settings = replace(SETTINGS, batch_size=4_096, patience=None, time_limit=600.0)
    checkpoint = Checkpoint(tmp_path / "run.safetensors", 0.0)
    with pytest.MonkeyPatch.context() as patch:
        _stop_after(patch, 3, _raise)
        with pytest.raises(StopError):
            _fit(checkpoint, settings)
    assert len(_fit(checkpoint, settings).history) == settings.max_epochs


def test_what_intervals_remember_goes_on_too(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frame = pl.DataFrame({"a": draw.normal(size=200), "b": draw.normal(size=200)})
    table = LabelledRows(frame, frame["a"].to_numpy() + 0.3 * draw.normal(size=200))
    settings = replace(SETTINGS, task="regression")
    whole = fit_table(table, settings)
    checkpoint = Checkpoint(tmp_path / "run.safetensors", 0.0)
    with pytest.MonkeyPatch.context() as patch:
        _stop_after(patch, 9, _raise)
        with pytest.raises(StopError):
            fit_table(table, settings, checkpoint=checkpoint)
    resumed = fit_table(table, settings, checkpoint=checkpoint)
    assert difference(whole, resumed) is None
    assert whole.intervals is not None
    assert resumed.intervals is not None
    assert whole.intervals.kind == "cross"
    np.testing.assert_array_equal(whole.intervals.residuals, resumed.intervals.residuals)


def test_a_checkpoint_changes_nothing_and_is_removed(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.safetensors", 0.0)
    assert difference(_fit(), _fit(checkpoint)) is None
    assert list(tmp_path.iterdir()) == [tmp_path / "run.safetensors"]
    checkpoint.remove()
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_sigterm_writes_the_state_before_the_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        checkpoint = Checkpoint(tmp_path / "run.safetensors", 3600.0)
        with monkeypatch.context() as patch:
            _stop_after(patch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(SystemExit) as end:
                _fit(checkpoint)
        assert end.value.code == 128 + signal.SIGTERM
        assert heard == [signal.SIGTERM]
        document, _ = read_artifact(checkpoint.path)
        assert (document["epoch"], document["batches"]) == (2, 4)
        assert difference(_fit(), _fit(checkpoint)) is None
    finally:
        signal.signal(signal.SIGTERM, before)


def _other_table() -> LabelledRows:
    table = rows()
    return replace(table, frame=table.frame.with_columns(pl.col("size") + 1e-3))


def _other_targets() -> LabelledRows:
    table = rows()
    return replace(table, target=1 - table.target)


def _weights() -> LabelledRows:
    return replace(rows(), weight=np.linspace(0.5, 1.5, 300))


@pytest.mark.parametrize(
    ("settings", "table", "what"),
    [
        (replace(SETTINGS, learning_rate=0.5), rows, "settings.learning_rate"),
        (replace(SETTINGS, n_members=3), rows, "settings.n_members"),
        (replace(SETTINGS, random_state=1), rows, "settings.random_state"),
        (SETTINGS, _other_table, "encoder"),
        (SETTINGS, _other_targets, "training rows, validation rows"),
        (SETTINGS, _weights, "training rows, validation rows"),
    ],
)
def test_other_data_or_settings_are_refused(
    settings: FitSettings, table: Callable[[], LabelledRows], what: str, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path / "run.safetensors", 0.0)
    _fit(checkpoint)
    with pytest.raises(ValueError, match=f"same data and settings; different: .*{what}"):
        _fit(checkpoint, settings, table())


@pytest.mark.parametrize("other", ["torch", "compiled, sse9"])
def test_another_engine_or_instruction_set_is_refused(
    other: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path / "run.safetensors", 0.0)
    _fit(checkpoint)
    rule = rf"different: engine \({engine_name()} then, {other} now\); give the former ones"
    monkeypatch.setattr(networks, "engine_name", lambda: other)
    with pytest.raises(ValueError, match=rule):
        _fit(checkpoint)


@pytest.mark.parametrize("class_weight", ["balanced", {"yes": 5.0}])
def test_other_class_weights_are_refused(class_weight: Any, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.safetensors", 0.0)
    _fit(checkpoint)
    with pytest.raises(ValueError, match="different: class weights"):
        fit_table(
            rows(),
            SETTINGS,
            classes=np.array(["no", "yes"]),
            aims=Aims(class_weight=class_weight),
            checkpoint=checkpoint,
        )


@pytest.mark.parametrize("how", ["interrupted", "non-finite"])
def test_a_refit_that_comes_to_no_end_leaves_the_first_networks(how: str, tmp_path: Path) -> None:
    settings = replace(SETTINGS, refit=True, patience=None)
    first = _fit(settings=replace(settings, refit=False))
    checkpoint = Checkpoint(tmp_path / "run.safetensors", 0.0)

    n_steps = N_STEPS + 6
    with pytest.MonkeyPatch.context() as patch:
        if how == "interrupted":
            _stop_after(patch, n_steps, _interrupt)
        else:
            whole = Steps.take
            count = iter(range(n_steps))

            def poisoned(self: Steps, *arguments: Any, **named: Any) -> None:
                whole(self, *arguments, **named)
                if next(count, None) is None:
                    assert isinstance(self._members, StackedMembers)
                    self._members._buffers.parameters.memory.fill_(float("nan"))

            patch.setattr(steps, "_MOST_BATCHES", 1)
            patch.setattr(Steps, "take", poisoned)
        with pytest.warns(RuntimeWarning) as warned:
            kept = _fit(checkpoint, settings)
    messages = [str(warning.message) for warning in warned]
    assert any("the refit on all rows came to no end" in message for message in messages)
    assert kept.stopped == how
    assert kept.best_epochs == first.best_epochs
    for one, other in zip(kept.members, first.members, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    if how == "interrupted":
        # The same lines go on to what they would have come to.
        assert difference(_fit(settings=settings), _fit(checkpoint, settings)) is None


def test_no_refit_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    _stop_after(monkeypatch, 9, _interrupt)
    with pytest.warns(RuntimeWarning, match="training was interrupted"):
        model = _fit(settings=replace(SETTINGS, refit=True))
    assert model.stopped == "interrupted"
    assert model.card["n_training_rows"] < 300


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = _fit()
    model.save(path)
    with pytest.raises(ArtifactError, match="must be a training checkpoint; it is another"):
        _fit(Checkpoint(path))
    assert difference(load_fitted(path), model) is None
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError):
        _fit(Checkpoint(path))


def test_a_checkpoint_is_no_model(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.safetensors", 0.0)
    _fit(checkpoint)
    with pytest.raises(ArtifactError):
        load_fitted(checkpoint.path)


def test_an_interval_is_seconds() -> None:
    with pytest.raises(ValueError, match=r"at least 0; got -1"):
        Checkpoint("run.safetensors", -1)


@pytest.mark.slow
@pytest.mark.parametrize("n_threads", [1, 2], ids=["step by step", "in blocks"])
def test_runs_survive_being_killed(n_threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "campaigns.kill_training", "--kills", "10"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(n_threads), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "10 kills survived" in done.stdout
