"""A fitted estimator from a model file or a fitted model."""

from __future__ import annotations

import os
from dataclasses import fields

from tabwright.estimators.classifier import TabularClassifier
from tabwright.estimators.regressor import TabularRegressor
from tabwright.inference.fitted_model import FittedModel, load_fitted
from tabwright.settings import FitSettings

__all__ = ["estimator_of", "load_model"]


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
    kind = TabularClassifier if model.settings.task == "classification" else TabularRegressor
    # A document also names settings of before, which are no parameters to set any more.
    known = kind().get_params(deep=False).keys() & {field.name for field in fields(FitSettings)}
    values = model.settings.to_document()
    estimator: TabularClassifier | TabularRegressor = kind(
        **{name: value for name, value in values.items() if name in known}
    )
    if isinstance(estimator, TabularClassifier) and model.prior is not None:
        estimator.prior = model.prior
    estimator._remember(model)
    return estimator
