"""Additive attributions: how much each column moves a row's output away from the average.

Shapley values of the game whose players are the raw columns (Lundberg and Lee, "A Unified
Approach to Interpreting Model Predictions", 2017): columns outside a coalition take their cells
from background rows. Of up to ten columns all coalitions are summed; of more, orders of the columns
are drawn, each with its reverse (Mitchell, Cooper, Frank and Holmes, "Sampling Permutations for
Shapley Value Estimation", 2022), which is exact where at most two columns act together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.explanation.columns import MixedRows, Scale, column_as_read
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor

FloatArray = NDArray[np.float64]

# So many columns have 1,024 coalitions; each further one doubles the work.
EXACT_COLUMNS = 10
# Cells of the mixed rows that are put together at once.
_CELLS_AT_ONCE = 2**22
_N_BOOTSTRAP = 1000
# Shorter work needs no warning.
_REPORTED_FROM_SECONDS = 3.0


@dataclass(frozen=True, eq=False)
class Explanation:
    """Attributions of raw columns, row by row.

    Parameters
    ----------
    columns : tuple of str, length n_columns
        The columns that the model uses.
    outputs : tuple of str, length n_outputs
        "value" in regression; the second label of two; all labels of more.
    attributions : ndarray of shape (n_rows, n_columns, n_outputs), float64
        In the target's unit, in probability or in log-odds. With `base` they sum to `output`.
    base : ndarray of shape (n_outputs,), float64
        The mean output of the background rows.
    output : ndarray of shape (n_rows, n_outputs), float64
        What the model says of the rows.
    scale : {"probability", "log_odds"}
    cells : polars.DataFrame
        The cells of the rows, `columns` only.
    cells_as_read : polars.DataFrame
        The same as the model reads them: text of numbers and dates is what it means.
    exact : bool
        Whether all coalitions were summed.
    target : str, optional
        What is predicted, where the model knows its name.
    """

    columns: tuple[str, ...]
    outputs: tuple[str, ...]
    attributions: FloatArray
    base: FloatArray
    output: FloatArray
    scale: Scale
    cells: pl.DataFrame
    cells_as_read: pl.DataFrame
    exact: bool
    target: str | None = None

    def importance(self, output: int = 0, *, random_state: int = 0) -> pl.DataFrame:
        """Mean size of the attributions of each column, the largest first.

        Parameters
        ----------
        output : int, default=0
            Which of `outputs`.
        random_state : int, default=0
            Of the bootstrap over the rows.

        Returns
        -------
        polars.DataFrame
            `column`, `importance`, and `low` and `high`, the ends of a 95 % bootstrap interval.

        Raises
        ------
        ValueError
            If there is no such output.
        """
        self._check("output", output, len(self.outputs))
        sizes = np.abs(self.attributions[:, :, output])
        rng = np.random.default_rng(random_state)
        n = len(sizes)
        drawn = rng.multinomial(n, np.full(n, 1.0 / n), size=_N_BOOTSTRAP) @ sizes / n
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        mean = sizes.mean(axis=0)
        return pl.DataFrame(
            {
                "column": self.columns,
                "importance": mean,
                "low": np.minimum(low, mean),
                "high": np.maximum(high, mean),
            }
        ).sort("importance", descending=True, maintain_order=True)

    def row(self, row: int = 0, output: int = 0) -> pl.DataFrame:
        """The attributions of one row, the largest first.

        Parameters
        ----------
        row : int, default=0
            Counted from 0 among the explained rows.
        output : int, default=0
            Which of `outputs`.

        Returns
        -------
        polars.DataFrame
            `column`, `cell` (as text; null where missing) and `attribution`.

        Raises
        ------
        ValueError
            If there is no such row or output.
        """
        self._check("row", row, len(self.attributions))
        self._check("output", output, len(self.outputs))
        cells = [_cell_text(self.cells[name], row) for name in self.columns]
        values = self.attributions[row, :, output]
        order = np.argsort(-np.abs(values), kind="stable")
        return pl.DataFrame(
            {
                "column": [self.columns[i] for i in order],
                "cell": pl.Series([cells[i] for i in order], dtype=pl.String),
                "attribution": values[order],
            }
        )

    @staticmethod
    def _check(name: str, number: int, n: int) -> None:
        """Refuse the number of a row or an output that is not there."""
        if not 0 <= number < n:
            raise ValueError(f"{name} must be from 0 to {n - 1:,}; got {number!r}")


def _cell_text(column: pl.Series, row: int) -> str | None:
    """A cell as text; whole numbers have no point, also where others of the column have."""
    # Methods of a series read its name as a pattern.
    column = column.alias("")
    cell = column[row]
    if isinstance(cell, str) and not cell.strip():
        # How a CSV file is read has an empty cell as text.
        return None
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return f"{cell:.0f}"
    text: str | None = column.slice(row, 1).cast(pl.String)[0]
    return text


def explain(
    model: FittedModel,
    frame: pl.DataFrame,
    background: pl.DataFrame | None = None,
    *,
    scale: Scale = "probability",
    max_background: int = 100,
    n_permutations: int = 10,
    exact_columns: int = EXACT_COLUMNS,
    random_state: int = 0,
    on_message: Callable[[str], None] | None = None,
) -> Explanation:
    """Attribute a model's outputs to the raw columns.

    Parameters
    ----------
    model : FittedModel
    frame : polars.DataFrame
        Rows to explain, with the columns of training.
    background : polars.DataFrame, optional
        Rows that say what is usual; by default `frame` itself.
    scale : {"probability", "log_odds"}, default="probability"
        Of a classifier's outputs; regression is in the target's unit.
    max_background : int, default=100
        Of more background rows so many are drawn. More make the attributions steadier, and take
        longer in proportion.
    n_permutations : int, default=10
        Of tables with more than `exact_columns`: orders of the columns, each taken in reverse too.
    exact_columns : int, default=10
        Of so many columns all coalitions are summed; each further one doubles the work.
    random_state : int, default=0
    on_message : callable, optional
        Called with a sentence on the time it will take, where that is more than seconds.

    Returns
    -------
    Explanation

    Raises
    ------
    TableError
        If the columns are not those of training.
    ValueError
        If there are no rows, or a single row and no background.
    """
    if scale not in ("probability", "log_odds"):
        raise ValueError(f"scale must be 'probability' or 'log_odds'; got {scale!r}")
    if scale == "log_odds" and model.classes is None:
        raise ValueError(
            "scale='log_odds' is for a classifier's probabilities; got it for a regression, which "
            "is explained in the target's unit; leave it out"
        )
    for name, value, least in (
        ("max_background", max_background, 1),
        ("n_permutations", n_permutations, 1),
        ("exact_columns", exact_columns, 0),
    ):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be at least {least}; got {value!r}")
    if not model.encoder.named:
        fitted = model.encoder.fitted_columns()
        frame = fitted.of(frame, named=True, argument="the table")
        if background is not None:
            background = fitted.of(background, named=True, argument="the table")
    others = frame if background is None else background
    if not len(frame) or not len(others):
        raise ValueError("an explanation needs at least one row and one background row; got none")
    if background is None and len(frame) == 1:
        raise ValueError(
            "a row is explained by what sets it apart from others; got 1 row and no others; give "
            "background rows, for example those of training"
        )
    rng = np.random.default_rng(random_state)
    if len(others) > max_background:
        others = others[np.sort(rng.choice(len(others), max_background, replace=False))]
    # A column that one of them lacks is told when they are encoded.
    given = set(frame.columns).intersection(others.columns)
    used = [name for name in model.encoder.feature_names_in_ if name in given]
    pool = pl.concat([frame[used], others[used]], how="vertical_relaxed")
    game = MixedRows(Predictor(model), pool, scale)
    n_rows, n_columns = len(frame), len(game.names)
    exact = n_columns <= exact_columns
    # A cell is the number of the row of the pool that it comes from.
    places = np.tile(np.arange(len(pool), dtype=np.int64)[:, None], n_columns)
    if on_message is not None:
        n_outputs = (
            n_rows * len(others) * predictions_a_row(n_columns, n_permutations, exact_columns)
        )
        _report_duration(game, places, n_outputs, n_rows, on_message)
    base, output = game(places[n_rows:]).mean(axis=0), game(places[:n_rows])
    orders = None if exact else [rng.permutation(n_columns) for _ in range(n_permutations)]
    attributions = np.empty((n_rows, n_columns, len(game.outputs)))
    for row in range(n_rows):
        mean_of = _Coalitions(game, row, places[n_rows:], base, output[row])
        attributions[row] = _all_summed(mean_of) if orders is None else _along(orders, mean_of)
    return Explanation(
        columns=game.names,
        outputs=game.outputs,
        attributions=attributions,
        base=base,
        output=output,
        scale=scale,
        cells=frame[list(game.names)],
        cells_as_read=pl.DataFrame(
            {name: column_as_read(model, frame, name) for name in game.names}
        ),
        exact=exact,
        target=target if isinstance(target := model.card.get("target"), str) else None,
    )


def predictions_a_row(
    n_columns: int, n_permutations: int, exact_columns: int = EXACT_COLUMNS
) -> int:
    """How many mixed rows are predicted for a row, for each row of the background."""
    if n_columns <= exact_columns:
        return 1 << n_columns
    return n_permutations * 2 * (n_columns - 1)


@dataclass(frozen=True, eq=False)
class _Coalitions:
    """The mean output when some columns have a row's cells and the others those of `background`."""

    game: MixedRows
    row: int
    background: NDArray[np.int64]
    of_none: FloatArray
    of_all: FloatArray

    def __call__(self, masks: NDArray[np.bool_]) -> FloatArray:
        """Of coalitions, (n, n_columns): means of shape (n, n_outputs)."""
        n_rows, n_columns = self.background.shape
        step = max(1, _CELLS_AT_ONCE // (n_rows * n_columns))
        means = []
        for at in range(0, len(masks), step):
            chosen = masks[at : at + step, None, :]
            mixed = np.where(chosen, self.row, self.background).reshape(-1, n_columns)
            means.append(self.game(mixed).reshape(-1, n_rows, len(self.of_none)).mean(axis=1))
        return np.concatenate(means)


def _all_summed(value: _Coalitions) -> FloatArray:
    """Shapley values by their definition, (n_columns, n_outputs)."""
    n = value.background.shape[1]
    masks = (np.arange(2**n)[:, None] >> np.arange(n)) % 2 == 1
    values = value(masks)
    size = masks.sum(axis=1)
    # What a coalition of each size counts where it has the column, and where it lacks it.
    shares = np.array([1.0 / (n * math.comb(n - 1, k)) for k in range(n)])
    weights = np.where(masks, shares[size[:, None] - 1], -shares[np.minimum(size, n - 1)[:, None]])
    found: FloatArray = weights.T @ values
    return found


def _along(orders: list[NDArray[np.int64]], value: _Coalitions) -> FloatArray:
    """What each column adds where columns join one by one, (n_columns, n_outputs).

    A mean over the orders, each also taken from its end.
    """
    found = np.zeros((len(orders[0]), len(value.of_none)))
    for order in [direction for drawn in orders for direction in (drawn, drawn[::-1])]:
        joined = np.argsort(order) <= np.arange(len(order) - 1)[:, None]
        steps = np.concatenate([value.of_none[None], value(joined), value.of_all[None]])
        found[order] += np.diff(steps, axis=0)
    return found / (2 * len(orders))


def _report_duration(
    game: MixedRows,
    places: NDArray[np.int64],
    n_outputs: int,
    n_rows: int,
    on_message: Callable[[str], None],
) -> None:
    """Say how long it will take, from the time of a small part."""
    trial = np.resize(places, (1024, places.shape[1]))
    game(trial)
    started = time.perf_counter()
    game(trial)
    seconds = (time.perf_counter() - started) / len(trial) * n_outputs
    if seconds >= _REPORTED_FROM_SECONDS:
        duration = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        on_message(
            f"explaining {n_rows:,} rows takes about {duration}: "
            f"{n_outputs:,} mixed rows are predicted"
        )
