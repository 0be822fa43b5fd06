"""Trees beside networks: what `quality="best"` fits, stores, predicts and exports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tabwright import TabularClassifier, TabularRegressor, distill, load_model
from tabwright.artifact.container import pack, unpack
from tabwright.distillation.tree_arrays import ensemble_of
from tabwright.distillation.trees import Problem, tree_learner
from tabwright.errors import ArtifactError
from tabwright.fitting.combination import greedy_weights
from tabwright.fitting.fit_table import LabelledRows, fit_table
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.tree_ensemble import TreeEnsemble, tree_features
from tabwright.settings import FitSettings

SMALL: dict[str, Any] = {"hidden_dim": 8, "num_hidden_layers": 1, "n_members": 1, "max_epochs": 2}


def table(n_rows: int = 600, seed: int = 0) -> pl.DataFrame:
    """Numbers and dates with missing cells, categories with missing, rare and many levels."""
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n_rows)
    kinds = ["red", "green", "blue", None]
    days = np.datetime64("2020-01-01") + rng.integers(0, 700, n_rows)
    frame = pl.DataFrame(
        {
            "size": size,
            "count": rng.integers(0, 9, n_rows),
            "kind": [kinds[k] for k in rng.integers(0, 4, n_rows)],
            "many": [f"level {k}" for k in rng.integers(0, 90, n_rows)],
            "open": [None if k == 0 else k == 1 for k in rng.integers(0, 3, n_rows)],
            "day": days.astype("datetime64[D]"),
        }
    )
    gone = pl.Series(rng.random(n_rows) < 0.2)
    return frame.with_columns(
        pl.when(gone).then(None).otherwise(pl.col("size")).alias("size"),
        pl.when(gone).then(None).otherwise(pl.col("day")).alias("day"),
    )


def score(frame: pl.DataFrame) -> np.ndarray:
    """A rule that trees find and two epochs of a network do not."""
    gone = frame["size"].is_null().to_numpy()
    size = frame["size"].fill_null(0.0).to_numpy()
    red = (frame["kind"] == "red").fill_null(False).to_numpy()
    value: np.ndarray = 3.0 * ((size > 0.3) ^ red) + 2.0 * gone + frame["count"].to_numpy() / 4
    return value


@cache
def fitted(task: str) -> FittedModel:
    frame = table()
    if task == "regression":
        settings = FitSettings(task="regression", quality="best", **SMALL)
        return fit_table(LabelledRows(frame, score(frame)), settings)
    cuts = [2.0] if task == "binary" else [1.5, 3.0]
    settings = FitSettings(task="classification", quality="best", **SMALL)
    codes = np.digitize(score(frame), cuts).astype(np.int64)
    return fit_table(LabelledRows(frame, codes), settings, classes=np.arange(len(cuts) + 1))


TASKS = ("binary", "three", "regression")


def predictions(model: FittedModel, frame: pl.DataFrame) -> np.ndarray:
    predictor = Predictor(model)
    return predictor.network(model.encoder.transform(frame))


@pytest.mark.parametrize("task", TASKS)
def test_arrays_predict_as_the_library_does(task: str) -> None:
    model, rows = fitted(task), table(500, seed=1)
    features = tree_features(model.encoder, model.encoder.transform(rows))
    assert np.isnan(features).any()
    n_classes = {"binary": 2, "three": 3, "regression": 0}[task]
    target = score(rows) if not n_classes else np.digitize(score(rows), [1.5, 3.0][: n_classes - 1])
    learner = tree_learner("hist_gradient_boosting")
    values = features.astype(np.float64)
    none = np.zeros(values.shape[1], dtype=bool)
    trees = learner.fit(Problem(values, none, target, None, n_classes, 0, 1), 60)
    fresh = table(700, seed=2).with_columns(count=pl.lit(None, dtype=pl.Int64))
    seen = tree_features(model.encoder, model.encoder.transform(fresh))
    for n_rounds in (10, 60):
        ensemble = ensemble_of("t", trees, n_features=values.shape[1], n_rounds=n_rounds)
        expected = next(trees.stages(seen.astype(np.float64), (n_rounds,)))
        ours = ensemble.predict(seen, classifies=bool(n_classes))
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
        alone = np.concatenate(
            [ensemble.predict(seen[i : i + 1], classifies=bool(n_classes)) for i in range(20)]
        )
        np.testing.assert_array_equal(alone, ours[:20])


@pytest.mark.parametrize("task", TASKS)
def test_best_keeps_trees_where_they_help_and_says_so(task: str) -> None:
    model = fitted(task)
    told = model.card["combination"]
    networks, trees = told["candidates"]
    assert model.trees is not None
    assert trees["weight"] == model.trees.weights[0] > 0.5
    assert networks["weight"] + trees["weight"] == pytest.approx(1.0)
    assert told["loss"] <= min(networks["loss"], trees["loss"]) + 1e-12
    rows = table(400, seed=3)
    alone = predictions(replace(model, trees=None), rows)
    mixed = predictions(model, rows)
    assert not np.allclose(alone, mixed)
    if task == "regression":
        truth = score(rows)
        assert ((mixed - truth) ** 2).mean() < 0.5 * ((alone - truth) ** 2).mean()
        assert model.intervals is not None


@pytest.mark.parametrize("task", TASKS)
def test_the_file_comes_back_and_predicts_the_same(task: str, tmp_path: Path) -> None:
    model = fitted(task)
    model.save(tmp_path / "m.safetensors")
    again = FittedModel.from_artifact(*unpack((tmp_path / "m.safetensors").read_bytes()))
    rows = table(100, seed=4)
    np.testing.assert_array_equal(predictions(again, rows), predictions(model, rows))
    assert pack(*again.to_artifact()) == pack(*model.to_artifact())
    one = rows.row(0, named=True)
    expected = Predictor(model)
    whole = expected.predict_values(rows) if task == "regression" else expected.predict_proba(rows)
    np.testing.assert_allclose(Predictor(again).predict_row(one), whole[0], rtol=0, atol=1e-6)


def test_versions_before_refuse_the_file_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from tabwright.artifact import container

    data = pack(*fitted("binary").to_artifact())
    monkeypatch.setattr(container, "FORMATS", {1: "0.1.0", 2: "0.2.0"})
    with pytest.raises(ArtifactError, match=r"format 3 and needs tabwright >= 0\.3\.0"):
        unpack(data, "m")


def _first_split(arrays: dict[str, np.ndarray]) -> int:
    return int(np.flatnonzero(arrays["trees.0.right"])[0])


def _loop(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.0.right"][_first_split(arrays) + 1] = 1


def _beyond(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.0.right"][_first_split(arrays)] = 2**30


def _shared_child(arrays: dict[str, np.ndarray]) -> None:
    splits = np.flatnonzero(arrays["trees.0.right"][: arrays["trees.0.roots"][1]])
    arrays["trees.0.right"][splits[1]] = arrays["trees.0.right"][splits[0]]


def _no_such_feature(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.0.feature"][0] = 1_000


def _negative(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.0.right"][0] = -1


def _nan(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.0.value"][-1] = np.nan


def _roots_fall(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.0.roots"][1] = arrays["trees.0.roots"][2]


def _roots_start_late(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.0.roots"][0] = 1


def _outputs(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.0.baseline"] = np.zeros(2)


def _lacking(arrays: dict[str, np.ndarray]) -> None:
    del arrays["trees.0.threshold"]


def _more(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.1.value"] = np.zeros(1)


@pytest.mark.parametrize(
    "change",
    [
        *(_loop, _beyond, _shared_child, _no_such_feature, _negative, _nan),
        *(_roots_fall, _roots_start_late, _outputs, _lacking, _more),
    ],
)
def test_arrays_that_are_no_trees_are_refused(
    change: Callable[[dict[str, np.ndarray]], None],
) -> None:
    document, arrays = fitted("binary").to_artifact()
    arrays = {name: array.copy() for name, array in arrays.items()}
    change(arrays)
    with pytest.raises(ArtifactError, match=r"tree|tensors"):
        FittedModel.from_artifact(document, arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [0.9]}, "sum to 1"),
        ({"weights": [1.5]}, "from 0.0 to 1.0"),
        ({"ensembles": []}, "weights|ensemble"),
        ({"kind": "x"}, "must hold no|kind"),
    ],
)
def test_documents_that_are_no_mix_are_refused(change: dict[str, object], message: str) -> None:
    document, arrays = fitted("binary").to_artifact()
    document["trees"] = {**document["trees"], **change}
    with pytest.raises(ArtifactError, match=message):
        FittedModel.from_artifact(document, arrays)


def test_trees_too_deep_are_refused() -> None:
    def chain(depth: int) -> TreeEnsemble:
        # Splits one below the other by left children; their right leaves follow.
        n = 2 * depth + 1
        right = np.zeros(n, dtype=np.int32)
        right[:depth] = n - 1 - np.arange(depth)
        zeros = np.zeros(n)
        return TreeEnsemble(
            *("t", 1, np.zeros(1), np.zeros(1, dtype=np.int64), zeros.astype(np.int32)),
            *(zeros.astype(np.float32), right, zeros.astype(np.uint8), zeros),
        )

    assert chain(64).depth == 64
    with pytest.raises(ArtifactError, match="at most 64 deep"):
        chain(65)


@pytest.mark.parametrize("task", TASKS)
def test_onnx_says_the_same(task: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from tabwright.export.onnx import export_onnx

    report = export_onnx(fitted(task), tmp_path / "m.onnx", check_rows=5_000)
    assert report.passed
    assert report.rounding_rows == 0


def test_greedy_weights_find_the_better_mean() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=400)
    errors = rng.normal(size=(2, 400))
    weights = greedy_weights([target + errors[0], target + errors[1]], target, None)
    assert weights.min() > 0.3
    np.testing.assert_array_equal(greedy_weights([target, target + 1], target, None), [1, 0])
    proba = np.stack([1 - (target > 0), target > 0], axis=1) * 0.9 + 0.05
    codes = (target > 0).astype(np.int64)
    np.testing.assert_array_equal(greedy_weights([1 - proba, proba], codes, None), [0, 1])
    # Rows of no weight count for nothing.
    weight = (errors[0] < 0).astype(np.float64)
    half = np.where(weight, target, 100.0)
    np.testing.assert_array_equal(greedy_weights([target + 1, half], target, weight), [0, 1])


def test_random_targets_give_trees_no_certainty() -> None:
    frame = table(800)
    codes = np.random.default_rng(1).integers(0, 2, 800)
    model = TabularClassifier(quality="best", random_state=0, **SMALL).fit(frame, codes)
    fresh = np.random.default_rng(2).integers(0, 2, 800)
    proba = model.predict_proba(table(800, seed=9))
    loss = -np.log(proba[np.arange(800), fresh]).mean()
    assert loss < 0.75


def test_the_estimator_saves_loads_and_teaches(tmp_path: Path) -> None:
    frame = table()
    labels = (score(frame) > 2.0).astype(np.int64)
    best = TabularClassifier(quality="best", random_state=0, **SMALL).fit(frame, labels)
    best.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.quality == "best"
    rows = table(300, seed=5)
    np.testing.assert_array_equal(again.predict_proba(rows), best.predict_proba(rows))
    truth = (score(rows) > 2.0).astype(np.int64)
    student = distill(best, frame, labels, random_state=0)
    assert student.model_.trees is None
    agreement = (student.predict(rows) == best.predict(rows)).mean()
    assert agreement > max(truth.mean(), 1 - truth.mean()) + 0.05


def test_fast_is_one_network() -> None:
    frame = table(200)
    sizes = {name: value for name, value in SMALL.items() if name != "n_members"}
    model = TabularRegressor(quality="fast", random_state=0, **sizes).fit(frame, score(frame))
    assert len(model.members_) == 1
    assert model.model_.trees is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quality": "great"}, "quality must be 'fast', 'balanced' or 'best'; got 'great'"),
        ({"quality": "best", "refit": True}, "needs rows held out"),
        ({"quality": "best", "training_mode": "linear_glm_baseline"}, "of networks alone"),
        ({"quality": "best", "training_mode": "tree_teacher_distillation"}, "of networks alone"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitSettings(task="regression", **settings)  # type: ignore[arg-type]
