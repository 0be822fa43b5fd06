"""One rule for numbers that people read."""

from __future__ import annotations

import pytest

from tabwright.cli.console import alike
from tabwright.number_text import cell_text, may_be_years, number_text
from tabwright.report.markup import number


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1000, "1,000"),
        (10_000.0, "10,000"),
        (123_456.7, "123,457"),
        (-1234.56, "-1,235"),
        (0.36414, "0.3641"),
        (0.00002, "2.00e-05"),
        (None, "–"),
    ],
)
def test_thousands_are_separated_from_1000_on(value: float | None, shown: str) -> None:
    assert number_text(value) == shown
    # The same in a report, but for the sign.
    assert number(value) == shown.replace("-", "−")


def test_tables_of_the_terminal_follow_the_rule() -> None:
    assert alike([1000.0, 10_000.0]) == [number_text(1000), number_text(10_000)]


@pytest.mark.parametrize(
    ("value", "is_year", "shown"),
    [
        (1998.0, True, "1998"),
        (1998.5, True, "1998"),
        (1998.0, False, "1,998"),
        (-5.0, False, "-5"),
        (2.50, False, "2.5"),
        (12_345.0, False, "12,345"),
    ],
)
def test_years_have_no_separators(value: float, is_year: bool, shown: str) -> None:
    assert cell_text(value, is_year=is_year) == shown


def test_years_are_told_by_their_range() -> None:
    assert may_be_years(1872, 2010)
    assert not may_be_years(334, 2696)
    assert not may_be_years(1_300, 215_245)
