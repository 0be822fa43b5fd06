"""Sources that cannot be read are refused in a sentence that names them, before Ray is joined.

Each by `predict --ray`, `predict_on_ray` and `train_on_ray`, on this machine and in an S3 endpoint
of this machine; what remains of a refused run is not taken for predictions.
"""

from __future__ import annotations

import gzip
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from tabwright.cli.app import app
from tabwright.cli.option_names import in_options
from tabwright.cluster import ray_job, ray_predict
from tabwright.cluster.prediction_parts import OutputFolder, parts_of, write_part
from tabwright.cluster.ray_job import train_on_ray
from tabwright.cluster.ray_predict import PredictRequest, predict_on_ray
from tabwright.errors import TableError
from tabwright.estimators.classifier import TabularClassifier
from tabwright.inference.fitted_model import load_fitted
from tabwright.tables import read_table
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import TableRequest
from tabwright.workflows.predict import TablePredictions
from tabwright.workflows.requests.train import TrainRequest
from tests.conftest import S3_ACCOUNT

pytest.importorskip("ray", reason="ray is absent")
# The model was fitted on frames: it does not know the target's name.
pytestmark = pytest.mark.filterwarnings("ignore:ignored 1 column that the model")

_N_ROWS = 120
_DRAW = np.random.default_rng(0)
ROWS = pl.DataFrame(
    {
        "size": _DRAW.normal(size=_N_ROWS),
        "kind": _DRAW.choice(["red", "green"], _N_ROWS),
        "label": _DRAW.choice(["yes", "no"], _N_ROWS),
    }
)


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _csv(frame: pl.DataFrame) -> bytes:
    return frame.write_csv().encode()


_WHOLE, _TEXT = _parquet(ROWS), _csv(ROWS)
_HALF = len(_WHOLE) // 2
# Per fault: the files of the source, and what the sentence says; PLACE is where they lie.
FAULTS: dict[str, tuple[dict[str, bytes], str]] = {
    "absent": ({}, r"there is no (file|object and no folder) PLACE"),
    "rowless": ({"a.parquet": _parquet(ROWS[:0])}, r"PLACE/a\.parquet has no rows"),
    "empty text": ({"a.csv": _TEXT, "b.csv": b""}, r"PLACE/b\.csv is empty"),
    "header alone": ({"a.csv": b"size,kind,label\n"}, r"PLACE/a\.csv has no rows"),
    "a column less": (
        {"a.csv": _TEXT, "b.csv": _csv(ROWS.drop("size"))},
        r"PLACE/b\.csv lacks the column 'size'",
    ),
    "a column more": (
        {"a.parquet": _WHOLE, "b.parquet": _parquet(ROWS.with_columns(more=1))},
        r"PLACE/b\.parquet has the column 'more' too",
    ),
    "another type": (
        {"a.parquet": _WHOLE, "b.parquet": _parquet(ROWS.cast({"size": pl.String}))},
        r"column 'size' of PLACE/b\.parquet is String, and Float64 before",
    ),
    "cut short": (
        {"a.parquet": _WHOLE, "b.parquet": _WHOLE[:_HALF]},
        r"PLACE/b\.parquet must be a whole parquet file",
    ),
    "no bytes": (
        {"a.parquet": _WHOLE, "b.parquet": b""},
        r"PLACE/b\.parquet must be a whole parquet file",
    ),
    "damaged within": (
        {"a.parquet": _WHOLE, "b.parquet": _WHOLE[:60] + bytes(_HALF - 60) + _WHOLE[_HALF:]},
        r"PLACE/b\.parquet must be a whole parquet file",
    ),
    "cut in compression": (
        {"a.csv.gz": gzip.compress(_TEXT), "b.csv.gz": gzip.compress(_TEXT)[:600]},
        r"PLACE/b\.csv\.gz: compressed data must be whole",
    ),
    "two formats": (
        {"a.parquet": _WHOLE, "b.csv": _TEXT},
        r"must have one format; got csv, parquet",
    ),
    "half a line": (
        {"a.jsonl": ROWS.write_ndjson().encode(), "b.jsonl": b'{"size": 1.0, "kind"'},
        r"PLACE/b\.jsonl, line 1: every line must be one JSON object",
    ),
    "not what is needed": (
        {"a.parquet": _parquet(ROWS.select("kind"))},
        r"'size' is missing|PLACE has no column 'label'",
    ),
}


@pytest.fixture(autouse=True)
def _before_ray(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("no worker may start")

    monkeypatch.setattr(ray_job, "joined_ray", refuse)
    monkeypatch.setattr(ray_predict, "joined_ray", refuse)
    for name, value in {
        **S3_ACCOUNT,
        "AWS_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    fitted = TabularClassifier(max_epochs=1, n_members=1, quality="fast", random_state=0)
    fitted.fit(ROWS.drop("label"), ROWS["label"]).save(path)
    return path


@pytest.fixture(params=["here", "s3"])
def put(request: Any, tmp_path: Path) -> Callable[[str, dict[str, bytes]], str]:
    """Puts files where a source is; gives its place."""

    def here(name: str, files: dict[str, bytes]) -> str:
        folder = tmp_path / name
        for file, content in files.items():
            folder.mkdir(exist_ok=True)
            (folder / file).write_bytes(content)
        return str(folder)

    def stored(name: str, files: dict[str, bytes]) -> str:
        import boto3

        client = boto3.client(
            "s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1"
        )
        client.create_bucket(Bucket="tables")
        for file, content in files.items():
            client.put_object(Bucket="tables", Key=f"{name}/{file}", Body=content)
        client.close()
        return f"s3://tables/{name}"

    return here if request.param == "here" else stored


def _refused(source: str, model: Path, folder: Path) -> Iterator[str]:
    """What each way in says of a source; nothing is left that could be taken for a result."""
    output, trained = folder / "out", folder / "trained.safetensors"
    request = TrainRequest(TableRequest(source, ColumnUses("label")), output=trained)
    with pytest.raises(TableError) as by_function:
        predict_on_ray(PredictRequest(model, source, str(output)))
    yield str(by_function.value)
    with pytest.raises(TableError) as by_training:
        train_on_ray(request, n_workers=2)
    yield str(by_training.value)
    words = ["predict", str(model), source, "--ray", "--output", str(output)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code != 0
    assert not isinstance(done.exception, AssertionError)
    yield " ".join(done.output.split())
    assert not output.exists()
    assert not trained.exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_source_that_cannot_be_read(
    fault: str, put: Callable[[str, dict[str, bytes]], str], model: Path, tmp_path: Path
) -> None:
    files, rule = FAULTS[fault]
    place = put(fault.replace(" ", "-"), files)
    by_function, by_training, by_command = _refused(place, model, tmp_path)
    expected = re.compile(rule.replace("PLACE", re.escape(place)))
    assert expected.search(by_function)
    assert expected.search(by_training)
    # The command breaks lines, within long names too.
    assert re.sub(r"\s", "", in_options(by_function))[-20:] in re.sub(r"\s", "", by_command)


def test_a_store_that_refuses(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in ("s3://nobucket/rows", "s3://nobucket/rows/*.parquet"):
        for said in _refused(source, model, tmp_path):
            assert "nobucket" in said
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    monkeypatch.setattr("moto.core.responses.ActionAuthenticatorMixin.request_count", 0)
    for said in _refused("s3://tables/rows", model, tmp_path):
        assert "s3://tables/rows: the store must let these credentials in" in said
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for said in _refused("s3://elsewhere/rows", model, tmp_path):
        assert "s3://elsewhere/rows: the store must answer; it did not" in said


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nowhere.invalid:6379"])
def test_a_cluster_that_does_not_answer(
    address: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    table, output = tmp_path / "rows.parquet", tmp_path / "out"
    ROWS.write_parquet(table)
    request = TrainRequest(
        TableRequest(str(table), ColumnUses("label")), output=tmp_path / "trained.safetensors"
    )
    rule = f"RAY_ADDRESS must name a cluster that answers; got '{re.escape(address)}'"
    with pytest.raises(ConnectionError, match=rule):
        predict_on_ray(PredictRequest(model, str(table), str(output)))
    with pytest.raises(ConnectionError, match=rule):
        train_on_ray(request, n_workers=2)
    words = ["predict", str(model), str(table), "--ray", "--output", str(output)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 4
    assert re.search(rule, " ".join(done.output.split()))
    assert not output.exists()


def test_an_interrupted_command_says_that_it_can_go_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ray_predict, "joined_ray", interrupt)
    table, output = tmp_path / "rows.parquet", tmp_path / "out"
    ROWS.write_parquet(table)
    words = ["predict", str(model), str(table), "--ray", "--output", str(output)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 130
    said = " ".join(done.output.split())
    # Once, not "interrupted: interrupted".
    assert " interrupted: the parts in" in said
    assert said.count("interrupted") == 1 + table.as_posix().count("interrupted")
    assert said.endswith("the same command goes on with what is missing")


def test_outputs_that_cannot_be(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "rows.parquet"
    ROWS.write_parquet(table)
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    for output, rule in (
        (str(notes), r"notes\.txt"),
        (str(notes / "below"), r"notes\.txt"),
        (str(tmp_path), r"must not lie in the table's folder|must be new or empty"),
        ("s3://nobucket/out", "there is no bucket 'nobucket'"),
    ):
        with pytest.raises((TableError, ValueError), match=rule):
            predict_on_ray(PredictRequest(model, str(table), output))
    assert notes.read_text() == "mine"
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    monkeypatch.setattr("moto.core.responses.ActionAuthenticatorMixin.request_count", 0)
    with pytest.raises(TableError, match="s3://tables/out: the store must let these credentials"):
        predict_on_ray(PredictRequest(model, str(table), "s3://tables/out"))


def test_a_folder_of_another_run(model: Path, tmp_path: Path) -> None:
    """Of another model, another table or other options: nothing of it is taken or overwritten."""
    tables = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for seed, table in enumerate(tables):
        ROWS.sample(fraction=1.0, shuffle=True, seed=seed).write_parquet(table)
    other = tmp_path / "other.safetensors"
    fitted = TabularClassifier(max_epochs=1, n_members=1, quality="fast", random_state=1)
    fitted.fit(ROWS.drop("label"), ROWS["label"]).save(other)
    output = tmp_path / "out"
    first = PredictRequest(model, str(tables[0]), str(output))
    with pytest.raises(AssertionError, match="no worker may start"):
        predict_on_ray(first)
    part = output / "part-000000.parquet"
    part.write_bytes(b"a part of the first run")
    for request, rule in (
        (PredictRequest(other, str(tables[0]), str(output)), "those of another model"),
        (PredictRequest(model, str(tables[1]), str(output)), "those of another table"),
        (PredictRequest(model, str(tables[0]), str(output), digits=3), "its options differ"),
    ):
        with pytest.raises(ValueError, match=rule):
            predict_on_ray(request)
    assert part.read_bytes() == b"a part of the first run"
    with pytest.raises(TableError, match="must hold all parts of its predictions"):
        read_table(str(output))


def test_columns_in_another_order_are_read_by_name(model: Path, tmp_path: Path) -> None:
    names = [["size", "kind", "label"], ["label", "kind", "size"]]
    found = []
    for number, second in enumerate(names):
        folder = tmp_path / f"table{number}"
        folder.mkdir()
        ROWS[:70].write_csv(folder / "a.csv")
        ROWS[70:].select(second).write_csv(folder / "b.csv")
        output = OutputFolder(str(tmp_path / f"out{number}"))
        Path(output.place).mkdir()
        predictions = TablePredictions.of(load_fitted(model), str(folder), keep=["size"])
        parts = parts_of(str(folder), 1000, None)
        for part in range(len(parts)):
            write_part(predictions, parts, part, output)
        found.append(pl.read_parquet(f"{output.place}/part-*.parquet"))
    assert found[0].height == _N_ROWS
    assert_frame_equal(found[0], found[1])
