"""The walk of docs/first-hour.md, timed: `python -m benchmarks.first_hour` prints its table.

Each command runs in a terminal of 80 columns, from its start to its end, as a user waits for it.
Run it on a quiet machine; the figures are medians of `--repeats` walks.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import pty
import shlex
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from benchmarks.tables import ROOT, data_dirs

MODEL = "model.safetensors"


class Terminal:
    """A command of tabwright in a terminal of 80 columns, read as it writes."""

    def __init__(self, words: Sequence[str], folder: Path) -> None:
        self._screen, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._start = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tabwright", *words],
            cwd=folder,
            env={**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self.first_sign, self.seen = float("nan"), b""

    def until(self, text: bytes | None = None) -> float:
        """Seconds from the start until a text is seen, or without one until the command ends."""
        while text is None or text not in self.seen:
            try:
                piece = os.read(self._screen, 65_536)
            except OSError:  # how Linux says that the other end is closed
                piece = b""
            if not piece:
                break
            if not self.seen:
                self.first_sign = time.perf_counter() - self._start
            self.seen += piece
        if text is None:
            self.process.wait()
            os.close(self._screen)
        elif text not in self.seen:
            raise SystemExit(f"the command ended early:\n{self.seen.decode()}")
        return time.perf_counter() - self._start


def walk(table: Path, target: str, options: Sequence[str], folder: Path) -> dict[str, list[float]]:
    """Seconds of each step, and of its first sign, on a table whose first five rows are new."""
    rows = pl.read_csv(table, n_rows=5).drop(target)
    rows.write_csv(folder / "new_rows.csv")
    train = ["train", str(table), "--target", target, *options, "-o", MODEL]
    steps = {
        "help": (["--help"], 0),
        "train, score, save and report": ([*train, "--report", "report.html"], 0),
        "predict five rows into a file": (["predict", MODEL, "new_rows.csv", "-o", "out.csv"], 0),
        "look into the model": (["inspect", MODEL], 0),
        "a misspelt file, answered": (["train", f"{table.stem}x.csv", "--target", target], 4),
    }
    found = {}
    for step, (words, code) in steps.items():
        terminal = Terminal(words, folder)
        seconds = terminal.until()
        if terminal.process.returncode != code:
            raise SystemExit(f"{shlex.join(words)} failed:\n{terminal.seen.decode()}")
        found[step] = [seconds, terminal.first_sign]
    server = Terminal(["serve", MODEL, "--port", "0"], folder)
    found["start the server"] = [server.until(b"/docs)"), server.first_sign]
    address = "".join(server.seen.decode().split(" on ")[1].split("(try")[0].split())
    with urllib.request.urlopen(f"{address}/v1/models") as answer:
        (model,) = json.load(answer)["models"]
    (row,) = rows.select(column["name"] for column in model["columns"])[:1].to_dicts()
    request = urllib.request.Request(
        f"{address}/v1/models/{model['name']}/predict",
        json.dumps({"rows": [row]}).encode(),
        {"Content-Type": "application/json"},
    )
    began = time.perf_counter()
    with urllib.request.urlopen(request) as answer:
        answer.read()
    found["one answer"] = [time.perf_counter() - began, float("nan")]
    server.process.send_signal(signal.SIGINT)
    server.until()
    return found


def markdown(walks: Sequence[dict[str, list[float]]]) -> str:
    """The table of the page: medians over walks."""
    lines = ["| step | took | first sign after |", "| --- | ---: | ---: |"]
    for step in walks[0]:
        seconds, first = (statistics.median(walk[step][k] for walk in walks) for k in (0, 1))
        sign = "" if math.isnan(first) else f"{first:.1f} s"
        lines.append(f"| {step} | {seconds:.2g} s | {sign} |")
    return "\n".join(lines)


def main() -> None:
    """Walk, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, help="a CSV file [titanic of the suite]")
    parser.add_argument("--target", default="Survived")
    parser.add_argument("--options", default="--drop PassengerId", help="of the training")
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    walks = []
    for _ in range(given.repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            table = given.table and given.table.resolve()
            if table is None:
                table = folder / "titanic.csv"
                pl.read_parquet(data_dirs()[0] / "titanic.parquet").write_csv(table)
            walks.append(walk(table, given.target, shlex.split(given.options), folder))
    print(markdown(walks))


if __name__ == "__main__":
    main()
