"""Memory and time of training on tables larger than memory, and what a second worker is worth.

    python -m benchmarks.streaming curve --rows 20000000 --output curve.json --picture curve.png
    python -m benchmarks.streaming scaling --rows 500000 --runs 1x1,1x2,2x1 --output scaling.json

`curve` makes tables of a tenth, a fifth, a half and all of the rows x 40 columns (36 numbers, of
which some are missing, 3 categories, a date) as Parquet files of a million rows, and trains on
each from disk for some epochs. Every training is a process of its own, whose peak memory the
system has measured; making the tables is not counted. `scaling` trains on one table in so many
processes of so many threads each (under torchrun where there are several processes) and gives
rows per second of the epochs after the first, or of the only one. What comes after `--` goes on to
`tabwright train`, and into the output.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tabwright.inference.fitted_model import FittedModel, load_fitted

ROOT = Path(__file__).resolve().parent.parent
FILE_ROWS = 1_000_000
N_NUMBERS = 36
SHARES = (0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Measurement:
    """One training on one table.

    Parameters
    ----------
    rows : int
    workers, threads : int
        Processes, and threads of each.
    words : list of str
        Options that the training was given beyond the defaults.
    table_mb : float
        The files, in megabytes.
    peak_mb : float
        Largest resident memory of the process, in megabytes; of the launcher's workers, the
        largest.
    seconds : float
        From the start of the process to its end.
    cpu_seconds : float
        What its threads and children worked meanwhile: less at the mercy of a busy machine.
    epochs : int
    epoch_seconds : float
        Per epoch, the first left out where there are several; validation included.
    rows_per_second : float
        Training rows through that.
    test_log_loss : float
    """

    rows: int
    workers: int
    threads: int
    words: list[str]
    table_mb: float
    peak_mb: float
    seconds: float
    cpu_seconds: float
    epochs: int
    epoch_seconds: float
    rows_per_second: float
    test_log_loss: float


def write_rows(folder: Path, n_rows: int, file_rows: int = FILE_ROWS) -> None:
    """Write a table of 40 columns and a target, a file at a time."""
    folder.mkdir()
    for number, start in enumerate(range(0, n_rows, file_rows)):
        draw = np.random.default_rng(number)
        n = min(file_rows, n_rows - start)
        numbers = draw.normal(size=(n, N_NUMBERS))
        frame = pl.DataFrame(numbers, schema=[f"x{i}" for i in range(N_NUMBERS)])
        levels = {f"kind{k}": draw.integers(0, 4**k + 2, size=n) for k in (1, 2, 3)}
        days = draw.integers(0, 3650, size=n)
        score = numbers[:, 0] + numbers[:, 1] * numbers[:, 2] + (levels["kind1"] == 1)
        frame = frame.with_columns(
            pl.when(pl.col("x5") > 1).then(None).otherwise(pl.col("x5")).alias("x5"),
            *(pl.Series(name, codes).cast(pl.String) for name, codes in levels.items()),
            pl.Series("day", np.datetime64("2015-01-01") + days),
            pl.Series("label", np.where(score + draw.normal(size=n) > 0.5, "yes", "no")),
        )
        frame.write_parquet(folder / f"part{number:04}.parquet", row_group_size=65_536)


def measure(
    table: Path,
    n_rows: int,
    *,
    epochs: int,
    workers: int = 1,
    threads: int = 1,
    words: Sequence[str] = (),
) -> Measurement:
    """Train on a table in processes of their own."""
    with tempfile.TemporaryDirectory(dir=table.parent) as name:
        output = Path(name) / "model.safetensors"
        command = [sys.executable]
        if workers > 1:
            command += ["-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(workers)]
        command += ["-m", "tabwright", "train", str(table), "--target", "label"]
        command += ["--quiet", "--epochs", str(epochs), "--memory", "1MB", "-o", str(output)]
        variables = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT), "TMPDIR": name}
        began, worked = time.perf_counter(), _cpu_seconds_of_children()
        process = subprocess.Popen([*command, *words], env={**os.environ, **variables})
        peak = _watch(process)
        seconds = time.perf_counter() - began
        cpu_seconds = _cpu_seconds_of_children() - worked
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        model = load_fitted(output)
    epoch_seconds = _epoch_seconds(model)
    return Measurement(
        rows=n_rows,
        workers=workers,
        threads=threads,
        words=list(words),
        table_mb=sum(path.stat().st_size for path in table.iterdir()) / 1e6,
        peak_mb=peak / 1e6,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        epochs=len(model.history),
        epoch_seconds=epoch_seconds,
        rows_per_second=model.card["n_training_rows"] / epoch_seconds,
        test_log_loss=model.metrics["test"]["log_loss"],
    )


def _epoch_seconds(model: FittedModel) -> float:
    ends = [epoch["seconds"] for epoch in model.history]
    return ends[0] if len(ends) == 1 else (ends[-1] - ends[0]) / (len(ends) - 1)


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _watch(process: subprocess.Popen[Any]) -> int:
    """Wait for the end; the largest peak of the process and its children, in bytes."""
    peak = 0
    while process.poll() is None:
        for pid in (process.pid, *_children(process.pid)):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            for line in status.splitlines():
                if line.startswith("VmHWM:"):
                    peak = max(peak, int(line.split()[1]) * 1024)
        time.sleep(0.2)
    return peak


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def curve(n_rows: int, *, epochs: int, folder: Path, words: Sequence[str]) -> list[Measurement]:
    """Tables of growing length, one after the other."""
    found = []
    for share in SHARES:
        rows = round(n_rows * share)
        table = folder / "table"
        write_rows(table, rows)
        found.append(measure(table, rows, epochs=epochs, words=words))
        shutil.rmtree(table)
        print(_line(found[-1]), flush=True)
    return found


def scaling(
    n_rows: int,
    runs: Sequence[tuple[int, int]],
    *,
    epochs: int,
    folder: Path,
    words: Sequence[str],
) -> list[Measurement]:
    """One table, several numbers of processes and threads."""
    table = folder / "table"
    write_rows(table, n_rows)
    found = []
    for workers, threads in runs:
        found.append(
            measure(table, n_rows, epochs=epochs, workers=workers, threads=threads, words=words)
        )
        print(_line(found[-1]), flush=True)
    return found


def _run(text: str) -> tuple[int, int]:
    workers, _, threads = text.partition("x")
    return int(workers), int(threads)


def _line(m: Measurement) -> str:
    return (
        f"{m.rows:>12,} rows, {m.workers} process(es) of {m.threads} thread(s): peak "
        f"{m.peak_mb:,.0f} MB, {m.seconds:,.1f} s in all ({m.cpu_seconds:,.1f} s of CPU), "
        f"{m.epoch_seconds:,.2f} s an epoch, {m.rows_per_second:,.0f} rows/s, test "
        f"log-loss {m.test_log_loss:.4f}"
    )


def draw_curve(found: Sequence[Measurement], path: Path) -> None:
    """Memory and time by rows, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [m.rows / 1e6 for m in found]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(rows, [m.table_mb for m in found], "o--", color="0.6", label="table (Parquet)")
    left.plot(rows, [m.peak_mb for m in found], "o-", label="peak memory")
    left.set_ylabel("MB")
    right.plot(rows, [m.seconds for m in found], "o--", color="0.6", label="by the clock")
    right.plot(rows, [m.cpu_seconds for m in found], "o-", label="CPU")
    right.set_ylabel("seconds, whole run")
    for axes in (left, right):
        axes.set_xlabel("rows, millions")
        axes.set_xlim(0)
        axes.set_ylim(0)
        axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=("curve", "scaling"))
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--runs", default="1x1,1x2,2x1", help="processes x threads, to compare")
    parser.add_argument("--folder", type=Path, help="where the tables go for a while")
    parser.add_argument("--output", type=Path, help="JSON")
    parser.add_argument("--picture", type=Path, help="PNG, of the curve")
    words = list(sys.argv[1:] if words is None else words)
    cut = words.index("--") if "--" in words else len(words)
    arguments, train_words = parser.parse_args(words[:cut]), words[cut + 1 :]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        given = {"epochs": arguments.epochs, "folder": folder, "words": train_words}
        if arguments.what == "curve":
            found = curve(arguments.rows, **given)
        else:
            runs = [_run(text) for text in arguments.runs.split(",")]
            found = scaling(arguments.rows, runs, **given)
    if arguments.output is not None:
        document = {"what": arguments.what, "measurements": [asdict(m) for m in found]}
        arguments.output.write_text(json.dumps(document, indent=2) + "\n")
    if arguments.picture is not None:
        draw_curve(found, arguments.picture)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
