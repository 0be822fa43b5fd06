"""Tables in files: reading, streaming, writing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import polars as pl


def read_table(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    columns: Sequence[str] | None = None,
) -> pl.DataFrame:
    raise NotImplementedError


def read_with_notes(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    columns: Sequence[str] | None = None,
) -> tuple[pl.DataFrame, dict[str, str]]:
    raise NotImplementedError


def table_dtypes(source: str) -> dict[str, pl.DataType]:
    raise NotImplementedError


def iter_tables(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    batch_rows: int = 65_536,
    columns: Sequence[str] | None = None,
    dtypes: Mapping[str, pl.DataType] | None = None,
) -> Iterator[pl.DataFrame]:
    raise NotImplementedError


def write_table(frame: pl.DataFrame, path: str | os.PathLike[str]) -> None:
    raise NotImplementedError


def escape_formulas(frame: pl.DataFrame) -> pl.DataFrame:
    raise NotImplementedError
