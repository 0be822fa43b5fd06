"""Trains on a local Ray with one worker, then with two, of which one is killed midway.

Run by test_ray_job.py.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import ray

from tabwright.cluster.ray_job import train_on_ray
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import TableRequest
from tabwright.workflows.requests.train import TrainRequest

MARK = b"TABWRIGHT_RAY_TEST=" + str(os.getpid()).encode()


def workers() -> list[int]:
    """Process ids of this driver's training workers."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            is_worker = b"TrainWorker" in (entry / "cmdline").read_bytes()
            if is_worker and MARK in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)


def kill_one(state: Path) -> None:
    """Kill a worker once the state was written, in the middle of the epochs."""
    while not state.exists():
        time.sleep(0.02)
    victim = workers()[-1]
    os.kill(victim, signal.SIGKILL)
    print(f"killed a worker, {victim}", flush=True)


def main(folder: Path) -> None:
    os.environ["TABWRIGHT_RAY_TEST"] = str(os.getpid())
    os.environ["RAY_AUTH_MODE"] = "disabled"
    alone = TrainRequest(
        TableRequest(str(folder / "table"), ColumnUses("label")),
        output=folder / "alone.safetensors",
        settings={"max_epochs": 6, "n_members": 2, "hidden_dim": 32, "batch_size": 64},
        checkpoint_interval=0.0,
    )
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    notes = str(folder / "notes")
    train_on_ray(replace(alone, checkpoint_interval=60.0), n_workers=1, storage=notes)
    request = replace(alone, output=folder / "ray.safetensors")
    state = folder / "ray.safetensors.run"
    threading.Thread(target=kill_one, args=(state,), daemon=True).start()
    path = train_on_ray(request, n_workers=2, max_failures=2, timeout=60.0, storage=notes)
    ray.shutdown()
    print(f"trained {path}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
