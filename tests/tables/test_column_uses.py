from typing import Any

import pytest

from tabwright.errors import TableError
from tabwright.tables.column_uses import ColumnUses

COLUMNS = ["size", "label", "who", "mass", "day"]


def test_every_other_column_is_a_feature() -> None:
    uses = ColumnUses("label", drop=("size",), group="who", weight="mass")
    assert uses.features(COLUMNS) == ["day"]
    assert uses.left_out == ("size", "who", "mass")
    assert uses.to_read(COLUMNS) == ["day", "label", "who", "mass"]


def test_the_time_column_is_a_feature_unless_dropped() -> None:
    assert ColumnUses("label", time="day").features(COLUMNS) == ["size", "who", "mass", "day"]
    dropped = ColumnUses("label", drop=("day",), time="day")
    assert "day" not in dropped.features(COLUMNS)
    assert dropped.to_read(COLUMNS)[-1] == "day"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"drop": ("label",)}, "the target is not a feature anyway; got 'label' to drop"),
        ({"group": "who", "time": "day"}, "by time or by group, not both; got 'day' and 'who'"),
        ({"weight": "label"}, "one use; got 'label' as target and as weight"),
        ({"weight": "who", "group": "who"}, "one use; got 'who' as weight and as group"),
    ],
)
def test_contradictions_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ColumnUses("label", **given)


@pytest.mark.parametrize("use", ["target", "drop", "group", "weight", "time"])
def test_a_name_that_the_table_lacks_is_refused_with_the_nearest(use: str) -> None:
    named: dict[str, Any] = {"target": "label", use: ("dya",) if use == "drop" else "dya"}
    given = "" if use == "target" else f", given as {use}"
    uses = ColumnUses(**named)
    with pytest.raises(
        TableError, match=rf"t.csv has no column 'dya'{given}; did you mean 'day'\?"
    ):
        uses.check(COLUMNS, "t.csv")


def test_a_table_without_features_is_refused() -> None:
    with pytest.raises(TableError, match="a model needs a column to learn from"):
        ColumnUses("label", drop=("size", "who", "mass", "day")).check(COLUMNS)
