"""How fast predictions are, as ratios to other libraries and to the matrix products alone.

    python -m benchmarks.inference [--peer-python PYTHON] [--output FILE]

A synthetic table of 15 columns: 10 numbers, 4 categories of 3 to 60 levels, one boolean; two
classes. Every network has the same width and depth. All contenders take turns, so that a slower
machine is slower for all; the tables have medians and the spread between the quartiles. One row
is a different row at each call. "One input a number" is `numeric_encoding="standard"`, whose
networks have as many inputs as scikit-learn's; the others have the default encoding. Peers need
an interpreter that has them (`--peer-python`); those it lacks are printed as absent. Everything
runs on `--threads` threads, polars included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from rich.console import Console
from rich.table import Table
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.inference_peer import MANY, N_TRAIN
from benchmarks.train_throughput import hardware
from tabwright import TabularClassifier
from tabwright.inference.numpy_network import FoldedNetwork
from tabwright.inference.predictor import Predictor

PEER = Path(__file__).with_name("inference_peer.py")
PEER_NAMES = ("pytabkit RealMLP_TD_S", "pytabkit MLP_RTDL", "pytorch_tabular")
LEVELS = (3, 8, 20, 60)
CATEGORIES = [f"c{k}" for k in range(len(LEVELS))]
NUMBERS = [f"x{k}" for k in range(10)]
ONE_ROWS = 64
Call = Callable[[], object]


def make_table(n_rows: int, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    """The columns, and the labels."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n_rows, len(NUMBERS)))
    frame = pl.DataFrame(dict(zip(NUMBERS, x.T, strict=True))).with_columns(
        *(
            pl.Series(name, [f"level {k}" for k in draw.integers(0, n, n_rows)])
            for name, n in zip(CATEGORIES, LEVELS, strict=True)
        ),
        pl.Series("open", draw.random(n_rows) < 0.5),
    )
    score = x[:, 0] + x[:, 1] * x[:, 2] + (frame["c0"] == "level 1").to_numpy()
    return frame, np.where(score + draw.normal(size=n_rows) > 0, "yes", "no")


@dataclass
class Contender:
    """A call, and the seconds that each timing of it gave."""

    name: str
    call: Call
    target: str = ""
    """What the issue asks of ours against it."""
    seconds: list[float] = field(default_factory=list)

    def time(self, seconds: float) -> None:
        """Seconds per call, over about so many seconds."""
        started = time.perf_counter()
        n_calls = 0
        while (elapsed := time.perf_counter() - started) < seconds or n_calls < 2:
            self.call()
            n_calls += 1
        self.seconds.append(elapsed / n_calls)

    @property
    def median(self) -> float:
        """Seconds per call."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Between the quartiles, as a share of the median."""
        if len(self.seconds) < 3:
            return (max(self.seconds) - min(self.seconds)) / self.median
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / self.median


class Bench:
    """The models, fitted once, and the rows they are asked about."""

    def __init__(self, width: int, depth: int, n_members: int) -> None:
        self.frame, labels = make_table(max(MANY, N_TRAIN))
        self.labels = labels
        self.many = self.frame.head(MANY)
        self.many_pandas = self.many.to_pandas()
        train, y = self.frame.head(N_TRAIN), labels[:N_TRAIN]
        self.ours = TabularClassifier(
            hidden_dim=width,
            num_hidden_layers=depth,
            n_members=n_members,
            # Networks alone, as a student of `distill` is.
            quality="fast",
            max_epochs=3,
            device="cpu",
            random_state=0,
        ).fit(train, y)
        self.predictor = Predictor(self.ours.model_)
        self.plain = clone(self.ours).set_params(numeric_encoding="standard").fit(train, y)
        self.pipeline = make_pipeline(
            make_column_transformer(
                (StandardScaler(), NUMBERS),
                (
                    OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                    [*CATEGORIES, "open"],
                ),
            ),
            MLPClassifier((width,) * depth, max_iter=5, random_state=0),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.pipeline.fit(train.to_pandas(), y)
        encoder = self.ours.model_.encoder
        self.encoded = encoder.expand(encoder.transform(self.many))
        self.encoded_train, self.y = self.encoded[:N_TRAIN], y
        self.network = FoldedNetwork(self.ours.model_.members)

    def rows_of(self, rows: list[Any]) -> Callable[[], Any]:
        """Another row at each call."""
        return itertools.cycle(rows).__next__

    def one_raw_row(self) -> list[Contender]:
        """A dict or a frame of one row to probabilities."""
        dicts = self.rows_of(list(self.many.head(ONE_ROWS).iter_rows(named=True)))
        frames = self.rows_of([self.many[i : i + 1] for i in range(ONE_ROWS)])
        pandas = self.rows_of([self.many_pandas.iloc[[i]] for i in range(ONE_ROWS)])
        predict, estimator = self.predictor.predict_row, self.ours.predict_proba
        pipeline = self.pipeline.predict_proba
        return [
            Contender("tabwright, dict", lambda: predict(dicts())),
            Contender("tabwright, polars frame", lambda: estimator(frames())),
            Contender("tabwright, pandas frame", lambda: estimator(pandas())),
            Contender("scikit-learn pipeline, pandas frame", lambda: pipeline(pandas()), "20"),
            Contender(
                "scikit-learn pipeline, dict",
                lambda: pipeline(pd.DataFrame([dicts()])),
                "20",
            ),
        ]

    def one_encoded_row(self, threads: int) -> list[Contender]:
        """A row of network inputs to probabilities."""
        rows = self.rows_of([self.encoded[i : i + 1].copy() for i in range(ONE_ROWS)])
        network, calibrated = self.network.probabilities, self.predictor.calibrated
        mlp = self.pipeline[-1]
        found = [Contender("tabwright", lambda: calibrated(network(rows())))]
        sizes = {n: m for n, m in self._trees(threads).items() if m is not None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = MLPClassifier(mlp.hidden_layer_sizes, max_iter=2, random_state=0)
            plain.fit(self.encoded_train, self.y)
            for model in sizes.values():
                model.fit(self.encoded_train, (self.y == "yes").astype(np.int64))
        found.append(Contender("scikit-learn MLP", lambda: plain.predict_proba(rows())))
        targets = {"random forest": "100", "LightGBM": "25", "XGBoost": "25", "CatBoost": "10"}
        for name, model in sizes.items():

            def call(predict: Callable[[Any], object] = model.predict_proba) -> object:
                return predict(rows())

            found.append(Contender(name, call, targets[name]))
        return found

    def _trees(self, threads: int) -> dict[str, Any]:
        models: dict[str, Any] = {
            "random forest": RandomForestClassifier(
                120, max_depth=8, n_jobs=threads if threads > 1 else None, random_state=0
            )
        }
        try:
            import lightgbm

            models["LightGBM"] = lightgbm.LGBMClassifier(
                n_estimators=100, n_jobs=threads, verbose=-1
            )
        except ImportError:
            print("LightGBM is absent", file=sys.stderr)
        try:
            import xgboost

            models["XGBoost"] = xgboost.XGBClassifier(n_estimators=100, n_jobs=threads)
        except ImportError:
            print("XGBoost is absent", file=sys.stderr)
        try:
            import catboost

            models["CatBoost"] = catboost.CatBoostClassifier(
                iterations=100, thread_count=threads, verbose=False, allow_writing_files=False
            )
        except ImportError:
            print("CatBoost is absent", file=sys.stderr)
        return models

    def many_encoded_rows(self) -> list[Contender]:
        """The network part, and its products alone."""
        x = self.encoded
        return [
            Contender("tabwright, network", lambda: self.network.probabilities(x)),
            Contender("matrix products alone, whole", products_of(self.network, x, len(x)), "<= 2"),
            Contender(
                "matrix products alone, in our blocks",
                products_of(self.network, x, self.network.block_rows),
            ),
        ]

    def many_raw_rows(self) -> list[Contender]:
        """A table to probabilities."""
        predict, pipeline = self.ours.predict_proba, self.pipeline.predict_proba
        plain = self.plain.predict_proba
        return [
            Contender("tabwright, polars frame", lambda: predict(self.many)),
            Contender("tabwright, pandas frame", lambda: predict(self.many_pandas)),
            Contender("tabwright, one input a number", lambda: plain(self.many)),
            Contender(
                "scikit-learn pipeline, pandas frame", lambda: pipeline(self.many_pandas), "2"
            ),
        ]


def products_of(network: FoldedNetwork, x: np.ndarray, block: int) -> Call:
    """The matrix products of all members and nothing else, over blocks of rows."""
    k, width = network.n_members, network.hidden_dim
    layers = network.layers
    assert layers.head is not None
    rest = [*layers.hidden, layers.head]
    outputs = [
        np.empty((block, k * width), dtype=np.float32),
        *(np.empty((k, block, layer.weight.shape[-1]), dtype=np.float32) for layer in rest),
    ]
    inputs = [outputs[0].reshape(block, k, width).transpose(1, 0, 2), *outputs[1:]]

    def call() -> None:
        for start in range(0, len(x), block):
            part = x[start : start + block]
            n = len(part)
            np.matmul(part, layers.first.weight, out=outputs[0][:n])
            for before, layer, after in zip(inputs, rest, outputs[1:], strict=False):
                np.matmul(before[:, :n], layer.weight, out=after[:, :n])

    return call


def run_in_turns(contenders: list[Contender], repeats: int, seconds: float) -> None:
    """Time them all, one after the other, `repeats` times."""
    for contender in contenders:
        contender.call()
        contender.call()
    for _ in range(repeats):
        for contender in contenders:
            contender.time(seconds)


def peer_times(name: str, table: Path, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """What a peer took, or None where the interpreter lacks it."""
    if arguments.peer_python is None:
        return None
    sizes = (table, arguments.width, arguments.depth, arguments.seconds, arguments.repeats)
    done = subprocess.run(
        [arguments.peer_python, str(PEER), name, *map(str, sizes)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(arguments.threads)},
    )
    if done.returncode:
        print(f"{name} is left out: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(
    title: str,
    contenders: list[Contender],
    absent: list[str],
    console: Console,
    *,
    ours: list[str],
    rows: int,
) -> None:
    """One table: every contender's time as a multiple of that of each of `ours`."""
    medians = {contender.name: contender.median for contender in contenders}
    table = Table(title=title)
    table.add_column("")
    unit = "µs" if rows == 1 else "ms"
    for heading in (unit, "thousand rows/s", "spread", *(f"/ {name}" for name in ours), "target"):
        table.add_column(heading, justify="right")
    for contender in contenders:
        table.add_row(
            contender.name,
            f"{contender.median * (1e6 if rows == 1 else 1e3):.1f}",
            f"{rows / contender.median / 1e3:.1f}",
            f"{contender.spread:.0%}",
            *(f"{contender.median / medians[name]:.2f}" for name in ours),
            contender.target,
        )
    for name in absent:
        table.add_row(name, "absent", *[""] * (3 + len(ours)))
    console.print(table)


def versions() -> dict[str, str]:
    """Of the libraries that are here."""
    found = {}
    for name in ("polars", "pandas", "lightgbm", "xgboost-cpu", "xgboost", "catboost"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def measure(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All four tables for one number of members."""
    bench = Bench(arguments.width, arguments.depth, arguments.members)
    raw, many = bench.one_raw_row(), bench.many_raw_rows()
    encoded, network = bench.one_encoded_row(arguments.threads), bench.many_encoded_rows()
    for contenders in (raw, encoded, network, many):
        run_in_turns(contenders, arguments.repeats, arguments.seconds)
    absent = []
    peers = {}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        bench.frame.with_columns(outcome=pl.Series(bench.labels)).write_csv(table)
        for name in arguments.peers:
            found = peer_times(name, table, arguments)
            if found is None:
                absent.append(name)
                continue
            peers[name] = {"version": found["version"], "torch": found["torch"]}
            raw.append(Contender(name, print, "20", found["one_row"]))
            many.append(Contender(name, print, "", found["many"]))
    if peers:
        console.print(peers)
    size = (
        f"{arguments.members} x {arguments.width}x{arguments.depth}, "
        f"{bench.encoded.shape[1]} inputs, threads {arguments.threads}"
    )
    ours = [contender.name for contender in raw[:3]]
    show(f"one raw row ({size})", raw, absent, console, ours=ours, rows=1)
    show(f"one encoded row ({size})", encoded, [], console, ours=["tabwright"], rows=1)
    bounds = [contender.name for contender in network[1:]]
    show(f"{MANY:,} encoded rows ({size})", network, [], console, ours=bounds, rows=MANY)
    ours = [contender.name for contender in many[:3]]
    show(f"{MANY:,} raw rows ({size})", many, absent, console, ours=ours, rows=MANY)
    tables = {"raw": raw, "encoded": encoded, "network": network, "many": many}
    return {
        "size": size,
        "peers": peers,
        "seconds": {name: {c.name: c.seconds for c in own} for name, own in tables.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each timing")
    parser.add_argument("--peers", nargs="*", choices=PEER_NAMES, default=list(PEER_NAMES))
    parser.add_argument("--peer-python", default=os.environ.get("TABWRIGHT_PEER_PYTHON"))
    parser.add_argument("--output", type=Path, help="append one JSON line here")
    arguments = parser.parse_args()
    threads = str(arguments.threads)
    wanted = {"POLARS_MAX_THREADS": threads, "OMP_NUM_THREADS": threads}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        # polars reads its number of threads once, when it is imported.
        command = [sys.executable, "-m", "benchmarks.inference", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **wanted})
    console, machine = Console(width=120), {**hardware(), **versions()}
    console.print(machine)
    with threadpool_limits(arguments.threads):
        found = measure(arguments, console)
    if arguments.output is not None:
        with arguments.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"machine": machine, **found}) + "\n")


if __name__ == "__main__":
    main()
