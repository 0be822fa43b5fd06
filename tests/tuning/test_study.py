"""The study: what identifies a table, and how Optuna is left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tabwright.settings import FitSettings
from tabwright.tables import profile_table
from tabwright.tables.labelled import LabelledRows, TrainingTable
from tabwright.tuning.study import identity_of, opened_study, take_up

optuna = pytest.importorskip("optuna", reason="optuna is not installed")

SETTINGS = FitSettings(task="regression")
FOLDS = [(np.arange(5), np.arange(5, 10)), (np.arange(5, 10), np.arange(5))]


def _table(**changes: Any) -> TrainingTable:
    frame = changes.pop("frame", pl.DataFrame({"a": np.arange(10.0), "b": list("abcdefghij")}))
    rows = LabelledRows(frame, np.arange(10.0), **changes)
    return TrainingTable(rows, None, "regression", np.arange(1, 11), profile_table(frame))


def test_equal_tables_have_equal_identities() -> None:
    once, again = (identity_of(_table(), FOLDS, SETTINGS, "rmse") for _ in range(2))
    assert once == again
    in_chunks = pl.concat([_table().rows.frame[:4], _table().rows.frame[4:]], rechunk=False)
    assert identity_of(_table(frame=in_chunks), FOLDS, SETTINGS, "rmse") == once


def test_a_cell_a_weight_or_a_fold_makes_another() -> None:
    once = identity_of(_table(), FOLDS, SETTINGS, "rmse")
    frame = pl.DataFrame({"a": np.arange(10.0), "b": list("abcdefghiJ")})
    for found, name in (
        (identity_of(_table(frame=frame), FOLDS, SETTINGS, "rmse"), "table"),
        (identity_of(_table(weight=np.ones(10)), FOLDS, SETTINGS, "rmse"), "weights"),
        (identity_of(_table(), FOLDS[::-1], SETTINGS, "rmse"), "splits"),
        (identity_of(_table(), FOLDS, SETTINGS, "mae"), "metric"),
    ):
        assert [key for key in once if once[key] != found[key]] == [name]


def test_optuna_says_what_it_said_before(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    with opened_study(tmp_path / "s.db", {"a": "1"}, 0) as study:
        assert optuna.logging.get_verbosity() == optuna.logging.ERROR
        assert take_up(study, [{"x": 1}, {"x": 2}]) == 0
        assert take_up(study, [{"x": 1}, {"x": 2}]) == 0
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    with opened_study(tmp_path / "s.db", {"a": "1"}, 0) as study:
        assert [trial.user_attrs["is_default"] for trial in study.trials] == [True, False]
