"""What the caller of a fit gives besides rows and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tabwright.calibration.decisions import DecisionAim
from tabwright.distillation.trees.learners import TreeKind
from tabwright.fitting.class_weights import ClassWeight, Prior
from tabwright.settings import FitSettings
from tabwright.tables import Role, TableProfile, profile_table
from tabwright.tables.cell_format import USUAL, CellFormat
from tabwright.tables.labelled import LabelledRows
from tabwright.training.loop import Epoch


@dataclass(frozen=True)
class Columns:
    """What is known of the columns of a table.

    `named`: whether the columns have names of their own (a frame) or not (an array).
    `profile`: of a table that the rows are a part of: in a part, row numbers are not consecutive
        any more. None: of the rows.
    `target_name`: for the model's card; a column of this name is not taken for a forgotten feature.
    `target_format`: how the text of a target without a name was written.
    """

    named: bool = True
    roles: Mapping[str, Role] | None = None
    profile: TableProfile | None = None
    target_name: str | None = None
    target_format: CellFormat = USUAL

    def format_of_target(self, rows: LabelledRows) -> CellFormat:
        """How the text of the target was written."""
        if self.target_name is None:
            return self.target_format
        return rows.formats.get(self.target_name, USUAL)

    def profile_of(self, rows: LabelledRows) -> TableProfile:
        """What each column of the rows is."""
        return self.profile or profile_table(
            rows.frame, named=self.named, roles=self.roles, formats=rows.formats
        )


@dataclass(frozen=True)
class Aims:
    """What the model shall serve.

    `class_weight`: refused by `imbalance_aware`, which has weights of its own.
    `prior`: the class prior under which `imbalance_aware` answers.
    `decision`: what the stored decision rule shall serve; it is tuned on the validation rows.
    `eval_metric`: what chooses the epoch, as in `eval_metric_of`; None: what the settings name,
        else the loss.
    `trees`: a kind of trees to weigh against the networks besides those of `quality`; none with
        `refit`, nor for another objective than squared error.
    """

    class_weight: ClassWeight = None
    prior: Prior = "training"
    decision: DecisionAim | Callable[[np.ndarray], DecisionAim] | None = None
    eval_metric: object = None
    trees: TreeKind | None = None

    def check_mode(self, settings: FitSettings) -> None:
        """Refuse what task or mode has no use for: a calibration, or class weights of one's own."""
        settings.check_used()
        if settings.training_mode == "imbalance_aware" and self.class_weight is not None:
            raise ValueError(
                "imbalance_aware computes its own class weights and takes no class_weight; got "
                f"{self.class_weight!r}; use training_mode='mlp_dense' to choose them"
            )

    def decision_for(self, classes: np.ndarray | None) -> DecisionAim | None:
        """The aim of the decision rule for these labels.

        Raises `ValueError` if it does not fit them, or in regression.
        """
        if self.decision is None:
            return None
        if classes is None:
            raise ValueError("a decision rule is for classification; this is a regression task")
        aim = self.decision if isinstance(self.decision, DecisionAim) else self.decision(classes)
        aim.check(len(classes))
        return aim


@dataclass(frozen=True)
class FitCallbacks:
    """What is called during a fit.

    `on_start`: called before training with the resolved settings and the numbers of training and
        validation rows.
    `on_message`: called with each decision, as a sentence, and with what takes time before the
        first epoch.
    `on_profile`: called with what each column is, where the fit finds that out itself.
    """

    on_start: Callable[[FitSettings, int, int], None] | None = None
    on_epoch: Callable[[Epoch], None] | None = None
    on_message: Callable[[str], None] | None = None
    on_profile: Callable[[TableProfile], None] | None = None

    def start(self, settings: FitSettings, n_training_rows: int, n_validation_rows: int) -> None:
        """Tell what is about to be trained."""
        if self.on_start is not None:
            self.on_start(settings, n_training_rows, n_validation_rows)

    def emit(self, message: str) -> None:
        """Tell a sentence."""
        if self.on_message is not None:
            self.on_message(message)
