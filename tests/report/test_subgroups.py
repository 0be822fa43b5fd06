"""Scores by subgroup: every row is in one group, and the group that is worse is marked."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tabwright.report.subgroups import subgroups
from tests.report.test_write import check, fit, report, table


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("x", [1.5, None, float("nan"), *map(float, range(37))]),
        pl.Series("x", [3, 3, 3, None, 1, 2] * 6),
        pl.Series("x", [None, *"abcdefghijkl", "a", "b"]),
        pl.Series("x", [True, False, None]),
        pl.Series("x", [date(2024, 1, 1 + i % 28) for i in range(60)]),
        pl.Series("x", [1.0] * 30 + list(map(float, range(20)))),
    ],
)
def test_every_row_is_in_one_group(column: pl.Series) -> None:
    masks = np.array([mask for _, mask in subgroups(column)])
    assert (masks.sum(axis=0) == 1).all()
    assert masks.any(axis=1).all()
    titles = [title for title, _ in subgroups(column)]
    assert len(set(titles)) == len(titles)
    assert ("missing" in titles) == bool(column.is_null().any())


def test_the_group_whose_labels_are_noise_is_marked(tmp_path: Path) -> None:
    frame = table(400)
    held_out = table(400, seed=1)
    rng = np.random.default_rng(0)
    price = held_out["price"].to_numpy() + np.where(
        held_out["kind"] == "red", rng.normal(size=400) * 2_000, 0.0
    )
    model = fit(frame, "price")
    html = report(model, held_out.with_columns(price=price).drop("label"), "price", tmp_path)
    assert "Scores by subgroup" in check(html).text
    part = html.split('id="subgroups"')[1].split("</section>")[0]
    marked = [row for row in re.findall(r"<tr>.*?</tr>", part) if 'class="bad"' in row]
    assert any("red" in row for row in marked)
    assert not any("green" in row or "blue" in row for row in marked)
    # Beside an end of an interval in the thousands nothing has decimals.
    spans = re.findall(r"([−\d.,]+)</?[^>]*><small>([−\d.,]+) to ([−\d.,]+)<", part)
    wide = [span for span in spans if any("," in cell for cell in span)]
    assert wide
    assert not any("." in cell for span in wide for cell in span)


def test_rows_of_small_groups_are_counted(tmp_path: Path) -> None:
    held_out = table(400, seed=1).with_columns(pl.col("size").fill_null(0.0))
    few = pl.int_range(400) < 3
    frame = held_out.with_columns(size=pl.when(few).then(None).otherwise(pl.col("size")))
    html = report(fit(table(400), "price"), frame.drop("label"), "price", tmp_path)
    part = html.split('id="subgroups"')[1].split("</section>")[0]
    said = "Rows in groups of less than 10, such as few missing cells, are left out, by column: "
    assert f"{said}size 3." in part
    whole = report(fit(table(400), "price"), held_out.drop("label"), "price", tmp_path)
    assert said not in whole


def test_titles_are_in_the_order_and_the_words_of_the_column() -> None:
    def titles(values: list[float] | list[int]) -> list[str]:
        return [title for title, _ in subgroups(pl.Series("x", values))]

    assert titles([10, 9, 11, 6] * 10) == ["6", "9", "10", "11"]
    # A quarter of one value is that value, years have no separators, fractions no more digits.
    assert titles([5] * 30 + list(range(6, 16)) * 3)[0] == "5"
    assert titles(list(range(1880, 1980)))[0] == "1880 to 1904"
    assert titles([10.5 + i / 10 for i in range(40)])[0] == "10.5 to 11.4"
    assert titles(list(range(10_000, 10_040)))[0] == "10,000 to 10,009"


def test_a_group_without_an_error_is_not_certain_of_it(tmp_path: Path) -> None:
    frame = table(400)
    html = report(fit(frame, "label"), frame.drop("price"), "label", tmp_path)
    part = html.split('id="subgroups"')[1].split("</section>")[0]
    assert "all rows together have a log-loss of" in part
    is_marked = 'class="bad"' in part
    assert ("Marked are groups" in part) == is_marked
    assert ("In no group" in part) != is_marked
    assert ">1 to 1<" not in part


def test_text_that_the_model_reads_as_times_is_cut_into_quarters(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    minutes = rng.integers(0, 24 * 60, 200)
    frame = pl.DataFrame(
        {"at": [f"{m // 60:02d}:{m % 60:02d}" for m in minutes], "price": minutes / 60.0}
    )
    html = report(fit(frame, "price"), frame, "price", tmp_path)
    part = html.split('id="subgroups"')[1].split("</section>")[0]
    assert part.count("<tr>") == 5
    assert "all other levels" not in part
