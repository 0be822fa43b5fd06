"""The rows of a golden model and what it said of them, as JSON that people can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

FOLDER = Path(__file__).parent

# How a column is written: dates and times as whole days and microseconds since 1970.
_DTYPES: dict[str, tuple[pl.DataType, pl.DataType]] = {
    "number": (pl.Float64(), pl.Float64()),
    "integer": (pl.Int64(), pl.Int64()),
    "large integer": (pl.UInt64(), pl.UInt64()),
    "boolean": (pl.Boolean(), pl.Boolean()),
    "text": (pl.String(), pl.String()),
    "date": (pl.Date(), pl.Int32()),
    "moment": (pl.Datetime("us"), pl.Int64()),
}


class Golden(NamedTuple):
    """A saved model and what it said."""

    model: Path
    frame: pl.DataFrame
    predictions: np.ndarray
    """Probabilities of shape (n, n_classes), or values of shape (n,), float64."""
    classes: list[Any] | None


def write_golden(
    path: Path, frame: pl.DataFrame, predictions: np.ndarray, classes: np.ndarray | None
) -> None:
    """Write the rows and predictions of the model at `path` beside it."""
    columns = {}
    for column in frame.get_columns():
        name = next(name for name, (dtype, _) in _DTYPES.items() if dtype == column.dtype)
        columns[column.name] = {"kind": name, "cells": column.to_physical().to_list()}
    said = {
        "classes": None if classes is None else classes.tolist(),
        "columns": columns,
        "predictions": predictions.tolist(),
    }
    text = json.dumps(said, ensure_ascii=False, allow_nan=False, sort_keys=True)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def read_golden(path: Path) -> Golden:
    """The model at `path` with its rows."""
    said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    series = []
    for name, column in said["columns"].items():
        dtype, stored = _DTYPES[column["kind"]]
        series.append(pl.Series(name, column["cells"], dtype=stored).cast(dtype))
    predictions = np.array(said["predictions"], dtype=np.float64)
    return Golden(path, pl.DataFrame(series), predictions, said["classes"])


def golden_models() -> list[Path]:
    """Every model that a version left here, oldest version first."""
    return sorted(FOLDER.glob("*/*.safetensors"))
