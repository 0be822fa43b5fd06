"""`fit_files`: from a table larger than memory to a `FittedModel`, by a scan and then a fit.

The way is that of `fit_table`, with the same encoder, objective, loop, calibration and result; what
differs is how rows come. A first pass counts exactly and draws uniform samples (`streaming.scan`),
a second one encodes every row once to disk (`streaming.spool`), and epochs read it from there
(`streaming.rows`). Several workers share the passes and every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tabwright.fitting.arguments import Aims, FitCallbacks
from tabwright.fitting.eval_metric import eval_metric_of
from tabwright.fitting.finishing import with_time
from tabwright.fitting.networks import training_device
from tabwright.fitting.streamed.jobs import LocalTrainer, Trainer
from tabwright.fitting.streamed.scanned_table import ScannedTable
from tabwright.fitting.streamed.stream_fit import StreamFit
from tabwright.inference.fitted_model import FittedModel
from tabwright.settings import FitSettings, Task
from tabwright.streaming.chunks import FilesTable, RowPlaces
from tabwright.streaming.scan import Scan, ScanJob
from tabwright.tables import CsvFormat, Role
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.paths import Source
from tabwright.tables.roles import roles_as_text
from tabwright.tables.spellings.moments import note_on_target
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.time_limit import TimeLimit


def fit_files(
    source: Source,
    columns: ColumnUses,
    settings: FitSettings | Callable[[Task], FitSettings],
    *,
    test_fraction: float = 0.0,
    roles: Mapping[str, Role] | None = None,
    csv: CsvFormat | None = None,
    aims: Aims | None = None,
    callbacks: FitCallbacks | None = None,
    checkpoint: Checkpoint | None = None,
    trainer: Trainer | None = None,
) -> FittedModel | None:
    """Fit a model to files that need not fit in memory.

    `source`: CSV, JSON lines, Parquet or Arrow.
    `columns`: what the columns are for.
    `settings`: fields left to the table are resolved here. A callable gives the settings for the
        task that the target tells.
    `test_fraction`: expected share of rows that have no part in the fit, in [0, 1); the scores
        "test" and "baseline" are of a sample of at most 100,000 of them.
    `roles`: overrides the inferred roles of columns.
    `csv`: how CSV files are written, where they cannot tell by themselves.
    `aims`: what the model shall serve; a metric scores a sample of at most 100,000 validation rows.
    `callbacks`: called at the first worker.
    `checkpoint`: where the run keeps its state, and goes on from; the caller removes it in the end.
    `trainer`: who makes the passes and trains; None: this process alone.
    Returns: at the first worker; None at the others.
    Raises `ValueError` if the settings do not fit the task, or a checkpoint is of another run.
    Raises `TableError` if the table or a column is not what it should be.
    Raises `OSError` if the disk has no space for the encoded rows.
    """
    if not 0 <= test_fraction < 1:
        raise ValueError(f"test_fraction must be in [0, 1); got {test_fraction}")
    aims, trainer = aims or Aims(), trainer or LocalTrainer()
    callbacks = callbacks if trainer.is_first and callbacks is not None else FitCallbacks()
    task = settings.task if isinstance(settings, FitSettings) else None
    given = settings if isinstance(settings, FitSettings) else settings("classification")
    _check_mode(given)
    aims.check_mode(given)
    if given.unused_layers:
        callbacks.emit(given.unused_layers)
    limit = _time_limit(given, trainer)
    share = given.held_out_share(None)

    table = FilesTable.of(
        source, csv, roles_as_text(roles), target=columns.target, drop=columns.drop
    )
    places = RowPlaces(table, given.random_state, share, test_fraction, columns.group)
    scan = trainer.scan(ScanJob(table, columns, places, task, given.objective))
    _report_scan(table, columns.target, scan, callbacks)

    asked = settings if isinstance(settings, FitSettings) else settings(scan.task)
    metric = eval_metric_of(
        asked.eval_metric if aims.eval_metric is None else aims.eval_metric, scan.task
    )
    asked = replace(
        asked, validation_fraction=share, eval_metric=None if metric is None else metric.name
    )
    training_device(asked)  # refuses what this machine lacks
    n_classes = None if scan.classes is None else len(scan.classes)
    resolved = asked.resolved(n_rows=scan.n_rows["train"], n_classes=n_classes)
    fit = StreamFit(
        scanned=ScannedTable(table, columns, places, scan),
        settings=resolved,
        roles=dict(roles or {}),
        aims=aims,
        decision=aims.decision_for(scan.classes),
        metric=metric,
        limit=limit,
        callbacks=callbacks,
    )
    callbacks.start(resolved, scan.n_rows["train"], scan.n_rows["validation"])
    with trainer.in_folder() as local:
        model = fit.run(local, checkpoint)
    return None if model is None else with_time(model, limit)


def _report_scan(table: FilesTable, target: str, scan: Scan, callbacks: FitCallbacks) -> None:
    """What the first pass found, in words."""
    n_rows = scan.n_rows
    callbacks.emit(
        f"{len(table.paths)} file(s), {sum(n_rows.values()):,} rows: {n_rows['train']:,} train, "
        f"{n_rows['validation']:,} validate, {n_rows['test']:,} test"
    )
    if scan.n_left_out:
        callbacks.emit(f"left out {scan.n_left_out:,} rows without a target or of weight 0")
    note = note_on_target(scan.samples["train"][target])
    if note:
        callbacks.emit(f"the target {target!r}: {note}")
    if scan.reason:
        callbacks.emit(f"task: {scan.task}, since {scan.reason}")


def _time_limit(settings: FitSettings, trainer: Trainer) -> TimeLimit | None:
    """The time limit of one process."""
    if settings.time_limit is None:
        return None
    if not trainer.is_alone:
        raise ValueError(
            f"time_limit is for one process; got {settings.time_limit:g} s and several workers, "
            "whose clocks differ; leave it out"
        )
    return TimeLimit(settings.time_limit)


def _check_mode(settings: FitSettings) -> None:
    """Refuse what needs the rows in memory."""
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
