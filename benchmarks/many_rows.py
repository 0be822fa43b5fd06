"""Rows predicted a second, from raw frames to probabilities, beside other libraries.

    python -m benchmarks.many_rows [--threads 2] [--table adult] [--output FILE]

Every contender is fitted on three quarters of the table with its defaults (ours for `--epochs`
epochs: weights do not change the time), and predicts all rows of the table. CatBoost and LightGBM
get frames whose categories are made ready for them beforehand, which costs them nothing here;
scikit-learn's MLP stands behind a one-hot encoder and a scaler, which count, as our encoder does.
All take turns, so that a slower machine is slower for all. The last lines are our matrix products
alone: one thread's, and what so many threads of them could do at most.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.inference import Contender, products_of, run_in_turns, show
from benchmarks.tables import load_table
from benchmarks.train_throughput import hardware
from tabwright import TabularClassifier
from tabwright.inference.predictor import Predictor


def _peers(frame: Any, y: np.ndarray, n_train: int, threads: int) -> list[Contender]:
    """CatBoost, LightGBM and scikit-learn's MLP, fitted, on a pandas frame."""
    from catboost import CatBoostClassifier
    from lightgbm import LGBMClassifier

    # LightGBM refuses some characters in names.
    frame = frame.set_axis([f"c{k}" for k in range(frame.shape[1])], axis=1)
    text = [name for name in frame.columns if name not in frame.select_dtypes("number").columns]
    as_text = frame.copy()
    as_text[text] = as_text[text].astype(object).where(as_text[text].notna(), "missing").astype(str)
    as_category = as_text.astype(dict.fromkeys(text, "category"))
    trees = CatBoostClassifier(
        verbose=False, allow_writing_files=False, thread_count=threads, random_seed=0
    ).fit(as_text[:n_train], y[:n_train], cat_features=text)
    light = LGBMClassifier(n_jobs=threads, verbose=-1, random_state=0)
    light.fit(as_category[:n_train], y[:n_train])
    mlp = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), text),
            (StandardScaler(), make_column_selector(dtype_include=np.number)),
        ),
        MLPClassifier(max_iter=3, random_state=0),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlp.fit(as_text[:n_train], y[:n_train])
    return [
        Contender("CatBoost", lambda: trees.predict_proba(as_text, thread_count=threads)),
        Contender("LightGBM", lambda: light.predict_proba(as_category)),
        Contender("scikit-learn MLP, 100 units", lambda: mlp.predict_proba(as_text)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", default="adult", help="a classification table without gaps")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each timing")
    parser.add_argument("--output", type=Path, help="append a JSON line here")
    arguments = parser.parse_args()
    table = load_table(arguments.table)
    if table.task != "classification":
        parser.error(f"--table must be one of classification; got {arguments.table!r}")
    frame: pl.DataFrame = table.features
    pandas, y, threads = frame.to_pandas(), table.target, arguments.threads
    n_train = 3 * len(frame) // 4
    with threadpool_limits(threads):
        model = TabularClassifier(max_epochs=arguments.epochs, random_state=0, device="cpu")
        model.fit(frame[:n_train], y[:n_train])
        network = Predictor(model.model_)._network
        inputs = model.model_.encoder.expand(model.model_.encoder.transform(frame))
        contenders = [
            Contender("tabwright, polars frame", lambda: model.predict_proba(frame)),
            Contender("tabwright, pandas frame", lambda: model.predict_proba(pandas)),
            *_peers(pandas, y, n_train, threads),
        ]
        run_in_turns(contenders, arguments.repeats, arguments.seconds)
    alone = Contender(
        "our matrix products, 1 thread", products_of(network, inputs, network.block_rows)
    )
    with threadpool_limits(1):
        run_in_turns([alone], arguments.repeats, arguments.seconds)
    best = [seconds / threads for seconds in alone.seconds]
    bound = Contender(f"our matrix products, {threads} threads at best", alone.call, "", best)
    found = [*contenders, alone, bound]
    console = Console(width=110)
    machine = hardware()
    console.print(machine)
    size = f"{network.n_members} networks of {network.hidden_dim} units, threads {threads}"
    title = f"{arguments.table}, {len(frame):,} rows ({size})"
    ours = [contender.name for contender in contenders[:2]]
    show(title, found, [], console, ours=ours, rows=len(frame))
    if arguments.output is not None:
        rates = {contender.name: len(frame) / contender.median for contender in found}
        line = {"table": arguments.table, "threads": threads, "machine": machine, "rates": rates}
        with arguments.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
