"""Columns of text that need no closer look: many are looked at together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import polars as pl

from tabwright.tables.cells import DIGITS, LEADING_ZERO, MISSING_MARKERS, NUMERIC_MARKERS
from tabwright.tables.spellings.number_marks import CURRENCY

# So many of the first cells tell what to look for.
SAMPLE_ROWS: Final = 1_000
# Cells of several columns that are looked at as one.
_CELLS_TOGETHER: Final = 500_000
# Digits of any script that numbers are read in.
_DIGIT: Final = (
    r"[0-9\x{660}-\x{669}\x{6f0}-\x{6f9}\x{966}-\x{96f}\x{9e6}-\x{9ef}\x{e50}-\x{e59}"
    r"\x{ff10}-\x{ff19}]"
)
# Digits, but for names such as w17, and what else is a number, a boolean or a duration: no words.
_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
_NO_WORD: Final = (
    rf"(?i)^(?:true|false|[+-]?inf(?:inity)?|[+-]?nan|(?:{CURRENCY}|Q)[0-9].*|"
    r"P(?:[0-9]+[YMWD]|T[0-9]).*)$"
)


def plain_columns(
    frame: pl.DataFrame, *, decimal: str | None = None, missing: tuple[str, ...] | None = None
) -> dict[str, set[str]]:
    """The columns of text that `text_column` would read as they stand, empty cells as missing.

    They are numbers as Python writes them, or words without a marker of missing cells and without
    spaces around them. A wide table has most of its columns so; here the cells of many columns are
    looked at as one.

    `decimal`, `missing`: as in `text_column`; numbers are not looked for where they say otherwise
        than usual.
    Returns: by name what `text_kinds` says: "whole", with "negative", or "float"; or "text".
    """
    columns = [series for series in frame.get_columns() if series.dtype == pl.String]
    numeric: list[pl.Series] = []
    words: list[pl.Series] = []
    # A look at the first rows tells which scan a column needs.
    heads = [series.head(SAMPLE_ROWS) for series in columns]
    for series, is_words in zip(columns, _have_words(heads, frame.height), strict=True):
        (words if is_words else numeric).append(series)
    if decimal == "," or missing is not None:
        numeric = []
    elif frame.height > SAMPLE_ROWS:
        first = _number_kinds([series.head(SAMPLE_ROWS) for series in numeric])
        numeric = [series for series, kind in zip(numeric, first, strict=True) if kind is not None]
    kinds = dict(zip([series.name for series in numeric], _number_kinds(numeric), strict=True))
    found: dict[str, set[str]] = {name: kind for name, kind in kinds.items() if kind}
    are_clean = _are_clean(words, MISSING_MARKERS[1:] if missing is None else missing)
    for series, is_clean in zip(words, are_clean, strict=True):
        if is_clean:
            found[series.name] = {"text"}
    return found


def _together(columns: list[pl.Series]) -> Iterator[tuple[pl.Series, tuple[int, int]]]:
    """The cells of some of the columns as one, column by column, and their (columns, rows)."""
    n_rows = columns[0].len() if columns else 0
    n_together = max(1, _CELLS_TOGETHER // max(n_rows, 1))
    for start in range(0, len(columns), n_together):
        group = [series.alias("") for series in columns[start : start + n_together]]
        yield pl.concat(group), (len(group), n_rows)


def _have_words(heads: list[pl.Series], n_rows: int) -> list[bool]:
    """`are_words` of columns of `n_rows` rows, by their first ones alone."""
    result: list[bool] = []
    for text, shape in _together(heads):
        n_words, n_present = (
            cells.to_numpy().reshape(shape).sum(axis=1)
            for cells in (_words(text), (text != "").fill_null(False))
        )
        # Below a short head there are other cells.
        n_present = np.where(n_rows > SAMPLE_ROWS, SAMPLE_ROWS, n_present)
        result += [4 * n > 3 * wanted for n, wanted in zip(n_words, n_present, strict=True)]
    return result


def are_words(text: pl.Series, counts: pl.Series | None) -> bool:
    """Whether three quarters of the first cells are words, so that the column is text."""
    present = text.is_not_null()
    words = _words(text.filter(present).head(SAMPLE_ROWS))
    if counts is None:
        return 4 * int(words.sum()) > 3 * words.len()
    n = counts.filter(present).head(SAMPLE_ROWS)
    return bool(4 * n.filter(words).sum() > 3 * n.sum())


def _words(cells: pl.Series) -> pl.Series:
    """Which cells are words: no part of numbers, booleans, dates, nor a marker among numbers."""
    words = ~cells.str.contains(_DIGIT) | cells.str.contains(_NAME)
    words &= ~(cells.str.contains(_NO_WORD) | cells.is_in(["", *NUMERIC_MARKERS]))
    return words.fill_null(False)


def _are_clean(columns: list[pl.Series], markers: Sequence[str]) -> list[bool]:
    """Which columns have neither spaces around a cell nor one of the markers."""
    odd = cells_fit(columns, lambda text: text.is_in(list(markers)) | text.str.contains(r"^\s|\s$"))
    return [not is_odd for is_odd in odd]


def cells_fit(columns: list[pl.Series], are_such: Callable[[pl.Series], pl.Series]) -> list[bool]:
    """Which columns of one length have a cell of some kind; `are_such` sees many columns as one."""
    result: list[bool] = []
    for cells, shape in _together(columns):
        fit = are_such(cells).fill_null(False).to_numpy().reshape(shape)
        result += np.logical_or.reduce(fit, axis=1).tolist()
    return result


def without_empty(columns: list[pl.Series]) -> list[pl.Series]:
    """Columns of text, of one length, with null for the empty text."""
    empty = cells_fit(columns, lambda text: text == "")
    return [
        series.set(series == "", None) if has_empty else series
        for series, has_empty in zip(columns, empty, strict=True)
    ]


def _number_kinds(columns: list[pl.Series]) -> list[set[str] | None]:
    """Kinds of columns of one length; empty where there is no cell, None where one is not plain."""
    if not columns or not columns[0].len():
        return [None] * len(columns)
    result: list[set[str] | None] = []
    for text, shape in _together(columns):
        absent = (text == "").fill_null(False)
        whole, number = (text.cast(dtype, strict=False) for dtype in (pl.Int64, pl.Float64))
        odd = number.is_null() != absent
        odd |= number.is_nan().fill_null(False) | text.str.contains(LEADING_ZERO).fill_null(True)
        fraction = whole.is_null() & ~absent
        odd |= fraction & text.str.contains(DIGITS).fill_null(True)
        tests = (odd, fraction, (whole < 0).fill_null(False), ~absent)
        flags = [test.to_numpy().reshape(shape).any(axis=1).tolist() for test in tests]
        for is_odd, is_float, is_negative, has_cells in zip(*flags, strict=True):
            if is_odd:
                result.append(None)
            elif not has_cells:
                result.append(set())
            else:
                negative = {"negative"} if is_negative else set()
                result.append({"float"} if is_float else {"whole", *negative})
    return result
