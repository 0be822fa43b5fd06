"""A fitted model as what other engines call on batches: Ray Data's `map_batches`, Spark's
`mapInPandas` and `predict_batch_udf`.

All name the model by its file and load it where the rows are, once per process, so that a few
bytes travel and not the networks.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tabwright.errors import TableError
from tabwright.inference.fitted_model import load_fitted
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import prediction_frame
from tabwright.tables import as_frame

if TYPE_CHECKING:
    import pandas as pd

_PIECE_ROWS = 65_536


class BatchPredictor:
    """Predicts batches of rows: the class to give to Ray Data's `map_batches`.

    ``dataset.map_batches(BatchPredictor, fn_constructor_args=("model.safetensors",))``; each actor
    loads the model once, and its file must be where the actors see it.

    Parameters
    ----------
    model : path
        A file that `save` or `tabwright train` wrote.
    keep : sequence of str, default=()
        Columns to put before the predictions, as they come.
    coverage : float, optional
        In regression: add the ends of intervals that hold this share of new values.

    Raises
    ------
    ArtifactError
        If the file is no whole model.
    ValueError
        If the model has no intervals of this coverage.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        keep: Sequence[str] = (),
        coverage: float | None = None,
    ) -> None:
        self._predictor = _loaded(Path(model))
        self._keep, self._coverage = list(keep), coverage
        if coverage is not None:
            self._predictor.half_width(coverage)

    def __call__(self, batch: Any) -> Any:
        """Predictions for the rows of a batch, in the batch's own form.

        `batch`: a pandas DataFrame, an Arrow table, or a dict of arrays of shape (n_rows,), as
        `map_batches` gives it by its `batch_format`.
        Returns the same type: the kept columns, `prediction`, and `probability_LABEL` for every
        label; with a coverage also `low` and `high`.
        Raises `TableError` if a column is missing, or a cell does not fit its column.
        """
        if isinstance(batch, dict):
            import pandas as pd

            columns = self._of(pd.DataFrame(batch))
            return {name: batch[name] for name in self._keep} | {
                series.name: _cells(series) for series in columns.get_columns()
            }
        columns = self._of(batch)
        if hasattr(batch, "column_names"):
            table = columns.to_arrow()
            for place, name in enumerate(self._kept(batch.column_names)):
                table = table.add_column(place, batch.schema.field(name), batch.column(name))
            return table
        import pandas as pd

        predictions = pd.DataFrame(
            {series.name: _cells(series) for series in columns.get_columns()}, index=batch.index
        )
        return pd.concat([batch[self._kept(batch.columns)], predictions], axis=1)

    def _kept(self, columns: Sequence[str]) -> list[str]:
        for name in self._keep:
            if name not in columns:
                raise TableError(
                    f"a kept column must be in the batch; got {name!r}; it has {list(columns)[:10]}"
                )
        return self._keep

    def _of(self, batch: Any) -> pl.DataFrame:
        frame, _ = as_frame(batch, estimator="BatchPredictor", min_rows=0)
        self._kept(frame.columns)
        # Batches of other engines hold more than the model needs, and that is no news.
        plan = self._predictor.model.encoder.plan_
        if plan.named:
            frame = frame[[name for name in frame.columns if name in plan.names]]
        return prediction_frame(self._predictor, frame, self._coverage)


def spark_predictor(
    model: str | os.PathLike[str],
    *,
    keep: Sequence[str] = (),
    coverage: float | None = None,
) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """The function to give to Spark's `mapInPandas`, with `spark_schema` as the schema.

    Parameters
    ----------
    model : path
        As the executors see it. It is loaded where the first batch comes, once per process.
    keep, coverage
        As for `BatchPredictor`.

    Returns
    -------
    callable
        Takes an iterator of pandas frames and gives one; a frame in, a frame of as many rows out.
    """
    path, kept = os.fspath(model), tuple(keep)

    def predict_partition(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        predict: BatchPredictor | None = None
        for batch in batches:
            predict = predict or BatchPredictor(path, kept, coverage)
            for start in range(0, max(len(batch), 1), _PIECE_ROWS):
                yield predict(batch.iloc[start : start + _PIECE_ROWS])

    return predict_partition


def spark_batch_function(
    model: str | os.PathLike[str],
    columns: Sequence[str],
    *,
    coverage: float | None = None,
) -> Callable[[], Callable[..., dict[str, np.ndarray]]]:
    """The `make_predict_fn` to give to Spark's `predict_batch_udf`.

    Its `return_type` is ``StructType.fromDDL(spark_schema(model))``.

    Parameters
    ----------
    model : path
        As the executors see it. It is loaded once per process.
    columns : sequence of str
        Names of the columns that the function is called with, in their order.
    coverage : float, optional
        As for `BatchPredictor`.

    Returns
    -------
    callable
        Gives a function of one ndarray of shape (n_rows,) per column, which gives one per output.

    Raises
    ------
    TableError
        Where it is called, if a column is missing or a cell does not fit its column.
    """
    path, names = os.fspath(model), tuple(columns)
    kind = inspect.Parameter.POSITIONAL_ONLY
    signature = inspect.Signature(
        [inspect.Parameter(f"column_{place}", kind) for place in range(len(names))]
    )

    def make_predict_fn() -> Callable[..., dict[str, np.ndarray]]:
        predict = BatchPredictor(path, coverage=coverage)

        def predict_batch(*cells: np.ndarray) -> dict[str, np.ndarray]:
            found: dict[str, np.ndarray] = predict(dict(zip(names, cells, strict=True)))
            return found

        # Spark counts the parameters to know how many columns come.
        predict_batch.__signature__ = signature  # type: ignore[attr-defined]
        return predict_batch

    return make_predict_fn


def spark_schema(
    model: str | os.PathLike[str],
    *,
    keep: Mapping[str, str] | None = None,
    coverage: float | None = None,
) -> str:
    """What `spark_predictor` and `spark_batch_function` give, as Spark's words for a schema.

    Parameters
    ----------
    model : path
    keep : mapping of str to str, optional
        The kept columns and their Spark types, such as ``{"id": "bigint"}``.
    coverage : float, optional

    Returns
    -------
    str
    """
    frame = prediction_frame(_loaded(Path(model)), _no_rows(Path(model)), coverage)
    types = dict(keep or {}) | {name: _SPARK_TYPES[dtype] for name, dtype in frame.schema.items()}
    return ", ".join(f"`{name.replace('`', '``')}` {kind}" for name, kind in types.items())


_SPARK_TYPES: dict[Any, str] = {
    pl.String: "string",
    pl.Int64: "bigint",
    pl.Float64: "double",
    pl.Boolean: "boolean",
}


def _no_rows(path: Path) -> pl.DataFrame:
    names = _loaded(path).model.encoder.plan_.names
    return pl.DataFrame({name: pl.Series([], dtype=pl.String) for name in names})


def _cells(series: pl.Series) -> np.ndarray:
    """As NumPy has them: text as objects."""
    if series.dtype == pl.String:
        return np.array(series.to_list(), dtype=object)
    return series.to_numpy()


def _loaded(path: Path) -> Predictor:
    """The model of a file, read anew when the file is another."""
    state = path.stat() if path.exists() else None
    return _load(path.absolute(), None if state is None else (state.st_mtime_ns, state.st_size))


@functools.lru_cache(maxsize=4)
def _load(path: Path, state: tuple[int, int] | None) -> Predictor:
    return Predictor(load_fitted(path))
