"""Made-up tables where interactions of two columns help, mislead, or say nothing.

    python -m benchmarks.interactions [--seeds 0,1] [--rows 4000] [--members 2]

For each table and seed: the loss of networks alone on new rows (log-loss, or root mean squared
error) without and with the search for interactions, their ratio, and the interactions that the
search kept. The tables are none of the suite's, and no setting was chosen on them.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn import datasets
from threadpoolctl import threadpool_limits

from benchmarks.contenders import Job, Scalar, Tabwright, TabwrightWithoutInteractions
from benchmarks.tables import Task
from tabwright.metrics import score_classification, score_regression

Floats = NDArray[np.float64]
_NEW_ROWS = 4_000


class MadeUp(NamedTuple):
    """A table: its inputs, and a target of classes or numbers."""

    inputs: Floats
    target: NDArray[np.int64] | Floats


def _coin(chance: Floats, draw: np.random.Generator) -> NDArray[np.int64]:
    return (draw.random(len(chance)) < chance).astype(np.int64)


def _friedman(n_rows: int, seed: int) -> MadeUp:
    return MadeUp(*datasets.make_friedman1(n_rows, n_features=10, noise=1.0, random_state=seed))


def _ratio(n_rows: int, seed: int) -> MadeUp:
    draw = np.random.default_rng(seed)
    x = np.exp(draw.normal(size=(n_rows, 6)))
    step = 2.0 * (x[:, 0] / x[:, 1] > 1.3) + np.log(x[:, 2])
    return MadeUp(x, step + 0.3 * draw.normal(size=n_rows))


def _spirals(n_rows: int, seed: int) -> MadeUp:
    draw = np.random.default_rng(seed)
    arm, turn = draw.integers(0, 2, n_rows), draw.uniform(0.5, 3.0, n_rows) * np.pi
    x = np.stack([turn * np.cos(turn + np.pi * arm), turn * np.sin(turn + np.pi * arm)], axis=1)
    x += 0.4 * draw.normal(size=x.shape)
    return MadeUp(np.concatenate([x, draw.normal(size=(n_rows, 4))], axis=1), arm)


def _turned_board(n_rows: int, seed: int) -> MadeUp:
    draw = np.random.default_rng(seed)
    x = draw.uniform(-2, 2, (n_rows, 5))
    u = x[:, 0] * np.cos(0.6) - x[:, 1] * np.sin(0.6)
    v = x[:, 0] * np.sin(0.6) + x[:, 1] * np.cos(0.6)
    return MadeUp(x, _coin(np.where((np.floor(u) + np.floor(v)) % 2, 0.9, 0.1), draw))


def _board(fields: int, *, whole: bool) -> Callable[[int, int], MadeUp]:
    def make(n_rows: int, seed: int) -> MadeUp:
        draw = np.random.default_rng(seed)
        x = draw.uniform(0, 60, (n_rows, 6))
        x = np.floor(x) if whole else x
        place = np.floor(x[:, :2] * fields / 60)
        return MadeUp(x, _coin(np.where(place.sum(axis=1) % 2, 0.95, 0.05), draw))

    return make


def _cells(n_rows: int, seed: int) -> MadeUp:
    draw = np.random.default_rng(seed)
    x = draw.integers(0, 60, (n_rows, 6)).astype(np.float64)
    colour = draw.integers(0, 2, (6, 6))
    place = (x[:, :2] // 10).astype(np.int64)
    return MadeUp(x, _coin(np.where(colour[place[:, 0], place[:, 1]], 0.95, 0.05), draw))


def _all_of_three(n_rows: int, seed: int) -> MadeUp:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n_rows, 6))
    return MadeUp(x, _coin(np.where((x[:, :3] > -0.5).all(axis=1), 0.9, 0.1), draw))


def _arm(n_rows: int, seed: int) -> MadeUp:
    draw = np.random.default_rng(seed)
    angles = draw.uniform(-1.5, 1.5, (n_rows, 8))
    bent = np.cumsum(angles, axis=1)
    reach = np.hypot(np.cos(bent).sum(axis=1) - 1, np.sin(bent).sum(axis=1) - 1)
    return MadeUp(angles, reach + 0.1 * draw.normal(size=n_rows))


def _clusters(n_rows: int, seed: int) -> MadeUp:
    made = datasets.make_classification(
        n_rows,
        n_features=20,
        n_informative=8,
        n_clusters_per_class=4,
        flip_y=0.05,
        random_state=seed,
    )
    return MadeUp(*made)


def _noise(n_rows: int, seed: int) -> MadeUp:
    draw = np.random.default_rng(seed)
    return MadeUp(draw.normal(size=(n_rows, 10)), draw.integers(0, 2, n_rows))


TABLES: dict[str, Callable[[int, int], MadeUp]] = {
    "Friedman's first": _friedman,
    "step of a ratio": _ratio,
    "two spirals": _spirals,
    "chessboard, turned": _turned_board,
    "chessboard 4x4": _board(4, whole=False),
    "chessboard 4x4, whole numbers": _board(4, whole=True),
    "chessboard 6x6, whole numbers": _board(6, whole=True),
    "random cells 6x6, whole numbers": _cells,
    "three thresholds": _all_of_three,
    "robot arm": _arm,
    "clusters in 8 dimensions": _clusters,
    "noise": _noise,
}


def _task(target: NDArray[np.int64] | Floats) -> Task:
    return "regression" if target.dtype.kind == "f" else "classification"


def _loss(
    model: Tabwright, frame: pl.DataFrame, made: MadeUp, n_rows: int
) -> tuple[float, list[str]]:
    """Loss on the rows past the first `n_rows`, and the interactions of the model."""
    model.fit(frame[:n_rows], made.target[:n_rows])
    predicted, target = model.predict(frame[n_rows:]), made.target[n_rows:]
    kept: list[str] = model.details["interactions"]
    if model.job.task == "regression":
        return score_regression(target, predicted)["rmse"], kept
    return score_classification(target, predicted)["log_loss"], kept


def lines(seeds: Sequence[int], n_rows: int, members: int) -> Iterator[str]:
    """One line of a Markdown table per table and seed."""
    yield "| table | seed | without | with | ratio | kept |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for name, make in TABLES.items():
        for seed in seeds:
            made = make(n_rows + _NEW_ROWS, seed)
            frame = pl.DataFrame({f"x{k}": own for k, own in enumerate(made.inputs.T)})
            job = Job(_task(made.target), int(made.target.max()) + 1, seed, threads=1)
            settings: dict[str, Scalar] = {"quality": "fast", "n_members": members}
            without, _ = _loss(TabwrightWithoutInteractions(job, settings), frame, made, n_rows)
            loss, kept = _loss(Tabwright(job, settings), frame, made, n_rows)
            yield (
                f"| {name} | {seed} | {without:.4g} | {loss:.4g} | {loss / without:.3f} "
                f"| {', '.join(kept)} |"
            )


def main(words: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interactions", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seeds", default="0,1", help="numbers with commas")
    parser.add_argument("--rows", type=int, default=4_000, help="training rows")
    parser.add_argument("--members", type=int, default=2)
    arguments = parser.parse_args(words)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        for line in lines(seeds, arguments.rows, arguments.members):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
