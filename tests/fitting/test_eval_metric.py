"""Scorers and functions that choose the epoch: what they are given, what they may not do."""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    get_scorer_names,
    make_scorer,
    mean_absolute_error,
    roc_auc_score,
)
from sklearn.model_selection import GridSearchCV
from typer.testing import CliRunner

from tabwright import TabularClassifier, TabularRegressor, load_model
from tabwright.cli.app import app
from tabwright.fitting.eval_metric import EvalMetric, eval_metric_of, metric_name, metrics_of
from tabwright.inference.predictor import Predictor
from tabwright.settings import Task

SMALL: dict[str, Any] = {
    "hidden_dim": 16,
    "num_hidden_layers": 1,
    "n_members": 2,
    "max_epochs": 8,
    "batch_size": 32,
    "learning_rate": 0.03,
    "numeric_encoding": "standard",
    "random_state": 0,
}


def _metric(metric: object, task: Task = "classification") -> EvalMetric:
    found = eval_metric_of(metric, task)
    assert found is not None
    return found


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(300, 3))
    return X, np.where(X[:, 0] + 1.5 * generator.normal(size=300) > 0.5, "yes", "no")


def test_a_name_a_scorer_and_a_function_give_the_same_score() -> None:
    y, p = np.array(["a", "b", "b", "a"]), np.array([0.1, 0.4, 0.9, 0.6])
    proba, weight = np.stack([1 - p, p], axis=1), np.array([1.0, 2.0, 3.0, 4.0])
    classes = np.array(["a", "b"])
    wanted = roc_auc_score(y, p, sample_weight=weight)
    for metric in (
        "roc_auc",
        roc_auc_score,
        make_scorer(roc_auc_score, response_method=("predict_proba")),
    ):
        assert _metric(metric)(y, proba, weight, classes=classes) == wanted
    labels = make_scorer(f1_score, pos_label="b")
    assert _metric(labels)(y, proba, classes=classes) == f1_score(
        y, ["a", "a", "b", "b"], pos_label="b"
    )


def test_scikit_learns_own_take_the_last_label_for_the_positive_one() -> None:
    y, p = np.array(["no", "yes", "yes", "no"]), np.array([0.1, 0.4, 0.9, 0.6])
    proba, classes = np.stack([1 - p, p], axis=1), np.array(["no", "yes"])
    wanted = average_precision_score(y, p, pos_label="yes")
    for metric in ("average_precision", average_precision_score):
        assert _metric(metric)(y, proba, classes=classes) == wanted
    assert _metric("f1")(y, proba, classes=classes) == 0.5
    assert _metric("f1_macro")(y, proba, classes=classes) == 0.5


def test_functions_of_an_error_are_minimised_others_maximised() -> None:
    y, value = np.array([1.0, 2.0]), np.array([2.0, 2.0])
    assert _metric(mean_absolute_error, "regression")(y, value) == -0.5
    assert _metric("neg_mean_absolute_error", "regression")(y, value) == -0.5

    def closeness(y_true: np.ndarray, prediction: np.ndarray) -> float:
        return 1 - float(np.abs(y_true - prediction).mean())

    # It takes no weights, and is given none.
    assert _metric(closeness, "regression")(y, value, np.array([1.0, 9.0])) == 0.5


def test_a_scorer_of_ones_own_sees_labels_and_probabilities() -> None:
    seen: dict[str, Any] = {}

    def scorer(estimator: Any, X: object, y: np.ndarray) -> float:
        seen.update(y=y, labels=estimator.predict(X), classes=estimator.classes_)
        return float(estimator.predict_proba(X)[0, 2])

    proba = np.array([[0.1, 0.2, 0.7]])
    classes = np.array([3, 5, 9])
    assert _metric(scorer)(np.array([5]), proba, np.ones(1), classes=classes) == 0.7
    assert (seen["y"].tolist(), seen["labels"].tolist()) == ([5], [9])


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (None, None),
        ("roc_auc", "roc_auc"),
        (roc_auc_score, "roc_auc_score"),
        (make_scorer(f1_score), "f1_score"),
    ],
)
def test_names(metric: object, name: str | None) -> None:
    assert metric_name(metric) == name


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("roc_acu", "did you mean 'roc_auc'"),
        ("zzz", "or give the function itself"),
        (3, "must be the name of a scorer, a scorer, or a function"),
        (GridSearchCV, "must be the name of a scorer, a scorer, or a function"),
    ],
)
def test_what_is_no_metric_is_refused(metric: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        eval_metric_of(metric, "classification")


class _Epochs:
    """How many epochs were trained."""

    n = 0

    def __call__(self, epoch: object) -> None:
        self.n += 1


def _nothing(y_true: np.ndarray, prediction: np.ndarray) -> float:
    return math.nan


def _two_numbers(y_true: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    return np.ones(2)


@pytest.mark.parametrize(
    "metric", [_nothing, _two_numbers, accuracy_score, make_scorer(f1_score), make_scorer(len)]
)
def test_a_metric_that_cannot_score_is_refused_before_the_first_epoch(
    metric: object, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = rows
    epochs = _Epochs()
    with pytest.raises(ValueError, match="must score the 60 validation rows; got"):
        TabularClassifier(**SMALL, eval_metric=metric).fit(X, y, callbacks=[epochs])
    assert epochs.n == 0


def test_probabilities_of_a_regression_are_refused(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, _ = rows
    with pytest.raises(ValueError, match="'roc_auc_score' must score the 60 validation rows"):
        TabularRegressor(**SMALL, eval_metric=roc_auc_score).fit(X, X[:, 0])


def test_validation_rows_of_one_class_have_no_roc_auc(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = rows
    only = np.flatnonzero(y == "no")[:20]
    with pytest.raises(ValueError, match="do they hold one class"):
        TabularClassifier(**SMALL, eval_metric="roc_auc").fit(X, y, eval_set=(X[only], y[only]))


@pytest.mark.parametrize(
    ("name", "task", "listed", "way_out"),
    [
        ("r2", "classification", "accuracy, average_precision, ", "use TabularRegressor for"),
        ("neg_log_loss", "regression", "d2_absolute_error_score, ", "use TabularClassifier if"),
    ],
)
def test_a_metric_of_the_other_task_is_refused_with_those_there_are(
    name: str, task: Task, listed: str, way_out: str
) -> None:
    other: Task = "regression" if task == "classification" else "classification"
    with pytest.raises(ValueError, match=f"must be a metric of {task}; got '{name}', which is of "):
        eval_metric_of(name, task)
    with pytest.raises(ValueError, match=f"those of {task} are {listed}.*; or {way_out}"):
        eval_metric_of(name, task)
    assert _metric(name, other).name == name
    # A function may judge probabilities as values.
    assert _metric(mean_absolute_error, task).name == "mean_absolute_error"


def test_every_scorer_is_of_one_task_but_those_of_clusters_and_of_several_labels() -> None:
    of_classes, of_values = metrics_of("classification"), metrics_of("regression")
    assert {"roc_auc", "f1", "neg_brier_score", "positive_likelihood_ratio"} <= set(of_classes)
    assert {"r2", "neg_mean_absolute_error", "d2_absolute_error_score"} <= set(of_values)
    assert not set(of_classes) & set(of_values)
    rest = set(get_scorer_names()) - set(of_classes) - set(of_values)
    assert all(re.search(r"_samples$|rand|mutual|complete|homogen|v_meas|fowl", n) for n in rest)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("train t.csv -t y --eval-metric r2", 2),
        ("train t.csv -t y --eval-metric r2 --task classification", 2),
        ("train t.csv -t y --eval-metric r2 --memory 20kB", 2),
        ("train t.csv -t x --eval-metric f1", 2),
        ("tune t.csv -t x --eval-metric f1 --trials 1", 2),
        ("compare t.csv -t y --eval-metric r2 --no-references", 2),
        ("train t.csv -t x --eval-metric r2 --epochs 1 --quality fast", 0),
    ],
)
def test_commands_refuse_a_metric_of_the_other_task_before_any_fit(
    words: str,
    code: int,
    rows: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if words.startswith("tune"):
        pytest.importorskip("optuna", reason="optuna is not installed")
    monkeypatch.chdir(tmp_path)
    pl.DataFrame({"x": rows[0][:, 0], "z": rows[0][:, 1], "y": rows[1]}).write_csv("t.csv")
    if code:
        # Any fit would end with another error.
        monkeypatch.setattr("tabwright.fitting.networks.build_model", None)
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == code, done.output
    refused = "--eval-metric must be a metric of" in " ".join(done.output.split())
    assert refused == (code == 2)


@pytest.mark.parametrize("metric", ["roc_auc", average_precision_score])
def test_each_member_keeps_the_epoch_of_its_own_best_score(
    metric: object, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = rows
    held = slice(0, 80)
    scores: list[list[float]] = []
    judge = _metric(metric)

    def by_epoch(n: int) -> list[float]:
        """Each member's score after n epochs of the same schedule."""
        return [s[n - 1] for s in scores]

    # A function that notes what it is asked, member after member.
    noted: list[float] = []

    def watching(y_true: np.ndarray, prediction: np.ndarray) -> float:
        proba = np.stack([1 - prediction, prediction], axis=1)
        noted.append(judge(y_true, proba, classes=np.array(["no", "yes"])))
        return noted[-1]

    model = TabularClassifier(**SMALL, quality="fast", calibration=None, eval_metric=watching)
    model.fit(X[80:], y[80:], eval_set=(X[held], y[held]))
    # The first is the check before the first epoch.
    scores = np.array(noted[1:]).reshape(8, 2).T.tolist()
    assert list(model.model_.best_epochs) == [1 + int(np.argmax(member)) for member in scores]
    history = model.history_
    for n, epoch in enumerate(history, 1):
        assert epoch["validation_score"] == pytest.approx(np.mean(by_epoch(n)))
        assert epoch["best_score"] == pytest.approx(np.mean([max(s[:n]) for s in scores]))
        assert "best_loss" not in epoch
        assert epoch["validation_loss"] > 0
    # The networks that were kept have the scores that chose them.
    frame = model._checked_frame(X[held])
    for k, member in enumerate(model.model_.members):
        alone = Predictor(_with_one_member(model.model_, member)).predict_proba(frame)
        found = judge(y[held], alone, classes=np.array(["no", "yes"]))
        assert found == pytest.approx(max(scores[k]), abs=1e-6)


def _with_one_member(model: Any, member: Any) -> Any:
    from dataclasses import replace

    return replace(model, members=(member,))


def test_patience_waits_for_the_score(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = rows
    calls = [0]

    def falling(y_true: np.ndarray, prediction: np.ndarray) -> float:
        calls[0] += 1
        return -float(calls[0])

    settings = SMALL | {"max_epochs": 50, "n_members": 1, "patience": 3}
    model = TabularClassifier(**settings, eval_metric=falling).fit(X, y)
    assert model.model_.best_epochs == (1,)
    assert len(model.history_) == 4


def test_epochs_without_a_score_are_told_and_not_chosen(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    X, y = rows
    calls = [0]

    def third_alone(y_true: np.ndarray, prediction: np.ndarray) -> float:
        calls[0] += 1
        return 1.0 if calls[0] in (1, 4) else math.nan

    settings = SMALL | {"n_members": 1}
    with pytest.warns(RuntimeWarning, match="'third_alone' gave no score after an epoch"):
        model = TabularClassifier(**settings, eval_metric=third_alone).fit(X, y)
    assert model.model_.best_epochs == (3,)
    assert [e.get("validation_score") for e in model.history_[:4]] == [None, None, 1.0, None]


def test_weights_reach_the_metric(rows: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = rows
    seen = []

    def weighted(
        y_true: np.ndarray, prediction: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> float:
        seen.append(None if sample_weight is None else sample_weight.tolist())
        return 0.0

    weight = np.arange(1.0, 81.0)
    model = TabularClassifier(**SMALL, eval_metric=weighted)
    model.fit(X[80:], y[80:], eval_set=(X[:80], y[:80], weight))
    assert all(one == weight.tolist() for one in seen)


def test_imbalance_aware_is_scored_under_the_prior_asked_for(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    X, _ = rows
    y = np.where(X[:, 0] > 1.2, "yes", "no")
    means = []

    def noting(y_true: np.ndarray, prediction: np.ndarray) -> float:
        means.append(float(prediction.mean()))
        return 0.0

    for prior in ("training", "balanced"):
        TabularClassifier("imbalance_aware", **SMALL, prior=prior, eval_metric=noting).fit(X, y)
    n = len(means) // 2
    assert np.mean(means[n + 1 :]) > 1.5 * np.mean(means[1:n])


def test_intervals_come_from_epochs_that_the_metric_chose(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    X, _ = rows
    y = X[:, 0] + 0.5 * X[:, 1] ** 3
    calls = []

    def first_alone(y_true: np.ndarray, prediction: np.ndarray) -> float:
        calls.append(len(y_true))
        # The first epoch of every part of the rows is the best: 5 folds, then all.
        return -float(len(calls))

    settings = SMALL | {"n_members": 1}
    first = TabularRegressor(**settings, eval_metric=first_alone).fit(X, y)
    plain = TabularRegressor(**settings).fit(X, y)
    one = TabularRegressor(**(settings | {"max_epochs": 8, "patience": 1}), eval_metric=first_alone)
    one.fit(X, y)
    assert first.model_.best_epochs == one.model_.best_epochs == (1,)
    assert calls[1:7] == [48, 48, 48, 48, 48, 60]
    widths = [m.model_.intervals.half_width(0.8) for m in (first, one, plain)]  # type: ignore[union-attr]
    assert widths[0] == widths[1] != widths[2]


def test_in_scikit_learn_and_in_files(rows: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    X, y = rows
    model = TabularClassifier(**SMALL, eval_metric="roc_auc")
    assert clone(model).get_params()["eval_metric"] == "roc_auc"
    scorer = make_scorer(roc_auc_score, response_method="predict_proba")
    search = GridSearchCV(model, {"eval_metric": ["roc_auc", None, scorer]}, cv=2).fit(X, y)
    assert len(search.cv_results_["mean_test_score"]) == 3
    model.fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict_proba(X) == model.predict_proba(X)).all()
    model.save(tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.settings_.eval_metric == loaded.eval_metric == "roc_auc"
    assert loaded.history_ == model.history_
    own = TabularClassifier(**SMALL, eval_metric=_proper).fit(X, y)
    own.save(tmp_path / "own.safetensors")
    loaded = load_model(tmp_path / "own.safetensors")
    assert loaded.settings_.eval_metric == "_proper"
    with pytest.raises(ValueError, match="got '_proper'; or give the function itself"):
        loaded.fit(X, y)


def _proper(y_true: np.ndarray, prediction: np.ndarray) -> float:
    return -float(np.abs((y_true == "yes") - prediction).mean())


def test_checkpoints_keep_the_scores(rows: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    from tabwright import Checkpoint

    X, y = rows

    class StopError(Exception):
        pass

    def stop(epoch: Any) -> None:
        if epoch.epoch == 5:
            raise StopError

    settings = SMALL | {"max_epochs": 10, "eval_metric": "roc_auc"}
    whole = TabularClassifier(**settings).fit(X, y)
    checkpoint = Checkpoint(tmp_path / "run", interval=0)
    with pytest.raises(StopError):
        TabularClassifier(**settings).fit(X, y, callbacks=[stop], checkpoint=checkpoint)
    resumed = TabularClassifier(**settings).fit(X, y, checkpoint=checkpoint)
    assert resumed.model_.best_epochs == whole.model_.best_epochs
    scores = [[e["validation_score"] for e in m.history_] for m in (resumed, whole)]
    assert scores[0] == scores[1]
    assert (resumed.predict_proba(X) == whole.predict_proba(X)).all()


def test_streamed_tables(rows: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    X, y = rows
    frame = pl.DataFrame(X, schema=["a", "b", "c"]).with_columns(pl.Series("y", y))
    frame.write_csv(tmp_path / "t.csv")
    model = TabularClassifier(**SMALL, eval_metric="roc_auc")
    model.fit_file(tmp_path / "t.csv", "y", memory=1)
    assert all(0 < epoch["validation_score"] <= 1 for epoch in model.history_)
    best = max(epoch["best_score"] for epoch in model.history_)
    assert best == model.history_[-1]["best_score"]
    with pytest.raises(ValueError, match="must score the"):
        TabularClassifier(**SMALL, eval_metric=_nothing).fit_file(tmp_path / "t.csv", "y", memory=1)


def test_the_command_line(rows: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    X, y = rows
    frame = pl.DataFrame(X, schema=["a", "b", "c"]).with_columns(pl.Series("y", y))
    frame.write_csv(tmp_path / "t.csv")
    words = ["train", str(tmp_path / "t.csv"), "-t", "y", "--epochs", "3", "--members", "1"]
    words += ["-o", str(tmp_path / "m.safetensors")]
    done = CliRunner().invoke(app, [*words, "--eval-metric", "roc_auc"])
    assert done.exit_code == 0, done.output
    assert load_model(tmp_path / "m.safetensors").settings_.eval_metric == "roc_auc"
    wrong = CliRunner().invoke(app, [*words, "--eval-metric", "roc_acu"])
    assert wrong.exit_code == 2
    assert "--eval-metric must be the name of a scorer" in wrong.output
    assert "read" not in wrong.output
