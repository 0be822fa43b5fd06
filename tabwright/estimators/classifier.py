"""The scikit-learn face: `TabularClassifier`, `TabularRegressor`, `load_model`.

An estimator stores its parameters, checks what it is given in `fit` the way scikit-learn does, and
hands everything else to `pipeline.fit_table` and `predictor.Predictor`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import date
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import nn

from ai.ml.frameworks.pytorch.models import TrainingMode
from tabwright.distillation.fidelity import FidelityReport
from tabwright.distillation.soft_targets import Teaching
from tabwright.estimators.file_route import FitsFiles
from tabwright.fitting.fit_table import ClassWeight, LabelledRows, Prior, fit_table
from tabwright.inference.fitted_model import FittedModel, load_fitted, member_modules
from tabwright.inference.pandas_row import row_cells
from tabwright.inference.predictor import Predictor
from tabwright.settings import (
    AugmentationChoice,
    CalibrationName,
    Device,
    FitSettings,
    NumericEncoding,
    Precision,
    Task,
)
from tabwright.tables import (
    Role,
    as_frame,
    encode_labels,
    labels_to_codes,
    regression_target,
    seen_labels,
)
from tabwright.training.callbacks import Callback, as_callback, telling_failures
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.loop import Epoch

if TYPE_CHECKING:
    from tabwright.export.onnx import ParityReport

__all__ = ["TabularClassifier", "TabularRegressor", "load_model"]

Callbacks = Sequence[Callback | Callable[[Epoch], object]] | None
EvalSet = tuple[Any, Any] | tuple[Any, Any, Any] | list[tuple[Any, ...]] | None


class _TabularEstimator(FitsFiles, BaseEstimator):  # type: ignore[misc]
    """What the classifier and the regressor share."""

    _task: Task
    verbose: int
    model_: FittedModel
    settings_: FitSettings
    # What `distill` found of the student; other fits leave it away.
    fidelity_: FidelityReport
    n_features_in_: int

    def _settings(self) -> FitSettings:
        parameters = self.get_params(deep=False)
        values = {f.name: parameters[f.name] for f in fields(FitSettings) if f.name in parameters}
        if parameters["kernels"] is not None:
            warnings.warn(
                f"kernels is deprecated and has no effect; got {parameters['kernels']!r}; training "
                "takes the fastest kernels that this installation has: leave the argument out",
                FutureWarning,
                stacklevel=3,
            )
        seed = parameters["random_state"]
        if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        values["random_state"] = int(seed)
        return FitSettings(task=self._task, **{k: _plain(v) for k, v in values.items()})

    def _teaching(self) -> Teaching | None:
        teacher = self.get_params(deep=False)["teacher"]
        return None if teacher is None else Teaching(teacher)

    def _frame(self, X: object) -> tuple[pl.DataFrame, bool]:
        return as_frame(X, estimator=type(self).__name__)

    def _checked_weight(self, sample_weight: object, X: pl.DataFrame) -> np.ndarray | None:
        if sample_weight is None:
            return None
        weight: np.ndarray = _check_sample_weight(
            sample_weight, np.empty((len(X), 1)), dtype=np.float64, ensure_non_negative=True
        )
        return weight

    def _callback(self, callbacks: Callbacks) -> Callback:
        given = as_callback(callbacks)
        return as_callback([given, _Printer()]) if self.verbose else given

    def _eval_frame(self, X: object, training: pl.DataFrame) -> pl.DataFrame:
        """The table of an `eval_set`; an array's columns are those of training, in order."""
        frame, has_names = self._frame(X)
        if has_names:
            return frame
        if frame.width != training.width:
            raise ValueError(
                f"eval_set must have the {training.width} columns of X; got {frame.width} columns"
            )
        return frame.rename(dict(zip(frame.columns, training.columns, strict=True)))

    def _rows(self, X: object, target: np.ndarray, sample_weight: object) -> LabelledRows:
        frame, _ = self._frame(X)
        if len(frame) != len(target):
            raise ValueError(
                f"X and y must have the same number of rows; got {len(frame)} and {len(target)}"
            )
        return LabelledRows(frame, target, self._checked_weight(sample_weight, frame))

    def _remember(self, model: FittedModel) -> None:
        self.model_ = model
        self.settings_ = model.settings
        self._predictor = Predictor(model)
        self.n_features_in_ = model.encoder.n_features_in_
        if model.encoder.named:
            self.feature_names_in_ = np.asarray(model.encoder.feature_names_in_, dtype=object)

    @property
    def members_(self) -> list[nn.Module]:
        """The members as `models.py` modules, in eval mode."""
        check_is_fitted(self, "model_")
        return member_modules(self.model_)

    @property
    def history_(self) -> list[dict[str, float]]:
        """One dict of numbers per epoch."""
        check_is_fitted(self, "model_")
        return [dict(epoch) for epoch in self.model_.history]

    def _checked_frame(self, X: object) -> pl.DataFrame:
        check_is_fitted(self, "model_")
        frame, named = self._frame(X)
        if not named and frame.width != self.n_features_in_:
            raise ValueError(
                f"X has {frame.width} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        if named and not self.model_.encoder.named:
            frame = self._in_fitted_order(frame)
        if not named and self.model_.encoder.named:
            # An array has no names of its own: its columns are taken in the order of the fit.
            frame = frame.rename(
                dict(zip(frame.columns, self.model_.encoder.feature_names_in_, strict=True))
            )
        return frame

    def _in_fitted_order(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The columns of a frame whose names are the numbers that columns had in the fit."""
        numbers = [str(i) for i in range(self.n_features_in_)]
        if set(numbers) == set(frame.columns):
            return frame[numbers]
        strange = [name for name in frame.columns if name.lstrip("-").isdecimal()]
        if strange:
            raise ValueError(
                f"the columns of X must be those of the fit, numbered from 0 to "
                f"{self.n_features_in_ - 1}; got {frame.columns[:10]}; select them by number"
            )
        return frame

    def _row(self, X: object) -> dict[str, Any] | None:
        """The cells of a pandas frame of one row, which needs no frame of ours; else None."""
        check_is_fitted(self, "model_")
        return row_cells(X) if self.model_.encoder.named else None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as one `.safetensors` file, which `load_model` reads.

        Raises
        ------
        OSError
            If it cannot be written; an old file of that name stays whole.
        """
        check_is_fitted(self, "model_")
        self.model_.save(path)

    def export_onnx(
        self, path: str | os.PathLike[str], *, check_rows: int = 100_000
    ) -> ParityReport:
        """Write the model as one ONNX graph, from raw columns to predictions.

        Parameters
        ----------
        path : str or path-like
        check_rows : int, default=100_000
            Rows on which the graph is compared with the model before it is written.

        Returns
        -------
        ParityReport
            How well they agree. What the graph's inputs are: see `export.export_onnx`.

        Raises
        ------
        ParityError
            If they do not; no file is left.
        ImportError
            If the extra `onnx` is not installed.
        OSError
            If it cannot be written.
        """
        check_is_fitted(self, "model_")
        from tabwright.export.onnx import export_onnx

        return export_onnx(self.model_, path, check_rows=check_rows)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags


def _plain(value: Any) -> Any:
    """A NumPy scalar as the Python number it is (grids of parameters hold such)."""
    return value.item() if isinstance(value, np.generic) else value


def _eval_parts(eval_set: EvalSet) -> tuple[Any, Any, Any]:
    # Gradient boosting libraries take lists of such tuples; one set chooses the epoch.
    if isinstance(eval_set, list) and all(isinstance(part, tuple) for part in eval_set):
        if len(eval_set) != 1:
            raise ValueError(f"eval_set must be one set of rows; got a list of {len(eval_set)}")
        eval_set = eval_set[0]
    if not isinstance(eval_set, tuple | list) or len(eval_set) not in (2, 3):
        raise ValueError(
            "eval_set must be a tuple (X, y) or (X, y, sample_weight); "
            f"got {type(eval_set).__name__}"
        )
    X, y, weight = (*eval_set, None)[:3]
    return X, y, weight


class TabularClassifier(ClassifierMixin, _TabularEstimator):  # type: ignore[misc]
    """A neural network classifier for tables.

    Parameters
    ----------
    training_mode : TrainingMode, default="mlp_dense"
        One of the six modes of the models contract.
    hidden_dim, num_hidden_layers : int or None, default=None
        Width and number of hidden layers; None: by a rule, see `settings_` after `fit`.
    dropout : float or None, default=None
        Share of activations dropped while training, in [0, 1).
    n_members : int or None, default=None
        Networks trained together and averaged.
    max_epochs : int or None, default=None
        Passes over the training rows at the most.
    patience : int or None, default=None
        Epochs without improvement before a member stops; None: no early stopping.
    batch_size : int or None, default=None
        Rows per step.
    learning_rate : float, default=2e-3
        Peak step size of AdamW.
    weight_decay : float, default=0.05
        Decoupled decay of the weights of linear layers.
    validation_fraction : float or None, default=None
        Share of the rows that chooses the epoch and fits the calibrator. None: a tenth, or 100
        rows where that is more, but at most a fifth; a tenth of a table that is streamed from
        disk; a fifth in `tree_teacher_distillation`, where what is taught is chosen on them too.
    class_weight : "balanced", dict or None, default=None
        Weight by label, 1 where a label is not named; multiplied with `sample_weight`.
    prior : "training", "balanced" or array of shape (n_classes,), default="training"
        The class prior under which `imbalance_aware` gives probabilities.
    calibration : str or None, default="auto"
        "auto", "temperature", "logistic", "vector", "structured", "isotonic", or None for none.
    numeric_encoding : str, default="auto"
        How numeric columns become network inputs.
    hide_rate : float, default=0.02
        Share of known category levels shown as unknown while training.
    teacher : TeacherKind, estimator, sequence of these, or None, default=None
        Who teaches in `tree_teacher_distillation`; None: the kind that measures best. An
        estimator given here is cloned and fitted out of fold; see `teachers.soft_labels`.
    teacher_weight, teacher_temperature : float or None, default=None
        Weight and temperature of the teacher's labels; None: chosen on validation rows.
    augmentation : {"auto", "munge", "neighbourhood"} or None, default="auto"
        Made-up rows for the teacher to label; "auto": where validation shows that they help.
    roles : dict of str to role, optional
        Overrides the inferred roles of columns.
    refit : bool, default=False
        Train once more on all rows, validation rows included, each member to its best epoch.
    device : {"auto", "cpu", "cuda"}, default="auto"
        Where the networks train; "auto": CUDA where there is one.
    precision : {"float32", "bfloat16"}, default="float32"
        What the matrix products of training are computed in; "bfloat16" is faster on processors
        that multiply in it (`avx512_bf16`, AMX, GPUs) and much slower on others.
    kernels : None
        Deprecated, and gone in the version after next: training takes the fastest kernels that
        this installation has. Other values than None give a `FutureWarning`.
    random_state : int, RandomState or None, default=None
        Of every random choice; an int makes fits repeatable.
    verbose : int, default=0
        1 prints a line per epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels in sorted order.
    n_features_in_ : int
        Columns of the table, those set aside included.
    feature_names_in_ : ndarray of str
        Only where the table had column names.
    members_ : list of nn.Module
        The networks, in eval mode.
    history_ : list of dict
        One dict of numbers per epoch.
    settings_ : FitSettings
        With every default resolved.
    model_ : FittedModel
        All that the fit produced.
    """

    _task: Task = "classification"

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
        class_weight: ClassWeight = None,
        prior: Prior = "training",
        calibration: CalibrationName | None = "auto",
        numeric_encoding: NumericEncoding = "auto",
        hide_rate: float = 0.02,
        teacher: object = None,
        teacher_weight: float | None = None,
        teacher_temperature: float | None = None,
        augmentation: AugmentationChoice | None = "auto",
        roles: Mapping[str, Role] | None = None,
        refit: bool = False,
        device: Device = "auto",
        precision: Precision = "float32",
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
        self.class_weight = class_weight
        self.prior = prior
        self.calibration = calibration
        self.numeric_encoding = numeric_encoding
        self.hide_rate = hide_rate
        self.teacher = teacher
        self.teacher_weight = teacher_weight
        self.teacher_temperature = teacher_temperature
        self.augmentation = augmentation
        self.roles = roles
        self.refit = refit
        self.device = device
        self.precision = precision
        self.kernels = kernels
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        eval_set: EvalSet = None,
        *,
        groups: Any = None,
        time: Any = None,
        callbacks: Callbacks = None,
        checkpoint: Checkpoint | None = None,
    ) -> Self:
        """Fit to a table.

        Parameters
        ----------
        X : frame or array of shape (n_rows, n_columns)
            polars, pandas, pyarrow, NumPy, or a list of dicts; strings, missing values and dates
            as they are.
        y : array of shape (n_rows,)
            Strings, integers, booleans or integral floats; no nulls.
        sample_weight : array of shape (n_rows,), optional
            Not negative; rows of weight 0 count as absent.
        eval_set : tuple (X, y) or (X, y, sample_weight), or a list of one such tuple, optional
            Rows that choose the epoch and fit the calibrator, in place of an internal split.
        groups, time : array of shape (n_rows,), optional
            Groups never straddle the internal split; its validation rows are strictly later.
        callbacks : list of Callback or callable, optional
            Told of the start, every epoch and the end, as `TensorBoardLogger` and `MLflowLogger`
            are; a function is called with each `Epoch`.
        checkpoint : Checkpoint, optional
            Where the run keeps its state; if the file is there, the run goes on from it. It is
            removed in the end, and kept if Ctrl-C ended the run early.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter, the labels or the weights break a rule.
        TableError
            If the table does.
        """
        settings, teaching = self._settings(), self._teaching()
        callback = self._callback(callbacks)
        frame, named = self._frame(X)
        labels = encode_labels(_column(y, type(self).__name__))
        rows = self._rows(frame, labels.codes, sample_weight)
        labels = seen_labels(labels, rows.weight)
        validation = None
        if eval_set is not None:
            eval_X, eval_y, eval_weight = _eval_parts(eval_set)
            codes = labels_to_codes(_column(eval_y, "eval_set"), labels.classes)
            validation = self._rows(self._eval_frame(eval_X, frame), codes, eval_weight)
        with telling_failures(callback):
            model = fit_table(
                replace(rows, target=labels.codes),
                settings,
                classes=labels.classes,
                validation=validation,
                groups=_optional_column(groups, "groups", len(frame)),
                time=_optional_column(time, "time", len(frame)),
                named=named,
                roles=self.roles,
                class_weight=self.class_weight,
                prior=self.prior,
                teaching=teaching,
                on_start=callback.on_start,
                on_epoch=callback.on_epoch,
                on_message=callback.on_message,
                checkpoint=checkpoint,
            )
            self._remember(model)
            callback.on_end(model)
        _forget(checkpoint, model)
        return self

    def _remember(self, model: FittedModel) -> None:
        super()._remember(model)
        assert model.classes is not None
        self.classes_ = model.classes

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, float64 of shape (n_rows, n_classes), columns as in `classes_`."""
        row = self._row(X)
        if row is not None:
            return self._predictor.predict_cells(row)
        return self._predictor.predict_proba(self._checked_frame(X))

    def predict(self, X: Any) -> np.ndarray:
        """Labels of shape (n_rows,), in the dtype they had in `fit`."""
        proba = self.predict_proba(X)
        labels: np.ndarray = self.classes_[proba.argmax(axis=1)]
        return labels


class TabularRegressor(RegressorMixin, _TabularEstimator):  # type: ignore[misc]
    """A neural network regressor for tables.

    Parameters and attributes are those of `TabularClassifier`, less what only a classifier has
    (`class_weight`, `prior`, `calibration`, `teacher_temperature`, `classes_`).
    """

    _task: Task = "regression"

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
        numeric_encoding: NumericEncoding = "auto",
        hide_rate: float = 0.02,
        teacher: object = None,
        teacher_weight: float | None = None,
        augmentation: AugmentationChoice | None = "auto",
        roles: Mapping[str, Role] | None = None,
        refit: bool = False,
        device: Device = "auto",
        precision: Precision = "float32",
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
        self.numeric_encoding = numeric_encoding
        self.hide_rate = hide_rate
        self.teacher = teacher
        self.teacher_weight = teacher_weight
        self.augmentation = augmentation
        self.roles = roles
        self.refit = refit
        self.device = device
        self.precision = precision
        self.kernels = kernels
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        eval_set: EvalSet = None,
        *,
        groups: Any = None,
        time: Any = None,
        callbacks: Callbacks = None,
        checkpoint: Checkpoint | None = None,
    ) -> Self:
        """Fit to a table; arguments as in `TabularClassifier.fit`, with a numeric `y`."""
        settings, teaching = self._settings(), self._teaching()
        callback = self._callback(callbacks)
        frame, named = self._frame(X)
        target = regression_target(_column(y, type(self).__name__))
        validation = None
        if eval_set is not None:
            eval_X, eval_y, eval_weight = _eval_parts(eval_set)
            validation = self._rows(
                self._eval_frame(eval_X, frame),
                regression_target(_column(eval_y, "eval_set")),
                eval_weight,
            )
        with telling_failures(callback):
            model = fit_table(
                self._rows(frame, target, sample_weight),
                settings,
                validation=validation,
                groups=_optional_column(groups, "groups", len(frame)),
                time=_optional_column(time, "time", len(frame)),
                named=named,
                roles=self.roles,
                teaching=teaching,
                on_start=callback.on_start,
                on_epoch=callback.on_epoch,
                on_message=callback.on_message,
                checkpoint=checkpoint,
            )
            self._remember(model)
            callback.on_end(model)
        _forget(checkpoint, model)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predictions in the target's own units, float64 of shape (n_rows,)."""
        row = self._row(X)
        if row is not None:
            return self._predictor.predict_cells(row)
        return self._predictor.predict_values(self._checked_frame(X))

    def predict_interval(self, X: Any, coverage: float = 0.9) -> np.ndarray:
        """Prediction intervals, from the residuals of validation rows that chose nothing.

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
            few to promise the coverage (9 can promise 90 %, not 95 %).

        Raises
        ------
        ValueError
            If the coverage is out of range, or too few validation rows left no residuals.
        """
        frame = self._checked_frame(X)
        return self._predictor.predict_interval(frame, coverage)


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


def _column(y: Any, owner: str) -> Any:
    if y is None:
        raise ValueError(f"{owner} requires y to be passed, but the target y is None")
    if getattr(y, "ndim", 1) == 2 and y.shape[1] == 1:
        return column_or_1d(y, warn=True)
    return y


def _optional_column(values: Any, name: str, n_rows: int) -> np.ndarray | None:
    """Groups or times as an array, one value a row; dates in a list become datetimes."""
    if values is None:
        return None
    array = np.asarray(values)
    if array.dtype == object and any(isinstance(value, date) for value in array.ravel()[:1]):
        array = pl.Series(array.tolist(), strict=False).to_numpy()
    if array.shape != (n_rows,):
        raise ValueError(f"{name} must have shape ({n_rows},), one value a row; got {array.shape}")
    return array


def _forget(checkpoint: Checkpoint | None, model: FittedModel) -> None:
    if checkpoint is not None and model.card.get("stopped") != "interrupted":
        checkpoint.remove()


class _Printer(Callback):
    """What `verbose` shows."""

    def on_message(self, message: str) -> None:
        print(message)

    def on_epoch(self, epoch: Epoch) -> None:
        print(
            f"epoch {epoch.epoch}: train {epoch.train_loss:.4f}, "
            f"validation {epoch.validation_loss:.4f}, best {epoch.best_loss:.4f}, "
            f"{epoch.seconds:.1f} s"
        )
