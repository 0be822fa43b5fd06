"""Unlabelled rows near the training rows, for a teacher to label.

Every cell of a made-up row is a cell of the same column of some training row: the schema stays,
integers stay integers, and no category, date or missing cell appears that its column lacks. What
the methods decide is which row each cell comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.errors import TableError
from tabwright.tables import (
    Role,
    TableProfile,
    exact_origin,
    to_booleans,
    to_levels,
    to_microseconds,
    to_numbers,
)

Augmentation = Literal["munge", "neighbourhood"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_CHUNK_CELLS: Final = 4_000_000
_MOST_ROWS: Final = 20_000
_SWAP_PROBABILITY: Final = 0.5
_N_NEIGHBOURS: Final = 5
# A larger one stays nearer to the neighbours' values.
_LOCAL_VARIANCE: Final = 2.0
# Coordinates in which neighbours are sought: more are projected down at random.
_MOST_COORDINATES: Final = 64
_LEVEL_COORDINATES: Final = 8


def augment_rows(
    frame: pl.DataFrame,
    profile: TableProfile,
    n_rows: int,
    *,
    rng: np.random.Generator,
    method: Augmentation = "munge",
) -> pl.DataFrame:
    """Make rows near those of a table.

    Both methods start from a training row and one or several of its nearest other rows, and take
    each cell from there with probability 0.5; at least one cell and, in tables of two columns
    or more, at most all but one.

    - "munge": all cells from one neighbour. A number or date is not the neighbour's own but the
      training value nearest to a normal draw around it whose standard deviation is the
      difference of the two rows over 2 (Bucilă, Caruana, Niculescu-Mizil, "Model
      Compression", 2006, section 4.3). There both rows of a pair change in place and the
      neighbour is the first nearest; here each row is made by itself and the neighbour is drawn
      from 5, so that many rows differ even in tables of few columns.
    - "neighbourhood": each cell from a neighbour of its own, as it is: a draw from a
      nearest-neighbour estimate of the columns' conditional distributions, in the place of the
      learned one of Fakoor et al., "Fast, Accurate, and Simple Models for Tabular Data via
      Augmented Distillation", 2020.

    Of tables longer than 20,000 rows so many, drawn at random, are started from and swapped with.
    Rows that are equal in every used column count once among the neighbours. Nearness is
    Euclidean distance of ranks (numbers and dates), with different categories, or a
    missing and a present cell, as far apart as two numbers on average.

    `frame`: training rows.
    `profile`: Of these rows. Columns set aside are copied from the starting row.
    `n_rows`: how many to make.
    `rng`: every draw comes from it.
    Returns: same columns and dtypes.
    Raises `ValueError` if an argument is out of range; `TableError` if the table has no rows or
        lacks a used column.
    """
    if method not in AUGMENTATIONS:
        raise ValueError(f"method must be one of {', '.join(AUGMENTATIONS)}; got {method!r}")
    if n_rows < 0:
        raise ValueError(f"n_rows must not be negative; got {n_rows}")
    if not len(frame):
        raise TableError("rows can only be made near other rows; the table has none")
    lacking = [column.name for column in profile.used if column.name not in frame.columns]
    if lacking:
        raise TableError(
            f"the table must have the columns of its profile; {lacking[0]!r} is missing "
            f"({len(lacking)} in all)"
        )
    if len(frame) > _MOST_ROWS:
        frame = frame[np.sort(rng.choice(len(frame), size=_MOST_ROWS, replace=False))]
    if not n_rows or not profile.used:
        return frame[_starts(len(frame), n_rows, rng)]
    columns = [_column(frame[used.name], used.role) for used in profile.used]
    neighbours = _neighbours(columns, rng)
    starts = _starts(len(frame), n_rows, rng)
    if not neighbours.shape[1]:
        return frame[starts]
    pieces = []
    step = max(1, _CHUNK_CELLS // len(columns))
    for at in range(0, n_rows, step):
        chunk = starts[at : at + step]
        swaps = _swaps(len(chunk), len(columns), rng)
        donors = _donors(chunk, neighbours, swaps, columns, method, rng)
        piece = frame[chunk]
        swapped = [
            frame[column.name].alias("").gather(donor).alias(column.name)
            for column, donor in zip(columns, donors, strict=True)
        ]
        pieces.append(piece.with_columns(swapped))
    return pl.concat(pieces, rechunk=True)


def with_unlabelled_rows(
    augmented: pl.DataFrame, unlabelled: pl.DataFrame | None, profile: TableProfile
) -> pl.DataFrame:
    """Made-up rows and the user's own unlabelled ones as one table of the used columns.

    `augmented`: from `augment_rows`.
    `unlabelled`: Has the used columns; others are ignored. Numbers, texts and dates may be of
        another dtype: then both tables take one that can hold both.
    Returns: the used columns, in the order of the profile: made-up rows first.
    Raises `TableError` if `unlabelled` lacks a used column, or holds another kind of cells in one.
    """
    names = [column.name for column in profile.used]
    augmented = augmented[names]
    if unlabelled is None:
        return augmented
    lacking = [name for name in names if name not in unlabelled.columns]
    if lacking:
        raise TableError(
            f"unlabelled rows must have the columns of the training rows; {lacking[0]!r} is "
            f"missing ({len(lacking)} in all); add it (empty cells are allowed)"
        )
    for name in names:
        if not _agree(augmented[name].dtype, unlabelled[name].dtype):
            raise TableError(
                "unlabelled rows must have the types of the training rows; column "
                f"{name!r} holds {augmented[name].dtype} there and {unlabelled[name].dtype} here; "
                "convert it"
            )
    # Enum and Categorical know only some levels: as text both sides keep theirs.
    texts = [name for name in names if _is_text(augmented[name].dtype)]
    tables = [
        pl.DataFrame([s.cast(pl.String) if s.name in texts else s for s in table[names]])
        for table in (augmented, unlabelled)
    ]
    return pl.concat(tables, how="vertical_relaxed", rechunk=True)


def _is_text(dtype: pl.DataType) -> bool:
    return dtype in (pl.String, pl.Enum, pl.Categorical)


def _agree(one: pl.DataType, other: pl.DataType) -> bool:
    """Whether a dtype can hold the cells of both without changing what they mean."""
    pairs = (
        one == other,
        other == pl.Null,
        one.is_numeric() and other.is_numeric(),
        _is_text(one) and _is_text(other),
        one in (pl.Date, pl.Datetime) and other in (pl.Date, pl.Datetime),
    )
    return any(pairs)


# ---------------------------------------------------------------------------------------------
# Columns and nearness
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """One used column: where its cells are, and which row to take a value from.

    `place`: (n,), int64; of each cell among the distinct values, which are sorted where they are
        numbers; -1 is missing.
    `values`: (n_distinct,), float64. None where there is no order.
    `first`: (n_distinct,), int64; a row that has the value.
    """

    name: str
    place: IntArray
    values: FloatArray | None
    first: IntArray


def _column(series: pl.Series, role: Role) -> _Column:
    """The distinct values of a column in order, and where each row's is among them."""
    name, series = series.name, series.alias("")
    if role in ("numeric", "datetime"):
        if role == "numeric":
            known = to_numbers(series, origin=exact_origin(series))
        else:
            moments = to_microseconds(series)
            known = (moments - (moments.min() or 0)).cast(pl.Float64)
        cells = known.fill_null(np.nan).to_numpy()
        present = np.flatnonzero(~np.isnan(cells))
        values, first, inverse = np.unique(cells[present], return_index=True, return_inverse=True)
        place = np.full(len(cells), -1, dtype=np.int64)
        place[present] = inverse
        return _Column(name, place, values, present[first].astype(np.int64))
    levels = to_booleans(series).cast(pl.String) if role == "boolean" else to_levels(series)
    names = levels.drop_nulls().unique().sort()
    codes = pl.int_range(len(names), dtype=pl.Int64, eager=True)
    placed = levels.replace_strict(names, codes, default=-1, return_dtype=pl.Int64)
    place = placed.fill_null(-1).to_numpy().astype(np.int64)
    first = np.zeros(len(names), dtype=np.int64)
    known_rows = np.flatnonzero(place >= 0)[::-1]
    first[place[known_rows]] = known_rows
    return _Column(name, place, None, first)


def _coordinates(columns: list[_Column], rng: np.random.Generator) -> NDArray[np.float32]:
    """Points whose distances are those of the rows, float32 of shape (n, n_coordinates)."""
    if sum(_n_coordinates(column) for column in columns) <= _MOST_COORDINATES:
        blocks = [_block(column, rng) for column in columns]
        return np.concatenate(blocks, axis=1).astype(np.float32)
    # Johnson and Lindenstrauss: distances survive a random projection, and memory stays bounded.
    points = np.zeros((len(columns[0].place), _MOST_COORDINATES), dtype=np.float32)
    for column in columns:
        block = _block(column, rng)
        turn = rng.standard_normal((block.shape[1], _MOST_COORDINATES))
        points += (block @ (turn / np.sqrt(_MOST_COORDINATES))).astype(np.float32)
    return points


def _n_coordinates(column: _Column) -> int:
    if column.values is not None:
        return 2
    return min(len(column.first) + 1, _LEVEL_COORDINATES)


def _block(column: _Column, rng: np.random.Generator) -> FloatArray:
    """Coordinates of one column, float64 of shape (n, n_coordinates)."""
    if column.values is None:
        # Unit vectors: two levels are sqrt(2) apart, as far as two random ranks.
        n_codes = len(column.first) + 1
        if n_codes <= _LEVEL_COORDINATES:
            vectors = np.eye(n_codes)
        else:
            vectors = rng.standard_normal((n_codes, _LEVEL_COORDINATES))
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        coded: FloatArray = vectors[column.place + 1]
        return coded
    present = column.place >= 0
    place = column.place[present]
    counts = np.bincount(place, minlength=len(column.values))
    ranks = (np.cumsum(counts) - 0.5 * counts) / max(len(place), 1) - 0.5
    block = np.zeros((len(column.place), 2))
    # Uniform ranks have a variance of 1/12.
    block[present, 0] = np.sqrt(12.0) * ranks[place]
    block[~present, 1] = np.sqrt(2.0)
    return block


def _distinct(columns: list[_Column], rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """A row of each set of equal rows, and the set of each row."""
    # A random linear hash in 64 bits: two different rows that meet are taken for equal, no more.
    keys = np.zeros(len(columns[0].place), dtype=np.uint64)
    for column in columns:
        factor = rng.integers(2**64, dtype=np.uint64)
        keys += column.place.astype(np.uint64) * factor
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return first.astype(np.int64), group.astype(np.int64)


def _neighbours(columns: list[_Column], rng: np.random.Generator) -> IntArray:
    """The nearest different rows of each row, int64 of shape (n, at most 5)."""
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    first, group = _distinct(columns, rng)
    wanted = min(_N_NEIGHBOURS, len(first) - 1)
    if wanted == 0:
        return np.empty((len(group), 0), dtype=np.int64)
    points = _coordinates(columns, rng)[first]
    with threadpool_limits(limits=1):
        # Brute force works on bounded blocks, and in tens of dimensions trees are no faster.
        search = NearestNeighbors(n_neighbors=wanted + 1, algorithm="brute", n_jobs=1)
        found = search.fit(points).kneighbors(points, return_distance=False)
    # Each point is its own nearest, up to rounding; where it is not among them, the last goes.
    itself = found == np.arange(len(first))[:, None]
    itself[~itself.any(axis=1), -1] = True
    nearest: IntArray = first[found[~itself].reshape(len(first), wanted)][group]
    return nearest


# ---------------------------------------------------------------------------------------------
# Draws
# ---------------------------------------------------------------------------------------------


def _starts(n_frame: int, n_rows: int, rng: np.random.Generator) -> IntArray:
    """Rows to start from: every row as often as every other, up to one."""
    turns = [rng.permutation(n_frame) for _ in range(-(-n_rows // n_frame))]
    return np.concatenate([np.empty(0, dtype=np.int64), *turns])[:n_rows].astype(np.int64)


def _swaps(n_rows: int, n_columns: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which cells change, of shape (n_rows, n_columns)."""
    swaps = rng.random((n_rows, n_columns), dtype=np.float32) < _SWAP_PROBABILITY
    forced = rng.integers(n_columns, size=n_rows)
    none = np.flatnonzero(~swaps.any(axis=1))
    swaps[none, forced[none]] = True
    if n_columns > 1:
        everything = np.flatnonzero(swaps.all(axis=1))
        swaps[everything, forced[everything]] = False
    return swaps


def _donors(
    starts: IntArray,
    neighbours: IntArray,
    swaps: NDArray[np.bool_],
    columns: list[_Column],
    method: Augmentation,
    rng: np.random.Generator,
) -> list[IntArray]:
    """For each column, the row that each cell comes from."""
    n_rows, n_near = len(starts), neighbours.shape[1]
    partner = neighbours[starts, rng.integers(n_near, size=n_rows)]
    donors = []
    for j, column in enumerate(columns):
        if method == "neighbourhood":
            partner = neighbours[starts, rng.integers(n_near, size=n_rows)]
            source = partner
        else:
            source = _near(column, starts, partner, rng)
        donors.append(np.where(swaps[:, j], source, starts))
    return donors


def _near(
    column: _Column, starts: IntArray, partner: IntArray, rng: np.random.Generator
) -> IntArray:
    """Rows whose value is nearest to a draw around the partner's."""
    if column.values is None or not len(column.values):
        return partner
    # The same draws whatever is missing: a column's cells do not decide those of the next.
    noise = rng.standard_normal(len(starts))
    start_place, other = column.place[starts], column.place[partner]
    centre = column.values[other]
    fits = (
        (start_place >= 0)
        & (other >= 0)
        & np.isfinite(centre)
        & np.isfinite(column.values[start_place])
    )
    with np.errstate(invalid="ignore", over="ignore"):
        spread = np.abs(centre - column.values[start_place]) / _LOCAL_VARIANCE
        fits &= np.isfinite(spread) & (spread > 0)
        drawn = np.where(fits, centre + noise * spread, 0.0)
    source: IntArray = np.where(fits, column.first[_nearest(column.values, drawn)], partner)
    return source


def _nearest(values: FloatArray, drawn: FloatArray) -> IntArray:
    above = np.clip(np.searchsorted(values, drawn), 0, len(values) - 1)
    below = np.maximum(above - 1, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        lower = drawn - values[below] <= values[above] - drawn
    place: IntArray = np.where(lower, below, above)
    return place
