"""A table larger than memory after the first pass: exact counts, and samples as labelled rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.streaming.chunks import FilesTable, Place, RowPlaces
from tabwright.streaming.scan import Scan
from tabwright.tables.cell_format import USUAL
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.dtypes import text_column
from tabwright.tables.labelled import LabelledRows
from tabwright.tables.paths import file_size

# As in memory: with fewer validation rows, all of them choose.
_ASIDE_FROM: Final = 800


@dataclass(frozen=True)
class ScannedTable:
    """A table in files, where each row goes, and what the first pass found."""

    table: FilesTable
    columns: ColumnUses
    places: RowPlaces
    scan: Scan

    @property
    def features(self) -> list[str]:
        """The columns that the model gets."""
        return self.columns.features(self.table.dtypes)

    @property
    def sets_aside(self) -> bool:
        """Whether some validation rows may choose nothing."""
        return self.scan.task == "regression" and self.scan.n_rows["validation"] >= _ASIDE_FROM

    def sample(self, place: Place) -> LabelledRows:
        """The sample of the rows of a place."""
        return self._labelled(self.scan.samples[place])

    def training_rows(self, as_text: Sequence[str]) -> tuple[LabelledRows, dict[str, str]]:
        """The sample of training rows, with types in place of text, and notes by column.

        What text means is told by the rows of all samples, as it is by all rows in memory.

        `as_text`: columns whose text stays text.
        """
        rows, formats, notes = self.sample("train"), self.table.formats, dict[str, str]()
        columns = []
        for series in rows.frame.get_columns():
            name, form = series.name, formats.get(series.name, USUAL)
            if series.dtype == pl.String and name not in as_text:
                places = [place for place in self.scan.samples if place != "train"]
                cells = pl.concat([series, *(self.scan.samples[place][name] for place in places)])
                decimal = "," if form.decimal == "," else None
                values, note, formats[name] = text_column(
                    cells, decimal=decimal, missing=form.missing
                )
                series = values.head(len(rows))
                if note:
                    notes[name] = note
            columns.append(series)
        frame = pl.DataFrame({series.name: series for series in columns})
        return replace(rows, frame=frame, formats=formats), notes

    def choosing(self) -> LabelledRows:
        """The sample of validation rows that choose."""
        if not self.sets_aside:
            return self.sample("validation")
        return self._some_of_validation(~self.scan.aside("validation"))

    def spare(self) -> LabelledRows:
        """The sample of validation rows that are set aside for the intervals."""
        return self._some_of_validation(self.scan.aside("validation"))

    def without_cells(self) -> ScannedTable:
        """The same, the samples but which rows they have: what an encoding worker needs."""
        return replace(self, scan=self.scan.without_cells())

    def identity(self) -> str:
        """A digest of the files and of what the first pass counted in them."""
        scan = self.scan
        digest = hashlib.blake2b(digest_size=16)
        for number, path in enumerate(self.table.paths):
            digest.update(f"{self.table.name(number)}\0{file_size(path)}\0".encode())
        for part in (scan.n_rows, scan.scale, scan.class_mass, scan.mean_weight):
            digest.update(repr(part.tolist() if isinstance(part, np.ndarray) else part).encode())
        return digest.hexdigest()

    def _some_of_validation(self, keep: NDArray[np.bool_]) -> LabelledRows:
        return self._labelled(self.scan.samples["validation"].filter(pl.Series(keep)))

    def _labelled(self, sample: pl.DataFrame) -> LabelledRows:
        """Sampled rows with their target, weights and groups."""
        weight = groups = None
        if self.columns.weight is not None:
            weight = sample[self.columns.weight].cast(pl.Float64).to_numpy()
        if self.columns.group is not None:
            cells = sample[self.columns.group].cast(pl.String).fill_null("")
            groups = cells.rank("dense").to_numpy()
        target = self.scan.encoded(sample[self.columns.target])
        return LabelledRows(sample[self.features], target, weight, groups)
