"""What shells complete: values of options that begin as what was typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args


def complete_mode(incomplete: str) -> list[str]:
    """Training modes that begin so."""
    from tabwright.settings import TRAINING_MODES

    return _beginning(TRAINING_MODES, incomplete)


def complete_task(incomplete: str) -> list[str]:
    """Tasks that begin so."""
    from tabwright.settings import Task

    return _beginning(get_args(Task), incomplete)


def complete_encoding(incomplete: str) -> list[str]:
    """Encodings of numbers that begin so."""
    from tabwright.settings import NumericEncoding

    return _beginning(get_args(NumericEncoding), incomplete)


def complete_calibration(incomplete: str) -> list[str]:
    """Calibrations that begin so."""
    from tabwright.settings import CalibrationName

    return _beginning((*get_args(CalibrationName), "none"), incomplete)


def complete_teacher(incomplete: str) -> list[str]:
    """Tree ensembles that begin so."""
    from tabwright.distillation.trees.problem import TEACHER_KINDS

    return _beginning(TEACHER_KINDS, incomplete)


def complete_decision(incomplete: str) -> list[str]:
    """Beginnings of `--decision`."""
    words = ("f1", "balanced_accuracy", "recall=", "precision=", "costs=")
    return _beginning(words, incomplete)


def complete_metric(incomplete: str) -> list[str]:
    """Metrics that can judge a comparison."""
    words = ("log_loss", "accuracy", "balanced_accuracy", "auc", "average_precision")
    from tabwright.regression import MEASURES

    return _beginning((*words, *MEASURES.values(), "r2", "d2"), incomplete)


def complete_objective(incomplete: str) -> list[str]:
    """Objectives of regression that begin so."""
    from tabwright.regression import OBJECTIVES

    return _beginning(OBJECTIVES, incomplete)


def _beginning(words: Sequence[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
