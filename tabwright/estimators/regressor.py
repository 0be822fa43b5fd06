"""`TabularRegressor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from sklearn.base import RegressorMixin

from ai.ml.frameworks.pytorch.models import TrainingMode
from tabwright.errors import warn_caller
from tabwright.estimators.argument_hints import with_hints
from tabwright.estimators.base import TabularEstimator
from tabwright.regression import DEFAULT_LEVELS, RegressionObjective
from tabwright.settings import (
    AugmentationChoice,
    Device,
    IntervalWidth,
    NumericEncoding,
    Precision,
    Quality,
    Task,
)
from tabwright.tables import Role, regression_target
from tabwright.tables.spellings.moments import note_on_target
from tabwright.tables.targets import format_of_target


class TabularRegressor(RegressorMixin, TabularEstimator):  # type: ignore[misc]
    """A neural network regressor for tables.

    Parameters and attributes are those of `TabularClassifier`, less what only a classifier has
    (`class_weight`, `prior`, `calibration`, `teacher_temperature`, `classes_`), and these.

    Parameters
    ----------
    objective : {"squared_error", "absolute_error", "quantile", "poisson", "gamma"}
        What is fitted: the mean by squared error, the median by absolute error, several quantiles
        by pinball loss (Koenker and Bassett, "Regression Quantiles", 1978), or by the deviance
        the mean of counts ("poisson", targets of at least 0) or amounts ("gamma", targets above
        0), of which the networks put out the logarithm: with ``linear_glm_baseline`` that is the
        generalized linear model. The same loss on the validation rows chooses the epoch. Others
        than squared error are not for ``tree_teacher_distillation`` and ``quality="best"``.
    quantiles : sequence of float, default=(0.1, 0.5, 0.9)
        Levels of objective "quantile", above 0 and below 1, rising. `predict` gives the one
        nearest to a half, `predict_quantiles` all; they never cross.
    intervals : {"adaptive", "constant"}, optional
        Whether the width of prediction intervals follows the row, by a small network that learns
        the absolute residuals or, with several quantiles, by the gap between the outer ones; or is
        the same for all rows. None: adaptive, but constant with `refit`. Networks of `n_folds`
        folds have constant ones, unless their quantiles say the width.
    """

    _task: Task = "regression"

    @with_hints
    def __init__(
        self,
        training_mode: TrainingMode = "mlp_dense",
        *,
        hidden_dim: int | None = None,
        num_hidden_layers: int | None = None,
        dropout: float | None = None,
        n_members: int | None = None,
        max_epochs: int | None = None,
        patience: int | None = None,
        batch_size: int | None = None,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.05,
        validation_fraction: float | None = None,
        validation: object = None,
        eval_metric: object = None,
        numeric_encoding: NumericEncoding = "auto",
        hide_rate: float = 0.02,
        teacher: object = None,
        teacher_weight: float | None = None,
        augmentation: AugmentationChoice | None = "auto",
        roles: Mapping[str, Role] | None = None,
        refit: bool = False,
        device: Device = "auto",
        precision: Precision = "float32",
        quality: Quality = "balanced",
        n_folds: int | None = None,
        objective: RegressionObjective = "squared_error",
        quantiles: Sequence[float] = DEFAULT_LEVELS,
        intervals: IntervalWidth | None = None,
        time_limit: float | None = None,
        kernels: str | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.training_mode = training_mode
        self.hidden_dim = hidden_dim
        self.num_hidden_layers = num_hidden_layers
        self.dropout = dropout
        self.n_members = n_members
        self.max_epochs = max_epochs
        self.patience = patience
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.validation = validation
        self.eval_metric = eval_metric
        self.numeric_encoding = numeric_encoding
        self.hide_rate = hide_rate
        self.teacher = teacher
        self.teacher_weight = teacher_weight
        self.augmentation = augmentation
        self.roles = roles
        self.refit = refit
        self.device = device
        self.precision = precision
        self.quality = quality
        self.n_folds = n_folds
        self.objective = objective
        self.quantiles = quantiles
        self.intervals = intervals
        self.time_limit = time_limit
        self.kernels = kernels
        self.random_state = random_state
        self.verbose = verbose

    def _target(self, y: Any) -> tuple[np.ndarray, None]:
        self._target_format = format_of_target(y)
        target = regression_target(y, self._target_format)
        note = note_on_target(pl.Series(target))
        if note:
            warn_caller(f"the target: {note}")
        return target, None

    def _known_target(self, y: Any, classes: np.ndarray | None) -> np.ndarray:
        return regression_target(y, self._target_format)

    def predict(self, X: Any) -> np.ndarray:
        """Predictions in the target's own units, float64 of shape (n_rows,).

        Of a model of quantiles, the one whose level is nearest to a half.
        """
        row = self._row(X)
        if row is not None:
            return self._predictor.predict_cells(row)
        return self._predictor.predict_values(self._checked_frame(X))

    def predict_quantiles(self, X: Any, levels: Sequence[float] | None = None) -> np.ndarray:
        """Quantiles of the target, of a model fitted with ``objective="quantile"``.

        Parameters
        ----------
        X : frame or array of shape (n_rows, n_columns)
        levels : sequence of float, optional
            Some of the levels of the fit, in any order; by default all of them.

        Returns
        -------
        ndarray of shape (n_rows, n_levels), float64
            In the target's own units; those of a row rise with the level.

        Raises
        ------
        ValueError
            If the model has another objective, or a level is none of the fit's.
        """
        return self._predictor.predict_quantiles(self._checked_frame(X), levels)

    def predict_interval(self, X: Any, coverage: float = 0.9) -> np.ndarray:
        """Prediction intervals, from the residuals of validation rows held out for them.

        Where there are at least 800 validation rows, a quarter of them has no part in the choice
        of the epoch, and new rows of the same kind are covered at least as often as wanted
        (split conformal prediction: Lei et al., "Distribution-Free Predictive Inference for
        Regression", 2018). With fewer, each fold of the validation rows is predicted by the
        epochs that the others chose, which holds well but is not guaranteed.

        Parameters
        ----------
        X : frame or array of shape (n_rows, n_columns)
        coverage : float, default=0.9
            Share of new rows whose value the interval shall hold, in (0, 1); on average over
            rows, not for each row.

        Returns
        -------
        ndarray of shape (n_rows, 2), float64
            Lower and upper ends, in the target's own units; infinite where the residuals are too
            few to guarantee the coverage (9 can guarantee 90 %, not 95 %).

        Raises
        ------
        ValueError
            If the coverage is out of range, or too few validation rows left no residuals.
        """
        frame = self._checked_frame(X)
        return self._predictor.predict_interval(frame, coverage)
