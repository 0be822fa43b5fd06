"""How fast and lean a table is encoded, beside scikit-learn's nearest equivalent.

    python -m benchmarks.encoding [--rows N] [--repeats N] [--threads N] [--output FILE]

A generated table of 50 columns: 30 of numbers (some with missing cells, heavy tails, counts, many
zeros), 15 of categories (3 to 3,000 levels, some with missing cells), 5 of booleans. Tabwright
infers the roles, fits and transforms to the compact form; scikit-learn's `ColumnTransformer` is
told the columns, and imputes, maps to normal scores and one-hot encodes with rare levels pooled.
Every run is a process of its own, which makes the table first; its peak memory counts from there.
Contenders take turns. Then, in one process: what `expand` costs a batch beside a training step of
the network that takes it, and what one row costs.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from tabwright.encoding.encoder import TableEncoder

N_NUMBERS, N_CATEGORIES, N_BOOLEANS = 30, 15, 5
ENCODINGS = ("tree_ple", "quantile_ple", "quantile_normal")
SCIKIT_LEARN = "scikit-learn"
LEVELS = (3, 5, 8, 12, 20, 30, 40, 50, 80, 120, 200, 400, 800, 1_500, 3_000)


# ---------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------


def number_columns(n_rows: int) -> dict[str, np.ndarray]:
    """Float64 columns; NaN is missing."""
    draw = np.random.default_rng(0)
    columns = {}
    for k in range(N_NUMBERS):
        make: Callable[[], np.ndarray] = (
            lambda: draw.normal(size=n_rows),
            lambda: draw.lognormal(3.0, 1.5, n_rows).round(2),
            lambda: draw.poisson(4.0, n_rows).astype(np.float64),
            lambda: draw.integers(0, 10_000, n_rows).astype(np.float64),
            lambda: np.where(draw.random(n_rows) < 0.7, 0.0, draw.exponential(size=n_rows)),
        )[k % 5]
        values = make()
        if k % 3 == 0:
            values[draw.random(n_rows) < 0.08] = np.nan
        columns[f"number_{k}"] = values
    return columns


def level_codes(n_rows: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each category column the levels, and of which each row is; -1 is missing."""
    draw = np.random.default_rng(1)
    columns = {}
    for k, n_levels in enumerate(LEVELS):
        share = 1.0 / np.arange(1, n_levels + 1)
        codes = draw.choice(n_levels, n_rows, p=share / share.sum()).astype(np.int32)
        if k % 4 == 0:
            codes[draw.random(n_rows) < 0.05] = -1
        columns[f"category_{k}"] = (np.array([f"level {i}" for i in range(n_levels)]), codes)
    return columns


def boolean_columns(n_rows: int) -> dict[str, np.ndarray]:
    """Bool columns."""
    draw = np.random.default_rng(2)
    return {f"boolean_{k}": draw.random(n_rows) < 0.1 * (k + 1) for k in range(N_BOOLEANS)}


def target(n_rows: int) -> np.ndarray:
    """Class codes of two classes."""
    return np.random.default_rng(3).integers(0, 2, n_rows)


def polars_table(n_rows: int) -> pl.DataFrame:
    """The table as Tabwright holds it."""
    import polars as pl

    columns = [pl.Series(n, v, nan_to_null=True) for n, v in number_columns(n_rows).items()]
    for name, (levels, codes) in level_codes(n_rows).items():
        index = pl.Series(codes)
        texts = pl.Series(levels.tolist()).gather(index.set(index < 0, None))
        columns.append(texts.alias(name))
    columns += [pl.Series(name, values) for name, values in boolean_columns(n_rows).items()]
    return pl.DataFrame(columns).rechunk()


def pandas_table(n_rows: int) -> pd.DataFrame:
    """The table as scikit-learn is given it; text as objects, which it encodes fastest."""
    import pandas as pd

    columns: dict[str, Any] = dict(number_columns(n_rows))
    for name, (levels, codes) in level_codes(n_rows).items():
        texts = np.append(levels.astype(object), np.nan)
        columns[name] = pd.Series(texts[codes], dtype=object)
    return pd.DataFrame({**columns, **boolean_columns(n_rows)})


# ---------------------------------------------------------------------------------------------
# The contenders, each in a process of its own
# ---------------------------------------------------------------------------------------------


def fitted(frame: pl.DataFrame, encoding: str) -> tuple[TableEncoder, Any]:
    """An encoder and the compact form, from the frame on."""
    from tabwright.encoding.encoder import TableEncoder
    from tabwright.encoding.plan_fit import RowsToFit
    from tabwright.tables import profile_table

    encoder = TableEncoder(encoding)  # type: ignore[arg-type]
    compact = encoder.fit_transform(
        RowsToFit(frame, profile_table(frame), target(len(frame)), "classification")
    )
    return encoder, compact


def scikit_learn(frame: pd.DataFrame) -> Any:
    """The nearest equivalent, with its own defaults where it has them."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, QuantileTransformer

    names = [str(name) for name in frame.columns]
    numbers = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True),
        QuantileTransformer(output_distribution="normal", random_state=0),
    )
    categories = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="missing"),
        OneHotEncoder(
            handle_unknown="infrequent_if_exist",
            min_frequency=10,
            max_categories=51,
            dtype=np.float32,
        ),
    )
    model = ColumnTransformer(
        [
            ("numbers", numbers, [name for name in names if name.startswith("number")]),
            ("categories", categories, [name for name in names if name.startswith("category")]),
            ("booleans", "passthrough", [name for name in names if name.startswith("boolean")]),
        ]
    )
    return model.fit_transform(frame)


def peak_bytes() -> int:
    """The most memory this process has held."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Give back what making the table left over, and count the peak from here (Linux)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def worker(name: str, n_rows: int) -> None:
    """Run one contender; print seconds and bytes as JSON."""
    run: Callable[[], Any]
    if name == SCIKIT_LEARN:
        table = pandas_table(n_rows)
        scikit_learn(table.head(1_000))
        run = lambda: scikit_learn(table)  # noqa: E731
    else:
        frame = polars_table(n_rows)
        fitted(frame.head(1_000), name)
        run = lambda: fitted(frame, name)  # noqa: E731
    forget_peak()
    held = peak_bytes()
    started, worked = time.perf_counter(), time.process_time()
    result = run()
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    peak = peak_bytes() - held
    print(json.dumps({"seconds": seconds, "cpu": cpu, "bytes": peak, "kept": _size(result)}))


def _size(result: Any) -> int:
    if isinstance(result, tuple):
        return int(result[1].numeric.nbytes + result[1].codes.nbytes)
    parts = [result] if isinstance(result, np.ndarray) else [result.data, result.indices]
    return sum(int(part.nbytes) for part in parts)


def measure(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One run of a contender in a fresh process."""
    threads = str(arguments.threads)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.encoding",
            "--worker",
            name,
            "--rows",
            str(arguments.rows),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": threads, "POLARS_MAX_THREADS": threads},
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# ---------------------------------------------------------------------------------------------
# A batch, a row
# ---------------------------------------------------------------------------------------------


def median_seconds(step: Callable[[], object], seconds: float) -> float:
    """Median time of a call, over about so many seconds, at least 5 calls."""
    step()
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(times) < 5:
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def batch_costs(frame: pl.DataFrame, encoding: str, batch: int, seconds: float) -> dict[str, float]:
    """Milliseconds of `expand` in torch and of a training step at 256x3, in turns."""
    import torch

    from ai.ml.frameworks.pytorch.models import build_model
    from tabwright.training.engine.stacked_members import StackedMembers
    from tabwright.training.objectives import Objective

    encoder, compact = fitted(frame, encoding)
    numeric, codes = torch.from_numpy(compact.numeric), torch.from_numpy(compact.codes)
    expand = encoder.torch_expander("cpu")
    model = build_model(encoder.input_dim, 2, "mlp_dense", 256, 3, 0.1)
    members = StackedMembers([model], seeds=[0], n_threads=torch.get_num_threads())
    objective = Objective(torch.from_numpy(target(len(frame))))
    draw = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(frame), generator=draw)[:batch]
    inputs = expand(numeric[rows], codes[rows])

    def widen() -> None:
        expand(numeric.index_select(0, rows), codes.index_select(0, rows))

    def step() -> None:
        members.forward_backward(inputs, partial(objective.gradient, rows=rows), step=0)
        members.optimizer_step(1e-3, 0.01)

    found: dict[str, list[float]] = {"expand": [], "step": []}
    for _ in range(5):
        found["expand"].append(median_seconds(widen, seconds / 5))
        found["step"].append(median_seconds(step, seconds / 5))
    medians = {name: 1e3 * statistics.median(times) for name, times in found.items()}
    return {"input_dim": float(encoder.input_dim), **medians}


def row_microseconds(frame: pl.DataFrame, encoding: str, seconds: float) -> float:
    """Median time to transform and expand a dict."""
    encoder, _ = fitted(frame, encoding)
    rows = frame.head(64).to_dicts()
    position = 0

    def encode() -> None:
        nonlocal position
        position = (position + 1) % len(rows)
        encoder.expand(encoder.row(rows[position]))

    return 1e6 * median_seconds(encode, seconds)


# ---------------------------------------------------------------------------------------------
# Results
# ---------------------------------------------------------------------------------------------


def hardware(threads: int) -> dict[str, str | int | None]:
    """Machine and versions."""
    cpu = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(": ")[1] for line in lines if "model name" in line), cpu)
    names = ("polars", "numpy", "scikit-learn", "pandas", "torch")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def spread(values: list[float]) -> str:
    """Range in percent of the median."""
    return f"{(max(values) - min(values)) / statistics.median(values):.0%}"


def show_tables(runs: dict[str, list[dict[str, float]]], n_rows: int, console: Console) -> None:
    """Seconds and memory of the contenders."""
    table = Table(title=f"fit + transform, {n_rows:,} rows x 50 columns")
    headings = ("", "seconds", "spread", "times as fast", "CPU s", "peak MB", "of its peak", "kept")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    median = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for name, found in runs.items()
    }
    other = median[SCIKIT_LEARN]
    for name, own in median.items():
        table.add_row(
            name,
            f"{own['seconds']:.2f}",
            spread([run["seconds"] for run in runs[name]]),
            f"{other['seconds'] / own['seconds']:.2f}",
            f"{own['cpu']:.2f}",
            f"{own['bytes'] / 1e6:.0f}",
            f"{own['bytes'] / max(other['bytes'], 1.0):.2f}",
            f"{own['kept'] / 1e6:.0f} MB",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of polars, NumPy and torch")
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timing of a batch")
    parser.add_argument("--output", type=Path, help="append a JSON line here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        worker(arguments.worker, arguments.rows)
        return
    console, machine = Console(width=100), hardware(arguments.threads)
    console.print(machine)
    names = (SCIKIT_LEARN, *ENCODINGS)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(arguments.repeats):
        for name in names:
            runs[name].append(measure(name, arguments))
    show_tables(runs, arguments.rows, console)

    import torch

    torch.set_num_threads(arguments.threads)
    frame = polars_table(min(arguments.rows, 50_000))
    table = Table(title="expand beside the training step of an MLP 256x3, one batch")
    for heading in ("", "batch", "inputs", "expand ms", "step ms", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    costs: list[dict[str, Any]] = []
    for name in ENCODINGS:
        for batch in arguments.batches:
            cost = batch_costs(frame, name, batch, arguments.seconds)
            costs.append({"encoding": name, "batch": batch, **cost})
            table.add_row(
                name,
                str(batch),
                f"{cost['input_dim']:.0f}",
                f"{cost['expand']:.3f}",
                f"{cost['step']:.3f}",
                f"{cost['expand'] / cost['step']:.3f}",
            )
    console.print(table)
    rows = {name: row_microseconds(frame, name, arguments.seconds) for name in ENCODINGS}
    console.print({f"one row, {name}, microseconds": round(us, 1) for name, us in rows.items()})
    if arguments.output is not None:
        line = {"rows": arguments.rows, "machine": machine, "runs": runs, "batches": costs}
        with arguments.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "row_us": rows}) + "\n")


if __name__ == "__main__":
    main()
