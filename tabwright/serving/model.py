"""A model as a server holds it: which columns it takes, and answers to rows and to columns.

Everything that a request may get wrong about the columns is found here, before the encoder sees a
cell. What the transport looks like is not known here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.artifact.container import unpack
from tabwright.encoding.encoder import Compact
from tabwright.encoding.values import Kind, Origin
from tabwright.errors import TableError
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.tables.column_names import listed
from tabwright.tables.libraries.objects import object_column

# So many levels are shown to those who ask for the columns; a column may have thousands.
_MOST_LEVELS = 100
# A cell is shown in an error up to here.
_SHOWN = 60


class RequestError(Exception):
    """A request that cannot be answered as it is.

    `message`: the rule, what was received and the way out; it is sent to the client.
    `status`: the HTTP status.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Column:
    """A column that a model reads.

    `dtype`: what holds every cell without loss.
    `levels`: the most frequent levels of a category column; empty for other kinds.
    """

    name: str
    kind: Kind
    dtype: str
    levels: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a model says of some rows.

    `labels`: (n,); by the model's decision rule; None in regression.
    `proba`: (n, n_classes), float64.
    `values`: (n,), float64. None in classification.
    `ends`: (n, 2), float64; of the prediction intervals, where asked for; may be infinite.
    """

    labels: list[Any] | None
    proba: NDArray[np.float64] | None
    values: NDArray[np.float64] | None
    ends: NDArray[np.float64] | None


class ServedModel:
    """A fitted model under a name.

    `version`: changes with the content of the file.
    """

    def __init__(self, name: str, fitted: FittedModel, version: str) -> None:
        self.name = name
        self.fitted = fitted
        self.version = version
        self.classes: list[Any] | None = None if fitted.classes is None else fitted.classes.tolist()
        self._predictor = Predictor(fitted)
        plan = fitted.encoder.plan_
        levels = dict(zip(plan.positions("category"), plan.categories, strict=True))
        origins = dict(zip(plan.positions("numeric"), plan.origins, strict=True))
        self.columns = tuple(
            Column(
                name,
                kind,
                _dtype(kind, origins.get(k)),
                levels[k].levels[:_MOST_LEVELS] if k in levels else (),
            )
            for k, (name, kind) in enumerate(zip(plan.names, plan.kinds, strict=True))
            if kind != "unused"
        )
        self._names = plan.names
        self._needed = frozenset(column.name for column in self.columns)
        # A row of the training table is a row to predict: its target is no mistake.
        self._known = frozenset((*plan.names, *filter(None, (plan.target_name,))))
        # What is made at the first prediction is made before the first request.
        self.predict_rows([dict.fromkeys(self._needed)], None)

    @classmethod
    def load(cls, name: str, path: Path) -> ServedModel:
        """Read a model file.

        Raises `ArtifactError` if the file is not a whole and valid model; `OSError` if it cannot be
            read.
        """
        data = path.read_bytes()
        fitted = FittedModel.from_artifact(*unpack(data, f"the file of model {name!r}"))
        return cls(name, fitted, hashlib.sha256(data).hexdigest()[:12])

    def predict_rows(self, rows: Sequence[Mapping[str, Any]], coverage: float | None) -> Answer:
        """Answer rows, each a mapping of column names to JSON values.

        Raises `RequestError`: naming the row and the column, if columns are missing or unknown, a
            cell does not fit its column, or there are no intervals of this coverage.
        """
        for number, row in enumerate(rows, 1):
            self._check_names(row.keys(), f" in row {number}" if len(rows) > 1 else "")
            for name, cell in row.items():
                _check_cell(name, cell, number)
        self._check_coverage(coverage)
        try:
            if len(rows) == 1:
                compact = self.fitted.encoder.row(rows[0])
            else:
                compact = self._encoded(
                    {
                        name: object_column(name, [row.get(name) for row in rows])
                        for name in self._names
                    }
                )
        except TableError as error:
            raise RequestError(str(error)) from None
        return self._answer(compact, coverage)

    def predict_columns(self, columns: Mapping[str, pl.Series], coverage: float | None) -> Answer:
        """Answer a table given as columns of one length.

        Raises `RequestError`: as in `predict_rows`.
        """
        self._check_names(columns.keys(), "")
        self._check_coverage(coverage)
        n_rows = len(next(iter(columns.values())))
        try:
            if n_rows == 1:
                compact = self.fitted.encoder.row(
                    {
                        name: cell if cell.dtype == pl.Float32 else cell[0]
                        for name, cell in columns.items()
                    }
                )
            else:
                absent = pl.Series([None] * n_rows, dtype=pl.Null)
                compact = self._encoded({name: columns.get(name, absent) for name in self._names})
        except TableError as error:
            raise RequestError(str(error)) from None
        return self._answer(compact, coverage)

    def _check_names(self, names: Any, where: str) -> None:
        """Refuse rows that lack a column, or have one that the model does not know."""
        lacking = self._needed - names
        if lacking:
            raise RequestError(
                f"every column of the model must be given; {listed(sorted(lacking))} "
                f"{'is' if len(lacking) == 1 else 'are'} missing{where}; give null for a missing "
                "value"
            )
        unknown = names - self._known
        if unknown:
            raise RequestError(
                f"columns must be those of the model; got {listed(sorted(unknown))}{where}; leave "
                f"{'it' if len(unknown) == 1 else 'them'} out; the model has "
                f"{listed([column.name for column in self.columns])}"
            )

    def _check_coverage(self, coverage: float | None) -> None:
        if coverage is None:
            return
        try:
            self._predictor.half_width(coverage)
        except ValueError as error:
            raise RequestError(f"{error}; leave 'coverage' out for a plain prediction") from None

    def _encoded(self, columns: Mapping[str, pl.Series]) -> Compact:
        return self.fitted.encoder.transform(pl.DataFrame(dict(columns)))

    def _answer(self, compact: Compact, coverage: float | None) -> Answer:
        outputs = self._predictor.network(compact)
        if self.classes is None:
            ends = None if coverage is None else self._predictor.intervals(compact, coverage)
            return Answer(None, None, outputs, ends)
        proba = self._predictor.calibrated(outputs)
        labels = [self.classes[k] for k in self._predictor.decide(proba).tolist()]
        return Answer(labels, proba, None, None)


def _dtype(kind: Kind, origin: Origin) -> str:
    """The type of a column; an origin tells of numbers that float64 cannot hold."""
    if kind == "boolean":
        return "bool"
    if kind != "numeric" or not isinstance(origin, int | None):
        return "string"
    if origin is None:
        return "float64"
    return "int64" if -(2**63) <= origin < 2**62 else "uint64"


def _check_cell(name: str, cell: object, number: int) -> None:
    """Refuse lists and objects as cells, and text that is not Unicode."""
    kind = type(cell)
    if kind is str:
        check_text(name, str(cell), number)
    elif kind is dict or kind is list:
        raise RequestError(
            f"column {name!r} must hold single values (numbers, text, true and false, null); got "
            f"{shown(cell)} in row {number}; give each value a column of its own"
        )


def check_text(name: str, cell: str, number: int) -> None:
    """Refuse text that is not Unicode: half of a surrogate pair, which JSON can spell."""
    if not cell.isascii() and any("\ud800" <= character <= "\udfff" for character in cell):
        raise RequestError(
            f"column {name!r} must hold valid Unicode; got {shown(cell)} in row {number}; replace "
            "the characters that are half of a surrogate pair"
        )


def shown(value: object) -> str:
    """A value for a message, as ASCII, cut where it is long."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
