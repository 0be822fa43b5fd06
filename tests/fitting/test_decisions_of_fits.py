"""The decision rule that a fit stores, and the scores by it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import recall_score

from tabwright import TabularClassifier
from tabwright.calibration.decisions import DecisionAim
from tabwright.fitting.finishing import with_decision
from tabwright.tables.labelled import LabelledRows


@pytest.mark.parametrize("accepted", [True, False])
def test_validation_scores_are_of_the_positive_class_of_the_aim(accepted: bool) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=200)
    y = (x + draw.normal(size=200) > 0.5).astype(np.int64)
    fit = TabularClassifier(max_epochs=1, n_members=1, hidden_dim=8, quality="fast", n_folds=1)
    frame = pl.DataFrame({"x": x})
    fitted = fit.fit(frame, y).model_
    # A wanted recall is taken as given; labels that are right need no threshold.
    aim = DecisionAim("recall", 0.8, positive=0) if accepted else DecisionAim("f1", positive=0)
    p = fit.predict_proba(frame) if accepted else 0.1 + 0.8 * np.eye(2)[y]
    y = y if accepted else np.where(np.arange(200) == 0, 1 - y, y)
    decided = with_decision(fitted, p, LabelledRows(frame, y), aim)
    assert decided.decision is not None
    assert decided.decision.kind == ("threshold" if accepted else "argmax")
    expected = recall_score(y, decided.decision.apply(p), pos_label=0)
    assert decided.metrics["validation"]["recall"] == pytest.approx(expected)
    # Of the last class, it is another number.
    assert recall_score(y, decided.decision.apply(p)) != pytest.approx(expected)
    last = with_decision(fitted, p, LabelledRows(frame, y), DecisionAim("f1"))
    assert last.decision is None or last.decision.positive == 1
