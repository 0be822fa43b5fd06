"""The estimators behave as scikit-learn's do."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ai.ml.frameworks.pytorch import Checkpoint, TabularClassifier, TabularRegressor, load_model
from ai.ml.frameworks.pytorch.models import TrainingMode

SMALL: dict[str, Any] = {
    "hidden_dim": 16,
    "num_hidden_layers": 1,
    "n_members": 1,
    "max_epochs": 30,
    "batch_size": 32,
    "learning_rate": 0.01,
    "random_state": 0,
}
# Shuffled mini-batches and batch norm see different batches where rows are repeated; the
# statistical law is tested in test_weights_and_repeated_rows_give_the_same_model.
_WEIGHTS = {
    "check_sample_weight_equivalence_on_dense_data": "mini-batches differ",
    "check_sample_weight_equivalence_on_sparse_data": "mini-batches differ",
}


_CHECKS = parametrize_with_checks(
    [TabularClassifier(**SMALL), TabularRegressor(**SMALL)],
    expected_failed_checks=lambda estimator: _WEIGHTS,
)


@pytest.mark.slow
# A list, since scikit-learn 1.6 hands over a generator, which pytest is about to refuse.
@pytest.mark.parametrize(_CHECKS.args[0], list(_CHECKS.args[1]), **_CHECKS.kwargs)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["tabresnet", "imbalance_aware", "calibrated_classifier"])
def test_other_modes_pass_the_checks_whose_path_differs(mode: TrainingMode) -> None:
    from sklearn.utils import estimator_checks

    estimator = TabularClassifier(mode, **SMALL)
    for check in (
        estimator_checks.check_classifiers_train,
        estimator_checks.check_classifiers_classes,
        estimator_checks.check_fit_idempotent,
        estimator_checks.check_methods_subset_invariance,
        estimator_checks.check_dict_unchanged,
        estimator_checks.check_estimators_pickle,
    ):
        check("TabularClassifier", clone(estimator))


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


def test_works_inside_scikit_learn() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), TabularClassifier(**SMALL))
    proba = cross_val_predict(pipeline, X, y, cv=3, method="predict_proba")
    assert (proba.argmax(1) == y).mean() > 0.93
    search = GridSearchCV(TabularClassifier(**SMALL), {"dropout": [0.0, 0.2]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.9


def test_regression_is_good_and_stays_in_the_training_range() -> None:
    X, y = load_diabetes(return_X_y=True)
    model = TabularRegressor(**{**SMALL, "n_members": 4}).fit(X[:330], y[:330])
    assert model.score(X[330:], y[330:]) > 0.35
    predictions = model.predict(X * 1e6)
    assert predictions.dtype == np.float64
    assert y.min() <= predictions.min()
    assert predictions.max() <= y.max()


def test_zero_weight_equals_no_row_exactly() -> None:
    frame, y = _mixed()
    keep = np.arange(len(y)) % 5 != 0
    odd = np.where(keep, y, "no")
    weighted = TabularClassifier(**SMALL).fit(frame, odd, sample_weight=keep.astype(float))
    absent = TabularClassifier(**SMALL).fit(frame.filter(keep), y[keep])
    np.testing.assert_array_equal(weighted.predict_proba(frame), absent.predict_proba(frame))


@pytest.mark.slow
def test_weights_and_repeated_rows_give_the_same_model() -> None:
    """Weight 3 against rows thrice: mean probabilities over seeds, beside no weights at all."""
    generator = np.random.default_rng(1)
    X = generator.normal(size=(400, 3))
    y = (X[:, 0] + X[:, 1] ** 2 + generator.normal(scale=0.5, size=400) > 0.8).astype(int)
    weight = np.where(y == 1, 3, 1)
    held = generator.normal(size=(2000, 3))
    probas: dict[str, list[np.ndarray]] = {"weighted": [], "repeated": [], "plain": []}
    for seed in range(6):
        parameters = {**SMALL, "random_state": seed, "calibration": None}
        eval_set = (X[300:], y[300:], weight[300:])
        repeated = np.repeat(np.arange(300), weight[:300])
        probas["weighted"].append(
            TabularClassifier(**parameters)
            .fit(X[:300], y[:300], sample_weight=weight[:300], eval_set=eval_set)
            .predict_proba(held)[:, 1]
        )
        probas["repeated"].append(
            TabularClassifier(**parameters)
            .fit(X[repeated], y[repeated], eval_set=eval_set)
            .predict_proba(held)[:, 1]
        )
        probas["plain"].append(
            TabularClassifier(**parameters)
            .fit(X[:300], y[:300], eval_set=(X[300:], y[300:]))
            .predict_proba(held)[:, 1]
        )
    means = {name: np.mean(values, axis=0) for name, values in probas.items()}
    gap = np.abs(means["weighted"] - means["repeated"]).mean()
    effect = np.abs(means["weighted"] - means["plain"]).mean()
    assert gap < 0.5 * effect


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
    first = TabularClassifier(**SMALL).fit(frame, y)
    again = TabularClassifier(refit=True, **SMALL).fit(frame, y)
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
