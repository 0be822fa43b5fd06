"""A running cluster that RAY_ADDRESS names: two nodes of one CPU each, on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from campaigns import kill_workers
from tabwright.inference.fitted_model import load_fitted
from tabwright.tables import read_table

_DRIVER = """
import os, sys, tempfile
from pathlib import Path
from ray.cluster_utils import Cluster

# In a folder of its own: else others on this machine would join it.
own = tempfile.TemporaryDirectory(prefix="ray")
# Ray writes there which cluster is the newest, and takes the folder for granted.
Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray").mkdir(parents=True, exist_ok=True)
cluster = Cluster()
for _ in range(2):
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20, temp_dir=own.name)
os.environ["RAY_ADDRESS"] = cluster.address
from tabwright import PredictRequest, TrainRequest, predict_on_ray, train_on_ray
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import TableRequest

folder = Path(sys.argv[1])
settings = {"max_epochs": 1, "n_members": 2, "hidden_dim": 32, "batch_size": 64}
table, model = TableRequest(str(folder / "table"), ColumnUses("label")), folder / "m.safetensors"
train_on_ray(
    TrainRequest(table, output=model, settings=settings),
    n_workers=2,
    storage=str(folder / "notes"),
)
request = PredictRequest(model, table.table, str(folder / "out"), ("noise",), rows_per_part=300)
print(predict_on_ray(request, n_workers=2).n_rows)
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_cluster_of_two_nodes_is_joined(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is absent")
    kill_workers.write_table(tmp_path / "table")
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(tmp_path)],
        env={**kill_workers.environment(), "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "2000"
    assert load_fitted(tmp_path / "m.safetensors").card["streamed"]["files"] == 2
    table = pl.read_parquet(str(tmp_path / "table" / "*.parquet"))
    assert read_table(str(tmp_path / "out"))["noise"].to_list() == table["noise"].to_list()
