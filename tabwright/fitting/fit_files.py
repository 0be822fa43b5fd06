"""`fit_files`: from a table larger than memory to a `FittedModel`.

The way is that of `pipeline.fit_table`, with the same encoder, objective, loop, calibration and
result; what differs is how rows come. A first pass counts exactly and draws uniform samples
(`stream_scan`), a second one encodes every row once to disk (`spool`), and epochs read it from
there (`streaming`). Several workers share the passes and every batch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.calibration.decisions import DecisionAim
from tabwright.calibration.fit import check_calibration
from tabwright.distributed.member_assignment import MemberAssignment
from tabwright.distributed.sharded_members import ShardedHeldOut, ShardedMembers
from tabwright.distributed.shared_checkpoints import SharedCheckpointer
from tabwright.distributed.workers import ALONE, Workers
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.fitting.class_weights import ClassWeight, Prior, checked_prior, weights_by_label
from tabwright.fitting.eval_metric import EvalMetric, eval_metric_of
from tabwright.fitting.finishing import (
    fitted_networks,
    model_card,
    with_decision,
    with_scores,
    with_time,
)
from tabwright.fitting.networks import member_seeds, new_network, run_identity, training_device
from tabwright.fitting.oblique_selection import select_obliques
from tabwright.fitting.residual_scale import HeldOutScale, fit_residual_scale, with_intervals
from tabwright.fitting.targets import Targets, epoch_score
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import score_rows, trivial_scores
from tabwright.inference.training_rows import sketch_of_rows
from tabwright.regression import RegressionObjective
from tabwright.settings import FitSettings, Task
from tabwright.streaming.chunks import Chunk, FilesTable, Place, RowPlaces
from tabwright.streaming.rows import Goal, StreamedHeldOut, StreamedRows
from tabwright.streaming.scan import Scan, rows_to_use, scan_table
from tabwright.streaming.spool import Blocks, RowBlocks, SpoolWriter, record_dtype, records_of
from tabwright.tables import CsvFormat, Role, TableProfile, profile_table
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import LabelledRows
from tabwright.tables.paths import Source, file_size
from tabwright.tables.roles import roles_as_text
from tabwright.training.batches import HeldOut, HeldOutRows, Inputs
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.loop import Epoch, Trained, train
from tabwright.training.time_limit import TimeLimit

__all__ = ["Cluster", "EncodingJob", "TrainingJob", "fit_files"]

# As in memory: with fewer validation rows, all of them choose.
_ASIDE_FROM: Final = 800
# Of the time that is left when the networks begin: calibration and scores take time too.
_SHARE_OF_TIME: Final = 0.95

BlockName = Literal["train", "validation"]
BLOCK_NAMES: Final[tuple[BlockName, ...]] = ("train", "validation")


def fit_files(
    source: Source,
    columns: ColumnUses,
    settings: Callable[[Task], FitSettings],
    *,
    task: Task | None = None,
    test_fraction: float = 0.0,
    roles: Mapping[str, Role] | None = None,
    csv: CsvFormat | None = None,
    class_weight: ClassWeight = None,
    prior: Prior = "training",
    decision: Callable[[np.ndarray], DecisionAim] | None = None,
    eval_metric: object = None,
    spool: str | os.PathLike[str] | None = None,
    checkpoint: Checkpoint | None = None,
    workers: Workers = ALONE,
    cluster: Cluster | None = None,
    on_message: Callable[[str], None] | None = None,
    on_profile: Callable[[TableProfile], None] | None = None,
    on_start: Callable[[FitSettings, int, int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> FittedModel | None:
    """Fit a model to files that need not fit in memory.

    Parameters
    ----------
    source : path, pattern, folder, or sequence of paths
        CSV, JSON lines, Parquet or Arrow.
    columns : ColumnUses
        What the columns are for.
    settings : callable
        Gives the settings for a task; fields left to the table are resolved here.
    task : {"classification", "regression"} or None
        None: told by the target.
    test_fraction : float, default=0.0
        Expected share of rows that have no part in the fit, in [0, 1); the scores "test" and
        "baseline" are of a sample of at most 100,000 of them.
    roles : mapping of str to Role, optional
        Overrides the inferred roles of columns.
    csv : CsvFormat, optional
        How CSV files are written, where they cannot tell by themselves.
    class_weight, prior
        As in `fit_table`.
    decision : callable, optional
        Gives what the stored decision rule shall serve, for the labels.
    eval_metric : object, optional
        As in `fit_table`; it scores a sample of at most 100,000 validation rows.
    spool : path, optional
        Folder for the encoded rows, about 4 bytes a cell; emptied first, and removed in the end.
        By default one in the folder for temporary files.
    checkpoint : Checkpoint, optional
        Where the run keeps its state, and goes on from; the caller removes it in the end.
    workers : Workers
        The processes that share the work. The model does not depend on how many there are, up to
        rounding.
    cluster : Cluster, optional
        Makes the passes and trains, in place of this process and its workers.
    on_message : callable, optional
        Called with each decision, as a sentence, at the first worker.
    on_profile : callable, optional
        Called with what each column is, before training, at the first worker.
    on_start : callable, optional
        Called with the resolved settings and the numbers of training and validation rows, at the
        first worker.
    on_epoch : callable, optional
        Called with each `Epoch`, at the first worker.

    Returns
    -------
    FittedModel or None
        At the first worker; None at the others.

    Raises
    ------
    ValueError
        If the settings do not fit the task, or a checkpoint is of another run.
    TableError
        If the table or a column is not what it should be.
    OSError
        If the disk has no space for the encoded rows.
    """
    if not 0 <= test_fraction < 1:
        raise ValueError(f"test_fraction must be in [0, 1); got {test_fraction}")

    def say(message: str) -> None:
        if on_message is not None and workers.is_first:
            on_message(message)

    given = settings(task or "classification" if task != "regression" else task)
    _check_mode(given, class_weight)
    limit = None if given.time_limit is None else TimeLimit(given.time_limit)
    if limit is not None and (workers.size > 1 or cluster is not None):
        raise ValueError(
            f"time_limit is for one process; got {given.time_limit:g} s and several workers, "
            "whose clocks differ; leave it out"
        )
    share = given.held_out_share(None)
    table = FilesTable.of(source, csv, roles_as_text(roles))
    places = RowPlaces(table, given.random_state, share, test_fraction, columns.group)
    if cluster is not None:
        scan = cluster.scan(table, columns, places, task, given.objective)
    else:
        scan = scan_table(
            table,
            columns,
            places,
            task=task,
            wanted=chunks_of_worker(workers.rank, workers.size),
            gather=workers.gather if workers.size > 1 else None,
            objective=given.objective,
        )
    n_rows = scan.n_rows
    say(
        f"{len(table.paths)} file(s), {sum(n_rows.values()):,} rows: {n_rows['train']:,} train, "
        f"{n_rows['validation']:,} validate, {n_rows['test']:,} test"
    )
    if scan.n_left_out:
        say(f"left out {scan.n_left_out:,} rows without a target or of weight 0")
    if scan.reason:
        say(f"task: {scan.task}, since {scan.reason}")
    asked = replace(settings(scan.task), validation_fraction=share)
    metric = eval_metric_of(asked.eval_metric if eval_metric is None else eval_metric, scan.task)
    asked = replace(asked, eval_metric=None if metric is None else metric.name)
    training_device(asked)  # refuses what this machine lacks
    resolved = asked.resolved(
        n_rows=n_rows["train"], n_classes=None if scan.classes is None else len(scan.classes)
    )
    fit = _StreamFit(
        table,
        columns,
        places,
        scan,
        resolved,
        dict(roles or {}),
        class_weight,
        prior,
        None if decision is None or scan.classes is None else decision(scan.classes),
        metric,
        workers,
    )
    if not workers.is_first:
        on_profile = on_start = on_epoch = None
    fit = replace(fit, limit=limit)
    if on_start is not None:
        on_start(resolved, n_rows["train"], n_rows["validation"])
    if cluster is not None:
        return fit.run(cluster, checkpoint, say, on_profile, on_epoch)
    with _folder(spool, workers) as folder:
        model = fit.run(_Here(folder, workers), checkpoint, say, on_profile, on_epoch)
    return None if model is None else with_time(model, limit)


class Trainer(Protocol):
    """Who encodes the rows and trains."""

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


class Cluster(Trainer, Protocol):
    """Workers elsewhere, who make the first pass too."""

    def scan(
        self,
        table: FilesTable,
        columns: ColumnUses,
        places: RowPlaces,
        task: Task | None,
        objective: RegressionObjective,
    ) -> Scan:
        """What a pass over all chunks finds."""


def _check_mode(settings: FitSettings, class_weight: ClassWeight) -> None:
    if settings.training_mode == "tree_teacher_distillation":
        raise ValueError(
            "a tree ensemble learns in memory: tree_teacher_distillation is not for tables larger "
            "than it; raise the memory budget, distil on a part of the rows, or use mlp_dense"
        )
    if settings.quality == "best":
        raise ValueError(
            "trees learn in memory: quality='best' is not for tables larger than it; raise the "
            "memory budget, or use quality='balanced'"
        )
    if settings.asked_folds > 1:
        raise ValueError(
            f"folds are for tables in memory; got n_folds={settings.n_folds} for one that is "
            "streamed; raise the memory budget, or leave n_folds out"
        )
    if settings.refit:
        raise ValueError(
            "refit is for tables in memory; got refit=True for one that is streamed; hold fewer "
            "rows out with validation_fraction"
        )
    if settings.training_mode == "imbalance_aware" and class_weight is not None:
        raise ValueError(
            "imbalance_aware computes its own class weights and takes no class_weight; got "
            f"{class_weight!r}; use training_mode='mlp_dense' to choose them"
        )


def chunks_of_worker(worker: int, n_workers: int) -> Callable[[int, int], bool]:
    """Which chunks a worker reads."""

    def wanted(file: int, number: int) -> bool:
        return (file + number) % n_workers == worker

    return wanted


@contextmanager
def _folder(spool: str | os.PathLike[str] | None, workers: Workers) -> Iterator[Path]:
    """The machine's folder for encoded rows, made by the first of its workers."""
    leads = workers.local_rank == 0
    path = b""
    if leads:
        if spool is None:
            folder = Path(tempfile.mkdtemp(prefix="tabwright-"))
        else:
            folder = Path(f"{os.fspath(spool)}-{workers.rank // workers.local_size}")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        path = os.fsencode(folder.absolute())
    folder = Path(os.fsdecode(workers.gather(path)[workers.rank - workers.local_rank]))
    try:
        yield folder
    finally:
        if leads:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _StreamFit:
    """A fit after the first pass."""

    table: FilesTable
    columns: ColumnUses
    places: RowPlaces
    scan: Scan
    settings: FitSettings
    roles: dict[str, Role]
    class_weight: ClassWeight
    prior: Prior
    decision: DecisionAim | None
    metric: EvalMetric | None
    workers: Workers
    limit: TimeLimit | None = None

    def run(
        self,
        trainer: Trainer,
        checkpoint: Checkpoint | None,
        say: Callable[[str], None],
        on_profile: Callable[[TableProfile], None] | None,
        on_epoch: Callable[[Epoch], None] | None,
    ) -> FittedModel | None:
        scan, settings = self.scan, self.settings
        if not scan.n_rows["validation"]:
            raise ValueError(
                f"a fit needs validation rows; got none of {sum(scan.n_rows.values())} with "
                f"validation_fraction={settings.validation_fraction}; raise it"
            )
        if scan.classes is not None and len(scan.classes) < 2:
            raise ValueError(
                f"a classifier needs at least 2 classes; got 1 class ({scan.classes[0]!r}); "
                "check the target column"
            )
        if scan.classes is not None and settings.calibration is not None:
            check_calibration(settings.calibration, len(scan.classes))
        if self.decision is not None:
            if scan.classes is None:
                raise ValueError("a decision rule is for classification; this is a regression task")
            self.decision.check(len(scan.classes))
        if self.metric is not None:
            choosing = self.choosing()
            labels = choosing.target if scan.classes is None else scan.classes[choosing.target]
            self.metric.check(labels, choosing.weight, scan.classes)
        sample = self._rows("train")
        if len(sample) < scan.n_rows["train"]:
            say(f"the encoder is fitted on a uniform sample of {len(sample):,} training rows")
        identifiers: dict[str, Role] = dict.fromkeys(scan.identifiers, "identifier")
        profile = profile_table(
            sample.frame, roles=identifiers | self.roles, formats=self.table.formats
        )
        if on_profile is not None:
            on_profile(profile)
        encoder = TableEncoder(numeric_encoding=settings.numeric_encoding)
        compact = encoder.fit_transform(
            sample.frame,
            profile,
            target=sample.target,
            task=settings.task,
            sample_weight=sample.weight,
            random_state=settings.random_state,
            target_name=self.columns.target,
        )
        sketch = sketch_of_rows(compact, len(encoder.plan_.had_missing))
        targets = replace(self._targets(), metric=self.metric, classes=scan.classes)
        encoder, compact = select_obliques(
            encoder, compact, sample, targets, settings, on_message=say, limit=self.limit
        )
        device = training_device(settings)
        goal = Goal(
            encoder,
            targets.scale,
            targets.class_weights,
            self._mean_weight(targets),
            device,
            targets.regression,
        )
        blocks, validation = trainer.encode(EncodingJob.of(self, encoder, compact))
        job = TrainingJob(self, goal, targets, checkpoint)
        try:
            trained = trainer.train(job, blocks, validation, on_epoch)
        finally:
            blocks.close()
            validation.close()
        if not self.workers.is_first:
            return None
        return self._model(encoder, profile, targets, trained, sketch, say)

    def _rows(self, place: Place, keep: NDArray[np.bool_] | None = None) -> LabelledRows:
        """A sample as labelled rows."""
        sample = self.scan.samples[place]
        if keep is not None:
            sample = sample.filter(pl.Series(keep))
        weight = None
        if self.columns.weight is not None:
            weight = sample[self.columns.weight].cast(pl.Float64).to_numpy()
        target = self.scan.encoded(sample[self.columns.target])
        groups = None
        if self.columns.group is not None:
            cells = sample[self.columns.group].cast(pl.String).fill_null("")
            groups = cells.rank("dense").to_numpy()
        return LabelledRows(sample[self.features], target, weight, groups)

    @property
    def features(self) -> list[str]:
        """The columns that the model gets."""
        return self.columns.features(self.table.dtypes)

    @property
    def sets_aside(self) -> bool:
        """Whether some validation rows may choose nothing."""
        return self.scan.task == "regression" and self.scan.n_rows["validation"] >= _ASIDE_FROM

    def choosing(self) -> LabelledRows:
        """The sample of validation rows that choose."""
        return self._rows("validation", ~self.scan.aside("validation") if self.sets_aside else None)

    def _targets(self) -> Targets:
        scan = self.scan
        if scan.classes is None or scan.class_mass is None:
            if scan.scale is None:
                raise RuntimeError("a regression's scan has the scale of its target")
            sample = self._rows("train")
            known = (self.settings.objective, self.settings.quantiles, sample.target, sample.weight)
            return Targets.of_values(scan.scale.suited(*known), self.settings)
        n_classes = len(scan.classes)
        weights = None
        if self.settings.training_mode == "imbalance_aware" or self.class_weight == "balanced":
            # The contract's formula, on weighted counts: see `objectives.class_weight_vector`.
            mass = scan.class_mass
            weights = mass.sum() / (n_classes * np.where(mass > 0, mass, 1.0))
        elif isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight must be None, 'balanced' or a mapping of label to weight; "
                f"got {self.class_weight!r}"
            )
        elif self.class_weight is not None:
            weights = weights_by_label(self.class_weight, scan.classes)
        return Targets(
            output_dim=n_classes,
            scale=None,
            class_prior=scan.class_mass / scan.class_mass.sum(),
            class_weights=weights,
            prior=checked_prior(self.prior, scan.classes, self.settings),
        )

    def _mean_weight(self, targets: Targets) -> float:
        if targets.class_weights is None or self.scan.class_mass is None:
            return self.scan.mean_weight
        return float(targets.class_weights @ self.scan.class_mass) / self.scan.n_rows["train"]

    # -- the result ---------------------------------------------------------------------------

    def _model(
        self,
        encoder: TableEncoder,
        profile: TableProfile,
        targets: Targets,
        trained: Trained,
        sketch: str,
        say: Callable[[str], None],
    ) -> FittedModel:
        scan = self.scan
        card = model_card(
            self.settings,
            profile,
            scan.n_rows["train"],
            scan.n_rows["validation"],
            self.columns.target,
            sketch,
        )
        samples = {place: sample.height for place, sample in scan.samples.items()}
        model = fitted_networks(
            self.settings,
            encoder,
            targets,
            trained,
            classes=scan.classes,
            card={**card, "streamed": {"files": len(self.table.paths), "sampled_rows": samples}},
        )
        choosing = self.choosing()
        if len(choosing) < scan.n_rows["validation"] and not self.sets_aside:
            say(f"calibrated and scored on a uniform sample of {len(choosing):,} validation rows")
        output = Predictor(model).outputs(encoder.transform(choosing.frame))
        model = with_scores(model, output, choosing)
        if self.decision is not None:
            proba = Predictor(model).calibrated(output)
            model = with_decision(model, proba, choosing, self.decision)
        if self.sets_aside:
            spare = self._rows("validation", scan.aside("validation"))
            message = f"half-widths from {len(spare):,} validation rows held out for the intervals"
            model = replace(model, card={**model.card, "intervals": message})
            model = self._with_intervals(model, encoder, spare, choosing)
        if "test" in scan.samples:
            model = replace(model, metrics={**model.metrics, **self._test_scores(model, say)})
        return model

    def _with_intervals(
        self, model: FittedModel, encoder: TableEncoder, spare: LabelledRows, choosing: LabelledRows
    ) -> FittedModel:
        """Intervals from the rows set aside; what their width follows is learned from samples."""
        predictor, held = Predictor(model), encoder.transform(spare.frame)

        def fit_scale() -> HeldOutScale | None:
            sample = self._rows("train")
            judging = encoder.transform(choosing.frame)
            return fit_residual_scale(
                model,
                (encoder.transform(sample.frame), sample),
                (judging, choosing),
                predictor.network(judging),
                None,
            )

        return with_intervals(model, (held, spare), predictor.outputs(held), "split", fit_scale)

    def _test_scores(
        self, model: FittedModel, say: Callable[[str], None]
    ) -> dict[str, dict[str, float]]:
        test = self._rows("test")
        if len(test) < self.scan.n_rows["test"]:
            say(f"scored on a uniform sample of {len(test):,} test rows")
        scores = score_rows(Predictor(model), test.frame, test.target, test.weight)
        return {**scores, "baseline": trivial_scores(model, test.target, test.weight)}


# ---------------------------------------------------------------------------------------------
# The second pass, and training
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodingJob:
    """The rows of a table as records, chunk by chunk.

    Parameters
    ----------
    fit : fit after its first pass
    encoder : TableEncoder
    sample : Compact or None
        The encoded sample of training rows, where their target statistics are their own.
    dtype : numpy.dtype
        Of the records.
    """

    fit: _StreamFit
    encoder: TableEncoder
    sample: Compact | None
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, fit: _StreamFit, encoder: TableEncoder, sample: Compact) -> EncodingJob:
        """Of a fit, the encoder, and the rows that it was fitted on."""
        dtype = record_dtype(
            sample.numeric.shape[1],
            sample.codes.shape[1],
            weighted=fit.columns.weight is not None,
        )
        # A training row's target statistics come from other rows: those of the sample are kept.
        own = sample if encoder.plan_.statistic_names else None
        return cls(fit, encoder, own, dtype)

    @property
    def n_bytes(self) -> int:
        """What all records take."""
        n_rows = self.fit.scan.n_rows
        return (n_rows["train"] + n_rows["validation"]) * self.dtype.itemsize

    def chunks(self, wanted: Callable[[int, int], bool]) -> Iterator[Chunk]:
        """The chunks that are wanted, with the columns of the fit."""
        table = self.fit.table
        return table.chunks(self.fit.columns.to_read(table.dtypes), wanted)

    def records(self, chunk: Chunk) -> dict[BlockName, NDArray[Any]]:
        """The training and the choosing rows of a chunk."""
        fit = self.fit
        keep, weight = rows_to_use(chunk, fit.columns)
        # Rows that are left out may have no target: any will do.
        target = chunk.frame[fit.columns.target]
        codes = np.zeros(len(target), dtype=np.int64 if fit.scan.classes is not None else float)
        if keep.any():
            codes[keep] = fit.scan.encoded(target.filter(pl.Series(keep)))
        masks = fit.scan.masks(fit.places, chunk, codes)
        if fit.sets_aside:
            masks["validation"] &= ~fit.places.aside(chunk)
        compact = self.encoder.transform(chunk.frame[fit.features])
        if self.sample is not None:
            rows, places = fit.scan.sampled("train", chunk)
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

    Parameters
    ----------
    fit : fit after its first pass
    goal : Goal
    targets : Targets
    checkpoint : Checkpoint or None
    """

    fit: _StreamFit
    goal: Goal
    targets: Targets
    checkpoint: Checkpoint | None

    def run(
        self,
        workers: Workers,
        blocks: RowBlocks,
        validation: RowBlocks,
        on_epoch: Callable[[Epoch], None] | None,
    ) -> Trained:
        """Train as one of the workers."""
        settings, goal, targets = self.fit.settings, self.goal, self.targets
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
        if settings.training_mode == "calibrated_classifier" or targets.metric is not None:
            # Their scores need the predictions side by side: a sample's.
            choosing = self.fit.choosing()
            compact = goal.encoder.transform(choosing.frame)
            every_row = HeldOutRows(
                Inputs(goal.encoder, compact, goal.device),
                epoch_score(settings, targets, choosing, goal.device, None),
            )
            held_out = ShardedHeldOut(every_row, assignment)
        checkpointer = None
        if self.checkpoint is not None:
            checkpointer = SharedCheckpointer(self.checkpoint, self._identity(), workers)
        return train(
            members,
            rows,
            held_out,
            settings,
            on_epoch=on_epoch,
            checkpointer=checkpointer,
            # Interrupted workers stand at different steps: they have no model together.
            keep_interrupted=workers.size == 1,
            limit=None if self.fit.limit is None else self.fit.limit.part(_SHARE_OF_TIME),
        )

    def _identity(self) -> dict[str, str]:
        """What must be the same for a run to go on from a checkpoint."""
        fit, scan = self.fit, self.fit.scan
        digest = hashlib.blake2b(digest_size=16)
        for number, path in enumerate(fit.table.paths):
            digest.update(f"{fit.table.name(number)}\0{file_size(path)}\0".encode())
        for part in (scan.n_rows, scan.scale, scan.class_mass, scan.mean_weight):
            digest.update(repr(part.tolist() if isinstance(part, np.ndarray) else part).encode())
        identity = run_identity(fit.settings, self.goal.encoder, self.goal.class_weights)
        return identity | {"table": digest.hexdigest()}


@dataclass(frozen=True)
class _Here:
    """This process, one of the workers of a run: rows lie on the disk of the machine."""

    folder: Path
    workers: Workers

    def encode(self, job: EncodingJob) -> tuple[RowBlocks, RowBlocks]:
        workers, folder = self.workers, self.folder
        free = shutil.disk_usage(folder).free
        if job.n_bytes > free:
            raise OSError(
                f"the encoded rows take {job.n_bytes / 1e9:.1f} GB in {folder}, where "
                f"{free / 1e9:.1f} GB are free; save the model on another disk, or set TMPDIR"
            )
        writers = {name: SpoolWriter(folder, name, workers.local_rank) for name in BLOCK_NAMES}
        for chunk in job.chunks(chunks_of_worker(workers.local_rank, workers.local_size)):
            for name, records in job.records(chunk).items():
                writers[name].append(chunk.file, chunk.number, records)
        for writer in writers.values():
            writer.close()
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
        return job.run(self.workers, training, validation, on_epoch)
