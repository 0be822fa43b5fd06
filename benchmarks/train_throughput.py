"""How many rows a second are trained on, as ratios to the matrix products alone and to others.

    python -m benchmarks.train_throughput [--peers-python PYTHON] [--device cuda] [--output FILE]

100,000 rows of 64 standard normal inputs, two classes, dropout 0.1, AdamW. All contenders of a
setting are timed in turns, so that a slower machine is slower for all; the table has medians and
the spread between the quartiles. Members' rates count every member's rows. Peers need an
interpreter that has them (`--peers-python`, by default this one); those it lacks are left out.
Members train by compiled steps and by PyTorch alone; on a CUDA device by the latter, and what
trains on a CPU is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from ai.ml.frameworks.pytorch.models import TrainingMode, build_model
from tabwright.settings import Precision
from tabwright.training.engine.compiled_kernels import has_compiled_kernels
from tabwright.training.engine.row_table import RowTable
from tabwright.training.engine.stacked_members import Engine, StackedMembers
from tabwright.training.objectives import Objective
from tabwright.training.running_loss import RunningLoss

N_ROWS, N_INPUTS, DROPOUT = 100_000, 64, 0.1
# Batches of one compiled call.
BLOCK = 16
PEER = Path(__file__).with_name("train_throughput_peer.py")
PEER_NAMES = (
    "skorch",
    "pytabkit MLP_RTDL",
    "pytabkit RealMLP_TD_S",
    "pytorch_tabular",
    "pytorch-frame",
)
BOUND, PLAIN = "matrix products alone", "index slices, fused AdamW"
Step = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """One column of the table."""

    mode: TrainingMode
    width: int
    depth: int
    batch: int
    threads: int

    def build(self) -> nn.Module:
        """A fresh network."""
        return build_model(N_INPUTS, 2, self.mode, self.width, self.depth, DROPOUT)

    @property
    def name(self) -> str:
        """For people."""
        kind = "TabResNet" if self.mode == "tabresnet" else "MLP"
        return f"{kind} {self.width}x{self.depth}, batch {self.batch}, threads {self.threads}"


class Data:
    """The table, and its rows in a random order, batch after batch."""

    def __init__(self, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(N_ROWS, N_INPUTS, generator=generator).to(device)
        self.y = (self.x[:, 0] + self.x[:, 1] * self.x[:, 2] > 0).long()

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.x.device

    def batches(self, batch: int) -> Iterator[Tensor]:
        """Endless."""
        while True:
            order = torch.randperm(N_ROWS).to(self.device)
            yield from (order[i : i + batch] for i in range(0, N_ROWS - batch + 1, batch))


def products(setting: Setting, data: Data) -> Step:
    """The matrix products of a step and nothing else: the bound."""
    shapes = [
        (layer.in_features, layer.out_features)
        for layer in setting.build().modules()
        if isinstance(layer, nn.Linear)
    ]
    with data.device:
        inputs = [torch.randn(setting.batch, width) for width, _ in shapes]
        outputs = [torch.randn(setting.batch, width) for _, width in shapes]
        weights = [torch.randn(height, width) for width, height in shapes]
    gradients = [torch.empty_like(weight) for weight in weights]

    def step() -> None:
        for x, weight, z in zip(inputs, weights, outputs, strict=True):
            torch.mm(x, weight.t(), out=z)
        for i in reversed(range(len(shapes))):
            torch.mm(outputs[i].t(), inputs[i], out=gradients[i])
            if i:
                torch.mm(outputs[i], weights[i], out=inputs[i])

    return step


def stacked(
    setting: Setting,
    data: Data,
    n_members: int,
    precision: Precision = "float32",
    engine: Engine = "auto",
) -> Step:
    """The fast step, as the trainer takes it: compiled ones a block at a time."""
    members = StackedMembers(
        [setting.build().to(data.device) for _ in range(n_members)],
        seeds=range(n_members),
        n_threads=setting.threads,
        precision=precision,
        engine=engine,
    )
    objective = Objective(data.y)
    batches = data.batches(setting.batch)
    number = 0
    if members.compiled is None:

        def step() -> None:
            nonlocal number
            rows = next(batches)
            x = data.x.index_select(0, rows)
            gradient = partial(objective.gradient, rows=rows)
            members.forward_backward(x, gradient, step=number)
            members.optimizer_step(1e-3, 0.01)
            number += 1

        return step
    table = RowTable.dense(data.x)
    sums, goal = RunningLoss().begin(n_members, data.device), objective.goal

    def run() -> None:
        nonlocal number
        rows = torch.stack([next(batches) for _ in range(BLOCK)])
        members.train_run(
            table,
            goal,
            rows,
            step=number,
            hide_keys=None,
            learning_rates=[1e-3] * BLOCK,
            weight_decay=0.01,
            loss_sums=sums,
        )
        number += BLOCK

    return run


def plain(setting: Setting, data: Data, *, fused: bool) -> Step:
    """The loop that one writes: index slices, autograd, one fused or foreach AdamW."""
    model = setting.build().to(data.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused, foreach=not fused)
    batches = data.batches(setting.batch)

    def step() -> None:
        rows = next(batches)
        loss = functional.cross_entropy(model(data.x[rows]), data.y[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def data_loader(setting: Setting, data: Data) -> Step:
    """The loop of the tutorials: a DataLoader, and AdamW as it comes."""
    model = setting.build().train()
    optimizer = torch.optim.AdamW(model.parameters())
    loader = DataLoader(TensorDataset(data.x, data.y), batch_size=setting.batch, shuffle=True)

    def endless() -> Iterator[list[Tensor]]:
        while True:
            yield from loader

    batches = endless()

    def step() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(model(x), y))
        optimizer.step()

    return step


def scikit_learn(setting: Setting, data: Data) -> Step:
    """scikit-learn's MLP, without batch norm and dropout: ten batches a call."""
    model = MLPClassifier((setting.width,) * setting.depth, batch_size=setting.batch)
    x, y = data.x[: 10 * setting.batch].numpy(), data.y[: 10 * setting.batch].numpy()

    def step() -> None:
        with threadpool_limits(setting.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.partial_fit(x, y, classes=np.arange(2))

    return step


@dataclass
class Contender:
    """A step, how many rows it trains on, and how many threads torch has meanwhile."""

    name: str
    step: Step
    rows: int
    threads: int

    def rate(self, seconds: float) -> float:
        """Rows per second, over about so many seconds."""
        with _threads(self.threads):
            self.step()
            _wait()
            started = time.perf_counter()
            n_steps = 0
            while time.perf_counter() - started < seconds or n_steps < 3:
                self.step()
                n_steps += 1
            _wait()
            elapsed = time.perf_counter() - started
        return n_steps * self.rows / elapsed


def _wait() -> None:
    """Until a CUDA device, where there is one, has done all that it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextlib.contextmanager
def _threads(n_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        # Those of SciPy's BLAS too, by which compiled steps multiply: the trainer does the same.
        with threadpool_limits(n_threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def contenders(
    setting: Setting, data: Data, member_counts: list[int], precisions: list[Precision]
) -> list[Contender]:
    """All that run in this process; the bound first."""
    batch, threads = setting.batch, setting.threads
    found = [Contender(BOUND, products(setting, data), batch, threads)]
    for k in member_counts:
        for precision in precisions:
            for engine in get_args(Engine):
                can_compile = precision == "float32" and data.device.type == "cpu"
                is_compiled = engine == "compiled"
                if engine == "auto" or (
                    is_compiled and not (can_compile and has_compiled_kernels())
                ):
                    continue
                name = f"{engine}, members {k}" + ", bfloat16" * (precision == "bfloat16")
                step = stacked(setting, data, k, precision, engine)
                found.append(Contender(name, step, k * batch * (BLOCK if is_compiled else 1), 1))
    found += [
        Contender(PLAIN, plain(setting, data, fused=True), batch, threads),
        Contender("index slices, foreach AdamW", plain(setting, data, fused=False), batch, threads),
    ]
    if data.device.type != "cpu":
        return found
    found.append(Contender("DataLoader, AdamW", data_loader(setting, data), batch, threads))
    if setting.mode == "mlp_dense":
        found.append(
            Contender("scikit-learn MLP", scikit_learn(setting, data), 10 * batch, threads)
        )
    return found


def peer_rate(name: str, setting: Setting, python: str) -> float | None:
    """Rows per second of another library, or None where the interpreter lacks it."""
    sizes = (setting.width, setting.depth, setting.batch, setting.threads, N_ROWS // 5)
    done = subprocess.run(
        [python, str(PEER), name, *map(str, sizes)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(setting.threads)},
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:]
        print(f"{name} is left out: {reason}", file=sys.stderr)
        return None
    return float(json.loads(done.stdout.splitlines()[-1])["rate"])


def measure(setting: Setting, data: Data, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Rates of all contenders, in turns."""
    chosen = contenders(setting, data, arguments.members, arguments.precisions)
    rates: dict[str, list[float]] = {contender.name: [] for contender in chosen}
    for contender in chosen:
        contender.rate(0.1)
    for _ in range(arguments.repeats):
        for contender in chosen:
            rates[contender.name].append(contender.rate(arguments.seconds))
    if setting.mode == "mlp_dense" and data.device.type == "cpu":
        for name in arguments.peers:
            found = [peer_rate(name, setting, arguments.peers_python) for _ in range(2)]
            if kept := [rate for rate in found if rate is not None]:
                rates[name] = kept
    return rates


def hardware(device: str = "cpu") -> dict[str, str | int | None]:
    """Machine and versions."""
    cpu = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(": ")[1] for line in lines if "model name" in line), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "scikit-learn")},
    }


def show(setting: Setting, rates: dict[str, list[float]], console: Console) -> None:
    """One table."""
    medians = {name: statistics.median(found) for name, found in rates.items()}
    table = Table(title=setting.name)
    for heading in ("", "thousand rows/s", "spread", "of the products", "of the plain loop"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, found in rates.items():
        low, *_, high = statistics.quantiles(found, n=4) if len(found) > 2 else sorted(found)
        table.add_row(
            name,
            f"{medians[name] / 1e3:.1f}",
            f"{(high - low) / medians[name]:.0%}",
            f"{medians[name] / medians[BOUND]:.3f}",
            f"{medians[name] / medians[PLAIN]:.2f}",
        )
    console.print(table)


def settings_of(arguments: argparse.Namespace) -> list[Setting]:
    """All columns."""
    sizes: list[tuple[TrainingMode, int, int]] = [
        ("mlp_dense", 128, 2),
        ("mlp_dense", 256, 3),
        ("tabresnet", 128, 2),
    ]
    return [
        Setting(mode, width, depth, batch, threads)
        for threads in arguments.threads
        for mode, width, depth in sizes
        for batch in arguments.batches
    ]


@contextlib.contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=get_args(Precision),
        default=list(get_args(Precision)),
        help="without instructions for bfloat16, a processor takes minutes over it",
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each timing")
    parser.add_argument("--peers", nargs="*", choices=PEER_NAMES, default=list(PEER_NAMES))
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--busy", type=int, default=0, help="processes that get in the way")
    parser.add_argument("--output", type=Path, help="append JSON lines here")
    arguments = parser.parse_args()
    data, console = Data(arguments.device), Console(width=100)
    machine = hardware(arguments.device)
    console.print(machine)
    with busy_neighbours(arguments.busy):
        for setting in settings_of(arguments):
            torch.manual_seed(0)
            rates = measure(setting, data, arguments)
            show(setting, rates, console)
            if arguments.output is not None:
                line = {**vars(setting), "busy": arguments.busy, "machine": machine, "rates": rates}
                with arguments.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
