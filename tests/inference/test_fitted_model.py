"""A fitted model goes into a file and comes back the same, or is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ai.ml.frameworks.pytorch.models import build_model
from tabwright.calibration.decisions import DecisionRule
from tabwright.errors import ArtifactError
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel, load_fitted
from tabwright.inference.network_spec import NetworkSpec
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import prediction_frame, score_rows
from tabwright.inference.target_scale import TargetScale
from tabwright.settings import TRAINING_MODES, FitSettings, Task, modes_for
from tabwright.tables.labelled import LabelledRows

N_ROWS = 120


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("mode", TRAINING_MODES)
def test_the_shapes_worked_out_without_torch_are_those_of_the_live_model(
    mode: str, depth: int, dropout: float
) -> None:
    model = build_model(5, 3, mode, 7, depth, dropout)  # type: ignore[arg-type]
    architecture = NetworkSpec.of(model, input_dim=5, output_dim=3)
    live = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert architecture.tensor_shapes() == live
    architecture.build().load_state_dict(model.state_dict())


def test_target_scale_survives_extreme_and_constant_targets() -> None:
    target = np.array([1e300, -1e300, 0.0, 5e299])
    scale = TargetScale.fit(target)
    unit = scale.standardise(target)
    assert np.isfinite(unit).all()
    np.testing.assert_allclose(scale.restore(unit[:, 0].astype(np.float64)), target, atol=1e294)
    constant = TargetScale.fit(np.full(4, 7.0))
    assert constant.scale == 1.0
    np.testing.assert_array_equal(constant.restore(np.array([0.0, 3.0])), [7.0, 7.0])


def test_target_scale_counts_a_weight_of_two_as_a_row_twice() -> None:
    target = np.array([1.0, 2.0, 4.0])
    weighted = TargetScale.fit(target, np.array([1.0, 1.0, 2.0]))
    repeated = TargetScale.fit(np.array([1.0, 2.0, 4.0, 4.0]))
    np.testing.assert_allclose(weighted.mean, repeated.mean)
    np.testing.assert_allclose(weighted.scale, repeated.scale)


def _frame() -> pl.DataFrame:
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=N_ROWS)
    return pl.DataFrame(
        {
            "size": [None if i % 17 == 0 else float(v) for i, v in enumerate(numbers)],
            "kind": [None if i % 13 == 0 else "abc"[i % 3] for i in range(N_ROWS)],
            "open": [bool(i % 2) for i in range(N_ROWS)],
        }
    )


def _fit(mode: str, task: Task) -> FittedModel:
    frame = _frame()
    codes = (frame["open"].to_numpy() ^ (np.arange(N_ROWS) % 3 == 0)).astype(np.int64)
    settings = FitSettings(
        task=task,
        training_mode=mode,  # type: ignore[arg-type]
        hidden_dim=8,
        num_hidden_layers=2,
        n_members=2,
        max_epochs=3,
    )
    if task == "regression":
        return fit_table(LabelledRows(frame, codes * 2.5 + 1.0), settings)
    return fit_table(LabelledRows(frame, codes), settings, classes=np.array(["no", "yes"]))


CASES = [(mode, task) for task in ("classification", "regression") for mode in modes_for(task)]


@pytest.mark.parametrize(("mode", "task"), CASES)
def test_save_load_predict_is_bit_identical(mode: str, task: Task, tmp_path: Path) -> None:
    model = _fit(mode, task)
    path = tmp_path / "model.safetensors"
    model.save(path)
    again = load_fitted(path)
    new = pl.DataFrame({"kind": ["a", "zzz", None], "size": [0.5, 1e300, None], "open": [True] * 3})
    for rows in (_frame(), new):
        if task == "regression":
            before, after = (Predictor(m).predict_values(rows) for m in (model, again))
        else:
            before, after = (Predictor(m).predict_proba(rows) for m in (model, again))
        np.testing.assert_array_equal(before, after)
        assert np.isfinite(before).all()
    assert again.settings == model.settings
    assert again.history == model.history
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_predictor_agrees_with_the_unfolded_modules() -> None:
    for mode in ("mlp_dense", "tabresnet", "linear_glm_baseline"):
        model = replace(_fit(mode, "classification"), trees=None)
        from tabwright.inference.fitted_model import member_modules

        x = torch.from_numpy(model.encoder.expand(model.encoder.transform(_frame())))
        with torch.no_grad():
            proba = torch.stack(
                [torch.softmax(module(x).double(), dim=1) for module in member_modules(model)]
            ).mean(0)
        predictor = Predictor(model)
        ours = predictor.network(model.encoder.transform(_frame()))
        np.testing.assert_allclose(ours, proba.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "rule",
    [
        DecisionRule("threshold", threshold=0.875, positive=1),
        DecisionRule("threshold", threshold=0.125, positive=0),
        DecisionRule("costs", costs=np.array([[0.0, 7.0], [1.0, 0.5]])),
    ],
)
def test_a_decision_rule_is_saved_and_followed(rule: DecisionRule, tmp_path: Path) -> None:
    model = replace(_fit("mlp_dense", "classification"), decision=rule)
    model.save(tmp_path / "model.safetensors")
    again = load_fitted(tmp_path / "model.safetensors")
    assert again.decision is not None
    assert again.decision.to_state()[0] == rule.to_state()[0]
    proba = Predictor(again).predict_proba(_frame())
    np.testing.assert_array_equal(Predictor(again).decide(proba), rule.apply(proba))
    assert again.classes is not None
    predicted = prediction_frame(Predictor(again), _frame())["prediction"].to_list()
    assert predicted == again.classes[rule.apply(proba)].tolist()
    assert predicted != again.classes[proba.argmax(axis=1)].tolist()


def test_scores_of_labels_follow_the_decision_rule() -> None:
    model = _fit("mlp_dense", "classification")
    codes = np.arange(N_ROWS) % 2
    everywhere = replace(model, decision=DecisionRule("threshold", threshold=0.0, positive=1))
    before, after = (score_rows(Predictor(m), _frame(), codes)["test"] for m in (model, everywhere))
    assert after["accuracy"] == 0.5
    assert after["balanced_accuracy"] == 0.5
    assert after["log_loss"] == before["log_loss"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d, t: d.update(extra=1), "no other keys"),
        (lambda d, t: d.pop("target"), "target"),
        (lambda d, t: d["architecture"].update(hidden_dim=9), "hidden|shape"),
        (lambda d, t: d["architecture"].update(input_dim=99), "input_dim must agree"),
        (lambda d, t: d.update(n_members=3), "missing"),
        (lambda d, t: d["settings"].update(task="regression"), "must fit the task"),
        (lambda d, t: d["settings"].update(dropout=1.5), "dropout"),
        (lambda d, t: d.pop("decision"), "decision must be given, or null"),
        (lambda d, t: d.update(decision={"kind": "costs"}), "decision.costs"),
        (
            lambda d, t: d.update(decision={"kind": "threshold", "threshold": 2, "positive": 1}),
            "threshold",
        ),
        (lambda d, t: t.update(stray=np.zeros(2)), "stray"),
        (lambda d, t: t.update(class_prior=np.array([-1.0, 2.0])), "above 0"),
        (
            lambda d, t: t.update(
                {"members.0.net.norm1.running_var": np.full(8, -1.0, dtype=np.float32)}
            ),
            "variance",
        ),
        (
            lambda d, t: t.update(
                {"members.0.net.head.bias": np.full(2, np.nan, dtype=np.float32)}
            ),
            "no NaN",
        ),
    ],
)
def test_an_edited_artifact_is_refused_with_what_and_where(edit, message: str) -> None:  # type: ignore[no-untyped-def]
    document, tensors = _fit("mlp_dense", "classification").to_artifact()
    edit(document, tensors)
    with pytest.raises(ArtifactError, match=message):
        FittedModel.from_artifact(document, tensors)


def test_a_regression_model_has_no_decision_rule() -> None:
    document, tensors = _fit("mlp_dense", "regression").to_artifact()
    document["decision"] = {"kind": "argmax"}
    with pytest.raises(ArtifactError, match="decision must be null in regression"):
        FittedModel.from_artifact(document, tensors)


@pytest.mark.parametrize(
    "classes",
    [
        np.array(["a", "b"]),
        np.array(["a", "b"], dtype=object),
        np.array([False, True]),
        np.array([-3, 8], dtype=np.int16),
        np.array([0.0, 2.0]),
    ],
)
def test_labels_come_back_in_the_dtype_they_had(classes: np.ndarray, tmp_path: Path) -> None:
    frame = _frame()
    settings = FitSettings(task="classification", hidden_dim=4, n_members=1, max_epochs=1)
    codes = np.arange(N_ROWS) % 2
    fit_table(LabelledRows(frame, codes), settings, classes=classes).save(tmp_path / "m")
    again = load_fitted(tmp_path / "m").classes
    assert again is not None
    assert again.dtype == classes.dtype
    assert again.tolist() == classes.tolist()
