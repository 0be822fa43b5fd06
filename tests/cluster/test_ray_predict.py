"""Predictions on a local Ray of two CPUs: whole, gone on with, and with a worker killed midway."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from tabwright.cli.app import app
from tabwright.cluster.batch_functions import BatchPredictor
from tabwright.cluster.ray_predict import PredictRequest, predict_on_ray
from tabwright.errors import TableError
from tabwright.estimators.classifier import TabularClassifier
from tabwright.inference.fitted_model import load_fitted
from tabwright.tables import read_table
from tabwright.workflows.predict import iter_predictions
from tests.cluster.conftest import RAY_MARKS

ray = pytest.importorskip("ray", reason="ray is absent")
pytestmark = RAY_MARKS
_N_ROWS = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in two files, and a model."""
    place = tmp_path_factory.mktemp("scored")
    draw = np.random.default_rng(0)
    rows = pl.DataFrame(
        {
            "id": np.arange(_N_ROWS),
            "size": draw.normal(size=_N_ROWS),
            "kind": draw.choice(["red", "green"], _N_ROWS),
        }
    )
    (place / "table").mkdir()
    rows[:35_000].write_parquet(place / "table" / "a.parquet", row_group_size=10_000)
    rows[35_000:].write_parquet(place / "table" / "b.parquet")
    few = rows[:300].drop("id")
    y = np.where(few["size"].to_numpy() > 0, "yes", "no")
    model = TabularClassifier(max_epochs=2, n_members=1, random_state=0).fit(few, y)
    model.save(place / "model.safetensors")
    return place


@pytest.fixture
def request_(folder: Path, tmp_path: Path) -> PredictRequest:
    return PredictRequest(
        folder / "model.safetensors",
        str(folder / "table"),
        str(tmp_path / "out"),
        keep=("id",),
        rows_per_part=2_000,
    )


def _expected(request: PredictRequest) -> pl.DataFrame:
    model = load_fitted(request.model)
    return pl.concat(iter_predictions(model, request.table, keep=request.keep))


def _workers() -> list[int]:
    """Process ids of this cluster's workers that predict."""
    mark = f"TABWRIGHT_RAY_TEST={os.getpid()}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes()
            if b"MapWorker" in title and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)


def test_a_worker_killed_midway_loses_and_doubles_nothing(request_: PredictRequest) -> None:
    killed: list[int] = []
    written: list[int] = []
    output = Path(request_.output)
    over = threading.Event()

    def kill() -> None:
        while not over.is_set() and not list(output.glob("part-*.parquet")):
            time.sleep(0.005)
        if victims := _workers():
            os.kill(victims[-1], signal.SIGKILL)
            killed.append(len(list(output.glob("part-*.parquet"))))

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        result = predict_on_ray(request_, on_rows=written.append)
    finally:
        over.set()
        killer.join()
    assert killed, "no worker was killed"
    assert killed[0] < result.n_parts, "the run was over before the worker was killed"
    assert result.n_rows == _N_ROWS
    assert sum(written) == _N_ROWS
    found = read_table(request_.output)
    assert found["id"].n_unique() == found.height == _N_ROWS
    assert_frame_equal(found, _expected(request_))
    assert not list(output.glob(".tabwright-*"))


def test_the_only_worker_killed_again_and_again(request_: PredictRequest) -> None:
    """Before the first part, and twice in the midst of them."""
    output = Path(request_.output)
    killed: list[int] = []
    over = threading.Event()

    def n_parts() -> int:
        return len(list(output.glob("part-*.parquet")))

    def kill() -> None:
        for moment in (0, 20, 60):
            while not over.is_set() and (n_parts() < moment or not _workers()):
                time.sleep(0.002)
            killed.append(n_parts())
            victims = _workers()
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            while not over.is_set() and set(victims) & set(_workers()):
                time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        result = predict_on_ray(replace(request_, rows_per_part=500), n_workers=1)
    finally:
        over.set()
        killer.join()
    assert len(killed) == 3
    assert killed[0] < 20 <= killed[1] < 60 <= killed[2] < result.n_parts == 120
    assert result.n_rows == _N_ROWS
    assert_frame_equal(read_table(request_.output), _expected(request_))
    assert len(list(output.iterdir())) == 122


def test_a_command_killed_midway_goes_on_when_it_is_given_again(
    request_: PredictRequest, tmp_path: Path
) -> None:
    rows, table = read_table(request_.table), tmp_path / "table"
    table.mkdir()
    for number in range(12):
        rows[5_000 * number : 5_000 * (number + 1)].write_parquet(table / f"{number:02}.parquet")
    request = PredictRequest(request_.model, str(table), request_.output, keep=("id",))
    command = [sys.executable, "-m", "tabwright", "predict", "--ray", str(request_.model)]
    command += [request.table, "--keep", "id", "--output", request.output, "--workers", "1"]
    address = ray.get_runtime_context().gcs_address
    output = Path(request.output)
    with subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": address}) as driver:
        while driver.poll() is None and not list(output.glob("part-*.parquet")):
            time.sleep(0.002)
        driver.kill()
    assert driver.returncode == -signal.SIGKILL
    with pytest.raises(TableError, match="must hold all parts of its predictions"):
        read_table(request.output)
    result = predict_on_ray(request)
    assert (result.n_rows, result.n_parts) == (_N_ROWS, 12)
    assert 1 <= result.n_earlier < 12
    assert_frame_equal(read_table(request.output), _expected(request_))


def test_a_run_goes_on_with_what_is_missing(request_: PredictRequest) -> None:
    first = predict_on_ray(request_, n_workers=1)
    assert (first.n_rows, first.n_parts, first.n_earlier) == (_N_ROWS, 31, 0)
    output = Path(request_.output)
    (output / "_SUCCESS").unlink()
    for number in (3, 17):
        (output / f"part-{number:06d}.parquet").unlink()
    with pytest.raises(TableError, match="must hold all parts of its predictions"):
        read_table(request_.output)
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*.parquet")}
    again = predict_on_ray(request_)
    assert (again.n_rows, again.n_parts, again.n_earlier) == (_N_ROWS, 31, 29)
    after = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*.parquet")}
    assert {name: after[name] for name in before} == before
    assert_frame_equal(read_table(request_.output), _expected(request_))
    with pytest.raises(ValueError, match="its options differ"):
        predict_on_ray(replace(request_, digits=3))


def test_a_cell_that_does_not_fit_is_named_and_nothing_is_taken_for_whole(
    folder: Path, request_: PredictRequest, tmp_path: Path
) -> None:
    table = tmp_path / "text"
    table.mkdir()
    rows = read_table(str(folder / "table"))[:900]
    rows[:500].write_csv(table / "a.csv")
    faulty = rows[500:].with_columns(pl.col("size").cast(pl.String))
    faulty[200, "size"] = "huge"
    faulty.write_csv(table / "b.csv")
    with pytest.raises(TableError, match=r"size.*huge|huge.*size"):
        predict_on_ray(replace(request_, table=str(table)))
    assert not (Path(request_.output) / "_SUCCESS").exists()
    assert not (Path(request_.output) / "part-000001.parquet").exists()


def test_a_disk_that_fails_a_worker_is_named(request_: PredictRequest) -> None:
    def remove(_: int) -> None:
        shutil.rmtree(request_.output, ignore_errors=True)

    with pytest.raises(OSError, match="cannot save: the folder does not exist") as caught:
        predict_on_ray(replace(request_, rows_per_part=500), n_workers=1, on_rows=remove)
    assert "\n" not in str(caught.value)
    assert not Path(request_.output).exists()


def test_the_command_and_an_object_store(folder: Path, endpoint: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="tables")
    for path in sorted((folder / "table").iterdir()):
        client.upload_file(str(path), "tables", f"rows/{path.name}")
    words = ["predict", folder / "model.safetensors", "s3://tables/rows", "--keep", "id"]
    words += ["--ray", "--workers", "1", "--output", "s3://tables/scored", "--json"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    # Ray warns of settings of its own.
    assert "deprecated" not in done.output
    said = json.loads(done.output[done.output.index("{") :])
    assert (said["rows"], said["parts"], said["parts_of_earlier_runs"]) == (_N_ROWS, 2, 0)
    model = load_fitted(folder / "model.safetensors")
    whole = pl.concat(iter_predictions(model, str(folder / "table"), keep=["id"]))
    assert_frame_equal(read_table("s3://tables/scored"), whole)
    again = CliRunner().invoke(app, [str(word) for word in words])
    assert json.loads(again.output[again.output.index("{") :])["parts_of_earlier_runs"] == 2
    client.close()


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--ray"], "--ray writes a folder of Parquet files; give --output FOLDER"),
        (["--ray", "--escape-formulas", "-o", "out"], "leave out --escape-formulas"),
        (["--workers", "2"], "--workers is for --ray"),
        (["-o", "s3://tables/x.csv"], "one file goes to this machine"),
    ],
)
def test_options_that_do_not_go_together(folder: Path, words: list[str], rule: str) -> None:
    model, table = str(folder / "model.safetensors"), str(folder / "table")
    done = CliRunner().invoke(app, ["predict", model, table, *words])
    assert done.exit_code != 0
    assert rule in " ".join(done.output.split())


@pytest.mark.parametrize("batch_format", ["pandas", "pyarrow", "numpy"])
def test_map_batches_takes_the_class(folder: Path, batch_format: Any) -> None:
    rows = read_table(str(folder / "table"))[:500]
    dataset = ray.data.from_arrow(rows.to_arrow()).map_batches(
        BatchPredictor,
        fn_constructor_args=(folder / "model.safetensors", ["id"]),
        batch_format=batch_format,
        concurrency=1,
        batch_size=200,
    )
    found = pl.from_pandas(dataset.to_pandas()).sort("id")
    model = load_fitted(folder / "model.safetensors")
    expected = pl.concat(iter_predictions(model, str(folder / "table"), keep=["id"]))[:500]
    assert_frame_equal(found, expected)
