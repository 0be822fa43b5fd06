"""The line that says what goes on, in a real terminal of 80 columns."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import polars as pl
import pytest

from tests.golden.rows import FOLDER
from tests.packages import ROOT

MODEL = str(FOLDER / "0.2.0" / "regression-sums.safetensors")
# Says on the error stream when polars, the first slow package of every command, is looked for.
RUN = """
import sys
from importlib.abc import MetaPathFinder

class Telling(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "polars":
            sys.stderr.write(f"<{name}>")
            sys.stderr.flush()

sys.meta_path.insert(0, Telling())
from tabwright.cli.app import main
sys.argv = ["tabwright", *sys.argv[1:]]
main()
"""
ERASED = "\x1b[2K"


def _seen(*words: str, folder: Path, term: str = "xterm") -> str:
    """What a terminal of 80 columns gets of a command."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {"PATH": os.environ["PATH"], "TERM": term, "PYTHONPATH": str(ROOT)}
    done = subprocess.Popen(
        [sys.executable, "-c", RUN, *words],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    pieces = []
    while True:
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(ours)
    done.wait()
    return b"".join(pieces).decode()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("train none.csv -t y", "starting"),
        ("compare none.csv -t y", "starting"),
        ("tune none.csv -t y", "starting"),
        ("distill catboost none.csv -t y", "starting"),
        ("predict {model} none.csv", "loading "),
        ("evaluate {model} none.csv", "reading none.csv"),
        ("importance {model} none.csv", "reading none.csv"),
        ("explain {model} none.csv", "explaining"),
        ("export {model} out.onnx --check-rows 1", "loading "),
        ("inspect {model}", "reading "),
        ("serve none.safetensors", "loading models"),
    ],
)
def test_a_command_says_what_it_does_before_it_loads_anything_slow(
    words: str, line: str, tmp_path: Path
) -> None:
    seen = _seen(*words.format(model=MODEL).split(), folder=tmp_path)
    assert line in seen
    assert -1 < seen.index(line) < seen.index("<polars>")
    # Nothing of the line is left beside what comes after it.
    assert ERASED in seen[seen.index("<polars>") :]


def test_the_line_is_gone_before_rows_come_on_the_screen(tmp_path: Path) -> None:
    columns = {"east": [0.1, 0.2], "north": [0.3, 0.4]}
    pl.DataFrame(columns).write_csv(tmp_path / "rows.csv")
    seen = _seen("predict", MODEL, "rows.csv", folder=tmp_path)
    before, heading, rows = seen.partition("prediction\r\n")
    assert heading
    assert "predicting rows.csv" in before
    assert ERASED in before[before.rindex("predicting rows.csv") :]
    # Two values, and then the note on values that training did not have.
    assert [float(row) > 0 for row in rows.splitlines()[:2]] == [True, True]


def test_a_dumb_terminal_gets_no_line_and_no_empty_ones(tmp_path: Path) -> None:
    columns = {"east": [0.1, 0.2], "north": [0.3, 0.4]}
    pl.DataFrame(columns).write_csv(tmp_path / "rows.csv")
    seen = _seen("predict", MODEL, "rows.csv", folder=tmp_path, term="dumb")
    assert seen.startswith("<polars>prediction\r\n")
    assert "\x1b" not in seen
