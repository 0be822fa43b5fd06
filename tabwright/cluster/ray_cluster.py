"""The workers of a Ray cluster as `fit_files` sees them: `RayCluster`.

Ray Data makes both passes over the table: one counts and samples, each worker its share of the
chunks, and one encodes every row once. The encoded rows stay in Ray's object store, spread over
the machines of the cluster and spilled to their disks where memory is short; no machine holds them
all. The workers of Ray Train read blocks of them in the order of the epoch. A worker that starts
anew finds them there, and goes on from the state of the run.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tabwright.cluster.ray_predict import one_by_one
from tabwright.distributed.workers import joined_workers
from tabwright.fitting.streamed.jobs import (
    BLOCK_NAMES,
    EncodingJob,
    ScanJob,
    TrainingJob,
    chunks_of_worker,
)
from tabwright.streaming.scan import Scan, ScanShare
from tabwright.streaming.spool import RowBlocks
from tabwright.training.loop import Epoch, Trained

__all__ = ["RayCluster"]

# A block is what travels to a worker that asks for it: some hundred kB. Sixty-four are shuffled
# together: rows of one batch come from so many places of the table.
_BLOCK_ROWS: Final = 4096
_BUFFER_BLOCKS: Final = 64


@dataclass(frozen=True)
class StoredBlocks(RowBlocks):
    """Encoded rows in Ray's object store.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the records.
    n_rows : ndarray of shape (n_blocks,), int64
        Rows of each block.
    """

    dtype: np.dtype[Any]
    n_rows: NDArray[np.int64]
    # Per block: the object that holds it, and its place in there.
    _objects: tuple[Any, ...]
    _at: tuple[tuple[int, int], ...]

    @property
    def block_rows(self) -> int:
        return _BLOCK_ROWS

    @property
    def per_buffer(self) -> int:
        return _BUFFER_BLOCKS

    def read(self, blocks: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
        import ray

        places = [self._at[block] for block in blocks]
        needed = list(dict.fromkeys(number for number, _ in places))
        tables = dict(zip(needed, ray.get([self._objects[n] for n in needed]), strict=True))
        parts = [
            np.frombuffer(tables[number]["records"][row].as_buffer(), dtype=self.dtype)
            for number, row in places
        ]
        return np.concatenate(parts or [np.empty(0, dtype=self.dtype)])

    def close(self) -> None:
        """The objects go when nobody knows them."""


@dataclass
class RayCluster:
    """Workers of the cluster that `ray.init` joined.

    Parameters
    ----------
    n_workers : int
    use_gpu : bool
    max_failures : int
    timeout : float
    storage : str or None
        As of `train_on_ray`.
    """

    n_workers: int
    use_gpu: bool = False
    max_failures: int = 3
    timeout: float = 600.0
    storage: str | None = None

    def scan(self, job: ScanJob) -> Scan:
        """What a pass over all chunks finds, each worker reading its share of them."""
        n_shares = self.n_workers
        rows = one_by_one(range(n_shares), _Scanning, (job, n_shares), self.n_workers).take_all()
        shares: list[ScanShare] = []
        for row in rows:
            share = pickle.loads(row["share"])
            if isinstance(share, ValueError):
                raise share
            shares.append(share)
        return job.merged(shares)

    def encode(self, job: EncodingJob) -> tuple[RowBlocks, RowBlocks]:
        """Every row encoded, once, in the object store."""
        import ray
        from ray.data import DataContext

        context = DataContext.get_current()
        before = context.target_max_block_size
        # Else Ray makes blocks of 128 MB, and a worker that wants some rows gets as many bytes.
        context.target_max_block_size = max(1, _BLOCK_ROWS * job.dtype.itemsize)
        try:
            # As many tasks as keep the workers busy, whatever their chunks weigh.
            n_shares = 4 * self.n_workers
            arguments = ([ray.put(job)], n_shares)
            encoded = one_by_one(range(n_shares), _Encoding, arguments, self.n_workers)
            objects = encoded.materialize().to_arrow_refs()
        finally:
            context.target_max_block_size = before
        describe = ray.remote(_description)
        found = ray.get([describe.remote(reference) for reference in objects])
        training, validation = (_stored(name, job.dtype, objects, found) for name in BLOCK_NAMES)
        return training, validation

    def train(
        self,
        job: TrainingJob,
        training: RowBlocks,
        validation: RowBlocks,
        on_epoch: Callable[[Epoch], None] | None,
    ) -> Trained:
        """Train as a job of Ray Train; the epochs are told at the end."""
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        box: Any = ray.remote(num_cpus=0)(_Box).remote()
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "job": ray.put(job),
                "blocks": (training, validation),
                "box": box,
            },
            torch_config=TorchConfig(
                backend="cpu:gloo,cuda:nccl" if self.use_gpu else "gloo",
                timeout_s=math.ceil(self.timeout),
            ),
            scaling_config=ScalingConfig(num_workers=self.n_workers, use_gpu=self.use_gpu),
            run_config=RunConfig(
                storage_path=self.storage,
                failure_config=FailureConfig(max_failures=self.max_failures),
            ),
        )
        trainer.fit()
        content: Any = ray.get(box.taken.remote())
        trained: Trained = pickle.loads(content)
        if on_epoch is not None:
            for epoch in trained.history:
                on_epoch(epoch)
        return trained


class _Scanning:
    """The first pass over a share of the chunks."""

    def __init__(self, job: ScanJob, n_shares: int) -> None:
        self._job, self._n_shares = job, n_shares

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (number,) = batch["item"]
        wanted = chunks_of_worker(int(number), self._n_shares)
        found: ScanShare | ValueError
        # A fault of the table is the user's to read, not a failure of a worker.
        try:
            found = self._job.share(wanted)
        except ValueError as error:
            found = error
        return {"share": np.array([pickle.dumps(found)], dtype=object)}


class _Encoding:
    """The second pass over a share of the chunks."""

    def __init__(self, job: list[Any], n_shares: int) -> None:
        import ray

        self._job: EncodingJob = ray.get(job[0])
        self._n_shares = n_shares

    def __call__(self, batch: dict[str, Any]) -> Any:
        import pyarrow as pa

        (number,) = batch["item"]
        for chunk in self._job.chunks(chunks_of_worker(int(number), self._n_shares)):
            for name, records in self._job.records(chunk).items():
                for start in range(0, len(records), _BLOCK_ROWS):
                    piece = records[start : start + _BLOCK_ROWS]
                    yield pa.table(
                        {
                            "name": [name],
                            "file": [chunk.file],
                            "chunk": [chunk.number],
                            "start": [start],
                            "n_rows": [len(piece)],
                            "records": pa.array([piece.tobytes()], type=pa.large_binary()),
                        }
                    )


def _description(table: Any) -> list[dict[str, Any]]:
    """What lies in an object: all but the records."""
    # A task without chunks leaves an object without columns.
    told = [column for column in table.column_names if column != "records"]
    rows: list[dict[str, Any]] = table.select(told).to_pylist() if told else []
    return rows


def _stored(
    name: str, dtype: np.dtype[Any], objects: list[Any], found: list[list[dict[str, Any]]]
) -> StoredBlocks:
    """The blocks of one name, in the order of the table."""
    blocks = sorted(
        (row["file"], row["chunk"], row["start"], row["n_rows"], number, place)
        for number, rows in enumerate(found)
        for place, row in enumerate(rows)
        if row["name"] == name
    )
    n_rows = np.array([block[3] for block in blocks], dtype=np.int64)
    return StoredBlocks(dtype, n_rows, tuple(objects), tuple(block[4:] for block in blocks))


@dataclass
class _Box:
    """What the first worker leaves for the caller."""

    content: bytes = field(default=b"")

    def put(self, content: bytes) -> None:
        self.content = content

    def taken(self) -> bytes:
        return self.content


def _work(config: dict[str, Any]) -> None:
    """What every worker runs."""
    import ray

    job: TrainingJob = ray.get(config["job"])
    training, validation = config["blocks"]
    with joined_workers() as workers:
        trained = job.run(workers, training, validation, None)
    if workers.is_first:
        ray.get(config["box"].put.remote(pickle.dumps(trained)))
