"""Does a run of several workers survive the death of one of them, at any step?

A training under torchrun writes its state after every step. Again and again one of its workers,
drawn at random, is killed with SIGKILL: most times while the epochs run, now and then while the
workers still read and encode. torchrun starts all anew, they go on from the state, and in the end
the model must be, bit for bit, that of a run that nobody disturbed: nothing was counted twice and
nothing was left out. With --hang, a worker is stopped at last (SIGSTOP) rather than killed: the
others must give up within the stated timeout.

    python -m campaigns.kill_workers --kills 20 --hang
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from campaigns.kill_training import difference
from tabwright.distributed.workers import TIMEOUT_VARIABLE
from tabwright.inference.fitted_model import load_fitted

ROOT = Path(__file__).resolve().parent.parent
# torchrun gives workers so many seconds to end by themselves before it kills them.
_TORCHRUN_GRACE = 30.0


def write_table(folder: Path, n_rows: int = 2000) -> None:
    """A small table in two Parquet files of unequal length."""
    draw = np.random.default_rng(0)
    size, noise = draw.normal(size=n_rows), draw.normal(size=n_rows)
    kind = draw.choice(["red", "green", "blue"], size=n_rows)
    label = np.where(size + (kind == "red") + noise > 0.4, "yes", "no")
    frame = pl.DataFrame({"size": size, "kind": kind, "noise": noise**2, "label": label})
    folder.mkdir()
    frame[: n_rows // 3].write_parquet(folder / "a.parquet")
    frame[n_rows // 3 :].write_parquet(folder / "b.parquet")


def command(
    folder: Path,
    output: Path,
    *,
    n_workers: int = 2,
    n_members: int = 2,
    max_restarts: int = 0,
    epochs: int = 6,
    batch_size: int = 64,
) -> list[str]:
    """How to train on the table under torchrun, with the state written after every step."""
    launch = f"-m torch.distributed.run --standalone --nproc-per-node {n_workers}"
    launch += f" --max-restarts {max_restarts} -m tabwright train {folder / 'table'}"
    launch += f" --target label --epochs {epochs} --members {n_members} --width 32"
    launch += f" --batch-size {batch_size} --quiet"
    return [sys.executable, *launch.split(), "--checkpoint-seconds", "0", "-o", str(output)]


def environment(timeout: float = 300.0) -> dict[str, str]:
    """The environment of a launch."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        TIMEOUT_VARIABLE: str(timeout),
    }


def workers_of(launcher: int) -> list[int]:
    """Process ids of the workers that a launcher has running."""
    found = []
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        try:
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(variable.startswith(b"LOCAL_RANK=") for variable in variables):
            found.append(int(child))
    return found


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _kill_one(launcher: subprocess.Popen[bytes], state: Path, draw: random.Random) -> bool:
    """Kill a worker at a random moment; False if the run ended before."""
    before = _modified(state)
    early = draw.random() < 0.2
    patience = time.monotonic() + (draw.uniform(0, 8) if early else 300)
    while time.monotonic() < patience and launcher.poll() is None:
        if not early and _modified(state) != before:
            time.sleep(draw.uniform(0, 0.4))
            break
        time.sleep(0.01)
    if launcher.poll() is not None:
        return False
    victims = workers_of(launcher.pid)
    if not victims:
        return False
    os.kill(draw.choice(victims), signal.SIGKILL)
    return True


def campaign(n_kills: int, seed: int, epochs: int = 6, n_members: int = 2) -> int:
    """Kill workers until so many kills landed; returns how many there were.

    Of two members each worker trains its own; of one they share every batch.

    Raises
    ------
    AssertionError
        If a run could not go on, ended with another model, or left something behind.
    """
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "table")
        undisturbed, output = folder / "undisturbed.safetensors", folder / "model.safetensors"
        subprocess.run(
            command(folder, undisturbed, n_members=n_members, epochs=epochs),
            env=environment(),
            cwd=folder,
            check=True,
        )
        model = load_fitted(undisturbed)
        landed = 0
        while landed < n_kills:
            with subprocess.Popen(
                # gloo, too, may fail to connect workers that start on a busy machine.
                command(
                    folder,
                    output,
                    n_members=n_members,
                    max_restarts=3 * n_kills + 5,
                    epochs=epochs,
                ),
                env=environment(),
                cwd=folder,
                stderr=subprocess.PIPE,
            ) as launcher:
                while landed < n_kills and _kill_one(
                    launcher, folder / "model.safetensors.run", draw
                ):
                    landed += 1
                _, errors = launcher.communicate(timeout=600)
            if launcher.returncode:
                raise AssertionError(f"after {landed} kills: {errors.decode()}")
            # Sums over workers are put together in another order after a start.
            odd = difference(model, load_fitted(output), history_tolerance=1e-12)
            if odd is not None:
                raise AssertionError(f"after {landed} kills the result differs in {odd}")
            output.unlink()
            # What a write was doing when it was killed stays as a hidden file.
            left = {path.name for path in folder.iterdir() if path.suffix != ".tmp"}
            if left != {"table", "undisturbed.safetensors"}:
                raise AssertionError(f"left behind: {sorted(left)}")
    return landed


def hang(timeout: float) -> float:
    """Stop a worker for good while the epochs run; the seconds until the launch has ended.

    Raises
    ------
    AssertionError
        If the others wait longer than they say, or the launch counts as a success.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "table")
        state = folder / "model.safetensors.run"
        with subprocess.Popen(
            command(folder, folder / "model.safetensors", epochs=200),
            env=environment(timeout),
            cwd=folder,
            stderr=subprocess.DEVNULL,
        ) as launcher:
            while not state.exists():
                time.sleep(0.05)
            began = time.monotonic()
            os.kill(workers_of(launcher.pid)[-1], signal.SIGSTOP)
            launcher.wait(timeout=timeout + 2 * _TORCHRUN_GRACE)
            seconds = time.monotonic() - began
        if not launcher.returncode:
            raise AssertionError("a run whose worker was stopped must not end well")
    return seconds


def main(words: Sequence[str] | None = None) -> int:
    """Run the campaign; 0 if every run ended with the same model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--members", type=int, default=2, help="1: the two workers share every batch"
    )
    parser.add_argument("--hang", action="store_true", help="stop a worker in the end, too")
    arguments = parser.parse_args(words)
    landed = campaign(arguments.kills, arguments.seed, arguments.epochs, arguments.members)
    print(f"{landed} kills survived; every run ended with the same bits")
    if arguments.hang:
        seconds = hang(timeout=5.0)
        print(f"a stopped worker ended the run after {seconds:.0f} s; the timeout was 5 s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
