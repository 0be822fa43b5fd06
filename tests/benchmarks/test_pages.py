"""What the README and the comparison page show of measurements."""

from pathlib import Path

import pytest

from benchmarks.comparison_chart import SECTION, draw, lines
from benchmarks.readme_table import END, README, START, Kept, geometric_mean, markdown
from tests.pages import ROOT

PERFORMANCE = (ROOT / "docs" / "performance.md").read_text()


def test_the_chart_reads_the_table_of_the_performance_page() -> None:
    found = {line.name: line for line in lines(PERFORMANCE)}
    ours = found["Tabwright, the default"]
    assert (ours.relative_loss, ours.low, ours.high) == (1, 1, 1)
    assert all(line.low <= line.relative_loss <= line.high for line in found.values())
    losses = [line.relative_loss for line in lines(PERFORMANCE)]
    assert losses == sorted(losses)


def test_a_contender_without_a_row_is_named() -> None:
    page = PERFORMANCE.replace("| CatBoost |", "| Cat |")
    with pytest.raises(ValueError, match=r"must have a row for .*CatBoost"):
        lines(page)
    assert SECTION in PERFORMANCE


def test_a_chart_is_drawn_for_each_theme(tmp_path: Path) -> None:
    draw(lines(PERFORMANCE), "light", tmp_path / "light.png")
    draw(lines(PERFORMANCE), "dark", tmp_path / "dark.png")
    light, dark = (tmp_path / f"{name}.png" for name in ("light", "dark"))
    assert light.read_bytes() != dark.read_bytes()


def test_the_table_of_the_readme_is_relative_to_the_first_library() -> None:
    ours = {"a": {"loss": 2.0, "fit": 1.0, "bytes": 1e5, "row": 1e-5}}
    theirs = {"a": {"loss": 3.0, "fit": 4.0, "bytes": 2e6, "row": 2e-3}}
    assert markdown({"Ours": ours, "Theirs": theirs}).splitlines()[2:] == [
        "| Ours | 1.000 | 1 | 100 | 10 |",
        "| Theirs | 1.500 | 4 | 2,000 | 2,000 |",
    ]
    assert geometric_mean([1, 4]) == pytest.approx(2)


def test_what_was_measured_before_is_not_measured_again(tmp_path: Path) -> None:
    path, of = tmp_path / "kept.jsonl", {"contender": "ours", "table": "a", "cap": 10}
    found = {"loss": 0.1 + 0.2, "bytes": 3}
    assert Kept(path).get(of, lambda: found) == found
    again = Kept(path)
    assert again.get(dict(reversed(of.items())), lambda: pytest.fail("again")) == found
    assert again.get({**of, "cap": 11}, lambda: {"loss": 1.0}) == {"loss": 1.0}
    assert len(path.read_text().splitlines()) == 2
    assert Kept(None).get(of, lambda: {"loss": 2.0}) == {"loss": 2.0}


def test_the_readme_has_one_place_for_the_table() -> None:
    text = README.read_text()
    assert text.count(START) == text.count(END) == 1
    assert text.index(START) < text.index(END)
