"""`TableEncoder`: from the columns of a table to the inputs of a network.

Encoding has two steps. `transform` turns a frame into the compact form (`Compact`): float32
columns, centred and scaled, and integer codes. `expand` widens that to the inputs of the network:
bins, missing indicators, cycles, one input per level. The compact form is what stays in memory;
expanding is cheap and happens batch by batch. What the training rows decide is found in
`plan_fit.py` and kept as a `plan.EncodingPlan`. The parts live in `encoding/numeric.py` (numbers),
`encoding/categorical.py` (categories), `encoding/value_statistics.py` (target statistics of
numbers), `encoding/interactions.py` (pairs of numbers), `encoding/calendar_cycles.py` (calendars)
and `encoding/layout.py` (widening); what a cell means is decided in `tables`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.artifact.schema import Reader, TensorBag
from tabwright.encoding.categorical import FIRST_LEVEL, UNKNOWN
from tabwright.encoding.interactions import Interaction
from tabwright.encoding.layout import Layout
from tabwright.encoding.pair_columns import fill_pairs
from tabwright.encoding.plan import EncodingPlan
from tabwright.encoding.plan_fit import (
    EncoderSettings,
    RowsToFit,
    by_kind,
    fit_interactions,
    fit_plan,
    places_in_cycle,
)
from tabwright.encoding.row_encoder import RowEncoder
from tabwright.encoding.values import (
    Kind,
    booleans,
    check_cells,
    elapsed,
    numbers,
)
from tabwright.errors import TableError, warn_caller
from tabwright.settings import NumericEncoding
from tabwright.tables import to_microseconds
from tabwright.tables.column_names import FittedColumns

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CHUNK_ROWS = 65_536
# In so many rows, a column without a single known level is worth a word.
_TELLING_ROWS = 10
# The threads of polars do not come along into a forked child, which would wait for them for ever.
_is_forked = False


def _mark_forked() -> None:
    global _is_forked
    _is_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


@dataclass(frozen=True)
class Compact:
    """Rows of a table, encoded and not yet widened.

    `numeric`: (n, n_numeric), float32. Numbers and elapsed times, centred and scaled in float64
        before the cast; booleans as -1 and 1; target statistics; columns made of two others. NaN
        is missing.
    `codes`: (n, n_codes), int32; category codes (0 missing, 1 unknown or rare, 2 and up the levels
        by frequency), then places in calendar cycles (0 missing).
    """

    numeric: NDArray[np.float32]
    codes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, index: NDArray[np.int64] | slice) -> Compact:
        """The rows at `index`."""
        return Compact(self.numeric[index], self.codes[index])

    def with_rows(self, more: Compact) -> Compact:
        """These rows, then those of `more`."""
        return Compact(
            np.concatenate([self.numeric, more.numeric]), np.concatenate([self.codes, more.codes])
        )


class TableEncoder:
    """Encoder of the columns of a table, fitted on its training rows.

    Missing numbers sit at the centre of the column; columns that had missing values in training
    have an indicator besides. Zoned times count as UTC. The state is arrays and plain data; an
    encoder that comes back from it gives the same bits.

    `numeric_encoding`: how numbers become inputs. "standard": mean and standard deviation.
        "robust": median and 1/IQR, then the smooth clip x / sqrt(1 + (x/3)^2). "quantile_normal":
        ranks as normal scores. "quantile_ple" and "tree_ple": piecewise-linear bins between
        quantiles, or between the thresholds of a decision tree on the target; elapsed time keeps
        its value and gets no bins. With "tree_ple" columns whose single values tell more than bins
        can show, as rows held out prove, get target statistics too
        (`encoding/value_statistics.py`).
    `n_bins`: at most so many bins per numeric column; fewer for columns with few distinct values,
        and for tables with more than a thousand numeric columns.
    `keep_value`: whether a column with bins is also an input by itself, robustly scaled. Always so
        in a table with dates.
    `max_levels`: at most so many levels of a category column have an input of their own; columns
        with more get target statistics too. Fewer for tables with more than a thousand category
        columns.
    `min_count`: training rows that a level needs for an input of its own; None: 1 in 200 rows, from
        2 to 10.
    `plan_`: what was fitted.
    """

    unknown_code = UNKNOWN

    def __init__(
        self,
        numeric_encoding: NumericEncoding = "auto",
        *,
        n_bins: int = 16,
        keep_value: bool = True,
        max_levels: int = 50,
        min_count: int | None = None,
    ) -> None:
        if numeric_encoding not in get_args(NumericEncoding):
            raise ValueError(
                f"numeric_encoding must be one of {', '.join(get_args(NumericEncoding))}; "
                f"got {numeric_encoding!r}"
            )
        if n_bins < 2:
            raise ValueError(f"n_bins must be at least 2; got {n_bins}")
        if max_levels < 1:
            raise ValueError(f"max_levels must be at least 1; got {max_levels}")
        if min_count is not None and min_count < 1:
            raise ValueError(f"min_count must be at least 1, or None; got {min_count}")
        self.numeric_encoding: NumericEncoding = numeric_encoding
        self.n_bins = n_bins
        self.keep_value = keep_value
        self.max_levels = max_levels
        self.min_count = min_count
        self._rows: RowEncoder | None = None

    # ---------------------------------------------------------------- fit

    def fit(self, rows: RowsToFit) -> Self:
        """Fit on training rows."""
        self._fit(rows)
        return self

    def fit_transform(self, rows: RowsToFit) -> Compact:
        """Fit on training rows and give their compact form.

        Where a column has target statistics, those of a training row come from other rows
        (cross-fitting), so this differs from `fit` followed by `transform`.

        Raises `TableError` if no column is usable, a cell does not fit its column, or there would
            be more than 262,144 inputs.
        """
        codes, statistics = self._fit(rows)
        numeric = np.empty((len(rows.frame), self.plan_.layout.n_numeric), dtype=np.float32)
        self._fill_all(self._used_series(rows.frame), numeric, codes, categories=False)
        if statistics:
            np.concatenate(statistics, axis=1, out=numeric[:, self.plan_.n_own :])
        return Compact(numeric, codes)

    def _fit(self, rows: RowsToFit) -> tuple[NDArray[np.int32], list[NDArray[np.float32]]]:
        plan, codes, statistics = fit_plan(rows, EncoderSettings(**self._settings()))
        self._remember(plan)
        return codes, statistics

    def _settings(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(EncoderSettings)}

    def _remember(self, plan: EncodingPlan) -> None:
        self.plan_ = plan
        self._layout = plan.layout
        self._names = frozenset(plan.names)
        self._rows = None

    def with_interactions(
        self, interactions: Sequence[Interaction], rows: RowsToFit, compact: Compact
    ) -> tuple[TableEncoder, Compact]:
        """An encoder that makes columns of interactions too, and its compact training rows.

        Those of but one value are left out.

        `rows`, `compact`: what it was fitted on, and what `fit_transform` gave.
        """
        columns = fit_interactions(
            interactions, self.plan_, rows, compact.numeric, EncoderSettings(**self._settings())
        )
        encoder = TableEncoder(**self._settings())
        encoder._remember(replace(self.plan_, interactions=columns))
        numeric = np.empty((len(compact), encoder.layout.n_numeric), dtype=np.float32)
        numeric[:, : compact.numeric.shape[1]] = compact.numeric
        fill_pairs(encoder.plan_.pairs, numeric)
        return encoder, Compact(numeric, compact.codes)

    # ---------------------------------------------------------------- what was fitted

    @property
    def named(self) -> bool:
        """Whether columns go by name (else by position)."""
        return self.plan_.named

    @property
    def feature_names_in_(self) -> tuple[str, ...]:
        """Columns of the training table, those set aside included."""
        return self.plan_.names

    def fitted_columns(self, owner: str = "the model") -> FittedColumns:
        """The same with whether they had names; `owner`: who is asked, for messages."""
        return FittedColumns(self.plan_.names, self.plan_.named, owner)

    @property
    def n_features_in_(self) -> int:
        """How many they are."""
        return len(self.plan_.names)

    @property
    def layout(self) -> Layout:
        """Where the network inputs come from."""
        return self._layout

    @property
    def input_dim(self) -> int:
        """Network inputs."""
        return self._layout.input_dim

    @property
    def hidable_(self) -> NDArray[np.bool_]:
        """Code columns in which training should hide known levels: bool of shape (n_codes,).

        Codes of 2 and up are shown as `unknown_code` now and then, so that the input for unknown
        levels is trained rather than left at its random start.
        """
        return np.arange(self.plan_.n_codes) < len(self.plan_.categories)

    @property
    def sources_(self) -> NDArray[np.int64]:
        """Index in `feature_names_in_` of the column behind each input."""
        return np.array([source for _, source in self.plan_.inputs], dtype=np.int64)

    # ---------------------------------------------------------------- transform and expand

    def transform(self, frame: pl.DataFrame, *, warns: bool = False) -> Compact:
        """Encode a frame.

        `frame`: Columns in any order; other columns than those of the training table are ignored
            with one warning, those set aside there without. By position if `named` is False, with
            a warning where the columns have other names than places.
        `warns`: whether to warn of a column of which no cell is a known level.
        Raises `TableError` if columns are missing, or a cell does not fit its column.
        """
        frame = self._checked_columns(frame)
        if len(frame) == 1:
            rows = self._row_encoder()
            return _one_row(*rows.encode_cells(rows.frame_cells(frame)))
        if _is_forked:
            return self._row_by_row(frame)
        numeric = np.empty((len(frame), self._layout.n_numeric), dtype=np.float32)
        codes = np.empty((len(frame), self.plan_.n_codes), dtype=np.int32)
        self._fill_all(self._used_series(frame), numeric, codes, categories=True, warns=warns)
        return Compact(numeric, codes)

    def _row_by_row(self, frame: pl.DataFrame) -> Compact:
        """`transform` by the scalar path, which starts no thread of polars."""
        rows = self._row_encoder()
        encoded = [
            rows.encode_cells(rows.frame_cells(frame.slice(i, 1))) for i in range(len(frame))
        ]
        shape = (len(frame), -1)
        numeric = np.array([numbers for numbers, _ in encoded], dtype=np.float32).reshape(shape)
        codes = np.array([levels for _, levels in encoded], dtype=np.int32).reshape(shape)
        return Compact(np.ascontiguousarray(numeric), np.ascontiguousarray(codes))

    def expand(self, compact: Compact) -> NDArray[np.float32]:
        """Network inputs of encoded rows.

        Returns: (n, input_dim), float32. C-contiguous, always finite.
        """
        return self._layout.expand(compact.numeric, compact.codes)

    def torch_expander(self, device: torch.device | str) -> Callable[[Tensor, Tensor], Tensor]:
        """`expand` in torch.

        `device`: where its tables lie, and the tensors it is given.
        Returns: `(numeric, codes) -> inputs`: float32 of shape (n, n_numeric) and int32 of shape
            (n, n_codes) to float32 of shape (n, input_dim), equal to `expand` bit for bit on a CPU.
        """
        return self._layout.torch_expander(device)

    def row(self, row: Mapping[str, Any]) -> Compact:
        """The compact form of one row, by a scalar path; equal to `transform`.

        `row`: Cell by column name. Extra keys are ignored with one warning.
        Raises `TableError` if columns are missing, or a cell does not fit its column.
        """
        return _one_row(*self._row_encoder().encode(row))

    def cells_row(self, cells: Mapping[str, Any]) -> Compact:
        """`row` of the cells of a table of one row, which `pandas_row.row_cells` gave.

        Raises `TableError` if columns are missing, or a cell does not fit its column.
        """
        if cells.keys() != self._names:
            self.plan_.check_names(cells)
        return _one_row(*self._row_encoder().encode_cells(cells))

    def _checked_columns(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self.named:
            self.plan_.check_names(frame.columns)
        elif tuple(frame.columns) != self.plan_.names:
            return self.fitted_columns().of(frame, named=True, argument="the table")
        return frame

    def _row_encoder(self) -> RowEncoder:
        if self._rows is None:
            self._rows = RowEncoder(self.plan_)
        return self._rows

    def _used_series(self, frame: pl.DataFrame) -> dict[Kind, list[pl.Series]]:
        """The columns that are inputs, typed as in the fit, by kind."""
        plan = self.plan_
        used = [position for position, kind in enumerate(plan.kinds) if kind != "unused"]
        columns = [
            frame.get_column(plan.names[position]) if self.named else frame.to_series(position)
            for position in used
        ]
        if plan.formats:
            columns = [plan.typed(*pair) for pair in zip(used, columns, strict=True)]
        return by_kind(columns, [plan.kinds[position] for position in used])

    def _fill_all(
        self,
        series: Mapping[Kind, list[pl.Series]],
        numeric: NDArray[np.float32],
        codes: NDArray[np.int32],
        *,
        categories: bool,
        warns: bool = False,
    ) -> None:
        """Encode all rows into `numeric` and `codes`."""
        n_rows = len(numeric)
        # Column after column within a chunk of rows: the rows stay in the cache, and the
        # float64 intermediates are small.
        for start in range(0, n_rows, _CHUNK_ROWS):
            rows = slice(start, min(start + _CHUNK_ROWS, n_rows))
            whole = n_rows <= _CHUNK_ROWS
            part = (
                series
                if whole
                else {
                    kind: [column.slice(start, rows.stop - start) for column in columns]
                    for kind, columns in series.items()
                }
            )
            try:
                self._fill(part, numeric[rows], codes[rows], categories, warns)
            except TableError:
                # The message must name the row of the table, not of the chunk.
                if not whole:
                    for kind, columns in series.items():
                        for column in columns:
                            check_cells(kind, column)
                raise

    def _fill(
        self,
        series: Mapping[Kind, list[pl.Series]],
        numeric: NDArray[np.float32],
        codes: NDArray[np.int32],
        categories: bool,
        warns: bool,
    ) -> None:
        """Encode a chunk of rows, columns in the order of the plan."""
        plan, at = self.plan_, 0
        for column, origin in zip(series["numeric"], plan.origins, strict=True):
            numeric[:, at] = plan.numbers.encode(at, numbers(column, origin))
            at += 1
        moments = [to_microseconds(column).alias("") for column in series["datetime"]]
        for moment, start in zip(moments, plan.date_origins, strict=True):
            numeric[:, at] = plan.numbers.encode(at, elapsed(moment, start))
            at += 1
        for column in series["boolean"]:
            numeric[:, at] = booleans(column)
            at += 1
        for cycle, date, code in plan.cycle_columns:
            codes[:, code] = places_in_cycle(cycle, moments[date])
        if not categories:
            return
        for j, (column, category) in enumerate(
            zip(series["category"], plan.categories, strict=True)
        ):
            full = category.codes_of_cells(column)
            has_known = not category.levels or (full >= FIRST_LEVEL).any()
            if warns and len(full) >= _TELLING_ROWS and not has_known:
                _warn_of_unknown(column, full)
            codes[:, j] = category.input_codes(full)
            if category.statistics is not None:
                width = category.statistics.shape[1]
                numeric[:, at : at + width] = category.statistics[full]
                at += width
        for leaf in plan.value_statistics:
            numeric[:, at : at + leaf.width] = leaf.encode(numeric[:, leaf.source])
            at += leaf.width
        fill_pairs(plan.pairs, numeric)

    # ---------------------------------------------------------------- state

    def __getstate__(self) -> dict[str, Any]:
        # Closures do not pickle; they are made again at the first row.
        return {**self.__dict__, "_rows": None}

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The document and the arrays of the artifact: plain data only."""
        document, arrays = self.plan_.to_state()
        return {**document, "settings": self._settings()}, arrays

    @classmethod
    def from_state(cls, document: Reader, tensors: TensorBag) -> TableEncoder:
        """Read an encoder back and check everything.

        Raises `ArtifactError` if something is missing, left over, out of range or does not fit
            together.
        """
        settings = document.child("settings")
        encoder = cls(
            settings.choice("numeric_encoding", get_args(NumericEncoding)),
            n_bins=settings.integer("n_bins", low=2),
            keep_value=settings.boolean("keep_value"),
            max_levels=settings.integer("max_levels", low=1),
            min_count=(
                settings.integer("min_count", low=1) if settings.optional("min_count") else None
            ),
        )
        settings.done()
        encoder._remember(EncodingPlan.from_state(document, tensors))
        return encoder


def _warn_of_unknown(column: pl.Series, codes: NDArray[np.int32]) -> None:
    """Say that a column holds other things than in training: codes for names, another language."""
    unknown = codes == UNKNOWN
    others = column.alias("").filter(pl.Series(unknown))
    # Where most cells are rare, new ones are everyday.
    if others.len() and 2 * others.n_unique() <= others.len():
        first = str(column[int(unknown.argmax())])
        warn_caller(
            f"no cell of column {column.name!r} is a level that the model knows; got "
            f"{int(unknown.sum()):,} others, the first {first!r}; they all count as unknown; "
            "check how the column is coded",
        )


def _one_row(numeric: list[float], codes: list[int]) -> Compact:
    return Compact(np.array([numeric], dtype=np.float32), np.array([codes], dtype=np.int32))
