"""The workers of a Ray cluster as `fit_files` sees them: `RayCluster`.

Ray Data makes both passes over the table: one counts and samples, each worker its share of the
chunks, and one encodes every row once. The encoded rows stay in Ray's object store, spread over
the machines of the cluster and spilled to their disks where memory is short; no machine holds them
all. The workers of Ray Train read blocks of them in the order of the epoch. A worker that starts
anew finds them there, and goes on from the state of the run.
"""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from tabwright.cluster.ray_predict import one_by_one
from tabwright.distributed.workers import joined_workers
from tabwright.fitting.streamed.jobs import (
    BLOCK_NAMES,
    EncodingJob,
    TrainingJob,
    chunks_of_worker,
)
from tabwright.streaming.scan import Scan, ScanJob, ScanShare
from tabwright.streaming.spool import RowBlocks
from tabwright.training.loop import Epoch, Trained

# A block is what travels to a worker that asks for it, and so large that Ray does not keep it in
# the memory of the caller (below 100 kB). Sixty-four are shuffled together: rows of one batch come
# from so many places of the table.
_BLOCK_BYTES: Final = 2**18
_FEWEST_ROWS: Final = 256
_BUFFER_BLOCKS: Final = 64
# Where a block belongs; in the place of its name: a fault of the table.
_PLACE: Final = ("file", "chunk", "start", "n_rows")
_FAULT: Final = "fault"
# Rows of the samples that travel together.
_SAMPLE_ROWS: Final = 16_384


@dataclass(frozen=True)
class StoredBlocks(RowBlocks):
    """Encoded rows in Ray's object store.

    `dtype`: of the records.
    `n_rows`: (n_blocks,), int64; rows of each block.
    """

    dtype: np.dtype[Any]
    n_rows: NDArray[np.int64]
    # Per block: the object that holds it, and its place in there.
    _objects: tuple[Any, ...]
    _at: tuple[tuple[int, int], ...]

    @property
    def block_rows(self) -> int:
        return _block_rows(self.dtype)

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

    `storage`: as of `train_on_ray`.
    """

    n_workers: int
    use_gpu: bool = False
    max_failures: int = 3
    timeout: float = 600.0
    storage: str | None = None
    # The caller is no worker: it gets the model.
    is_first: ClassVar[bool] = True
    is_alone: ClassVar[bool] = False

    def in_folder(self) -> nullcontext[RayCluster]:
        """Encoded rows need no folder: they stay in the object store."""
        return nullcontext(self)

    def scan(self, job: ScanJob) -> Scan:
        """What a pass over all chunks finds, each worker reading its share of them."""
        n_shares = self.n_workers
        with _small_objects(_BLOCK_BYTES):
            rows = one_by_one(range(n_shares), _scanned, (job, n_shares), n_shares).iter_rows()
            return job.merged(_share_of(row) for row in rows)

    def encode(self, job: EncodingJob) -> tuple[RowBlocks, RowBlocks]:
        """Every row encoded, once, in the object store."""
        import ray

        with _small_objects(_block_rows(job.dtype) * job.dtype.itemsize):
            # As many tasks as keep the workers busy, whatever their chunks weigh.
            n_shares = 4 * self.n_workers
            arguments = ([ray.put(job)], n_shares)
            encoded = one_by_one(range(n_shares), _encoded, arguments, self.n_workers)
            objects = encoded.materialize().to_arrow_refs()
        # Not one by one: the caller keeps some 30 kB for every task.
        describe = ray.remote(_descriptions)
        asked = [
            describe.remote(*objects[start : start + _BUFFER_BLOCKS])
            for start in range(0, len(objects), _BUFFER_BLOCKS)
        ]
        found = [described for several in ray.get(asked) for described in several]
        for row in itertools.chain.from_iterable(found):
            if "fault" in row:
                raise pickle.loads(row["fault"])
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

        work: Any = _work  # Ray's types know of no returned value yet
        trainer: Any = TorchTrainer(
            work,
            train_loop_config={"job": ray.put(job), "blocks": (training, validation)},
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
        trained: Trained = pickle.loads(trainer.fit().return_value)
        if on_epoch is not None:
            for epoch in trained.history:
                on_epoch(epoch)
        return trained


@contextmanager
def _small_objects(n_bytes: int) -> Iterator[None]:
    """Ray Data makes objects of about so many bytes, in the order of the numbers.

    Else they have up to 128 MB: a worker holds as much until one is whole, and who wants some rows
    gets all of them.
    """
    from ray.data import DataContext

    context = DataContext.get_current()
    before = context.target_max_block_size, context.execution_options.preserve_order
    context.target_max_block_size, context.execution_options.preserve_order = n_bytes, True
    try:
        yield
    finally:
        context.target_max_block_size, context.execution_options.preserve_order = before


def _scanned(batch: dict[str, Any], job: ScanJob, n_shares: int) -> Iterator[dict[str, Any]]:
    """The first pass over a share of the chunks, in pieces."""
    (number,) = batch["item"]
    # A fault of the table is the user's to read, not a failure of a worker.
    try:
        share = job.share(chunks_of_worker(int(number), n_shares))
    except ValueError as error:
        yield {"share": np.array([pickle.dumps(error)], dtype=object)}
        return
    for piece in share.pieces(_SAMPLE_ROWS):
        yield {"share": np.array([pickle.dumps(piece)], dtype=object)}


def _share_of(row: dict[str, Any]) -> ScanShare:
    """A piece of what a worker has found; raises what it found wrong."""
    found: ScanShare | ValueError = pickle.loads(row["share"])
    if isinstance(found, ValueError):
        raise found
    return found


def _encoded(batch: dict[str, Any], job: list[Any], n_shares: int) -> Iterator[Any]:
    """The second pass over a share of the chunks: a table of one row for each block."""
    import ray

    (number,) = batch["item"]
    encoding: EncodingJob = ray.get(job[0])
    block_rows = _block_rows(encoding.dtype)
    # A fault of the table is the user's to read, not a failure of a worker.
    try:
        for chunk in encoding.chunks(chunks_of_worker(int(number), n_shares)):
            for name, records in encoding.records(chunk).items():
                for start in range(0, len(records), block_rows):
                    piece = records[start : start + block_rows]
                    place = (chunk.file, chunk.number, start, len(piece))
                    yield _block(name, place, piece.tobytes())
    except ValueError as error:
        yield _block(_FAULT, (0, 0, 0, 0), pickle.dumps(error))


def _block(name: str, place: tuple[int, int, int, int], content: bytes) -> Any:
    """A table of one row. `place`: file, chunk, first row in there, number of rows."""
    import pyarrow as pa

    columns = {key: [value] for key, value in zip(_PLACE, place, strict=True)}
    records = pa.array([content], type=pa.large_binary())
    return pa.table({"name": [name], **columns, "records": records})


def _block_rows(dtype: np.dtype[Any]) -> int:
    """Rows of a block of such records."""
    return max(_FEWEST_ROWS, -(-_BLOCK_BYTES // dtype.itemsize))


def _descriptions(*tables: Any) -> list[list[dict[str, Any]]]:
    """What lies in each object: all but the records, and what was found wrong."""
    return [_description(table) for table in tables]


def _description(table: Any) -> list[dict[str, Any]]:
    # A task without chunks leaves an object without columns.
    described = [column for column in table.column_names if column != "records"]
    rows: list[dict[str, Any]] = table.select(described).to_pylist() if described else []
    for number, row in enumerate(rows):
        if row["name"] == _FAULT:
            row["fault"] = table["records"][number].as_py()
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


def _work(config: dict[str, Any]) -> bytes | None:
    """What every worker runs; what the first returns comes to the caller."""
    import ray

    job: TrainingJob = ray.get(config["job"])
    training, validation = config["blocks"]
    with joined_workers() as workers:
        trained = job.run(workers, training, validation, None)
    return pickle.dumps(trained) if workers.is_first else None
