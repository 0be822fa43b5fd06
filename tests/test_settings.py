"""The settings refuse what cannot be, and a file's settings obey the same rules."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

import pytest

from ai.ml.frameworks.pytorch.models import TrainingMode
from tabwright.artifact.format_versions import ADDED
from tabwright.artifact.schema import Reader
from tabwright.errors import ArtifactError
from tabwright.settings import (
    MODE_SUMMARIES,
    TRAINING_MODES,
    FitSettings,
    Task,
    modes_for,
)


def test_modes_are_those_of_the_contract() -> None:
    assert get_args(TrainingMode) == TRAINING_MODES
    assert tuple(MODE_SUMMARIES) == TRAINING_MODES


@pytest.mark.parametrize("mode", ["imbalance_aware", "calibrated_classifier"])
def test_a_mode_that_does_not_fit_the_task_is_refused_with_those_that_do(mode: Any) -> None:
    with pytest.raises(ValueError, match="does not fit a regression task; those that do: mlp_d"):
        FitSettings(task="regression", training_mode=mode)
    assert mode not in modes_for("regression")
    assert mode in modes_for("classification")


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("task", "ranking", "task must be"),
        ("training_mode", "mlp", "training_mode must be one of mlp_dense"),
        ("hidden_dim", 0, "hidden_dim must be an integer of at least 1"),
        ("hidden_dim", 2.5, "hidden_dim must be an integer"),
        ("num_hidden_layers", 1.5, "num_hidden_layers must be"),
        ("num_hidden_layers", 0, "num_hidden_layers must be an integer of at least 1"),
        ("dropout", 1.0, r"dropout must be in \[0, 1\), or None; got 1.0"),
        ("dropout", float("nan"), "dropout must be in"),
        ("n_members", 0, "n_members must be"),
        ("n_members", True, "n_members must be"),
        ("max_epochs", -1, "max_epochs must be"),
        ("patience", 0, "patience must be"),
        ("batch_size", 0, "batch_size must be"),
        ("learning_rate", 0.0, "learning_rate must be"),
        ("learning_rate", float("inf"), "learning_rate must be"),
        ("weight_decay", -0.1, "weight_decay must be"),
        ("validation_fraction", 1.0, "validation_fraction must be"),
        ("numeric_encoding", "magic", "numeric_encoding must be one of auto"),
        ("calibration", "platt", "calibration must be None or one of auto"),
        ("teacher_weight", 1.5, "teacher_weight must be"),
        ("teacher_temperature", 0.0, "teacher_temperature must be"),
        ("random_state", -1, "random_state must be"),
        ("device", "tpu", "device must be"),
        ("precision", "float16", "precision must be 'float32' or 'bfloat16'; got 'float16'"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(field: str, value: object, rule: str) -> None:
    values: dict[str, Any] = {"task": "classification", field: value}
    with pytest.raises(ValueError, match=rule):
        FitSettings(**values)


def test_the_networks_of_classifiers_alone_end_together() -> None:
    def waited(task: Task, n_rows: int = 2_000, **values: Any) -> int | None:
        return FitSettings(task=task, **values).resolved(n_rows=n_rows).common_patience

    assert waited("classification") == 8
    assert waited("classification", 20_000) == 16
    assert waited("regression") is None
    assert waited("classification", patience=40) is None
    assert waited("classification", eval_metric="accuracy") is None
    assert waited("classification", training_mode="linear_glm_baseline") is None


def test_the_document_gives_the_same_settings_back() -> None:
    settings = FitSettings(task="regression", hidden_dim=64, patience=None).resolved(n_rows=100)
    assert FitSettings.from_document(Reader(settings.to_document())) == settings


@pytest.mark.parametrize("field", [field.name for field in fields(FitSettings)])
def test_a_document_with_a_field_missing_or_of_a_wrong_type_is_refused(field: str) -> None:
    document = FitSettings(task="classification").resolved(n_rows=100).to_document()
    with pytest.raises(ArtifactError):
        FitSettings.from_document(Reader({**document, field: ["odd"]}))
    if f"settings.{field}" in ADDED:
        return  # Older files lack it: it has its default there.
    with pytest.raises(ArtifactError):
        FitSettings.from_document(Reader({k: v for k, v in document.items() if k != field}))


def test_an_edited_value_out_of_range_is_refused() -> None:
    document = FitSettings(task="classification").to_document()
    with pytest.raises(ArtifactError, match="dropout must be in"):
        FitSettings.from_document(Reader({**document, "dropout": 2.0}))


def test_layers_below_one_of_older_files_are_read_as_one() -> None:
    document = FitSettings(task="classification", num_hidden_layers=2).to_document()
    read = FitSettings.from_document(Reader({**document, "num_hidden_layers": -2}))
    assert read.num_hidden_layers == 1


def test_resolving_fills_in_every_size_and_keeps_what_was_asked() -> None:
    for n_rows in (10, 10_000, 10_000_000):
        for mode in TRAINING_MODES:
            settings = FitSettings(task="classification", training_mode=mode, hidden_dim=7)
            resolved = settings.resolved(n_rows=n_rows)
            assert resolved.hidden_dim == 7
            assert None not in (resolved.num_hidden_layers, resolved.max_epochs)
            assert None not in (resolved.batch_size, resolved.n_members)


def test_few_rows_make_a_smaller_network_unless_one_is_asked_for() -> None:
    for n_rows, wanted in ((1_499, (128, 2)), (1_500, (256, 3))):
        resolved = FitSettings(task="regression").resolved(n_rows=n_rows)
        assert (resolved.hidden_dim, resolved.num_hidden_layers) == wanted
    asked = FitSettings(task="regression", hidden_dim=64, num_hidden_layers=4)
    resolved = asked.resolved(n_rows=100)
    assert (resolved.hidden_dim, resolved.num_hidden_layers) == (64, 4)


def test_many_classes_are_learned_for_longer() -> None:
    settings = FitSettings(task="classification")
    for n_rows, n_classes, wanted in (
        (1_499, 2, 40),
        (1_500, 2, 20),
        (7_999, 9, 20),
        (7_999, 10, 40),
        (8_000, 2, 40),
    ):
        assert settings.resolved(n_rows=n_rows, n_classes=n_classes).max_epochs == wanted
    assert settings.resolved(n_rows=5_000).max_epochs == 20


def test_a_tenth_of_the_rows_is_held_out_and_of_few_rows_a_hundred() -> None:
    settings = FitSettings(task="classification")
    for n_rows, wanted in ((1, 0.2), (499, 0.2), (800, 0.125), (1_000, 0.1), (10**9, 0.1)):
        assert settings.held_out_share(n_rows) == pytest.approx(wanted)
    assert settings.held_out_share(None) == 0.1
    student = FitSettings(task="classification", training_mode="tree_teacher_distillation")
    assert student.held_out_share(10**6) == student.held_out_share(None) == 0.2
    asked = FitSettings(task="regression", validation_fraction=0.3)
    assert asked.held_out_share(100) == asked.held_out_share(None) == 0.3
