"""One ONNX graph says what the model says: raw columns in, predictions out, nothing of ours."""

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from tabwright.calibration.calibrator import Calibrator, CalibratorKind
from tabwright.calibration.decisions import DecisionRule
from tabwright.cli.app import app
from tabwright.errors import ParityError, install_command
from tabwright.estimators.classifier import TabularClassifier
from tabwright.estimators.regressor import TabularRegressor
from tabwright.export import parity as onnx_parity
from tabwright.export.encoder import add_encoder, add_expanded
from tabwright.export.graph import Graph
from tabwright.export.inputs import MISSING_INTEGER, graph_inputs
from tabwright.export.onnx import build_onnx, export_onnx, onnx_feed
from tabwright.export.parity import ParityReport, check_parity, probe_rows
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel, member_modules
from tabwright.inference.predictor import Predictor
from tabwright.inference.target_scale import TargetScale
from tabwright.settings import FitSettings, NumericEncoding, Task, modes_for
from tabwright.tables.labelled import LabelledRows

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

TASKS: tuple[Task, ...] = ("classification", "regression")
CASES = [(mode, task) for task in TASKS for mode in modes_for(task)]
CLASSES = np.array(["high", "low", "mid"])


def table(n_rows: int = 240, seed: int = 0) -> pl.DataFrame:
    """Every kind of column, with gaps, steep bins, rare levels and names that clash."""
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n_rows) ** 3
    size[rng.random(n_rows) < 0.1] = np.nan
    start = np.datetime64("1968-02-20T00:00:00", "us")
    hours = rng.integers(0, 400_000, (2, n_rows))
    when = pl.Series(start + hours[0] * np.timedelta64(3_600_000_000, "us"))
    kinds = ["red", "green", "blue", "größe", "1", "true", "2020-01-01", None]
    return pl.DataFrame(
        {
            "size": pl.Series(size).fill_nan(None),
            "label": rng.integers(0, 50, n_rows),
            "": np.where(rng.random(n_rows) < 0.6, 0.0, rng.normal(size=n_rows)),
            "steep": rng.choice([1.0, 1.0 + 1e-9, 5.0, 5.0 + 1e-9], n_rows),
            "key": 2**60 + rng.integers(0, 2**20, n_rows),
            "wide": np.uint64(2**63) + rng.integers(0, 2**62, n_rows).astype(np.uint64),
            "kind [of thing]": pl.Series([kinds[k] for k in rng.integers(0, 8, n_rows)]),
            "many": [f"level {k}" if k else None for k in rng.integers(0, 90, n_rows)],
            "_constant_0": rng.random(n_rows) < 0.5,
            "open": [None if k == 0 else k == 1 for k in rng.integers(0, 3, n_rows)],
            "when": when.set(when.dt.day() == 3, None),
            "day": (start + hours[1] * np.timedelta64(3_600_000_000, "us")).astype("datetime64[D]"),
        }
    )


def codes(frame: pl.DataFrame) -> np.ndarray:
    red = (frame["kind [of thing]"] == "red").fill_null(False).to_numpy()
    score = frame["size"].fill_null(0.5).to_numpy() + 2 * red + frame["label"].to_numpy() / 25
    result: np.ndarray = (score > 0.8).astype(np.int64) + (score > 1.8)
    return result


@cache
def model(
    mode: str = "mlp_dense",
    task: Task = "classification",
    encoding: NumericEncoding = "auto",
    n_members: int = 2,
) -> FittedModel:
    frame = table()
    settings = FitSettings(
        task=task,
        training_mode=mode,  # type: ignore[arg-type]
        numeric_encoding=encoding,
        hidden_dim=16,
        num_hidden_layers=2,
        n_members=n_members,
        max_epochs=3,
        random_state=0,
    )
    if task == "regression":
        return fit_table(LabelledRows(frame, codes(frame) * 10.0 - 3.0), settings)
    return fit_table(LabelledRows(frame, codes(frame)), settings, classes=CLASSES)


@cache
def binary() -> FittedModel:
    frame = table()
    settings = FitSettings(
        task="classification", hidden_dim=8, num_hidden_layers=1, n_members=1, max_epochs=2
    )
    return fit_table(
        LabelledRows(frame, (codes(frame) > 0).astype(np.int64)),
        settings,
        classes=np.array([False, True]),
    )


def run(data: bytes, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    result: list[np.ndarray] = session.run(None, feed)
    return result


def parity(fitted: FittedModel, path: Path, rows: int = 12_000) -> ParityReport:
    report = export_onnx(fitted, path, check_rows=rows)
    assert report.rows >= rows
    assert report.passed
    return report


# ---------------------------------------------------------------------------------------------
# Parity
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "task"), CASES)
def test_every_mode_agrees_with_the_model(mode: str, task: Task, tmp_path: Path) -> None:
    report = parity(model(mode, task), tmp_path / "model.onnx")
    assert report.label_disagreements == 0
    assert report.rounding_rows == 0
    assert report.max_difference < 1e-5


@pytest.mark.parametrize("encoding", get_args(NumericEncoding))
def test_encoder_gives_the_same_inputs(encoding: NumericEncoding) -> None:
    encoder = model(encoding=encoding).encoder
    inputs = graph_inputs(encoder.plan_)
    graph = Graph([column.name for column in inputs])
    encoded = add_encoder(graph, encoder.plan_, inputs)
    expanded = add_expanded(graph, encoder.plan_, encoded)
    graph.output("inputs", expanded, "float32", encoder.input_dim)
    data = graph.to_bytes(name="encoder", version="0", doc="", metadata={})
    probes = probe_rows(encoder.plan_, inputs, 30_000)
    expected = encoder.expand(encoder.transform(probes.frame))
    assert np.isnan(probes.feed["size"].astype(float)).any()
    # Bit for bit, but for the last bit of quantile maps, whose last knot has an interval of its
    # own here, and of square roots.
    np.testing.assert_allclose(run(data, probes.feed)[0], expected, rtol=2.5e-7, atol=0)


@pytest.mark.parametrize("encoding", get_args(NumericEncoding))
def test_every_encoding_agrees_with_the_model(encoding: NumericEncoding, tmp_path: Path) -> None:
    parity(model(encoding=encoding), tmp_path / "model.onnx")


CALIBRATORS: dict[CalibratorKind, dict[str, Sequence[float]]] = {
    "identity": {},
    "temperature": {"inverse_temperature": [2.5]},
    "vector": {
        "inverse_temperature": [0.7],
        "uniform": [0.01],
        "bias": [0.1, -0.2, 0.3],
        "weight": [0.5, 2.0, 1.1],
    },
    "structured": {
        "inverse_temperature": [1.3],
        "uniform": [0.01],
        "bias": [0.1, -0.2, 0.3],
        "weight": [1.0, 0.2, -0.1, 0.3, 0.8, 0.0, -0.2, 0.1, 1.2],
    },
    "isotonic": {
        "inputs": [0.1, 0.3, 0.9, 0.3, 0.2, 0.4, 0.6, 0.61, 0.8],
        "outputs": [0.05, 0.3, 0.95, 0.4, 0.1, 0.3, 0.4, 0.7, 0.9],
        "lengths": [3.0, 1.0, 5.0],
    },
}


def calibrator(kind: CalibratorKind, **arrays: Sequence[float]) -> Calibrator:
    values = {name: np.array(array) for name, array in arrays.items()}
    if kind == "structured":
        values["weight"] = values["weight"].reshape(3, 3)
    return Calibrator(kind, values)


@pytest.mark.parametrize("kind", CALIBRATORS)
def test_every_calibrator_agrees_with_the_model(kind: CalibratorKind, tmp_path: Path) -> None:
    calibrated = replace(model(), calibrator=calibrator(kind, **CALIBRATORS[kind]))
    plain = replace(model(), calibrator=None)
    report = parity(calibrated, tmp_path / "model.onnx")
    assert report.rounding_rows == 0
    feed = onnx_feed(plain, table())
    same = np.array_equal(run(build_onnx(plain), feed)[1], run(build_onnx(calibrated), feed)[1])
    assert same == (kind == "identity")


@pytest.mark.parametrize("kind", ["logistic", "isotonic"])
def test_calibrators_of_two_classes_agree_with_the_model(
    kind: CalibratorKind, tmp_path: Path
) -> None:
    arrays: dict[str, Sequence[float]] = {"coefficients": [1.7, -0.4]}
    if kind == "isotonic":
        arrays = {"inputs": [0.2, 0.5, 0.7], "outputs": [0.1, 0.2, 0.9], "lengths": [3.0]}
    calibrated = replace(binary(), calibrator=calibrator(kind, **arrays))
    parity(calibrated, tmp_path / "model.onnx")
    labels, proba = run(build_onnx(calibrated), onnx_feed(calibrated, table()))
    assert labels.dtype == np.bool_
    np.testing.assert_array_equal(labels, proba.argmax(axis=1) == 1)


def test_noise_at_jumps_of_an_isotonic_calibrator_is_told_apart_from_faults() -> None:
    fitted = replace(model(), calibrator=None)
    frame = table()
    network = Predictor(fitted).network(fitted.encoder.transform(frame))
    jumps = np.repeat(np.unique(network[:, 0])[20:60], 2)
    jumps[1::2] = np.nextafter(jumps[1::2], 1.0)
    arrays = {
        "inputs": [*jumps, 0.5, 0.5],
        "outputs": [*np.linspace(0.01, 0.99, len(jumps)), 0.3, 0.3],
        "lengths": [float(len(jumps)), 1.0, 1.0],
    }
    steep = Predictor(replace(fitted, calibrator=calibrator("isotonic", **arrays)))
    assert steep.model.classes is not None

    def compare(proba: np.ndarray) -> tuple[float, int]:
        labels = CLASSES[proba.argmax(axis=1)]
        difference, wrong, _, rounding = onnx_parity._class_differences(steep, frame, labels, proba)
        assert wrong == 0 or not rounding.all()
        return float(difference.max()), int(rounding.sum())

    # A change in the last bit moves rows across a jump.
    far, explained = compare(steep.calibrated(network + 1e-7))
    assert far > 1e-3
    assert explained >= 20
    # Other columns in place: a few rows are alike in all three.
    far, explained = compare(np.roll(steep.calibrated(network), 1, axis=1))
    assert far > 1e-3
    assert explained <= 3


def test_large_logits_may_differ_as_far_as_float32_does() -> None:
    fitted = replace(model("linear_glm_baseline", n_members=1), calibrator=None)
    (state,) = fitted.members
    frame = table()
    # A constant 300 in every logit changes no probability, but takes 8 bits of each.
    shifted = {**state, "linear.bias": state["linear.bias"] + np.float32(300.0)}
    exact, rough = Predictor(fitted), Predictor(replace(fitted, members=(shifted,)))
    proba = exact.predict_proba(frame)
    labels = CLASSES[proba.argmax(axis=1)]
    difference, _, _, rounding = onnx_parity._class_differences(rough, frame, labels, proba)
    assert (difference[~rounding] <= 1e-5).all()
    assert difference.max() < 1e-4
    wrong = proba + np.array([1e-3, -1e-3, 0.0])
    _, _, _, rounding = onnx_parity._class_differences(rough, frame, labels, wrong)
    assert not rounding.any()
    # Where logits are small, nothing but 1e-5 is allowed.
    wrong = proba + np.array([1.6e-5, -1.6e-5, 0.0])
    _, _, _, rounding = onnx_parity._class_differences(exact, frame, labels, wrong)
    assert not rounding.any()


def test_values_may_differ_as_far_as_sums_cancel_in_float32() -> None:
    fitted = model("linear_glm_baseline", "regression", n_members=1)
    (state,) = fitted.members
    frame = table().head(1)
    row = fitted.encoder.expand(fitted.encoder.transform(frame))[0]
    i, j = np.argsort(-np.abs(row))[:2]
    weight = state["linear.weight"].copy()
    weight[0, [i, j]] += np.float32(1e4) * row[[j, i]] * np.array([1.0, -1.0], dtype=np.float32)
    rough = replace(fitted, members=({**state, "linear.weight": weight},))
    for own, error, explained in ((rough, 3e-5, True), (rough, 0.1, False), (fitted, 3e-5, False)):
        assert own.target is not None
        target = replace(own.target, low=-1e6, high=1e6)
        wide = replace(own, target=target, intervals=None, residual_scale=None)
        predictor = Predictor(wide)
        found = predictor.predict_values(frame) + error * own.target.scale
        _, rounding = onnx_parity._value_differences(predictor, frame, [found])
        assert rounding.tolist() == [explained]


@pytest.mark.parametrize(
    "rule",
    [
        DecisionRule("threshold", threshold=0.3, positive=1),
        DecisionRule("threshold", threshold=0.7, positive=0),
        DecisionRule("costs", costs=np.array([[0.0, 9.0], [1.0, -0.5]])),
    ],
)
def test_decision_rules_are_in_the_graph(rule: DecisionRule, tmp_path: Path) -> None:
    followed = replace(binary(), decision=rule)
    report = export_onnx(followed, tmp_path / "m.onnx", check_rows=300)
    assert report.label_disagreements == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    frame = table(100, seed=3)
    labels, proba = session.run(None, onnx_feed(followed, frame))
    assert followed.classes is not None
    assert labels.tolist() == followed.classes[rule.apply(proba)].tolist()
    # The check notices a graph that does not follow the rule.
    argmax = build_onnx(binary())
    plan = followed.encoder.plan_
    probes = probe_rows(plan, graph_inputs(plan), 300)
    unlike = check_parity(argmax, ("label_", "probabilities"), Predictor(followed), probes)
    assert unlike.label_disagreements > 0


def test_costs_of_three_classes_are_in_the_graph(tmp_path: Path) -> None:
    rule = DecisionRule("costs", costs=np.array([[0.0, 1, 2], [5, 0, 1], [1, 1, 0]]))
    followed = replace(model(), decision=rule)
    assert export_onnx(followed, tmp_path / "m.onnx", check_rows=300).passed


def test_prior_of_imbalance_aware_is_in_the_graph() -> None:
    # Networks alone: trees are so sure that a prior moves them little.
    fitted = replace(model("imbalance_aware"), trees=None)
    other = replace(fitted, prior=np.array([0.8, 0.1, 0.1]))
    feed = onnx_feed(fitted, table())
    assert (
        run(build_onnx(other), feed)[1][:, 0].mean()
        > run(build_onnx(fitted), feed)[1][:, 0].mean() + 0.1
    )
    np.testing.assert_allclose(
        run(build_onnx(other), feed)[1], Predictor(other).predict_proba(table()), atol=1e-6
    )


def test_regression_is_clamped_to_the_range_of_training() -> None:
    fitted = model("linear_glm_baseline", "regression")
    assert fitted.target is not None
    narrow = replace(fitted, target=replace(fitted.target, low=4.0, high=9.0, mean=5.0))
    found = run(build_onnx(narrow), onnx_feed(narrow, table()))[0]
    assert found.dtype == np.float64
    assert (found.min(), found.max()) == (4.0, 9.0)
    np.testing.assert_allclose(found, Predictor(narrow).predict_values(table()), atol=1e-5)


def test_networks_that_overflow_float32_are_computed_in_float64() -> None:
    fitted = model("linear_glm_baseline", "regression", n_members=1)
    (state,) = fitted.members
    # Every weight near the end of float32: sums of them are past it.
    huge = {name: np.sign(value) * np.float32(3e38) for name, value in state.items()}
    wide = replace(fitted, members=(huge,), target=TargetScale(0.0, 1e-38, -1e9, 1e9))
    expected = Predictor(wide).predict_values(table())
    assert np.isfinite(expected).all()
    found = run(build_onnx(wide), onnx_feed(wide, table()))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------------------
# The check itself
# ---------------------------------------------------------------------------------------------


def test_graph_that_differs_is_refused_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(model(), calibrator=calibrator("temperature", inverse_temperature=[1.001]))
    told = build_onnx(other)
    monkeypatch.setattr("tabwright.export.onnx.build_onnx", lambda _: told)
    path = tmp_path / "model.onnx"
    with pytest.raises(ParityError, match=r"must say what the model says.*nothing was written"):
        export_onnx(replace(model(), calibrator=None), path, check_rows=500)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"old")
    with pytest.raises(ParityError):
        export_onnx(replace(model(), calibrator=None), path, check_rows=500)
    assert path.read_bytes() == b"old"


def test_other_labels_and_nan_do_not_pass() -> None:
    fitted = replace(model(), calibrator=None)
    plan = fitted.encoder.plan_
    probes = probe_rows(plan, graph_inputs(plan), 500)
    names = ("label_", "probabilities")
    relabelled = replace(fitted, classes=np.array(["a", "b", "c"]))
    report = check_parity(build_onnx(relabelled), names, Predictor(fitted), probes)
    assert report.label_disagreements + report.close_calls >= report.rows
    assert not report.passed
    broken = tuple(
        {k: np.full_like(v, np.nan) if k == "net.head.bias" else v for k, v in state.items()}
        for state in fitted.members
    )
    report = check_parity(
        build_onnx(replace(fitted, members=broken)), names, Predictor(fitted), probes
    )
    assert report.max_difference == np.inf


def test_probes_hold_what_is_easily_got_wrong() -> None:
    plan = model().encoder.plan_
    probes = probe_rows(plan, graph_inputs(plan), 500)
    frame, feed = probes.frame, probes.feed
    assert len(frame) == len(feed["size"]) >= 500
    column = plan.names.index("size")
    edges = plan.numbers.edges[slice(*plan.numbers.edge_offsets[column : column + 2])]
    raw = edges.astype(np.float64) / plan.numbers.scale[column] + plan.numbers.centre[column]
    sizes = set(frame["size"].to_list())
    for edge in raw.tolist():
        assert {edge, np.nextafter(edge, np.inf), np.nextafter(edge, -np.inf)} <= sizes
    assert {None, np.inf, -np.inf, 0.0} <= sizes
    texts = set(feed["many"].ravel().tolist())
    many = plan.categories[1]
    assert len(many.levels) > many.n_inputs
    assert {*many.levels, "never seen", "", "NA", f" {many.levels[0]}"} <= texts
    assert {None, True, False} == set(frame["open"].to_list())
    assert {MISSING_INTEGER, 2**63 - 1, MISSING_INTEGER + 1} <= set(feed["when"].ravel().tolist())
    assert frame["key"].dtype == pl.Int64


def test_check_rows_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="check_rows must be at least 1; got 0"):
        export_onnx(model(), tmp_path / "model.onnx", check_rows=0)


def test_unwritable_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="create it first"):
        export_onnx(model(), tmp_path / "absent" / "model.onnx", check_rows=1)


# ---------------------------------------------------------------------------------------------
# The file
# ---------------------------------------------------------------------------------------------


def test_file_is_plain_onnx_and_the_same_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    parity(model(), first, 100)
    again = FittedModel.from_artifact(*model().to_artifact())
    parity(again, second, 100)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.onnx", "second.onnx"]
    graph = onnx.load(first, load_external_data=False)
    onnx.checker.check_model(graph, full_check=True)
    assert {(entry.domain, entry.version) for entry in graph.opset_import} == {
        ("", 17),
        ("ai.onnx.ml", 3),
    }
    assert {node.domain for node in graph.graph.node} == {"", "ai.onnx.ml"}
    assert not any(tensor.external_data for tensor in graph.graph.initializer)
    (entry,) = graph.metadata_props
    described = json.loads(entry.value)
    assert described["classes"] == CLASSES.tolist()
    assert [column["name"] for column in described["inputs"]] == [i.name for i in graph.graph.input]


def test_inputs_and_outputs_are_named_and_typed() -> None:
    inputs = {column.column: column for column in graph_inputs(model().encoder.plan_)}
    assert {name: (own.name, own.dtype) for name, own in inputs.items()} == {
        "size": ("size", "float64"),
        "label": ("label", "float64"),
        "": ("column_2", "float64"),
        "steep": ("steep", "float64"),
        "key": ("key", "int64"),
        "wide": ("wide", "float64"),
        "kind [of thing]": ("kind [of thing]", "string"),
        "many": ("many", "string"),
        "_constant_0": ("_constant_0", "float64"),
        "open": ("open", "float64"),
        "when": ("when", "int64"),
        "day": ("day", "int64"),
    }
    session = onnxruntime.InferenceSession(build_onnx(model()))
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        ("label_", "tensor(string)", ["rows"]),
        ("probabilities", "tensor(double)", ["rows", 3]),
    ]
    assert {i.name: i.shape for i in session.get_inputs()}["size"] == ["rows", 1]


@pytest.mark.parametrize("n_rows", [0, 1, 3])
def test_any_number_of_rows(n_rows: int) -> None:
    for fitted in (model(), model("tabresnet", "regression"), model("linear_glm_baseline")):
        frame = table().head(n_rows)
        outputs = run(build_onnx(fitted), onnx_feed(fitted, frame))
        found = outputs[-1 if fitted.classes is not None else 0]
        assert len(found) == n_rows
        if n_rows:
            predictor = Predictor(fitted)
            expected = (
                predictor.predict_values(frame)
                if fitted.classes is None
                else predictor.predict_proba(frame)
            )
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "classes",
    [
        np.array([3, 5, 9]),
        np.array([3, 5, 2**63 + 9], dtype=np.uint64),
        np.array([-1, 0, 4], dtype=np.int8),
        np.array([0.0, 1.0, 7.0]),
        np.array(["a", "größer", "z"], dtype=object),
    ],
    ids=lambda classes: classes.dtype.name,
)
def test_labels_keep_their_type(classes: np.ndarray) -> None:
    labels, proba = run(build_onnx(replace(model(), classes=classes)), onnx_feed(model(), table()))
    assert labels.dtype == classes.dtype
    np.testing.assert_array_equal(labels, classes[proba.argmax(axis=1)])


def test_tables_become_feeds_as_the_encoder_reads_them() -> None:
    fitted, frame = model(), table(60, seed=3)
    texts = frame.with_columns(
        pl.col("size").cast(pl.String).fill_null("n/a"),
        pl.col("key").cast(pl.String),
        pl.col("open").cast(pl.String).str.to_uppercase().fill_null("?"),
        pl.col("kind [of thing]").replace(
            {"1": "  1.00", "true": "TruE", "2020-01-01": "2020/01/01"}
        ),
        pl.col("day").cast(pl.String),
    ).select(reversed(frame.columns))
    expected = Predictor(fitted).predict_proba(frame)
    for form in (frame, texts):
        found = run(build_onnx(fitted), onnx_feed(fitted, form))[1]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_array_models_and_decimals_export(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    X[:, 1] = 7.0  # set aside, and so no input
    estimator = TabularRegressor(max_epochs=2, n_members=1, hidden_dim=8, random_state=0)
    path = tmp_path / "array.onnx"
    assert estimator.fit(X, X[:, 0]).export_onnx(path, check_rows=2_000).passed
    found = run(path.read_bytes(), {"x0": X[:, :1], "x2": X[:, 2:]})[0]
    np.testing.assert_allclose(found, estimator.predict(X), atol=1e-5)
    digits = pl.Series(
        [Decimal(10**17 + int(k)).scaleb(-2) for k in rng.integers(0, 10**6, 80)],
        dtype=pl.Decimal(30, 2),
    )
    frame = pl.DataFrame({"digits": digits, "x": X[:, 0]})
    assert estimator.fit(frame, X[:, 0]).export_onnx(path, check_rows=2_000).passed


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_extra_names_its_install_line(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    rule = rf"{package}, which .*{re.escape(install_command('onnx'))}"
    with pytest.raises(ImportError, match=rule):
        export_onnx(model(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_command_line_exports(tmp_path: Path) -> None:
    saved, path = tmp_path / "model.safetensors", tmp_path / "model.onnx"
    model().save(saved)
    words = ["export", str(saved), str(path), "--check-rows", "500"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "kind [of thing]" in done.output
    # What to pass is said once for all columns of a type.
    assert "2 string inputs: text, with at most one space" in done.output
    assert done.output.count("text, with") == 1
    assert "0 other labels" in " ".join(done.output.split())
    assert path.read_bytes() == build_onnx(model())
    report = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert report["parity"]["rows"] >= 500
    assert report["inputs"][0]["name"] == "size"


ALONE = """
    import importlib, json, sys
    import numpy as np
    import onnxruntime

    for name in ("torch", "ai", "polars", "onnx", "sklearn"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        raise SystemExit(f"{name} can be imported")
    session = onnxruntime.InferenceSession(sys.argv[1])
    feed = dict(np.load(sys.argv[2]))
    feed = {name: cells.astype(object) if cells.dtype.kind == "U" else cells
            for name, cells in feed.items()}
    label, proba = session.run(None, feed)
    print(json.dumps([label.tolist(), proba.tolist()]))
"""


def test_runs_with_nothing_of_ours_installed(tmp_path: Path) -> None:
    """A bare interpreter that sees NumPy, ONNX Runtime and the standard library."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for module in (np, onnxruntime):
        folder = Path(str(module.__file__)).parent
        for own in (folder, folder.with_name(f"{folder.name}.libs")):
            if own.is_dir():
                (packages / own.name).symlink_to(own)
    path, rows = tmp_path / "model.onnx", tmp_path / "rows.npz"
    parity(model(), path, 100)
    feed: dict[str, Any] = {
        name: cells.astype(str) if cells.dtype == object else cells
        for name, cells in onnx_feed(model(), table()).items()
    }
    np.savez(rows, **feed)
    code = f"import sys; sys.path.append({str(packages)!r})\n{textwrap.dedent(ALONE)}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(path), str(rows)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    label, proba = json.loads(done.stdout.splitlines()[-1])
    expected = Predictor(model()).predict_proba(table())
    np.testing.assert_allclose(proba, expected, rtol=0, atol=1e-5)
    assert label == CLASSES[expected.argmax(axis=1)].tolist()


@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet", "linear_glm_baseline"])
def test_members_pass_through_torch_export(mode: str) -> None:
    (module, *_) = member_modules(model(mode))
    encoder = model(mode).encoder
    x = torch.from_numpy(encoder.expand(encoder.transform(table())))
    rows = torch.export.Dim("rows", min=1, max=2**20)
    program = torch.export.export(module, (x[:7],), dynamic_shapes=({0: rows},))
    torch.testing.assert_close(program.module()(x), module(x))


# ---------------------------------------------------------------------------------------------
# Real tables
# ---------------------------------------------------------------------------------------------


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "target", "task"),
    [("adult", "class", "classification"), ("ames_housing", "price", "regression")],
)
def test_real_tables_from_raw_rows(
    name: str, target: str, task: Task, data_dir: Path, tmp_path: Path
) -> None:
    frame = pl.read_parquet(data_dir / f"{name}.parquet")
    X, y = frame.drop(target), frame[target]
    kind = TabularClassifier if task == "classification" else TabularRegressor
    estimator = kind(max_epochs=3, n_members=2, hidden_dim=64, random_state=0)
    estimator.fit(X.head(2_500), y.head(2_500))
    path = tmp_path / f"{name}.onnx"
    report = estimator.export_onnx(path)
    assert report.rows >= 100_000
    assert report.max_difference <= 1e-5
    assert report.label_disagreements == 0
    session = onnxruntime.InferenceSession(path)
    kinds = {"tensor(string)": (pl.String, ""), "tensor(double)": (pl.Float64, np.nan)}
    rows = X.tail(5_000)
    feed = {}
    for column in session.get_inputs():
        dtype, missing = kinds[column.type]
        cells = rows[column.name].cast(dtype).fill_null(missing)
        feed[column.name] = cells.to_numpy().reshape(-1, 1)
    found = session.run(None, feed)
    if isinstance(estimator, TabularRegressor):
        np.testing.assert_allclose(found[0], estimator.predict(rows), rtol=1e-5)
        return
    np.testing.assert_allclose(found[1], estimator.predict_proba(rows), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found[0], estimator.predict(rows))
