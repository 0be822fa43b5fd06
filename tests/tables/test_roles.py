"""Roles of columns: the rules one by one, what is set aside and why, and the summary."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.errors import TableError
from tabwright.tables import read_with_notes
from tabwright.tables.roles import Role, TableProfile, profile_table

MANY = 101
NAMES = [f"name {i}" for i in range(MANY)]
PLAIN = pl.Series("plain", [float(i % 7) for i in range(MANY)])
REVIEW = "quite a nice place to stay, number "


def _role(column: pl.Series, **options: Any) -> tuple[Role, str]:
    """Role and note of a column beside a plain one."""
    frame = pl.DataFrame([column.alias("x"), PLAIN.head(column.len())])
    found = profile_table(frame, **options).columns[0]
    return found.role, found.note


COLUMNS: dict[str, tuple[pl.Series, Role, str]] = {
    "floats": (pl.Series([0.5 * i for i in range(MANY)]), "numeric", ""),
    "distinct whole floats": (pl.Series([float(i) for i in range(MANY)]), "numeric", ""),
    "few numbers": (pl.Series([i % 2 for i in range(MANY)]), "numeric", ""),
    "text that is numbers": (pl.Series([str(i % 9) for i in range(MANY)]), "numeric", ""),
    "spans": (pl.Series([dt.timedelta(i) for i in range(MANY)]), "numeric", ""),
    "times of day": (pl.Series([dt.time(i % 24) for i in range(MANY)]), "numeric", ""),
    "booleans": (pl.Series([i % 2 == 0 for i in range(MANY)]), "boolean", ""),
    "text that says true": (pl.Series(["true", "False", None] * 30), "boolean", ""),
    "dates": (pl.Series([dt.date(2020, 1, 1 + i % 9) for i in range(MANY)]), "datetime", ""),
    "text that is dates": (pl.Series(["2020-01-01", "2021-01-02 10:00"] * 9), "datetime", ""),
    "levels": (pl.Series(["a", "b"] * 9), "category", ""),
    "categories": (pl.Series(["a", "b"] * 9, dtype=pl.Categorical), "category", ""),
    "every cell missing": (
        pl.Series([None] * MANY, dtype=pl.Float64),
        "constant",
        "set aside: every cell is missing",
    ),
    "every cell NaN": (pl.Series([float("nan")] * 9), "constant", "every cell is missing"),
    "every cell a marker": (pl.Series(["?", "NA", ""] * 9), "constant", "every cell is missing"),
    "one number": (pl.Series([7] * 9), "constant", "set aside: every cell is 7"),
    "one float": (pl.Series([0.5] * 9), "constant", "set aside: every cell is 0.5"),
    "one level": (pl.Series(["a", " a"] * 9), "constant", "set aside: every cell is 'a'"),
    "one level and missing": (pl.Series(["a", None] * 9), "category", ""),
    "one number and missing": (pl.Series([7, None] * 9), "numeric", ""),
    "consecutive integers": (
        pl.Series(range(1_000, 1_000 + MANY)).shuffle(1),
        "identifier",
        "set aside: consecutive integers, one per row",
    ),
    "consecutive integers in text": (pl.Series(map(str, range(MANY))), "identifier", "set aside"),
    "distinct integers": (
        pl.Series([3 * i for i in range(MANY)]),
        "numeric",
        "every cell differs; give it the role 'identifier' if it names rows",
    ),
    "distinct text": (pl.Series(NAMES), "identifier", "set aside: every cell differs"),
    "distinct categories": (
        pl.Series(NAMES, dtype=pl.Categorical),
        "identifier",
        "set aside: every cell differs",
    ),
    "distinct text but for a missing cell": (pl.Series([*NAMES[1:], None]), "category", ""),
    "distinct text but for one": (pl.Series([*NAMES[1:], NAMES[1]]), "category", ""),
    "sentences": (
        pl.Series([REVIEW + str(i) for i in range(MANY)]),
        "text",
        "set aside: free text; derive columns from it to use it",
    ),
    "sentences with missing ones": (
        pl.Series([REVIEW + str(i) if i < 40 else None for i in range(MANY)]),
        "text",
        "set aside: free text",
    ),
    "sentences mostly missing": (
        pl.Series([REVIEW + str(i) if i < 9 else None for i in range(MANY)]),
        "text",
        "set aside: free text",
    ),
    "sentences that come five times": (
        pl.Series([REVIEW + str(i % 20) for i in range(MANY)]),
        "category",
        "",
    ),
    "sentences that come again": (
        pl.Series([REVIEW + str(i % 50) for i in range(MANY)]),
        "category",
        "",
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_each_rule(case: str) -> None:
    column, role, note = COLUMNS[case]
    found, reason = _role(column)
    assert found == role
    assert note in reason
    assert bool(note) == bool(reason)


def test_a_hundred_rows_are_too_few_to_tell_identifiers() -> None:
    for cells in (pl.Series(NAMES[:100]), pl.Series([REVIEW + str(i) for i in range(100)])):
        assert _role(cells)[0] == "category"
    assert _role(pl.Series(range(100)))[0] == "numeric"


def test_arrays_have_no_identifiers() -> None:
    assert _role(pl.Series(NAMES), named=False)[0] == "category"
    assert _role(pl.Series(range(MANY)), named=False)[0] == "numeric"


def test_one_row_has_no_constants() -> None:
    profile = profile_table(pl.DataFrame({"a": [1.0], "b": ["x"], "c": [None]}))
    assert [column.role for column in profile.columns] == ["numeric", "category", "category"]


@given(st.permutations(list(COLUMNS)[:12]))
def test_a_role_does_not_hang_on_the_order_of_rows_or_columns(names: list[str]) -> None:
    for name in names[:3]:
        column, role, _ = COLUMNS[name]
        assert _role(column.reverse())[0] == role


def test_counts_are_those_of_the_values() -> None:
    frame = pl.DataFrame(
        {
            "text": [" 1", "1", "?", None, "2", ""],
            "float": [0.0, float("nan"), None, 1.0, 1.0, 2.0],
            "flag": [True, True, None, None, False, True],
            "level": ["a", "b ", "b", "NA", "c", "a"],
        }
    )
    profile = profile_table(frame)
    assert [(column.n_missing, column.n_unique) for column in profile.columns] == [
        (3, 2),
        (2, 3),
        (2, 2),
        (1, 3),
    ]
    notes = [column.note for column in profile.columns]
    assert notes[0] == "1 cell read as missing: '?'; spaces around 1 numbers ignored"
    assert notes[3] == "1 cell read as missing: 'NA'"


def test_long_columns_are_counted_as_short_ones() -> None:
    cells = ["1", " 2", "?", "x", None, "3"]
    for length in (1, 400):
        found = profile_table(pl.DataFrame({"a": cells * length, "b": [1, 2, 3] * 2 * length}))
        assert found.columns[0].n_missing == 2 * length
        assert found.columns[0].n_unique == 4
        assert f"{length:,} cell" in found.columns[0].note


# ---------------------------------------------------------------------------------------------
# Roles that are given
# ---------------------------------------------------------------------------------------------


def test_a_role_that_is_given_holds() -> None:
    frame = pl.DataFrame({"id": range(MANY), "name": NAMES, "same": [1] * MANY, "n": ["1"] * MANY})
    roles: dict[str, Role] = {
        "id": "numeric",
        "name": "category",
        "same": "numeric",
        "n": "category",
    }
    profile = profile_table(frame, roles=roles)
    assert {column.name: column.role for column in profile.columns} == roles
    assert all(column.used for column in profile.columns)
    aside = profile_table(frame, roles={**roles, "n": "identifier"})
    assert [column.name for column in aside.set_aside] == ["n"]
    assert aside.columns[3].note == "role given"


@pytest.mark.parametrize(
    ("roles", "rule"),
    [
        ({"nme": "category"}, "roles must name columns .* got 'nme'; did you mean 'name'?"),
        ({"zzz": "category"}, r"got 'zzz'; they are \['name', 'plain'\]"),
        ({"name": "label"}, "role of column 'name' must be one of numeric, .*; got 'label'"),
        ({"name": "numeric"}, "'name' must hold numbers; got 'name 0' in row 1"),
        ({"name": "boolean"}, "'name' must hold true and false"),
        ({"name": "datetime"}, "'name' must hold dates or times"),
        ({"plain": "boolean"}, "'plain' must hold true and false .* got 2.0 in row 3"),
    ],
)
def test_roles_that_do_not_fit_are_refused(roles: dict[str, Any], rule: str) -> None:
    with pytest.raises(TableError, match=rule):
        profile_table(pl.DataFrame({"name": NAMES, "plain": PLAIN}), roles=roles)


def test_a_table_with_nothing_to_learn_from_is_refused() -> None:
    rule = (
        "at least one column to learn from; got none: 'id' is identifier, set aside: consecutive "
        "integers, one per row; 'one' is constant, set aside: every cell is 'a'; give a column a "
        r"role, e.g. roles=\{'name': 'category'\}"
    )
    with pytest.raises(TableError, match=rule):
        profile_table(pl.DataFrame({"id": range(MANY), "one": ["a"] * MANY}))
    with pytest.raises(TableError, match="got none: it has no columns"):
        profile_table(pl.DataFrame(height=3))


def test_nested_cells_are_refused() -> None:
    with pytest.raises(TableError, match=r"'a' must hold single values .* got \[1\]"):
        profile_table(pl.DataFrame({"a": [[1]], "b": [1]}))


# ---------------------------------------------------------------------------------------------
# The summary
# ---------------------------------------------------------------------------------------------


def test_the_summary_is_a_table_of_all_columns() -> None:
    frame = pl.DataFrame(
        {
            "age": [1.5, None, 3.0, 4.0],
            "paid\nat": pl.Series(["2020-01-01T10:00"] * 2 + [None] * 2)
            .str.to_datetime()
            .dt.replace_time_zone("Europe/Berlin"),
            "same": ["x"] * 4,
        }
    )
    assert profile_table(frame, notes={"age": "1 cell read as missing: '?'"}).summary() == (
        "4 rows, 3 columns, 2 used\n"
        "column   role      type                    missing  distinct  used  note\n"
        "age      numeric   Float64                       1         3  yes   1 cell read as "
        "missing: '?'\n"
        "paid at  datetime  Datetime Europe/Berlin        2         1  yes\n"
        "same     constant  String                        0         1  no    set aside: every cell "
        "is 'x'"
    )


def test_the_summary_of_a_wide_table_is_cut() -> None:
    frame = pl.DataFrame({f"c{i}": [1, 2] for i in range(12)})
    lines = profile_table(frame).summary(max_columns=5).splitlines()
    assert len(lines) == 2 + 5 + 1
    assert lines[-1] == "... and 7 more columns"


@pytest.mark.slow
def test_ten_thousand_columns_have_roles() -> None:
    frame = pl.DataFrame(np.random.default_rng(0).normal(size=(30, 10_000)))
    assert len(profile_table(frame).used) == 10_000


# ---------------------------------------------------------------------------------------------
# Real tables
# ---------------------------------------------------------------------------------------------


def _profiles(data_dir: Path) -> dict[str, TableProfile]:
    return {path.stem: profile_table(pl.read_parquet(path)) for path in data_dir.glob("*.parquet")}


@pytest.mark.shared_data
def test_real_tables_lose_no_feature_and_keep_no_row_number(data_dir: Path) -> None:
    sets = json.loads((data_dir / "datasets.json").read_text(encoding="utf-8"))
    entries = {entry["name"]: entry for entry in sets.get("datasets", sets)} if isinstance(
        sets, dict
    ) else {entry["name"]: entry for entry in sets}  # fmt: skip
    aside = {
        name: {column.name for column in profile.set_aside}
        for name, profile in _profiles(data_dir).items()
    }
    assert aside["titanic"] == {"PassengerId", "Name"}
    assert aside["telco_churn"] == {"customerID"}
    assert aside["ai4i_maintenance"] == {"UDI", "Product ID"}
    assert aside["ames_housing"] == {"rownames", "Order"}
    assert aside["covertype_20k"] == {"Soil_Type7", "Soil_Type15"}
    assert aside["adult"] == aside["letter"] == aside["diamonds"] == set()
    for name, columns in aside.items():
        constants = {"Soil_Type7", "Soil_Type15"}
        assert columns <= {*entries[name]["drop"], *constants}, name


@pytest.mark.shared_data
def test_what_was_found_in_a_raw_file_is_in_the_summary(data_dir: Path) -> None:
    frame, notes = read_with_notes(data_dir / "raw" / "Telco-Customer-Churn.csv")
    lines = profile_table(frame, notes=notes).summary().splitlines()
    total = next(line for line in lines if line.startswith("TotalCharges"))
    assert "numeric" in total
    assert total.endswith("11 cells read as missing: ' '")


@pytest.mark.parametrize("make", [pl.DataFrame.to_pandas, pl.DataFrame.to_arrow, pl.DataFrame.lazy])
def test_a_table_of_another_library_has_the_same_roles(make: Any) -> None:
    frame = pl.DataFrame({"a": [0.5, 1.5, 2.5], "b": ["u", "v", "u"]})
    assert profile_table(make(frame)) == profile_table(frame)


def test_an_array_has_no_identifiers() -> None:
    places = np.arange(200)
    assert profile_table(np.c_[places, places % 7]).columns[0].role == "numeric"
    assert (
        profile_table(pl.DataFrame({"a": places})[:, :1].with_columns(b=places % 7)).columns[0].role
        == "identifier"
    )
