"""A fitted estimator from a model file or a fitted model."""

from __future__ import annotations

import os

from tabwright.estimators.classifier import TabularClassifier
from tabwright.estimators.regressor import TabularRegressor
from tabwright.inference.fitted_model import FittedModel, load_fitted


def load_model(path: str | os.PathLike[str]) -> TabularClassifier | TabularRegressor:
    """Read a model file and give the fitted estimator, ready to predict.

    Raises
    ------
    ArtifactError
        If the file is not a whole and valid model.
    """
    return estimator_of(load_fitted(path))


def estimator_of(model: FittedModel) -> TabularClassifier | TabularRegressor:
    """A fitted estimator around a fitted model."""
    if model.settings.task == "classification":
        return TabularClassifier.from_model(model)
    return TabularRegressor.from_model(model)
