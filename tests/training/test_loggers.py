"""Fits written to the real TensorBoard and the real MLflow, and read back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright import (
    MLflowLogger,
    TabularClassifier,
    TabularRegressor,
    TensorBoardLogger,
    load_model,
)
from tabwright.cli.app import app
from tabwright.errors import install_command
from tabwright.inference.fitted_model import load_fitted
from tests.packages import PACKAGE, ROOT

SMALL: dict[str, Any] = {
    "hidden_dim": 8,
    "num_hidden_layers": 1,
    "n_members": 1,
    "max_epochs": 3,
    "batch_size": 16,
    "random_state": 0,
}
X = np.random.default_rng(0).normal(size=(60, 2))
Y = X[:, 0] > 0


def _events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_tensorboard_files_hold_curves_settings_and_scores(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    model = TabularClassifier(**SMALL).fit(X, Y, callbacks=[TensorBoardLogger(tmp_path / "run")])
    events = _events(tmp_path / "run")
    for tag, name in (("loss/train", "train_loss"), ("loss/validation", "validation_loss")):
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [1, 2, 3]
        np.testing.assert_allclose(
            [scalar.value for scalar in scalars], [epoch[name] for epoch in model.history_]
        )
    (log_loss,) = events.Scalars("validation/log_loss")
    assert log_loss.value == pytest.approx(model.model_.metrics["validation"]["log_loss"])
    (text,) = events.Tensors("settings/text_summary")
    assert b'"hidden_dim": 8' in text.tensor_proto.string_val[0]


def test_steps_go_on_where_a_fit_trains_a_second_time(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    TabularRegressor(**SMALL, refit=True).fit(X, X[:, 0], callbacks=[TensorBoardLogger(tmp_path)])
    events = _events(tmp_path)
    steps = [scalar.step for scalar in events.Scalars("loss/train")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 3
    # The second training has no validation rows: nothing is drawn where nothing was measured.
    assert len(events.Scalars("loss/validation")) == 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tracking store in SQLite; the experiment keeps its artifacts beside it."""
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="the extra mlflow is not installed")
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri)
    client.create_experiment("tables", artifact_location=(folder / "artifacts").as_uri())
    return uri


@pytest.mark.slow
def test_mlflow_run_holds_settings_curves_scores_and_the_model(store: str, tmp_path: Path) -> None:
    import mlflow

    logger = MLflowLogger(store, experiment="tables", run_name="first")
    model = TabularClassifier(**SMALL).fit(X, Y, callbacks=[logger])
    client = mlflow.MlflowClient(tracking_uri=store)
    run = client.get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.data.params["hidden_dim"] == "8"
    assert run.data.params["training_mode"] == "mlp_dense"
    assert run.data.params["n_training_rows"] == "48"
    history = client.get_metric_history(logger.run_id, "loss/validation")
    assert [(point.step, point.value) for point in history] == [
        (epoch["epoch"], epoch["validation_loss"]) for epoch in model.history_
    ]
    expected = model.model_.metrics["validation"]["log_loss"]
    assert run.data.metrics["validation/log_loss"] == expected
    path = client.download_artifacts(logger.run_id, "model.safetensors", str(tmp_path))
    again = load_model(path)
    assert isinstance(again, TabularClassifier)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


@pytest.mark.slow
def test_mlflow_run_of_a_failed_fit_says_so(store: str) -> None:
    import mlflow

    def fail(epoch: Any) -> None:
        raise RuntimeError("no more")

    logger = MLflowLogger(store, experiment="tables", log_model=False)
    with pytest.raises(RuntimeError, match="no more"):
        TabularClassifier(**SMALL).fit(X, Y, callbacks=[logger, fail])
    assert mlflow.MlflowClient(tracking_uri=store).get_run(logger.run_id).info.status == "FAILED"


@pytest.mark.slow
def test_mlflow_run_of_the_caller_is_written_to_and_left_open(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    experiment = mlflow.get_experiment_by_name("tables")
    with mlflow.start_run(experiment_id=experiment.experiment_id) as run:
        logger = MLflowLogger(log_model=False)
        TabularClassifier(**SMALL).fit(X, Y, callbacks=[logger])
        assert logger.run_id == run.info.run_id
        assert mlflow.get_run(logger.run_id).info.status == "RUNNING"
    assert mlflow.get_run(run.info.run_id).data.params["hidden_dim"] == "8"


@pytest.mark.parametrize(
    ("package", "call", "line"),
    [
        ("tensorboard", "TensorBoardLogger('runs')", install_command("tensorboard")),
        ("mlflow", "MLflowLogger()", install_command("mlflow")),
    ],
)
def test_a_missing_package_names_its_install_line(package: str, call: str, line: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from {PACKAGE} import MLflowLogger, TensorBoardLogger\n"
        f"try:\n    {call}\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert line in done.stdout


def test_the_command_line_logs_the_scores_of_the_test_rows(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    table, model = tmp_path / "table.csv", tmp_path / "model.safetensors"
    pl.DataFrame({"a": X[:, 0], "b": X[:, 1], "y": Y}).write_csv(table)
    words = ["train", str(table), "--target", "y", "--output", str(model), "--quiet"]
    words += ["--epochs", "3", "--members", "1", "--width", "8"]
    result = CliRunner().invoke(app, [*words, "--tensorboard", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    events = _events(tmp_path / "run")
    assert len(events.Scalars("loss/train")) == 3
    (accuracy,) = events.Scalars("test/accuracy")
    assert accuracy.value == pytest.approx(load_fitted(model).metrics["test"]["accuracy"])
