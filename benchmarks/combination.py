"""What every part of a combined model is worth by itself, and what the best weights would give.

    python -m benchmarks.combination --tables thyroid,adult --seeds 0,1 --cap 3000 --quality best

A default fit averages networks and trees with weights that held-out rows choose. For every table
and split, on its test rows: the loss of each part, of the combination, and of the combination with
those weights that greedy selection finds on the test rows themselves, which nobody has who has to
choose before; all relative to CatBoost at its defaults (`--against` names another contender), and
ours before calibration. The last lines have geometric means. Parts without weight are not in the
model, and not in the table.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.contenders import Job, find_contender
from benchmarks.gaps import row_losses
from benchmarks.row_splits import Split, committed_split
from benchmarks.tables import BenchmarkTable, load_table, table_names
from tabwright import TabularClassifier, TabularRegressor
from tabwright.fitting.combination import greedy_weights
from tabwright.inference.predictor import Predictor
from tabwright.settings import Quality

Floats = NDArray[np.float64]


def predictions_of_parts(
    table: BenchmarkTable, split: Split, quality: Quality, seed: int
) -> tuple[dict[str, Floats], dict[str, float]]:
    """What networks and each kind of trees say of the test rows, and the weights of the parts.

    Returns
    -------
    predictions : dict
        Probabilities, or values in the target's units.
    weights : dict
        Of the parts that have any.
    """
    maker = TabularClassifier if table.task == "classification" else TabularRegressor
    model = maker(quality=quality, random_state=seed)
    model.fit(table.features[split.train], table.target[split.train])
    fitted = model.model_
    compact = fitted.encoder.transform(table.features[split.test])
    alone = Predictor(replace(fitted, trees=None)).standardised(compact)
    found, weights = {"networks": alone}, {"networks": 1.0}
    if fitted.trees is not None:
        seen = fitted.trees.features(fitted.encoder, compact)
        classifies = table.task == "classification"
        for ensemble in fitted.trees.ensembles:
            found[ensemble.kind] = ensemble.predict(seen, classifies=classifies)
        weights = fitted.trees.weights_by_kind
    scale = fitted.target
    if scale is not None:
        found = {name: scale.restore(values) for name, values in found.items()}
    return found, weights


def loss(table: BenchmarkTable, split: Split, predicted: Floats) -> float:
    """Log-loss, or root mean squared error."""
    mean = float(row_losses(table, split.test, predicted).mean())
    return mean if table.task == "classification" else mean**0.5


def measure(
    table: BenchmarkTable, seed: int, cap: int | None, quality: Quality, against: str
) -> dict[str, float]:
    """Losses of the parts and of their mixtures, relative to the other contender's, by name."""
    split = committed_split(table, seed).capped(cap)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        other = find_contender(against).build(Job(table.task, table.n_classes, seed, 1))
        other.fit(table.features[split.train], table.target[split.train])
        reference = loss(table, split, other.predict(table.features[split.test]))
        found, weights = predictions_of_parts(table, split, quality, seed)
    parts = np.stack(list(found.values()))
    mixtures = {
        "combined": np.array([weights[name] for name in found]),
        "best weights": greedy_weights(list(parts), table.target[split.test], None),
    }
    predictions = found | {
        name: np.tensordot(shares, parts, axes=1) for name, shares in mixtures.items()
    }
    losses = {name: loss(table, split, value) / reference for name, value in predictions.items()}
    shown = ", ".join(
        f"{name} {value:.3f}" + (f" (weight {weights[name]:.2f})" if name in weights else "")
        for name, value in losses.items()
    )
    print(f"{table.name} seed {seed}: {shown}", flush=True)
    return losses


def main(words: Sequence[str] | None = None) -> int:
    """Measure, and print a line per table and split."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", default="small")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--cap", type=int, default=3000)
    parser.add_argument("--quality", default="best", choices=("balanced", "best"))
    parser.add_argument("--against", default="catboost")
    arguments = parser.parse_args(words)
    logarithms: dict[str, list[float]] = {}
    for seed in [int(text) for text in arguments.seeds.split(",")]:
        for name in table_names(arguments.tables):
            table = load_table(name)
            losses = measure(table, seed, arguments.cap, arguments.quality, arguments.against)
            for part, value in losses.items():
                logarithms.setdefault(part, []).append(float(np.log(value)))
    for part, values in logarithms.items():
        print(f"{part}: {np.exp(np.mean(values)):.3f}, geometric mean of {len(values)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
