import datetime as dt
import json
import re
import sys
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tabwright.distillation.teachers import TeacherLabels, soft_labels
from tabwright.distillation.tree_columns import fit_tree_columns
from tabwright.distillation.trees.learners import tree_learner
from tabwright.distillation.trees.problem import TEACHER_KINDS, Problem, TeacherKind
from tabwright.errors import install_command
from tabwright.tables import profile_table
from tabwright.tables.labelled import LabelledRows
from tests.losses import log_loss

LIBRARIES = {"lightgbm": "lightgbm", "xgboost": "xgboost", "catboost": "catboost"}


def need(kind: TeacherKind) -> None:
    if kind in LIBRARIES:
        pytest.importorskip(
            LIBRARIES[kind], reason=f"{kind} is optional: {install_command('trees')}"
        )


def mixed_table(n: int = 240, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    number = rng.normal(size=n)
    return pl.DataFrame(
        {
            "number": [None if k % 11 == 0 else v for k, v in enumerate(number.tolist())],
            "count": rng.integers(0, 50, n),
            "level": [[*"uvw", None][k] for k in rng.integers(0, 4, n)],
            "day": [
                None if k % 17 == 0 else dt.date(2024, 1, 1) + dt.timedelta(int(v))
                for k, v in enumerate(rng.integers(0, 700, n))
            ],
            "flag": rng.random(n) > 0.5,
        }
    )


def mixed_codes(frame: pl.DataFrame) -> NDArray[np.int64]:
    high = (frame["number"].fill_null(0.0) > 0).to_numpy().astype(np.int64)
    codes: NDArray[np.int64] = high + (frame["level"] == "u").fill_null(False).to_numpy()
    return codes


def classify(frame: pl.DataFrame, codes: NDArray[np.int64], **options: Any) -> TeacherLabels:
    n_classes = options.pop("n_classes", int(codes.max()) + 1)
    return soft_labels(
        _labelled(frame, codes, options),
        profile_table(frame, named=False),
        task="classification",
        n_classes=n_classes,
        **options,
    )


def regress(frame: pl.DataFrame, values: NDArray[np.float64], **options: Any) -> TeacherLabels:
    profile = profile_table(frame, named=False)
    return soft_labels(_labelled(frame, values, options), profile, task="regression", **options)


def _labelled(frame: pl.DataFrame, target: Any, options: dict[str, Any]) -> LabelledRows:
    return LabelledRows(
        frame, target, options.pop("sample_weight", None), options.pop("groups", None)
    )


def noise_table(n: int = 400, seed: int = 3) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({name: rng.normal(size=n) for name in "abc"})
    return frame, rng.integers(0, 2, n)


def assert_distribution(labels: NDArray[np.float64], shape: tuple[int, int]) -> None:
    assert labels.shape == shape
    assert labels.dtype == np.float64
    assert (labels > 0).all()
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------
# Every kind
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEACHER_KINDS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_kind_teaches_classes(kind: TeacherKind, n_classes: int) -> None:
    need(kind)
    frame = mixed_table()
    codes = np.minimum(mixed_codes(frame), n_classes - 1)
    taught = classify(frame, codes, teacher=kind)
    assert_distribution(taught.labels, (len(frame), n_classes))
    new = mixed_table(seed=1)
    predicted = taught.predict(new)
    assert_distribution(predicted, (len(new), n_classes))
    share = np.bincount(codes) / len(codes)
    chance = log_loss(codes, np.broadcast_to(share, taught.labels.shape))
    assert log_loss(codes, taught.labels) < 0.7 * chance
    assert log_loss(np.minimum(mixed_codes(new), n_classes - 1), predicted) < 0.7 * chance
    assert taught.out_of_fold


@pytest.mark.parametrize("kind", TEACHER_KINDS)
def test_every_kind_teaches_values_of_any_scale(kind: TeacherKind) -> None:
    need(kind)
    frame = mixed_table()
    values = 1e9 + 1e3 * mixed_codes(frame).astype(np.float64)
    taught = regress(frame, values, teacher=kind)
    assert taught.labels.shape == (len(frame),)
    assert taught.labels.dtype == np.float64
    assert np.mean((taught.labels - values) ** 2) < 0.6 * values.var()
    assert np.mean((taught.predict(frame) - values) ** 2) < 0.4 * values.var()


@pytest.mark.parametrize("kind", TEACHER_KINDS)
def test_same_call_gives_the_same_labels(kind: TeacherKind) -> None:
    need(kind)
    frame = mixed_table(120)
    codes = mixed_codes(frame)
    first, second = (
        classify(frame, codes, teacher=kind, random_state=4, n_folds=2, n_threads=2)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.predict(frame), second.predict(frame))
    assert first.description == second.description
    other = classify(frame, codes, teacher=kind, random_state=5, n_folds=2)
    assert not np.array_equal(first.labels, other.labels)


@pytest.mark.parametrize("kind", TEACHER_KINDS)
def test_every_kind_honours_weights(kind: TeacherKind) -> None:
    need(kind)
    # Two noisy answers to every question; the weights say which one counts.
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"a": rng.integers(0, 2, 400), "b": rng.normal(size=400)})
    codes = rng.integers(0, 2, 400)
    agrees = codes == frame["a"].to_numpy()
    weight = np.where(agrees, 9.0, 1.0)
    taught = classify(frame, codes, teacher=kind, sample_weight=weight, n_folds=2)
    share = taught.labels[np.arange(400), frame["a"].to_numpy()]
    assert share.mean() > 0.75
    assert (
        classify(frame, codes, teacher=kind, n_folds=2)
        .labels[np.arange(400), frame["a"].to_numpy()]
        .mean()
        < 0.65
    )
    scaled = classify(frame, codes, teacher=kind, sample_weight=weight * 1024.0, n_folds=2)
    np.testing.assert_allclose(scaled.labels, taught.labels, rtol=1e-6)
    np.testing.assert_allclose(scaled.predict(frame), taught.predict(frame), rtol=1e-6)


@pytest.mark.parametrize("kind", TEACHER_KINDS)
def test_every_kind_describes_itself_as_plain_data(kind: TeacherKind) -> None:
    need(kind)
    frame = mixed_table(60)
    description = classify(frame, mixed_codes(frame), teacher=kind, n_folds=2).description
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    (own,) = description["teachers"]
    assert own["kind"] == kind
    assert own["version"][0].isdigit()
    assert own["settings"]
    assert description["out_of_fold"] is True
    assert description["n_folds"] == 2
    assert description["scores"]["log_loss"] == own["scores"]["log_loss"]


@pytest.mark.parametrize("kind", TEACHER_KINDS)
def test_cells_that_training_lacked_are_no_error(kind: TeacherKind) -> None:
    need(kind)
    train = pl.DataFrame({"a": np.arange(80.0), "c": ["x", "y"] * 40, "f": [True, False] * 40})
    taught = classify(train, np.array([0, 1] * 40), teacher=kind, n_folds=2)
    strange = pl.DataFrame(
        {
            "f": [None, True, False],
            "extra": [1, 2, 3],
            "c": ["never seen", None, "x"],
            "a": [None, float("inf"), -1e300],
        }
    )
    assert_distribution(taught.predict(strange), (3, 2))


@pytest.mark.parametrize("kind", sorted(LIBRARIES))
def test_missing_library_names_the_extra(
    kind: TeacherKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, LIBRARIES[kind], None)
    frame = mixed_table(20)
    rule = rf"'{kind}' needs .*{re.escape(install_command('trees'))}"
    with pytest.raises(ImportError, match=rule):
        classify(frame, mixed_codes(frame), teacher=kind)


# ---------------------------------------------------------------------------------------------
# Out of fold
# ---------------------------------------------------------------------------------------------


def test_teacher_that_memorises_does_not_leak_classes() -> None:
    frame, codes = noise_table()
    for teacher in (
        KNeighborsClassifier(n_neighbors=1),
        DecisionTreeClassifier(),
        RandomForestClassifier(n_estimators=20),
    ):
        taught = classify(frame, codes, teacher=teacher)
        # In sample the memory is perfect, so that the chance level below says something.
        assert (taught.predict(frame).argmax(axis=1) == codes).mean() > 0.95
        right = (taught.labels.argmax(axis=1) == codes).mean()
        assert abs(right - 0.5) < 4 * np.sqrt(0.25 / len(codes))
        assert log_loss(codes, taught.labels) > np.log(2.0)


def test_teacher_that_memorises_does_not_leak_values() -> None:
    frame, _ = noise_table()
    values = np.random.default_rng(0).normal(size=len(frame))
    for teacher in (KNeighborsRegressor(n_neighbors=1), DecisionTreeRegressor()):
        taught = regress(frame, values, teacher=teacher)
        np.testing.assert_allclose(taught.predict(frame), values)
        assert abs(np.corrcoef(taught.labels, values)[0, 1]) < 4 / np.sqrt(len(values))


@pytest.mark.parametrize("kind", TEACHER_KINDS)
def test_no_kind_beats_chance_on_a_random_target(kind: TeacherKind) -> None:
    need(kind)
    frame, codes = noise_table()
    # Identifiers, as numbers and as levels: what a leak would go through.
    frame = frame.with_columns(
        row=pl.Series(np.random.default_rng(1).permutation(len(codes)).astype(np.float64)),
        key=pl.Series([f"k{k // 2}" for k in range(len(codes))]),
    )
    taught = classify(frame, codes, teacher=kind)
    assert log_loss(codes, taught.labels) > np.log(2.0) - 0.02
    right = (taught.labels.argmax(axis=1) == codes).mean()
    assert right - 0.5 < 4 * np.sqrt(0.25 / len(codes))


class Spy(BaseEstimator):  # type: ignore[misc]
    """Remembers which rows it was fitted on and refuses to label them, out of fold."""

    fits: ClassVar[list[set[float]]] = []
    labelled: ClassVar[list[tuple[set[float], set[float]]]] = []

    def fit(self, X: NDArray[np.float64], y: NDArray[Any]) -> Self:
        self.rows_ = set(X[:, 0].tolist())
        self.classes_ = np.unique(y)
        Spy.fits.append(self.rows_)
        return self

    def predict_proba(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        Spy.labelled.append((self.rows_, set(X[:, 0].tolist())))
        return np.full((len(X), len(self.classes_)), 1.0 / len(self.classes_))


def test_no_row_is_labelled_by_a_teacher_that_saw_it() -> None:
    Spy.fits, Spy.labelled = [], []
    n = 53
    frame = pl.DataFrame({"id": np.arange(float(n))})
    taught = classify(frame, np.arange(n) % 3, teacher=Spy(), n_folds=5)
    assert [len(fitted & seen) for fitted, seen in Spy.labelled] == [0] * 5
    assert sorted(row for _, seen in Spy.labelled for row in seen) == list(range(n))
    *folds, refit = Spy.fits
    assert all(n - 11 <= len(rows) <= n - 10 for rows in folds)
    assert len(refit) == n
    assert taught.out_of_fold


def test_groups_stay_in_one_fold() -> None:
    Spy.fits, Spy.labelled = [], []
    group = np.repeat(np.arange(12), 5)
    frame = pl.DataFrame({"id": np.arange(60.0)})
    classify(frame, np.arange(60) % 2, teacher=Spy(), groups=group, n_folds=4)
    for fitted, seen in Spy.labelled:
        assert not {row // 5 for row in fitted} & {row // 5 for row in seen}


def test_fewer_groups_than_folds_make_fewer_folds() -> None:
    frame = pl.DataFrame({"id": np.arange(20.0)})
    group = np.repeat(["p", "q", "r"], [7, 7, 6])
    taught = classify(frame, np.arange(20) % 2, teacher=Spy(), groups=group)
    assert taught.description["n_folds"] == 3


def test_preprocessing_is_fitted_on_the_other_folds_alone() -> None:
    # A level that only held-out rows have must be unknown to the teacher that labels them.
    seen: list[NDArray[np.float64]] = []

    class Recorder(BaseEstimator):  # type: ignore[misc]
        def fit(self, X: NDArray[np.float64], y: NDArray[Any]) -> Self:
            self.fitted_ = True
            return self

        def predict(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
            seen.append(X.copy())
            return np.zeros(len(X))

    group = np.repeat(np.arange(3), 10)
    frame = pl.DataFrame({"c": [f"only group {g}" for g in group], "x": np.arange(30.0)})
    regress(frame, np.arange(30.0), teacher=Recorder(), groups=group, n_folds=3)
    assert len(seen) == 3
    assert all(np.isnan(rows[:, 0]).all() for rows in seen)


def test_folds_hold_the_classes_evenly() -> None:
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.repeat([0, 1], [190, 10]))
    frame = pl.DataFrame({"a": rng.normal(size=200)})
    labels = classify(frame, codes, teacher=DummyPrior(), n_folds=5).labels
    np.testing.assert_allclose(labels[:, 1], 0.05)


class DummyPrior(BaseEstimator):  # type: ignore[misc]
    def fit(self, X: NDArray[np.float64], y: NDArray[Any]) -> Self:
        self.prior_ = np.bincount(y) / len(y)
        return self

    def predict_proba(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.tile(self.prior_, (len(X), 1))


# ---------------------------------------------------------------------------------------------
# Small and odd tables
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEACHER_KINDS)
def test_class_with_a_single_row_has_its_column(kind: TeacherKind) -> None:
    need(kind)
    frame = mixed_table(60)
    codes = np.where(np.arange(60) % 2 == 0, 0, 3)
    codes[7] = 1
    taught = classify(frame, codes, teacher=kind, n_classes=4, n_folds=3)
    assert_distribution(taught.labels, (60, 4))
    assert_distribution(taught.predict(frame), (60, 4))
    # Class 2 has no row at all, class 1 none in the fold of its own row.
    assert (taught.labels[:, 2] < 0.05).all()
    assert taught.labels[7, 1] < 0.05
    assert taught.labels[:, [0, 3]].sum(axis=1).mean() > 0.8


@pytest.mark.parametrize("kind", TEACHER_KINDS)
def test_tables_that_say_nothing_give_the_prior(kind: TeacherKind) -> None:
    need(kind)
    codes = np.array([0, 0, 1] * 10)
    frame = pl.DataFrame({"a": [1.0] * 29 + [2.0]})
    taught = classify(frame, codes, teacher=kind, n_folds=2)
    assert_distribution(taught.labels, (30, 2))
    same = frame.with_columns(a=pl.lit(1.0))
    constant = soft_labels(
        LabelledRows(same, codes),
        profile_table(same, roles={"a": "numeric"}),
        task="classification",
        n_classes=2,
        teacher=kind,
    )
    np.testing.assert_allclose(constant.predict(same), [[2 / 3, 1 / 3]] * 30)
    flat = regress(frame, np.full(30, 7.0), teacher=kind)
    np.testing.assert_array_equal(flat.labels, 7.0)


@pytest.mark.parametrize("kind", TEACHER_KINDS)
@pytest.mark.parametrize("n_rows", [2, 3, 5])
def test_a_handful_of_rows_is_enough(kind: TeacherKind, n_rows: int) -> None:
    need(kind)
    frame = pl.DataFrame({"a": np.arange(float(n_rows)), "c": ["x", "y", None, "x", "y"][:n_rows]})
    taught = classify(frame, np.arange(n_rows) % 2, teacher=kind)
    assert_distribution(taught.labels, (n_rows, 2))
    assert regress(frame, np.arange(float(n_rows)), teacher=kind).labels.shape == (n_rows,)


@pytest.mark.parametrize("kind", TEACHER_KINDS)
def test_names_of_columns_are_of_no_account(kind: TeacherKind) -> None:
    need(kind)
    frame = mixed_table(80)
    codes = mixed_codes(frame)
    renamed = frame.rename(
        dict(zip(frame.columns, ["", "[a]<b>", "ü:{", "x,y", '"q"'], strict=True))
    )
    np.testing.assert_array_equal(
        classify(frame, codes, teacher=kind, n_folds=2).labels,
        classify(renamed, codes, teacher=kind, n_folds=2).labels,
    )


def test_boosting_stops_where_held_out_rows_say() -> None:
    frame, codes = noise_table()
    noise = classify(frame, codes)
    signal = classify(frame, (frame["a"] * frame["b"] > 0).to_numpy().astype(np.int64))
    assert noise.description["teachers"][0]["n_rounds"] == 10
    assert signal.description["teachers"][0]["n_rounds"] > 10


def test_truncated_predictions_are_those_of_a_shorter_fit() -> None:
    frame = mixed_table()
    codes = np.minimum(mixed_codes(frame), 1)
    columns = fit_tree_columns(frame, profile_table(frame))
    values = columns.encode(frame)
    problem = Problem(values, columns.categorical, codes, None, 2, 0, 1)
    for kind in ("hist_gradient_boosting", "lightgbm", "xgboost", "catboost"):
        need(kind)
        learner = tree_learner(kind)
        long = list(learner.fit(problem, 20).stages(values, (5, 10, 20)))
        short = next(learner.fit(problem, 10).stages(values, (10,)))
        assert len(long) == 3
        np.testing.assert_allclose(long[1], short, rtol=1e-6)
        assert not np.allclose(long[0], long[2])


def test_stages_are_those_of_one_fit() -> None:
    frame = mixed_table()
    columns = fit_tree_columns(frame, profile_table(frame))
    values = columns.encode(frame)
    codes = mixed_codes(frame)
    n_classes = len(np.unique(codes))
    weight = np.where(codes == 0, 2.0, 1.0)
    problem = Problem(values, columns.categorical, codes, weight, n_classes, 0, 1)
    for kind in ("hist_gradient_boosting", "lightgbm"):
        need(kind)
        learner = tree_learner(kind)
        whole = list(learner.fit(problem, 20).stages(values, (5, 10, 20)))
        stages = learner.fit_in_stages(problem, values, (5, 10, 20))
        np.testing.assert_array_equal(list(stages), whole)


@pytest.mark.parametrize("kind", ["hist_gradient_boosting", "lightgbm", "xgboost", "catboost"])
def test_fewer_rounds_are_the_first_of_more(kind: TeacherKind) -> None:
    need(kind)
    frame = mixed_table()
    columns = fit_tree_columns(frame, profile_table(frame))
    values, codes = columns.encode(frame), mixed_codes(frame)
    n_classes = len(np.unique(codes))
    problem = Problem(values, columns.categorical, codes, None, n_classes, 0, 1)
    learner = tree_learner(kind, kept=True)
    (few,) = learner.fit(problem, 20).stages(values, (20,))
    (first,) = learner.fit(problem, learner.rounds(n_classes)[-1]).stages(values, (20,))
    np.testing.assert_array_equal(few, first)


# ---------------------------------------------------------------------------------------------
# Columns
# ---------------------------------------------------------------------------------------------


def test_columns_become_numbers() -> None:
    frame = pl.DataFrame(
        {
            "n": ["1", "2.5", None, "4"],
            "c": ["b", "a", None, "b"],
            "d": [
                dt.datetime(2024, 1, 1, 6),
                None,
                dt.datetime(2024, 1, 3),
                dt.datetime(2024, 1, 2),
            ],
            "f": [True, None, False, True],
        }
    )
    columns = fit_tree_columns(frame, profile_table(frame), max_levels=None)
    matrix = columns.encode(frame)
    nan = np.nan
    np.testing.assert_array_equal(matrix[:, 0], [1.0, 2.5, nan, 4.0])
    np.testing.assert_array_equal(matrix[:, 1], [2.0, 1.0, 0.0, 2.0])
    # Elapsed days, then the cycles that vary: time of day, weekday, day of month, day of year.
    np.testing.assert_array_equal(matrix[:, 2], [0.0, nan, 1.75, 0.75])
    np.testing.assert_array_equal(matrix[:, 3], [361.0, nan, 1.0, 1.0])
    np.testing.assert_array_equal(matrix[:, 4], [1.0, nan, 3.0, 2.0])
    np.testing.assert_array_equal(matrix[:, -1], [1.0, nan, 0.0, 1.0])
    assert columns.categorical.tolist() == [False, True, *[False] * 6][: matrix.shape[1]]


def test_unknown_rare_and_missing_levels() -> None:
    frame = pl.DataFrame({"c": ["10", "10", "9", "9", "once", None]})
    frame = frame.with_columns(pl.col("c").replace("once", "11"))
    columns = fit_tree_columns(frame, profile_table(frame, roles={"c": "category"}))
    new = pl.DataFrame({"c": ["9", "10", "11", "12", None]})
    # In the order of the numbers; a level seen once is as good as unknown.
    np.testing.assert_array_equal(columns.encode(new)[:, 0], [1.0, 2.0, np.nan, np.nan, 0.0])
    whole = pl.DataFrame({"c": ["x", "x", "y", "y"]})
    columns = fit_tree_columns(whole, profile_table(whole))
    np.testing.assert_array_equal(columns.encode(new)[:, 0], [np.nan] * 5)


def test_levels_fit_a_byte() -> None:
    names = [f"l{k}" for k in range(400) for _ in range(2 + (k == 399))]
    frame = pl.DataFrame({"c": names, "x": np.arange(float(len(names)))})
    columns = fit_tree_columns(frame, profile_table(frame, named=False))
    codes = columns.encode(frame)[:, 0]
    assert np.nanmax(codes) == 254
    assert not np.isnan(codes[-1])
    everything = fit_tree_columns(frame, profile_table(frame, named=False), max_levels=None)
    assert everything.encode(frame)[:, 0].max() == 400


def test_integers_past_float64_stay_apart() -> None:
    base = 2**60
    frame = pl.DataFrame({"a": [base + k for k in range(40)]})
    taught = classify(frame, np.arange(40) // 20, teacher=DecisionTreeClassifier())
    assert (taught.predict(frame).argmax(axis=1) == np.arange(40) // 20).all()


# ---------------------------------------------------------------------------------------------
# Estimators and several teachers
# ---------------------------------------------------------------------------------------------


def test_mean_of_several_teachers() -> None:
    frame = mixed_table(100)
    codes = mixed_codes(frame)
    kinds = ["random_forest", DecisionTreeClassifier(max_depth=2)]
    both = classify(frame, codes, teacher=kinds, n_folds=3)
    single = [classify(frame, codes, teacher=kind, n_folds=3) for kind in kinds]
    np.testing.assert_allclose(both.labels, (single[0].labels + single[1].labels) / 2)
    new = mixed_table(50, seed=9)
    np.testing.assert_allclose(
        both.predict(new), (single[0].predict(new) + single[1].predict(new)) / 2
    )
    assert_distribution(both.labels, (100, 3))
    described = both.description["teachers"]
    assert [own["kind"] for own in described] == ["random_forest", "estimator"]
    assert described[1]["name"] == "DecisionTreeClassifier"
    assert described[1]["settings"]["max_depth"] == 2
    assert both.description["scores"] != described[0]["scores"]


def test_unfitted_estimator_is_cloned_and_seeded() -> None:
    frame, codes = noise_table(80)
    forest = RandomForestClassifier(n_estimators=5)
    first = classify(frame, codes, teacher=forest, random_state=1)
    assert not hasattr(forest, "estimators_")
    assert forest.random_state is None
    np.testing.assert_array_equal(
        first.labels, classify(frame, codes, teacher=forest, random_state=1).labels
    )


def test_fitted_estimator_is_used_as_it_is_and_reported() -> None:
    frame, codes = noise_table(80)
    names = np.array(["no", "yes"])
    tree = DecisionTreeClassifier().fit(frame.to_numpy(), names[codes])
    taught = classify(frame, codes, teacher=tree, classes=names)
    assert not taught.out_of_fold
    assert taught.description["out_of_fold"] is False
    assert taught.description["teachers"][0]["out_of_fold"] is False
    assert taught.description["n_folds"] == 0
    assert (taught.labels.argmax(axis=1) == codes).all()
    assert_distribution(taught.labels, (80, 2))
    mixed = classify(frame, codes, teacher=[tree, "random_forest"], classes=names)
    assert not mixed.out_of_fold
    assert [own["out_of_fold"] for own in mixed.description["teachers"]] == [False, True]


def test_fitted_estimator_gets_its_own_columns_in_their_order() -> None:
    pd = pytest.importorskip("pandas", reason="pandas is optional")
    frame, codes = noise_table(80)
    table = pd.DataFrame({name: frame[name].to_numpy() for name in ("c", "a")})
    model = LogisticRegression().fit(table, codes)
    taught = classify(frame, codes, teacher=model)
    np.testing.assert_allclose(taught.labels, model.predict_proba(table), atol=1e-6)
    with pytest.raises(ValueError, match="was fitted on the column 'c', which the table lacks"):
        taught.predict(frame.drop("c"))


def test_columns_of_a_fitted_estimator_are_found_by_its_classes() -> None:
    frame, codes = noise_table(80)
    tree = DecisionTreeClassifier(max_depth=1).fit(frame.to_numpy(), codes * 2)
    taught = classify(frame, codes * 2, teacher=tree, n_classes=3)
    assert_distribution(taught.labels, (80, 3))
    assert (taught.labels[:, 1] < 1e-5).all()
    with pytest.raises(ValueError, match=r"the classes of a teacher must be among .*knows 2"):
        classify(frame, codes, teacher=tree)


def test_fitted_regressor_gives_its_values() -> None:
    frame, _ = noise_table(60)
    values = frame["a"].to_numpy() * 3.0 + 1.0
    model = LinearRegression().fit(frame.to_numpy(), values)
    taught = regress(frame, values, teacher=model)
    np.testing.assert_allclose(taught.labels, values)
    assert not taught.out_of_fold


def test_weights_reach_estimators_and_pipelines() -> None:
    frame = pl.DataFrame({"a": [0.0, 1.0] * 50})
    codes = np.repeat([0, 1], 50)
    weight = np.where(codes == 1, 3.0, 1.0)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    for teacher in (pipeline, LogisticRegression(), DecisionTreeClassifier()):
        taught = classify(frame, codes, teacher=teacher, sample_weight=weight)
        np.testing.assert_allclose(taught.predict(frame)[:, 1], 0.75, atol=0.01)
    with pytest.raises(
        ValueError, match=r"must take sample_weight .*KNeighborsClassifier does not"
    ):
        classify(frame, codes, teacher=KNeighborsClassifier(), sample_weight=weight)


class Broken(DummyPrior):
    def predict_proba(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.full((len(X), 2), np.nan)


@pytest.mark.parametrize(
    ("teacher", "match"),
    [
        ("gbm", "a teacher must be one of hist_gradient_boosting, .*; got 'gbm'"),
        (RidgeClassifier(), "an estimator with predict_proba; .*CalibratedClassifierCV adds"),
        (DecisionTreeClassifier, "an estimator with predict_proba; got"),
        ([], "at least one teacher; got an empty list"),
        (None, "must be one of .*; got None"),
        (Broken(), "labels must be finite; those of Broken are not"),
    ],
)
def test_what_cannot_teach_classes_is_refused(teacher: object, match: str) -> None:
    frame, codes = noise_table(30)
    with pytest.raises(ValueError, match=match):
        classify(frame, codes, teacher=teacher)


def test_classifier_cannot_teach_values() -> None:
    frame, codes = noise_table(30)
    with pytest.raises(ValueError, match="regression must be a regressor; got DecisionTree"):
        regress(frame, codes.astype(np.float64), teacher=DecisionTreeClassifier())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_folds": 1}, "n_folds must be at least 2; got 1"),
        ({"n_classes": 1}, "n_classes must be at least 2; got 1"),
    ],
)
def test_arguments_out_of_range_are_refused(change: dict[str, Any], match: str) -> None:
    frame, codes = noise_table(30)
    with pytest.raises(ValueError, match=match):
        classify(frame, codes, **change)


def test_one_row_is_refused() -> None:
    frame, codes = noise_table(30)
    with pytest.raises(ValueError, match="at least 2 rows; got n_samples=1"):
        classify(frame[:1], codes[:1], n_classes=2)
