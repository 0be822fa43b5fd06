"""Predictions part by part into a folder: plans, parts, and what binds them; without a cluster."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tabwright.cluster import ray_predict
from tabwright.cluster.prediction_parts import (
    OutputFolder,
    parts_of,
    plan_document,
    write_part,
)
from tabwright.cluster.ray_predict import PredictRequest, predict_on_ray
from tabwright.errors import TableError, install_command
from tabwright.estimators.classifier import TabularClassifier
from tabwright.inference.fitted_model import load_fitted
from tabwright.tables import read_table
from tabwright.tables.paths import PLAN_PREFIX
from tabwright.workflows.predict import TablePredictions, iter_predictions
from tabwright.workflows.reading import Part
from tests.conftest import S3_ACCOUNT


def _rows(n_rows: int, seed: int = 0) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "id": [f"{n:05d}" for n in range(n_rows)],
            "size": draw.normal(size=n_rows),
            "kind": draw.choice(["red", "green"], n_rows),
        }
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = _rows(300)
    y = np.where(rows["size"].to_numpy() > 0, "yes", "no")
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    TabularClassifier(max_epochs=2, n_members=1, random_state=0).fit(rows.drop("id"), y).save(path)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "table"
    folder.mkdir()
    rows = _rows(1000)
    rows[:650].write_parquet(folder / "a.parquet", row_group_size=100)
    rows[650:650].write_parquet(folder / "b.parquet")
    rows[650:].write_parquet(folder / "c.parquet")
    return folder


def test_parts_are_runs_of_rows_of_each_file(table: Path) -> None:
    a, c = table / "a.parquet", table / "c.parquet"
    assert parts_of(str(table), 300, None) == [
        Part(a, 0, 300),
        Part(a, 1, 300),
        Part(a, 2, 300),
        Part(c, 0, 300),
        Part(c, 1, 300),
    ]
    with pytest.raises(ValueError, match="a part must have at least 1 row; got 0"):
        parts_of(str(table), 0, None)


def test_a_file_of_text_is_one_part_and_one_without_rows_none(tmp_path: Path) -> None:
    for name, n_rows in (("a.csv", 5), ("b.csv", 0), ("c.csv", 7)):
        _rows(n_rows).write_csv(tmp_path / name)
    assert parts_of(str(tmp_path), 2, None) == [Part(tmp_path / "a.csv"), Part(tmp_path / "c.csv")]
    with pytest.raises(TableError, match=r"b\.csv has no rows"):
        parts_of(str(tmp_path / "b.csv"), 2, None)


@pytest.mark.parametrize("form", ["parquet", "csv", "csv.gz", "jsonl", "arrow"])
def test_all_parts_are_the_predictions_of_the_table(model: Path, tmp_path: Path, form: str) -> None:
    folder, output = tmp_path / "table", OutputFolder(str(tmp_path / "out"))
    folder.mkdir()
    for number, n_rows in enumerate((400, 250)):
        rows, path = _rows(n_rows, number), folder / f"{number}.{form}"
        if form == "csv.gz":
            path.write_bytes(gzip.compress(rows.write_csv().encode()))
        else:
            write = {
                "parquet": rows.write_parquet,
                "csv": rows.write_csv,
                "jsonl": rows.write_ndjson,
                "arrow": rows.write_ipc,
            }[form]
            write(path)  # type: ignore[operator]
    fitted = load_fitted(model)
    predictions = TablePredictions.of(fitted, str(folder), keep=["id"])
    parts = parts_of(str(folder), 150, None)
    output.begin(plan_document(model, str(folder), parts, {}))
    for number in reversed(range(len(parts))):
        write_part(predictions, parts, number, output)
    assert output.end(len(parts)) == 650
    whole = pl.concat(iter_predictions(fitted, str(folder), keep=["id"]))
    assert_frame_equal(read_table(output.place), whole)


def test_a_part_that_fails_leaves_nothing(model: Path, table: Path, tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path / "out"))
    predictions = TablePredictions.of(load_fitted(model), str(table), keep=["id"])
    parts = parts_of(str(table), 300, None)
    output.begin(plan_document(model, str(table), parts, {}))

    def failing() -> Iterator[pl.DataFrame]:
        yield from [pl.DataFrame({"prediction": ["yes"]})]
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        output.write_table(output.part_name(0), failing())
    (plan,) = output.names()
    write_part(predictions, parts, 1, output)
    assert output.names() == {plan, "part-000001.parquet"}
    with pytest.raises(RuntimeError, match=r"lacks part-000000\.parquet"):
        output.end(len(parts))
    # What is there is no table yet, for our own readers either.
    with pytest.raises(TableError, match=r"must hold all parts of its predictions; .* again"):
        read_table(output.place)


def test_a_folder_is_bound_to_model_table_and_options(
    model: Path, table: Path, tmp_path: Path
) -> None:
    parts = parts_of(str(table), 300, None)
    document = plan_document(model, str(table), parts, {"keep": ["id"]})
    output = OutputFolder(str(tmp_path / "out"))
    assert output.begin(document) == set()
    assert output.begin(document) == output.names()
    (plan,) = output.names()
    for key, value, said in (
        ("model", "0" * 64, "those of another model"),
        ("options", {"keep": []}, "its options differ"),
        ("table", "elsewhere", "those of another table"),
        ("parts", [], "its parts differ"),
    ):
        with pytest.raises(ValueError, match=f"{said}.*name another folder"):
            output.begin({**document, key: value})
    _rows(350, seed=9).write_parquet(table / "c.parquet")
    changed = plan_document(model, str(table), parts, {"keep": ["id"]})
    with pytest.raises(ValueError, match="its files differ"):
        output.begin(changed)
    (tmp_path / "out" / plan).write_text("{")
    with pytest.raises(ValueError, match="it is damaged; name another folder"):
        output.begin(changed)
    with pytest.raises(ValueError, match=r"must be new or empty; .* holds 'a\.parquet'"):
        OutputFolder(str(table)).begin(document)


@pytest.mark.parametrize("place", ["here", "s3"])
def test_of_two_runs_that_begin_at_once_one_is_refused(
    place: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**S3_ACCOUNT, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    if place == "s3":
        import boto3

        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="parts")
        client.close()
    folder = OutputFolder(str(tmp_path / "out") if place == "here" else "s3://parts/out")
    first, second = {"model": "a", "table": "t"}, {"model": "b", "table": "t"}
    write = OutputFolder.write

    def late(self: OutputFolder, name: str, content: bytes) -> None:
        monkeypatch.setattr(OutputFolder, "write", write)
        folder.begin(second)
        write(self, name, content)

    monkeypatch.setattr(OutputFolder, "write", late)
    with pytest.raises(ValueError, match="those of another model; name another folder"):
        folder.begin(first)
    # What was refused leaves nothing, and the other goes on.
    (plan,) = folder.names()
    assert folder.begin(second) == {plan}
    with pytest.raises(ValueError, match="those of another model"):
        folder.begin(first)


def test_behind_a_run_that_has_given_way_another_is_refused(tmp_path: Path) -> None:
    folder = OutputFolder(str(tmp_path / "out"))
    names = folder.begin({"model": "first"}) | folder.names()
    gone = f"{PLAN_PREFIX}0.json"
    assert gone < min(names)
    with pytest.raises(ValueError, match="those of another model"):
        folder._refuse_others("own", {gone, *names}, {"model": "second"})


def test_never_do_two_different_runs_both_begin(tmp_path: Path) -> None:
    for round_ in range(30):
        folder = OutputFolder(str(tmp_path / str(round_)))
        barrier = Barrier(3)

        def begin(number: int, folder: OutputFolder = folder, barrier: Barrier = barrier) -> bool:
            barrier.wait()
            try:
                folder.begin({"model": str(number)})
            except ValueError:
                return False
            return True

        with ThreadPoolExecutor(3) as pool:
            begun = list(pool.map(begin, range(3)))
        assert sum(begun) <= 1
        assert len(folder.names()) == sum(begun)


def test_a_run_that_is_started_twice_ends_twice(model: Path, table: Path, tmp_path: Path) -> None:
    """One ends, and tidies up, while the other is writing a part that is there already."""
    output = OutputFolder(str(tmp_path / "out"))
    predictions = TablePredictions.of(load_fitted(model), str(table), keep=["id"])
    parts = parts_of(str(table), 10_000, None)
    document = plan_document(model, str(table), parts, {})

    def whole_run() -> None:
        output.begin(document)
        for number in range(len(parts)):
            write_part(predictions, parts, number, output)
        assert output.end(len(parts)) == 1000

    def slow() -> Iterator[pl.DataFrame]:
        frame = pl.DataFrame({"prediction": ["yes"]})
        yield frame
        whole_run()
        yield frame

    output.begin(document)
    assert output.write_table(output.part_name(1), slow()) == 350
    assert output.end(len(parts)) == 1000
    assert read_table(output.place).height == 1000


def test_what_killed_writers_left_is_removed(model: Path, table: Path, tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path / "out"))
    predictions = TablePredictions.of(load_fitted(model), str(table), keep=["id"])
    parts = parts_of(str(table), 10_000, None)
    left = tmp_path / "out" / ".tabwright-x.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half a plan")
    output.begin(plan_document(model, str(table), parts, {}))
    left.write_bytes(b"half a part")
    for number in range(len(parts)):
        write_part(predictions, parts, number, output)
    assert output.end(len(parts)) == 1000
    assert not left.exists()


def test_faults_are_refused_before_any_work(
    model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = PredictRequest(model, str(table), str(tmp_path / "out"), keep=("id",))

    def refuse(*_: object) -> None:
        raise AssertionError("no worker may start")

    monkeypatch.setattr(ray_predict, "joined_ray", refuse)
    for faulty, rule in (
        (replace(request, table=str(tmp_path / "nope")), "there is no file"),
        (replace(request, keep=("id", "who")), "has no column 'who'"),
        (replace(request, coverage=0.9), "need a regression model"),
        (replace(request, threshold=3.0), "must be in"),
        (replace(request, rows_per_part=0), "at least 1 row"),
        (replace(request, output=str(table / "out")), "must not lie in the table's folder"),
        (replace(request, model=table / "a.parquet"), "a.parquet"),
    ):
        with pytest.raises(ValueError, match=rule):
            predict_on_ray(faulty)
    _rows(5).drop("size").write_parquet(table / "d.parquet")
    with pytest.raises(TableError, match=r"d\.parquet lacks the column 'size'"):
        predict_on_ray(request)
    _rows(5).with_columns(pl.col("size").cast(pl.String)).write_parquet(table / "d.parquet")
    with pytest.raises(TableError, match=r"column 'size' of .*d\.parquet is String"):
        predict_on_ray(request)
    _rows(5).with_columns(pl.lit("huge").alias("size")).write_parquet(tmp_path / "words.parquet")
    with pytest.raises(TableError, match="size"):
        predict_on_ray(replace(request, table=str(tmp_path / "words.parquet")))
    _rows(0).write_parquet(tmp_path / "none.parquet")
    with pytest.raises(TableError, match="has no rows"):
        predict_on_ray(replace(request, table=str(tmp_path / "none.parquet")))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="at least 1 worker; got 0"):
        predict_on_ray(request, n_workers=0)


def test_a_missing_ray_names_its_install_line(
    model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_predict, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="predicting on Ray needs ray") as caught:
        predict_on_ray(PredictRequest(model, str(table), str(tmp_path / "out")))
    assert install_command("ray") in str(caught.value)
