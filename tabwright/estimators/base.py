"""How both estimators are fitted: `fit` to a table in memory, `fit_file` to one on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import polars as pl

from tabwright.distillation.soft_targets import DistillationOptions
from tabwright.errors import warn_caller
from tabwright.estimators.argument_hints import with_hints
from tabwright.estimators.fitted import FittedEstimator
from tabwright.estimators.inputs import (
    EvalSet,
    cell_format,
    labelled_rows,
    plain,
    rows_and_target,
    rows_in_memory,
    seed_of,
    single_column,
)
from tabwright.estimators.messages import EpochPrinter, splits_in_words
from tabwright.fitting.arguments import Aims, Columns, FitCallbacks
from tabwright.fitting.eval_metric import eval_metric_of, metric_name
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel
from tabwright.settings import FitSettings, Task
from tabwright.splits import folds_of_splits
from tabwright.tables import CsvFormat, as_frame, read_described
from tabwright.tables.cell_format import USUAL, CellFormat
from tabwright.tables.column_names import FittedColumns
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import LabelledRows, splits_of_rows
from tabwright.tables.paths import Source
from tabwright.tables.roles import roles_as_text
from tabwright.tables.targets import Labels, seen_labels
from tabwright.training.callbacks import Callback, as_callback, reporting_failures
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.loop import Epoch

if TYPE_CHECKING:
    from tabwright.splits import Splits

Callbacks = Sequence[Callback | Callable[[Epoch], object]] | None


class TabularEstimator(FittedEstimator):
    """How the classifier and the regressor are fitted."""

    _task: Task
    verbose: int
    # How the text of the target of the fit was written.
    _target_format: CellFormat = USUAL

    def _settings(self) -> FitSettings:
        """The parameters as settings, checked."""
        parameters = self.get_params(deep=False)
        values = {f.name: parameters[f.name] for f in fields(FitSettings) if f.name in parameters}
        if parameters["kernels"] is not None:
            warn_caller(
                f"kernels is deprecated and has no effect; got {parameters['kernels']!r}; training "
                "takes the fastest kernels that this installation has: leave the argument out",
                FutureWarning,
            )
        values["eval_metric"] = metric_name(parameters["eval_metric"])
        values["random_state"] = seed_of(parameters["random_state"])
        return FitSettings(task=self._task, **{k: plain(v) for k, v in values.items()})

    def _distillation(self) -> DistillationOptions | None:
        teacher = self.get_params(deep=False)["teacher"]
        return None if teacher is None else DistillationOptions(teacher)

    def _frame(self, X: object) -> tuple[pl.DataFrame, bool]:
        return as_frame(X, estimator=type(self).__name__)

    def _callback(self, callbacks: Callbacks) -> Callback:
        given = as_callback(callbacks)
        return as_callback([given, EpochPrinter()]) if self.verbose else given

    def _eval_frame(self, X: object, training: pl.DataFrame, named: bool) -> pl.DataFrame:
        """The table of an `eval_set`; an array's columns are those of training, in order."""
        fitted = FittedColumns(training.columns, named, type(self).__name__)
        frame, has_names = as_frame(
            X, estimator=type(self).__name__, numbers_are_names=fitted.numbered
        )
        if not has_names and frame.width != training.width:
            raise ValueError(
                f"eval_set must have the {training.width} columns of X; got {frame.width} columns"
            )
        return fitted.of(frame, named=has_names, argument="the X of eval_set")

    def _rows(
        self,
        X: object,
        target: np.ndarray,
        sample_weight: object,
        groups: object = None,
        time: object = None,
    ) -> LabelledRows:
        """The rows with their target, weights, groups and times, checked."""
        frame, _ = self._frame(X)
        return labelled_rows(frame, target, sample_weight, groups=groups, time=time)

    def _target(self, y: Any) -> tuple[np.ndarray, Labels | None]:
        """What is learned, class codes or values, and in classification the labels behind it."""
        raise NotImplementedError

    def _known_target(self, y: Any, classes: np.ndarray | None) -> np.ndarray:
        """The target of an `eval_set`, in the terms of the training rows."""
        raise NotImplementedError

    @with_hints
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        eval_set: EvalSet = None,
        *,
        groups: Any = None,
        time: Any = None,
        decimal: Literal[".", ","] | None = None,
        missing: Sequence[str] | None = None,
        callbacks: Callbacks = None,
        checkpoint: Checkpoint | None = None,
    ) -> Self:
        """Fit to a table.

        Parameters
        ----------
        X : frame or array of shape (n_rows, n_columns)
            polars, pandas, pyarrow, NumPy, or a list of dicts; strings, missing values and dates
            as they are.
        y : array of shape (n_rows,)
            Labels in classification (strings, integers, booleans or integral floats), numbers in
            regression; no nulls.
        sample_weight : array of shape (n_rows,), optional
            Not negative; rows of weight 0 count as absent.
        eval_set : tuple (X, y) or (X, y, sample_weight), or a list of one such tuple, optional
            Rows that choose the epoch and fit the calibrator, in place of an internal split.
        groups, time : array of shape (n_rows,), optional
            Groups never straddle the internal split; its validation rows are strictly later.
        decimal : {".", ","}, optional
            What separates the fraction of numbers that are text; by default found out in every
            column, where that is certain.
        missing : sequence of str, optional
            Text that stands for a missing cell, in place of NA, NaN, null and the like.
        callbacks : list of Callback or callable, optional
            Told of the start, every epoch and the end, as `TensorBoardLogger` and `MLflowLogger`
            are; a function is called with each `Epoch`.
        checkpoint : Checkpoint, optional
            Where the run keeps its state; if the file is there, the run goes on from it. It is
            removed in the end, and kept if Ctrl-C ended the run early.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter, the labels or the weights break a rule.
        TableError
            If the table does.
        """
        formats = cell_format(decimal, missing)
        return self._fit(
            X, y, sample_weight, eval_set, formats, groups, time, callbacks, checkpoint
        )

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        eval_set: EvalSet,
        formats: Mapping[str, CellFormat] | CellFormat,
        groups: Any,
        time: Any,
        callbacks: Callbacks,
        checkpoint: Checkpoint | None,
    ) -> Self:
        """`fit` to columns whose text is written in these formats, or all in one."""
        started = perf_counter()
        settings, distillation = self._settings(), self._distillation()
        callback = self._callback(callbacks)
        frame, named = self._frame(X)
        target, labels = self._target(single_column(y, type(self).__name__))
        if isinstance(formats, CellFormat):
            formats = dict.fromkeys(frame.columns, formats)
        rows = replace(self._rows(frame, target, sample_weight, groups, time), formats=formats)
        classes = None
        if labels is not None:
            labels = seen_labels(labels, rows.weight)
            rows, classes = replace(rows, target=labels.codes), labels.classes
        validation = None
        if eval_set is not None:
            eval_X, eval_y, eval_weight = rows_and_target(eval_set, "eval_set")
            known = self._known_target(single_column(eval_y, "eval_set"), classes)
            validation = self._rows(self._eval_frame(eval_X, frame, named), known, eval_weight)
        parameters = self.get_params(deep=False)
        eval_metric_of(parameters["eval_metric"], settings.task)
        splits = None
        if parameters["validation"] is not None:
            splits, rows = self._splits(X, rows, classes, eval_set)
        with reporting_failures(callback):
            model = fit_table(
                rows,
                settings,
                classes=classes,
                validation=validation if splits is None else splits,
                columns=Columns(
                    named=named, roles=parameters["roles"], target_format=self._target_format
                ),
                aims=_aims(parameters),
                distillation=distillation,
                callbacks=_fit_callbacks(callback),
                checkpoint=checkpoint,
            )
            if splits is not None:
                words = splits_in_words(
                    parameters["validation"], splits, in_folds="folds" in model.card
                )
                model = replace(model, card={**model.card, "validation": words})
            self._remember(model)
            self.fit_seconds_ = perf_counter() - started
            callback.on_end(model)
        _remove_finished(checkpoint, model)
        return self

    def _splits(
        self, X: Any, rows: LabelledRows, classes: np.ndarray | None, eval_set: EvalSet
    ) -> tuple[Splits, LabelledRows]:
        """What `validation` makes of the rows, and the rows."""
        parameters = self.get_params(deep=False)
        others = {
            "eval_set": eval_set,
            "validation_fraction": parameters["validation_fraction"],
            "time": rows.time,
        }
        for name, value in others.items():
            if value is not None:
                raise ValueError(
                    f"validation decides which rows validate, and so would {name}; give one of "
                    "the two" + ("; put the rows in order of time first" if name == "time" else "")
                )
        splits, rows = splits_of_rows(parameters["validation"], rows, classes, X)
        n_folds = parameters["n_folds"] or 1
        if n_folds > 1 and folds_of_splits(splits, len(rows)) is None:
            raise ValueError(
                f"n_folds={n_folds} needs a validation that tests a row once at most and trains on "
                f"all rows that it does not test, such as KFold({n_folds}); got other splits, "
                f"{len(splits):,}; leave n_folds out, and the last split validates"
            )
        if n_folds > 1 and n_folds != len(splits):
            raise ValueError(
                f"n_folds must be the number of splits of validation; got n_folds={n_folds} and "
                f"{len(splits):,} splits; give n_folds={len(splits)}"
            )
        return splits, rows

    def fit_file(
        self,
        source: Source,
        target: str,
        *,
        drop: Sequence[str] = (),
        group: str | None = None,
        weight: str | None = None,
        drop_null_target: bool = False,
        csv: CsvFormat | None = None,
        memory: int | str | None = None,
        spool: str | os.PathLike[str] | None = None,
        callbacks: Callbacks = None,
        checkpoint: Checkpoint | None = None,
    ) -> Self:
        """Fit to a table on disk, which need not fit in memory.

        A table whose training takes less than `memory` is read and given to `fit`. For a larger
        one the encoder is fitted on a uniform sample of 200,000 training rows, all rows are
        encoded once to `spool`, and every epoch reads them from there.

        Parameters
        ----------
        source : path, pattern, folder, or sequence of paths
            CSV, JSON lines, Parquet, Arrow, or (in memory) Excel.
        target : str
            Column to predict.
        drop : sequence of str
            Columns not to use.
        group : str, optional
            Column whose equal cells stay on one side of the split; not a feature.
        weight : str, optional
            Column of sample weights; not a feature.
        drop_null_target : bool, default=False
            Leave out rows without a target.
        csv : CsvFormat, optional
            How a CSV file is written, where it cannot tell by itself: its delimiter, header,
            encoding and decimal mark, and what stands for a missing cell.
        memory : int or str, optional
            Bytes, or an amount such as "2GB"; by default half of what the machine has free.
        spool : path, optional
            Folder for the encoded rows, emptied first and removed in the end; by default one in
            the folder for temporary files.
        callbacks, checkpoint
            As in `fit`.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter breaks a rule.
        TableError
            If the table or a column is not what it should be.
        OSError
            If the disk has no space for the encoded rows.
        """
        # What reads from disk is loaded here: most fits never need it.
        from tabwright.fitting.streamed.fit_files import fit_files
        from tabwright.fitting.streamed.jobs import LocalTrainer
        from tabwright.streaming.memory import bytes_of, reason_to_stream

        columns = ColumnUses(
            target=target,
            drop=tuple(drop),
            group=group,
            weight=weight,
            time=None,
            drop_null_target=drop_null_target,
        )
        budget = bytes_of(memory) if isinstance(memory, str) else memory
        if reason_to_stream(source, budget) is None:
            table = read_described(
                source, csv=csv, as_text=roles_as_text(self.get_params()["roles"])
            )
            X, y, groups, weights = rows_in_memory(table.frame, columns)
            return self._fit(
                X, y, weights, None, table.formats, groups, None, callbacks, checkpoint
            )
        settings: FitSettings = self._settings()
        callback: Callback = self._callback(callbacks)
        parameters = self.get_params(deep=False)
        eval_metric_of(parameters["eval_metric"], settings.task)
        if parameters["validation"] is not None:
            raise ValueError(
                "a splitter needs the rows in memory, and this table is streamed from disk; raise "
                "memory, or leave validation out and give group or validation_fraction"
            )
        with reporting_failures(callback):
            model = fit_files(
                source,
                columns,
                settings,
                roles=parameters["roles"],
                csv=csv,
                aims=_aims(parameters),
                callbacks=_fit_callbacks(callback),
                checkpoint=checkpoint,
                trainer=LocalTrainer(spool=spool),
            )
            if not isinstance(model, FittedModel):
                raise RuntimeError("a process that works alone has the model")
            self._remember(model)
            callback.on_end(model)
        _remove_finished(checkpoint, model)
        return self


def _remove_finished(checkpoint: Checkpoint | None, model: FittedModel) -> None:
    if checkpoint is not None and model.stopped != "interrupted":
        checkpoint.remove()


def _aims(parameters: Mapping[str, Any]) -> Aims:
    """What an estimator's parameters say of the model's use."""
    return Aims(
        class_weight=parameters.get("class_weight"),
        prior=parameters.get("prior", "training"),
        eval_metric=parameters["eval_metric"],
    )


def _fit_callbacks(callback: Callback) -> FitCallbacks:
    """The calls of a fit to a callback."""
    return FitCallbacks(callback.on_start, callback.on_epoch, callback.on_message)
