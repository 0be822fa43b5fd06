"""What a fit of the encoder decided, as one value: `EncodingPlan`.

Here lives the state of a fitted `TableEncoder` with its way into a file and back, and what
follows from it alone: the layout of the network's inputs and their names. Fitting and encoding
are done in `plan_fit.py` and `encoding/encoder.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.artifact.format_versions import left_out
from tabwright.artifact.schema import Reader, TensorBag, array_to_text, prefixed, text_to_array
from tabwright.encoding.calendar_cycles import CYCLES, Cycle
from tabwright.encoding.categorical import (
    CategoryColumn,
    categories_from_state,
    categories_to_state,
)
from tabwright.encoding.interactions import (
    Interaction,
    InteractionColumn,
    columns_from_state,
    columns_to_state,
)
from tabwright.encoding.layout import CycleBlock, Layout
from tabwright.encoding.numeric import NumericColumns
from tabwright.encoding.oblique import ObliqueColumn, obliques_from_state, obliques_to_state
from tabwright.encoding.pair_columns import MOST_PAIRS, PairColumn
from tabwright.encoding.value_statistics import (
    ValueStatistics,
    value_statistics_from_state,
    value_statistics_to_state,
)
from tabwright.encoding.values import KINDS, Kind, Origin
from tabwright.errors import ArtifactError, TableError, warn_caller
from tabwright.tables.cell_format import USUAL, CellFormat, typed_cells
from tabwright.tables.column_names import listed

# A network of 256 units behind it has 67 million weights: past any table worth a network.
_MOST_INPUTS = 2**18


@dataclass(frozen=True, eq=False)
class EncodingPlan:
    """The fitted state of a `TableEncoder`.

    Within each kind columns stand in the order of the training table.

    `named`: whether columns go by name (else by position).
    `names`: columns of the training table, those set aside included.
    `kinds`: how each of them is encoded.
    `target_name`: a column that is ignored without a warning.
    `origins`: per numeric column: what is subtracted exactly before the cast to float64.
    `date_origins`: per date column: microseconds since 1970 from which elapsed time counts.
    `date_cycles`: (n_dates, n_cycles), bool; which of `calendar_cycles.CYCLES` vary in each
        date column.
    `had_missing`: (n_own,), bool; whether the numeric, then the date, then the boolean columns had
        missing values in training, and so have an indicator.
    `numbers`: of the numeric columns, then of the elapsed times of the date columns.
    `statistic_names`: Target statistics of a level: of the target, then its count. Numeric columns
        have those of the target.
    `value_statistics`: target statistics of numeric columns, in the order of their columns.
    `interactions`: sums, differences, products and ratios of numeric columns.
    `obliques`: weighted sums of numeric columns; of files of before 0.3.
    `formats`: how the text of columns is written, by place in `names`, where not in the usual way.
    """

    named: bool
    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    target_name: str | None
    origins: tuple[Origin, ...]
    date_origins: tuple[int, ...]
    date_cycles: NDArray[np.bool_]
    had_missing: NDArray[np.bool_]
    numbers: NumericColumns
    categories: tuple[CategoryColumn, ...]
    statistic_names: tuple[str, ...]
    value_statistics: tuple[ValueStatistics, ...]
    interactions: tuple[InteractionColumn, ...] = ()
    obliques: tuple[ObliqueColumn, ...] = ()
    formats: Mapping[int, CellFormat] = field(default_factory=dict)

    def positions(self, kind: Kind) -> list[int]:
        """Places of the columns of a kind in `names`."""
        return [position for position, column_kind in enumerate(self.kinds) if column_kind == kind]

    def compact_columns(self) -> dict[int, tuple[list[int], list[int]]]:
        """Where each column in use is in the compact form: numeric columns and code columns.

        Keys are places in `names`. Columns made of two others, at the end of the compact form,
        belong to no column.
        """
        dates = self.positions("datetime")
        owned: dict[int, tuple[list[int], list[int]]] = {}
        positions = [*self.positions("numeric"), *dates, *self.positions("boolean")]
        for column, place in enumerate(positions):
            owned[place] = ([column], [])
        at = self.n_own
        levels = zip(self.positions("category"), self.categories, strict=True)
        for column, (place, category) in enumerate(levels):
            width = 0 if category.statistics is None else category.statistics.shape[1]
            owned[place] = (list(range(at, at + width)), [column])
            at += width
        numbers = self.positions("numeric")
        for leaf in self.value_statistics:
            owned[numbers[leaf.source]][0].extend(range(at, at + leaf.width))
            at += leaf.width
        for _, date, column in self.cycle_columns:
            owned[dates[date]][1].append(column)
        return dict(sorted(owned.items()))

    def typed(self, position: int, series: pl.Series) -> pl.Series:
        """A column of numbers, dates or booleans as its format reads it.

        Raises `TableError`: naming column, row (from 1) and value, if a cell does not fit.
        """
        form, kind = self.formats.get(position), self.kinds[position]
        if form is None or kind == "category" or kind == "unused":
            return series
        return typed_cells(series, kind, form)

    def check_names(self, names: Iterable[str]) -> None:
        """Check the columns of a table to encode.

        Raises `TableError` if a column in use is missing.
        Warns `UserWarning` if there are columns that the training table lacked, the target aside.
        """
        given = set(names)
        known = zip(self.names, self.kinds, strict=True)
        lacking = [name for name, kind in known if kind != "unused" and name not in given]
        if lacking:
            one = len(lacking) == 1
            raise TableError(
                "the table must have the columns that the model was trained on; "
                f"{listed(lacking)} {'is' if one else 'are'} missing; "
                f"add {'it' if one else 'them'} (empty cells are allowed)"
            )
        extra = given.difference(self.names, (self.target_name,))
        if extra:
            warn_caller(
                f"ignored {len(extra)} {'column' if len(extra) == 1 else 'columns'} that the "
                f"model was not trained on: {listed(sorted(map(str, extra)))}",
            )

    @cached_property
    def n_own(self) -> int:
        """Compact numeric columns before the target statistics and `pairs`."""
        return len(self.had_missing)

    @cached_property
    def pairs(self) -> tuple[PairColumn, ...]:
        """The last compact numeric columns, made of two others each."""
        return (*self.interactions, *self.obliques)

    @cached_property
    def cycle_columns(self) -> tuple[tuple[Cycle, int, int], ...]:
        """Cycle, date column and code column of every code column that is a place in a cycle."""
        pairs = [
            (cycle, int(date))
            for k, cycle in enumerate(CYCLES)
            for date in np.flatnonzero(self.date_cycles[:, k])
        ]
        start = len(self.categories)
        return tuple((cycle, date, start + j) for j, (cycle, date) in enumerate(pairs))

    @cached_property
    def n_codes(self) -> int:
        """Code columns of the compact form."""
        return len(self.categories) + len(self.cycle_columns)

    @property
    def leaf_statistics(self) -> tuple[str, ...]:
        """The statistics that numeric columns have, where any do: those of the target."""
        return self.statistic_names[:-1]

    @cached_property
    def layout(self) -> Layout:
        """Where the inputs come from.

        Raises `TableError` if there are no inputs, or more than 262,144.
        """
        cycles = []
        for cycle in CYCLES:
            columns = [
                code for column_cycle, _, code in self.cycle_columns if column_cycle is cycle
            ]
            if columns:
                cycles.append(CycleBlock(columns[0], columns[-1] + 1, cycle.table()))
        source, left, inverse = self.numbers.bins()
        missing = np.flatnonzero(self.had_missing).astype(np.int64)
        wide = [c.statistics.shape[1] for c in self.categories if c.statistics is not None]
        wide += [leaf.width for leaf in self.value_statistics]
        first_pair = self.n_own + sum(wide)
        n_numeric = first_pair + len(self.pairs)
        for place, pair in enumerate(self.pairs, start=first_pair):
            widths = np.diff(pair.edges.astype(np.float64))
            source = np.append(source, np.full(len(widths), place))
            left = np.append(left, pair.edges[:-1])
            inverse = np.append(inverse, (1.0 / widths).astype(np.float32))
        first = 0 if self.numbers.keep_value else len(self.numbers)
        at = n_numeric - first + len(source) + len(missing) + sum(b.n_inputs for b in cycles)
        starts = np.empty(len(self.categories), dtype=np.int64)
        for j, category in enumerate(self.categories):
            # Without an input for missing values, code 1 is the first to have one.
            starts[j] = at - (0 if category.has_missing else 1)
            at += 1 + category.n_inputs + category.has_missing
        if not 0 < at <= _MOST_INPUTS:
            raise TableError(
                f"a table must make from 1 to {_MOST_INPUTS} network inputs; got {at} from "
                f"{len(self.names)} columns; "
                + ("check its columns" if at == 0 else "drop columns, or lower max_levels")
            )
        return Layout(
            n_numeric=n_numeric,
            n_encoded=len(self.numbers),
            keep_value=self.numbers.keep_value,
            smooth=self.numbers.smooth,
            bin_source=source,
            bin_left=left,
            bin_inverse=inverse,
            missing=missing,
            cycles=tuple(cycles),
            n_categories=len(self.categories),
            level_start=starts,
            level_floor=np.array([not c.has_missing for c in self.categories], dtype=np.int32),
            input_dim=at,
        )

    @cached_property
    def inputs(self) -> tuple[tuple[str, int], ...]:
        """Unique name and source column of every input, in the order of the layout's blocks.

        The source of what is made of two columns is the first.
        """
        layout, columns = self.layout, self.names
        dates, categorical = self.positions("datetime"), self.positions("category")
        owners = [*self.positions("numeric"), *dates, *self.positions("boolean")]
        elapsed = set(dates)

        def title(owner: int) -> str:
            return f"{columns[owner]}: elapsed" if owner in elapsed else columns[owner]

        inputs = [(title(owner), owner) for owner in owners[layout.first_value :]]
        for category, owner in zip(self.categories, categorical, strict=True):
            if category.statistics is not None:
                inputs += [(f"{columns[owner]}: {name}", owner) for name in self.statistic_names]
        for leaf in self.value_statistics:
            owner = owners[leaf.source]
            inputs += [
                (f"{columns[owner]}: {name} by value", owner) for name in self.leaf_statistics
            ]
        pairs = [(self.pair_name(pair), owners[pair.first]) for pair in self.pairs]
        inputs += pairs
        titles = [(title(owner), owner) for owner in owners]
        titled = dict(enumerate(titles)) | dict(
            enumerate(pairs, start=layout.n_numeric - len(pairs))
        )
        numbers: dict[int, int] = {}
        for source in layout.bin_source.tolist():
            numbers[source] = numbers.get(source, 0) + 1
            name, owner = titled[source]
            inputs.append((f"{name}[bin {numbers[source]}]", owner))
        for column in layout.missing.tolist():
            inputs.append((f"{columns[owners[column]]} is missing", owners[column]))
        for cycle, date, _ in self.cycle_columns:
            owner = dates[date]
            inputs += [(f"{columns[owner]}: {part}", owner) for part in cycle.input_names()]
        for category, owner in zip(self.categories, categorical, strict=True):
            name = columns[owner]
            if category.has_missing:
                inputs.append((f"{name} is missing", owner))
            inputs.append((f"{name} is rare or unknown", owner))
            inputs += [(f"{name}={level}", owner) for level in category.levels[: category.n_inputs]]
        names = _unique([name for name, _ in inputs])
        return tuple(zip(names, (owner for _, owner in inputs), strict=True))

    def pair_name(self, column: PairColumn) -> str:
        """A column made of two others in words: 'torque × speed', 'latitude - 2 longitude'."""
        if isinstance(column, InteractionColumn):
            return self.interaction_name(column.interaction)
        assert isinstance(column, ObliqueColumn)
        places = self.positions("numeric")
        one, two = (self.names[places[place]] for place in (column.first, column.second))
        first, second = column.weights
        start = one if first == 1 else f"{first:g} {one}"
        rest = two if abs(second) == 1 else f"{abs(second):g} {two}"
        return f"{start} {'-' if second < 0 else '+'} {rest}"

    def interaction_name(self, interaction: Interaction) -> str:
        """An interaction in words: 'torque × speed'."""
        places = [*self.positions("numeric"), *self.positions("datetime")]
        one, two = (self.names[places[place]] for place in (interaction.first, interaction.second))
        sign = {"sum": "+", "difference": "−", "product": "×", "ratio": "/"}[interaction.kind]
        return f"{one} {sign} {two}"

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The document and the arrays of the artifact: plain data only."""
        names, name_offsets = text_to_array(self.names)
        origins, origin_offsets = text_to_array(
            ["" if origin is None else str(origin) for origin in self.origins]
        )
        numbers, number_arrays = self.numbers.to_state()
        categories, category_arrays = categories_to_state(self.categories)
        document: dict[str, Any] = {
            "named": self.named,
            "target_name": self.target_name,
            "statistic_names": list(self.statistic_names),
            "numbers": numbers,
            "categories": categories,
        }
        for key, pairs in (("interactions", self.interactions), ("obliques", self.obliques)):
            if not left_out(f"encoder.{key}", len(pairs), 0):
                document[key] = len(pairs)
        formats = [
            {"column": position, **form.to_document()}
            for position, form in sorted(self.formats.items())
        ]
        if not left_out("encoder.formats", formats, []):
            document["formats"] = formats
        arrays: dict[str, NDArray[Any]] = {
            "names": names,
            "name_offsets": name_offsets,
            "kinds": np.array([KINDS.index(kind) for kind in self.kinds], dtype=np.uint8),
            "origins": origins,
            "origin_offsets": origin_offsets,
            "had_missing": self.had_missing.astype(np.uint8),
            "date_origins": np.array(self.date_origins, dtype=np.int64),
            "date_cycles": self.date_cycles.astype(np.uint8),
            **prefixed("numbers.", number_arrays),
            **prefixed("categories.", category_arrays),
            **prefixed(
                "leaves.",
                value_statistics_to_state(self.value_statistics, len(self.leaf_statistics)),
            ),
            **prefixed("interactions.", columns_to_state(self.interactions)),
            **prefixed("obliques.", obliques_to_state(self.obliques)),
        }
        return document, arrays

    @classmethod
    def from_state(cls, document: Reader, tensors: TensorBag) -> EncodingPlan:
        """Read a plan back and check everything.

        Raises `ArtifactError` if something is missing, left over, out of range or does not fit
            together.
        """
        names = tuple(_take_texts(tensors, "names", "name_offsets"))
        if len(set(names)) != len(names):
            raise ArtifactError("encoder.names must differ; a column name occurs twice")
        codes = tensors.take("kinds", "uint8", (len(names),), high=len(KINDS) - 1)
        kinds = tuple(KINDS[code] for code in codes.tolist())
        count = {kind: kinds.count(kind) for kind in KINDS}
        n_encoded = count["numeric"] + count["datetime"]
        n_own = n_encoded + count["boolean"]
        statistic_names = document.texts("statistic_names", max_length=16)
        n_pairs = {
            key: document.integer(key, low=1, high=MOST_PAIRS) if key in document else 0
            for key in ("interactions", "obliques")
        }
        formats = _read_formats(document, len(names)) if "formats" in document else {}
        numbers = NumericColumns.from_state(
            document.child("numbers"), tensors.scoped("numbers."), n_encoded
        )
        plan = cls(
            named=document.boolean("named"),
            names=names,
            kinds=kinds,
            target_name=document.text("target_name") if document.optional("target_name") else None,
            origins=_read_origins(tensors, count["numeric"]),
            date_origins=tuple(
                tensors.take("date_origins", "int64", (count["datetime"],)).tolist()
            ),
            date_cycles=tensors.take(
                "date_cycles", "uint8", (count["datetime"], len(CYCLES)), high=1
            ).astype(bool),
            had_missing=tensors.take("had_missing", "uint8", (n_own,), high=1).astype(bool),
            numbers=numbers,
            categories=tuple(
                replace(category, markers=formats.get(position, USUAL).level_markers)
                for category, position in zip(
                    categories_from_state(
                        document.child("categories"),
                        tensors.scoped("categories."),
                        count["category"],
                    ),
                    (position for position, kind in enumerate(kinds) if kind == "category"),
                    strict=True,
                )
            ),
            formats=formats,
            statistic_names=statistic_names,
            value_statistics=value_statistics_from_state(
                tensors.scoped("leaves."), count["numeric"], len(statistic_names[:-1])
            ),
            interactions=columns_from_state(
                tensors.scoped("interactions."), n_pairs["interactions"], numbers
            ),
            obliques=obliques_from_state(
                tensors.scoped("obliques."), n_pairs["obliques"], count["numeric"]
            ),
        )
        document.done()
        tensors.done()
        for category in plan.categories:
            table = category.statistics
            if table is not None and table.shape[1] != len(plan.statistic_names):
                raise ArtifactError("encoder.statistic_names must name every statistic")
        for name, found in (("leaves", plan.value_statistics), ("obliques", plan.obliques)):
            if found and plan.numbers.encoding != "tree_ple":
                raise ArtifactError(
                    f"encoder.{name} must be empty for an encoding other than 'tree_ple'; "
                    f"got {plan.numbers.encoding!r}"
                )
        try:
            plan.layout  # noqa: B018
        except TableError as error:
            raise ArtifactError(f"encoder: {error}") from None
        return plan


def _take_texts(tensors: TensorBag, data: str, offsets: str) -> list[str]:
    return array_to_text(
        tensors.take(data, "uint8", (None,)),
        tensors.take(offsets, "int64", (None,)),
        f"encoder.{data}",
    )


def _read_formats(document: Reader, n_columns: int) -> dict[int, CellFormat]:
    """How text of columns is read, by position, where it is not the usual way."""
    formats: dict[int, CellFormat] = {}
    for entry in document.children("formats", max_length=n_columns):
        position = entry.integer("column", low=0, high=n_columns - 1)
        if position in formats:
            raise entry.fail("column", "another column than before")
        formats[position] = CellFormat.from_document(entry)
        if formats[position] == USUAL:
            raise entry.fail("decimal", "part of a format that is not the usual one")
        entry.done()
    return formats


def _read_origins(tensors: TensorBag, n_columns: int) -> tuple[Origin, ...]:
    """What is subtracted from each number, exactly, before it is a float."""
    texts = _take_texts(tensors, "origins", "origin_offsets")
    if len(texts) != n_columns:
        raise ArtifactError(
            f"encoder.origins must hold one text per numeric column, {n_columns}; got {len(texts)}"
        )
    origins: list[Origin] = []
    for text in texts:
        digits = text.removeprefix("-")
        if not text:
            origins.append(None)
        elif digits.isascii() and digits.isdigit() and len(digits) <= 40:
            origins.append(int(text))
        elif len(digits) <= 60 and all(c in "0123456789.E+-" for c in digits):
            try:
                origins.append(Decimal(text))
            except ArithmeticError:
                raise ArtifactError(f"encoder.origins must be numbers; got {text!r}") from None
        else:
            raise ArtifactError(f"encoder.origins must be numbers; got {text[:60]!r}")
    return tuple(origins)


def _unique(names: Sequence[str]) -> list[str]:
    """The same names, those that came before with a number behind them."""
    taken = set(names)
    seen: set[str] = set()
    result = []
    for name in names:
        unique, k = name, 2
        while unique in seen or (k > 2 and unique in taken):
            unique, k = f"{name} ({k})", k + 1
        seen.add(unique)
        result.append(unique)
    return result
