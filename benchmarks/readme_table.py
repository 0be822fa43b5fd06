"""The table of the README: loss, time of a fit, size of a file and one prediction, in one run.

`python -m benchmarks.readme_table --peer-python PYTHON --write` fits four libraries at their
defaults on a few real tables, on one thread, prints the table and puts it into README.md between
its two markers. A file is what each library saves itself (RealMLP: its pickle). A prediction is one
row, prepared as the library takes it: a dict for Tabwright, a frame of one row for the others.
Run it on a quiet machine; benchmarks/README.md says how to make the environment of the peers,
without which RealMLP is left out. `--results FILE` keeps each measurement as it is made, and a
second run makes those that are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.contenders import PEERS, CatBoost, Job, Peer, Tabwright, find_contender
from benchmarks.row_splits import committed_split
from benchmarks.suite import score
from benchmarks.tables import load_table
from tabwright import Predictor

README = Path(__file__).resolve().parent.parent / "README.md"
START, END = "<!-- measured table -->", "<!-- end of the measured table -->"
CONTENDERS = {
    "Tabwright": "tabwright",
    "CatBoost": "catboost",
    "LightGBM": "lightgbm",
    "RealMLP (pytabkit, TD_S)": "pytabkit:RealMLP_TD_S",
}
Measured = dict[str, float]


def seconds_of(call: Callable[[int], object], repeats: int = 200) -> float:
    """Median seconds of a call, which is given the number of the repeat; three to warm up."""
    taken = []
    for number in range(-3, repeats):
        begun = time.perf_counter()
        call(abs(number))
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[3:])


def deployed(contender: Any, test: Any) -> Measured:
    """Size of the model's file and the time of one row, for a model of this process."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model"
        if isinstance(contender, Tabwright):
            path = path.with_suffix(".safetensors")
            contender.model.save(path)
            predictor, rows = Predictor(contender.model.model_), test.head(64).to_dicts()

            def predict(number: int) -> object:
                return predictor.predict_row(rows[number % len(rows)])

        else:
            if isinstance(contender, CatBoost):
                contender.model.save_model(str(path))
            else:
                contender.model.booster_.save_model(path)
            frames = [contender.encode(test[[i]], fit=False) for i in range(min(64, len(test)))]
            model = contender.model
            method = model.predict_proba if contender.classifies else model.predict

            def predict(number: int) -> object:
                return method(frames[number % len(frames)])

        return {"bytes": path.stat().st_size, "row": seconds_of(predict)}


def measure(table_name: str, contender_name: str, arguments: argparse.Namespace) -> Measured:
    """One library on one table: loss, seconds of the fit, bytes, seconds of one row."""
    table = load_table(table_name)
    split = committed_split(table, arguments.seed).capped(arguments.cap)
    entry = find_contender(contender_name, arguments.peer_python)
    job = Job(table.task, table.n_classes, arguments.seed, 1)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        contender = entry.build(job)
        if isinstance(contender, Peer):
            contender.request["deployed"] = True
        X, X_test = table.features[split.train], table.features[split.test]
        begun = time.perf_counter()
        contender.fit(X, table.target[split.train])
        taken = time.perf_counter() - begun
        prediction = contender.predict(X_test)
        details = contender.details
        if isinstance(contender, Peer):
            taken = details["fit_seconds"]
            found = {"bytes": details["file_bytes"], "row": details["one_row_seconds"]}
        else:
            found = deployed(contender, X_test)
    scores = score(table, split.test, prediction)
    loss = scores["log_loss" if table.task == "classification" else "rmse"]
    return {"loss": loss, "fit": taken, **found}


class Kept:
    """Measurements in a file of JSON lines, or in none."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = [] if path is None or not path.exists() else path.read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        self.known: dict[str, Measured] = {
            self.key(entry["of"]): entry["found"] for entry in entries
        }

    @staticmethod
    def key(of: Mapping[str, object]) -> str:
        """What was measured, as text."""
        return json.dumps(of, sort_keys=True)

    def get(self, of: Mapping[str, object], measure: Callable[[], Measured]) -> Measured:
        """What is known of it; else it is measured, and kept."""
        key = self.key(of)
        if key not in self.known:
            self.known[key] = measure()
            if self.path is not None:
                with self.path.open("a") as stream:
                    stream.write(json.dumps({"of": of, "found": self.known[key]}) + "\n")
        return self.known[key]


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values."""
    return float(np.exp(np.mean(np.log(values))))


def markdown(measured: dict[str, dict[str, Measured]]) -> str:
    """The table: one line a library; losses relative to the first, all else geometric means."""
    ours = next(iter(measured.values()))
    lines = [
        "| | held-out loss, relative | fit, s | file, kB | one row, µs |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, tables in measured.items():
        loss = geometric_mean(
            [found["loss"] / ours[table]["loss"] for table, found in tables.items()]
        )
        fit, size, row = (
            geometric_mean([found[key] for found in tables.values()])
            for key in ("fit", "bytes", "row")
        )
        lines.append(f"| {name} | {loss:.3f} | {fit:.3g} | {size / 1e3:,.0f} | {row * 1e6:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", default="adult,telco_churn,california_housing,diamonds")
    parser.add_argument("--cap", type=int, default=10_000, help="rows at most")
    parser.add_argument("--seed", type=int, default=0, help="the split")
    parser.add_argument("--peer-python", default=os.environ.get("TABWRIGHT_PEER_PYTHON"))
    parser.add_argument("--skip", default="", help="names of contenders to leave out")
    parser.add_argument("--results", type=Path, help="keep each measurement there, go on from it")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    names = arguments.tables.split(",")
    left_out = arguments.skip.split(",")
    if arguments.peer_python is None:
        left_out += PEERS
        print("without --peer-python RealMLP is left out", file=sys.stderr)
    wanted = {shown: name for shown, name in CONTENDERS.items() if name not in left_out}
    entries = {name: find_contender(name, arguments.peer_python) for name in wanted.values()}
    kept = Kept(arguments.results)
    measured: dict[str, dict[str, Measured]] = {shown: {} for shown in wanted}
    for shown, name in wanted.items():
        for table in names:
            of = {
                "contender": name,
                "table": table,
                "cap": arguments.cap,
                "seed": arguments.seed,
                "code": entries[name].code,
                "versions": dict(entries[name].versions),
            }
            found = kept.get(of, partial(measure, table, name, arguments))
            measured[shown][table] = found
            words = {key: f"{value:.4g}" for key, value in found.items()}
            print(f"{shown:26} {table:20}", words, flush=True)
    known: dict[str, str] = {"torch": version("torch")}
    for name in wanted.values():
        known |= entries[name].versions
    versions = ", ".join(f"{name} {number}" for name, number in known.items() if name != "python")
    text = (
        f"{markdown(measured)}\n\nGeometric means over {', '.join(names)} (at most "
        f"{arguments.cap:,} rows each, one split), one thread, all at their defaults; "
        f"Python {platform.python_version()}, {versions}. "
        "Measured by `python -m benchmarks.readme_table`."
    )
    print(text)
    if arguments.write:
        before, rest = README.read_text(encoding="utf-8").split(START, 1)
        after = rest.split(END, 1)[1]
        README.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
