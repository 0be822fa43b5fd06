"""Laws of `distill`: sizes and budgets are kept, verdicts say what the numbers say."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tabwright import distill, load_model
from tabwright.distillation.fidelity import FidelityReport, fidelity_report, n_parameters
from tabwright.estimators.classifier import TabularClassifier
from tabwright.estimators.regressor import TabularRegressor
from tabwright.fitting.students import distill_table as compression
from tabwright.fitting.students import student_size as student_size_module
from tabwright.fitting.students.student_size import Budget, StudentSize, latency_us, student_size
from tabwright.inference.fitted_model import FittedModel, load_fitted, member_modules
from tabwright.inference.predictor import Predictor
from tabwright.settings import FitSettings
from tests.distillation.test_teachers import mixed_codes, mixed_table
from tests.losses import log_loss

TINY: dict[str, Any] = {"max_epochs": 2, "device": "cpu", "random_state": 0}
LABELS = np.array(["a", "b", "c"])


def table(n: int = 150) -> tuple[pl.DataFrame, NDArray[Any]]:
    frame = mixed_table(n)
    return frame, LABELS[mixed_codes(frame)]


def network(hidden_dim: int = 24, depth: int = 2, **parameters: Any) -> TabularClassifier:
    X, y = table()
    return TabularClassifier(
        hidden_dim=hidden_dim, num_hidden_layers=depth, n_members=2, **{**TINY, **parameters}
    ).fit(X, y)


@pytest.fixture(scope="module")
def teacher() -> TabularClassifier:
    return network()


# ---------------------------------------------------------------------------------------------
# Teachers
# ---------------------------------------------------------------------------------------------


def test_every_way_to_name_a_teacher(teacher: TabularClassifier, tmp_path: Path) -> None:
    X, y = table()
    teacher.save(tmp_path / "teacher")
    kept: dict[str, FittedModel] = {}
    for name, own in {
        "estimator": teacher,
        "model": teacher.model_,
        "path": tmp_path / "teacher",
        "text": str(tmp_path / "teacher"),
    }.items():
        kept[name] = distill(own, X, y, augmentation=None, **TINY).model_
    for model in kept.values():
        np.testing.assert_array_equal(
            model.members[0]["net.head.weight"], kept["estimator"].members[0]["net.head.weight"]
        )


def test_student_of_a_fitted_estimator_of_scikit_learn() -> None:
    X, y = table()
    numbers = X.select("count", "flag").with_columns(pl.col("flag").cast(pl.Int64))
    forest = RandomForestClassifier(5, random_state=0).fit(numbers.to_numpy(), y)
    student = distill(forest, numbers, y, **TINY)
    assert student.model_.card["distillation"]["teacher"]["out_of_fold"] is False
    assert student.fidelity_.teacher_came_fitted
    assert "came fitted" in student.fidelity_.verdict


def test_unfitted_estimator_labels_out_of_fold() -> None:
    X, y = table()
    student = distill(DecisionTreeClassifier(), X, y, **TINY)
    assert student.model_.card["distillation"]["teacher"]["out_of_fold"] is True
    assert not student.fidelity_.teacher_came_fitted


def test_several_teachers_and_regression() -> None:
    X, _ = table()
    y = X["count"].to_numpy() * 1.0
    student = distill(
        [DecisionTreeRegressor(max_depth=3), "extra_trees"], X, y, task="regression", **TINY
    )
    assert isinstance(student, TabularRegressor)
    assert student.fidelity_.metric == "rmse"
    assert len(student.model_.card["distillation"]["teacher"]["teachers"]) == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("lightgmb", "one of hist_gradient_boosting, .*got 'lightgmb', which is no file"),
        ([], "at least one teacher"),
        ("extra_trees", "give task='classification' or task='regression'"),
    ],
)
def test_teachers_that_are_refused(bad: object, message: str) -> None:
    X, y = table(20)
    with pytest.raises(ValueError, match=message):
        distill(bad, X, y)


def test_pickle_is_not_loaded(tmp_path: Path) -> None:
    X, y = table(20)
    forest = RandomForestClassifier(2).fit(np.zeros((4, 1)), [0, 1, 0, 1])
    (tmp_path / "teacher.pkl").write_bytes(pickle.dumps(forest))
    with pytest.raises(ValueError, match="Python pickle, which Tabwright never opens"):
        distill(tmp_path / "teacher.pkl", X, y)


def test_bad_arguments_are_refused_before_any_work(
    teacher: TabularClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr(compression, "prepare_soft_targets", never)
    X, y = table(30)
    for arguments, message in (
        ({"max_parameters": 0}, "max_parameters must be a number above 0"),
        ({"max_latency_us": -1.0}, "max_latency_us must be a number above 0"),
        ({"test_fraction": 1.0}, r"test_fraction must be in \[0, 1\)"),
        ({"encoder": "own"}, "encoder must be 'auto', 'inherit' or 'fit'; got 'own'"),
        ({"sweep": (8, 0)}, "sweep must hold integers of at least 1; got 0"),
        ({"test_set": X}, r"test_set must be a tuple \(X, y\)"),
        ({"task": "ranking"}, "task must be"),
        ({"max_parameters": 10}, "the smallest student; got 10 and None"),
    ):
        with pytest.raises(ValueError, match=message):
            distill(teacher, X, y, **arguments)
    with pytest.raises(ValueError, match="encoder='inherit' needs a teacher that is a network"):
        distill("extra_trees", X, y, task="classification", encoder="inherit")


# ---------------------------------------------------------------------------------------------
# Sizes and budgets
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden_dim", "depth", "dropout", "expected"),
    [
        (64, 3, 0.1, StudentSize(32, 2, 0.15)),
        (20, 1, 0.48, StudentSize(16, 1, 0.5)),
        (40, 2, 0.0, StudentSize(20, 1, 0.05)),
    ],
)
def test_size_follows_from_the_teacher(
    hidden_dim: int, depth: int, dropout: float, expected: StudentSize
) -> None:
    own = network(hidden_dim, depth, dropout=dropout, max_epochs=1).model_
    settings = FitSettings(task="classification", training_mode="tree_teacher_distillation")
    assert student_size(own, settings, n_rows=100) == expected
    fixed = replace(settings, hidden_dim=7, num_hidden_layers=4, dropout=0.3)
    assert student_size(own, fixed, n_rows=100) == StudentSize(7, 4, 0.3)


def test_number_of_parameters_is_that_of_the_modules(teacher: TabularClassifier) -> None:
    counted = sum(
        p.numel() for module in member_modules(teacher.model_) for p in module.parameters()
    )
    assert n_parameters(teacher.model_.architecture, 2) == counted


@pytest.mark.parametrize("most", [150, 700, 3_000])
def test_budget_of_parameters_is_kept_and_used(teacher: TabularClassifier, most: int) -> None:
    size = StudentSize(128, 3, 0.1)
    budget = Budget(max_parameters=most)
    found = size.within(budget, 20, 3, 1)
    assert found is not None
    assert n_parameters(found.architecture(20, 3), 1) <= most
    wider = replace(found, hidden_dim=2 * found.hidden_dim)
    assert n_parameters(wider.architecture(20, 3), 1) > most
    assert size.within(Budget(max_parameters=20), 20, 3, 1) is None


def test_student_keeps_to_a_budget_of_parameters(teacher: TabularClassifier) -> None:
    X, y = table()
    student = distill(teacher, X, y, max_parameters=600, **TINY)
    assert sum(p.numel() for p in student.members_[0].parameters()) <= 600
    assert student.fidelity_.student.n_parameters == student.fidelity_.direct.n_parameters
    # Only the encoder without bins leaves room for a layer of any width.
    assert student.settings_.numeric_encoding == "standard"


def test_student_keeps_to_a_budget_of_time(
    teacher: TabularClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock of our own: a microsecond per hidden unit and layer.
    monkeypatch.setattr(
        student_size_module,
        "latency_us",
        lambda architecture, n: n * architecture.hidden_dim * architecture.num_hidden_layers,
    )
    X, y = table()
    student = distill(teacher, X, y, hidden_dim=96, num_hidden_layers=2, max_latency_us=70, **TINY)
    architecture = student.model_.architecture
    assert (architecture.hidden_dim, architecture.num_hidden_layers) == (32, 2)


def test_latency_is_measured() -> None:
    small, large = (StudentSize(width, 3, 0.0).architecture(64, 2) for width in (4, 1024))
    assert 0 < latency_us(small, 1) < latency_us(large, 1)


def test_student_takes_over_the_encoder(teacher: TabularClassifier) -> None:
    X, y = table()
    student = distill(teacher, X, y, augmentation=None, **TINY)
    assert student.model_.encoder is teacher.model_.encoder
    fitted = distill(teacher, X, y, augmentation=None, encoder="fit", **TINY)
    assert fitted.model_.encoder is not teacher.model_.encoder


def test_encoder_with_target_statistics_is_not_taken_over() -> None:
    X, y = table(300)
    many = X.with_columns(code=pl.Series([f"c{k % 90}" for k in range(len(X))]))
    own = TabularClassifier(hidden_dim=8, num_hidden_layers=1, n_members=1, **TINY).fit(many, y)
    assert own.model_.encoder.plan_.layout.n_numeric > own.model_.encoder.plan_.n_own
    student = distill(own, many, y, augmentation=None, **TINY)
    assert student.model_.encoder is not own.model_.encoder


def test_sweep_keeps_the_smallest_good_student(teacher: TabularClassifier) -> None:
    X, y = table()
    student = distill(teacher, X, y, sweep=(4, 8), augmentation=None, **TINY)
    sweep = student.fidelity_.sweep
    assert [point.hidden_dim for point in sweep] == [4, 8, 16]
    assert [point.chosen for point in sweep].count(True) == 1
    chosen = next(point for point in sweep if point.chosen)
    assert chosen.hidden_dim == student.model_.architecture.hidden_dim
    assert chosen.figures.loss == pytest.approx(student.fidelity_.student.loss)


# ---------------------------------------------------------------------------------------------
# The verdict
# ---------------------------------------------------------------------------------------------


def test_report_is_on_rows_that_none_of_them_saw(
    teacher: TabularClassifier, tmp_path: Path
) -> None:
    X, y = table()
    test = mixed_table(60, seed=5)
    labels = LABELS[mixed_codes(test)]
    student = distill(teacher, X, y, test_set=(test, labels), **TINY)
    report = student.fidelity_
    assert (report.rows, report.n_rows) == ("held-out", 60)
    codes = np.searchsorted(LABELS, labels)
    assert report.student.loss == pytest.approx(log_loss(codes, student.predict_proba(test)))
    assert report.teacher.loss == pytest.approx(log_loss(codes, teacher.predict_proba(test)), 1e-4)
    same = student.predict(test) == teacher.predict(test)
    assert report.agreement == pytest.approx(same.mean())
    assert report.gain == pytest.approx(report.direct.loss - report.student.loss)
    student.save(tmp_path / "student")
    document = load_fitted(tmp_path / "student").card["fidelity"]
    assert document == json.loads(json.dumps(report.to_document()))
    assert document["verdict"] in str(report)
    assert report.student.file_bytes is not None
    again = load_model(tmp_path / "student")
    np.testing.assert_array_equal(again.predict(test), student.predict(test))


def test_report_without_rows_of_its_own_says_so(teacher: TabularClassifier) -> None:
    X, y = table()
    report = distill(teacher, X, y, test_fraction=0.0, **TINY).fidelity_
    assert report.rows == "validation"
    assert "validation rows, which chose the epochs" in report.verdict


def test_mode_ends_with_a_verdict_too() -> None:
    X, y = table()
    model = TabularClassifier("tree_teacher_distillation", teacher=DecisionTreeClassifier(), **TINY)
    model.fit(X, y)
    assert model.model_.card["fidelity"]["rows"] == "validation"


class Oracle:
    """A teacher that gives the probabilities it was made with."""

    def __init__(self, proba: NDArray[np.float64]) -> None:
        self.proba = proba

    def predict(self, frame: pl.DataFrame) -> NDArray[np.float64]:
        return np.resize(self.proba, (len(frame), self.proba.shape[1]))


def as_student(model: FittedModel) -> FittedModel:
    """Its networks alone, as if half of their loss had been a teacher's."""
    return replace(model, trees=None, settings=replace(model.settings, teacher_weight=0.5))


def judged(
    proba: list[float], student: FittedModel, direct: FittedModel, target: np.ndarray
) -> FidelityReport:
    """The report on 40 held-out rows of which the teacher says the same."""
    return fidelity_report(
        Oracle(np.array([proba])),
        student,
        direct,
        mixed_table(40),
        target,
        rows="held-out",
        teacher_came_fitted=False,
    )


def biased(model: FittedModel, towards: int) -> FittedModel:
    """The same network, surer of one class."""
    members = []
    for member in model.members:
        bias = member["net.head.bias"].copy()
        bias[towards] += 3.0
        members.append({**member, "net.head.bias": bias})
    return replace(model, members=tuple(members))


@pytest.mark.parametrize(
    ("student_right", "direct_right", "said"),
    [
        (True, False, "Distillation helped"),
        (False, True, "Distillation made it worse"),
        (True, True, "made no difference"),
    ],
)
def test_verdict_says_what_the_numbers_say(
    teacher: TabularClassifier, student_right: bool, direct_right: bool, said: str
) -> None:
    target = np.zeros(40, dtype=np.int64)
    own = as_student(teacher.model_)
    report = judged(
        [0.98, 0.01, 0.01],
        biased(own, 0 if student_right else 1),
        biased(own, 0 if direct_right else 1),
        target,
    )
    assert said in report.verdict
    assert (report.gain > 0) == (student_right and not direct_right)
    if student_right and not direct_right:
        assert report.gap_closed is not None
        assert report.gap_closed == pytest.approx(report.gain / report.gap)
        assert f"{100 * report.gap_closed:.0f} % of the gap" in report.verdict


def test_a_student_beyond_its_teacher_closes_more_than_the_whole_gap(
    teacher: TabularClassifier,
) -> None:
    own = as_student(teacher.model_)
    report = judged([0.6, 0.2, 0.2], biased(own, 0), biased(own, 1), np.zeros(40, dtype=np.int64))
    assert report.gap_closed is not None
    assert report.gap_closed > 1
    assert "and more than the whole gap to it is closed." in report.verdict


def test_small_differences_keep_a_digit(teacher: TabularClassifier) -> None:
    own = as_student(teacher.model_)
    other = replace(own, members=tuple(dict(member) for member in own.members))
    for member in other.members:
        member["net.head.bias"] = member["net.head.bias"] + np.array([1e-5, 0, 0], np.float32)
    report = judged([0.6, 0.2, 0.2], other, own, np.zeros(40, dtype=np.int64))
    assert 0 < abs(report.gain) < 5e-5
    assert "0.0000" not in report.verdict


def test_difference_within_its_error_is_none(teacher: TabularClassifier) -> None:
    own = as_student(teacher.model_)
    report = judged([0.4, 0.3, 0.3], biased(own, 0), biased(own, 1), np.arange(40) % 2)
    assert 0 < abs(report.gain) < report.gain_error
    assert "made no difference that these rows can show" in report.verdict


def test_no_teacher_is_said_to_be_none(teacher: TabularClassifier) -> None:
    own = replace(teacher.model_, settings=replace(teacher.model_.settings, teacher_weight=0.0))
    report = fidelity_report(
        Oracle(np.array([[0.4, 0.3, 0.3]])),
        own,
        own,
        mixed_table(20),
        np.zeros(20, dtype=np.int64),
        rows="held-out",
        teacher_came_fitted=False,
    )
    assert "Distillation was not used" in report.verdict
    assert report.gain == 0


def test_weights_count_rows_in_the_report(teacher: TabularClassifier) -> None:
    frame, target = mixed_table(12), np.arange(12) % 3
    twice = np.concatenate([np.arange(12), [3]])
    weight = np.ones(12)
    weight[3] = 2.0
    own = as_student(teacher.model_)
    model_of_ours = Predictor(own)

    class Self:
        def predict(self, rows: pl.DataFrame) -> NDArray[np.float64]:
            return model_of_ours.predict_proba(rows)

    reports = [
        fidelity_report(
            Self(),
            own,
            biased(own, 1),
            frame[index],
            target[index],
            weights,
            rows="held-out",
            teacher_came_fitted=False,
        )
        for index, weights in ((np.arange(12), weight), (twice, None))
    ]
    for name in ("gain", "gap", "direct_agreement", "direct_divergence"):
        assert getattr(reports[0], name) == pytest.approx(getattr(reports[1], name))
