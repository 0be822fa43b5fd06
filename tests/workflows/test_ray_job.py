"""A job on a local Ray: two workers, one of them killed midway, and the model all the same."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from campaigns import kill_workers
from tabwright.errors import install_command
from tabwright.inference.fitted_model import load_fitted
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import TableRequest
from tabwright.workflows import ray_job
from tabwright.workflows.ray_job import train_on_ray
from tabwright.workflows.train import TrainRequest

REQUEST = TrainRequest(TableRequest("table", ColumnUses("label")))


def test_one_worker_needs_no_ray() -> None:
    with pytest.raises(ValueError, match="at least 2 workers; got 1; for one, use tabwright train"):
        train_on_ray(REQUEST, n_workers=1)


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
    words = ["--memory", "1kB"]
    alone = tmp_path / "alone.safetensors"
    command = kill_workers.command(tmp_path, alone, n_workers=1)
    subprocess.run([*command, *words], env=kill_workers.environment(), check=True)
    model, reference = load_fitted(tmp_path / "ray.safetensors"), load_fitted(alone)
    assert model.best_epochs == reference.best_epochs
    for member, twin in zip(model.members, reference.members, strict=True):
        for name, value in member.items():
            torch.testing.assert_close(
                torch.from_numpy(value), torch.from_numpy(twin[name]), rtol=5e-3, atol=1e-4
            )
