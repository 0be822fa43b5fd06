"""Settings of one fit: what the caller asked for, what the rules made of it, what the file records.

Here live `FitSettings`, its joint checks, the rules that fill in what was left to the table, and
which training mode fits which task. What the settings do is in the packages that read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from tabwright.artifact.format_versions import left_out, may_be_missing
from tabwright.errors import ArtifactError, nearest_name
from tabwright.regression import DEFAULT_LEVELS, OBJECTIVES, RegressionObjective, check_levels

if TYPE_CHECKING:
    from ai.ml.frameworks.pytorch.models import TrainingMode
    from tabwright.artifact.schema import Reader

Task = Literal["classification", "regression"]
CalibrationName = Literal["auto", "temperature", "logistic", "vector", "structured", "isotonic"]
NumericEncoding = Literal[
    "auto", "standard", "robust", "quantile_normal", "quantile_ple", "tree_ple"
]
AugmentationChoice = Literal["auto", "munge", "neighbourhood"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]
Quality = Literal["fast", "balanced", "best"]
IntervalWidth = Literal["adaptive", "constant"]
# What every file holds, and means nothing any more: older versions ask for it.
_RETIRED = {"kernels": "torch"}

# The six values of `models.TrainingMode`, repeated here because importing that module loads
# torch; a test holds the two equal.
TRAINING_MODES: tuple[TrainingMode, ...] = (
    "mlp_dense",
    "linear_glm_baseline",
    "tabresnet",
    "imbalance_aware",
    "calibrated_classifier",
    "tree_teacher_distillation",
)
MODE_SUMMARIES: dict[TrainingMode, str] = {
    "mlp_dense": "the default: strong on most tables",
    "linear_glm_baseline": "a linear baseline: is a deep network better?",
    "tabresnet": "a residual network, for large tables",
    "imbalance_aware": "rare classes: inverse-frequency weights, a prior of your choice",
    "calibrated_classifier": "when the probabilities themselves matter",
    "tree_teacher_distillation": "a small, fast network distilled from a tree ensemble",
}
_BEST_FOLDS, _MOST_MEMBERS = 8, 1024
# Up to so many rows folds of one network each are better than networks that share validation
# rows (docs/performance.md, "Folds of small tables").
_MOST_ROWS_IN_FOLDS, _FEW_ROWS_FOLDS = 10_000, 4
# Rows that choose the epoch and calibrate: fewer than these are worth more there than in training.
_HELD_OUT_ROWS, _MOST_HELD_OUT = 100, 0.2
# Epochs that classifiers wait for a gain of any network: a share of all, and no fewer than were
# studied (docs/performance.md, "When classifiers end").
_SHARE_WAITED, _LEAST_WAITED = 0.4, 8
# A baseline that trees would no longer be one of, and a student that is meant to be small.
_NETWORKS_ALONE = frozenset({"linear_glm_baseline", "tree_teacher_distillation"})
_CLASSIFICATION_ONLY = frozenset({"imbalance_aware", "calibrated_classifier"})


def modes_for(task: Task) -> tuple[TrainingMode, ...]:
    """The training modes that fit a task, in the contract's order."""
    if task == "classification":
        return TRAINING_MODES
    return tuple(mode for mode in TRAINING_MODES if mode not in _CLASSIFICATION_ONLY)


class _Rule(NamedTuple):
    """What a field must be, by itself: in words that follow "must be", and as a test."""

    text: str
    holds: Callable[[Any], bool]
    may_be_none: bool = False
    names: tuple[str, ...] = ()  # those there are, where it is a name


def _integer(low: float = -math.inf, high: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and type(value) is not bool and low <= value <= high


def _number(fits: Callable[[float], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and fits(value)
    )


def _name(names: tuple[str, ...], text: str | None = None, *, may_be_none: bool = False) -> _Rule:
    """One of some names, which `text` lists where they are few."""
    listed = f"one of {', '.join(names)}"
    text = text or (f"None or {listed}" if may_be_none else listed)
    return _Rule(text, names.__contains__, may_be_none, names)


_COUNT = _Rule("an integer of at least 1, or None", _integer(1), True)
_RULES = {
    "task": _name(get_args(Task), "'classification' or 'regression'"),
    "training_mode": _name(TRAINING_MODES),
    "hidden_dim": _COUNT,
    "num_hidden_layers": _COUNT,
    "max_epochs": _COUNT,
    "batch_size": _COUNT,
    "patience": _COUNT,
    "n_members": _Rule(
        f"an integer from 1 to {_MOST_MEMBERS}, or None", _integer(1, _MOST_MEMBERS), True
    ),
    "dropout": _Rule("in [0, 1), or None", _number(lambda value: 0 <= value < 1), True),
    "hide_rate": _Rule("in [0, 1)", _number(lambda value: 0 <= value < 1)),
    "learning_rate": _Rule("a number above 0", _number(lambda value: value > 0)),
    "weight_decay": _Rule("a number of at least 0", _number(lambda value: value >= 0)),
    "validation_fraction": _Rule(
        "a number above 0 and below 1, or None", _number(lambda value: 0 < value < 1), True
    ),
    "numeric_encoding": _name(get_args(NumericEncoding)),
    "calibration": _name(get_args(CalibrationName), may_be_none=True),
    "teacher_weight": _Rule(
        "a number in [0, 1], or None", _number(lambda value: 0 <= value <= 1), True
    ),
    "teacher_temperature": _Rule(
        "a number above 0, or None", _number(lambda value: value > 0), True
    ),
    "augmentation": _name(get_args(AugmentationChoice), may_be_none=True),
    "random_state": _Rule("an integer from 0 to 2**63 - 1", _integer(0, 2**63 - 1)),
    "refit": _Rule("True or False", lambda value: isinstance(value, bool)),
    "device": _name(get_args(Device), "'auto', 'cpu' or 'cuda'"),
    "precision": _name(get_args(Precision), "'float32' or 'bfloat16'"),
    "quality": _name(get_args(Quality), "'fast', 'balanced' or 'best'"),
    "eval_metric": _Rule(
        "the name of a scorer, or None", lambda value: isinstance(value, str) and value != "", True
    ),
    "n_folds": _Rule("an integer from 1 to 64, or None", _integer(1, 64), True),
    "objective": _name(OBJECTIVES),
    "quantiles": _Rule("a tuple of levels", lambda value: isinstance(value, tuple)),
    "intervals": _name(get_args(IntervalWidth), "None, 'adaptive' or 'constant'", may_be_none=True),
    "time_limit": _Rule("seconds above 0, or None", _number(lambda value: value > 0), True),
}


@dataclass(frozen=True)
class FitSettings:
    """Everything that decides how a model is fitted, apart from the data.

    A field that is None where its type allows it, other than `patience`, `calibration`,
    `teacher_weight`, `teacher_temperature` and `augmentation`, is left to a rule of the table's
    size: see `resolved`.

    Parameters
    ----------
    task : {"classification", "regression"}
        What the target is.
    training_mode : TrainingMode
        One of the contract's six modes.
    hidden_dim : int or None
        Width of the hidden layers.
    num_hidden_layers : int or None
        Number of hidden layers (`MLP`) or residual blocks (`TabResNet`), at least 1.
    dropout : float or None
        Share of activations dropped while training, in [0, 1).
    n_members : int or None
        Networks trained at once and averaged in probability space.
    max_epochs : int or None
        Passes over the training rows at most; also the length of the schedule.
    patience : int or None
        Epochs without a better validation loss before a member stops; None: no member stops
        before the others, see `common_patience`.
    batch_size : int or None
        Rows per step.
    learning_rate : float
        Peak step size of AdamW.
    weight_decay : float
        Decoupled weight decay on the weights of linear layers (not on biases and norms).
    validation_fraction : float or None
        Share of the rows set aside to choose the epoch and to calibrate, in (0, 1).
    numeric_encoding : NumericEncoding
        How numeric columns become network inputs.
    hide_rate : float
        Share of known category levels shown as "unknown" while training, in [0, 1).
    calibration : CalibrationName or None
        Post-hoc calibration of a classifier; None turns it off.
    teacher_weight : float or None
        Weight of the teacher's soft labels in distillation, in [0, 1]; None: chosen on the
        validation rows.
    teacher_temperature : float or None
        Temperature of a classifier's soft labels in distillation, above 0; None: chosen on the
        validation rows.
    augmentation : {"auto", "munge", "neighbourhood"} or None
        Rows made near the training rows for the teacher to label; "auto": where the validation
        rows show that they help. None: none.
    refit : bool
        Train once more on all rows, validation rows included, each member to the epoch that was
        its best; the calibrator and the scores stay those of the first training.
    random_state : int
        Seed of every random stream.
    device : {"auto", "cpu", "cuda"}
        Where the networks train; "auto" is CUDA where there is one.
    precision : {"float32", "bfloat16"}
        What the matrix products of training are computed in. Weights, batch norm, validation and
        the trained model are float32 either way. "bfloat16" is faster where the processor
        multiplies in it (a CPU with avx512_bf16 or AMX, a GPU), and much slower elsewhere.
    quality : {"fast", "balanced", "best"}
        Effort: "fast" trains one network, "balanced" averages four and fits boosted trees beside
        them (scikit-learn's, for two classes oblivious trees too), "best" trains networks in folds
        and fits CatBoost's trees too. All are combined by weights chosen on the validation rows.
    eval_metric : str or None
        Name of what chooses each member's epoch on the validation rows, of scikit-learn's scorers
        or of a function that was given; None: the loss.
    n_folds : int or None
        Folds of the rows, each held out by `n_members` networks that train on the others: the
        predictions of rows by networks that did not train on them take the place of the
        validation rows. 1: one set of validation rows for all networks. None: 8 where quality is
        "best", 4 for classes and few rows where it is "balanced" (`with_folds_for`), else 1.
    objective : {"squared_error", "absolute_error", "quantile", "poisson", "gamma"}
        What a regression is fitted for: means (squared error), medians, quantiles, or the means
        of counts ("poisson", at least 0) and of amounts ("gamma", above 0), whose logarithms the
        networks put out.
    quantiles : tuple of float
        Levels of objective "quantile", above 0 and below 1, rising.
    intervals : {"adaptive", "constant"} or None
        Whether the width of prediction intervals follows the row or is the same for all; None:
        adaptive, but constant with `refit`.
    time_limit : float or None
        Seconds that a fit may take. It then trains the epochs and folds that fit, and is not
        repeated to the same bits.
    """

    task: Task
    training_mode: TrainingMode = "mlp_dense"
    hidden_dim: int | None = None
    num_hidden_layers: int | None = None
    dropout: float | None = None
    n_members: int | None = None
    max_epochs: int | None = None
    patience: int | None = None
    batch_size: int | None = None
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    validation_fraction: float | None = None
    numeric_encoding: NumericEncoding = "auto"
    hide_rate: float = 0.02
    calibration: CalibrationName | None = "auto"
    teacher_weight: float | None = None
    teacher_temperature: float | None = None
    augmentation: AugmentationChoice | None = "auto"
    refit: bool = False
    random_state: int = 0
    device: Device = "auto"
    precision: Precision = "float32"
    quality: Quality = "balanced"
    eval_metric: str | None = None
    n_folds: int | None = None
    objective: RegressionObjective = "squared_error"
    quantiles: tuple[float, ...] = DEFAULT_LEVELS
    intervals: IntervalWidth | None = None
    time_limit: float | None = None

    def __post_init__(self) -> None:
        for name, rule in _RULES.items():
            value = getattr(self, name)
            if not (rule.holds(value) or (rule.may_be_none and value is None)):
                hint = nearest_name(value, rule.names)
                raise ValueError(f"{name} must be {rule.text}; got {value!r}{hint}")
        if self.training_mode not in modes_for(self.task):
            raise ValueError(
                f"training_mode {self.training_mode!r} does not fit a {self.task} task; "
                f"those that do: {', '.join(modes_for(self.task))}"
            )
        if self.quality == "best" and self.networks_alone:
            raise ValueError(
                "quality='best' combines networks with trees, and training_mode "
                f"{self.training_mode!r} is of networks alone; use mlp_dense, or "
                "quality='balanced'"
            )
        if self.quality == "best" and self.refit:
            raise ValueError(
                "quality='best' needs rows held out to choose weights on; got refit=True; "
                "use one of the two"
            )
        if self.n_folds is not None and self.n_folds > 1:
            self._check_folds(self.n_folds)
        self._check_objective()
        if self.time_limit is not None and self.training_mode == "tree_teacher_distillation":
            raise ValueError(
                "time_limit is for what can end early, and a teacher's fits cannot; got "
                f"{self.time_limit} s and training_mode='tree_teacher_distillation'; leave it out, "
                "or use mlp_dense"
            )
        if self.time_limit is not None and self.refit:
            raise ValueError(
                f"refit trains once more as long; got time_limit={self.time_limit} and "
                "refit=True; use one of the two"
            )

    def check_used(self) -> None:
        """Refuse a calibration in a regression; not a rule of the constructor, for older files."""
        if self.task == "regression" and self.calibration not in ("auto", None):
            raise ValueError(
                "calibration must be left out in a regression task, which has no probabilities; "
                f"got {self.calibration!r}"
            )

    def _check_folds(self, n_folds: int) -> None:
        """Refuse what cannot go with folds."""
        if self.training_mode == "tree_teacher_distillation":
            raise ValueError(
                "tree_teacher_distillation chooses what is taught on one set of validation rows; "
                f"got n_folds={n_folds}; leave it out, or use mlp_dense"
            )
        if self.refit:
            raise ValueError(
                f"with folds every row trains networks already; got n_folds={n_folds} and "
                "refit=True; use one of the two"
            )
        if self.validation_fraction is not None:
            raise ValueError(
                f"folds are as large as their number says; got n_folds={n_folds} and "
                f"validation_fraction={self.validation_fraction}; use one of the two"
            )
        if (self.n_members or 1) * n_folds > _MOST_MEMBERS:
            raise ValueError(
                f"n_members times n_folds must be at most {_MOST_MEMBERS}; got "
                f"{self.n_members} times {n_folds}"
            )

    @property
    def unused_layers(self) -> str:
        """A sentence on what was asked of hidden layers where networks have none; or empty."""
        asked = {
            "the width": self.hidden_dim,
            "the depth": self.num_hidden_layers,
            "dropout": self.dropout,
        }
        given = [name for name, value in asked.items() if value is not None]
        if self.training_mode != "linear_glm_baseline" or not given:
            return ""
        return f"{self.training_mode} has no hidden layers: it leaves aside {' and '.join(given)}"

    @property
    def networks_alone(self) -> bool:
        """Whether the training mode is one that combines no trees with its networks."""
        return self.training_mode in _NETWORKS_ALONE

    @property
    def asked_folds(self) -> int:
        """`n_folds`, or what stands for it where that is None."""
        if self.n_folds is not None:
            return self.n_folds
        return _BEST_FOLDS if self.quality == "best" and self.validation_fraction is None else 1

    def with_folds_for(self, n_rows: int, n_classes: int | None) -> FitSettings:
        """The settings with the folds of the default where rows are few, else the same.

        `n_rows`: training and validation rows together.
        `n_classes`: classes of the target; None in regression.
        Returns: with `n_folds` set for classes, where the default's networks and trees are asked
        for, and nothing that says how many networks there are or which rows validate. In regression
        folds gain a percent, and have no intervals that follow the row.
        """
        asked = (self.n_folds, self.n_members, self.validation_fraction)
        few = (
            n_rows <= _MOST_ROWS_IN_FOLDS
            and n_classes is not None
            and self.quality == "balanced"
            and asked == (None, None, None)
            and not (self.networks_alone or self.refit)
        )
        return replace(self, n_folds=_FEW_ROWS_FOLDS) if few else self

    def _check_objective(self) -> None:
        """Refuse an objective that does not fit the task, the mode or the quality."""
        check_levels(self.quantiles)
        if self.intervals is not None and self.task == "classification":
            raise ValueError(
                f"intervals are for regression; got {self.intervals!r} in a classification task"
            )
        if self.intervals == "adaptive" and self.refit:
            raise ValueError(
                "adaptive intervals belong to the networks that they were fitted with; got "
                "refit=True; use intervals='constant', or no refit"
            )
        if self.objective != "quantile" and self.quantiles != DEFAULT_LEVELS:
            raise ValueError(
                f"quantiles are of objective='quantile'; got {self.quantiles!r} and "
                f"objective={self.objective!r}; leave them out, or ask for that objective"
            )
        if self.objective == "squared_error":
            return
        if self.task == "classification":
            raise ValueError(
                f"an objective is for regression; got {self.objective!r} in a classification "
                "task; leave it out, or say that the task is regression"
            )
        if self.training_mode == "tree_teacher_distillation":
            raise ValueError(
                "tree_teacher_distillation learns a teacher's values by squared error; got "
                f"objective={self.objective!r}; use mlp_dense, linear_glm_baseline or tabresnet"
            )
        if self.quality == "best":
            raise ValueError(
                "quality='best' combines networks and trees by squared error; got "
                f"objective={self.objective!r}; use quality='balanced'"
            )

    @property
    def common_patience(self) -> int | None:
        """Epochs without gain of any member after which all stop; None: no such end.

        Validation log-loss rises for good once networks are too sure of the training rows, and a
        lower learning rate does not bring it back; the losses of regression fall as the rate does.
        A metric may stand still for long. Linear models and students are short.
        """
        if (
            self.task == "regression"
            or self.networks_alone
            or self.patience is not None
            or self.eval_metric is not None
            or self.max_epochs is None
        ):
            return None
        return max(_LEAST_WAITED, math.ceil(self.max_epochs * _SHARE_WAITED))

    @property
    def has_adaptive_intervals(self) -> bool:
        """Whether the width of intervals follows the row."""
        if self.intervals is not None:
            return self.intervals == "adaptive"
        return not self.refit

    def held_out_share(self, n_rows: int | None) -> float:
        """`validation_fraction`, or what stands for it where that is None.

        `n_rows`: rows to divide; None: many, and not counted yet.
        """
        if self.validation_fraction is not None:
            return self.validation_fraction
        # What a student is taught is chosen on these rows as well.
        if self.training_mode == "tree_teacher_distillation":
            return _MOST_HELD_OUT
        fewest = 0.0 if n_rows is None else _HELD_OUT_ROWS / max(n_rows, 1)
        return min(max(0.1, fewest), _MOST_HELD_OUT)

    def resolved(self, *, n_rows: int, n_classes: int | None = None) -> FitSettings:
        """Fill in what was left to the table.

        Parameters
        ----------
        n_rows : int
            Training rows.
        n_classes : int, optional
            Classes of the target, in classification.

        Returns
        -------
        FitSettings
            The same settings with `hidden_dim`, `num_hidden_layers`, `dropout`, `n_members`,
            `max_epochs` and `batch_size` set. `docs/performance.md` has the study behind each rule.
        """
        tiny, small = n_rows < 1_500, n_rows < 5_000
        classifies = self.task == "classification"
        # A distilled student is meant to be moved: one compact network.
        student = self.training_mode == "tree_teacher_distillation"
        folds = self.asked_folds
        members = 1 if student or self.quality == "fast" or folds > 1 else 4
        # Few rows fill neither width nor depth: a quarter of the time, and no worse.
        compact = student or tiny
        # Cross-entropy punishes the overconfidence of long training: classifiers drop more and
        # train shorter. A student's soft labels, and a linear model, keep from it by themselves.
        if student or self.training_mode == "linear_glm_baseline":
            dropout, epochs = 0.1, 80 if small else 40
        elif classifies:
            # Between a few rows and many, twice as long is overfitting; past them it is learning,
            # and so it is where each of many classes has but few of the rows.
            is_short = 1_500 <= n_rows < 8_000 and (n_classes or 2) < 10
            dropout, epochs = 0.3, 20 if is_short else 40
        else:
            dropout, epochs = 0.2, 40 if tiny else 30
        return replace(
            self,
            hidden_dim=self.hidden_dim or (128 if compact else 256),
            num_hidden_layers=(2 if compact else 3)
            if self.num_hidden_layers is None
            else self.num_hidden_layers,
            dropout=dropout if self.dropout is None else self.dropout,
            n_members=self.n_members or members,
            n_folds=folds if folds > 1 else self.n_folds,
            max_epochs=self.max_epochs or epochs,
            batch_size=self.batch_size or (64 if tiny else 128 if small else 256),
        )

    def to_document(self) -> dict[str, Any]:
        """The settings as plain JSON-able data."""
        values = ((field, getattr(self, field.name)) for field in fields(self))
        return _RETIRED | {
            field.name: list(value) if isinstance(value, tuple) else value
            for field, value in values
            if not left_out(_place(field.name), value, field.default)
        }

    @classmethod
    def from_document(cls, document: Reader) -> FitSettings:
        """Read the settings back; every rule of the constructor holds for a file's values too."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in document or not may_be_missing(_place(field.name)):
                values[field.name] = _read_field(document, field.name, str(field.type))
        for name in _RETIRED:
            if name in document:
                document.text(name)
        document.done()
        # In older files fewer layers than one stood for one.
        n_layers = values.get("num_hidden_layers")
        values["num_hidden_layers"] = None if n_layers is None else max(1, n_layers)
        try:
            return cls(**values)
        except ValueError as error:
            raise ArtifactError(f"settings: {error}") from None


def _place(name: str) -> str:
    return f"settings.{name}"


def _read_field(document: Reader, name: str, annotation: str) -> object:
    """The value of a field, read as its annotation says."""
    if name not in document:
        raise document.fail(name, "given")
    if "None" in annotation and not document.optional(name):
        return None
    if annotation == "bool":
        return document.boolean(name)
    if annotation.startswith("tuple"):
        return document.numbers(name)
    if annotation.startswith("int"):
        return document.integer(name)
    if annotation.startswith("float"):
        return document.number(name)
    return document.text(name)
