"""The main job on three small tables: every mode trained, compared, saved, loaded, used.

`make demo` runs this. The tables ship inside scikit-learn; they are written out as CSV first, as
a user would have them, and go through the same commands a user would type.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from tabwright.metrics import score_classification, score_regression
from tabwright.settings import Task, modes_for
from tabwright.splits import split_rows

OUTPUT = Path("demo-output")
TABLES: dict[str, Task] = {
    "breast_cancer": "classification",
    "digits": "classification",
    "diabetes": "regression",
}
LOADERS = {
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
    "diabetes": datasets.load_diabetes,
}


def write_table(name: str) -> tuple[Path, Path]:
    """Write one of scikit-learn's tables as CSV: rows to train on, and rows kept for the scores."""
    data = LOADERS[name]()
    names = [str(column) for column in data.feature_names]
    frame = pl.DataFrame(dict(zip(names, data.data.T, strict=True)))
    target = data.target
    if name == "breast_cancer":
        target = data.target_names[target]
    frame = frame.with_columns(pl.Series("target", target))
    codes = np.unique(target, return_inverse=True)[1] if TABLES[name] == "classification" else None
    train, test = split_rows(len(frame), fraction=0.25, codes=codes, random_state=0)
    paths = OUTPUT / f"{name}.csv", OUTPUT / f"{name}-test.csv"
    frame[train].write_csv(paths[0])
    frame[test].write_csv(paths[1])
    return paths


def tabwright(*words: str) -> str:
    """Run a command as a user would type it, and give what it printed."""
    command = [sys.executable, "-m", "tabwright", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"tabwright {' '.join(words)} failed:\n{done.stderr}")
    return done.stdout


def reference(train: Path, test: Path, task: Task) -> tuple[dict[str, float], float]:
    """scikit-learn's gradient boosting on the same rows."""
    frames = [pl.read_csv(path) for path in (train, test)]
    X, X_test = (frame.drop("target").to_numpy() for frame in frames)
    y, y_test = (frame["target"].to_numpy() for frame in frames)
    started = time.perf_counter()
    if task == "regression":
        model = HistGradientBoostingRegressor(random_state=0).fit(X, y)
        return score_regression(y_test, model.predict(X_test)), time.perf_counter() - started
    model = HistGradientBoostingClassifier(random_state=0).fit(X, y)
    seconds = time.perf_counter() - started
    codes = np.searchsorted(model.classes_, y_test)
    return score_classification(codes, model.predict_proba(X_test)), seconds


def main() -> None:
    """Train, compare, save, load and predict; print where to look."""
    console = Console()
    started = time.perf_counter()
    OUTPUT.mkdir(exist_ok=True)
    for name, task in TABLES.items():
        train, test = write_table(name)
        metrics = ("rmse", "r2") if task == "regression" else ("log_loss", "accuracy")
        board: list[tuple[str, dict[str, float], float]] = []
        for mode in modes_for(task):
            model = OUTPUT / f"{name}-{mode}.safetensors"
            words = ("--target", "target", "--mode", mode, "--task", task, "--test-fraction", "0")
            trained = json.loads(
                tabwright("train", str(train), *words, "--output", str(model), "--json")
            )
            scored = json.loads(tabwright("evaluate", str(model), str(test), "--json"))
            board.append((mode, scored["metrics"], trained["seconds"]))
        board.append(("scikit-learn gradient boosting", *reference(train, test, task)))
        board.sort(key=lambda line: line[1][metrics[0]])
        table = Table(title=f"{name} ({task}), rows never trained on", title_justify="left")
        table.add_column("model")
        for heading in (*metrics, "seconds"):
            table.add_column(heading, justify="right")
        for contender, scores, seconds in board:
            table.add_row(
                contender, *(f"{scores[metric]:.4f}" for metric in metrics), f"{seconds:.1f}"
            )
        console.print(table)
    predictions = OUTPUT / "breast_cancer-predictions.csv"
    model = OUTPUT / "breast_cancer-mlp_dense.safetensors"
    tabwright("predict", str(model), str(OUTPUT / "breast_cancer-test.csv"), "-o", str(predictions))
    console.print(pl.read_csv(predictions).head(3))
    console.print(
        f"done in {time.perf_counter() - started:.0f} s. Models and predictions are in {OUTPUT}/; "
        f"look into one with\n  .venv/bin/tabwright inspect {model}",
        highlight=False,
    )


if __name__ == "__main__":
    main()
