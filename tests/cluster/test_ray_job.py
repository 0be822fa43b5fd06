"""A job on a local Ray: two workers, one of them killed midway, and the model all the same."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from campaigns import kill_workers
from tabwright.cluster import ray_job
from tabwright.cluster.ray_job import train_on_ray
from tabwright.errors import install_command
from tabwright.inference.fitted_model import load_fitted
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import TableRequest
from tabwright.workflows.requests.train import TrainRequest

MODEL = Path("model.safetensors")
REQUEST = TrainRequest(TableRequest("table", ColumnUses("label")))


def test_a_job_has_a_worker() -> None:
    with pytest.raises(ValueError, match="at least 1 worker; got 0"):
        train_on_ray(REQUEST, n_workers=0)


def test_faults_of_the_request_are_refused_before_a_worker_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise AssertionError("no worker may start")

    monkeypatch.setattr(ray_job, "joined_ray", refuse)
    table = tmp_path / "table"
    kill_workers.write_table(table, n_rows=30)
    good = TrainRequest(TableRequest(str(table), ColumnUses("label")), output=tmp_path / MODEL)
    for request, rule in (
        (replace(good, output=tmp_path / "absent" / MODEL), "absent"),
        (replace(good, output=tmp_path / "model.bin"), r"must be named \.safetensors"),
        (replace(good, settings={"max_epochs": 0}), "max_epochs must be"),
        (replace(good, prior="balanced"), "a prior is for the mode imbalance_aware"),
    ):
        with pytest.raises((ValueError, OSError), match=rule):
            train_on_ray(request, n_workers=2)
    (tmp_path / MODEL).write_bytes(b"notes of mine")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        train_on_ray(good, n_workers=2)
    assert (tmp_path / MODEL).read_bytes() == b"notes of mine"


def test_a_missing_ray_names_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_job, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=re.escape(install_command("ray"))):
        train_on_ray(REQUEST, n_workers=2)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is absent")
def test_a_worker_killed_midway_costs_nothing(tmp_path: Path) -> None:
    kill_workers.write_table(tmp_path / "table")
    driver = Path(__file__).with_name("ray_driver.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(tmp_path)],
        env=kill_workers.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr
    assert "killed a worker" in done.stdout
    assert not (tmp_path / "ray.safetensors.run").exists()
    model = load_fitted(tmp_path / "ray.safetensors")
    reference = load_fitted(tmp_path / "alone.safetensors")
    assert model.card["streamed"] == reference.card["streamed"]
    assert model.best_epochs == reference.best_epochs
    assert model.metrics["test"]["log_loss"] == pytest.approx(
        reference.metrics["test"]["log_loss"], rel=1e-5
    )
    for member, twin in zip(model.members, reference.members, strict=True):
        for name, value in member.items():
            torch.testing.assert_close(
                torch.from_numpy(value), torch.from_numpy(twin[name]), rtol=1e-5, atol=1e-6
            )
