"""The estimators behave as scikit-learn's do."""

from __future__ import annotations

import pickle
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes

from tabwright import Checkpoint, TabularClassifier, TabularRegressor, load_model
from tabwright.settings import modes_for
from tabwright.tables import CsvFormat

SMALL: dict[str, Any] = {
    "hidden_dim": 16,
    "num_hidden_layers": 1,
    "n_members": 1,
    "max_epochs": 30,
    "batch_size": 32,
    "learning_rate": 0.01,
    "random_state": 0,
}


def _mixed(n_rows: int = 200) -> tuple[pl.DataFrame, np.ndarray]:
    generator = np.random.default_rng(0)
    size = generator.normal(size=n_rows)
    kind = generator.choice(["a", "b", "c"], size=n_rows)
    frame = pl.DataFrame({"size": size, "kind": kind})
    return frame, np.where(size + (kind == "a") > 0.3, "yes", "no")


def test_frames_of_every_kind_give_the_same_model() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame, y = _mixed()
    columns = {"size": frame["size"].to_numpy(), "kind": frame["kind"].to_list()}
    others = [pandas.DataFrame(columns), frame.to_dicts()]
    expected = TabularClassifier(**SMALL).fit(frame, y).predict_proba(frame)
    for other in others:
        model = TabularClassifier(**SMALL).fit(other, y)
        np.testing.assert_array_equal(model.predict_proba(other), expected)
        assert model.feature_names_in_.tolist() == ["size", "kind"]


def test_columns_go_by_name() -> None:
    frame, y = _mixed()
    model = TabularClassifier(**SMALL).fit(frame, y)
    expected = model.predict_proba(frame)
    np.testing.assert_array_equal(model.predict_proba(frame.select("kind", "size")), expected)
    with pytest.raises(ValueError, match="'size' is missing"):
        model.predict(frame.select("kind"))


def test_columns_of_an_array_go_by_their_numbers() -> None:
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = TabularRegressor(**SMALL | {"max_epochs": 2}, quality="fast").fit(X, X[:, 0])
    named = pl.DataFrame(X, schema=["0", "1"])
    np.testing.assert_array_equal(model.predict(named.select("1", "0")), model.predict(X))
    with pytest.raises(
        ValueError, match=r"those of the fit, numbered from 0 to 1; got \['0', '2'\]"
    ):
        model.predict(named.rename({"1": "2"}))
    with pytest.raises(ValueError, match="X has 1 features, but TabularRegressor is expecting 2"):
        model.predict(X[:, :1])


def test_products_in_bfloat16_learn_as_well(tmp_path: Path) -> None:
    frame, y = _mixed(600)
    train, test = slice(0, 400), slice(400, 600)
    scores = []
    for precision in ("float32", "bfloat16", "bfloat16"):
        model = TabularClassifier(**SMALL, quality="fast", precision=precision)
        model.fit(frame[train], y[train])
        scores.append(model.predict_proba(frame[test]))
        assert float((model.predict(frame[test]) == y[test]).mean()) > 0.95
    np.testing.assert_array_equal(scores[1], scores[2])
    assert not np.array_equal(scores[0], scores[1])
    np.testing.assert_allclose(scores[0], scores[1], atol=0.1)
    model.save(tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.precision == "bfloat16"
    assert {parameter.dtype for parameter in loaded.members_[0].parameters()} == {torch.float32}


def test_one_row_at_a_time_equals_all_at_once() -> None:
    frame, y = _mixed()
    model = TabularClassifier(**SMALL).fit(frame, y)
    whole = model.predict_proba(frame)
    rows = np.concatenate([model.predict_proba(frame[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(rows, whole[:20], atol=1e-6)


def test_save_and_load_give_the_same_estimator(tmp_path: Path) -> None:
    frame, y = _mixed()
    model = TabularClassifier("imbalance_aware", prior=[0.3, 0.7], **SMALL).fit(frame, y)
    model.save(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert isinstance(again, TabularClassifier)
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    assert again.score(frame, y) == model.score(frame, y)
    assert again.settings_ == model.settings_
    assert again.classes_.dtype == model.classes_.dtype
    # What the file records of the parameters is enough to fit the same model again.
    refitted = clone(again).fit(frame, y)
    np.testing.assert_array_equal(refitted.predict_proba(frame), model.predict_proba(frame))


def test_pickling_keeps_the_predictions() -> None:
    frame, y = _mixed()
    model = TabularClassifier(**SMALL).fit(frame, y)
    model.predict(frame)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))


def test_members_are_modules_in_eval_mode() -> None:
    frame, y = _mixed()
    model = TabularClassifier(**{**SMALL, "n_members": 3}).fit(frame, y)
    assert len(model.members_) == 3
    assert not any(member.training for member in model.members_)
    assert len(model.history_) >= 1
    assert {"epoch", "train_loss", "validation_loss"} <= set(model.history_[0])


def test_member_streams_do_not_depend_on_how_many_there_are() -> None:
    frame, y = _mixed()
    few, many = (
        TabularClassifier(**{**SMALL, "n_members": n, "max_epochs": 1}).fit(frame, y)
        for n in (1, 3)
    )
    for name, value in few.members_[0].state_dict().items():
        np.testing.assert_allclose(
            value.numpy(), many.members_[0].state_dict()[name].numpy(), atol=1e-4, err_msg=name
        )


def test_regression_is_good_and_stays_in_the_training_range() -> None:
    X, y = load_diabetes(return_X_y=True)
    model = TabularRegressor(**{**SMALL, "n_members": 4}).fit(X[:330], y[:330])
    assert model.score(X[330:], y[330:]) > 0.35
    predictions = model.predict(X * 1e6)
    assert predictions.dtype == np.float64
    assert y.min() <= predictions.min()
    assert predictions.max() <= y.max()


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(TabularClassifier, mode) for mode in modes_for("classification")]
    + [(TabularRegressor, mode) for mode in modes_for("regression")],
)
def test_zero_weight_equals_no_row_exactly(kind: Any, mode: Any) -> None:
    frame, y = _mixed()
    keep = np.arange(len(y)) % 5 != 0
    if kind is TabularRegressor:
        y = np.arange(len(y)) / 7.0
    odd = np.where(keep, y, "absent" if kind is TabularClassifier else 1e6)
    model = kind(mode, **SMALL | ({"max_epochs": 3} if mode.startswith("tree") else {}))
    weighted = clone(model).fit(frame, odd, sample_weight=keep.astype(float))
    absent = clone(model).fit(frame.filter(keep), y[keep])
    np.testing.assert_array_equal(weighted.predict(frame), absent.predict(frame))
    assert weighted.model_.metrics == absent.model_.metrics
    assert np.array_equal(getattr(weighted, "classes_", 0), getattr(absent, "classes_", 0))
    for epochs in zip(weighted.model_.history, absent.model_.history, strict=True):
        one, other = ({**epoch, "seconds": 0.0} for epoch in epochs)
        assert one == other


def test_eval_set_replaces_the_split_and_its_labels_are_checked() -> None:
    frame, y = _mixed()
    model = TabularClassifier(**SMALL).fit(frame[:150], y[:150], eval_set=(frame[150:], y[150:]))
    assert model.model_.card["n_training_rows"] == 150
    assert model.model_.card["n_validation_rows"] == 50
    with pytest.raises(ValueError, match="maybe"):
        TabularClassifier(**SMALL).fit(frame, y, eval_set=(frame[:1], ["maybe"]))
    with pytest.raises(ValueError, match="eval_set must be a tuple"):
        TabularClassifier(**SMALL).fit(frame, y, eval_set=frame)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"training_mode": "mlp"}, "training_mode must be one of"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"class_weight": "heavy"}, "class_weight must be None, 'balanced' or a mapping"),
        ({"class_weight": {"maybe": 2.0}}, "class_weight names 'maybe'"),
        ({"training_mode": "imbalance_aware", "class_weight": "balanced"}, "takes no class_weight"),
        ({"training_mode": "imbalance_aware", "prior": "flat"}, "prior must be"),
        ({"training_mode": "imbalance_aware", "prior": [1.0]}, "prior must hold 2"),
        ({"prior": "balanced"}, "prior is an argument of training_mode='imbalance_aware'"),
        ({"prior": [0.5, 0.5]}, "prior is an argument of training_mode='imbalance_aware'"),
    ],
)
def test_bad_parameters_are_refused_in_fit(parameters: dict[str, Any], message: str) -> None:
    frame, y = _mixed()
    with pytest.raises(ValueError, match=message):
        TabularClassifier(**{**SMALL, **parameters}).fit(frame, y)


def test_classification_only_modes_are_refused_for_regression() -> None:
    frame, _ = _mixed()
    with pytest.raises(ValueError, match="does not fit a regression task; those that do: mlp_"):
        TabularRegressor("imbalance_aware", **SMALL).fit(frame, np.arange(200.0))


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match="droput"):
        TabularClassifier(droput=0.2)  # type: ignore[call-arg]


def test_one_class_and_a_class_with_one_row() -> None:
    frame, y = _mixed()
    with pytest.raises(ValueError, match="at least 2 classes; got 1 class"):
        TabularClassifier(**SMALL).fit(frame, np.full(200, "yes"))
    y = y.astype(object)
    y[7] = "rare"
    model = TabularClassifier(**SMALL).fit(frame, y)
    assert model.classes_.tolist() == ["no", "rare", "yes"]
    assert model.predict_proba(frame).shape == (200, 3)


def test_refit_trains_on_all_rows_to_the_best_epochs() -> None:
    frame, y = _mixed()
    # Networks alone, as after a refit.
    first = TabularClassifier(quality="fast", **SMALL).fit(frame, y)
    again = TabularClassifier(quality="fast", refit=True, **SMALL).fit(frame, y)
    assert first.model_.card["n_validation_rows"] > 0
    assert again.model_.card["n_training_rows"] == len(y)
    assert again.model_.best_epochs == first.model_.best_epochs
    assert again.model_.metrics == first.model_.metrics
    assert len(again.history_) == max(first.model_.best_epochs)
    # Rows that did not train the first model moved the second.
    assert not np.array_equal(first.predict_proba(frame), again.predict_proba(frame))
    assert again.score(frame, y) > 0.8


def test_a_fit_goes_on_from_its_checkpoint_and_removes_it(tmp_path: Path) -> None:
    frame, y = _mixed()
    path = tmp_path / "run.safetensors"
    model = TabularClassifier(**SMALL).fit(frame, y, checkpoint=Checkpoint(path, interval=0))
    assert not path.exists()
    np.testing.assert_array_equal(
        model.predict_proba(frame), TabularClassifier(**SMALL).fit(frame, y).predict_proba(frame)
    )


TINY: dict[str, Any] = {**SMALL, "hidden_dim": 8, "max_epochs": 3}


def _numbers(n_rows: int = 80) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).normal(size=(n_rows, 3))
    return X, (X[:, 0] > 0).astype(int)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["b", "a", "C"]),
        np.array(["b", "a", "C"], dtype=object),
        np.array([7, -2, 10], dtype=np.int16),
        np.array([2.0, 0.0, 10.0]),
        np.array([False, True]),
    ],
)
def test_classes_are_sorted_and_everything_follows_them(labels: np.ndarray) -> None:
    X = np.random.default_rng(0).normal(size=(150, 2))
    codes = np.digitize(X[:, 0], np.linspace(-0.4, 0.4, len(labels) - 1))
    model = TabularClassifier(**SMALL).fit(X, labels[codes])
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    proba = model.predict_proba(X)
    assert proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, atol=1e-12)
    predicted = model.predict(X)
    assert predicted.dtype == labels.dtype
    np.testing.assert_array_equal(predicted, model.classes_[proba.argmax(axis=1)])
    assert (predicted == labels[codes]).mean() > 0.8


def test_what_a_fit_depended_on_is_recorded() -> None:
    X, y = _numbers(600)
    model = TabularClassifier(**TINY).fit(X, y)
    assert model.model_.card["n_validation_rows"] == 100
    assert model.settings_.validation_fraction == pytest.approx(1 / 6)
    # What decides the bits besides the rows and the settings.
    assert model.model_.card["device"] == "cpu" or torch.cuda.is_available()
    assert model.model_.card["threads"] == torch.get_num_threads()


def test_a_class_with_one_row_stays_in_training() -> None:
    X, y = _numbers()
    for seed in range(5):
        labels = y.copy()
        labels[7 * seed] = 2
        model = TabularClassifier(**{**TINY, "random_state": seed}).fit(X, labels)
        assert model.model_.class_prior is not None
        np.testing.assert_allclose(model.model_.class_prior[2], 1 / 64)
        # Validation rows lack the class: their log-loss is given all labels all the same.
        assert np.isfinite(model.model_.metrics["validation"]["log_loss"])


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_too_few_training_rows_are_counted_in_the_message(kind: type[Any]) -> None:
    X, y = _numbers()
    with pytest.raises(ValueError, match=r"at least 2 training rows .* got n_samples=1; give more"):
        kind(**TINY).fit(X[:1], y[:1])
    with pytest.raises(ValueError, match="got n_samples=1; give more"):
        kind(**TINY).fit(X[:1], y[:1], eval_set=(X[:1], y[:1]))
    with pytest.raises(ValueError, match="got n_samples=1; give more"):
        kind(**TINY).fit(X, y, sample_weight=np.eye(80)[0])
    with pytest.raises(ValueError, match="got n_samples=1, and 1 set aside to validate"):
        TabularRegressor(**TINY).fit(X[:2], y[:2])


def test_a_last_batch_of_one_row_is_no_problem() -> None:
    X, y = _numbers(66)
    model = TabularClassifier(**{**TINY, "batch_size": 16}).fit(X[:65], y[:65], eval_set=(X, y))
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.5, 1.5] * 40, "Unknown label type: continuous.*use TabularRegressor for quantities"),
        ([date(2020, 1, 1), date(2020, 1, 2)] * 40, "Unknown label type: Date"),
        (["a", None] * 40, "Input y contains NaN.*got 40 missing, the first in row 2"),
        ([1.0, np.nan] * 40, "Input y contains NaN"),
        (["a", "b"] * 39, "same number of rows; got 80 and 78"),
    ],
)
def test_labels_of_other_kinds_are_refused(y: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabularClassifier(**TINY).fit(_numbers()[0], y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", "b"] * 40, "must hold numbers; got 'a'"),
        ([1.0, np.nan] * 40, "Input y contains NaN"),
        ([1.0, np.inf] * 40, "Input y contains infinity"),
    ],
)
def test_targets_of_other_kinds_are_refused(y: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabularRegressor(**TINY).fit(_numbers()[0], y)


def test_the_task_is_never_guessed() -> None:
    X, y = _numbers()
    with pytest.warns(UserWarning, match="40 distinct numbers in 80 rows, and each is a class"):
        assert len(TabularClassifier(**TINY).fit(X, np.arange(80) % 40).classes_) == 40
    values = TabularRegressor(**TINY, quality="fast").fit(X, y > 0).predict(X)
    assert values.dtype == np.float64
    assert len(np.unique(values)) > 2


def test_values_past_float32_are_clipped_before_the_cast() -> None:
    X, y = _numbers()
    huge = TabularRegressor(**TINY).fit(X * 1e300, X[:, 0] * 1e300)
    assert np.isfinite(huge.predict(X * 1e300)).all()
    assert np.isfinite(huge.model_.metrics["validation"]["rmse"])
    model = TabularClassifier(**TINY).fit(X, y)
    assert np.isfinite(model.predict_proba(X * 1e300)).all()


def test_identifiers_are_left_out_of_frames_and_never_of_arrays() -> None:
    X, y = _numbers(120)
    frame = pl.DataFrame(X, schema=["a", "b", "c"]).with_columns(
        row=pl.int_range(120), name=pl.Series([f"n{i}" for i in range(120)])
    )
    model = TabularClassifier(**TINY).fit(frame, y)
    kinds = dict(zip(frame.columns, model.model_.encoder.plan_.kinds, strict=True))
    assert {name for name, kind in kinds.items() if kind != "unused"} == {"a", "b", "c"}
    array = np.column_stack([X, np.arange(120)])
    unnamed = TabularClassifier(**TINY).fit(array, y)
    assert "unused" not in unnamed.model_.encoder.plan_.kinds


def test_strings_missing_values_and_dates_as_they_are() -> None:
    rng = np.random.default_rng(0)
    days = [date(2020, 1, 1) + timedelta(int(day)) for day in rng.integers(700, size=200)]
    frame = pl.DataFrame(
        {
            "day": [None if i % 19 == 0 else day for i, day in enumerate(days)],
            "word": [None if i % 7 == 0 else "xyz"[i % 3] for i in range(200)],
            "number": [None if i % 5 == 0 else float(i % 11) for i in range(200)],
            "flag": [None if i % 13 == 0 else i % 2 == 0 for i in range(200)],
        }
    )
    summer = np.array([5 <= day.month <= 9 for day in days])
    model = TabularClassifier(**SMALL).fit(frame, summer)
    assert model.score(frame, summer) > 0.9
    unseen = pl.DataFrame({"day": [None], "word": ["new"], "number": [1e9], "flag": [None]})
    assert np.isfinite(model.predict_proba(unseen)).all()


def test_validation_by_fraction() -> None:
    X, y = _numbers(100)
    card = TabularRegressor(**TINY, validation_fraction=0.35).fit(X, y).model_.card
    assert (card["n_training_rows"], card["n_validation_rows"]) == (65, 35)


def test_groups_stay_on_one_side_and_validation_is_later() -> None:
    # What is learnt shows which rows trained: each row has a category of its own group or time.
    group = np.arange(90) // 9
    frame = pl.DataFrame({"group": [f"g{g}" for g in group], "x": np.arange(90) % 7 * 1.0})
    y = np.arange(90) % 2
    model = TabularClassifier(**TINY, roles={"group": "category"}).fit(frame, y, groups=group)
    levels = _levels(model)
    assert len(levels) == 8
    assert model.model_.card["n_validation_rows"] == 18
    order = np.array([date(2020, 1, 1) + timedelta(int(9 - g)) for g in group])
    model = TabularClassifier(**TINY, roles={"group": "category"}).fit(frame, y, time=list(order))
    # The last groups came first.
    assert _levels(model) == {f"g{g}" for g in range(2, 10)}


def _levels(model: TabularClassifier) -> set[str]:
    """The levels of the column `group` that the encoder saw in training."""
    (column,) = model.model_.encoder.plan_.categories
    return set(column.levels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": [1, 2]}, r"groups must have shape \(80,\), one value a row; got \(2,\)"),
        ({"time": np.zeros((80, 2))}, r"time must have shape \(80,\).*got \(80, 2\)"),
        ({"time": ["late"] * 80}, "time must hold numbers or datetimes"),
        ({"groups": range(80), "time": range(80)}, "cannot both decide the split"),
        ({"sample_weight": -np.ones(80)}, "Negative values in data passed to `sample_weight`"),
        ({"sample_weight": np.full(80, np.nan)}, "sample_weight contains NaN"),
        ({"sample_weight": [1.0]}, "sample_weight.shape"),
    ],
)
def test_row_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    X, y = _numbers()
    with pytest.raises(ValueError, match=message):
        TabularClassifier(**TINY).fit(X, y, **arguments)


def test_eval_set_comes_in_every_usual_form() -> None:
    X, y = _numbers()
    weight = np.ones(80)
    expected = TabularClassifier(**TINY).fit(X, y, eval_set=(X, y)).predict_proba(X)
    for eval_set in ([(X, y)], [X, y], (X, y, weight), (X.tolist(), y.tolist())):
        model = TabularClassifier(**TINY).fit(X, y, eval_set=eval_set)  # type: ignore[arg-type]
        np.testing.assert_array_equal(model.predict_proba(X), expected)
    # An array has no names: its columns are those of the frame, in order.
    given = pl.DataFrame(X, schema=["a", "b", "c"])
    with pytest.warns(UserWarning, match="the X of eval_set should have the feature names"):
        model = TabularClassifier(**TINY).fit(given, y, eval_set=(X, y))
    np.testing.assert_array_equal(model.predict_proba(given), expected)
    weight[:40] = 0.0
    some = TabularClassifier(**TINY).fit(X, y, eval_set=(X, y, weight))
    assert some.model_.card["n_validation_rows"] == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: [(X, y), (X, y)], "eval_set must be one set of rows; got a list of 2"),
        (lambda X, y: (X[:, :2], y), "eval_set must have the 3 columns of X; got 2 columns"),
        (lambda X, y: (X, y[:5]), "same number of rows; got 80 and 5"),
        (lambda X, y: (X[:0], y[:0]), "eval_set must have labels; got none"),
        (lambda X, y: (X, y + 1), "labels that the training rows have"),
        (lambda X, y: (X,), "eval_set must be a tuple"),
    ],
)
def test_other_eval_sets_are_refused(change: Any, message: str) -> None:
    X, y = _numbers()
    with pytest.raises(ValueError, match=message):
        TabularClassifier(**TINY).fit(X, y, eval_set=change(X, y))


def test_noise_teaches_nothing() -> None:
    """Columns without a relation to the target give chance on rows that were not seen."""
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(400, 5)), rng.integers(2, size=400)
    held_X, held_y = rng.normal(size=(2000, 5)), rng.integers(2, size=2000)
    model = TabularClassifier(**SMALL).fit(X, y)
    assert abs(model.score(held_X, held_y) - 0.5) < 0.035
    losses = -np.log(model.predict_proba(held_X)[np.arange(2000), held_y])
    assert losses.mean() < np.log(2) + 0.03
    regressor = TabularRegressor(**SMALL).fit(X, y + rng.normal(size=400))
    assert regressor.score(held_X, held_y + rng.normal(size=2000)) < 0.02


def test_the_prior_moves_probabilities_and_labels() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 2))
    y = (X[:, 0] + rng.normal(size=500) > 1.8).astype(int)
    fitted = {
        name: TabularClassifier("imbalance_aware", prior=prior, **SMALL).fit(X, y)
        for name, prior in {
            "training": "training",
            "balanced": "balanced",
            "array": [1.0 - y.mean(), y.mean()],
        }.items()
    }
    proba = {name: model.predict_proba(X)[:, 1] for name, model in fitted.items()}
    # Exact: odds under the balanced prior are those under the training prior by the prior's odds.
    prior = fitted["training"].model_.class_prior
    assert prior is not None
    odds = {name: p / (1 - p) for name, p in proba.items()}
    np.testing.assert_allclose(odds["balanced"], odds["training"] * prior[0] / prior[1])
    np.testing.assert_allclose(proba["array"], proba["training"], rtol=0.05, atol=0.01)
    assert proba["training"].mean() == pytest.approx(y.mean(), abs=0.04)
    for name, model in fitted.items():
        np.testing.assert_array_equal(model.predict(X), (proba[name] > 0.5).astype(int))
    assert fitted["balanced"].predict(X).mean() > 2 * fitted["training"].predict(X).mean()


@pytest.mark.parametrize("mode", ["mlp_dense", "calibrated_classifier"])
def test_class_weights_count_in_loss_epoch_and_calibration_as_row_weights_do(mode: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 4))
    y = (X[:, 0] + rng.normal(size=500) > 0.8).astype(int)
    # Tree bins know row weights, not class weights.
    settings = {**SMALL, "max_epochs": 30, "numeric_encoding": "standard"}
    by_class, by_row, plain = (
        TabularClassifier(mode, class_weight=class_weight, **settings).fit(X, y, sample_weight=row)
        for class_weight, row in (
            ({0: 1.0, 1: 3.5}, None),
            # Whole numbers would count as copies of the row, which class weights are not.
            (None, np.where(y == 1, 3.5, 1.0)),
            (None, None),
        )
    )
    np.testing.assert_array_equal(by_class.predict_proba(X), by_row.predict_proba(X))
    assert by_class.model_.best_epochs == by_row.model_.best_epochs
    losses = [[e["validation_loss"] for e in m.model_.history] for m in (by_class, by_row, plain)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    scores = by_class.model_.metrics
    assert scores["validation_class_weighted"] == by_row.model_.metrics["validation"]
    assert scores["validation"] != scores["validation_class_weighted"]
    assert set(plain.model_.metrics) == {"validation"}
    assert np.abs(by_class.predict_proba(X) - plain.predict_proba(X)).max() > 0.1


@pytest.mark.parametrize("mode", ["mlp_dense", "calibrated_classifier", "linear_glm_baseline"])
def test_a_validation_weight_of_two_is_the_row_twice(mode: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 4))
    y = (X[:, 0] + X[:, 1] * X[:, 2] + rng.normal(size=900) > 0.5).astype(int)
    seen, held_out = (X[:500], y[:500]), (X[500:], y[500:])
    weight = rng.integers(0, 4, 400)
    copies = np.repeat(np.arange(400), weight)
    # The training rows are the same, so that the networks are, and what remains is exact. Weights
    # of trees follow the number of rows.
    settings = {**SMALL, "max_epochs": 30, "quality": "fast"}
    model = TabularClassifier(mode, class_weight="balanced", **settings)
    weighted = clone(model).fit(*seen, eval_set=(*held_out, weight.astype(float)))
    repeated = clone(model).fit(*seen, eval_set=(held_out[0][copies], held_out[1][copies]))
    assert weighted.model_.calibrator.kind == repeated.model_.calibrator.kind
    assert weighted.model_.best_epochs == repeated.model_.best_epochs
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=2e-5)
    # Scores of bins and ranks part copies that rounding parts; on equal probabilities they are
    # equal, see test_metrics.py.
    for name in ("log_loss", "brier", "accuracy", "balanced_accuracy", "auc"):
        scores = [one.model_.metrics["validation"][name] for one in (weighted, repeated)]
        assert scores[0] == pytest.approx(scores[1], abs=2e-5), name


@pytest.mark.parametrize("mode", ["imbalance_aware", "calibrated_classifier", "nothing"])
def test_a_mode_that_does_not_fit_is_refused_before_the_table_is_read(mode: Any) -> None:
    with pytest.raises(ValueError, match=mode):
        TabularRegressor(mode).fit("not a table", None)


def test_a_class_without_weight_is_absent() -> None:
    X = np.random.default_rng(0).normal(size=(200, 2))
    y = np.where(X[:, 0] > 0, 3, 1)
    y[::4] = 2
    model = TabularClassifier(**SMALL).fit(X, y, sample_weight=(y != 2).astype(float))
    assert model.classes_.tolist() == [1, 3]
    with pytest.raises(ValueError, match="got 1 class"):
        TabularClassifier(**SMALL).fit(X, y, sample_weight=(y == 2).astype(float))
    with pytest.raises(ValueError, match="at least one non-zero"):
        TabularClassifier(**SMALL).fit(X, y, sample_weight=np.zeros(200))


def test_another_default_dtype_changes_nothing_and_is_left() -> None:
    X = np.random.default_rng(0).normal(size=(200, 3))
    before = str(np.random.get_state())  # noqa: NPY002
    torch.set_default_dtype(torch.float64)
    try:
        for mode in modes_for("classification"):
            settings = SMALL | {"max_epochs": 2}
            model = TabularClassifier(mode, **settings).fit(X, (X[:, 0] > 0).astype(int))
            assert not any(value.dtype == np.float64 for value in model.model_.members[0].values())
            assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert str(np.random.get_state()) == before  # noqa: NPY002


def test_text_of_a_frame_is_read_as_the_same_file_is(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    numbers = [f"{value:.3f}".replace(".", ",") for value in draw.normal(size=60)]
    text = pl.DataFrame(
        {
            "v": ["gone" if k % 7 == 0 else cell for k, cell in enumerate(numbers)],
            # By itself it may as well be thousands.
            "w": [f"{k},{100 + k}" for k in range(60)],
            "kind": ["gone" if k % 5 == 0 else "NA" if k % 2 else "b" for k in range(60)],
        }
    )
    y = ["yes" if k % 3 else "no" for k in range(60)]
    path = tmp_path / "t.csv"
    text.with_columns(y=pl.Series(y)).write_csv(path, separator=";")
    options: dict[str, Any] = {"max_epochs": 2, "n_members": 1, "hidden_dim": 8, "random_state": 0}
    framed = TabularClassifier(**options).fit(text, y, decimal=",", missing=["gone"])
    filed = TabularClassifier(**options)
    filed.fit_file(path, "y", csv=CsvFormat(decimal=",", missing=("gone",)))
    formats = framed.model_.encoder.plan_.formats
    assert formats == filed.model_.encoder.plan_.formats
    assert len(formats) == 3
    np.testing.assert_array_equal(framed.predict_proba(text), filed.predict_proba(text))
    plain = TabularClassifier(**options).fit(text, y)
    assert (framed.predict_proba(text) != plain.predict_proba(text)).any()


def test_how_text_is_written_is_checked_before_a_fit() -> None:
    model, X = TabularRegressor(max_epochs=1), [["1"], ["2"]]
    with pytest.raises(ValueError, match=r"decimal must be .*; got ';'"):
        model.fit(X, [1.0, 2.0], decimal=";")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="missing must be a sequence of texts; got '-'; write"):
        model.fit(X, [1.0, 2.0], missing="-")
