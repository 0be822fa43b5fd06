"""`predict_on_ray`: a table of any size predicted by the workers of a Ray cluster.

Ray Data starts the workers, gives each parts of the table, and gives the part of a worker that
died to another. What a part is and how it is written is in `prediction_parts`.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from tabwright.cluster.prediction_parts import (
    OutputFolder,
    parts_of,
    plan_document,
    write_part,
)
from tabwright.errors import TableError, install_command
from tabwright.inference.fitted_model import load_fitted
from tabwright.inference.training_rows import UnfamiliarCells
from tabwright.object_stores import is_object_uri
from tabwright.tables import CsvFormat
from tabwright.workflows.predict import TablePredictions, with_threshold
from tabwright.workflows.reading import Part

# Seconds until a cluster must have answered.
_ANSWER_SECONDS: Final = 10.0


@dataclass(frozen=True)
class PredictRequest:
    """What to predict, and where the predictions go.

    Parameters
    ----------
    model : Path
        A model's file, on this machine.
    table : str
        A file, folder or pattern, or a URI of an object store; the workers read it too.
    output : str
        A folder that the workers see, or a URI.
    keep : tuple of str
        Columns of the table to put before the predictions.
    coverage, threshold, labels_only, digits, csv
        As of `tabwright predict`.
    rows_per_part : int
        Rows of a part of a Parquet or Arrow file; a file of text is one part.
    """

    model: Path
    table: str
    output: str
    keep: tuple[str, ...] = ()
    coverage: float | None = None
    threshold: float | None = None
    labels_only: bool = False
    digits: int | None = None
    csv: CsvFormat | None = None
    rows_per_part: int = 262_144


@dataclass(frozen=True)
class PredictResult:
    """What came of a run.

    `n_rows`: rows in the folder.
    `n_parts`, `n_earlier`: parts in the folder, and how many of them an earlier run had written.
    `remarks`: what was strange in the rows of this run, a sentence a column.
    """

    n_rows: int
    n_parts: int
    n_earlier: int
    remarks: tuple[str, ...]


def predict_on_ray(
    request: PredictRequest,
    *,
    n_workers: int | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> PredictResult:
    """Predict a table on a Ray cluster: the one that `ray.init` joined, or a local one.

    The folder gets Parquet files in the order of the table, `_tabwright-*.json` with what they are,
    and `_SUCCESS` when all are there. A run that was stopped goes on where it was when it is asked
    for again; a worker that dies costs the part it was at.

    Parameters
    ----------
    request : PredictRequest
    n_workers : int, optional
        At most so many workers of one CPU each; as many as the cluster has CPUs by default.
    on_rows : callable, optional
        Called with the number of rows of each part that was written.

    Returns
    -------
    PredictResult

    Raises
    ------
    ImportError
        If the extra `ray` is not installed.
    TableError
        If the table is not there, is empty, or its files, columns or types do not fit the model or
        each other, before any work; at the part that has it, if a cell does not fit its column.
    ValueError
        If an option does not fit the model, or the folder is another run's.
    OSError
        If a part cannot be written, or nobody answers at RAY_ADDRESS.
    """
    if n_workers is not None and n_workers < 1:
        raise ValueError(f"predictions need at least 1 worker; got {n_workers}")
    if find_spec("ray") is None:
        raise ImportError(
            f"predicting on Ray needs ray, which is not installed; run: {install_command('ray')}"
        )
    check_cluster()
    predictions, parts = _checked(request)
    folder = OutputFolder(absolute_source(request.output))
    document = plan_document(
        request.model, absolute_source(request.table), parts, _options(request)
    )
    earlier = folder.begin(document)
    todo = [n for n in range(len(parts)) if folder.part_name(n) not in earlier]
    unfamiliar = UnfamiliarCells(predictions.model.encoder, card=predictions.model.card)
    if todo:
        with joined_ray(), quiet_data():
            for n_rows, counted in _written(predictions, parts, folder, todo, n_workers):
                unfamiliar.merge(counted)
                if on_rows is not None:
                    on_rows(n_rows)
    n_rows = folder.end(len(parts))
    return PredictResult(n_rows, len(parts), len(parts) - len(todo), tuple(unfamiliar.sentences()))


def _checked(request: PredictRequest) -> tuple[TablePredictions, list[Part]]:
    """All that can be refused before a worker starts."""
    model = load_fitted(request.model)
    if request.threshold is not None:
        model = with_threshold(model, request.threshold)
    source, output = absolute_source(request.table), absolute_source(request.output)
    if output == source or output.startswith(source.rstrip("/") + "/"):
        raise ValueError(f"the predictions must not lie in the table's folder; got {output}")
    predictions = TablePredictions.of(
        model,
        source,
        keep=request.keep,
        coverage=request.coverage,
        csv=request.csv,
        labels_only=request.labels_only,
        digits=request.digits,
    )
    parts = parts_of(source, request.rows_per_part, request.csv)
    # The first rows tell whether the columns are what the model needs.
    first = Part(parts[0].file, 0, None if parts[0].n_rows is None else 1)
    next(predictions.pieces(1, UnfamiliarCells(model.encoder), first))
    return predictions, parts


def _options(request: PredictRequest) -> dict[str, Any]:
    """What of the request decides the predictions, by which parts of another run are known."""
    return {
        "keep": list(request.keep),
        "coverage": request.coverage,
        "threshold": request.threshold,
        "labels_only": request.labels_only,
        "digits": request.digits,
        "csv": None if request.csv is None else repr(request.csv),
    }


def absolute_source(place: str) -> str:
    """Workers have working folders of their own."""
    return place if is_object_uri(place) else str(Path(place).absolute())


class _PartWriter:
    """What every worker keeps, and does with a batch of part numbers."""

    def __init__(
        self, predictions: TablePredictions, parts: list[Part], folder: OutputFolder
    ) -> None:
        self._job = (predictions, parts, folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        predictions, parts, folder = self._job
        n_rows, results = [], []
        for number in batch["item"].tolist():
            # A fault of the table or of a disk is the user's to read, not a failure of a worker.
            try:
                part = write_part(predictions, parts, number, folder)
            except (TableError, OSError) as error:
                n_rows.append(0)
                results.append(pickle.dumps(error))
            else:
                n_rows.append(part.n_rows)
                results.append(pickle.dumps(part.unfamiliar.counts))
        return {"rows": np.array(n_rows, dtype=np.int64), "result": np.array(results, object)}


def _written(
    predictions: TablePredictions,
    parts: list[Part],
    folder: OutputFolder,
    todo: list[int],
    n_workers: int | None,
) -> Iterator[tuple[int, UnfamiliarCells]]:
    """The rows and the strange cells of each part, as workers finish them."""
    if n_workers is None:
        n_workers = max(1, int(_resources().get("CPU", 1)))
    dataset = one_by_one(todo, _PartWriter, (predictions, parts, folder), min(n_workers, len(todo)))
    for row in dataset.iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, Exception):
            raise result
        yield row["rows"], UnfamiliarCells(predictions.model.encoder, result)


def one_by_one(
    numbers: Sequence[int], worker: Callable[..., Any], arguments: tuple[Any, ...], n_workers: int
) -> Any:
    """A Ray dataset of what workers make of numbers, given one at a time as the column "item".

    `worker`: a class, of which each of at most `n_workers` actors makes one object with
        `arguments`; or a function that is called with them, in tasks.
    """
    from ray.data import ActorPoolStrategy, TaskPoolStrategy, from_items

    how: Any = (
        {
            "fn_constructor_args": arguments,
            "compute": ActorPoolStrategy(min_size=1, max_size=n_workers),
        }
        if isinstance(worker, type)
        else {"fn_args": arguments, "compute": TaskPoolStrategy(n_workers)}
    )
    return from_items(list(numbers), override_num_blocks=len(numbers)).map_batches(
        worker, batch_size=1, batch_format="numpy", num_cpus=1, **how
    )


def _resources() -> dict[str, float]:
    from ray import cluster_resources

    resources: dict[str, float] = cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def check_cluster() -> None:
    """Refuse an address in RAY_ADDRESS where no cluster answers; Ray itself tries for minutes.

    Raises `ConnectionError`.
    """
    import ray

    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if ray.is_initialized() or not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"RAY_ADDRESS must name a cluster that answers; got {address!r} ({error}); start the "
            "cluster, correct the address, or unset it for a Ray on this machine"
        ) from error


@contextmanager
def joined_ray() -> Iterator[None]:
    """The cluster that the caller joined or RAY_ADDRESS names, or a local one for the while."""
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def quiet_data() -> Iterator[None]:
    """Ray Data without bars and notes of its own."""
    from ray.data import DataContext

    logger = logging.getLogger("ray.data")
    with warnings.catch_warnings():
        # Ray copies its own settings, and warns of those that it has deprecated.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data")
        context = DataContext.get_current()
        before, level = context.enable_progress_bars, logger.level
        context.enable_progress_bars = False
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            context.enable_progress_bars = before
            logger.setLevel(level)
