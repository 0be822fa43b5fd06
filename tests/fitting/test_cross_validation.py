"""Cross-validated fits: which folds, what they decide, and that nothing leaks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from ai.ml.frameworks.pytorch.models import TrainingMode
from tabwright import TabularClassifier, TabularRegressor, load_model
from tabwright.artifact.container import pack
from tabwright.calibration.decisions import DecisionAim
from tabwright.cli.app import app
from tabwright.estimators.messages import fit_summary
from tabwright.fitting.arguments import Aims, FitCallbacks
from tabwright.fitting.cross_validation import assign_folds
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel
from tabwright.report.fit_sections import table_section
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.loop import Epoch

SMALL: dict[str, Any] = {"hidden_dim": 8, "num_hidden_layers": 1, "max_epochs": 3}


def frame(n_rows: int, seed: int = 0) -> pl.DataFrame:
    """Numbers, and categories with few and with many levels."""
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "a": rng.normal(size=n_rows),
            "b": rng.normal(size=n_rows),
            "kind": [f"k{k}" for k in rng.integers(0, 4, n_rows)],
            "many": [f"level {k}" for k in rng.integers(0, 120, n_rows)],
        }
    )


def codes_of(table: pl.DataFrame) -> np.ndarray:
    value = table["a"].to_numpy() + (table["kind"] == "k1").to_numpy() > 0.3
    codes: np.ndarray = value.astype(np.int64)
    return codes


def fitted(n_rows: int = 240, n_folds: int = 4, **settings: Any) -> FittedModel:
    table = frame(n_rows)
    own = FitSettings(task="classification", n_folds=n_folds, **(SMALL | settings))
    return fit_table(LabelledRows(table, codes_of(table)), own, classes=np.arange(2))


# -- which folds -----------------------------------------------------------------------------


def test_folds_are_stratified_and_depend_on_the_seed_alone() -> None:
    rows = LabelledRows(frame(100), np.repeat([0, 1], [80, 20]))
    folds, reason = assign_folds(rows, 5, stratify=True, random_state=3)
    assert folds is not None
    assert reason == ""
    assert np.bincount(folds[:80]).tolist() == [16] * 5
    assert np.bincount(folds[80:]).tolist() == [4] * 5
    again, _ = assign_folds(rows, 5, stratify=True, random_state=3)
    other, _ = assign_folds(rows, 5, stratify=True, random_state=4)
    assert other is not None
    np.testing.assert_array_equal(folds, again)
    assert (folds != other).any()


def test_groups_stay_together() -> None:
    groups = np.arange(90) // 3
    rows = LabelledRows(frame(90), np.zeros(90), groups=groups)
    folds, _ = assign_folds(rows, 8, stratify=False, random_state=0)
    assert folds is not None
    assert all(len(set(folds[groups == g])) == 1 for g in range(30))
    few = LabelledRows(frame(90), np.zeros(90), groups=np.arange(90) % 3)
    folds, _ = assign_folds(few, 8, stratify=False, random_state=0)
    assert folds is not None
    assert folds.max() == 2


def test_every_class_has_training_rows_in_every_fold() -> None:
    target = np.repeat([0, 1, 2], [50, 1, 3])
    folds, _ = assign_folds(LabelledRows(frame(54), target), 8, stratify=True, random_state=0)
    assert folds is not None
    assert folds[50] == -1
    assert (folds[51:] >= 0).all()
    # A class in one group: all rows of that group train always.
    groups = np.where(target == 2, 0, np.arange(54))
    groups[0] = 0
    folds, _ = assign_folds(
        LabelledRows(frame(54), target, groups=groups), 8, stratify=True, random_state=0
    )
    assert folds is not None
    assert (folds[groups == 0] == -1).all()
    for fold in range(folds.max() + 1):
        assert set(target[folds != fold]) == {0, 1, 2}


def test_order_in_time_and_too_few_rows_have_no_folds() -> None:
    target = np.arange(30) % 2
    timed = LabelledRows(frame(30), target, time=np.arange(30))
    folds, reason = assign_folds(timed, 4, stratify=True, random_state=0)
    assert folds is None
    assert "in order of time" in reason
    one = LabelledRows(frame(30), target, groups=np.zeros(30))
    folds, reason = assign_folds(one, 4, stratify=True, random_state=0)
    assert folds is None
    assert "too few rows or groups" in reason


# -- what a fit in folds gives ---------------------------------------------------------------


def test_the_model_has_the_networks_of_all_folds_and_says_so() -> None:
    epochs: list[Epoch] = []
    table = frame(240)
    settings = FitSettings(task="classification", n_folds=4, n_members=2, **SMALL)
    model = fit_table(
        LabelledRows(table, codes_of(table)),
        settings,
        classes=np.arange(2),
        callbacks=FitCallbacks(on_epoch=epochs.append),
    )
    assert len(model.members) == len(model.best_epochs) == 8
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3] * 4
    assert [(epoch.fold, epoch.n_folds) for epoch in epochs[::3]] == [(k, 4) for k in (1, 2, 3, 4)]
    assert epochs[-1].part == "fold 4 of 4, "
    assert len(model.history) == 3
    expected = np.mean([epoch.train_loss for epoch in epochs if epoch.epoch == 2])
    assert model.history[1]["train_loss"] == pytest.approx(expected)
    told = model.card["folds"]
    assert (told["n_folds"], told["n_trained"], told["n_rows"]) == (4, 4, 240)
    assert (model.card["n_training_rows"], model.card["n_validation_rows"]) == (240, 240)


def test_each_fold_ends_when_its_networks_gain_no_more() -> None:
    rng = np.random.default_rng(1)
    rows = LabelledRows(frame(240), rng.integers(0, 2, 240))
    settings = FitSettings(task="classification", n_folds=3, **(SMALL | {"max_epochs": 20}))
    ended: dict[int, int] = {}

    def on_epoch(epoch: Epoch) -> None:
        ended[epoch.fold] = epoch.epoch

    model = fit_table(
        rows, settings, classes=np.arange(2), callbacks=FitCallbacks(on_epoch=on_epoch)
    )
    assert [ended[fold] for fold in (1, 2, 3)] == [min(20, best + 8) for best in model.best_epochs]
    assert min(ended.values()) < max(ended.values()) == len(model.history)


def test_networks_do_not_see_the_targets_that_they_hold_out() -> None:
    table = frame(200).drop("many")
    values = table["a"].to_numpy() + np.random.default_rng(0).normal(size=200)
    folds, _ = assign_folds(LabelledRows(table, values), 4, stratify=False, random_state=0)
    assert folds is not None
    shuffled = values.copy()
    shuffled[folds == 1] = values[folds == 1][::-1]
    # Bins are no affair of this test, and the order keeps mean and deviation.
    settings = FitSettings(
        task="regression",
        n_folds=4,
        numeric_encoding="quantile_ple",
        **(SMALL | {"max_epochs": 1}),
    )
    one, two = (fit_table(LabelledRows(table, own), settings) for own in (values, shuffled))
    for fold in range(4):
        same = all(
            np.array_equal(value, two.members[fold][name])
            for name, value in one.members[fold].items()
        )
        assert same == (fold == 1)
    assert one.metrics != two.metrics


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_noise_gives_chance_out_of_fold(task: str) -> None:
    rng = np.random.default_rng(5)
    table = frame(600, seed=6)
    if task == "classification":
        target = rng.integers(0, 2, 600)
        model = TabularClassifier(quality="fast", n_folds=8, max_epochs=12, random_state=0)
        model.fit(table, target)
        assert model.model_.metrics["validation"]["log_loss"] > np.log(2) - 0.005
        assert model.model_.metrics["validation"]["accuracy"] < 0.55
    else:
        values = rng.normal(size=600)
        model = TabularRegressor(quality="fast", n_folds=8, max_epochs=12, random_state=0)
        model.fit(table, values)
        assert model.model_.metrics["validation"]["rmse"] > 0.98 * values.std()


def test_intervals_cover_and_the_decision_rests_on_all_rows() -> None:
    table = frame(300)
    target = 2.0 * table["a"].to_numpy() + np.random.default_rng(1).normal(size=300)
    model = TabularRegressor(n_folds=5, random_state=0, **(SMALL | {"max_epochs": 20}))
    model.fit(table, target)
    intervals = model.model_.intervals
    assert intervals is not None
    assert (intervals.kind, len(intervals.residuals)) == ("cross", 300)
    fresh = frame(500, seed=8)
    truth = 2.0 * fresh["a"].to_numpy() + np.random.default_rng(2).normal(size=500)
    low, high = model.predict_interval(fresh, coverage=0.9).T
    assert 0.84 < ((low <= truth) & (truth <= high)).mean() < 0.96
    codes = codes_of(table)
    own = FitSettings(task="classification", n_folds=4, **(SMALL | {"max_epochs": 12}))
    decided = fit_table(
        LabelledRows(table, codes),
        own,
        classes=np.arange(2),
        aims=Aims(decision=DecisionAim("f1", 1)),
    )
    assert "decision" in decided.card


def test_best_trains_in_folds_and_keeps_one_fit_of_trees() -> None:
    table = frame(400)
    codes = ((table["a"].to_numpy() > 0.3) ^ (table["kind"] == "k1").to_numpy()).astype(np.int64)
    own = FitSettings(task="classification", quality="best", **SMALL)
    model = fit_table(LabelledRows(table, codes), own, classes=np.arange(2))
    assert model.settings.n_folds == 8
    assert len(model.members) == 8
    told = model.card["combination"]
    assert told["n_rows"] == 400
    assert model.trees is not None
    kept = [own["name"] for own in told["candidates"][1:] if own["weight"]]
    assert [own.kind for own in model.trees.ensembles] == kept
    # What the networks lose out of fold is the mean of their own losses on their folds.
    losses = model.card["folds"]["best_losses"]
    assert told["candidates"][0]["loss"] == pytest.approx(np.mean(losses), rel=1e-6)


def test_folds_whose_epochs_a_metric_chose_are_saved(tmp_path: Path) -> None:
    table = frame(200)
    own = TabularClassifier(**SMALL, eval_metric="balanced_accuracy", random_state=0)
    model = own.fit(table, codes_of(table))
    assert len(model.model_.card["folds"]["best_scores"]) == 4
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert (again.predict_proba(table) == model.predict_proba(table)).all()


def test_a_classifier_of_few_rows_has_folds_by_default() -> None:
    table = frame(200)
    rows = LabelledRows(table, codes_of(table))
    own = FitSettings(task="classification", **SMALL)
    started: list[tuple[int, int]] = []
    callbacks = FitCallbacks(on_start=lambda _, *sizes: started.append(sizes))
    model = fit_table(rows, own, classes=np.arange(2), callbacks=callbacks)
    assert (model.settings.n_folds, model.settings.n_members, len(model.members)) == (4, 1, 4)
    assert started == [(200, 200)]
    assert model.card["folds"]["n_rows"] == model.card["combination"]["n_rows"] == 200
    # Nothing is said of folds that nobody asked for and that cannot be.
    said: list[str] = []
    time = replace(rows, time=np.arange(200))
    for other, held in ((rows, rows), (time, None)):
        callbacks = FitCallbacks(on_message=said.append)
        model = fit_table(other, own, classes=np.arange(2), validation=held, callbacks=callbacks)
        assert (model.settings.n_folds, model.settings.n_members) == (None, 4)
        assert "folds" not in model.card
    assert not [one for one in said if "folds" in one]


@pytest.mark.parametrize(
    "asked",
    [
        *({"n_folds": 1}, {"n_members": 2}, {"validation_fraction": 0.2}),
        *({"refit": True}, {"quality": "fast"}, {"training_mode": "linear_glm_baseline"}),
        {"task": "regression"},
    ],
)
def test_what_turns_the_folds_of_the_default_off(asked: dict[str, Any]) -> None:
    default = FitSettings(task="classification")
    assert default.with_folds_for(10_000, 2).n_folds == 4
    assert default.with_folds_for(10_000, 26).n_folds == 4
    assert default.with_folds_for(10_001, 2) == default.with_folds_for(200, None) == default
    own = FitSettings(**({"task": "classification"} | asked))
    assert own.with_folds_for(200, None if own.task == "regression" else 2) == own


@pytest.mark.parametrize(
    ("n_classes", "quality", "n_judging"),
    [(2, "balanced", 4), (3, "balanced", 2), (3, "fast", 4)],
)
def test_two_folds_decide_where_trees_of_many_classes_are_slow(
    n_classes: int, quality: Any, n_judging: int
) -> None:
    rows = 240
    codes = np.arange(rows) % n_classes
    own = FitSettings(task="classification", n_folds=4, quality=quality, **SMALL)
    model = fit_table(LabelledRows(frame(rows), codes), own, classes=np.arange(n_classes))
    assert len(model.members) >= 4
    assert model.card["folds"]["n_rows"] == model.card["n_validation_rows"] == n_judging * rows // 4


def test_the_same_bits_again_and_in_any_number_of_threads(tmp_path: Path) -> None:
    def document(model: FittedModel) -> bytes:
        history = tuple({**epoch, "seconds": 0.0} for epoch in model.history)
        card = {**model.card, "threads": 0}
        return pack(*replace(model, history=history, card=card).to_artifact())

    first = document(fitted())
    assert document(fitted()) == first
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert document(fitted()) == first
    finally:
        torch.set_num_threads(threads)


def test_the_file_comes_back(tmp_path: Path) -> None:
    table = frame(240)
    model = TabularClassifier(n_folds=3, random_state=0, **SMALL).fit(table, codes_of(table))
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.n_folds == 3
    np.testing.assert_array_equal(again.predict_proba(table), model.predict_proba(table))
    assert fit_summary(model.model_, None)["rows"] == "240 in 3 folds"


def test_the_report_and_inspect_speak_of_folds(tmp_path: Path) -> None:
    model = fitted()
    section = str(table_section(model, 60, table_name="t", notes=(), left_out={}).body)
    assert "240 training rows, in 4 folds" in section
    # Rows out of fold are training rows: they are not counted twice.
    assert "<dt>All rows together</dt><dd>300</dd>" in section
    path = tmp_path / "m.safetensors"
    model.save(path)
    shown = " ".join(CliRunner().invoke(app, ["inspect", str(path)]).output.split())
    assert "240 rows in 4 folds" in shown
    assert "rows out of fold" in shown


def test_tables_that_are_streamed_have_no_folds(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    table = frame(100)
    table.with_columns(target=pl.Series(codes_of(table))).write_csv(path)
    with pytest.raises(ValueError, match="folds are for tables in memory; got n_folds=4"):
        TabularClassifier(n_folds=4).fit_file(path, "target", memory=1)


# -- killed and gone on with -----------------------------------------------------------------


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("after", [2, 3, 7])
def test_a_run_killed_in_or_between_folds_goes_on_to_the_same_bits(
    after: int, tmp_path: Path
) -> None:
    table = frame(240)
    rows = LabelledRows(table, codes_of(table))
    settings = FitSettings(task="classification", n_folds=3, **SMALL)
    whole = fit_table(rows, settings, classes=np.arange(2))
    checkpoint = Checkpoint(tmp_path / "run", interval=0.0)
    seen: list[Epoch] = []

    def kill(epoch: Epoch) -> None:
        seen.append(epoch)
        if len(seen) == after:
            raise _KilledError

    with pytest.raises(_KilledError):
        fit_table(
            rows,
            settings,
            classes=np.arange(2),
            callbacks=FitCallbacks(on_epoch=kill),
            checkpoint=checkpoint,
        )
    left: list[Epoch] = []
    model = fit_table(
        rows,
        settings,
        classes=np.arange(2),
        callbacks=FitCallbacks(on_epoch=left.append),
        checkpoint=checkpoint,
    )
    for ours, theirs in zip(model.members, whole.members, strict=True):
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value)
    assert model.metrics == whole.metrics
    # Epochs that were done are not done again, but for the one whose end was cut off.
    assert len(left) == 9 - after + 1
    checkpoint.remove()
    assert os.listdir(tmp_path) == []


def test_an_interrupt_keeps_the_folds_that_are_done() -> None:
    table = frame(240)
    rows = LabelledRows(table, codes_of(table))
    settings = FitSettings(task="classification", n_folds=4, **SMALL)
    seen: list[Epoch] = []

    def interrupt(epoch: Epoch) -> None:
        seen.append(epoch)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="interrupted"):
        model = fit_table(
            rows, settings, classes=np.arange(2), callbacks=FitCallbacks(on_epoch=interrupt)
        )
    assert model.stopped == "interrupted"
    assert model.card["folds"]["n_trained"] == len(model.members) == 2
    assert model.card["folds"]["n_rows"] == 120


# -- modes, weights and what has no folds ----------------------------------------------------


@pytest.mark.parametrize(
    "mode",
    ["mlp_dense", "linear_glm_baseline", "tabresnet", "imbalance_aware", "calibrated_classifier"],
)
def test_modes_in_folds(mode: TrainingMode) -> None:
    table = frame(200)
    model = TabularClassifier(mode, n_folds=3, random_state=0, **SMALL)
    weight = np.random.default_rng(0).integers(0, 3, 200).astype(np.float64)
    model.fit(table, codes_of(table), sample_weight=weight)
    assert len(model.members_) == 3
    proba = model.predict_proba(table)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    assert model.model_.card["n_training_rows"] == int((weight > 0).sum())


def test_given_validation_rows_and_time_have_no_folds() -> None:
    table = frame(200)
    codes = codes_of(table)
    said: list[str] = []
    settings = FitSettings(task="classification", quality="best", **SMALL)
    plain, timed = LabelledRows(table, codes), LabelledRows(table, codes, time=np.arange(200))
    for rows, validation in ((plain, LabelledRows(table[:50], codes[:50])), (timed, None)):
        model = fit_table(
            rows,
            settings,
            classes=np.arange(2),
            validation=validation,
            callbacks=FitCallbacks(on_message=said.append),
        )
        assert model.settings.n_folds == 1
        assert "folds" not in model.card
        assert model.card["n_validation_rows"] < 60
    assert "no folds: validation rows were given" in said
    assert any("in order of time" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_folds": 0}, "from 1 to 64"),
        ({"n_folds": 4, "training_mode": "tree_teacher_distillation"}, "one set of validation"),
        ({"n_folds": 4, "refit": True}, "every row trains networks already"),
        ({"n_folds": 4, "validation_fraction": 0.2}, "as large as their number says"),
        ({"n_folds": 64, "n_members": 64}, "at most 1024"),
    ],
)
def test_what_does_not_go_with_folds_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitSettings(task="regression", **settings)
