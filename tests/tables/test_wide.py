"""Wide tables: a column costs little, and means what it means by itself."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.tables import dtypes, profile_table, read_table, reading, roles, table_dtypes
from tabwright.tables.dtypes import text_column
from tabwright.tables.spellings.plain_columns import plain_columns

CELLS = st.sampled_from(
    [
        *("1", "-2", "2.5", "1e3", "", "01", "0", "-0", "NaN", "inf", "99999999999999999999"),
        *("18446744073709551615", " 3", "x", "1,5", "+4", ".5", "NA", "-", "true", "2024-01-01"),
        *("red", "w17", "EUR5", "Q42020", "5 kg", "true ", "unknown", "jan 3, 2020", "12:30"),
    ]
)
WORDS = st.sampled_from(["red", "w17", "green", "-", "EUR5", "5", "true", "", "NA", "a ", "50+"])


@given(st.lists(CELLS, min_size=1, max_size=6))
def test_what_is_plain_is_what_the_slow_way_finds(cells: list[str]) -> None:
    series = pl.Series("^a$", cells, dtype=pl.String)
    found = plain_columns(pl.DataFrame([series])).get("^a$")
    slow = text_column(series)
    if found is None:
        return
    assert not slow.note
    if found == {"text"}:
        assert slow.values.to_list() == [cell or None for cell in cells]
        return
    assert slow.values.dtype == (pl.Float64 if "float" in found else pl.Int64)
    assert slow.values.to_list() == series.cast(slow.values.dtype, strict=False).to_list()
    if "float" not in found:
        assert ("negative" in found) == (min(n for n in slow.values if n is not None) < 0)


@pytest.mark.parametrize(
    ("cells", "kinds"),
    [
        (["1", ""], {"whole"}),
        (["1", "-2"], {"whole", "negative"}),
        (["1", "2.5", ""], {"float"}),
        (["01"], None),
        (["1", "NaN"], None),
        (["", ""], None),
        (["red", "w17"], {"text"}),
        (["red", ""], {"text"}),
        (["red", "NA"], None),
        (["red ", "red"], None),
        (["-", "None"], None),
        (["EUR5", "USD6"], None),
        (["true", "inf"], None),
    ],
)
def test_plain_columns(cells: list[str], kinds: set[str] | None) -> None:
    frame = pl.DataFrame({"*": cells, "b": [" x"] * len(cells)})
    assert plain_columns(frame) == ({} if kinds is None else {"*": kinds})


@given(st.lists(CELLS | WORDS, min_size=1, max_size=12), st.booleans())
def test_a_column_of_words_is_what_the_whole_way_finds(cells: list[str], counted: bool) -> None:
    series = pl.Series("a", cells, dtype=pl.String)
    counts = None
    if counted:
        table = series.value_counts(name="n")
        series, counts = table["a"], table["n"]
    found = text_column(series, counts=counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dtypes, "are_words", lambda *_: False)
        slow = text_column(series, counts=counts)
    assert found.values.equals(slow.values)
    assert found[1:] == slow[1:]


def test_words_of_a_long_column_are_told_by_its_first_rows() -> None:
    words = pl.Series("a", ["red", "blue"] * 1_000)
    frame = pl.DataFrame({"a": words, "late": ["red"] * 1_999 + ["NA"], "half": ["", "x"] * 1_000})
    assert plain_columns(frame) == {"a": {"text"}}
    assert plain_columns(frame, missing=("x",)) == {"a": {"text"}, "late": {"text"}}


NUMBERS = st.sampled_from(
    [0.0, -0.0, 1.0, 2.5, 1e300, float("inf"), -float("inf"), float("nan"), None]
)


@given(st.lists(st.tuples(NUMBERS, WORDS, st.integers(0, 3) | st.none()), min_size=2, max_size=8))
def test_few_rows_are_counted_as_many_are(rows: list[tuple[object, ...]]) -> None:
    names, dtypes_of = ("^a$", "b", "c"), (pl.Float64, pl.String, pl.Int64)
    columns = zip(names, zip(*rows, strict=True), dtypes_of, strict=True)
    frame = pl.DataFrame([pl.Series(*column) for column in columns])
    # A column that is used in any case.
    frame = frame.with_columns(d=pl.arange(len(frame)).cast(pl.String) + " d")
    few = profile_table(frame)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roles, "_FEW_CELLS", 0)
        assert profile_table(frame) == few
    first = frame["^a$"].alias("a").fill_nan(None)
    assert few.columns[0].n_missing == first.null_count()
    assert few.columns[0].n_unique == first.drop_nulls().n_unique()


def test_levels_of_one_number_are_found_among_many_columns() -> None:
    cells = {"one": ["1.1", "1.2"], "two": ["1.1", "1.10"], "words": ["red", ""]}
    frame = pl.DataFrame(
        {name: pl.Series(own * 9, dtype=pl.Categorical) for name, own in cells.items()}
    )
    forms = [column.form.as_written for column in profile_table(frame).columns]
    assert forms == [False, True, False]


def test_columns_of_words_are_typed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pl.DataFrame({f"w{i}": ["red", "", "w17"] for i in range(50)}).write_csv(tmp_path / "t.csv")
    monkeypatch.setattr(reading, "text_column", None)
    monkeypatch.setattr(reading, "text_kinds", None)
    monkeypatch.setattr(roles, "text_column", None)
    frame = read_table(tmp_path / "t.csv")
    assert frame["w7"].to_list() == ["red", None, "w17"]
    assert set(table_dtypes(tmp_path / "t.csv").values()) == {pl.String}
    column = profile_table(frame).columns[7]
    assert (column.role, column.n_missing, column.n_unique) == ("category", 1, 2)


def test_what_reading_has_typed_is_not_typed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "a,b,c,d,e,f\n"
        + "\n".join(f"5 kg {k},w{k % 3}, x{k},0{k},{k}m,{k}/1/20" for k in range(50)),
        encoding="utf-8",
    )
    found = reading.read_described(path)
    slow = profile_table(found.frame, notes=found.notes, formats=found.formats)
    monkeypatch.setattr(roles, "text_column", None)
    monkeypatch.setattr(roles, "plain_columns", lambda frame: {} if not frame.width else {"x": {}})
    fast = profile_table(found.frame, notes=found.notes, formats=found.formats, typed=True)
    assert fast == slow
