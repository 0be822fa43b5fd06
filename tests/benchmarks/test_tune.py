"""The benchmark of the search: both kinds on one table, and the table of what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.tune import lines, main, table_of


@pytest.mark.slow
@pytest.mark.shared_data
def test_both_searches_are_measured_once(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed")
    out = tmp_path / "tune.jsonl"
    words = ["run", "--tables", "thyroid", "--cap", "300", "--folds", "2", "--seconds", "6"]
    main([*words, "--out", str(out)])
    found = lines(out)
    assert [line["search"] for line in found] == ["tpe", "random"]
    assert found[0]["test"]["default"] == found[1]["test"]["default"] > 0
    before = out.read_bytes()
    main([*words, "--out", str(out)])
    assert out.read_bytes() == before


def test_the_table_is_relative_to_the_default() -> None:
    line = {
        "table": "a",
        "seed": 0,
        "search": "tpe",
        "seconds": 9.6,
        "trials": {"complete": 5, "pruned": 2, "cut": 1},
        "test": {"default": 2.0, "best": 1.0, "model": 2.0},
        "is_better": False,
    }
    other = line | {"table": "b", "test": {"default": 1.0, "best": 2.0, "model": 2.0}}
    rows = table_of([line, other]).splitlines()
    assert rows[2] == "| a | 0 | tpe | 7 (2) | 0.500 | 1.000 | no | 10 |"
    assert rows[-1] == "| geometric mean | | tpe | | 1.000 | 1.414 | | |"
