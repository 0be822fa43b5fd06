"""Training on a local Ray: tables in a store give the model of the same files on disk, and what a
worker finds wrong with a table is said as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from campaigns import kill_workers
from tabwright.cluster.ray_job import train_on_ray
from tabwright.errors import TableError
from tabwright.inference.fitted_model import FittedModel, load_fitted
from tabwright.streaming.scan import SAMPLE_LIMITS
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import TableRequest
from tabwright.workflows.requests.train import TrainRequest
from tabwright.workflows.train import run_training
from tests.cluster.conftest import RAY_MARKS

pytestmark = RAY_MARKS


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "table"
    kill_workers.write_table(folder)
    return folder


def _stored(table: Path, name: str, endpoint: str) -> str:
    """The files of a folder in the store."""
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="tables")
    for path in sorted(table.iterdir()):
        client.upload_file(str(path), "tables", f"{name}/{path.name}")
    client.close()
    return f"s3://tables/{name}"


def _request(source: str, output: Path) -> TrainRequest:
    return TrainRequest(
        TableRequest(source, ColumnUses("label")),
        output=output,
        settings={"max_epochs": 2, "n_members": 2, "hidden_dim": 32, "batch_size": 64},
    )


def _trained(source: str, output: Path, n_workers: int) -> FittedModel:
    notes = str(output.parent / "notes")
    path = train_on_ray(_request(source, output), n_workers=n_workers, storage=notes)
    return load_fitted(path)


def _assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name])


def test_parquet_in_a_store_trains_the_model_of_its_files(
    table: Path, tmp_path: Path, endpoint: str
) -> None:
    here = _trained(str(table), tmp_path / "here.safetensors", 1)
    uri = _stored(table, "parquet", endpoint)
    stored = _trained(uri, tmp_path / "stored.safetensors", 2)
    assert stored.card["streamed"] == here.card["streamed"]
    assert stored.card["streamed"]["files"] == 2
    assert stored.metrics == here.metrics
    for member, twin in zip(stored.members, here.members, strict=True):
        _assert_same(dict(member), dict(twin))


def test_csv_in_a_store_is_counted_and_encoded_as_its_files_are(
    table: Path, tmp_path: Path, endpoint: str
) -> None:
    """Compared with training from disk, whose batches are others: all but the networks."""
    for path in list(table.iterdir()):
        pl.read_parquet(path).write_csv(path.with_suffix(".csv"))
        path.unlink()
    output = tmp_path / "here.safetensors"
    run_training(replace(_request(str(table), output), memory=1000))
    here = load_fitted(output)
    stored = _trained(_stored(table, "csv", endpoint), tmp_path / "stored.safetensors", 1)
    assert stored.card["streamed"] == here.card["streamed"]
    assert stored.card["streamed"]["files"] == 2
    (document, tensors), (expected, twins) = stored.encoder.to_state(), here.encoder.to_state()
    assert document == expected
    _assert_same(tensors, twins)
    assert stored.metrics["baseline"] == here.metrics["baseline"]
    assert stored.metrics["test"]["log_loss"] == pytest.approx(
        here.metrics["test"]["log_loss"], rel=0.1
    )


def test_a_cell_that_the_second_pass_finds_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("train", "validation", "test"):
        monkeypatch.setitem(SAMPLE_LIMITS, place, 100)
    widths = [f"{number % 90} cm" for number in range(1500)]
    widths[-3] = "70 apples"
    labels = ["yes", "no"] * 750
    path = tmp_path / "rows.csv"
    pl.DataFrame({"width": widths, "label": labels}).write_csv(path)
    output = tmp_path / "model.safetensors"
    with pytest.raises(TableError) as caught:
        train_on_ray(_request(str(path), output), n_workers=2)
    assert str(caught.value).startswith("column 'width' must hold ")
    assert "70 apples" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not output.exists()
