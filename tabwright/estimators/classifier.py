"""`TabularClassifier`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin

from ai.ml.frameworks.pytorch.models import TrainingMode
from tabwright.errors import warn_caller
from tabwright.estimators.argument_hints import with_hints
from tabwright.estimators.base import TabularEstimator
from tabwright.fitting.class_weights import ClassWeight, Prior
from tabwright.inference.fitted_model import FittedModel
from tabwright.settings import (
    AugmentationChoice,
    CalibrationName,
    Device,
    NumericEncoding,
    Precision,
    Quality,
    Task,
)
from tabwright.tables import Role, encode_labels, labels_to_codes
from tabwright.tables.targets import Labels, note_on_labels


class TabularClassifier(ClassifierMixin, TabularEstimator):  # type: ignore[misc]
    """A neural network classifier for tables.

    Parameters
    ----------
    training_mode : TrainingMode, default="mlp_dense"
        One of the six modes of the models contract: what network, and what it is trained for.
        `tabwright compare` says which suits a table; `imbalance_aware` is for rare classes,
        `calibrated_classifier` for probabilities, `tree_teacher_distillation` for one small
        network.
    hidden_dim, num_hidden_layers : int or None, default=None
        Width and number of hidden layers, or of residual blocks. None: 128 and 2 below 1,500
        training rows and for students, else 256 and 3. More of either learns finer structure,
        fits slower and overfits sooner; make them smaller for a smaller and faster model.
        `linear_glm_baseline` has no hidden layers: these two and `dropout` change nothing there.
    dropout : float or None, default=None
        Share of activations dropped while training, in [0, 1). None: 0.3 in classification, 0.2
        in regression, 0.1 for linear models and students. Raise it where the validation loss
        rises again long before the last epoch (`history_`), lower it where it still falls there.
    n_members : int or None, default=None
        Networks trained together and averaged. None: four, or one with `quality="fast"`, folds or
        a student. More give steadier predictions; time, size and latency grow in step.
    max_epochs : int or None, default=None
        At most so many passes over the training rows; each network keeps its best epoch. None:
        20 to 80 by task, mode and rows. The learning rate falls to its end over all of them, so
        that fewer are no early stop but a shorter schedule; raise it where the best epoch is the
        last one.
    patience : int or None, default=None
        Epochs without improvement before a member stops. None: in classification all stop once
        none has improved for two fifths of `max_epochs` and at least eight epochs, elsewhere and
        with `eval_metric` all epochs are trained, as with `max_epochs` here. The best one is kept
        either way; give 5 or so to save time on large tables.
    batch_size : int or None, default=None
        Rows per step. None: 64 below 1,500 training rows, 128 below 5,000, else 256. Larger steps
        use the machine better and are fewer: raise `learning_rate` or `max_epochs` with them.
    learning_rate : float, default=2e-3
        Peak step size of AdamW, reached after a warm-up. Lower it by a factor of 3 to 10 where
        training diverges or the loss jumps; it is the first setting to tune.
    weight_decay : float, default=0.05
        Decoupled decay of the weights of linear layers, which keeps them small. Raise it with few
        rows and many columns.
    validation_fraction : float or None, default=None
        Share of the rows that chooses the epoch and fits the calibrator. None: a tenth, or 100
        rows where that is more, but at most a fifth; a tenth of a table that is streamed from
        disk; a fifth in `tree_teacher_distillation`, where what is taught is chosen on them too.
    validation : splitter, list of (train, test), or None, default=None
        Which rows validate, in place of `validation_fraction`: a splitter of scikit-learn, or
        anything with `split(X, y, groups)`, or pairs of arrays of row numbers. The last split
        counts, which is the latest of `TimeSeriesSplit()`; rows in neither part of it have no part
        in the fit. `groups` of `fit` go to the splitter.
    eval_metric : str, callable or None, default=None
        What chooses each network's epoch on the validation rows, and what `patience` waits for: a
        scorer's name ("roc_auc", "neg_mean_absolute_error", ...), a scorer, or a function
        `(y_true, prediction)`, perhaps with `sample_weight`. The prediction is the probability of
        the second label of two, the probabilities of more, or the value in regression. Functions
        that are called `..._error`, `..._loss` or `..._deviance` are minimised, others maximised.
        None: the loss.
    class_weight : "balanced", dict or None, default=None
        Weight by label, 1 where a label is not named; multiplied with `sample_weight`. "balanced"
        counts every class alike. Weights shift the probabilities: for rare classes prefer the mode
        `imbalance_aware`, which takes the shift back, or a decision rule.
    prior : "training", "balanced", mapping or array of shape (n_classes,), default="training"
        The class prior under which `imbalance_aware` gives probabilities: that of the training
        rows, equal shares, or the shares where the model will be used, if those are others.
    calibration : str or None, default="auto"
        How probabilities are corrected on validation rows: "auto", "temperature" (one number),
        "logistic", "vector", "structured" or "isotonic" (ever more freedom, which needs ever more
        rows), or None for none. A correction is kept only where it lowers the loss of held-out
        rows by more than one standard error, so that "auto" seldom needs a change.
    numeric_encoding : str, default="auto"
        How numeric columns become network inputs: "tree_ple" and "quantile_ple" spread each over
        bins, so that the network bends easily along it; "standard", "robust" and
        "quantile_normal" are one input a column, which makes smaller and faster models. "auto":
        "tree_ple", whose bins follow the target, or "robust" for very wide tables.
    hide_rate : float, default=0.02
        Share of known category levels shown as unknown while training, so that a level never seen
        gets a sensible answer. Raise it where new levels are common, 0 where there are none.
    teacher : TeacherKind, estimator, sequence of these, or None, default=None
        Who teaches in `tree_teacher_distillation`; None: the kind that measures best. An
        estimator given here is cloned and fitted out of fold; see `teachers.soft_labels`.
    teacher_weight, teacher_temperature : float or None, default=None
        Weight of the teacher's labels beside the true ones, in [0, 1], and how much they are
        smoothed; None: chosen on validation rows. A weight of 0 leaves the teacher out.
    augmentation : {"auto", "munge", "neighbourhood"} or None, default="auto"
        Made-up rows for the teacher to label; "auto": where validation shows that they help.
    roles : dict of str to role, optional
        Overrides the inferred roles of columns: "numeric", "category", "boolean", "datetime",
        "identifier" or "text". Codes that are numbers, such as postcodes, are worth
        ``"category"``; a number that was set aside as an identifier, ``"numeric"``.
    refit : bool, default=False
        Train once more on all rows, validation rows included, each member to its best epoch.
        Doubles the time; worth it with few rows, unless folds use all of them already.
    device : {"auto", "cpu", "cuda"}, default="auto"
        Where the networks train; "auto": CUDA where there is one.
    precision : {"float32", "bfloat16"}, default="float32"
        What the matrix products of training are computed in; "bfloat16" is faster on processors
        that multiply in it (`avx512_bf16`, AMX, GPUs) and much slower on others.
    quality : {"fast", "balanced", "best"}, default="balanced"
        "balanced" averages four networks and fits boosted trees beside them, scikit-learn's and,
        for two classes, oblivious ones; "fast" trains one network, without trees; "best" trains
        eight networks that each hold out another eighth of the rows, and fits CatBoost's trees too,
        where it is installed. Networks and trees are combined by weights chosen on rows that were
        held out, which `model_.card["combination"]` tells. `linear_glm_baseline`,
        `tree_teacher_distillation` and `refit` have networks alone, and no "best". For four
        networks without trees, use "fast" and `n_members=4`.
    n_folds : int or None, default=None
        Folds of the rows, each held out by `n_members` networks (None: one) that train on the
        others. Predictions of rows by networks that did not train on them then choose what
        validation rows choose elsewhere. 1: none; None: 8 for "best", 4 for "balanced" in at
        most 10,000 rows and without `n_members`, `validation_fraction` and `refit`, else none.
        With an `eval_set`, or an order in time, there are none. With `validation` its splits are
        the folds, and must be as many.
    time_limit : float or None, default=None
        Seconds that `fit` may take. Epochs, folds and trees are left out that do not fit, which
        `model_.card["time_limit"]` tells; such fits do not repeat to the same bits. Refused where
        not even one epoch of one network fits, and in `tree_teacher_distillation` and `refit`.
    kernels : None
        Deprecated, and gone in the version after next: training takes the fastest kernels that
        this installation has. Other values than None give a `FutureWarning`.
    random_state : int, RandomState or None, default=None
        Of every random choice; an int makes fits repeatable on the same machine and versions.
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
    fit_seconds_ : float
        How long `fit` took; not of a model from a file.
    """

    _task: Task = "classification"

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
        quality: Quality = "balanced",
        n_folds: int | None = None,
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
        self.quality = quality
        self.n_folds = n_folds
        self.time_limit = time_limit
        self.kernels = kernels
        self.random_state = random_state
        self.verbose = verbose

    def _target(self, y: Any) -> tuple[np.ndarray, Labels]:
        labels = encode_labels(y)
        note = note_on_labels(labels)
        if note:
            warn_caller(note)
        return labels.codes, labels

    def _known_target(self, y: Any, classes: np.ndarray | None) -> np.ndarray:
        assert classes is not None
        return labels_to_codes(y, classes)

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
        """Labels of shape (n_rows,), in the dtype they had in `fit`.

        They follow the decision rule stored in the model (`tabwright train --decision`), as those
        of `tabwright predict` do; without one they are the most probable classes.
        """
        proba = self.predict_proba(X)
        labels: np.ndarray = self.classes_[self._predictor.decide(proba)]
        return labels
