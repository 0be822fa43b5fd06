"""A sample of the campaign of memory and time on a local Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scale


@pytest.mark.slow
def test_a_sample_of_the_campaign(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is absent")
    output, drawn = tmp_path / "scale.json", tmp_path / "scale.png"
    words = ["--rows", "3000", "--multiples", "1", "--workers", "1"]
    assert scale.main([*words, "--output", str(output), "--picture", str(drawn)]) == 0
    found = json.loads(output.read_text())["measurements"]
    assert [(one["job"], one["rows"], one["workers"]) for one in found] == [
        ("score", 3000, 1),
        ("train", 3000, 1),
    ]
    for one in found:
        assert one["rows_per_second"] > 0
        assert one["worker_mb"] > 0
        assert one["driver_mb"] > 0
    assert drawn.read_bytes().startswith(b"\x89PNG")
    # What is known is not measured again.
    written = output.stat().st_mtime_ns
    assert scale.main([*words, "--output", str(output)]) == 0
    assert output.stat().st_mtime_ns == written
