"""Time and error of attributions of eight columns, against the sum over all subsets.

    python -m benchmarks.explain [--tables california_housing,epa_mpg,telco_churn] [--rows 5]
        [--background 20]

The sum goes through the model's own predictions on raw cells, as Shapley values are defined; the
attributions are those of `tabwright.explanation.explain` with the same background rows. The error
is the largest difference, beside the largest attribution. Where shap is installed, its exact
explainer gives the same from the same predictions; its import and first call are not counted.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import time
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.row_splits import make_split
from benchmarks.suite import machine
from benchmarks.tables import load_table
from tabwright import TabularClassifier, TabularRegressor
from tabwright.explanation import explain
from tabwright.explanation.columns import MixedRows
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor

FloatArray = NDArray[np.float64]
N_COLUMNS = 8


def subset_sums(model: FittedModel, row: pl.DataFrame, others: pl.DataFrame) -> FloatArray:
    """Shapley values of a row by their definition, of the value or the last class, (n_columns,)."""
    names, predictor = row.columns, Predictor(model)
    n = len(names)
    value = {}
    for chosen in itertools.chain.from_iterable(
        itertools.combinations(range(n), size) for size in range(n + 1)
    ):
        cells = [
            pl.lit(row[names[i]][0], dtype=row[names[i]].dtype).alias(names[i]) for i in chosen
        ]
        mixed = others.with_columns(cells)
        if model.classes is None:
            value[chosen] = predictor.predict_values(mixed).mean()
        else:
            value[chosen] = predictor.predict_proba(mixed)[:, -1].mean()
    found = np.zeros(n)
    for chosen, before in value.items():
        for i in set(range(n)) - set(chosen):
            share = math.factorial(len(chosen)) * math.factorial(n - len(chosen) - 1)
            gain = value[tuple(sorted((*chosen, i)))] - before
            found[i] += share / math.factorial(n) * gain
    return found


def by_shap(model: FittedModel, rows: pl.DataFrame, others: pl.DataFrame) -> FloatArray:
    """Attributions of the value or the last class by shap, (n_rows, n_columns)."""
    import shap

    game = MixedRows(Predictor(model), pl.concat([rows, others]))
    places = np.tile(np.arange(len(rows) + len(others))[:, None], len(game.names))
    masker = shap.maskers.Independent(places[len(rows) :], max_samples=len(others))
    explainer = shap.explainers.Exact(lambda own: game(own.astype(np.int64))[:, -1], masker)
    return np.asarray(explainer(places[: len(rows)], silent=True).values)


def measured(name: str, n_rows: int, n_background: int, cap: int = 2_000) -> tuple[float, ...]:
    """Seconds a row of the sum, of `explain` and of shap, largest difference and attribution."""
    table = load_table(name)
    split = make_split(table, 0).capped(cap)
    features = table.features[:, :N_COLUMNS]
    estimator = TabularClassifier if table.task == "classification" else TabularRegressor
    model = estimator(quality="fast", random_state=0)
    model.fit(features[split.train], table.target[split.train])
    rows, others = features[split.test[:n_rows]], features[split.train[:n_background]]
    started = time.perf_counter()
    found = explain(model.model_, rows, others)
    of_explain = time.perf_counter() - started
    assert found.exact
    of_shap = float("nan")
    if importlib.util.find_spec("shap") is not None:
        by_shap(model.model_, rows[:1], others)
        started = time.perf_counter()
        theirs = by_shap(model.model_, rows, others)
        of_shap = time.perf_counter() - started
        np.testing.assert_allclose(theirs, found.attributions[:, :, -1], atol=1e-9, rtol=1e-9)
    started = time.perf_counter()
    sums = np.array([subset_sums(model.model_, rows[[i]], others) for i in range(n_rows)])
    of_sums = time.perf_counter() - started
    # A column that the model leaves out has none.
    sums = sums[:, [rows.columns.index(column) for column in found.columns]]
    own = found.attributions[:, :, -1]
    return (
        of_sums / n_rows,
        of_explain / n_rows,
        of_shap / n_rows,
        float(np.abs(own - sums).max()),
        float(np.abs(sums).max()),
    )


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tables", default="california_housing,epa_mpg,telco_churn")
    parser.add_argument("--rows", type=int, default=5)
    parser.add_argument("--background", type=int, default=20)
    options = parser.parse_args(words)
    print(f"{machine()}; {options.rows} rows, {options.background} of background\n")
    print("| table | subsets, s/row | explain, s/row | shap, s/row | error | largest attribution |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in options.tables.split(","):
        sums, own, shap, error, size = measured(name, options.rows, options.background)
        print(
            f"| {name} | {sums:.2f} | {own:.3f} | {shap:.3f} | {error:.1e} | {size:.3g} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
