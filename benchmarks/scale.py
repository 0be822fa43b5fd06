"""Scoring and training on a local Ray: rows per second, peak memory, and disk, by rows and workers.

    python -m benchmarks.scale --rows 1000000 --output scale.json --picture scale.png
    python -m benchmarks.scale --rows 4000 --multiples 1,2 --workers 1     # a minute

Tables of `--rows` rows x 40 columns (those of `benchmarks.streaming`), once and up to ten times as
many, as Parquet files. Each is scored (`predict_on_ray`) and trained on (`train_on_ray`, one epoch
of one small network, so that reading and encoding dominate) by one worker and by two. Every run is
a process of its own with a local Ray of as many CPUs as workers and an object store of 100 MB; what
does not fit there is spilled. Starting Ray is not counted. Memory is private memory, without the
pages of the object store: that of the largest worker, and of the driver. Disk is
what Ray has spilled at its peak, divided by the workers; on one machine they share a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.streaming import write_rows

ROOT = Path(__file__).resolve().parent.parent
MULTIPLES = (1, 2, 5, 10)
_MARK = "TABWRIGHT_SCALE"
_STORE_BYTES = 100 * 2**20
_JOBS = ("score", "train")


@dataclass(frozen=True)
class Measurement:
    """One run.

    Parameters
    ----------
    job : {"score", "train"}
    rows, workers : int
    seconds : float
        From the call to its end.
    rows_per_second : float
    worker_mb, driver_mb : float
        Peak private memory of the largest worker, and of the driver, in megabytes.
    disk_mb_per_worker : float
    """

    job: str
    rows: int
    workers: int
    seconds: float
    rows_per_second: float
    worker_mb: float
    driver_mb: float
    disk_mb_per_worker: float


class _Watch:
    """Peaks of private memory and of spilled bytes, until it is stopped."""

    def __init__(self, spilled: Path) -> None:
        self.worker = self.driver = self.disk = 0
        self._spilled, self._over = spilled, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            self.driver = max(self.driver, _private_bytes(os.getpid()))
            self.worker = max([self.worker, *map(_private_bytes, _workers())])
            self.disk = max(self.disk, _folder_bytes(self._spilled))


def _workers() -> list[int]:
    """Process ids of this driver's Ray workers."""
    mark = f"{_MARK}={os.getpid()}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes()
            if title.startswith(b"ray::") and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _private_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def run_here(job: str, folder: Path, rows: int, workers: int) -> Measurement:
    """Score or train on the table of a folder, with a Ray of this process."""
    import ray

    from tabwright import PredictRequest, TrainRequest, predict_on_ray, train_on_ray
    from tabwright.tables.column_uses import ColumnUses
    from tabwright.tables.labelled import TableRequest

    os.environ[_MARK] = str(os.getpid())
    spilled = folder / "spilled"
    ray.init(
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=_STORE_BYTES,
        object_spilling_directory=str(spilled),
    )
    watch = _Watch(spilled)
    started = time.perf_counter()
    if job == "score":
        request = PredictRequest(
            folder / "model.safetensors",
            str(folder / "table"),
            str(folder / f"scored-{workers}"),
            keep=("label",),
            rows_per_part=65_536,
        )
        predict_on_ray(request, n_workers=workers)
    else:
        training = TrainRequest(
            TableRequest(str(folder / "table"), ColumnUses("label")),
            output=folder / f"trained-{workers}.safetensors",
            settings={"max_epochs": 1, "n_members": 2, "hidden_dim": 64, "batch_size": 1024},
        )
        train_on_ray(training, n_workers=workers, storage=str(folder / "notes"))
    seconds = time.perf_counter() - started
    watch.stop()
    ray.shutdown()
    return Measurement(
        job,
        rows,
        workers,
        seconds,
        rows / seconds,
        watch.worker / 1e6,
        watch.driver / 1e6,
        watch.disk / workers / 1e6,
    )


def measured(rows: int, workers: Sequence[int]) -> list[Measurement]:
    """Both jobs on a new table, by each number of workers, each in a process of its own."""
    found = []
    with tempfile.TemporaryDirectory(prefix="tabwright-scale-") as name:
        folder = Path(name)
        write_rows(folder / "table", rows)
        _write_model(folder)
        for job in _JOBS:
            for n_workers in workers:
                words = [job, str(folder), str(rows), str(n_workers)]
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.scale", "--one", *words],
                    cwd=ROOT,
                    env={**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)},
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                found.append(Measurement(**json.loads(done.stdout.splitlines()[-1])))
                print(found[-1], flush=True)
    return found


def _write_model(folder: Path) -> None:
    """A model of default size, fitted on some of the rows."""
    import polars as pl

    from tabwright import TabularClassifier

    rows = pl.read_parquet(folder / "table" / "part0000.parquet", n_rows=2_000)
    model = TabularClassifier(max_epochs=1, random_state=0)
    model.fit(rows.drop("label"), rows["label"]).save(folder / "model.safetensors")


def picture(found: Sequence[Measurement], path: Path) -> None:
    """Memory, disk and rows per second against the rows, a line for each number of workers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    shown = (
        ("worker_mb", "private memory of a worker, MB"),
        ("disk_mb_per_worker", "spilled a worker, MB"),
        ("rows_per_second", "rows a second"),
    )
    for place, (name, label) in zip(axes, shown, strict=True):
        for job in _JOBS:
            for workers in sorted({one.workers for one in found}):
                line = [one for one in found if (one.job, one.workers) == (job, workers)]
                values = [getattr(one, name) for one in line]
                place.plot([one.rows for one in line], values, "o-", label=f"{job}, {workers}")
        place.set_xlabel("rows")
        place.set_ylabel(label)
        place.set_ylim(bottom=0)
    axes[0].legend(title="job, workers")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rows", type=int, default=200_000, help="of the smallest table")
    parser.add_argument("--multiples", default=",".join(map(str, MULTIPLES)))
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--output", type=Path, help="JSON of all measurements")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--one", nargs=4, metavar=("JOB", "FOLDER", "ROWS", "WORKERS"))
    asked = parser.parse_args(words)
    if asked.one is not None:
        job, folder, rows, workers = asked.one
        print(json.dumps(asdict(run_here(job, Path(folder), int(rows), int(workers)))))
        return 0
    found: list[Measurement] = []
    for multiple in asked.multiples.split(","):
        found += measured(asked.rows * int(multiple), [int(n) for n in asked.workers.split(",")])
    document: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "object_store_mb": _STORE_BYTES / 1e6,
        "measurements": [asdict(one) for one in found],
    }
    if asked.output is not None:
        asked.output.write_text(json.dumps(document, indent=1))
    if asked.picture is not None:
        picture(found, asked.picture)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
