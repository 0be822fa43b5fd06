"""Rows whose cells come from different rows: how a model answers when single columns change.

Rows are encoded once. A mixed row names, for each column, the row that its cell comes from, so
that dates, categories and missing cells are exchanged whole, never as single network inputs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.encoding.encoder import Compact
from tabwright.encoding.pair_columns import fill_pairs
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.tables.cell_format import USUAL, typed_cells

FloatArray = NDArray[np.float64]
Scale = Literal["probability", "log_odds"]

_BLOCK_ROWS = 16_384
# Probabilities of 0 would have no log-odds.
_SMALLEST = 1e-12


def column_as_read(model: FittedModel, frame: pl.DataFrame, name: str) -> pl.Series:
    """A column as the model reads it: text of numbers and dates as what it means."""
    encoder = model.encoder
    place = list(encoder.feature_names_in_).index(name)
    kind = encoder.plan_.kinds[place]
    if kind not in ("numeric", "datetime"):
        return frame[name]
    return typed_cells(frame[name], kind, encoder.plan_.formats.get(place, USUAL))


class MixedRows:
    """The outputs of a model on rows whose cells come from a pool of rows.

    `pool`: the columns of training.
    `scale`: Of a classifier's outputs: probabilities, or log-odds for two classes and centred
        log-probabilities for more. A regression gives values on either.
    """

    def __init__(
        self, predictor: Predictor, pool: pl.DataFrame, scale: Scale = "probability"
    ) -> None:
        encoder = predictor.model.encoder
        owned = encoder.plan_.compact_columns()
        self.predictor, self.scale = predictor, scale
        self.names = tuple(encoder.feature_names_in_[place] for place in owned)
        self._compact = encoder.transform(pool)
        self._pairs = encoder.plan_.pairs
        self._parts = list(owned.values())
        classes = predictor.model.classes
        # Of two classes one says all.
        self._first = 0 if classes is None or len(classes) > 2 else 1
        self.outputs = (
            ("value",) if classes is None else tuple(map(str, classes[self._first :].tolist()))
        )

    def __call__(self, places: NDArray[np.int64]) -> FloatArray:
        """The outputs of mixed rows.

        `places`: (n, n_columns), int64; for each column of `names` the row of the pool that gives
            the cell.
        Returns: (n, n_outputs), float64.
        """
        blocks = [
            self._block(places[at : at + _BLOCK_ROWS]) for at in range(0, len(places), _BLOCK_ROWS)
        ]
        return np.concatenate(blocks)

    def _block(self, places: NDArray[np.int64]) -> FloatArray:
        """Outputs (n, n_outputs) of rows whose columns come from different rows."""
        source, n = self._compact, len(places)
        numeric = np.empty((n, source.numeric.shape[1]), dtype=np.float32)
        codes = np.empty((n, source.codes.shape[1]), dtype=np.int32)
        for column, (numbers, levels) in enumerate(self._parts):
            rows = places[:, column, None]
            numeric[:, numbers] = source.numeric[rows, numbers]
            codes[:, levels] = source.codes[rows, levels]
        fill_pairs(self._pairs, numeric)
        output = self.predictor.network(Compact(numeric, codes))
        if self.predictor.model.classes is None:
            return output[:, None]
        proba: FloatArray = self.predictor.calibrated(output)
        if self.scale == "log_odds":
            logs: FloatArray = np.log(np.clip(proba, _SMALLEST, None))
            if self._first:
                return logs[:, 1:] - logs[:, :1]
            centred: FloatArray = logs - logs.mean(axis=1, keepdims=True)
            return centred
        return proba[:, self._first :]
