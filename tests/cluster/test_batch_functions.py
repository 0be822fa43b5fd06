"""What other engines call: Ray Data's `map_batches` and Spark's `mapInPandas`, without either."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tabwright.cluster import batch_functions
from tabwright.cluster.batch_functions import (
    BatchPredictor,
    spark_batch_function,
    spark_predictor,
    spark_schema,
)
from tabwright.errors import ArtifactError, TableError
from tabwright.estimators.classifier import TabularClassifier
from tabwright.estimators.regressor import TabularRegressor
from tabwright.inference.fitted_model import load_fitted
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import prediction_frame


def _rows(n_rows: int = 200) -> pl.DataFrame:
    draw = np.random.default_rng(3)
    return pl.DataFrame(
        {
            "id": np.arange(n_rows),
            "size": draw.normal(size=n_rows),
            "kind": draw.choice(["red", "green"], n_rows),
        }
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = _rows()
    y = np.where(rows["size"].to_numpy() > 0, "yes", "no")
    fitted = TabularClassifier(max_epochs=2, n_members=1, random_state=0).fit(rows.drop("id"), y)
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    fitted.save(path)
    return path


def _expected(model: Path, rows: pl.DataFrame) -> pl.DataFrame:
    predictions = prediction_frame(Predictor(load_fitted(model)), rows.drop("id"))
    return rows[["id"]].hstack(predictions.get_columns())


@pytest.mark.parametrize("form", ["pandas", "pyarrow", "numpy"])
def test_a_batch_comes_back_in_its_own_form(model: Path, form: str) -> None:
    rows = _rows(50)
    batches: dict[str, Any] = {
        "pandas": rows.to_pandas(),
        "pyarrow": rows.to_arrow(),
        "numpy": {series.name: np.array(series.to_list()) for series in rows.get_columns()},
    }
    batch = batches[form]
    found = BatchPredictor(model, keep=["id"])(batch)
    assert isinstance(found, {"pandas": pd.DataFrame, "pyarrow": pa.Table, "numpy": dict}[form])
    if form == "numpy":
        found = {name: cells.tolist() for name, cells in found.items()}
    frame = pl.DataFrame(found) if form != "pandas" else pl.from_pandas(found)
    # A batch of other rows is rounded alike: predictions do not hang on their neighbours.
    expected = _expected(model, rows)
    assert frame.columns == expected.columns == ["id", "prediction", *expected.columns[2:]]
    assert frame.to_dict(as_series=False) == expected.to_dict(as_series=False)


def test_an_index_and_missing_cells_pass(model: Path) -> None:
    batch = _rows(4).to_pandas().set_index(pd.Index([7, 5, 3, 1]))
    batch.loc[5, ["size", "kind"]] = [np.nan, None]
    found = BatchPredictor(model, keep=["id"])(batch)
    assert found.index.tolist() == [7, 5, 3, 1]
    assert found["id"].tolist() == [0, 1, 2, 3]
    assert not found.isna().any().any()


def test_an_empty_batch_has_the_same_columns(model: Path) -> None:
    predict = BatchPredictor(model, keep=["id"])
    empty, some = predict(_rows(4).to_pandas()[:0]), predict(_rows(4).to_pandas())
    assert len(empty) == 0
    assert list(empty.columns) == list(some.columns)


def test_faults_are_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        BatchPredictor(Path(__file__))
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        BatchPredictor(tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match="need a regression model"):
        BatchPredictor(model, coverage=0.9)
    with pytest.raises(TableError, match="a kept column must be in the batch; got 'who'"):
        BatchPredictor(model, keep=["who"])(_rows(3).to_pandas())
    with pytest.raises(TableError, match="size"):
        BatchPredictor(model)(_rows(3).drop("size").to_pandas())


def test_a_model_is_loaded_once_a_process_and_anew_when_it_changes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []

    def counted(path: Path) -> Any:
        loads.append(path)
        return load_fitted(path)

    monkeypatch.setattr(batch_functions, "load_fitted", counted)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(model.read_bytes())
    function = spark_predictor(copy, keep=["id"])
    assert loads == []
    for _ in range(3):
        assert len(list(function(iter([_rows(5).to_pandas(), _rows(6).to_pandas()])))) == 2
    assert loads == [copy]
    rows = _rows()
    other = TabularClassifier(max_epochs=1, n_members=1, random_state=1)
    other.fit(rows.drop("id"), np.where(rows["size"].to_numpy() > 1, "yes", "no")).save(copy)
    list(function(iter([_rows(5).to_pandas()])))
    assert loads == [copy, copy]


def test_the_function_of_a_partition_keeps_its_contract(model: Path) -> None:
    rows = _rows(100)
    taken: list[int] = []

    def batches() -> Iterator[pd.DataFrame]:
        for start in range(0, 100, 30):
            taken.append(start)
            yield rows[start : start + 30].to_pandas()

    frames = spark_predictor(model, keep=["id"])(batches())
    assert iter(frames) is frames
    assert taken == []  # nothing is read before it is asked for
    first = next(frames)
    assert taken == [0]  # and never more than one batch ahead
    whole = pd.concat([first, *frames])
    assert pl.from_pandas(whole).equals(_expected(model, rows))
    assert list(spark_predictor(model)(iter([]))) == []


def test_a_large_batch_comes_back_in_pieces(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_functions, "_PIECE_ROWS", 16)
    frames = list(spark_predictor(model, keep=["id"])(iter([_rows(50).to_pandas()])))
    assert [len(frame) for frame in frames] == [16, 16, 16, 2]
    assert pd.concat(frames)["id"].tolist() == list(range(50))


def test_a_function_of_arrays_keeps_its_contract(model: Path) -> None:
    rows = _rows(100)
    make_predict_fn = pickle.loads(cloudpickle.dumps(spark_batch_function(model, ["kind", "size"])))
    predict = make_predict_fn()
    found = predict(rows["kind"].to_numpy(), rows["size"].to_numpy())
    expected = _expected(model, rows).drop("id")
    assert {name: cells.tolist() for name, cells in found.items()} == expected.to_dict(
        as_series=False
    )
    assert len(signature(predict).parameters) == 2
    with pytest.raises(ValueError, match="shorter"):
        predict(rows["kind"].to_numpy())
    with pytest.raises(TableError, match="size"):
        spark_batch_function(model, ["kind"])()(rows["kind"].to_numpy())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pyspark") is None, reason="pyspark is absent")
def test_spark_itself_calls_both_functions(model: Path, tmp_path: Path) -> None:
    """On two partitions, in processes of its own."""
    _rows(100).write_parquet(tmp_path / "rows.parquet")
    program = Path(__file__).with_name("spark_driver.py")
    subprocess.run([sys.executable, str(program), str(model)], cwd=tmp_path, check=True)
    for name in ("pandas", "arrays"):
        found = pl.read_parquet(tmp_path / f"{name}.parquet").sort("id")
        assert found.to_dict(as_series=False) == _expected(model, _rows(100)).to_dict(
            as_series=False
        )


def test_the_function_travels_by_cloudpickle(model: Path, tmp_path: Path) -> None:
    text = cloudpickle.dumps(spark_predictor(model, keep=["id"]))
    assert len(text) < 10_000  # the name of the model travels, not its networks
    (tmp_path / "function").write_bytes(text)
    _rows(20).write_parquet(tmp_path / "rows.parquet")
    program = (
        "import pickle, sys, pandas as pd\n"
        "function = pickle.load(open('function', 'rb'))\n"
        "assert 'torch' not in sys.modules\n"
        "frames = list(function(iter([pd.read_parquet('rows.parquet')])))\n"
        "assert 'torch' not in sys.modules\n"
        "frames[0].to_parquet('found.parquet')\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    found = pl.read_parquet(tmp_path / "found.parquet")
    assert found.to_dict(as_series=False) == _expected(model, _rows(20)).to_dict(as_series=False)


@pytest.mark.parametrize("labels", [["no", "yes"], [0, 1], [False, True]])
def test_the_schema_says_what_comes(tmp_path: Path, labels: list[Any]) -> None:
    rows = _rows()
    y = np.array(labels)[(rows["size"].to_numpy() > 0).astype(int)]
    path = tmp_path / "model.safetensors"
    TabularClassifier(max_epochs=1, n_members=1, random_state=0).fit(rows.drop("id"), y).save(path)
    kind = {str: "string", int: "bigint", bool: "boolean"}[type(labels[0])]
    assert spark_schema(path, keep={"id": "bigint"}) == (
        f"`id` bigint, `prediction` {kind}, "
        f"`probability_{labels[0]}` double, `probability_{labels[1]}` double"
    )


def test_intervals_of_a_regression(tmp_path: Path) -> None:
    rows = _rows(400)
    fitted = TabularRegressor(max_epochs=2, n_members=1, random_state=0)
    fitted.fit(rows.drop("id"), rows["size"].to_numpy() * 2).save(tmp_path / "model.safetensors")
    path = tmp_path / "model.safetensors"
    found = BatchPredictor(path, coverage=0.8)(rows.to_pandas())
    assert (found["low"] < found["prediction"]).all()
    assert (found["prediction"] < found["high"]).all()
    assert spark_schema(path, coverage=0.8) == "`prediction` double, `low` double, `high` double"
