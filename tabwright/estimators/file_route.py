"""`fit_file` of the estimators: a table on disk, in memory where it fits, else from disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from tabwright.errors import TableError
from tabwright.inference.fitted_model import FittedModel
from tabwright.settings import FitSettings
from tabwright.streaming.memory import bytes_of, reason_to_stream
from tabwright.tables import read_table
from tabwright.tables.paths import Source
from tabwright.training.callbacks import Callback, telling_failures
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.loop import Epoch

if TYPE_CHECKING:
    from tabwright.streaming.scan import StreamColumns

__all__ = ["FitsFiles"]


class FitsFiles:
    """What gives an estimator `fit_file`; the rest is the estimator's own."""

    def fit_file(
        self,
        source: Source,
        target: str,
        *,
        drop: Sequence[str] = (),
        group: str | None = None,
        weight: str | None = None,
        drop_null_target: bool = False,
        memory: int | str | None = None,
        spool: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callback | Callable[[Epoch], object]] | None = None,
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
            If the disk has no room for the encoded rows.
        """
        # The rooms that read from disk; most fits never need them.
        from tabwright.fitting.fit_files import fit_files
        from tabwright.streaming.scan import StreamColumns

        estimator: Any = self
        columns = StreamColumns(target, tuple(drop), group, weight, drop_null_target)
        budget = bytes_of(memory) if isinstance(memory, str) else memory
        if reason_to_stream(source, budget) is None:
            frame, y, given = _in_memory(source, columns)
            estimator.fit(frame, y, **given, callbacks=callbacks, checkpoint=checkpoint)
            return self
        settings: FitSettings = estimator._settings()
        callback: Callback = estimator._callback(callbacks)
        parameters = estimator.get_params(deep=False)
        with telling_failures(callback):
            model = fit_files(
                source,
                columns,
                lambda task: settings,
                task=settings.task,
                roles=parameters["roles"],
                class_weight=parameters.get("class_weight"),
                prior=parameters.get("prior", "training"),
                spool=spool,
                checkpoint=checkpoint,
                on_start=callback.on_start,
                on_epoch=callback.on_epoch,
                on_message=callback.on_message,
            )
            if not isinstance(model, FittedModel):
                raise RuntimeError("a process that works alone has the model")
            estimator._remember(model)
            callback.on_end(model)
        if checkpoint is not None and model.card["stopped"] != "interrupted":
            checkpoint.remove()
        return self


def _in_memory(
    source: Source, columns: StreamColumns
) -> tuple[pl.DataFrame, pl.Series, dict[str, pl.Series]]:
    """Features, target, and what else `fit` takes of a table that fits in memory."""
    frame = read_table(source)
    named = (columns.target, *columns.drop, columns.group, columns.weight)
    absent = [name for name in named if name is not None and name not in frame.columns]
    if absent:
        raise TableError(
            f"the table has no column {absent[0]!r}; its columns are "
            f"{', '.join(frame.columns[:30])}"
        )
    if columns.drop_null_target:
        frame = frame.filter(frame[columns.target].alias("").is_not_null())
    given = {"groups": columns.group, "sample_weight": columns.weight}
    asides = {columns.target, *columns.drop, *given.values()}
    features = frame[[name for name in frame.columns if name not in asides]]
    others = {use: frame[name] for use, name in given.items() if name is not None}
    return features, frame[columns.target], others
