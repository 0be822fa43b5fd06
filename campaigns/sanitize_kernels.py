"""Do the compiled kernels read or write past their memory, or do what C leaves undefined?

The extension is compiled once more, with AddressSanitizer and UndefinedBehaviorSanitizer, and
trains networks of random shapes by every instruction set of this processor: both architectures
and no hidden layer, on dense and encoded rows, by one thread and several, with and without dropout,
weights and a teacher. Any
report of a sanitizer ends the run, and so does a value that is not finite. Before that, a child
that oversteps by one number on purpose must be caught.

    python -m campaigns.sanitize_kernels --seconds 600

Needs gcc or clang with its sanitizers, on Linux.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tabwright" / "training" / "engine" / "_steps.c"
NAME = "tabwright.training.engine._steps"
FLAGS = (
    *("-std=c11", "-O1", "-g", "-fPIC", "-shared", "-ffp-contract=off"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
)
MODES = ("mlp_dense", "tabresnet", "linear_glm_baseline")


def find_runtime(compiler: str) -> str | None:
    """The library of AddressSanitizer, which a process must load first; None if there is none."""
    for name in ("libasan.so", "libclang_rt.asan-x86_64.so", "libclang_rt.asan-aarch64.so"):
        asked = [compiler, f"-print-file-name={name}"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        path = done.stdout.strip()
        if done.returncode == 0 and os.path.isabs(path) and os.path.exists(path):
            return os.path.realpath(path)
    return None


def build(compiler: str, folder: Path) -> Path:
    """The extension with sanitizers."""
    target = folder / "_steps.abi3.so"
    include = f"-I{sysconfig.get_paths()['include']}"
    subprocess.run([compiler, *FLAGS, include, str(SOURCE), "-o", str(target), "-lm"], check=True)
    return target


def load(path: Path) -> ModuleType:
    """Put an extension in the place of the installed one."""
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


def overstep() -> None:
    """AdamW on one number more than there are."""
    import torch

    from tabwright.training.engine.compiled_kernels import compiled_kernels

    rows = [torch.ones(1000) for _ in range(5)]
    addresses = [row.data_ptr() for row in rows]
    compiled_kernels().adamw(0, 1001, 0, *addresses[:4], 1.0, 0.1, 0.0, 0.9, 0.999, 1e-8)


def random_table(draw: random.Random, n_rows: int) -> Any:
    """Rows of some dense inputs, binned columns and flags, of which some may be hidden."""
    import torch

    from tabwright.training.engine.row_table import RowTable

    n_dense, n_binned, n_flags = draw.randint(0, 20), draw.randint(0, 5), draw.randint(1, 4)
    at = n_dense
    bounds = []
    for _ in range(n_binned + n_flags):
        bounds.append((at, at + draw.randint(1, 6)))
        at = bounds[-1][1]
    places = [torch.randint(low, high, (n_rows,)) for low, high in bounds]
    flags = torch.stack(places[n_binned:], dim=1).int()
    flags[torch.rand(flags.shape) < 0.1] = -1
    unknown = [low if draw.random() < 0.5 else -1 for low, _ in bounds[n_binned:]]
    no_bins = torch.empty(n_rows, 0, dtype=torch.int32)
    return RowTable(
        torch.randn(n_rows, n_dense),
        torch.tensor([[0, n_dense]] if n_dense else []).reshape(-1, 2).long(),
        torch.stack(places[:n_binned], dim=1).int() if n_binned else no_bins,
        torch.rand(n_rows, n_binned),
        torch.tensor(bounds[:n_binned]).reshape(-1, 2).long(),
        flags,
        torch.tensor(bounds[n_binned:]),
        torch.tensor(unknown, dtype=torch.int32),
        draw.choice((0.0, 0.3)),
    )


def train_one(draw: random.Random) -> str:
    """A few steps of networks of a random shape; what they were."""
    import torch

    from ai.ml.frameworks.pytorch.models import build_model
    from tabwright.training.engine.row_table import RowTable
    from tabwright.training.engine.stacked_members import StackedMembers
    from tabwright.training.objectives import Objective
    from tabwright.training.running_loss import RunningLoss

    mode: Any = draw.choice(MODES)
    n_rows, n_outputs = 70, draw.randint(1, 6)
    table = random_table(draw, n_rows)
    if mode == "linear_glm_baseline" or draw.random() < 0.3:
        table = RowTable.dense(torch.randn(n_rows, draw.choice((1, 2, 17, 33))))
    width, depth = draw.choice((1, 3, 8, 31, 64, 255, 257, 300)), draw.randint(1, 3)
    n_members, batch = draw.randint(1, 3), draw.choice((2, 3, 31, 32, 33, 65))
    rate, n_threads = draw.choice((0.0, 0.1, 0.5)), draw.randint(1, 3)
    said = f"{mode}, {n_members} x {width}x{depth}, {table.input_dim} to {n_outputs}, batch {batch}"
    said += f", {n_threads} threads"
    sizes = (table.input_dim, n_outputs, mode, width, depth, rate)
    modules = [build_model(*sizes) for _ in range(n_members)]
    members = StackedMembers(
        modules, seeds=range(n_members), n_threads=n_threads, engine="compiled"
    )
    weights = torch.rand(n_rows) + 0.5 if draw.random() < 0.5 else None
    targets = torch.randint(n_outputs, (n_rows,)) if n_outputs > 1 else torch.randn(n_rows, 1)
    soft, temperature = None, draw.choice((1.0, 2.0))
    if draw.random() < 0.5:
        soft = torch.randn(n_rows, n_outputs)
        soft = torch.softmax(soft, dim=1) if n_outputs > 1 else soft
    objective = Objective(targets, weights, soft, 0.5, temperature)
    goal, running = objective.goal, RunningLoss()
    assert goal is not None
    for n_batches in (2, 1):
        members.train_run(
            table,
            goal,
            torch.randint(n_rows, (n_batches, batch)),
            step=0,
            hide_keys=torch.full((n_batches,), 12_345, dtype=torch.int32),
            learning_rates=[1e-3] * n_batches,
            weight_decay=0.01,
            loss_sums=running.begin(n_members, torch.device("cpu")),
        )
    running.count(1)
    losses = running.take()
    logits = members.logits(torch.randn(5, table.input_dim))
    if not bool(torch.isfinite(losses).all() and torch.isfinite(logits).all()):
        raise SystemExit(f"not finite: {said}")
    return said


def work(seconds: float, seed: int) -> None:
    """Networks for so long, by every instruction set in turns."""
    import torch

    from tabwright.training.engine import compiled_kernels as kernels
    from tabwright.training.engine import compiled_steps

    draw, sets = random.Random(seed), kernels._instruction_sets()
    torch.manual_seed(seed)
    compiled_steps._WORTH_A_THREAD = compiled_steps._WORTH_SHARING = 0
    n_networks, started = 0, time.monotonic()
    while time.monotonic() - started < seconds or n_networks < 4 * len(sets):
        for name, addresses in sets.items():
            own = {name: addresses}
            kernels._instruction_sets = lambda own=own: own  # type: ignore[assignment]
            kernels.compiled_kernels.cache_clear()
            print(f"{name}: {train_one(draw)}")
            n_networks += 1
    print(f"{n_networks} networks by {', '.join(sets)}: no report")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", choices=("work", "overstep"), help=argparse.SUPPRESS)
    parser.add_argument("--module", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        load(arguments.module)
        if arguments.child == "overstep":
            overstep()
        else:
            work(arguments.seconds, arguments.seed)
        return
    compiler = shutil.which("gcc") or shutil.which("clang")
    runtime = None if compiler is None else find_runtime(compiler)
    if compiler is None or runtime is None:
        raise SystemExit("sanitizers need gcc or clang with its libraries; found none")
    with tempfile.TemporaryDirectory() as folder:
        module = build(compiler, Path(folder))
        environment = {
            **os.environ,
            "LD_PRELOAD": runtime,
            # Python and torch keep memory until the end on purpose.
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "campaigns.sanitize_kernels", "--module", str(module)]
        command += ["--seconds", str(arguments.seconds), "--seed", str(arguments.seed), "--child"]
        caught = subprocess.run(
            [*command, "overstep"], env=environment, capture_output=True, text=True, check=False
        )
        if caught.returncode == 0 or "heap-buffer-overflow" not in caught.stderr:
            raise SystemExit(f"the sanitizer did not see an overstep:\n{caught.stderr[-2000:]}")
        print("an overstep on purpose was caught")
        raise SystemExit(subprocess.run([*command, "work"], env=environment).returncode)


if __name__ == "__main__":
    main()
