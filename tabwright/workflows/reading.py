"""A table on disk as a fitted model reads it: which columns, of which types, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import polars as pl

from tabwright.encoding.plan import EncodingPlan
from tabwright.errors import TableError
from tabwright.inference.fitted_model import FittedModel
from tabwright.tables import MISSING_MARKERS, CsvFormat, iter_tables, table_dtypes
from tabwright.tables.column_names import listed
from tabwright.tables.paths import TableFile
from tabwright.tables.reading import file_chunks

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Part:
    """Some rows of a table in files.

    `number`: which run of `n_rows` rows of the file, from 0.
    `n_rows`: None: all rows of the file.
    """

    file: TableFile
    number: int = 0
    n_rows: int | None = None


def read_features(model: FittedModel, table: str, *, csv: CsvFormat | None = None) -> pl.DataFrame:
    """The columns that a model reads, of a whole table, as `iter_predictions` reads them.

    `table`: a file, folder or pattern with the columns of training, in any order.
    `csv`: how a CSV file is written, where it cannot tell by itself.
    Raises `TableError` if columns are missing.
    """
    reading = Reading.of(model, table, others=(), csv=csv)
    return pl.concat(
        [batch.frame[reading.features] for batch in reading.batches(BATCH_ROWS)],
        how="vertical_relaxed",
    )


def _layout_and_types(
    table: str, layout: CsvFormat, plan: EncodingPlan, is_ignored: Callable[[str], bool]
) -> tuple[CsvFormat, dict[str, pl.DataType]]:
    """How a table is written, and its columns as they stand in it.

    A first line with the names of the model holds names, however much it looks like data.
    `is_ignored`: told a column's name, whether it is not read; its cells may be nested.
    """

    def dtypes_in(layout: CsvFormat) -> dict[str, pl.DataType]:
        return table_dtypes(table, csv=layout, text_as_it_is=True, is_ignored=is_ignored)

    try:
        return layout, dtypes_in(layout)
    except TableError:
        if not plan.named or layout.has_header is not None:
            raise
        layout = replace(layout, has_header=True)
        dtypes = dtypes_in(layout)
        used = (name for name, kind in zip(plan.names, plan.kinds, strict=True) if kind != "unused")
        if not dtypes.keys() >= set(used):
            raise
        return layout, dtypes


@dataclass(frozen=True)
class Reading:
    """How a table is read for a model.

    `features`: the columns that the model takes; `columns`: these, and others asked for.
    `dtypes`: types to read them as.
    `verbatim`: columns whose text stays as it is written.
    """

    table: str
    features: list[str]
    columns: list[str]
    dtypes: dict[str, pl.DataType]
    verbatim: list[str]
    csv: CsvFormat

    @classmethod
    def of(
        cls,
        model: FittedModel,
        table: str,
        *,
        others: Sequence[str],
        csv: CsvFormat | None,
        typed: bool = False,
    ) -> Reading:
        """Find out how a table is read.

        `others`: columns to read besides those of the model.
        `typed`: whether these get their types, as a target does; else they stay as written.
        Raises `TableError` if there is no such column, or the model lacks one.
        """
        plan = model.encoder.plan_
        kind_of = dict(zip(plan.names, plan.kinds, strict=True)) if plan.named else {}
        # What training saw and did not use needs no word here.
        known = {model.card.get("target"), *model.card.get("columns_not_used", ()), *others}

        def is_ignored(name: str) -> bool:
            if name in others:
                return False
            return kind_of.get(name, "unused") == "unused" if plan.named else name in known

        # The model decides what text means, as training read it: not the rest of this file.
        layout, dtypes = _layout_and_types(table, csv or CsvFormat(), plan, is_ignored)
        for name in others:
            if name not in dtypes:
                raise TableError(
                    f"{table} has no column {name!r}; its columns are "
                    f"{listed(list(dtypes), quoted=False)}"
                )
        named = [name for name in dtypes if name not in known or name in plan.names]
        if plan.named:
            plan.check_names(named)
            features = [name for name, kind in kind_of.items() if kind != "unused"]
        else:
            features = named
        extra = [name for name in others if name not in features]
        columns = [*features, *extra]
        types = {name: dtypes[name] for name in columns}
        verbatim = list(extra)
        if typed:
            verbatim = []
            # A marker of missing cells that is a label of the model is that label here.
            labels = [] if model.classes is None else model.classes.tolist()
            if layout.missing is None and any(label in MISSING_MARKERS for label in labels):
                markers = tuple(m for m in MISSING_MARKERS[1:] if m not in labels)
                layout = replace(layout, missing=markers)
        if plan.named:
            # Text that the user says something of is read here; the rest is the model's to read.
            for name in features:
                if types[name] != pl.String:
                    continue
                if layout.decimal == "," and kind_of[name] == "numeric":
                    types[name] = pl.Float64()
                elif csv is None or csv.missing is None:
                    verbatim.append(name)
        return cls(
            table=table,
            features=features,
            columns=columns,
            dtypes=types,
            verbatim=verbatim,
            csv=layout,
        )

    def batches(self, batch_rows: int, part: Part | None = None) -> Iterator[Batch]:
        """The rows of the table, or of one part, at most `batch_rows` at once."""
        source: str | TableFile = self.table if part is None else part.file
        n_before = 0
        if part is None or part.n_rows is None:
            frames = iter_tables(
                source,
                batch_rows=batch_rows,
                columns=self.columns,
                dtypes=self.dtypes,
                verbatim=self.verbatim,
                csv=self.csv,
            )
        else:
            n_before = part.number * part.n_rows
            chunks = file_chunks(
                part.file, part.n_rows, self.columns, self.dtypes, part.number.__eq__, self.csv
            )
            frames = (piece for _, chunk in chunks for piece in chunk.iter_slices(batch_rows))
        for frame in frames:
            yield Batch(frame, self.features, n_before, str(source))
            n_before += frame.height


@dataclass(frozen=True)
class Batch:
    """Rows of a table and where in it they stand."""

    frame: pl.DataFrame
    features: list[str]
    n_before: int
    table: str

    @contextmanager
    def in_place(self) -> Iterator[pl.DataFrame]:
        """The columns of the model; what is wrong with a cell names the rows it is among."""
        try:
            yield self.frame[self.features]
        except TableError as error:
            if not self.n_before:
                raise
            raise TableError(
                f"{error}; rows are counted from row {self.n_before + 1:,} of {self.table}"
            ) from error
