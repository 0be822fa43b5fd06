"""What rests on a model's predictions rests on networks and trees together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.row_splits import make_split
from benchmarks.tables import load_table
from tabwright import TabularClassifier, distill
from tabwright.calibration.decisions import DecisionAim
from tabwright.calibration.fit import fit_calibrator
from tabwright.explanation import effect_curves, explain
from tabwright.explanation.importance import permutation_importance
from tabwright.fitting.arguments import Aims
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.report.write import write_report
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows
from tabwright.weighted_metrics import row_log_loss
from tests.fitting.test_combination import SMALL, both_forms, fitted, score, table


def log_loss(model: FittedModel, frame: pl.DataFrame, codes: np.ndarray) -> float:
    return float(row_log_loss(codes, Predictor(model).predict_proba(frame)).mean())


@pytest.mark.parametrize("n_folds", [1, 3])
def test_intervals_cover_and_are_those_of_the_combination(n_folds: int) -> None:
    def values(frame: pl.DataFrame, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(size=len(frame))
        return score(frame) + 0.5 * noise

    frame, fresh = table(900), table(3_000, seed=7)
    settings = FitSettings(task="regression", quality="best", **{**SMALL, "n_folds": n_folds})
    model = fit_table(LabelledRows(frame, values(frame, 1)), settings)
    truth, predictor = values(fresh, 2), Predictor(model)
    for coverage in (0.5, 0.8):
        low, high = predictor.predict_interval(fresh, coverage).T
        # At least 90 residuals set the widths: their share of new rows has 0.05 of deviation.
        assert abs(((low <= truth) & (truth <= high)).mean() - coverage) < 0.12
    # The networks alone, two epochs old, are far off; their residuals would give wide intervals.
    alone = Predictor(replace(model, trees=None)).predict_values(fresh)
    assert (high - low).mean() / 2 < 0.6 * np.quantile(np.abs(truth - alone), 0.8)


def test_scores_calibration_and_decision_are_of_combined_probabilities() -> None:
    frame, held = table(500), table(300, seed=8)
    codes, truth = (score(frame) > 2.0).astype(np.int64), (score(held) > 2.0).astype(np.int64)
    # Some labels are wrong, so that calibration and threshold have something to find.
    codes = np.where(np.random.default_rng(0).random(500) < 0.15, 1 - codes, codes)
    truth = np.where(np.random.default_rng(1).random(300) < 0.15, 1 - truth, truth)
    settings = FitSettings(task="classification", quality="best", **SMALL)
    aim = DecisionAim("recall", 0.95)
    model = fit_table(
        LabelledRows(frame, codes),
        settings,
        classes=np.arange(2),
        validation=LabelledRows(held, truth),
        aims=Aims(decision=aim),
    )
    assert model.trees is not None
    assert model.metrics["validation"]["log_loss"] == pytest.approx(log_loss(model, held, truth))
    predictor = Predictor(model)
    raw = predictor.network(model.encoder.transform(held))
    again = fit_calibrator(raw, truth, kind="temperature", random_state=settings.random_state)
    assert again.calibrator is not None
    expected = again.calibrator.apply(raw)
    np.testing.assert_allclose(predictor.calibrated(raw), expected, rtol=1e-9)
    proba = predictor.predict_proba(held)
    rule = aim.fit(proba, truth, None, random_state=settings.random_state).rule
    assert model.decision is not None
    assert model.decision.threshold == pytest.approx(rule.threshold)
    found = predictor.decide(proba)
    assert (found[truth == 1] == 1).mean() >= 0.95


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_explanations_and_reports_see_the_trees(task: str, tmp_path: Path) -> None:
    model, rows = both_forms(task), table(200, seed=5)
    target = score(rows) if task == "regression" else (score(rows) > 2.0).astype(np.int64)
    networks = replace(model, trees=None)

    def importance(own: FittedModel) -> dict[str, float]:
        found = permutation_importance(Predictor(own), rows, target, n_repeats=1)
        return dict(zip(found.names, found.mean.tolist(), strict=True))

    mixed, alone = importance(model), importance(networks)
    assert set(mixed) == set(rows.columns)
    assert any(abs(mixed[name] - alone[name]) > 1e-3 for name in mixed)
    for column in ("size", "kind"):
        (curve,), (other,) = (effect_curves(own, rows, [column]) for own in (model, networks))
        assert np.abs(curve.effect - other.effect).max() > 1e-3
    labels = target if task == "regression" else target.astype(object)
    page = tmp_path / "report.html"
    write_report(fitted(task), rows, labels, page, max_seconds=1.0)
    text = page.read_text(encoding="utf-8").replace("<wbr>", "")
    assert "Networks and trees" in text
    assert "hist_gradient_boosting" in text


def test_attributions_add_up_to_the_combination() -> None:
    rows = table(20, seed=5)
    found = explain(both_forms("regression"), rows[:3], rows)
    values = Predictor(both_forms("regression")).predict_values(rows[:3])
    sums = found.base[0] + found.attributions[:, :, 0].sum(axis=1)
    np.testing.assert_allclose(sums, values, rtol=1e-6, atol=1e-6)


@pytest.mark.shared_data
def test_a_student_lies_between_a_best_model_and_itself_untaught_on_a_real_table() -> None:
    pytest.importorskip("catboost", reason="the losses are those with CatBoost's trees")
    real = load_table("ai4i_maintenance")
    split = make_split(real, 0).capped(3_000)
    rows, asked = real.features[split.train], real.features[split.test]
    codes, truth = real.target[split.train], real.target[split.test]
    best = TabularClassifier(quality="best", n_folds=1, random_state=0).fit(rows, codes)
    student = distill(best, rows, codes, random_state=0)
    assert student.model_.trees is None
    spec = student.model_.architecture
    direct = TabularClassifier(
        quality="fast",
        hidden_dim=spec.hidden_dim,
        num_hidden_layers=spec.num_hidden_layers,
        n_members=len(student.members_),
        random_state=0,
    ).fit(rows, codes)
    of_best, of_student, of_direct = (
        log_loss(own.model_, asked, truth) for own in (best, student, direct)
    )
    assert of_best < of_student < of_direct
    assert of_direct - of_student > 0.25 * (of_direct - of_best)
