"""Permutation importance: how much worse a model gets when one column is shuffled.

As in Breiman, "Random Forests" (2001), section 10, on rows that did not train the model and for
the raw columns of the table, not the network's inputs. Rows are encoded once: shuffling a column
is shuffling its part of the compact form, so a table of many columns is not encoded many times.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.encoding.encoder import Compact
from tabwright.encoding.pair_columns import fill_pairs
from tabwright.inference.fitted_model import FittedModel, member_modules
from tabwright.inference.predictor import Predictor
from tabwright.regression import row_losses
from tabwright.weighted_metrics import row_log_loss

FloatArray = NDArray[np.float64]

# Rows whose slopes put the columns in order, so that limits leave out those that matter least.
_SCREEN_ROWS = 256


@dataclass(frozen=True)
class Importance:
    """How much each column matters to a model, on a set of rows.

    `names`: columns that were shuffled, the most important first.
    `mean`, `deviation`: (k,), float64; rise of the loss over the shuffles: log-loss in nats, or
        what the objective of a regression is judged by (`regression.MEASURES`).
    `n_rows`: rows it was measured on.
    `n_repeats`: shuffles of each column; fewer than asked for where time ended.
    `n_used`: columns that the model uses; more than `names` where the limits ended the work.
    """

    names: tuple[str, ...]
    mean: FloatArray
    deviation: FloatArray
    n_rows: int
    n_repeats: int
    n_used: int


def permutation_importance(
    predictor: Predictor,
    frame: pl.DataFrame,
    target: np.ndarray,
    sample_weight: np.ndarray | None = None,
    *,
    n_repeats: int = 5,
    max_rows: int = 2_000,
    max_columns: int = 100,
    max_seconds: float = 30.0,
    random_state: int = 0,
) -> Importance:
    """Shuffle the columns one by one and see how the loss rises.

    `frame`: rows that did not train the model.
    `target`: (n_rows,); class codes, int64, or values, float64.
    `sample_weight`: (n_rows,), float64; weights of the rows in the loss.
    `n_repeats`: shuffles of each column.
    `max_rows`: at most so many rows; of more, so many are drawn.
    `max_columns`: at most so many columns. Of more, those are taken whose shuffle changes the
        output most to first order.
    `max_seconds`: no further shuffle is begun after it; the first always is. Every column is
        shuffled once before any is a second time.
    Raises `ValueError` if there are no rows of positive weight.
    """
    rng = np.random.default_rng(random_state)
    weight = np.ones(len(target)) if sample_weight is None else sample_weight
    rows = np.flatnonzero(weight > 0)
    if not rows.size:
        raise ValueError("at least one row of positive weight is needed; got none")
    if rows.size > max_rows:
        rows = np.sort(rng.choice(rows, max_rows, replace=False))
    weight, target = weight[rows], target[rows]
    compact = predictor.model.encoder.transform(frame[rows])
    plan = predictor.model.encoder.plan_
    owned = plan.compact_columns()
    order = _by_slope(predictor.model, compact, list(owned))[:max_columns]
    base = _loss(predictor, compact, target, weight)
    rises: dict[int, list[float]] = {place: [] for place in order}
    end = time.monotonic() + max_seconds
    # A shuffle of every column, then another: where time ends, all have as many as possible.
    for done in range(n_repeats * len(order)):
        if done and time.monotonic() > end:
            break
        place = order[done % len(order)]
        numeric, codes = owned[place]
        shuffled = rng.permutation(len(rows))
        changed = Compact(compact.numeric.copy(), compact.codes.copy())
        changed.numeric[:, numeric] = compact.numeric[shuffled][:, numeric]
        fill_pairs(plan.pairs, changed.numeric)
        changed.codes[:, codes] = compact.codes[shuffled][:, codes]
        rises[place].append(_loss(predictor, changed, target, weight) - base)
    n_repeats = max(1, min(map(len, rises.values())))
    measured = [place for place in order if rises[place]]
    values = np.array([rises[place][:n_repeats] for place in measured])
    best = np.argsort(-values.mean(axis=1), kind="stable")
    names = predictor.model.encoder.feature_names_in_
    return Importance(
        names=tuple(names[measured[i]] for i in best),
        mean=values.mean(axis=1)[best],
        deviation=values.std(axis=1)[best],
        n_rows=len(rows),
        n_repeats=n_repeats,
        n_used=len(owned),
    )


def _by_slope(model: FittedModel, compact: Compact, places: list[int]) -> list[int]:
    """Places of columns, those whose shuffle should change the output most first.

    To first order: the slope of the output times the change of the inputs, for all columns from
    one backward pass.
    """
    import torch

    x = model.encoder.expand(compact.take(slice(0, _SCREEN_ROWS)))
    change = x[np.random.default_rng(0).permutation(len(x))] - x
    sources = model.encoder.sources_
    order = np.argsort(sources, kind="stable")
    owners, starts = np.unique(sources[order], return_index=True)
    total = np.zeros(len(owners))
    for member in member_modules(model):
        inputs = torch.from_numpy(x.copy()).requires_grad_()
        output = member(inputs)
        if model.classes is not None:
            output = torch.log_softmax(output, dim=1).amax(dim=1)
        (slope,) = torch.autograd.grad(output.sum(), inputs)
        effect = slope.numpy() * change
        total += np.abs(np.add.reduceat(effect[:, order], starts, axis=1)).mean(axis=0)
    size = dict(zip(owners.tolist(), total.tolist(), strict=True))
    return sorted(places, key=lambda place: -size.get(place, 0.0))


def _loss(predictor: Predictor, compact: Compact, target: np.ndarray, weight: FloatArray) -> float:
    output, settings = predictor.judged(compact), predictor.model.settings
    if predictor.model.classes is not None:
        losses = row_log_loss(cast("NDArray[np.integer]", target), output)
        return float(np.average(losses, weights=weight))
    losses = row_losses(settings.objective, target, output, settings.quantiles)
    mean = float(np.average(losses, weights=weight))
    return mean**0.5 if settings.objective == "squared_error" else mean
