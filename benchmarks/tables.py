"""The real tables of the suite: where they are, what is a feature, which of them choose settings.

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
# A study chooses on these, at any cap, and confirms on the others: names that `--tables` takes.
# The halves are alike in tasks, sizes and sources, and each has one of the two on which boosted
# trees were far ahead.
CHOOSING_TABLES = (*SMALL_TABLES, "mlc_churn", "epa_mpg", "credit_status", "storms")
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
    group : ndarray of shape (n_rows,), int64, or None
        Where rows of one group stay on one side of the split: the number of its first row.
    """

    name: str
    task: Task
    features: pl.DataFrame
    target: np.ndarray
    n_classes: int
    time: np.ndarray | None = None
    group: np.ndarray | None = None


def data_dirs() -> tuple[Path, ...]:
    """The folders of tables: what `TABWRIGHT_DATA` names, or `../shared/data`, and its second part.

    The second part of `data` is the folder `data2` beside it, where there is one.
    """
    named = os.environ.get("TABWRIGHT_DATA")
    folder = Path(named).resolve() if named else ROOT.parent / "shared" / "data"
    second = folder.with_name(f"{folder.name}2")
    return (folder, second) if (second / "datasets.json").is_file() else (folder,)


def _entries() -> dict[str, tuple[Path, dict[str, Any]]]:
    """Folder and description of each table."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for folder in data_dirs():
        path = folder / "datasets.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"the tables must be listed in datasets.json; found none in {folder}; "
                "set TABWRIGHT_DATA to the folder that has it"
            )
        for entry in json.loads(path.read_text(encoding="utf-8")):
            found[entry["name"]] = (folder, entry)
    return found


def table_names(wanted: str) -> tuple[str, ...]:
    """Resolve `all`, `small`, `choose`, `confirm` or comma-separated names.

    Raises
    ------
    ValueError
        If a name is not in `datasets.json`.
    """
    known = tuple(_entries())
    sets = {
        "all": known,
        "small": SMALL_TABLES,
        "choose": CHOOSING_TABLES,
        "confirm": tuple(name for name in known if name not in CHOOSING_TABLES),
    }
    names = sets.get(wanted, tuple(wanted.split(",")))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"tables must be {', '.join(map(repr, sets))} or names in datasets.json; got "
            f"{', '.join(unknown)}; there are {', '.join(known)}"
        )
    return names


def load_table(name: str) -> BenchmarkTable:
    """Read one table.

    Raises
    ------
    ValueError
        If `datasets.json` does not list it.
    """
    entries = _entries()
    if name not in entries:
        raise ValueError(f"a table must be one of {', '.join(entries)}; got {name}")
    folder, entry = entries[name]
    frame = pl.read_parquet(folder / entry["file"])
    target = frame[entry["target"]].to_numpy()
    n_classes = 0
    if entry["task"] == "regression":
        target = target.astype(np.float64)
    else:
        classes, codes = np.unique(target, return_inverse=True)
        target, n_classes = codes.astype(np.int64), len(classes)
    time_column = TIME_COLUMNS.get(name)
    group = None
    if "group" in entry:
        _, first, number = np.unique(
            frame[entry["group"]].to_numpy(), return_index=True, return_inverse=True
        )
        group = first[number].astype(np.int64)
    return BenchmarkTable(
        name=name,
        task="classification" if n_classes else "regression",
        features=frame.drop([entry["target"], *entry["drop"]]),
        target=target,
        n_classes=n_classes,
        time=frame[time_column].to_physical().to_numpy() if time_column else None,
        group=group,
    )
