"""The blocks of the Spark recipe, with what Spark would call put in the place of Spark.

`test_batch_functions.py` calls the same functions on a local Spark where pyspark is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from tabwright import TabularClassifier, spark_predictor
from tests.pages import ROOT, blocks

PAGE = (ROOT / "docs" / "howto" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = [block.text for block in blocks(PAGE) if "Spark" in block.reason]


def _table(frame: pd.DataFrame) -> SimpleNamespace:
    """A table that takes what the recipe does with one."""

    def map_in_pandas(func: Callable[[Any], Any], schema: str) -> pd.DataFrame:
        found: pd.DataFrame = pd.concat(func(iter([frame[:2], frame[2:]])))
        assert [part.split("` ")[0].strip("` ") for part in schema.split(", ")] == list(found)
        return found

    def with_column(name: str, column: Callable[[pd.DataFrame], Any]) -> dict[str, Any]:
        return {name: column(frame)}

    return SimpleNamespace(mapInPandas=map_in_pandas, withColumn=with_column)


def _predict_batch_udf(
    make_predict_fn: Callable[[], Callable[..., dict[str, np.ndarray]]],
    *,
    return_type: str,
    batch_size: int,
) -> Callable[..., Callable[[pd.DataFrame], dict[str, np.ndarray]]]:
    assert return_type.count("double") == 2
    assert batch_size > 0

    def on_columns(*names: str) -> Callable[[pd.DataFrame], dict[str, np.ndarray]]:
        return lambda frame: make_predict_fn()(*(frame[name].to_numpy() for name in names))

    return on_columns


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the recipe has before its Spark blocks, and modules that stand for pyspark's."""
    generator = np.random.default_rng(0)
    visits = generator.poisson(4, 300)
    plan = generator.choice(["basic", "plus", "max"], 300)
    y = np.where(visits + 2 * (plan == "max") > 4, "stays", "goes")
    model = TabularClassifier(quality="fast", max_epochs=2, n_members=1, random_state=0)
    model.fit(pl.DataFrame({"plan": plan, "visits": visits}), y).save(
        tmp_path / "churn.safetensors"
    )
    monkeypatch.chdir(tmp_path)
    functions, types = ModuleType("pyspark.ml.functions"), ModuleType("pyspark.sql.types")
    functions.predict_batch_udf = _predict_batch_udf  # type: ignore[attr-defined]
    types.StructType = SimpleNamespace(fromDDL=lambda text: text)  # type: ignore[attr-defined]
    for name in ("pyspark", "pyspark.ml", "pyspark.sql"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "pyspark.ml.functions", functions)
    monkeypatch.setitem(sys.modules, "pyspark.sql.types", types)
    customers = pd.DataFrame({"plan": ["max", None, "plus"], "visits": [3.0, 5.0, np.nan]})
    tables = {"customers": _table(customers)}
    predictor = spark_predictor("churn.safetensors", keep=["plan"])
    return {"spark": SimpleNamespace(table=tables.__getitem__), "predict_partition": predictor}


def test_both_blocks_predict_the_same(names: dict[str, Any]) -> None:
    assert len(BLOCKS) == 2
    exec("from tabwright import spark_schema\n" + BLOCKS[0], names)
    exec(BLOCKS[1], names)
    predictions, scored = names["predictions"], names["scored"]["churn"]
    assert predictions["plan"].tolist()[0] == "max"
    for name in ("prediction", "probability_goes", "probability_stays"):
        assert predictions[name].tolist() == list(scored[name])
