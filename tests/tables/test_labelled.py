from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tabwright.errors import TableError
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import LabelledRows, TableRequest, read_training_table

N = 40


def _rows(start: int = 0, **asides: Any) -> LabelledRows:
    number = np.arange(start, start + N)
    return LabelledRows(pl.DataFrame({"number": number}), number % 2, **asides)


def test_what_belongs_to_rows_goes_with_them() -> None:
    rows = _rows(weight=np.arange(N) + 1.0, groups=np.arange(N) // 4, time=np.arange(N) * 10)
    taken = rows.take(np.array([7, 3]))
    assert taken.frame["number"].to_list() == [7, 3]
    assert taken.weight is not None
    assert taken.weight.tolist() == [8.0, 4.0]
    assert taken.groups is not None
    assert taken.groups.tolist() == [1, 0]
    assert taken.time is not None
    assert taken.time.tolist() == [70, 30]


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.jsonl"])
def test_nested_columns_can_be_left_out(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    frame = pl.DataFrame({"a": range(N), "list": [[1, 2]] * N, "y": ["n", "y"] * (N // 2)})
    if name == "t.parquet":
        frame.write_parquet(path)
    elif name == "t.arrow":
        frame.write_ipc(path)
    else:
        frame.write_ndjson(path)
    with pytest.raises(TableError, match="column 'list' must hold single values"):
        read_training_table(TableRequest(str(path), ColumnUses("y")), lambda _: None)
    table = read_training_table(TableRequest(str(path), ColumnUses("y", ("list",))), lambda _: None)
    assert table.rows.frame.columns == ["a"]
    wrong = (
        "'list' must hold"
        if name == "t.jsonl"
        else "no column 'lists', given as drop; did you mean 'list'"
    )
    with pytest.raises(TableError, match=wrong):
        read_training_table(TableRequest(str(path), ColumnUses("y", ("lists",))), lambda _: None)


def test_rows_of_weight_zero_leave_with_their_group() -> None:
    weight = np.where(np.arange(N) < 4, 0.0, 1.0)
    kept = _rows(weight=weight, groups=np.arange(N) // 4).with_positive_weight()
    assert len(kept) == N - 4
    assert kept.weight is None
    assert kept.groups is not None
    assert kept.groups.min() == 1


def test_a_split_keeps_groups_together_and_time_in_order() -> None:
    by_group = _rows(groups=np.arange(N) // 4)
    stay, leave = (
        by_group.take(index) for index in by_group.split(0.3, stratify=True, random_state=0)
    )
    assert stay.groups is not None
    assert leave.groups is not None
    assert not set(stay.groups) & set(leave.groups)
    by_time = _rows(time=np.arange(N)[::-1])
    stay, leave = (
        by_time.take(index) for index in by_time.split(0.3, stratify=False, random_state=0)
    )
    assert stay.time is not None
    assert leave.time is not None
    assert stay.time.max() < leave.time.min()


def test_rows_put_together_keep_weights_and_groups() -> None:
    both = _rows(weight=np.full(N, 2.0), groups=np.arange(N) // 4).with_rows(_rows(N))
    assert both.weight is not None
    assert both.groups is not None
    assert both.weight.tolist() == [2.0] * N + [1.0] * N
    # Rows without a group are groups of their own.
    assert len(set(both.groups[N:])) == N
    assert not set(both.groups[:N]) & set(both.groups[N:])
    grouped = _rows(groups=np.arange(N)).with_rows(_rows(N, groups=np.arange(N)))
    assert grouped.groups is not None
    assert grouped.groups.tolist() == [*range(N), *range(N)]
