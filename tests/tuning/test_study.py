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
from tabwright.tuning.study import cut_trials, enqueue_next, identity_of, opened_study

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
        assert cut_trials(study) == []
        for _ in range(3):
            enqueue_next(study, [], [{"x": 1}, {"x": 2}])
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    with opened_study(tmp_path / "s.db", {"a": "1"}, 0) as study:
        assert [trial.user_attrs["is_default"] for trial in study.trials] == [True, False]


def test_what_was_cut_short_comes_before_what_was_never_begun(tmp_path: Path) -> None:
    first = [{"x": 1.0}, {"x": 2.0}]

    def begun(study: Any, cut: Any) -> Any:
        enqueue_next(study, cut, first)
        trial = study.ask()
        trial.suggest_float("x", 0.0, 9.0)
        return trial

    with opened_study(tmp_path / "s.db", {"a": "1"}, 0) as study:
        begun(study, cut_trials(study)).set_user_attr("scores", [0.5])
    # Killed there: the default is left running.
    with opened_study(tmp_path / "s.db", {"a": "1"}, 0) as study:
        cut = cut_trials(study)
        assert [trial.number for trial in cut] == [0]
        again = begun(study, cut)
        assert again.params == first[0]
        assert again.user_attrs == {"is_default": True, "scores": [0.5]}
        study.tell(again, 0.5)
        assert cut == cut_trials(study) == []
        assert begun(study, cut).params == first[1]
