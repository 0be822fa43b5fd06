"""Requests per second and latency on loopback: `python -m benchmarks.serving`.

The same model behind `tabwright serve` (both protocols), behind `mlflow models serve`, and as an
ONNX graph behind Starlette and uvicorn. One client on one connection asks for one row and for 100
rows; each contender has the same number of seconds, after a warm-up. Run it on a quiet machine:
client and server share its cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

import tabwright.mlflow
from benchmarks.encoding import hardware
from tabwright import TabularClassifier
from tabwright.export.onnx import export_onnx
from tests.serving.servers import ROOT, serving

SIZES = (1, 100)
_WARM_UP = 50


class Target(NamedTuple):
    """Where a contender answers, and the body for so many rows."""

    name: str
    port: int
    path: str
    bodies: dict[int, bytes]


def small_model(folder: Path) -> tuple[Path, pl.DataFrame]:
    """A fitted model on ten columns, one of them text, as a file; and its rows."""
    draw = np.random.default_rng(0)
    numbers = draw.normal(size=(2_000, 9))
    frame = pl.DataFrame(numbers, schema=[f"x{i}" for i in range(9)]).with_columns(
        kind=pl.Series(draw.choice(["red", "green", "blue"], 2_000))
    )
    model = TabularClassifier(random_state=0, max_epochs=5)
    model.fit(frame, np.where(numbers[:, 0] + numbers[:, 1] > 0, "yes", "no"))
    path = folder / "model.safetensors"
    model.save(path)
    tabwright.mlflow.save_model(model, folder / "mlflow", input_example=frame.head(2).to_dicts())
    export_onnx(model.model_, folder / "model.onnx", check_rows=1_000)
    return path, frame


@contextlib.contextmanager
def started(words: list[str], port: int, log: Path) -> Iterator[None]:
    """A server of another kind, until the block ends."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": path}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *words],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no server came up: {log.read_text()}")
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                time.sleep(0.2)
            else:
                break
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def latencies(target: Target, n_rows: int, seconds: float) -> np.ndarray:
    """Seconds of each request, one after the other, over one connection."""
    connection = HTTPConnection("127.0.0.1", target.port, timeout=60)
    headers = {"Content-Type": "application/json"}
    found: list[float] = []
    end = np.inf
    while time.perf_counter() < end:
        start = time.perf_counter()
        connection.request("POST", target.path, target.bodies[n_rows], headers)
        response = connection.getresponse()
        answer = response.read()
        found.append(time.perf_counter() - start)
        if response.status != 200:
            raise RuntimeError(f"{target.name}: {response.status} {answer[:300]!r}")
        if len(found) == _WARM_UP:
            end = time.perf_counter() + seconds
    connection.close()
    return np.array(found[_WARM_UP:])


def bodies(frame: pl.DataFrame) -> dict[str, dict[int, bytes]]:
    """What each protocol sends, by number of rows."""
    found: dict[str, dict[int, bytes]] = {"rows": {}, "tensors": {}, "mlflow": {}}
    for n_rows in SIZES:
        part = frame.head(n_rows)
        tensors = [
            {
                "name": series.name,
                "shape": [n_rows],
                "datatype": "BYTES" if series.dtype == pl.String else "FP64",
                "data": series.to_list(),
            }
            for series in part
        ]
        split = {"columns": part.columns, "data": [list(row) for row in part.rows()]}
        found["rows"][n_rows] = json.dumps({"rows": part.to_dicts()}).encode()
        found["tensors"][n_rows] = json.dumps({"inputs": tensors}).encode()
        found["mlflow"][n_rows] = json.dumps({"dataframe_split": split}).encode()
    return found


def measure(seconds: float) -> list[dict[str, Any]]:
    """Every contender at every size, in turn."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        path, frame = small_model(folder)
        sent = bodies(frame)
        port, mlflow_port = free_port(), free_port()
        onnx = ["-m", "benchmarks.onnx_server", str(folder / "model.onnx"), str(port)]
        mlflow = ["-m", "mlflow", "models", "serve", "-m", str(folder / "mlflow")]
        mlflow += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(mlflow_port)]
        own = stack.enter_context(serving(str(path)))
        stack.enter_context(started(onnx, port, folder / "onnx.log"))
        stack.enter_context(started(mlflow, mlflow_port, folder / "mlflow.log"))
        own_port = own.endpoint[1]
        assert own_port is not None
        targets = [
            Target("tabwright serve, rows", own_port, "/v1/models/model/predict", sent["rows"]),
            Target("tabwright serve, v2", own_port, "/v2/models/model/infer", sent["tensors"]),
            Target("onnxruntime, Starlette", port, "/predict", sent["rows"]),
            Target("mlflow models serve", mlflow_port, "/invocations", sent["mlflow"]),
        ]
        results = []
        for n_rows in SIZES:
            for target in targets:
                taken = latencies(target, n_rows, seconds)
                results.append(
                    {
                        "server": target.name,
                        "rows": n_rows,
                        "requests": len(taken),
                        "per_second": len(taken) / float(taken.sum()),
                        "p50_ms": 1e3 * float(np.quantile(taken, 0.5)),
                        "p99_ms": 1e3 * float(np.quantile(taken, 0.99)),
                    }
                )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each of eight timings")
    parser.add_argument("--output", type=Path, help="append one JSON line here")
    arguments = parser.parse_args()
    console = Console(width=110)
    machine = hardware(1)
    console.print(machine)
    results = measure(arguments.seconds)
    table = Table(title="one client, one connection, loopback")
    for heading in ("server", "rows", "requests/s", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="left" if heading == "server" else "right")
    for own in results:
        times = (f"{own[key]:.2f}" for key in ("p50_ms", "p99_ms"))
        table.add_row(own["server"], str(own["rows"]), f"{own['per_second']:,.0f}", *times)
    console.print(table)
    if arguments.output is not None:
        with arguments.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"machine": machine, "results": results}) + "\n")


if __name__ == "__main__":
    main()
