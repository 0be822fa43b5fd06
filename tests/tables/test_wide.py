"""Wide tables: a column costs little, and means what it means by itself."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.tables.dtypes import plain_columns, text_column

CELLS = st.sampled_from(
    [
        *("1", "-2", "2.5", "1e3", "", "01", "0", "-0", "NaN", "inf", "99999999999999999999"),
        *("18446744073709551615", " 3", "x", "1,5", "+4", ".5", "NA", "-", "true", "2024-01-01"),
    ]
)


@given(st.lists(CELLS, min_size=1, max_size=6))
def test_what_is_plain_is_what_the_slow_way_finds(cells: list[str]) -> None:
    series = pl.Series("^a$", cells, dtype=pl.String)
    found = plain_columns(pl.DataFrame([series])).get("^a$")
    slow = text_column(series)
    if found is None:
        return
    assert not slow.note
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
    ],
)
def test_plain_columns(cells: list[str], kinds: set[str] | None) -> None:
    frame = pl.DataFrame({"*": cells, "b": ["x"] * len(cells)})
    assert plain_columns(frame) == ({} if kinds is None else {"*": kinds})
