"""The second pass over a table larger than memory and the training, as jobs, and who does them.

`EncodingJob` and `TrainingJob`, as the `ScanJob` of the first pass, say what is to be done, for any
share of the chunks and any worker.
A `Trainer` does it: `LocalTrainer` with the rows on the disk of the machine, a cluster elsewhere.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.distributed.member_assignment import MemberAssignment
from tabwright.distributed.sharded_members import ShardedHeldOut, ShardedMembers
from tabwright.distributed.shared_checkpoints import SharedCheckpointer
from tabwright.distributed.workers import ALONE, Workers
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.fitting.networks import member_seeds, new_network, run_identity
from tabwright.fitting.streamed.scanned_table import ScannedTable
from tabwright.fitting.targets import Targets, epoch_score
from tabwright.settings import FitSettings
from tabwright.streaming.chunks import Chunk
from tabwright.streaming.rows import Goal, StreamedHeldOut, StreamedRows
from tabwright.streaming.scan import Scan, ScanJob, rows_to_use
from tabwright.streaming.spool import Blocks, RowBlocks, SpoolWriter, record_dtype, records_of
from tabwright.tables.labelled import LabelledRows
from tabwright.training.batches import HeldOut, HeldOutRows, Inputs
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.loop import Epoch, Trained, train
from tabwright.training.time_limit import TimeLimit

# Of the time that is left when the networks begin: calibration and scores take time too.
_SHARE_OF_TIME: Final = 0.95

BlockName = Literal["train", "validation"]
BLOCK_NAMES: Final[tuple[BlockName, ...]] = ("train", "validation")


class Trainer(Protocol):
    """Who makes the passes over a table and trains."""

    @property
    def is_first(self) -> bool:
        """Whether this process gets the model."""

    @property
    def is_alone(self) -> bool:
        """Whether one process does all the work."""

    def in_folder(self) -> AbstractContextManager[Trainer]:
        """The trainer with a place for the encoded rows, for as long as they are needed."""

    def scan(self, job: ScanJob) -> Scan:
        """What a pass over all chunks finds."""

    def encode(self, job: EncodingJob) -> tuple[RowBlocks, RowBlocks]:
        """Every row encoded, once: the blocks of the training and of the choosing rows."""

    def train(
        self,
        job: TrainingJob,
        training: RowBlocks,
        validation: RowBlocks,
        on_epoch: Callable[[Epoch], None] | None,
    ) -> Trained:
        """Train on them."""


def chunks_of_worker(worker: int, n_workers: int) -> Callable[[int, int], bool]:
    """Which chunks a worker reads."""

    def wanted(file: int, number: int) -> bool:
        return (file + number) % n_workers == worker

    return wanted


@dataclass(frozen=True)
class EncodingJob:
    """The rows of a table as records, chunk by chunk.

    `scanned`: without the cells of the samples.
    `sample`: the encoded sample of training rows, where their target statistics are their own.
    `dtype`: of the records.
    """

    scanned: ScannedTable
    encoder: TableEncoder
    sample: Compact | None
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, scanned: ScannedTable, encoder: TableEncoder, sample: Compact) -> EncodingJob:
        """Of a table, the encoder, and the rows that it was fitted on."""
        dtype = record_dtype(
            sample.numeric.shape[1],
            sample.codes.shape[1],
            weighted=scanned.columns.weight is not None,
        )
        # A training row's target statistics come from other rows: those of the sample are kept.
        kept = sample if encoder.plan_.statistic_names else None
        return cls(scanned.without_cells(), encoder, kept, dtype)

    @property
    def n_bytes(self) -> int:
        """What all records take."""
        n_rows = self.scanned.scan.n_rows
        return (n_rows["train"] + n_rows["validation"]) * self.dtype.itemsize

    def chunks(self, wanted: Callable[[int, int], bool]) -> Iterator[Chunk]:
        """The chunks that are wanted, with the columns of the fit."""
        table = self.scanned.table
        return table.chunks(self.scanned.columns.to_read(table.dtypes), wanted)

    def records(self, chunk: Chunk) -> dict[BlockName, NDArray[Any]]:
        """The training and the choosing rows of a chunk."""
        scanned, scan = self.scanned, self.scanned.scan
        keep, weight = rows_to_use(chunk, scanned.columns)
        # Rows that are left out may have no target: any will do.
        target = chunk.frame[scanned.columns.target]
        codes = np.zeros(len(target), dtype=np.int64 if scan.classes is not None else float)
        if keep.any():
            codes[keep] = scan.encoded(target.filter(pl.Series(keep)))
        masks = scan.masks(scanned.places, chunk, codes)
        if scanned.sets_aside:
            masks["validation"] &= ~scanned.places.aside(chunk)
        with scanned.table.locating(chunk):
            compact = self.encoder.transform(chunk.frame[scanned.features])
        if self.sample is not None:
            rows, places = scan.sampled(chunk)
            compact.numeric[rows] = self.sample.numeric[places]
            compact.codes[rows] = self.sample.codes[places]
        records: dict[BlockName, NDArray[Any]] = {}
        for name in BLOCK_NAMES:
            rows = np.flatnonzero(masks[name] & keep)
            records[name] = records_of(
                compact.take(rows),
                codes[rows],
                None if weight is None else weight[rows],
                self.dtype,
            )
        return records


@dataclass(frozen=True)
class TrainingJob:
    """What is trained on encoded rows.

    `table`: what tells the table from others: `ScannedTable.identity`.
    `settings`: resolved.
    `choosing`: a sample of validation rows that chooses the epoch, where its score needs the
        predictions side by side; None: all of them choose, by their mean loss.
    """

    table: str
    settings: FitSettings
    goal: Goal
    targets: Targets
    choosing: LabelledRows | None
    checkpoint: Checkpoint | None
    limit: TimeLimit | None = None

    def run(
        self,
        workers: Workers,
        blocks: RowBlocks,
        validation: RowBlocks,
        on_epoch: Callable[[Epoch], None] | None,
    ) -> Trained:
        """Train as one of the workers."""
        settings, goal, targets = self.settings, self.goal, self.targets
        if settings.n_members is None or settings.batch_size is None:
            raise ValueError("settings must be resolved before training")
        seeds = member_seeds(settings.random_state, settings.n_members)
        input_dim = goal.encoder.input_dim
        modules = [
            new_network(settings, input_dim, targets.output_dim, seed, targets.first_outputs)
            for seed in seeds
        ]
        assignment = MemberAssignment.of(workers, settings.n_members)
        members = ShardedMembers(
            [module.to(goal.device) for module in modules],
            seeds=seeds,
            assignment=assignment,
            n_threads=workers.n_threads,
            precision=settings.precision,
        )
        rows = StreamedRows(
            blocks,
            goal,
            settings.batch_size,
            settings.random_state,
            assignment,
            hide_rate=settings.hide_rate,
        )
        held_out: HeldOut = StreamedHeldOut(validation, goal, assignment)
        if self.choosing is not None:
            compact = goal.encoder.transform(self.choosing.frame)
            every_row = HeldOutRows(
                Inputs(goal.encoder, compact, goal.device),
                epoch_score(settings, targets, self.choosing, goal.device, None),
            )
            held_out = ShardedHeldOut(every_row, assignment)
        checkpointer = None
        if self.checkpoint is not None:
            identity = run_identity(settings, goal.encoder, goal.class_weights)
            identity |= {"table": self.table}
            checkpointer = SharedCheckpointer(self.checkpoint, identity, workers)
        return train(
            members,
            rows,
            held_out,
            settings,
            on_epoch=on_epoch,
            checkpointer=checkpointer,
            # Interrupted workers stand at different steps: they have no model together.
            keep_interrupted=workers.size == 1,
            limit=None if self.limit is None else self.limit.part(_SHARE_OF_TIME),
        )


@dataclass(frozen=True)
class LocalTrainer:
    """This process, one of the workers of a run: rows lie on the disk of the machine.

    `workers`: the processes that share the work. The model does not depend on how many there are,
        up to rounding.
    `spool`: folder for the encoded rows, about 4 bytes a cell; emptied first, and removed in the
        end. By default one in the folder for temporary files.
    `folder`: the folder as `in_folder` made it.
    """

    workers: Workers = ALONE
    spool: str | os.PathLike[str] | None = None
    folder: Path | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process gets the model."""
        return self.workers.is_first

    @property
    def is_alone(self) -> bool:
        """Whether one process does all the work."""
        return self.workers.size == 1

    @contextmanager
    def in_folder(self) -> Iterator[LocalTrainer]:
        """Make the machine's folder for encoded rows, as the first of its workers."""
        workers, spool = self.workers, self.spool
        leads = workers.local_rank == 0
        folder = Path()
        if leads:
            if spool is None:
                folder = Path(tempfile.mkdtemp(prefix="tabwright-"))
            else:
                folder = Path(f"{os.fspath(spool)}-{workers.rank // workers.local_size}")
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
        folder = workers.gather(folder.absolute())[workers.rank - workers.local_rank]
        try:
            yield replace(self, folder=folder)
        finally:
            if leads:
                shutil.rmtree(folder, ignore_errors=True)

    def scan(self, job: ScanJob) -> Scan:
        """What a pass over all chunks finds, each worker reading its share of them."""
        workers = self.workers
        share = job.share(chunks_of_worker(workers.rank, workers.size))
        return job.merged(workers.gather(share)) if workers.size > 1 else job.found(share)

    def encode(self, job: EncodingJob) -> tuple[RowBlocks, RowBlocks]:
        """Every row encoded, once: its share by each worker of the machine."""
        workers, folder = self.workers, self.folder
        if folder is None:
            raise RuntimeError("rows are encoded within `in_folder`")
        free = shutil.disk_usage(folder).free
        if job.n_bytes > free:
            raise OSError(
                f"the encoded rows take {job.n_bytes / 1e9:.1f} GB in {folder}, where "
                f"{free / 1e9:.1f} GB are free; save the model on another disk, or set TMPDIR"
            )
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(SpoolWriter(folder, name, workers.local_rank))
                for name in BLOCK_NAMES
            }
            for chunk in job.chunks(chunks_of_worker(workers.local_rank, workers.local_size)):
                for name, records in job.records(chunk).items():
                    writers[name].append(chunk.file, chunk.number, records)
        workers.wait()
        train, validation = (
            Blocks.open(folder, name, workers.local_size, job.dtype) for name in BLOCK_NAMES
        )
        return train, validation

    def train(
        self,
        job: TrainingJob,
        training: RowBlocks,
        validation: RowBlocks,
        on_epoch: Callable[[Epoch], None] | None,
    ) -> Trained:
        """Train as one of the workers."""
        return job.run(self.workers, training, validation, on_epoch)
