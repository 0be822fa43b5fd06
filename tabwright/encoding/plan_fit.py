"""Fitting the encoder: from the training rows of a table to an `EncodingPlan`.

`fit_plan` goes through the columns once and asks the module of each kind of column what it makes of
them: `encoding/numeric.py`, `encoding/value_statistics.py`, `encoding/categorical.py`.
`fit_interactions` adds those of `encoding/interactions.py`. `encoding/encoder.py` applies a plan
to rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.encoding.calendar_cycles import CYCLES, Cycle, cycle_codes
from tabwright.encoding.categorical import (
    CategoryColumn,
    StatisticsTarget,
    fit_category,
    rare_below,
)
from tabwright.encoding.interactions import Interaction, InteractionColumn, fit_interaction
from tabwright.encoding.numeric import (
    SAMPLE_ROWS,
    NumericColumns,
    NumericFit,
    ResolvedEncoding,
    bins_per_column,
    fit_numeric,
    resolve_encoding,
)
from tabwright.encoding.plan import EncodingPlan
from tabwright.encoding.supervised.held_out_rows import HeldOutRows
from tabwright.encoding.supervised.tree_thresholds import TreeTarget
from tabwright.encoding.value_statistics import ValueStatisticsFit
from tabwright.encoding.values import (
    KINDS,
    Kind,
    booleans,
    elapsed,
    numbers,
)
from tabwright.errors import TableError
from tabwright.settings import NumericEncoding, Task
from tabwright.tables import TableProfile, exact_origin, to_levels, to_microseconds
from tabwright.tables.cell_format import USUAL
from tabwright.tables.column_names import listed

# Levels of all columns together that may have inputs of their own.
_LEVEL_BUDGET = 65_536


@dataclass(frozen=True)
class EncoderSettings:
    """What `TableEncoder` was asked for; the parameters are described there."""

    numeric_encoding: NumericEncoding
    n_bins: int
    keep_value: bool
    max_levels: int
    min_count: int | None


@dataclass(frozen=True)
class RowsToFit:
    """Training rows, and what decides how they are encoded.

    `profile`: roles of the columns.
    `target`: (n_rows,); class codes or numbers; tree bins and target statistics look at it.
    `sample_weight`: (n_rows,), float64. Counts in tree bins and target statistics. Scales,
        quantiles and level counts are those of the rows.
    `random_state`: decides the rows that bins are fitted on, and the folds of the statistics.
    `named`: whether the column names are the user's: False for arrays, whose columns then go by
        position.
    `target_name`: a column that `TableEncoder.transform` ignores without a warning.
    `folds`: (n_rows,), int64. Of at least two folds, from 0: the target statistics of a row then
        come from the rows of the other folds. By default from five random ones.
    """

    frame: pl.DataFrame
    profile: TableProfile
    target: NDArray[Any] | None
    task: Task
    sample_weight: NDArray[np.float64] | None = None
    random_state: int = 0
    named: bool = True
    target_name: str | None = None
    folds: NDArray[np.int64] | None = None


class PlanFit(NamedTuple):
    """What a fit found.

    `codes`: (n_rows, n_codes), int32; of the training rows; those of categories are filled in.
    `statistics`: (n_rows, width), float32; target statistics of the training rows, cross-fitted.
    """

    plan: EncodingPlan
    codes: NDArray[np.int32]
    statistics: list[NDArray[np.float32]]


def fit_plan(rows: RowsToFit, settings: EncoderSettings) -> PlanFit:
    """Fit all columns.

    Raises `TableError` if there are no rows, no column is usable, a cell does not fit its column,
        or there would be more than 262,144 inputs; `ValueError` if tree bins are asked for and
        there is no target.
    """
    frame, target = rows.profile.typed(rows.frame), rows.target
    n_rows = len(frame)
    if n_rows == 0:
        raise TableError("an encoder needs at least 1 row; got 0; check the filter or file")
    names = tuple(frame.columns)
    kinds = _kinds(names, rows.profile)
    forms = {column.name: column.form for column in rows.profile.used if column.form != USUAL}
    formats = {position: forms[name] for position, name in enumerate(names) if name in forms}
    if all(kind == "unused" for kind in kinds):
        raise TableError(
            "a table needs at least 1 usable column; got none: "
            + "; ".join(f"{c.name!r} is {c.role}" for c in rows.profile.columns[:10])
        )
    series = by_kind(frame.get_columns(), kinds)
    origins = tuple(exact_origin(column) for column in series["numeric"])
    moments = [to_microseconds(column).alias("") for column in series["datetime"]]
    date_origins = tuple(_middle(moment) for moment in moments)
    sample, tree = _sample(rows), _tree_target(rows)
    n_encoded = len(origins) + len(moments)
    encoding = resolve_encoding(settings.numeric_encoding, n_encoded, has_target=tree is not None)
    if encoding == "tree_ple" and tree is None:
        raise ValueError("numeric_encoding='tree_ple' needs a target; got None; use 'quantile_ple'")
    n_bins = bins_per_column(settings.n_bins, n_encoded)

    @cache
    def statistics_target() -> StatisticsTarget:
        found = StatisticsTarget.of(
            n_rows, target, rows.task, rows.sample_weight, rows.random_state
        )
        if rows.folds is None:
            return found
        return replace(found, fold=rows.folds, n_folds=int(rows.folds.max()) + 1)

    leaves = None
    if encoding == "tree_ple" and tree is not None:
        used = [name for name, kind in zip(names, kinds, strict=True) if kind != "unused"]
        held_out = HeldOutRows(
            tree, sample, lambda index: frame[used][index].hash_rows(0).to_numpy()
        )
        leaves = ValueStatisticsFit(tree, sample, n_bins, statistics_target, held_out)
    missing: list[bool] = []
    fits: list[NumericFit] = []
    # Bins of elapsed time let a network memorise the level of every month: later rows are
    # then predicted from the last one. Nor is a trend carried on past the training rows.
    unbinned = "robust" if encoding in ("quantile_ple", "tree_ple") else encoding
    columns: Iterator[tuple[NDArray[np.float64], ResolvedEncoding]] = chain(
        ((numbers(c, o), encoding) for c, o in zip(series["numeric"], origins, strict=True)),
        ((elapsed(m, o), unbinned) for m, o in zip(moments, date_origins, strict=True)),
    )
    for place, (values, column_encoding) in enumerate(columns):
        missing.append(bool(np.isnan(values).any()))
        is_time = place >= len(origins)
        fits.append(
            fit_numeric(
                values, sample, column_encoding, n_bins=n_bins, tree=tree, extrapolates=not is_time
            )
        )
        if leaves is not None and not is_time:
            leaves.add(place, values, fits[-1])
    missing.extend(bool(np.isnan(booleans(column)).any()) for column in series["boolean"])
    date_cycles = _varying_cycles(moments)
    n_codes = len(series["category"]) + int(date_cycles.sum())
    codes = np.empty((n_rows, n_codes), dtype=np.int32)
    markers = [forms.get(column.name, USUAL).level_markers for column in series["category"]]
    categories, statistics = _fit_categories(
        series["category"], markers, statistics_target, codes, settings
    )
    if leaves is not None:
        statistics += leaves.statistics
    plan = EncodingPlan(
        named=rows.named,
        names=names,
        kinds=kinds,
        target_name=rows.target_name,
        origins=origins,
        date_origins=date_origins,
        date_cycles=date_cycles,
        had_missing=np.array(missing, dtype=bool),
        numbers=NumericColumns.of(fits, encoding, settings.keep_value or bool(moments)),
        categories=categories,
        statistic_names=(*statistics_target().names, "log count") if statistics else (),
        value_statistics=() if leaves is None else tuple(leaves.columns),
        formats=formats,
    )
    return PlanFit(plan, codes, statistics)


def _fit_categories(
    series: Sequence[pl.Series],
    markers: Sequence[tuple[str, ...] | None],
    statistics_target: Callable[[], StatisticsTarget],
    codes: NDArray[np.int32],
    settings: EncoderSettings,
) -> tuple[tuple[CategoryColumn, ...], list[NDArray[np.float32]]]:
    """Fit the category columns and write their codes."""
    max_levels = min(settings.max_levels, max(2, _LEVEL_BUDGET // max(len(series), 1)))
    min_count = rare_below(len(codes)) if settings.min_count is None else settings.min_count
    categories: list[CategoryColumn] = []
    statistics: list[NDArray[np.float32]] = []
    for j, (column, missing) in enumerate(zip(series, markers, strict=True)):
        category, full, column_statistics = fit_category(
            to_levels(column, markers=missing),
            statistics_target,
            max_levels=max_levels,
            min_count=min_count,
        )
        category = replace(category, markers=missing)
        categories.append(category)
        codes[:, j] = category.input_codes(full)
        if column_statistics is not None:
            statistics.append(column_statistics)
    return tuple(categories), statistics


def fit_interactions(
    interactions: Sequence[Interaction],
    plan: EncodingPlan,
    rows: RowsToFit,
    numeric: NDArray[np.float32],
    settings: EncoderSettings,
) -> tuple[InteractionColumn, ...]:
    """Columns of interactions, with bins where those of the table look at the target.

    `plan`: what `fit_plan` made of the rows.
    `numeric`: (n_rows, n_numeric), float32; of their compact form.
    Returns: those of more than one value.
    """
    sample = _sample(rows)
    tree = _tree_target(rows) if plan.numbers.encoding == "tree_ple" else None
    n_bins = bins_per_column(settings.n_bins, len(plan.numbers))
    columns = (
        fit_interaction(
            interaction,
            plan.numbers,
            (numeric[:, interaction.first], numeric[:, interaction.second]),
            sample=sample,
            tree=tree,
            n_bins=n_bins,
        )
        for interaction in interactions
    )
    return tuple(column for column in columns if column is not None)


def _sample(rows: RowsToFit) -> NDArray[np.int64] | None:
    """Rows that quantiles and bins are fitted on; None: all of them."""
    if len(rows.frame) <= SAMPLE_ROWS:
        return None
    draw = np.random.default_rng(rows.random_state)
    return np.sort(draw.choice(len(rows.frame), SAMPLE_ROWS, replace=False)).astype(np.int64)


def _tree_target(rows: RowsToFit) -> TreeTarget | None:
    """What trees that give bins look at."""
    if rows.target is None:
        return None
    return TreeTarget(rows.target, rows.task, rows.sample_weight, rows.random_state)


def _kinds(names: Sequence[str], profile: TableProfile) -> tuple[Kind, ...]:
    """What the encoder makes of each column."""
    roles = {column.name: column.role for column in profile.used}
    lacking = [name for name in roles if name not in names]
    if lacking:
        raise TableError(
            f"the frame must have the columns of its profile; {listed(lacking)} missing"
        )
    return tuple(
        "unused"
        if name not in roles
        else role
        if (role := roles[name]) in ("numeric", "datetime", "boolean")
        else "category"
        for name in names
    )


def by_kind(columns: Sequence[pl.Series], kinds: Sequence[Kind]) -> dict[Kind, list[pl.Series]]:
    """Columns sorted by how they are encoded, in their order."""
    series: dict[Kind, list[pl.Series]] = {kind: [] for kind in KINDS}
    for column, kind in zip(columns, kinds, strict=True):
        series[kind].append(column)
    return series


def _middle(moments: pl.Series) -> int:
    known = moments.drop_nulls()
    return int(known.sort()[len(known) // 2]) if len(known) else 0


def places_in_cycle(cycle: Cycle, moments: pl.Series) -> NDArray[np.int64]:
    """Codes of moments, in microseconds since 1970, in a cycle: 0 for a missing one."""
    places = cycle_codes(cycle.name, moments.fill_null(0).to_numpy())
    return np.where(moments.is_null().to_numpy(), 0, places)


def _varying_cycles(moments: Sequence[pl.Series]) -> NDArray[np.bool_]:
    varying = np.zeros((len(moments), len(CYCLES)), dtype=bool)
    for j, moment in enumerate(moments):
        known = moment.drop_nulls().to_numpy()
        for k, cycle in enumerate(CYCLES):
            places = cycle_codes(cycle.name, known)
            varying[j, k] = len(places) > 0 and bool((places != places[0]).any())
    return varying
