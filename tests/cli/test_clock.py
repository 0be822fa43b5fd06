"""The seconds that a command prints, beside those that its process takes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from tests.golden.rows import FOLDER
from tests.packages import ROOT

MODEL = FOLDER / "0.2.0" / "regression-sums.safetensors"

# Work before the command line is imported, and a wait between its imports: both are the user's
# time. What comes after the last line is told by a handler that runs before modules are torn down.
SLOW_START = """
import atexit, gc, sys, time
while time.process_time() < 1.0:
    pass
import tabwright.cli
time.sleep(1.0)
from tabwright.cli.app import main
atexit.register(lambda: print("frozen", gc.get_freeze_count() > 10_000))
sys.argv = ["tabwright", *sys.argv[1:]]
main()
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    columns = ["east", "north"]
    pl.DataFrame({name: [0.1, 0.2, 0.3] for name in columns}).write_csv(path)
    return path


def test_printed_seconds_are_those_of_the_whole_process(rows: Path) -> None:
    output = rows.with_name("out.csv")
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", SLOW_START, "predict", str(MODEL), str(rows), "-o", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    printed = re.search(r"wrote 3 predictions to \S+ after ([\d.]+) s", done.stdout)
    assert printed is not None, done.stdout
    # Half of the last digit that is printed.
    assert 2.0 <= float(printed[1]) <= wall + 0.05
    assert done.stdout.endswith("frozen True\n")
