"""The arithmetic of the table of `benchmarks/distillation.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import distillation
from benchmarks.distillation import grouped, main, table_row, teachers_of


def line(seed: int, teacher: float, direct: float, student: float, **more: Any) -> dict[str, Any]:
    figures = {"file_bytes": 50_000, "row_us": 20.0, "raw_row_us": 50.0}
    report = {
        "metric": "log_loss",
        "teacher": {"loss": teacher, "file_bytes": None, "row_us": 4_000.0, "raw_row_us": 5_000.0},
        "direct": {"loss": direct, **figures},
        "student": {"loss": student, **figures},
    }
    return {
        "table": "t",
        "task": "classification",
        "seed": seed,
        "cap": None,
        "threads": 1,
        "split": "s",
        "contender": "distilled:catboost",
        "settings": {},
        "code": "c",
        "versions": {},
        "n_inputs": 40,
        "report": report,
        **more,
    }


def test_real_gap_is_met_when_half_is_closed() -> None:
    row = table_row([line(0, 0.30, 0.40, 0.34), line(1, 0.31, 0.40, 0.36)])
    assert row["gap"][0] == pytest.approx(0.095)
    assert row["gain"][0] == pytest.approx(0.05)
    assert row["closed"] == pytest.approx(0.05 / 0.095)
    assert row["met"]
    assert not row["beats_teacher"]
    assert not table_row([line(0, 0.30, 0.40, 0.38), line(1, 0.31, 0.40, 0.38)])["met"]


def test_without_a_gap_the_student_must_not_be_worse() -> None:
    row = table_row([line(0, 0.40, 0.40, 0.39), line(1, 0.42, 0.40, 0.40)])
    assert row["closed"] is None
    assert row["met"]
    assert row["beats_teacher"]
    worse = table_row([line(0, 0.40, 0.40, 0.45), line(1, 0.42, 0.40, 0.46)])
    assert not worse["met"]


def test_lines_of_older_code_do_not_count() -> None:
    old = line(0, 0.1, 0.1, 0.1, code="old")
    groups = grouped([old, line(0, 0.3, 0.4, 0.3), line(0, 0.3, 0.4, 0.2), line(1, 1, 1, 1)])
    assert list(groups) == [("catboost", "t")]
    assert [own["report"]["student"]["loss"] for own in groups["catboost", "t"]] == [0.2, 1]


def test_table_and_curve_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lines.jsonl"
    lines = [
        line(seed, 0.3, 0.4 + 0.01 * seed, 0.35, settings={"hidden_dim": width})
        for seed in (0, 1)
        for width in (8, 16)
    ]
    path.write_text("".join(json.dumps(own) + "\n" for own in lines))
    assert main(["table", str(path)]) == 0
    assert "1 of 1 tables meet the target" in capsys.readouterr().out
    assert main(["curve", str(path), "--out", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_unknown_teachers_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert teachers_of("catboost+extra_trees") == ("catboost", "extra_trees")
    words = ["run", "--teachers", "catbost", "--out", str(tmp_path / "x")]
    assert distillation.main(words) == 2
    assert "got 'catbost'" in capsys.readouterr().err
