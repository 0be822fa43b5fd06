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
