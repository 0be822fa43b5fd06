"""`FittedModel`: all that a fit produced, as plain data, and its way into a file and back.

Nothing here trains or predicts, and nothing loads torch unless a live `models.py` module is asked
for: a saved model can be read, inspected and run with NumPy alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from tabwright.artifact.atomic_write import check_suffix, write_atomically
from tabwright.artifact.container import pack, read_artifact, unpack
from tabwright.artifact.format_versions import left_out, may_be_missing
from tabwright.artifact.schema import Reader, TensorBag, array_to_text, prefixed, text_to_array
from tabwright.calibration.calibrator import Calibrator
from tabwright.calibration.decisions import DecisionRule
from tabwright.calibration.intervals import Intervals
from tabwright.encoding.encoder import TableEncoder
from tabwright.errors import ArtifactError
from tabwright.inference.network_spec import MemberState, NetworkSpec, take_member
from tabwright.inference.target_scale import ResidualScale, TargetScale
from tabwright.inference.tree_mix import TreeMix
from tabwright.settings import FitSettings
from tabwright.tables.cell_format import USUAL, CellFormat

if TYPE_CHECKING:
    from torch import nn

StopReason = Literal["schedule", "patience", "interrupted", "non-finite", "time limit"]
_LABEL_DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
)


@dataclass(frozen=True)
class FittedModel:
    """Everything that a fit produced; immutable.

    `architecture`: of every member.
    `members`: the `state_dict` of each member, as NumPy arrays.
    `classes`: (n_classes,); the labels in sorted order, in the dtype they came in; None in
        regression.
    `target`: None in classification.
    `class_prior`: (n_classes,), float64; weighted shares of the classes in the training rows.
    `class_weights`: (n_classes,), float64; the class weights of the objective, if any.
    `prior`: (n_classes,), float64; the prior under which `imbalance_aware` answers; None: as
        trained.
    `calibrator`: None in regression and where calibration was turned off.
    `decision`: how labels are made of probabilities, everywhere; None: the most probable class.
    `intervals`: half-widths of prediction intervals; None in classification, and where too few rows
        were held out.
    `residual_scale`: what makes the width of intervals follow the row, where `intervals.scale` is
        "network".
    `quantile_shifts`: by how many times half the gap between a row's outer quantiles each level is
        moved; empty: not at all.
    `trees`: tree ensembles beside the networks, and the weights that combine them; None: networks
        alone.
    `history`: one dict of numbers per epoch.
    `stopped`: why training ended. Files keep it in the card.
    `metrics`: scores by name of the set of rows: "validation", "test", ... With class weights also
        "validation_class_weighted", ..., in which each row has the weight of its class.
    `card`: what the model was made from and with, for people: table, target, versions, messages.
    """

    settings: FitSettings
    encoder: TableEncoder
    architecture: NetworkSpec
    members: tuple[MemberState, ...]
    classes: np.ndarray | None = None
    target: TargetScale | None = None
    class_prior: np.ndarray | None = None
    class_weights: np.ndarray | None = None
    prior: np.ndarray | None = None
    calibrator: Calibrator | None = None
    decision: DecisionRule | None = None
    intervals: Intervals | None = None
    residual_scale: ResidualScale | None = None
    quantile_shifts: tuple[float, ...] = ()
    trees: TreeMix | None = None
    best_epochs: tuple[int, ...] = ()
    history: tuple[dict[str, float], ...] = ()
    stopped: StopReason | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target_format(self) -> CellFormat:
        """How the text of the target was written in the training rows."""
        document = self.card.get("target_format")
        if not isinstance(document, dict):
            return USUAL
        return CellFormat.from_document(Reader(document, "card.target_format"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the one-file artifact; a crash leaves the old file or the new one.

        Raises `ValueError` if the name says another format, such as ``.pkl``.
        Raises `OSError` if the folder cannot be written; the old file stays.
        Raises `ArtifactError` if the file could not be read back: the model holds something that no
            fit gives. Nothing is written.
        """
        check_suffix(path, ".safetensors")
        data = pack(*self.to_artifact())
        # What could not be loaded must not take the place of a file that can.
        FittedModel.from_artifact(*unpack(data, "the model to save"))
        write_atomically(path, data)

    def to_artifact(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The document and the tensors of the artifact."""
        tensors: dict[str, np.ndarray] = {}
        encoder, encoder_tensors = self.encoder.to_state()
        tensors |= prefixed("encoder.", encoder_tensors)
        for k, member in enumerate(self.members):
            tensors |= prefixed(f"members.{k}.", member)
        calibrator = None
        if self.calibrator is not None:
            calibrator, calibrator_tensors = self.calibrator.to_state()
            tensors |= prefixed("calibrator.", calibrator_tensors)
        decision = None
        if self.decision is not None:
            decision, decision_tensors = self.decision.to_state()
            tensors |= prefixed("decision.", decision_tensors)
        intervals = None
        if self.intervals is not None:
            intervals, interval_tensors = self.intervals.to_state()
            tensors |= prefixed("intervals.", interval_tensors)
        residual_scale = None
        if self.residual_scale is not None:
            residual_scale, scale_tensors = self.residual_scale.to_state()
            tensors |= prefixed("residual_scale.", scale_tensors)
        trees = None
        if self.trees is not None:
            trees, tree_tensors = self.trees.to_state()
            tensors |= prefixed("trees.", tree_tensors)
        for name in ("class_prior", "class_weights", "prior"):
            vector = getattr(self, name)
            if vector is not None:
                tensors[name] = np.asarray(vector, dtype=np.float64)
        classes = None
        if self.classes is not None:
            classes, class_tensors = _classes_to_state(self.classes)
            tensors |= class_tensors
        document = {
            "settings": self.settings.to_document(),
            "architecture": asdict(self.architecture),
            "n_members": len(self.members),
            "encoder": encoder,
            "classes": classes,
            "target": None if self.target is None else self.target.to_document(),
            "calibrator": calibrator,
            "decision": decision,
            "intervals": intervals,
            "residual_scale": residual_scale,
            "quantile_shifts": list(self.quantile_shifts) or None,
            "trees": trees,
            "best_epochs": list(self.best_epochs),
            "history": [dict(epoch) for epoch in self.history],
            "metrics": {rows: dict(scores) for rows, scores in self.metrics.items()},
            "card": {**self.card, **({} if self.stopped is None else {"stopped": self.stopped})},
        }
        document = {
            name: value for name, value in document.items() if not left_out(name, value, None)
        }
        return document, tensors

    @classmethod
    def from_artifact(
        cls, document: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
    ) -> FittedModel:
        """Check everything and put the model together again.

        Raises `ArtifactError` if anything is missing, left over, of the wrong type or out of range.
        """
        reader, bag = Reader(document), TensorBag(tensors)
        settings = FitSettings.from_document(reader.child("settings"))
        architecture = NetworkSpec.from_document(reader.child("architecture"))
        encoder = TableEncoder.from_state(reader.child("encoder"), bag.scoped("encoder."))
        _agree("architecture.input_dim", architecture.input_dim, encoder.input_dim, "the encoder")
        shapes = architecture.tensor_shapes()
        members = tuple(
            take_member(bag.scoped(f"members.{k}."), shapes)
            for k in range(reader.integer("n_members", low=1, high=1024))
        )
        classes = target = calibrator = decision = intervals = trees = None
        if _is_given(reader, "classes"):
            classes = _classes_from_state(reader.child("classes"), bag)
        if _is_given(reader, "target"):
            target = TargetScale.from_document(
                reader.child("target"), settings.objective, settings.quantiles
            )
        if (classes is None) == (settings.task == "classification") or (target is None) == (
            settings.task == "regression"
        ):
            raise ArtifactError(
                f"document.classes and document.target must fit the task {settings.task!r}; "
                "the file was not written by tabwright as it is"
            )
        n_classes = 1 if classes is None else len(classes)
        if settings.objective == "quantile":
            n_levels = len(settings.quantiles)
            _agree("architecture.output_dim", architecture.output_dim, n_levels, "the quantiles")
        else:
            _agree("architecture.output_dim", architecture.output_dim, n_classes, "the labels")
        if _is_given(reader, "calibrator"):
            calibrator = Calibrator.from_state(
                reader.child("calibrator"), bag.scoped("calibrator."), n_classes=n_classes
            )
        if _is_given(reader, "decision"):
            if classes is None:
                raise reader.fail("decision", "null in regression")
            decision = DecisionRule.from_state(
                reader.child("decision"), bag.scoped("decision."), n_classes=n_classes
            )
        if _is_given(reader, "intervals"):
            if classes is not None:
                raise reader.fail("intervals", "null in classification")
            intervals = Intervals.from_state(reader.child("intervals"), bag.scoped("intervals."))
        residual_scale = None
        if _is_given(reader, "residual_scale"):
            residual_scale = ResidualScale.from_state(
                reader.child("residual_scale"), bag.scoped("residual_scale."), encoder.input_dim
            )
        if (intervals is not None and intervals.scale == "network") != (residual_scale is not None):
            raise reader.fail("residual_scale", "there where intervals.scale is 'network'")
        has_quantiles = settings.objective == "quantile" and len(settings.quantiles) > 1
        if intervals is not None and intervals.scale == "quantiles" and not has_quantiles:
            raise reader.fail("intervals", "scaled by quantiles only where there are two")
        shifts: tuple[float, ...] = ()
        if _is_given(reader, "quantile_shifts"):
            if settings.objective != "quantile":
                raise reader.fail("quantile_shifts", "those of objective 'quantile'")
            shifts = reader.numbers("quantile_shifts", length=len(settings.quantiles))
        if _is_given(reader, "trees"):
            trees = TreeMix.from_state(
                reader.child("trees"),
                bag.scoped("trees."),
                encoder,
                n_outputs=1 if n_classes <= 2 else n_classes,
            )
        vectors = _read_class_vectors(bag, settings, n_classes)
        card = reader.free("card")
        if not isinstance(card, dict):
            raise reader.fail("card", "an object")
        card = dict(card)
        stopped = next(
            (reason for reason in get_args(StopReason) if reason == card.get("stopped")), None
        )
        if stopped is not None:
            del card["stopped"]
        metrics = reader.child("metrics")
        model = cls(
            settings=settings,
            encoder=encoder,
            architecture=architecture,
            members=members,
            classes=classes,
            target=target,
            calibrator=calibrator,
            decision=decision,
            intervals=intervals,
            residual_scale=residual_scale,
            quantile_shifts=shifts,
            trees=trees,
            best_epochs=reader.integers("best_epochs"),
            history=tuple(_read_epoch(epoch) for epoch in reader.children("history")),
            metrics={rows: metrics.mapping_of_numbers(rows) for rows in sorted(metrics.keys())},
            stopped=stopped,
            card=card,
            **vectors,
        )
        reader.done()
        bag.done()
        return model


def as_fitted(model: object) -> FittedModel:
    """A fitted model as it is, or that of a fitted estimator.

    Raises `TypeError` if it is neither.
    """
    fitted = getattr(model, "model_", model)
    if not isinstance(fitted, FittedModel):
        raise TypeError(
            "the model must be a fitted TabularClassifier or TabularRegressor, or a FittedModel; "
            f"got {type(model).__name__}; fit it, or load it with load_model(path)"
        )
    return fitted


def load_fitted(path: str | os.PathLike[str]) -> FittedModel:
    """Read a model file.

    Raises
    ------
    ArtifactError
        If the file is not a whole and valid model of ours; the message says what and where.
    """
    return FittedModel.from_artifact(*read_artifact(path))


def member_modules(model: FittedModel) -> list[nn.Module]:
    """The members as `models.py` modules in eval mode."""
    import torch

    modules = []
    for state in model.members:
        module = model.architecture.build()
        module.load_state_dict(
            {name: torch.from_numpy(value.copy()) for name, value in state.items()}
        )
        modules.append(module.eval())
    return modules


def _is_given(document: Reader, key: str) -> bool:
    """Whether a key holds a value or null; only keys later than format 1 may be missing."""
    if key not in document and not may_be_missing(key):
        raise document.fail(key, "given, or null")
    return document.optional(key)


def _agree(what: str, value: int, wanted: int, owner: str) -> None:
    if value != wanted:
        raise ArtifactError(f"document.{what} must agree with {owner}, {wanted}; got {value}")


def _read_class_vectors(
    bag: TensorBag, settings: FitSettings, n_classes: int
) -> dict[str, np.ndarray | None]:
    """Shares, weights and the prior asked for, those that the task and the mode have."""
    weighted = settings.training_mode == "imbalance_aware"
    needed = {"class_prior": settings.task == "classification", "class_weights": weighted}
    allowed = {"class_prior", "class_weights"} if settings.task == "classification" else set()
    if weighted:
        allowed.add("prior")
    vectors: dict[str, np.ndarray | None] = {}
    for name in ("class_prior", "class_weights", "prior"):
        vectors[name] = None
        if needed.get(name) or (name in allowed and bag.has(name)):
            vector = bag.take(name, dtype="float64", shape=(n_classes,))
            # A class may have no weight left in training, but then it cannot be weighted up.
            empty = name == "class_prior" and not weighted
            if not ((vector > 0) | (empty & (vector == 0))).all():
                raise ArtifactError(f"tensor {name!r} must hold numbers above 0; got {vector!r}")
            if name != "class_weights" and abs(vector.sum() - 1.0) > 1e-6:
                raise ArtifactError(f"tensor {name!r} must hold shares of 1; got {vector!r}")
            vectors[name] = vector
    return vectors


def _read_epoch(document: Reader) -> dict[str, float]:
    epoch = {name: document.number(name) for name in sorted(document.keys())}
    if "epoch" not in epoch:
        raise document.fail("epoch", "the number of the epoch")
    return epoch


def _classes_to_state(classes: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The labels as a document and arrays; text as one array of bytes."""
    kind: Literal["text", "object", "array"] = "array"
    if classes.dtype.kind == "U":
        kind = "text"
    elif classes.dtype.kind == "O":
        kind = "object"
    if kind == "array":
        return {"kind": kind, "dtype": classes.dtype.name}, {"classes": classes}
    data, offsets = text_to_array([str(label) for label in classes])
    return {"kind": kind, "dtype": "text"}, {"classes.text": data, "classes.offsets": offsets}


def _classes_from_state(document: Reader, bag: TensorBag) -> np.ndarray:
    """The labels read back, checked: at least two, in rising order."""
    kind = document.choice("kind", ("text", "object", "array"))
    dtype = document.choice("dtype", ("text", *_LABEL_DTYPES))
    document.done()
    if (kind == "array") == (dtype == "text"):
        raise document.fail("dtype", f"the dtype of labels of kind {kind!r}")
    if kind == "array":
        classes = bag.take("classes", dtype=dtype, shape=(None,))
    else:
        labels = array_to_text(
            bag.take("classes.text", dtype="uint8", shape=(None,)),
            bag.take("classes.offsets", dtype="int64", shape=(None,)),
            where="tensors classes",
        )
        classes = np.array(labels, dtype=object if kind == "object" else np.str_)
    if len(classes) < 2 or not (classes[1:] > classes[:-1]).all():
        raise ArtifactError(
            f"the labels must be at least 2, each once, in rising order; got {classes[:5]!r}"
        )
    return classes
