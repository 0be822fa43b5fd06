"""How fast a model of `quality="best"` predicts, and what its trees add to its networks.

    python -m benchmarks.best_speed [--table adult] [--threads 1] [--output FILE]

The model is fitted on at most `--fit-rows` rows with all the trees it would combine, whatever
weight the held-out rows give them (`--epochs` epochs: weights do not change the time); it then
predicts `--rows` rows of the table, again and again where the table has fewer, as a polars frame,
and one row as a dict, another at each call. "Networks alone" is the same model without its trees;
each ensemble is also timed by itself, on encoded rows. All take turns, so that a slower machine is
slower for all. Bounds: 10,000 rows in a second, one row in 300 µs.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from threadpoolctl import threadpool_limits

from benchmarks.inference import Call, Contender, run_in_turns, show, versions
from benchmarks.tables import BenchmarkTable, load_table
from benchmarks.train_throughput import hardware
from tabwright import TabularClassifier, TabularRegressor
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.tree_ensemble import Trees
from tabwright.inference.tree_mix import TreeMix, tree_features

MANY = "one second"
ONE = "300 µs"


def fitted_with_trees(table: BenchmarkTable, n_rows: int, epochs: int) -> FittedModel:
    """A best model; refuses one whose held-out rows gave a kind of trees no weight."""
    build = TabularClassifier if table.task == "classification" else TabularRegressor
    rows = np.random.default_rng(0).permutation(len(table.target))[:n_rows]
    estimator = build(quality="best", max_epochs=epochs, random_state=0, device="cpu")
    model = estimator.fit(table.features[rows], table.target[rows]).model_
    tried = [own["name"] for own in model.card["combination"]["candidates"][1:]]
    kept = [] if model.trees is None else [own.kind for own in model.trees.ensembles]
    if kept != tried:
        raise ValueError(
            f"a model must keep all its trees to be timed; it keeps {kept} of {tried}; "
            "use another --table"
        )
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", default="adult")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--fit-rows", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each timing")
    parser.add_argument("--output", type=Path, help="append a JSON line here")
    arguments = parser.parse_args()
    table = load_table(arguments.table)
    torch.set_num_threads(arguments.threads)
    with threadpool_limits(arguments.threads):
        model = fitted_with_trees(table, arguments.fit_rows, arguments.epochs)
        frame = table.features[np.arange(arguments.rows) % len(table.target)]
        best, networks = Predictor(model), Predictor(replace(model, trees=None))
        features = tree_features(model.encoder, model.encoder.transform(frame))
        many = [
            Contender("best", lambda: _predict(best, frame), MANY),
            Contender("networks alone", lambda: _predict(networks, frame)),
        ]
        dicts = itertools.cycle(frame[:64].to_dicts())
        one = [
            Contender("best", lambda: best.predict_row(next(dicts)), ONE),
            Contender("networks alone", lambda: networks.predict_row(next(dicts))),
        ]
        assert model.trees is not None
        for trees in model.trees.ensembles:
            many.append(Contender(trees.kind, _trees_alone(trees, [features])))
            rows = [features[k : k + 1] for k in range(64)]
            one.append(Contender(trees.kind, _trees_alone(trees, rows)))
        run_in_turns([*many, *one], arguments.repeats, arguments.seconds)
    console = Console(width=110)
    machine = hardware()
    console.print(machine)
    kinds = ", ".join(f"{name} {weight:.0%}" for name, weight in _weights(model.trees).items())
    title = f"{arguments.table} ({kinds}; threads {arguments.threads})"
    show(f"{title}, {len(frame):,} rows", many, [], console, ours=["best"], rows=len(frame))
    show(f"{title}, one row", one, [], console, ours=["best"], rows=1)
    if arguments.output is not None:
        line = {
            "table": arguments.table,
            "threads": arguments.threads,
            "machine": machine,
            "versions": versions(),
            "many_rows": len(frame),
            "many_seconds": {own.name: own.median for own in many},
            "one_seconds": {own.name: own.median for own in one},
        }
        with arguments.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _trees_alone(trees: Trees, tables: list[np.ndarray]) -> Call:
    """The raw sums of one ensemble, of another of the tables at each call."""
    turns = itertools.cycle(tables)
    return lambda: trees.raw(next(turns))


def _predict(predictor: Predictor, frame: object) -> object:
    if predictor.model.classes is None:
        return predictor.predict_values(frame)  # type: ignore[arg-type]
    return predictor.predict_proba(frame)  # type: ignore[arg-type]


def _weights(mix: TreeMix) -> dict[str, float]:
    kinds = [own.kind for own in mix.ensembles]
    return {"networks": mix.network_weight, **dict(zip(kinds, mix.weights, strict=True))}


if __name__ == "__main__":
    main()
