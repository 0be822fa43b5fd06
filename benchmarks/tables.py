"""The real tables of the suite: where they are, what is a feature, which six choose settings.

`datasets.json` beside the tables names the target and the columns that must not be used. How rows
are divided lives in `row_splits.py`; how a contender encodes columns, in `contenders.py`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

Task = Literal["classification", "regression"]

ROOT = Path(__file__).resolve().parent.parent

# Settings are chosen on these six, capped at 10,000 rows (benchmarks/README.md says why these);
# the whole suite, with seven tables that chose nothing, confirms.
SMALL_TABLES = (
    "ai4i_maintenance",
    "telco_churn",
    "titanic",
    "covertype_20k",
    "california_housing",
    "ames_housing",
)
# Tables whose rows have an order in time: the test rows are the last ones.
TIME_COLUMNS = {"vic_electricity": "Time"}


@dataclass(frozen=True)
class BenchmarkTable:
    """One table, ready to be divided and learned from.

    Parameters
    ----------
    name : str
        Name in `datasets.json`.
    task : {"classification", "regression"}
        What the target is.
    features : DataFrame of shape (n_rows, n_columns)
        As in the file, without the target and the columns that `datasets.json` drops.
    target : ndarray of shape (n_rows,)
        int64 codes of the sorted classes, or float64 values.
    n_classes : int
        Number of classes; 0 in regression.
    time : ndarray of shape (n_rows,), int64, or None
        Where the split is by time: a number that grows with time.
    """

    name: str
    task: Task
    features: pl.DataFrame
    target: np.ndarray
    n_classes: int
    time: np.ndarray | None = None


def data_dir() -> Path:
    """The folder of tables: what `TABWRIGHT_DATA` names, or `../shared/data`."""
    named = os.environ.get("TABWRIGHT_DATA")
    return Path(named).resolve() if named else ROOT.parent / "shared" / "data"


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / "datasets.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"the tables must be listed in datasets.json; found none in {folder}; "
            "set TABWRIGHT_DATA to the folder that has it"
        )
    return {entry["name"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}


def table_names(wanted: str, folder: Path | None = None) -> tuple[str, ...]:
    """Resolve `all`, `small` or comma-separated names.

    Raises
    ------
    ValueError
        If a name is not in `datasets.json`.
    """
    known = tuple(_entries(folder or data_dir()))
    names = {"all": known, "small": SMALL_TABLES}.get(wanted, tuple(wanted.split(",")))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"tables must be 'all', 'small' or names in datasets.json; got {', '.join(unknown)}; "
            f"there are {', '.join(known)}"
        )
    return names


def load_table(name: str, folder: Path | None = None) -> BenchmarkTable:
    """Read one table.

    Raises
    ------
    ValueError
        If `datasets.json` does not list it.
    """
    folder = folder or data_dir()
    entries = _entries(folder)
    if name not in entries:
        raise ValueError(f"a table must be one of {', '.join(entries)}; got {name}")
    entry = entries[name]
    frame = pl.read_parquet(folder / entry["file"])
    target = frame[entry["target"]].to_numpy()
    n_classes = 0
    if entry["task"] == "regression":
        target = target.astype(np.float64)
    else:
        classes, codes = np.unique(target, return_inverse=True)
        target, n_classes = codes.astype(np.int64), len(classes)
    time_column = TIME_COLUMNS.get(name)
    return BenchmarkTable(
        name=name,
        task="classification" if n_classes else "regression",
        features=frame.drop([entry["target"], *entry["drop"]]),
        target=target,
        n_classes=n_classes,
        time=frame[time_column].to_physical().to_numpy() if time_column else None,
    )
