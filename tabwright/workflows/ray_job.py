"""`train_on_ray`: what `tabwright train` does, as a Ray Train job.

Ray starts the workers, watches them and starts them anew; they do what workers of torchrun do.
"""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tabwright.errors import install_command
from tabwright.workflows.train import TrainRequest, run_training

__all__ = ["train_on_ray"]


def train_on_ray(
    request: TrainRequest,
    *,
    n_workers: int,
    use_gpu: bool = False,
    max_failures: int = 3,
    timeout: float = 600.0,
    storage: str | None = None,
) -> Path:
    """Train on a Ray cluster: the one that `ray.init` joined, or a local one.

    Parameters
    ----------
    request : TrainRequest
        The table, best as Parquet, and the model's file must be where all workers see them. The
        state of the run is kept beside the model, or at `request.checkpoint`.
    n_workers : int
        At least 2: one needs no Ray.
    use_gpu : bool, default=False
        Whether each worker takes a CUDA device.
    max_failures : int, default=3
        How often the workers are started anew when one dies; they go on from the state.
    timeout : float, default=600.0
        A worker waits at most so many seconds for the others in one sum; rounded up.
    storage : str, optional
        Ray's `storage_path`, for its own notes.

    Returns
    -------
    Path
        The model's file.

    Raises
    ------
    ImportError
        If the extra `ray` is not installed.
    ValueError
        If there are fewer than two workers.
    ray.train.TrainingFailedError
        If the workers failed more often than `max_failures`; with the last one's error.
    """
    if n_workers < 2:
        raise ValueError(
            f"a job on Ray must have at least 2 workers; got {n_workers}; for one, use "
            "tabwright train"
        )
    if find_spec("ray") is None:
        raise ImportError(
            f"training on Ray needs ray, which is not installed; run: {install_command('ray')}"
        )
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    # Workers have working folders of their own.
    asked = replace(request.table, table=str(Path(request.table.table).absolute()))
    checkpoint = None if request.checkpoint is None else request.checkpoint.absolute()
    request = replace(request, table=asked, output=request.path.absolute(), checkpoint=checkpoint)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"request": request},
        torch_config=TorchConfig(
            backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo", timeout_s=math.ceil(timeout)
        ),
        scaling_config=ScalingConfig(num_workers=n_workers, use_gpu=use_gpu),
        run_config=RunConfig(
            storage_path=storage, failure_config=FailureConfig(max_failures=max_failures)
        ),
    )
    trainer.fit()
    return request.path


def _work(config: dict[str, Any]) -> None:
    """What every worker runs."""
    run_training(config["request"])
