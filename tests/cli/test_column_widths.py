"""Columns share a line, and names are broken between their words alone."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tabwright.cli import console
from tabwright.cli.column_widths import broken_name, column_widths

SCORES = {"log_loss": 0.4444, "balanced_accuracy": 0.7, "rms_calibration_error": 0.03}


def _seen(monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    file = io.StringIO()
    out = Console(file=file, force_terminal=True, width=width, _environ={}, color_system=None)
    monkeypatch.setattr(console, "out", out)
    ends = {name: (value, value) for name, value in SCORES.items()}
    console.show_scores({"test rows": SCORES, "trivial baseline": SCORES}, "scores", ends)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [54, 60, 70, 80, 200])
def test_names_and_numbers_are_whole_at_every_width(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = _seen(monkeypatch, width)
    assert max(map(len, lines)) <= width
    names = "".join(line.split(" ")[0] for line in lines[2:])
    assert names.endswith("log_lossbalanced_accuracyrms_calibration_error")
    parts = {line.split(" ")[0] for line in lines}
    words = {part for name in SCORES for part in name.split("_")}
    assert all(set(part.strip("_").split("_")) <= words for part in parts if "_" in part)
    assert sum("0.4444 to 0.4444" in line for line in lines) == 1


def test_a_line_that_is_wide_enough_is_left_alone() -> None:
    assert column_widths(["", "x"], [["a_b", "1.0"]], [1], 80) == [None, None]
    # Too narrow even for the words: the terminal breaks them.
    assert column_widths(["", "x"], [["a_b", "1.000000"]], [1], 8) == [None, None]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("hist_gradient_boosting", 9, ["hist_", "gradient_", "boosting"]),
        ("hist_gradient_boosting", 14, ["hist_gradient_", "boosting"]),
        ("hist_gradient_boosting", 40, ["hist_gradient_boosting"]),
        ("-0.026 to 0.030", 9, ["-0.026 to", "0.030"]),
        ("", 3, [""]),
    ],
)
def test_names_are_broken_behind_underscores(text: str, width: int, lines: list[str]) -> None:
    assert broken_name(text, width).splitlines() == [line for line in lines if line or text]
