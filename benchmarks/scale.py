"""Scoring and training on Ray: time, peak memory and disk, by rows and workers.

    python -m benchmarks.scale --rows 400000 --output scale.json --picture scale.png
    python -m benchmarks.scale --rows 4000 --multiples 1,2 --workers 1     # a minute

Tables of `--rows` rows x 40 columns (those of `benchmarks.streaming`), once and up to ten times as
many, as Parquet files. Each is scored (`predict_on_ray`) and trained on (`train_on_ray`, one epoch
of one small network, so that reading and encoding dominate) by one worker and by two. Every run is
a process of its own with a Ray on this machine that has a node for each worker, of one CPU and an
object store of 100 MB; what does not fit there is spilled to a folder of the node. Starting the
nodes is not counted; the actors of Ray Data and Ray Train are.

Memory is the anonymous memory of a process (`RssAnon`): that of the largest worker, and of the
driver. Pages of files, and of the object store that all share, are not in it. Disk is what the
folder of the fullest node held at its peak. What `--output` holds already is not measured again, so
that a campaign that was stopped goes on.
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
from collections.abc import Iterator, Sequence
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
        Peak anonymous memory of the largest worker, and of the driver, in megabytes.
    disk_mb_per_worker : float
        Peak of what one node has spilled, that of the fullest, in megabytes.
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
    """Peaks of anonymous memory and of a node's spilled bytes, until it is stopped."""

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
            self.driver = max(self.driver, _anonymous_bytes(os.getpid()))
            self.worker = max([self.worker, *map(_anonymous_bytes, _workers())])
            # Ray makes a folder for each node.
            nodes = self._spilled.iterdir() if self._spilled.is_dir() else ()
            self.disk = max([self.disk, *map(_folder_bytes, nodes)])


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


def _anonymous_bytes(process: int) -> int:
    """What a process has taken for itself: no pages of files or of the object store."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


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
    from ray.cluster_utils import Cluster

    from tabwright import PredictRequest, TrainRequest, predict_on_ray, train_on_ray
    from tabwright.tables.column_uses import ColumnUses
    from tabwright.tables.labelled import TableRequest

    os.environ[_MARK] = str(os.getpid())
    spilled = folder / "spilled"
    # In a folder of its own, with a short name for the sockets in it.
    own = tempfile.TemporaryDirectory(prefix="ray")
    # Ray writes there which cluster is the newest, and takes the folder for granted.
    Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray").mkdir(parents=True, exist_ok=True)
    cluster: Any = Cluster()
    for _ in range(workers):
        cluster.add_node(
            num_cpus=1,
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            object_spilling_directory=str(spilled),
            temp_dir=own.name,
        )
    ray.init(address=cluster.address, log_to_driver=False)
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
    cluster.shutdown()
    own.cleanup()
    return Measurement(
        job,
        rows,
        workers,
        seconds,
        rows / seconds,
        watch.worker / 1e6,
        watch.driver / 1e6,
        watch.disk / 1e6,
    )


def measured(rows: int, runs: Sequence[tuple[str, int]]) -> Iterator[Measurement]:
    """Jobs on a new table, each by a number of workers and in a process of its own."""
    if not runs:
        return
    with tempfile.TemporaryDirectory(prefix="tabwright-scale-") as name:
        folder = Path(name)
        write_rows(folder / "table", rows)
        if any(job == "score" for job, _ in runs):
            _write_model(folder)
        for job, n_workers in runs:
            words = [job, str(folder), str(rows), str(n_workers)]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.scale", "--one", *words],
                cwd=ROOT,
                env={**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            yield Measurement(**json.loads(done.stdout.splitlines()[-1]))


def _write_model(folder: Path) -> None:
    """Networks of default size, fitted on some of the rows."""
    import polars as pl

    from tabwright import TabularClassifier

    rows = pl.read_parquet(folder / "table" / "part0000.parquet", n_rows=2_000)
    model = TabularClassifier(max_epochs=1, random_state=0, n_folds=1)
    model.fit(rows.drop("label"), rows["label"]).save(folder / "model.safetensors")


def picture(found: Sequence[Measurement], path: Path) -> None:
    """Memory, disk and time against the rows: a row of panels for each job, a line for each
    number of workers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    jobs = [job for job in _JOBS if any(one.job == job for one in found)]
    figure, axes = plt.subplots(
        len(jobs), 4, figsize=(13, 3 * len(jobs)), layout="constrained", sharex="row", squeeze=False
    )
    shown = (
        ("worker_mb", "largest worker, MB"),
        ("driver_mb", "driver, MB"),
        ("disk_mb_per_worker", "spilled by the fullest node, MB"),
        ("seconds", "seconds"),
    )
    numbers = sorted({one.workers for one in found})
    for job, places in zip(jobs, axes, strict=True):
        for place, (name, label) in zip(places, shown, strict=True):
            for workers in numbers:
                line = sorted(
                    (one for one in found if (one.job, one.workers) == (job, workers)),
                    key=lambda one: one.rows,
                )
                values = [getattr(one, name) for one in line]
                plural = "worker" if workers == 1 else "workers"
                rows = [one.rows / 1e6 for one in line]
                place.plot(rows, values, "o-", label=f"{workers} {plural}")
            place.set_title(f"{job}: {label}", fontsize="medium")
            # A line that rises by a few megabytes of nothing is no news.
            place.set_ylim(bottom=0, top=max(1.0, 1.15 * place.get_ylim()[1]))
            place.set_xlim(left=0)
    for place in axes[-1]:
        place.set_xlabel("million rows")
    axes[0][0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _known(path: Path | None) -> list[Measurement]:
    if path is None or not path.exists():
        return []
    return [Measurement(**one) for one in json.loads(path.read_text())["measurements"]]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rows", type=int, default=200_000, help="of the smallest table")
    parser.add_argument("--multiples", default=",".join(map(str, MULTIPLES)))
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--jobs", default=",".join(_JOBS))
    parser.add_argument("--output", type=Path, help="JSON of all measurements")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--one", nargs=4, metavar=("JOB", "FOLDER", "ROWS", "WORKERS"))
    asked = parser.parse_args(words)
    if asked.one is not None:
        job, folder, rows, workers = asked.one
        print(json.dumps(asdict(run_here(job, Path(folder), int(rows), int(workers)))))
        return 0
    found = _known(asked.output)
    known = {(one.rows, one.job, one.workers) for one in found}
    for multiple in map(int, asked.multiples.split(",")):
        rows = asked.rows * multiple
        runs = [
            (job, n_workers)
            for job in asked.jobs.split(",")
            for n_workers in map(int, asked.workers.split(","))
            if (rows, job, n_workers) not in known
        ]
        for one in measured(rows, runs):
            print(one, flush=True)
            found.append(one)
            if asked.output is not None:
                document: dict[str, Any] = {
                    "cpus": os.cpu_count(),
                    "object_store_mb": _STORE_BYTES / 1e6,
                    "measurements": [asdict(each) for each in found],
                }
                asked.output.write_text(json.dumps(document, indent=1))
    if asked.picture is not None:
        picture(found, asked.picture)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
