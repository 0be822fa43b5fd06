"""Laws of distillation: labels out of fold, no teacher worse than none, weights, determinism."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tabwright.calibration.intervals import CrossPredictions
from tabwright.distillation import soft_targets as distillation
from tabwright.distillation.soft_targets import (
    Candidates,
    DistillationOptions,
    SoftTargets,
    best_student,
    candidate_groups,
    prepare_soft_targets,
)
from tabwright.distillation.teachers import soft_labels
from tabwright.distillation.trees.problem import TEACHER_KINDS, TeacherKind
from tabwright.errors import TableError
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel, load_fitted
from tabwright.inference.predictor import Predictor
from tabwright.settings import FitSettings, Task
from tabwright.tables import profile_table
from tabwright.tables.labelled import LabelledRows
from tabwright.training.checkpoints import Checkpoint
from tests.distillation.test_teachers import mixed_codes, mixed_table, need

TINY: dict[str, Any] = {
    "training_mode": "tree_teacher_distillation",
    "hidden_dim": 8,
    "num_hidden_layers": 1,
    "max_epochs": 2,
    "device": "cpu",
}
THREE = np.array(["a", "b", "c"])
# A teacher that is quickly fitted, six times over.
TREE = DecisionTreeClassifier(max_depth=3, min_samples_leaf=5)
REGRESSION_TREE = DecisionTreeRegressor(max_depth=3, min_samples_leaf=5)


def labelled(task: Task, n: int = 120) -> LabelledRows:
    frame = mixed_table(n)
    if task == "classification":
        return LabelledRows(frame, mixed_codes(frame))
    return LabelledRows(frame, frame["count"].to_numpy() * 3.0 + mixed_codes(frame))


def fit(
    rows: LabelledRows, task: Task, distillation: DistillationOptions, **settings: Any
) -> FittedModel:
    return fit_table(
        rows,
        FitSettings(task=task, **{**TINY, **settings}),
        classes=THREE if task == "classification" else None,
        distillation=distillation,
    )


class Memoriser(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Certain of the class of every row it has seen, and knows nothing of others."""

    def fit(self, X: NDArray[np.float64], y: NDArray[np.int64]) -> Self:
        self.classes_ = np.unique(y)
        self.seen_ = {row.tobytes(): label for row, label in zip(X, y, strict=True)}
        return self

    def predict_proba(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        known = np.array([self.seen_.get(row.tobytes(), -1) for row in X])
        proba = np.full((len(X), len(self.classes_)), 1.0 / len(self.classes_))
        for k in range(len(self.classes_)):
            proba[known == self.classes_[k]] = np.eye(len(self.classes_))[k]
        return proba


# ---------------------------------------------------------------------------------------------
# The mode
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("kind", TEACHER_KINDS)
def test_every_kind_teaches(kind: TeacherKind, task: Task) -> None:
    need(kind)
    model = fit(labelled(task, 60), task, DistillationOptions(kind), augmentation=None)
    told = model.card["distillation"]
    assert told["teacher"]["teachers"][0]["kind"] == kind
    assert told["teacher"]["out_of_fold"] is True
    assert len(model.members) == 1


@pytest.mark.parametrize("grouped", [False, True])
def test_teacher_that_memorises_does_not_leak(grouped: bool) -> None:
    rng = np.random.default_rng(0)
    n = 160
    # Of a group of four all rows are equal: a fold that held some of them would tell the others.
    place = np.arange(n) // 4 if grouped else np.arange(n)
    frame = pl.DataFrame(rng.normal(size=(n, 8))[place], schema=[f"x{k}" for k in range(8)])
    target = rng.integers(2, size=n)[place]
    validation = LabelledRows(frame[:20], target[:20])

    def accuracy(weight: float) -> float:
        model = fit_table(
            LabelledRows(frame, target, groups=place if grouped else None),
            FitSettings(
                task="classification",
                **{**TINY, "hidden_dim": 64, "max_epochs": 30},
                teacher_weight=weight,
                augmentation=None,
                patience=None,
                calibration=None,
            ),
            classes=np.array([0, 1]),
            # Rows of the training set choose the epoch: whatever leaks is kept.
            validation=validation,
            distillation=DistillationOptions(Memoriser()),
        )
        return float((Predictor(model).predict_proba(frame).argmax(axis=1) == target).mean())

    assert accuracy(0.0) > 0.9  # the network could learn them by heart
    assert accuracy(1.0) < 0.7


def test_teacher_of_no_weight_is_direct_training() -> None:
    rows = labelled("classification")
    distillation = DistillationOptions(TREE)
    student = fit(rows, "classification", distillation, teacher_weight=0.0, dropout=0.1)
    settings = FitSettings(task="classification", **TINY, n_members=1, dropout=0.1)
    direct = fit_table(rows, replace(settings, training_mode="mlp_dense"), classes=THREE)
    for name, value in direct.members[0].items():
        # Another kernel takes the gradient of soft targets: equal up to rounding.
        np.testing.assert_allclose(student.members[0][name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_same_call_gives_the_same_bits(task: Task, tmp_path: Path) -> None:
    rows = labelled(task)
    tree = TREE if task == "classification" else REGRESSION_TREE
    for name in ("one", "two"):
        model = fit(rows, task, DistillationOptions(tree), n_members=2)
        # The history has seconds of the clock, and so has the report.
        card = {key: value for key, value in model.card.items() if key != "fidelity"}
        replace(model, history=(), card=card).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_rows_of_no_weight_are_not_there() -> None:
    rows = labelled("classification")
    weight = np.where(np.arange(len(rows)) % 5 == 0, 0.0, 1.5)
    weighted = LabelledRows(rows.frame, rows.target, weight)
    kept = weighted.take(np.flatnonzero(weight))
    one = fit(weighted, "classification", DistillationOptions(TREE))
    two = fit(kept, "classification", DistillationOptions(TREE))
    np.testing.assert_array_equal(
        one.members[0]["net.head.weight"], two.members[0]["net.head.weight"]
    )


def test_settings_and_card_say_what_was_chosen(tmp_path: Path) -> None:
    model = fit(labelled("classification"), "classification", DistillationOptions(TREE))
    told = model.card["distillation"]
    best = min(told["tried"], key=lambda one: one["validation_loss"])
    assert told["chosen"] == best
    assert {one["augmentation"] for one in told["tried"]} == {None, "neighbourhood"}
    settings = model.settings
    assert settings.teacher_weight == best["teacher_weight"]
    assert settings.teacher_temperature == best["teacher_temperature"]
    assert settings.augmentation == best["augmentation"]
    model.save(tmp_path / "model")
    again = load_fitted(tmp_path / "model")
    assert again.settings == settings
    assert again.card["distillation"] == told


def test_what_is_given_is_not_chosen() -> None:
    model = fit(
        labelled("classification"),
        "classification",
        DistillationOptions(TREE),
        teacher_weight=0.4,
        teacher_temperature=3.0,
        augmentation="munge",
    )
    assert [
        (one["teacher_weight"], one["teacher_temperature"], one["augmentation"])
        for one in model.card["distillation"]["tried"]
    ] == [(0.4, 3.0, "munge")]
    assert model.card["distillation"]["n_made_rows"] > 0


def test_refit_teaches_anew_with_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = soft_labels

    def counted(rows: LabelledRows, *arguments: Any, **named: Any) -> Any:
        seen.append(len(rows))
        return real(rows, *arguments, **named)

    monkeypatch.setattr(distillation, "soft_labels", counted)
    rows = labelled("classification")
    model = fit_table(
        replace(rows, groups=np.arange(len(rows)) // 2),
        FitSettings(task="classification", **TINY, refit=True),
        classes=THREE,
        distillation=DistillationOptions(TREE),
    )
    assert seen == [96, 120]
    assert model.card["n_training_rows"] == 120
    assert len(model.card["distillation"]["tried"]) > 1


def test_checkpointed_trials_keep_files_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "run"
    plain = fit(labelled("classification"), "classification", DistillationOptions(TREE))
    checkpoint = Checkpoint(path, interval=0.0)
    for _ in range(2):  # the second goes on from the files of the first
        kept = fit_table(
            labelled("classification"),
            FitSettings(task="classification", **TINY),
            classes=THREE,
            distillation=DistillationOptions(TREE),
            checkpoint=checkpoint,
        )
        np.testing.assert_array_equal(
            kept.members[0]["net.head.weight"], plain.members[0]["net.head.weight"]
        )
        assert len(list(tmp_path.iterdir())) == 2
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_other_modes_have_no_teacher() -> None:
    with pytest.raises(ValueError, match="tree_teacher_distillation'; the mode is 'mlp_dense'"):
        fit(
            labelled("regression"),
            "regression",
            DistillationOptions(TREE),
            training_mode="mlp_dense",
        )


def test_model_of_ours_teaches() -> None:
    rows = labelled("classification")
    teacher = fit(rows, "classification", DistillationOptions(TREE))
    model = fit(rows, "classification", DistillationOptions(teacher))
    told = model.card["distillation"]["teacher"]
    assert told["teachers"][0]["kind"] == "tabwright"
    assert told["out_of_fold"] is False
    with pytest.raises(ValueError, match="must be a model for regression"):
        fit(labelled("regression"), "regression", DistillationOptions(teacher))
    with pytest.raises(ValueError, match="the teacher knows 'c'"):
        fit_table(
            LabelledRows(rows.frame, np.minimum(rows.target, 1)),
            FitSettings(task="classification", **TINY),
            classes=np.array(["a", "b"]),
            distillation=DistillationOptions(teacher),
        )


def test_unlabelled_rows_are_learned_from() -> None:
    rows = labelled("classification")
    more = mixed_table(40, seed=7)
    fixed = {"teacher_weight": 0.5, "augmentation": None}
    plain = fit(rows, "classification", DistillationOptions(TREE), **fixed)
    taught = fit(rows, "classification", DistillationOptions(TREE, unlabelled=more), **fixed)
    assert taught.card["distillation"]["n_unlabelled_rows"] == 40
    assert taught.card["distillation"]["n_made_rows"] == 0
    head = "net.head.weight"
    assert not np.array_equal(plain.members[0][head], taught.members[0][head])


def test_unlabelled_rows_are_checked_before_the_teacher_is_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a teacher was fitted")

    monkeypatch.setattr(distillation, "soft_labels", never)
    with pytest.raises(TableError, match="'level' is missing"):
        fit(
            labelled("classification"),
            "classification",
            DistillationOptions(TREE, unlabelled=mixed_table(9).drop("level")),
        )


# ---------------------------------------------------------------------------------------------
# Soft targets and candidates
# ---------------------------------------------------------------------------------------------


def soft_targets_of(rows: LabelledRows, **arguments: Any) -> SoftTargets:
    return prepare_soft_targets(
        rows,
        profile_table(rows.frame, named=True),
        settings=FitSettings(task="classification", **TINY),
        distillation=DistillationOptions(TREE),
        classes=THREE,
        **arguments,
    )


def test_made_rows_weigh_what_their_starting_rows_weigh() -> None:
    rows = labelled("classification")
    # `day` is nobody's neighbour's: rows are told apart by the column that is set aside.
    frame = rows.frame.with_columns(mark=pl.lit("same"), row=pl.Series(np.arange(len(rows))))
    weight = 1.0 + np.arange(len(rows))
    soft_targets = soft_targets_of(LabelledRows(frame.drop("row"), rows.target, weight))
    assert soft_targets.extra_weight is not None
    assert soft_targets.n_made == len(rows)
    # Every row is started from once.
    np.testing.assert_array_equal(np.sort(soft_targets.extra_weight), weight)


def test_class_weights_reach_the_soft_labels() -> None:
    rows = labelled("classification")
    class_weights = np.array([1.0, 2.0, 5.0])
    plain, weighted = soft_targets_of(rows), soft_targets_of(rows, class_weights=class_weights)
    tilted = plain.labels * class_weights
    np.testing.assert_allclose(weighted.labels, tilted / tilted.sum(1, keepdims=True))
    assert plain.extra_labels is not None
    assert plain.extra_weight is None
    assert weighted.extra_weight is not None
    np.testing.assert_allclose(weighted.extra_weight, plain.extra_labels @ class_weights)


def test_trials_follow_the_settings() -> None:
    settings = FitSettings(task="classification", **TINY)
    made = replace(soft_targets_of(labelled("classification")))
    plain = replace(made, n_made=0)
    assert [candidates.augmented for candidates in candidate_groups(settings, made)] == [
        False,
        True,
    ]
    assert [candidates.augmented for candidates in candidate_groups(settings, plain)] == [False]
    only = candidate_groups(replace(settings, augmentation="munge"), made)
    assert [candidates.augmented for candidates in only] == [True]
    assert 0.0 in candidate_groups(settings, made)[0].weights
    none = candidate_groups(replace(settings, teacher_weight=0.0), made)
    assert none == (Candidates((0.0,), (1.0,)),)
    regression = FitSettings(task="regression", **TINY, teacher_temperature=4.0)
    assert set(candidate_groups(regression, made)[0].temperatures) == {1.0}


def test_student_of_the_lowest_validation_loss_is_kept() -> None:
    rows = labelled("regression")
    models = [
        fit(
            rows,
            "regression",
            DistillationOptions(REGRESSION_TREE),
            teacher_weight=weight,
            max_epochs=epochs,
        )
        for weight, epochs in ((0.1, 1), (0.2, 12), (0.3, 2))
    ]
    compact = models[0].encoder.transform(rows.frame)
    soft_targets = SoftTargets(np.zeros(3), models[0], {})  # type: ignore[arg-type]
    chosen, direct = best_student(
        [Candidates((0.1, 0.2, 0.3), (1.0,) * 3)],
        lambda _: models,
        soft_targets,
        (compact, rows.target, None),
    )
    assert direct is None
    losses = [
        ((Predictor(model).predict_values(rows.frame) - rows.target) ** 2).mean()
        for model in models
    ]
    assert chosen.settings == models[int(np.argmin(losses))].settings
    assert [one["validation_loss"] for one in chosen.card["distillation"]["tried"]] == (
        pytest.approx(losses)
    )


def test_each_fold_keeps_the_candidate_that_the_other_folds_choose() -> None:
    folds = np.array([0, 0, 1, 1])
    tried = []
    for outputs in ([[9.0, 9.0, 0.0, 0.0]], [[0.0, 0.0, 5.0, 5.0]]):
        cross = CrossPredictions(folds)
        cross.see(np.array(outputs), cross.fold_losses(np.array(outputs) ** 2))
        tried.append(cross)
    # Fold 0 is kept from the first (good on fold 1), fold 1 from the second.
    np.testing.assert_array_equal(
        CrossPredictions.best_of(tried, 1).predictions(), [9.0, 9.0, 5.0, 5.0]
    )


def test_several_teachers_are_averaged_through_the_mode() -> None:
    forest = RandomForestClassifier(n_estimators=5, random_state=0)
    model = fit(
        labelled("classification"), "classification", DistillationOptions(["extra_trees", forest])
    )
    assert len(model.card["distillation"]["teacher"]["teachers"]) == 2
