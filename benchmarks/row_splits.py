"""Which rows of a table train and which test, per seed; the same on every machine in every year.

The rule is ours down to the hash, since the random generators and hashes of libraries change with
their versions. `splits.json` holds a checksum of what the rule gives for each table and seed, so
that neither a changed table nor a changed rule goes unnoticed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.tables import BenchmarkTable

SPLITS_FILE = Path(__file__).with_name("splits.json")
TEST_FRACTION = 0.25
SEEDS = tuple(range(10))
RULE = (
    "A quarter of the rows tests. Rows equal in features and target stay together. Within each "
    "class (in regression: all rows) sets of equal rows are ordered by the first 8 bytes of "
    "blake2b('tabwright|table|seed|first row'); those whose middle row lies in the first quarter "
    "test. Where the table names groups, sets are its groups, whatever the class. A table with a "
    "time column tests on its last quarter, for every seed. A checksum is "
    "blake2b, 8 bytes, of the test rows followed by the training rows, int64 little-endian, each "
    "in the order of the relative positions within the classes."
)


@dataclass(frozen=True)
class Split:
    """Row numbers of the two sides, in an order of which every prefix is a fair sample.

    Parameters
    ----------
    train, test : ndarray of shape (n,), int64
        Row numbers.
    checksum : str
        Of the whole split, whatever the cap.
    """

    train: np.ndarray
    test: np.ndarray
    checksum: str

    def capped(self, cap: int | None) -> Split:
        """At most `cap` rows in all, in the same proportion; no row changes sides."""
        n_rows = len(self.train) + len(self.test)
        if cap is None or n_rows <= cap:
            return self
        n_test = round(cap * len(self.test) / n_rows)
        return Split(self.train[: cap - n_test], self.test[:n_test], self.checksum)


def equal_row_groups(features: pl.DataFrame, target: np.ndarray) -> np.ndarray:
    """Number of the first row that equals each row in features and target.

    Returns
    -------
    ndarray of shape (n_rows,), int64
    """
    columns = [series.rank("dense").fill_null(0).to_numpy() for series in features.iter_columns()]
    columns.append(np.unique(target, return_inverse=True)[1])
    codes = np.column_stack([column.astype(np.int64) for column in columns])
    _, first, group = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    return first[group.ravel()].astype(np.int64)


def make_split(table: BenchmarkTable, seed: int) -> Split:
    """Divide a table by `RULE`.

    Parameters
    ----------
    table : BenchmarkTable
        The whole table.
    seed : int
        Which of the divisions.
    """
    n_rows = len(table.target)
    group = table.group
    if group is None:
        group = equal_row_groups(table.features, table.target)
    hashes = np.zeros(n_rows, dtype=np.uint64)
    for row in np.unique(group):
        text = f"tabwright|{table.name}|{seed}|{row}"
        hashes[row] = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
    hashes = hashes[group]
    stratum = np.zeros(n_rows, dtype=np.int64)
    if table.task == "classification" and table.group is None:
        stratum = table.target
    # Rows of one class side by side, in it by hash, and equal rows side by side whatever the hash.
    order = np.lexsort((np.arange(n_rows), group, hashes, stratum))
    place = np.empty(n_rows, dtype=np.int64)
    place[order] = np.arange(n_rows)
    counts = np.bincount(stratum)
    within = place - (np.cumsum(counts) - counts)[stratum]
    # Twice the middle of each set of equal rows, kept in integers: exact on every machine.
    _, member, sizes = np.unique(group, return_inverse=True, return_counts=True)
    start = np.full(len(sizes), n_rows, dtype=np.int64)
    np.minimum.at(start, member, within)
    middle_twice = (2 * start + sizes)[member]
    position = middle_twice / (2 * counts[stratum])
    if table.time is None:
        is_test = 4 * middle_twice < 2 * counts[stratum]
    else:
        boundary = np.sort(table.time)[n_rows - round(n_rows * TEST_FRACTION)]
        is_test = table.time >= boundary
    fair = np.lexsort((np.arange(n_rows), group, hashes, position))
    test, train = fair[is_test[fair]], fair[~is_test[fair]]
    digest = blake2b(digest_size=8)
    for rows in (test, train):
        digest.update(rows.astype("<i8").tobytes())
    return Split(train, test, digest.hexdigest())


def describe_splits(tables: list[BenchmarkTable]) -> dict[str, Any]:
    """What `splits.json` holds for these tables."""
    described: dict[str, Any] = {}
    for table in tables:
        splits = [make_split(table, seed) for seed in SEEDS]
        described[table.name] = {
            "rows": len(table.target),
            "by_time": table.time is not None,
            "test_rows": [len(split.test) for split in splits],
            "checksums": [split.checksum for split in splits],
        }
    return {"rule": RULE, "seeds": list(SEEDS), "tables": described}


def committed_split(table: BenchmarkTable, seed: int, path: Path = SPLITS_FILE) -> Split:
    """The split of a table and seed, compared with the committed checksum.

    Raises
    ------
    ValueError
        If the file does not hold the table and seed, or holds another checksum.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    entry = document["tables"].get(table.name)
    if entry is None or seed not in document["seeds"]:
        raise ValueError(
            f"a table and seed must be in {path.name}; got {table.name}, seed {seed}; "
            "add it with `python -m benchmarks.suite splits --write`"
        )
    split = make_split(table, seed)
    wanted = entry["checksums"][document["seeds"].index(seed)]
    if split.checksum != wanted:
        raise ValueError(
            f"the split of {table.name}, seed {seed}, must have the checksum {wanted}; got "
            f"{split.checksum}; the table or the rule differs from those of {path.name}, so "
            "results would not compare with earlier ones"
        )
    return split
