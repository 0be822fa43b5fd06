"""Familiar arguments of other libraries, and what a notebook shows of a fit."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from tabwright import TabularClassifier, TabularRegressor, load_model


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("epochs", "give max_epochs"),
        ("early_stopping_rounds", "give patience"),
        ("lr", "give learning_rate"),
        ("cat_features", "give roles={'column': 'category'}"),
        ("eval_set", "give eval_set to fit"),
        ("X_val", "give eval_set=(X_val, y_val) to fit"),
        ("n_jobs", "torch.set_num_threads"),
        ("nonsense", "it has training_mode, hidden_dim"),
    ],
)
def test_parameters_of_other_libraries(name: str, hint: str) -> None:
    kind: Any = TabularClassifier
    with pytest.raises(TypeError, match="TabularClassifier has no argument") as error:
        kind(**{name: 1})
    assert hint in str(error.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("X_val", r"fit has no argument 'X_val': give eval_set=(X_val, y_val)"),
        ("sample_weights", "give sample_weight"),
        ("epochs", "give max_epochs to the estimator, when it is made"),
        ("max_epochs", "give max_epochs to the estimator, when it is made"),
        ("early_stopping_rounds", "give patience to the estimator"),
        (
            "cat_features",
            "give roles={'column': 'category'} to the estimator, when it is made; text, categories",
        ),
    ],
)
def test_arguments_of_fit(name: str, hint: str) -> None:
    model: Any = TabularRegressor()
    with pytest.raises(TypeError) as error:
        model.fit(np.zeros((3, 1)), np.zeros(3), **{name: 1})
    assert hint in str(error.value)


def test_signatures_and_clones_are_as_without_hints() -> None:
    assert list(inspect.signature(TabularClassifier).parameters)[:2] == [
        "training_mode",
        "hidden_dim",
    ]
    assert clone(TabularClassifier(max_epochs=3)).max_epochs == 3


def test_a_notebook_shows_the_fit(tmp_path: Any) -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(200, 2))
    model = TabularClassifier(
        max_epochs=1, n_members=1, hidden_dim=8, random_state=0, quality="fast"
    )
    assert "training and" not in model._repr_html_()
    model.fit(X, X[:, 0] > 0)
    model.save(tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    # A file has the scores by the alphabet, which people do not want first.
    for shown in (model._repr_html_(), loaded._repr_html_()):
        lines = re.findall(r"<tr><th[^>]*>([^<]+)</th><td[^>]*>([^<]+)</td></tr>", shown)
        facts = dict(lines[:4])
        assert facts["task"] == "classification"
        assert facts["model"] == "mlp_dense: 1 network"
        assert facts["rows"] == "160 training and 40 validation rows"
        assert facts["scores of validation rows"].startswith("log_loss ")
        assert "accuracy" in facts["scores of validation rows"]
    assert f"{model.fit_seconds_:.1f} s" in model._repr_html_()


def test_a_notebook_shows_trees_and_folds() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(200, 2))
    model = TabularClassifier(max_epochs=1, hidden_dim=8, random_state=0)
    shown = model.fit(X, X[:, 0] > 0)._repr_html_()
    assert "200 in 4 folds" in shown
    assert "scores of rows out of fold" in shown
    parts = r"mlp_dense: 4 networks \d+ %, hist_gradient_boosting \d+ %, oblivious_boosting \d+ %"
    assert re.search(f">{parts}<", shown)
