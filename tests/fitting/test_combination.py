"""Trees beside networks: what `quality="best"` fits, stores, predicts and exports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright import TabularClassifier, TabularRegressor, distill, load_model
from tabwright.artifact.container import pack, unpack
from tabwright.cli.app import app
from tabwright.distillation.tree_arrays import ensemble_of
from tabwright.distillation.trees.learners import tree_learner
from tabwright.distillation.trees.problem import FittedTrees, Learner, Problem, TeacherKind
from tabwright.encoding.interactions import INTERACTION_KINDS, Interaction
from tabwright.errors import ArtifactError
from tabwright.fitting import combination
from tabwright.fitting.arguments import Aims, Columns, FitCallbacks
from tabwright.fitting.combination import combination_weights, greedy_weights
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.tree_ensemble import ObliviousTrees, TreeEnsemble
from tabwright.inference.tree_mix import (
    TreeMix,
    combination_notes,
    combination_table,
    tree_features,
)
from tabwright.report.fit_sections import model_section
from tabwright.settings import FitSettings
from tabwright.tables import Role
from tabwright.tables.labelled import LabelledRows

# One set of rows validates: folds would fit everything nine times.
SMALL: dict[str, Any] = {
    "hidden_dim": 8,
    "num_hidden_layers": 1,
    "n_members": 1,
    "max_epochs": 2,
    "n_folds": 1,
}


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
INTERACTIONS = tuple(Interaction(kind, 0, 1) for kind in INTERACTION_KINDS)


@cache
def both_forms(task: str) -> FittedModel:
    """A model with trees of nodes, from scikit-learn, and oblivious ones, and with interactions."""
    model, frame = fitted(task), table()
    values = tree_features(model.encoder, model.encoder.transform(frame), INTERACTIONS)
    n_features, n_classes = values.shape[1], {"binary": 2, "three": 3, "regression": 0}[task]
    target = np.digitize(score(frame), [1.5, 3.0][: n_classes - 1]) if n_classes else score(frame)
    none = np.zeros(n_features, dtype=bool)
    problem = Problem(values.astype(np.float64), none, target, None, n_classes, 0, 1)
    kind: TeacherKind = "hist_gradient_boosting"
    nodes = ensemble_of(
        kind,
        tree_learner(kind).fit(problem, 10),
        n_features=n_features,
        n_classes=n_classes,
        n_rounds=10,
    )
    rng = np.random.default_rng(0)
    threshold = rng.normal(size=(7, 3)).astype(np.float32)
    threshold[0, 2] = np.inf
    oblivious = ObliviousTrees(
        kind="oblivious",
        n_features=n_features,
        baseline=rng.normal(size=len(nodes.baseline)),
        feature=rng.integers(0, n_features, (7, 3)).astype(np.int32),
        threshold=threshold,
        value=rng.normal(size=(7, 8, len(nodes.baseline))),
    )
    return replace(model, trees=TreeMix(0.25, (0.25, 0.5), (nodes, oblivious), INTERACTIONS))


def predictions(model: FittedModel, frame: pl.DataFrame) -> np.ndarray:
    predictor = Predictor(model)
    return predictor.network(model.encoder.transform(frame))


@pytest.mark.parametrize("task", TASKS)
def test_best_keeps_trees_where_they_help_and_says_so(task: str) -> None:
    model = fitted(task)
    told = model.card["combination"]
    networks, *trees = told["candidates"]
    assert model.trees is not None
    expected = ["hist_gradient_boosting", "catboost"]
    assert [own["name"] for own in trees] == expected + (
        ["oblivious_boosting"] if task == "binary" else []
    )
    kept = [own for own in trees if own["weight"]]
    assert [own["weight"] for own in kept] == list(model.trees.weights)
    assert [own["name"] for own in kept] == [own.kind for own in model.trees.ensembles]
    assert networks["weight"] + sum(model.trees.weights) == pytest.approx(1.0)
    assert networks["weight"] < 0.5
    assert told["loss"] <= min(own["loss"] for own in told["candidates"]) + 1e-12
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
    model = both_forms(task)
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


def _without_catboost(kind: TeacherKind, *, kept: bool) -> Learner:
    if kind == "catboost":
        raise ImportError("no such library")
    return tree_learner(kind, kept=kept)


def test_without_a_library_the_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combination, "tree_learner", _without_catboost)
    said: list[str] = []
    frame = table(300)
    settings = FitSettings(task="regression", quality="best", **SMALL)
    model = fit_table(
        LabelledRows(frame, score(frame)), settings, callbacks=FitCallbacks(on_message=said.append)
    )
    told = model.card["combination"]
    assert told["not_installed"] == ["catboost"]
    assert [own["name"] for own in told["candidates"]] == ["networks", "hist_gradient_boosting"]
    assert said[-2:] == combination_notes(model.card)
    assert "catboost is not installed" in said[-1]
    assert "pip install" in said[-1]


def test_trees_that_are_not_installed_are_the_reason_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(combination, "tree_learner", _without_catboost)
    frame = table(300)
    settings = FitSettings(task="regression", quality="fast", **SMALL)
    model = fit_table(LabelledRows(frame, score(frame)), settings, aims=Aims(trees="catboost"))
    assert model.trees is None
    assert model.card["combination"]["reason"] == "catboost is not installed"


class WatchedLearner:
    """A learner of which single methods are replaced."""

    def __init__(self, kind: TeacherKind, *, kept: bool) -> None:
        self.learner = tree_learner(kind, kept=kept)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.learner, name)


@pytest.mark.parametrize("n_folds", [1, 3])
def test_trees_grow_while_held_out_rows_gain(monkeypatch: pytest.MonkeyPatch, n_folds: int) -> None:
    grown: dict[str, list[int]] = {"hist_gradient_boosting": [], "oblivious_boosting": []}

    class Counted(WatchedLearner):
        def fit_in_stages(
            self, problem: Problem, values: np.ndarray, rounds: Sequence[int]
        ) -> Iterator[np.ndarray]:
            stages = self.learner.fit_in_stages(problem, values, rounds)
            for n_rounds, stage in zip(rounds, stages, strict=False):
                grown[self.learner.name].append(n_rounds)
                yield stage

    monkeypatch.setattr(combination, "tree_learner", Counted)
    frame = table(300)
    noise = np.random.default_rng(1).integers(0, 2, 300)
    settings = FitSettings(task="classification", **(SMALL | {"n_folds": n_folds}))
    model = fit_table(LabelledRows(frame, noise), settings, classes=np.arange(2))
    assert model.card["combination"]["candidates"][1]["n_rounds"] == 10
    assert grown == {
        "hist_gradient_boosting": [10] * n_folds + [20] * n_folds,
        "oblivious_boosting": [40] * n_folds + [80] * n_folds,
    }
    for own in grown.values():
        own.clear()
    fit_table(
        LabelledRows(frame, (score(frame) > 2.0).astype(np.int64)), settings, classes=np.arange(2)
    )
    assert min(max(own) for own in grown.values()) > 80


def test_two_classes_in_few_rows_have_oblivious_trees() -> None:
    settings = FitSettings(task="classification")
    assert "oblivious_boosting" in combination.tree_kinds(settings, 2, 20_000)
    fast = replace(settings, quality="fast")
    for other in ((settings, 2, 20_001), (settings, 3, 100), (fast, 2, 100)):
        assert "oblivious_boosting" not in combination.tree_kinds(*other)


@pytest.mark.parametrize("are_given", [False, True])
def test_trees_are_kept_of_all_rows_but_given_ones(
    monkeypatch: pytest.MonkeyPatch, are_given: bool
) -> None:
    fitted: list[int] = []

    class Counted(WatchedLearner):
        def fit(self, problem: Problem, n_rounds: int) -> FittedTrees:
            fitted.append(len(problem.target))
            return self.learner.fit(problem, n_rounds)

    monkeypatch.setattr(combination, "tree_learner", Counted)
    frame, more = table(200), table(50, seed=1)
    given = (more, score(more)) if are_given else None
    TabularRegressor(random_state=0, **SMALL).fit(frame, score(frame), eval_set=given)
    assert fitted[-1] == 200


@pytest.mark.parametrize("case", ["constant columns", "constant target", "few rows", "two rows"])
def test_tables_that_give_trees_nothing(case: str) -> None:
    frame = table({"two rows": 4, "few rows": 9}.get(case, 60))
    target = score(frame)
    roles: dict[str, Role] = {}
    if case == "constant columns":
        frame = frame.select(one=pl.lit(1.0) + pl.col("count") * 0)
        frame = frame.with_columns(gone=pl.lit(None, dtype=pl.Float64))
        roles = {"one": "numeric", "gone": "numeric"}
    if case == "constant target":
        target = np.full(len(frame), 3.0)
    settings = FitSettings(task="regression", quality="best", **SMALL)
    rows = LabelledRows(frame, target)
    model = fit_table(rows, settings, validation=rows, columns=Columns(roles=roles))
    told = model.card["combination"]
    if case.startswith("constant"):
        assert told["kept"] == ["networks"]
        assert combination_notes(model.card) == [
            f"no trees are combined with the networks: {told['reason']}"
        ]
    assert np.isfinite(predictions(model, frame)).all()


def test_what_was_combined_is_told_by_inspect_and_report(tmp_path: Path) -> None:
    model = fitted("binary")
    (note,) = combination_notes(model.card)
    assert note.startswith("combined on 100 validation rows, which chose the weights: networks ")
    model.save(tmp_path / "m.safetensors")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "m.safetensors")])
    assert done.exit_code == 0, done.output
    page = str(model_section(model).body).replace("<wbr>", "")
    for name, weight, loss, remark in combination_table(model.card):
        lines = [own for own in done.output.splitlines() if own.startswith(f"{name} ")]
        line = lines[-1]
        share, percent, shown = line.split()[1:4]
        assert f"{share} {percent}" == weight
        # Losses of one table have the decimals of all.
        assert float(shown) == pytest.approx(loss, abs=1e-4)
        assert " ".join(line.split()[4:]) == remark
        assert name in page
        assert remark in page
    assert combination_table({"combination": {"candidates": [1]}}) == []
    assert combination_notes({"combination": [2]}) == []


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
    arrays["trees.2.value"] = np.zeros(1)


def _depth(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.1.feature"] = arrays["trees.1.feature"][:, :2].copy()


def _leaves(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.1.value"] = arrays["trees.1.value"][:, :7].copy()


def _no_depth(arrays: dict[str, np.ndarray]) -> None:
    for name in ("feature", "threshold"):
        arrays[f"trees.1.{name}"] = arrays[f"trees.1.{name}"][:, :0].copy()


def _too_deep(arrays: dict[str, np.ndarray]) -> None:
    for name in ("feature", "threshold"):
        arrays[f"trees.1.{name}"] = np.repeat(arrays[f"trees.1.{name}"], 6, axis=1)


def _no_trees(arrays: dict[str, np.ndarray]) -> None:
    for name in ("feature", "threshold", "value"):
        arrays[f"trees.1.{name}"] = arrays[f"trees.1.{name}"][:0].copy()


def _question_beyond(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.1.feature"][0, 0] = 1_000


def _nan_threshold(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.1.threshold"][0, 0] = np.nan


def _huge(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.1.value"][0, 0, 0] = 1e301


def _wide(arrays: dict[str, np.ndarray]) -> None:
    arrays["trees.1.value"] = arrays["trees.1.value"].astype(np.float32)


@pytest.mark.parametrize(
    "change",
    [
        *(_depth, _leaves, _no_depth, _too_deep, _no_trees, _question_beyond),
        *(_nan_threshold, _huge, _wide),
        *(_loop, _beyond, _shared_child, _no_such_feature, _negative, _nan),
        *(_roots_fall, _roots_start_late, _outputs, _lacking, _more),
    ],
)
def test_arrays_that_are_no_trees_are_refused(
    change: Callable[[dict[str, np.ndarray]], None],
) -> None:
    document, arrays = both_forms("binary").to_artifact()
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
        ({"ensembles": [{"kind": "x", "form": "pairs"}]}, "one of 'nodes', 'oblivious'"),
        ({"ensembles": [{"kind": "x", "form": None}]}, "one of 'nodes', 'oblivious'"),
    ],
)
def test_documents_that_are_no_mix_are_refused(change: dict[str, object], message: str) -> None:
    document, arrays = fitted("binary").to_artifact()
    document["trees"] = {**document["trees"], **change}
    with pytest.raises(ArtifactError, match=message):
        FittedModel.from_artifact(document, arrays)


@pytest.mark.parametrize("form", ["nodes", "oblivious"])
def test_tensors_of_another_form_are_refused(form: str) -> None:
    document, arrays = both_forms("binary").to_artifact()
    ensembles = [{**own, "form": form} for own in document["trees"]["ensembles"]]
    document["trees"] = {**document["trees"], "ensembles": ensembles}
    with pytest.raises(ArtifactError, match="tensors"):
        FittedModel.from_artifact(document, arrays)


def test_a_card_that_is_no_object_is_refused() -> None:
    document, arrays = fitted("binary").to_artifact()
    with pytest.raises(ArtifactError, match="card must be an object; got 7"):
        FittedModel.from_artifact({**document, "card": 7}, arrays)


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

    report = export_onnx(both_forms(task), tmp_path / "m.onnx", check_rows=5_000)
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


def test_weights_are_drawn_to_equal_ones_unless_the_rows_speak_against_it() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=60)
    close = [target + rng.normal(size=60), target + 1.05 * rng.normal(size=60), target + 3.0]
    greedy = greedy_weights(close[:2], target, None)
    np.testing.assert_allclose(combination_weights(close[:2], target, None), (greedy + 0.5) / 2)
    # The third is wrong in every row: it gets nothing, and neither does the mean of all.
    np.testing.assert_array_equal(
        combination_weights([target, target + 3.0], target, None), [1.0, 0.0]
    )
    # Rows of no weight do not speak.
    weight = np.append(np.ones(30), np.zeros(30))
    far = np.where(weight > 0, close[0], 1e6)
    some = combination_weights([far, close[1]], target, weight)
    assert some.min() >= 0.25
    assert some.sum() == pytest.approx(1.0)


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


@pytest.mark.parametrize(
    ("shares", "shown"),
    [
        ([0.425, 0.575], [43, 57]),
        ([1 / 3] * 3, [34, 33, 33]),
        ([1.0], [100]),
        ([0.0, 1.0], [0, 100]),
    ],
)
def test_percentages_of_parts_add_up(shares: list[float], shown: list[int]) -> None:
    parts = [{"name": "part", "weight": share, "loss": 1.0} for share in shares]
    rows = combination_table({"combination": {"candidates": parts, "loss": 1.0}})
    assert [weight for _, weight, _, _ in rows] == [f"{own} %" for own in [*shown, 100]]
