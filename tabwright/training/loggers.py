"""Callbacks that write a fit to TensorBoard or MLflow, each an extra.

Nothing is imported before a logger is made, and a missing package names its install line then,
not after the training.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabwright.errors import install_command
from tabwright.training.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tabwright.inference.fitted_model import FittedModel
    from tabwright.settings import FitSettings
    from tabwright.training.loop import Epoch


class _Steps:
    """Numbers for the epochs of a fit that may train more than once, or go on from a checkpoint."""

    def __init__(self) -> None:
        self._last = 0

    def of(self, epoch: Epoch) -> int:
        self._last = max(epoch.epoch, self._last + 1)
        return self._last


def _curves(epoch: Epoch) -> dict[str, float]:
    """The finite numbers of an epoch by the names of their curves."""
    curves = {
        "loss/train": epoch.train_loss,
        "loss/validation": epoch.validation_loss,
        "loss/best": epoch.best_loss,
        "score/validation": epoch.validation_score,
        "score/best": epoch.best_score,
        "learning_rate": epoch.learning_rate,
    }
    return {name: value for name, value in curves.items() if math.isfinite(value)}


def _scores(model: FittedModel) -> dict[str, float]:
    return {
        f"{rows}/{name}": value
        for rows, scores in model.metrics.items()
        for name, value in scores.items()
        if math.isfinite(value)
    }


def _facts(settings: FitSettings, n_training_rows: int, n_validation_rows: int) -> dict[str, Any]:
    rows = {"n_training_rows": n_training_rows, "n_validation_rows": n_validation_rows}
    return settings.to_document() | rows


class TensorBoardLogger(Callback):
    """Writes losses, learning rate, settings and scores as TensorBoard event files.

    Parameters
    ----------
    log_dir : str or path-like
        Folder of one run; made if it is not there. ``tensorboard --logdir`` its parent to compare
        runs.

    Raises
    ------
    ImportError
        If the extra `tensorboard` is not installed.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoardLogger needs tensorboard, which is not installed; run: "
                f"{install_command('tensorboard')}"
            ) from error
        self._make_writer = SummaryWriter
        self._log_dir = os.fspath(log_dir)
        self._writer: Any = None
        self._steps = _Steps()

    def on_start(self, settings: FitSettings, n_training_rows: int, n_validation_rows: int) -> None:
        self._close()
        self._steps = _Steps()
        self._writer = self._make_writer(self._log_dir)
        facts = _facts(settings, n_training_rows, n_validation_rows)
        # TensorBoard shows text as Markdown: four spaces keep it as it is.
        text = json.dumps(facts, indent=2)
        self._writer.add_text("settings", "\n".join(f"    {line}" for line in text.splitlines()))

    def on_epoch(self, epoch: Epoch) -> None:
        step = self._steps.of(epoch)
        for name, value in _curves(epoch).items():
            self._writer.add_scalar(name, value, step)

    def on_end(self, model: FittedModel) -> None:
        for name, value in _scores(model).items():
            self._writer.add_scalar(name, value, 0)
        self._close()

    def on_failure(self, error: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class MLflowLogger(Callback):
    """Writes settings, losses, scores and the model file to an MLflow tracking store.

    Inside ``with mlflow.start_run():`` it writes to that run and leaves it open; otherwise every
    fit is a run of its own.

    Parameters
    ----------
    tracking_uri : str, optional
        Such as ``"sqlite:///mlflow.db"`` or a server's address; None: MLflow's own choice.
    experiment : str, default="tabwright"
        Made if it is not there; not used in an active run.
    run_name : str, optional
        None: MLflow makes one up.
    log_model : bool, default=True
        Whether the model's `.safetensors` file becomes an artifact of the run, which `load_model`
        reads.

    Attributes
    ----------
    run_id : str or None
        Of the last run written to.

    Raises
    ------
    ImportError
        If the extra `mlflow` is not installed.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        *,
        experiment: str = "tabwright",
        run_name: str | None = None,
        log_model: bool = True,
    ) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise ImportError(
                "MLflowLogger needs mlflow, which is not installed; run: "
                f"{install_command('mlflow')}"
            ) from error
        self._mlflow = mlflow
        self._tracking_uri = tracking_uri
        self._experiment = experiment
        self._run_name = run_name
        self._log_model = log_model
        self._client: Any = None
        self._is_ours = False
        self._steps = _Steps()
        self.run_id: str | None = None

    def on_start(self, settings: FitSettings, n_training_rows: int, n_validation_rows: int) -> None:
        from tabwright._version import __version__

        active = self._mlflow.active_run() if self._tracking_uri is None else None
        self._client = self._mlflow.MlflowClient(tracking_uri=self._tracking_uri)
        self._is_ours = active is None
        self._steps = _Steps()
        if active is None:
            known = self._client.get_experiment_by_name(self._experiment)
            where = (
                known.experiment_id if known else self._client.create_experiment(self._experiment)
            )
            run = self._client.create_run(where, run_name=self._run_name)
        else:
            run = active
        self.run_id = run.info.run_id
        entities = self._mlflow.entities
        facts = _facts(settings, n_training_rows, n_validation_rows)
        self._client.log_batch(
            self.run_id,
            params=[entities.Param(name, str(value)) for name, value in facts.items()],
            tags=[entities.RunTag("tabwright.version", __version__)],
        )

    def on_epoch(self, epoch: Epoch) -> None:
        self._log(_curves(epoch), self._steps.of(epoch))

    def on_end(self, model: FittedModel) -> None:
        self._log(_scores(model), 0)
        if self._log_model:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.safetensors"
                model.save(path)
                self._client.log_artifact(self.run_id, str(path))
        self._finish("FINISHED")

    def on_failure(self, error: BaseException) -> None:
        self._finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [
            self._mlflow.entities.Metric(name, value, now, step) for name, value in values.items()
        ]
        self._client.log_batch(self.run_id, metrics=metrics)

    def _finish(self, status: str) -> None:
        """End the run, if it is ours and not ended yet."""
        if self._client is not None and self.run_id is not None and self._is_ours:
            self._client.set_terminated(self.run_id, status)
        self._client = None
