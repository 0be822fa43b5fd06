"""The walk of the first hour, on a table that is trained on in a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.first_hour import markdown, walk
from tests.report.test_write import table

pytest.importorskip("uvicorn")


@pytest.mark.slow
def test_every_step_is_walked_and_timed(tmp_path: Path) -> None:
    table(60).drop("price").write_csv(tmp_path / "rows.csv")
    quick = ["--mode", "linear_glm_baseline", "--epochs", "1", "--drop", "constant"]
    found = walk(tmp_path / "rows.csv", "label", quick, tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 6
    assert all(seconds > 0 for seconds, _ in found.values())
    answers = {"one answer"}
    assert all(0 < sign <= took for step, (took, sign) in found.items() if step not in answers)
    lines = markdown([found, found]).splitlines()
    assert len(lines) == len(found) + 2


def test_the_table_has_the_medians() -> None:
    walks = [{"help": [seconds, 0.25]} for seconds in (0.5, 3.0, 1.0)]
    assert markdown(walks).splitlines()[2:] == ["| help | 1 s | 0.2 s |"]
