"""What importing, asking for help and a first prediction cost, each time in a fresh interpreter.

    python -m benchmarks.imports [--repeats 15] [--output FILE]

Every case is a process of its own, timed from start to end; all cases take turns, so that a slower
machine is slower for all. The table has medians, the spread between the quartiles, and what a case
costs beyond the one it stands on, with the limit that the design sets.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from benchmarks.train_throughput import hardware
from tabwright import TabularClassifier

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "tabwright"


class Case(NamedTuple):
    """A program, the case whose cost is taken off, and how many seconds may be left."""

    name: str
    code: str
    over: str | None = None
    limit: float | None = None


BARE = "Python alone"
TORCH = "import torch"
THREE = "import torch, sklearn.base, polars"
ROW = "{'size': 0.5, 'kind': 'a', 'open': True}"


def cases(model: Path, onnx: Path | None) -> list[Case]:
    """All of them; `onnx` None: ONNX Runtime is not installed."""

    def command(*words: str) -> str:
        return (
            f"import sys\nfrom {PACKAGE}.cli.app import main\n"
            f"sys.argv = {['tabwright', *words]!r}\n"
            "main()"
        )

    load = f"from {PACKAGE} import load_fitted, Predictor\n"
    found = [
        Case(BARE, ""),
        Case("import numpy", "import numpy", BARE),
        Case("import polars", "import polars", BARE),
        Case(TORCH, "import torch", BARE),
        Case(THREE, "import torch, sklearn.base, polars", BARE),
        Case("the package", f"import {PACKAGE}", BARE, 0.05),
        Case("models", "import ai.ml.frameworks.pytorch.models", TORCH, 0.05),
        Case("TabularClassifier", f"from {PACKAGE} import TabularClassifier", THREE, 0.2),
        Case("tabwright --help", command("--help"), BARE),
        Case("tabwright inspect", command("inspect", str(model)), BARE),
        Case(
            "saved file to a first prediction, NumPy",
            f"{load}print(Predictor(load_fitted({str(model)!r})).predict_row({ROW}))",
            BARE,
        ),
        Case(
            "saved file to a first prediction, estimator",
            f"from {PACKAGE} import load_model\n"
            f"print(load_model({str(model)!r}).predict_proba([{ROW}]))",
            BARE,
        ),
    ]
    if onnx is not None:
        code = (
            "import numpy as np, onnxruntime\n"
            f"session = onnxruntime.InferenceSession({str(onnx)!r})\n"
            "cells = {'size': [[0.5]], 'kind': [['a']], 'open': [[1.0]]}\n"
            "feed = {name: np.array(cell, object if name == 'kind' else float)\n"
            "        for name, cell in cells.items()}\n"
            "print(session.run(None, feed))"
        )
        found.append(Case("ONNX file to a first prediction, ONNX Runtime", code, BARE))
    return found


def save_models(folder: Path) -> tuple[Path, Path | None]:
    """A small model as our file, and as an ONNX file where that can be written."""
    draw = np.random.default_rng(0)
    size = draw.normal(size=400)
    frame = pl.DataFrame(
        {"size": size, "kind": draw.choice(["a", "b"], 400), "open": draw.random(400) < 0.5}
    )
    model = TabularClassifier(max_epochs=2, n_members=1, hidden_dim=128, random_state=0)
    model.fit(frame, np.where(size > 0, "big", "small"))
    path = folder / "model.safetensors"
    model.save(path)
    try:
        version("onnx"), version("onnxruntime")
    except PackageNotFoundError:
        return path, None
    model.export_onnx(folder / "model.onnx", check_rows=1_000)
    return path, folder / "model.onnx"


def seconds(case: Case) -> float:
    """From the start of a process to its end."""
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    # Where no bytecode is written, every import compiles its sources: nobody's usual case.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", case.code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    elapsed = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{case.name} failed:\n{done.stderr}")
    return elapsed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, help="append one JSON line here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        chosen = cases(*save_models(Path(name)))
        times: dict[str, list[float]] = {case.name: [] for case in chosen}
        for case in chosen:  # files into the cache, and bytecode written
            seconds(case)
        for _ in range(arguments.repeats):
            for case in chosen:
                times[case.name].append(seconds(case))
    medians = {name: statistics.median(own) for name, own in times.items()}
    machine = {**hardware(), "polars": version("polars"), "platform": platform.platform()}
    console = Console(width=110)
    console.print(machine)
    table = Table(title=f"processes from start to end, median of {arguments.repeats}")
    for heading in ("", "seconds", "spread", "beyond", "costs", "limit"):
        table.add_column(heading, justify="right" if heading not in ("", "beyond") else "left")
    missed = []
    for case in chosen:
        low, _, high = (
            statistics.quantiles(times[case.name], n=4)
            if len(times[case.name]) > 1
            else times[case.name] * 3
        )
        cost = medians[case.name] - (medians[case.over] if case.over else 0.0)
        if case.limit is not None and cost > case.limit:
            missed.append(case.name)
        table.add_row(
            case.name,
            f"{medians[case.name]:.3f}",
            f"{(high - low) / medians[case.name]:.0%}",
            case.over or "",
            f"{cost:.3f}",
            "" if case.limit is None else f"{case.limit:g}",
        )
    console.print(table)
    for name in missed:
        console.print(f"over its limit: {name}")
    if arguments.output is not None:
        with arguments.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"machine": machine, "seconds": times}) + "\n")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
