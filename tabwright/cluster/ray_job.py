"""`train_on_ray`: what `tabwright train` does, as a Ray Train job.

Ray Data reads the table, once to count and once to encode it, and keeps the encoded rows; Ray Train
starts the workers, watches them and starts them anew (`ray_cluster`).
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from tabwright.cluster.prediction_parts import parts_of
from tabwright.cluster.ray_cluster import RayCluster
from tabwright.cluster.ray_predict import absolute_source, check_cluster, joined_ray, quiet_data
from tabwright.errors import install_command
from tabwright.streaming.chunks import CHUNK_ROWS
from tabwright.tables import table_dtypes
from tabwright.workflows.requests.train import TrainRequest, check_training
from tabwright.workflows.train import run_training


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
        The table, best as Parquet, must be where all workers see it: on a shared disk, or in a
        store. The state of the run is kept beside the model, or at `request.checkpoint`; for
        workers that are started anew on another machine, that must be a shared disk too.
    n_workers : int
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
        If there is no worker, or the request does not fit the table.
    TableError
        If the table or a column is not what it should be.
    ConnectionError
        If nobody answers at RAY_ADDRESS.
    ray.train.TrainingFailedError
        If the workers failed more often than `max_failures`; with the last one's error.
    """
    if n_workers < 1:
        raise ValueError(f"a job on Ray must have at least 1 worker; got {n_workers}")
    if find_spec("ray") is None:
        raise ImportError(
            f"training on Ray needs ray, which is not installed; run: {install_command('ray')}"
        )
    check_cluster()
    # Workers have working folders of their own.
    asked = replace(request.table, table=absolute_source(request.table.table))
    checkpoint = None if request.checkpoint is None else request.checkpoint.absolute()
    request = replace(request, table=asked, output=request.path.absolute(), checkpoint=checkpoint)
    # What the request and the files say of themselves is looked at before a worker starts.
    check_training(request)
    parts_of(asked.table, CHUNK_ROWS, asked.csv)
    names = table_dtypes(
        asked.table,
        csv=asked.csv,
        text_as_it_is=True,
        is_ignored=asked.columns.drop.__contains__,
    )
    asked.columns.check(names, asked.table)
    cluster = RayCluster(n_workers, use_gpu, max_failures, timeout, storage)
    with joined_ray(), quiet_data():
        run_training(request, trainer=cluster)
    return request.path
