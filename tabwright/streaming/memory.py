"""Does a table fit in memory? An estimate, a budget, and what the machine has free."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

import polars as pl

from tabwright.streaming.chunks import CHUNK_ROWS
from tabwright.tables.csv.reader import CsvFormat
from tabwright.tables.file_readers import count_rows, file_pieces, names_of_file
from tabwright.tables.paths import (
    Source,
    TableFile,
    file_size,
    has_types,
    is_packed,
    table_format,
    table_paths,
)

# What reading, splitting and encoding a table in memory takes, in copies of the table.
_COPIES: Final = 3.0
_SHARE_OF_FREE: Final = 0.5
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY: Final = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def bytes_of(text: str) -> int:
    """An amount of memory in words: 2GB, 500MB, 1.5GiB, or bytes.

    Raises `ValueError` if it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"memory must be an amount such as 2GB, 500MB or 1.5GiB; got {text!r}")
    unit = match[2].upper()
    amount = int(float(match[1]) * (_BINARY[unit] if match[3] else _UNITS[unit]))
    if amount < 1:
        raise ValueError(f"memory must be above 0; got {text!r}")
    return amount


def reason_to_stream(source: Source, budget: int | None, drop: Collection[str] = ()) -> str | None:
    """Why a table should be trained on from disk, as a sentence; None where it fits in memory.

    `budget`: bytes; None: half of what the machine has free.
    `drop`: columns that are left out.
    Raises `TableError`: as `read_table`.
    """
    limit, whose = budget, "the budget"
    if limit is None:
        free = free_memory()
        if free is None:
            return None
        limit, whose = int(free * _SHARE_OF_FREE), "half of the free memory"
    if table_format(table_paths(source)[0]) == "excel":
        return None
    needed = memory_needed(source, drop)
    if needed <= limit:
        return None
    return (
        f"training in memory would take about {_shown(needed)}, more than {whose} "
        f"({_shown(limit)}): rows come from disk"
    )


def _shown(n_bytes: int) -> str:
    for unit in ("G", "M"):
        if n_bytes >= _UNITS[unit]:
            return f"{n_bytes / _UNITS[unit]:,.1f} {unit}B"
    return f"{n_bytes / 1000:,.1f} kB"


def memory_needed(source: Source, drop: Collection[str] = ()) -> int:
    """About how many bytes it takes to train on a table in memory, by its size and first rows.

    Raises `TableError`: as `read_table`.
    """
    paths = table_paths(source)
    if has_types(paths[0]):
        rows, row_bytes = 0, 0.0
        for path in paths:
            names = names_of_file(path) if drop else None
            if names is not None:
                names = [name for name in names if name not in drop]
            pieces = file_pieces(
                path, names, CsvFormat(), CHUNK_ROWS, (0).__eq__, is_ignored=drop.__contains__
            )
            head = next(pieces)
            row_bytes = max(row_bytes, head.estimated_size() / max(head.height, 1))
            rows += _n_rows(path, head)
        return int(rows * row_bytes * _COPIES)
    n_bytes = sum(file_size(path) for path in paths)
    # A number takes about as many bytes as text as in memory; packed text grows about fivefold.
    packed = 5.0 if is_packed(paths[0]) else 1.0
    return int(n_bytes * packed * 1.5 * _COPIES)


def _n_rows(path: TableFile, head: pl.DataFrame) -> int:
    if head.height < CHUNK_ROWS:
        return head.height
    return count_rows(path)


def free_memory() -> int | None:
    """Bytes that this process may still use, or None where the system does not say."""
    free: list[int] = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        facts = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free.append(int(facts["MemAvailable"].split()[0]) * 1024)
    limit, stat = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.stat")
    if limit.exists() and stat.exists() and limit.read_text().strip() != "max":
        used = dict(line.split() for line in stat.read_text().splitlines())
        free.append(max(int(limit.read_text()) - int(used["anon"]), 0))
    return min(free) if free else None
