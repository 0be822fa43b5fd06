"""What a model's card says of what it cannot know."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.report.limits import limits
from tests.inference.test_predictor import model, predict, table


def said(fitted: FittedModel) -> str:
    return "\n".join(limits(fitted))


def test_what_a_classifier_has_seen() -> None:
    fitted = model("mlp_dense", "classification")
    text = said(fitted)
    assert f"unlike the {fitted.card['n_training_rows']:,} rows it was fitted on" in text
    assert "knows no class but its 3" in text
    assert "it knows of kind (4)." in text
    # `size` and `kind` had gaps.
    assert "no missing cell in 'count', 'when', 'open'." in text
    assert "no scores of test rows" in text
    assert "no cause" in text


def test_a_model_with_test_scores_is_not_said_to_lack_them() -> None:
    fitted = model("mlp_dense", "classification")
    scored = replace(fitted, metrics={**fitted.metrics, "test": {"accuracy": 0.5}})
    assert "no scores of test rows" not in said(scored)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_dates_are_those_of_the_training_rows(task: str) -> None:
    fitted = model("mlp_dense", task)
    line = next(line for line in limits(fitted) if line.startswith("Of 'when' it has seen"))
    start, end = line.removesuffix(".").split(" ")[-3::2]
    days = table(260)["when"].dt.date()
    # A part of the table was set aside for validation.
    assert str(days.min()) <= start <= str(days.quantile(0.1))
    assert str(days.quantile(0.9)) <= end <= str(days.max())


def test_values_of_a_regression_stay_within_those_of_training() -> None:
    assert "within those of training, -3 to 17." in said(model("mlp_dense", "regression"))


def test_numbers_further_out_count_as_said() -> None:
    fitted = model("mlp_dense", "classification")
    assert any(line.startswith("Numbers further past the range") for line in limits(fitted))
    counts = table(260)["count"].to_numpy()
    span = int(counts.max() - counts.min())
    far, farther = (
        table(5, seed=1).with_columns(count=pl.lit(int(counts.max()) + n * span)) for n in (1, 50)
    )
    predictor = Predictor(fitted)
    np.testing.assert_allclose(predict(predictor, far), predict(predictor, farther), atol=1e-12)
