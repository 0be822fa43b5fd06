"""Do the compiled kernels read or write past their memory, or do what C leaves undefined?

The extensions are compiled once more, with AddressSanitizer and UndefinedBehaviorSanitizer. One
trains networks of random shapes by every instruction set of this processor: both architectures
and no hidden layer, on dense and encoded rows, by one thread and several, with and without dropout,
weights and a teacher. The other predicts: random trees of all forms, and random networks on inputs
and on encoded rows, codes past their tables included; its sums of trees, and the oblivious trees
that it grows, must be NumPy's. Any report of a sanitizer ends the run, and so does a value that is
not finite. Before that, a child that oversteps by one number on purpose must be caught.

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
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from tabwright.distillation.trees import oblivious
from tabwright.distillation.trees.oblivious import ObliviousBoosting
from tabwright.distillation.trees.problem import Problem
from tabwright.encoding.encoder import Compact
from tabwright.encoding.layout import CycleBlock, Layout
from tabwright.inference.compiled import functions
from tabwright.inference.numpy_network import FoldedNetwork
from tabwright.inference.tree_ensemble import ObliviousTrees, TreeEnsemble, Trees
from tabwright.regression import OBJECTIVES

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("tabwright.training.engine._steps", "tabwright.inference.compiled._prediction")
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


def build(compiler: str, folder: Path) -> None:
    """The extensions with sanitizers."""
    include = f"-I{sysconfig.get_paths()['include']}"
    for name in NAMES:
        source = ROOT.joinpath(*name.split(".")).with_suffix(".c")
        target = folder / f"{source.stem}.abi3.so"
        command = [compiler, *FLAGS, include, str(source), "-o", str(target), "-lm"]
        subprocess.run(command, check=True)


def load(folder: Path) -> None:
    """Put the extensions in the places of the installed ones."""
    for name in NAMES:
        path = folder / f"{name.rpartition('.')[2]}.abi3.so"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


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
    from tabwright.training.regression_losses import RegressionLoss
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
    soft, temperature, regression = None, draw.choice((1.0, 2.0)), None
    if draw.random() < 0.4:
        soft = torch.randn(n_rows, n_outputs)
        soft = torch.softmax(soft, dim=1) if n_outputs > 1 else soft
    elif draw.random() < 0.5:
        targets = torch.rand(n_rows, 1) + 0.1
        names = [name for name in OBJECTIVES if n_outputs == 1 or name == "quantile"]
        levels = tuple(np.linspace(0.1, 0.9, n_outputs))
        regression = RegressionLoss(draw.choice(names), levels)
        said += f", {regression.objective}"
    objective = Objective(targets, weights, soft, 0.5, temperature, regression=regression)
    goal, running = objective.goal, RunningLoss()
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


def random_rows(draw: np.random.Generator, n_rows: int, n_columns: int) -> NDArray[np.float32]:
    """Numbers of which some are missing, and some infinite."""
    x = draw.normal(size=(n_rows, n_columns)).astype(np.float32)
    x[draw.random(x.shape) < 0.1] = np.nan
    x[draw.random(x.shape) < 0.02] = np.inf
    return x


def ask_trees(draw: np.random.Generator) -> str:
    """Rows through random trees; what they were."""
    n_features, n_outputs = int(draw.integers(1, 9)), int(draw.integers(1, 4))
    n_trees, most = n_outputs * int(draw.integers(1, 9)), int(draw.choice([1, 3, 30, 60, 200]))
    rows = random_rows(draw, int(draw.choice([0, 1, 63, 64, 65, 2_100])), n_features)
    baseline, depth = draw.normal(size=n_outputs), int(draw.integers(1, 7))
    trees: Trees
    if draw.random() < 0.3:
        shape = (n_trees, depth)
        trees = ObliviousTrees(
            kind="t",
            n_features=n_features,
            baseline=baseline,
            feature=draw.integers(0, n_features, shape).astype(np.int32),
            threshold=draw.normal(size=shape).astype(np.float32),
            value=draw.normal(size=(n_trees, 2**depth, n_outputs)),
        )
    else:
        roots: list[int] = []
        right: list[int] = []

        def grow(n_leaves: int) -> None:
            node = len(right)
            right.append(0)
            if n_leaves > 1:
                on_left = int(draw.integers(max(1, n_leaves // 3), n_leaves // 2 + 1))
                grow(on_left)
                right[node] = len(right)
                grow(n_leaves - on_left)

        for _ in range(n_trees):
            roots.append(len(right))
            grow(int(draw.integers(1, most + 1)))
        trees = TreeEnsemble(
            kind="t",
            n_features=n_features,
            baseline=baseline,
            roots=np.array(roots, dtype=np.int64),
            feature=draw.integers(0, n_features, len(right)).astype(np.int32),
            threshold=draw.normal(size=len(right)).round(1).astype(np.float32),
            right=np.array(right, dtype=np.int32),
            missing_left=draw.integers(0, 2, len(right)).astype(np.uint8),
            value=draw.normal(size=len(right)),
        )
    said = f"{len(rows)} rows, {n_trees} {type(trees).__name__} of at most {most} leaves"
    if not np.array_equal(trees.raw(rows), trees.raw_in_numpy(rows)):
        raise SystemExit(f"not what NumPy says: {said}")
    return said


def ask_networks(draw: np.random.Generator) -> str:
    """Rows through random networks; what they were."""
    from ai.ml.frameworks.pytorch.models import build_model

    n_numeric, n_categories = int(draw.integers(0, 9)), int(draw.integers(0, 4))
    n_encoded = int(draw.integers(0, n_numeric + 1))
    n_bins = int(draw.integers(0, 30)) if n_encoded else 0
    missing = np.flatnonzero(draw.random(n_numeric) < 0.3)
    levels = draw.integers(2, 9, n_categories)
    cycles: tuple[CycleBlock, ...] = ()
    if draw.random() < 0.5:
        table = draw.normal(size=(5, 3)).astype(np.float32)
        cycles = (CycleBlock(n_categories, n_categories + 2, table),)
    keep_value = n_bins == 0 or draw.random() < 0.5
    values = n_numeric - (0 if keep_value else n_encoded)
    n_dense = values + n_bins + len(missing) + sum(block.n_inputs for block in cycles)
    layout = Layout(
        n_numeric=n_numeric,
        n_encoded=n_encoded,
        keep_value=keep_value,
        smooth=bool(draw.random() < 0.5),
        bin_source=draw.integers(0, max(1, n_encoded), n_bins),
        bin_left=draw.normal(size=n_bins).astype(np.float32),
        bin_inverse=np.exp(draw.normal(size=n_bins)).astype(np.float32),
        missing=missing,
        cycles=cycles,
        n_categories=n_categories,
        level_start=n_dense + np.cumsum([0, *levels])[:-1],
        level_floor=np.zeros(n_categories, dtype=np.int32),
        input_dim=n_dense + int(levels.sum()),
    )
    mode: Any = draw.choice(MODES)
    width, depth = int(draw.choice([1, 3, 8, 31, 64, 257])), int(draw.integers(1, 4))
    n_members, n_outputs = int(draw.integers(1, 4)), int(draw.integers(1, 6))
    n_rows = int(draw.choice([1, 3, 4, 31, 33, 255, 257, 1_100]))
    said = f"{n_rows} rows, {n_members} {mode} of {layout.input_dim} x {width}, {n_outputs} outputs"
    if layout.input_dim == 0:
        return "no inputs"
    models = [
        build_model(layout.input_dim, n_outputs, mode, width, depth, 0.0) for _ in range(n_members)
    ]
    states = [{k: v.numpy() for k, v in model.state_dict().items()} for model in models]
    network = FoldedNetwork(states, layout)
    n_codes = max([n_categories, *(block.stop for block in cycles)])
    numeric = random_rows(draw, n_rows, n_numeric)
    numeric[np.isinf(numeric)] = 0.0
    codes = draw.integers(-2, 12, (n_rows, n_codes)).astype(np.int32)
    encoded = network.logits(Compact(numeric, codes))
    dense = network.logits(draw.normal(size=(n_rows, layout.input_dim)).astype(np.float32))
    if not (np.isfinite(encoded).all() and np.isfinite(dense).all()):
        raise SystemExit(f"not finite: {said}")
    return said


def grow_trees(draw: np.random.Generator) -> str:
    """Boosted oblivious trees on random rows, as NumPy grows them; what they were."""
    n_rows, n_features = int(draw.choice([2, 3, 40, 257, 700])), int(draw.integers(1, 7))
    target = draw.integers(0, 2, n_rows)
    target[:2] = 0, 1
    problem = Problem(
        values=random_rows(draw, n_rows, n_features).astype(np.float64),
        categorical=np.zeros(n_features, dtype=bool),
        target=target,
        weight=draw.random(n_rows) + 0.01 if draw.random() < 0.5 else None,
        n_classes=2,
        random_state=int(draw.integers(0, 1_000)),
        n_threads=1,
    )
    said = f"trees of {n_rows} rows x {n_features}"
    grown = ObliviousBoosting().fit(problem, 5).model.to_arrays()
    with patch.object(oblivious, "instruction_sets", dict):
        expected = ObliviousBoosting().fit(problem, 5).model.to_arrays()
    if any(not np.array_equal(array, expected[name]) for name, array in grown.items()):
        raise SystemExit(f"not the trees of NumPy: {said}")
    return said


def work(seconds: float, seed: int) -> None:
    """Networks and trees for so long, by every instruction set in turns."""
    import torch

    from tabwright.training.engine import compiled_kernels as kernels
    from tabwright.training.engine import compiled_steps

    draw, sets = random.Random(seed), kernels._instruction_sets()
    rng, predicting = np.random.default_rng(seed), functions.instruction_sets()
    torch.manual_seed(seed)
    compiled_steps._WORTH_A_THREAD = compiled_steps._WORTH_SHARING = 0
    n_networks, started = 0, time.monotonic()
    while time.monotonic() - started < seconds or n_networks < 4 * len(sets):
        for name, addresses in sets.items():
            own = {name: addresses}
            kernels._instruction_sets = lambda own=own: own  # type: ignore[assignment]
            kernels.compiled_kernels.cache_clear()
            print(f"{name}: {train_one(draw)}")
            own_set = {name: predicting[name]}
            functions.instruction_sets = lambda own=own_set: own  # type: ignore[assignment]
            for _ in range(5):
                print(f"{name}: {ask_trees(rng)}")
                print(f"{name}: {grow_trees(rng)}")
                if "network_scores" in predicting[name]:
                    print(f"{name}: {ask_networks(rng)}")
            n_networks += 1
    print(f"{n_networks} networks by {', '.join(sets)}: no report")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", choices=("work", "overstep"), help=argparse.SUPPRESS)
    parser.add_argument("--modules", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        load(arguments.modules)
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
        build(compiler, Path(folder))
        environment = {
            **os.environ,
            "LD_PRELOAD": runtime,
            # Python and torch keep memory until the end on purpose.
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "campaigns.sanitize_kernels", "--modules", folder]
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
