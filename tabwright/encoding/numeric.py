"""Numeric columns: centre and scale, quantile maps, piecewise-linear bins.

Here live `NumericColumns`, the fitted encoding of all numeric columns of a table, and how it is
fitted. It turns float64 values into the float32 values of the compact form and says which bins
those fall into. `tables` reads the values out of a table.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tabwright.artifact.schema import Reader, TensorBag
from tabwright.encoding.supervised.tree_thresholds import (
    TreeTarget,
    fewest_rows,
    spread_rows,
    tree_thresholds,
)
from tabwright.errors import ArtifactError
from tabwright.settings import NumericEncoding

ResolvedEncoding = Literal["standard", "robust", "quantile_normal", "quantile_ple", "tree_ple"]
_ENCODINGS: tuple[ResolvedEncoding, ...] = (
    "standard",
    "robust",
    "quantile_normal",
    "quantile_ple",
    "tree_ple",
)
_DEFAULT: ResolvedEncoding = "tree_ple"
SAMPLE_ROWS = 100_000
# All bins of a table together; past it columns get fewer bins each, and none below 2 each.
_BIN_BUDGET = 16_384
# Scaled values stay within it: its square still is a float32.
_LIMIT = 1e18
# Raw values stay within it: the difference of two still is a float64.
_RAW_LIMIT = 8e307
_NARROWEST_BIN = 1e-30
_NORMAL_KNOTS = 513
_NORMAL_SPAN = 5.0
_STEEPEST = 1e300

Values = NDArray[np.float64]


def resolve_encoding(
    encoding: NumericEncoding, n_columns: int, *, has_target: bool = True
) -> ResolvedEncoding:
    """What `"auto"` stands for; piecewise-linear encodings of very wide tables become "robust".

    `n_columns`: numeric columns of the table.
    `has_target`: without a target `"auto"` is "quantile_ple".
    """
    default = _DEFAULT if has_target else "quantile_ple"
    resolved: ResolvedEncoding = default if encoding == "auto" else encoding
    if resolved in ("quantile_ple", "tree_ple") and 2 * n_columns > _BIN_BUDGET:
        return "robust"
    return resolved


def bins_per_column(n_bins: int, n_columns: int) -> int:
    """Bins that a column may have in a table of `n_columns` numeric columns."""
    return min(n_bins, max(2, _BIN_BUDGET // max(n_columns, 1)))


@dataclass(frozen=True)
class NumericFit:
    """The fitted encoding of one column.

    `centre`, `scale`: the scaled value is (value - centre) * scale.
    `lower`, `upper`: Values are clipped to this range first: the training range, for numbers
        widened by its own length on both sides. Infinities end up there too.
    `edges`: (n_bins + 1,), float32; strictly increasing edges of the bins in scaled units; empty
        without bins.
    `knots`, `scores`: (n_knots,), float64; scaled values and their normal scores
        ("quantile_normal"); empty otherwise.
    """

    centre: float
    scale: float
    lower: float
    upper: float
    edges: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    knots: Values = field(default_factory=lambda: np.empty(0))
    scores: Values = field(default_factory=lambda: np.empty(0))

    def scaled(self, values: Values) -> NDArray[np.float32]:
        """Values in scaled units, before any quantile map; NaN stays NaN."""
        clipped = np.clip(values, self.lower, self.upper)
        result: NDArray[np.float32] = ((clipped - self.centre) * self.scale).astype(np.float32)
        return result


def fit_numeric(
    values: Values,
    sample: NDArray[np.int64] | None,
    encoding: ResolvedEncoding,
    *,
    n_bins: int,
    tree: TreeTarget | None = None,
    extrapolates: bool = True,
) -> NumericFit:
    """Fit one column.

    Centre and scale of all but "standard" are the median and 1 / (interquartile range), or
    2 / (max - min) where that range is empty, or 0 (Holzmüller, Grinsztajn, Steinwart, "Better by
    Default", 2024, section 3). Bins are piecewise-linear encodings of Gorishniy, Rubachev,
    Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning", 2022, section 3.2,
    with two deviations: every component is clipped to [0, 1], beyond the training range too; and
    in quantile bins a value that holds more than a bin's share of the rows gets an edge of its
    own and the other rows share the other edges, so that a column that is mostly zero keeps
    bins for the rest.

    `values`: (n_rows,), float64; training rows; NaN is missing.
    `sample`: rows that quantiles and bins are fitted on; None: all of them.
    `n_bins`: at most so many.
    `tree`: needed by "tree_ple".
    `extrapolates`: whether values past the training range go on to differ, up to its own length on
        either side; otherwise they are taken for its ends.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return NumericFit(centre=0.0, scale=0.0, lower=0.0, upper=0.0)
    finite = np.clip(finite, -_RAW_LIMIT, _RAW_LIMIT)
    low, high = float(finite.min()), float(finite.max())
    rows = values if sample is None else values[sample]
    known = np.isfinite(rows)
    chosen = np.clip(rows[known], -_RAW_LIMIT, _RAW_LIMIT)
    if chosen.size == 0:
        chosen = finite[:SAMPLE_ROWS]
        known = None  # type: ignore[assignment]
    ordered = np.sort(chosen)
    centre, scale = _standard(finite) if encoding == "standard" else _robust(ordered, low, high)
    lower, upper = _clip_range(low, high, centre, scale)
    if not extrapolates:
        lower, upper = max(lower, low), min(upper, high)
    fit = NumericFit(centre, scale, lower, upper)
    scaled = (np.clip(ordered, lower, upper) - centre) * scale
    if encoding == "quantile_normal":
        knots, scores = _normal_knots(scaled)
        return replace(fit, knots=knots, scores=scores)
    if encoding in ("quantile_ple", "tree_ple") and scale > 0:
        if encoding == "tree_ple" and tree is not None and known is not None:
            plain = ((np.clip(chosen, lower, upper) - centre) * scale).astype(np.float32)
            index = np.flatnonzero(known) if sample is None else sample[known]
            some = spread_rows(len(plain))
            plain, index = plain[some], index[some]
            inner = tree_thresholds(
                plain, index, tree, n_leaves=n_bins, min_rows=fewest_rows(len(plain), n_bins)
            )
        else:
            inner = _quantile_edges(scaled.astype(np.float32), n_bins)
        edges = strict_edges(inner, *scaled[[0, -1]].astype(np.float32).tolist())
        return replace(fit, edges=edges)
    return fit


def _standard(finite: Values) -> tuple[float, float]:
    """The mean, and one over the deviation; 0 where the values do not vary."""
    # Divided first, so that squares of 1e300 do not overflow.
    largest = float(np.abs(finite).max())
    unit = largest if largest > 1e100 else 1.0
    part = finite / unit
    mean, deviation = float(part.mean()), float(part.std())
    constant = float(finite.min()) == float(finite.max())
    if constant or deviation == 0.0 or not deviation * unit > 0:
        return mean * unit, 0.0
    return mean * unit, min(1.0 / deviation / unit, 1e300)


def _at(ordered: Values, share: float) -> float:
    """Quantile of sorted values, linear between neighbours, without overflow."""
    position = share * (len(ordered) - 1)
    left = int(position)
    right = min(left + 1, len(ordered) - 1)
    weight = position - left
    return float(ordered[left]) * (1.0 - weight) + float(ordered[right]) * weight


def _robust(ordered: Values, low: float, high: float) -> tuple[float, float]:
    centre = _at(ordered, 0.5)
    half = _at(ordered, 0.75) / 2 - _at(ordered, 0.25) / 2
    if half > 0:
        return centre, min(0.5 / half, 1e300)
    half = high / 2 - low / 2
    return centre, min(1.0 / half, 1e300) if half > 0 else 0.0


def _clip_range(low: float, high: float, centre: float, scale: float) -> tuple[float, float]:
    span = min(high - low, _RAW_LIMIT)
    reach = _LIMIT / scale if scale > 0 else _RAW_LIMIT
    lower = max(low - span, centre - reach, -_RAW_LIMIT)
    upper = min(high + span, centre + reach, _RAW_LIMIT)
    return min(lower, centre), max(upper, centre)


def _normal_knots(scaled: Values) -> tuple[Values, Values]:
    """Values and their standard normal scores: a monotone, piecewise-linear quantile map."""
    if scaled[0] == scaled[-1]:
        return np.empty(0), np.empty(0)
    n = len(scaled)
    at = np.unique(np.round(np.linspace(0, n - 1, min(_NORMAL_KNOTS, n))).astype(np.int64))
    knots = np.unique(scaled[at])
    # Tied values get the score of the middle of their ranks.
    first = np.searchsorted(scaled, knots, side="left")
    last = np.searchsorted(scaled, knots, side="right")
    inverse = NormalDist().inv_cdf
    shares = ((first + last) / 2 / n).tolist()
    scores = np.array([inverse(min(max(share, 0.5 / n), 1 - 0.5 / n)) for share in shares])
    return knots, np.clip(scores, -_NORMAL_SPAN, _NORMAL_SPAN)


def _quantile_edges(ordered: NDArray[np.float32], n_bins: int) -> NDArray[np.float32]:
    """Edges of bins of equal counts; a value that fills a bin alone has an edge."""
    distinct, counts = np.unique(ordered, return_counts=True)
    if len(distinct) <= n_bins + 1:
        return distinct
    heavy = distinct[counts * n_bins > len(ordered)]
    rest = ordered[~np.isin(ordered, heavy)] if heavy.size else ordered
    n_edges = max(n_bins + 1 - heavy.size, 2)
    at = np.round(np.linspace(0, len(rest) - 1, n_edges)).astype(np.int64)
    return np.unique(np.concatenate([heavy, rest[at]])) if rest.size else heavy


def strict_edges(inner: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Edges of bins between two ends, those too near to another left out; empty for one value."""
    edges = [np.float32(low)]
    for edge in inner.tolist():
        if edge - float(edges[-1]) > _NARROWEST_BIN and high - edge > _NARROWEST_BIN:
            edges.append(np.float32(edge))
    if high - float(edges[-1]) > _NARROWEST_BIN:
        edges.append(np.float32(high))
    return np.array(edges if len(edges) > 1 else [], dtype=np.float32)


@dataclass(frozen=True)
class NumericColumns:
    """The fitted encoding of all numeric columns.

    `keep_value`: whether a column with bins keeps its value as an input of its own too.
    `centre`, `scale`, `lower`, `upper`: (n_columns,), float64; see `NumericFit`.
    `edges`: edges of all columns, one after the other.
    `edge_offsets`: (n_columns + 1,), int64.
    `knot_offsets`: (n_columns + 1,), int64.
    """

    encoding: ResolvedEncoding
    keep_value: bool
    centre: Values
    scale: Values
    lower: Values
    upper: Values
    edges: NDArray[np.float32]
    edge_offsets: NDArray[np.int64]
    knots: Values
    scores: Values
    knot_offsets: NDArray[np.int64]

    @classmethod
    def of(
        cls, fits: Sequence[NumericFit], encoding: ResolvedEncoding, keep_value: bool
    ) -> NumericColumns:
        """Put fitted columns together."""

        def vector(name: str) -> Values:
            return np.array([getattr(fit, name) for fit in fits], dtype=np.float64)

        def joined(parts: list[NDArray[Any]], dtype: str) -> tuple[Any, NDArray[np.int64]]:
            offsets = np.zeros(len(parts) + 1, dtype=np.int64)
            np.cumsum([len(part) for part in parts], out=offsets[1:])
            return np.concatenate([np.empty(0, dtype=dtype), *parts]).astype(dtype), offsets

        edges, edge_offsets = joined([fit.edges for fit in fits], "float32")
        knots, knot_offsets = joined([fit.knots for fit in fits], "float64")
        scores, _ = joined([fit.scores for fit in fits], "float64")
        return cls(
            encoding=encoding,
            keep_value=keep_value or encoding not in ("quantile_ple", "tree_ple"),
            centre=vector("centre"),
            scale=vector("scale"),
            lower=vector("lower"),
            upper=vector("upper"),
            edges=edges,
            edge_offsets=edge_offsets,
            knots=knots,
            scores=scores,
            knot_offsets=knot_offsets,
        )

    def __len__(self) -> int:
        return len(self.centre)

    @property
    def smooth(self) -> bool:
        """Whether values pass the smooth clip on their way to the network."""
        return self.encoding in ("robust", "quantile_ple", "tree_ple")

    def encode(self, column: int, values: Values) -> Values:
        """Values of one column in the units of the compact form.

        `values`: (n,), float64. NaN is missing and stays NaN; infinities are clipped.
        Returns: (n,), float64.
        """
        scaled = np.clip(values, self.lower[column], self.upper[column])
        scaled -= self.centre[column]
        scaled *= self.scale[column]
        knots, scores, slopes = self._map(column)
        if knots.size == 0:
            return scaled
        at = np.searchsorted(knots, scaled, side="right") - 1
        np.clip(at, 0, len(knots) - 2, out=at)
        moved = np.clip(scaled, knots[0], knots[-1])
        moved -= knots[at]
        moved *= slopes[at]
        moved += scores[at]
        return moved

    def scalar(self, column: int) -> Callable[[float], float]:
        """`encode` of one known value of a column: the same float64 operations in plain Python."""
        lower, upper = float(self.lower[column]), float(self.upper[column])
        centre, scale = float(self.centre[column]), float(self.scale[column])

        def linear(value: float) -> float:
            value = lower if value < lower else upper if value > upper else value
            return (value - centre) * scale

        knots, scores, slopes = (part.tolist() for part in self._map(column))
        if not knots:
            return linear
        last = len(knots) - 2

        def mapped(value: float) -> float:
            scaled = linear(value)
            at = min(max(bisect_right(knots, scaled) - 1, 0), last)
            moved: float = min(max(scaled, knots[0]), knots[-1]) - knots[at]
            return float(moved * slopes[at] + scores[at])

        return mapped

    def _map(self, column: int) -> tuple[Values, Values, Values]:
        part = slice(int(self.knot_offsets[column]), int(self.knot_offsets[column + 1]))
        knots, scores = self.knots[part], self.scores[part]
        # Knots may lie so near that a slope is past float64; a step is what it then is.
        with np.errstate(over="ignore"):
            slopes = np.minimum(np.diff(scores) / np.diff(knots), _STEEPEST)
        return knots, scores, slopes

    def bins(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Column, left edge and inverse width of every bin, in the order of the inputs."""
        counts = np.maximum(np.diff(self.edge_offsets) - 1, 0)
        source = np.repeat(np.arange(len(self), dtype=np.int64), counts)
        if not len(source):
            return source, np.empty(0, dtype=np.float32), np.empty(0, dtype=np.float32)
        last = self.edge_offsets[1:][np.diff(self.edge_offsets) > 0] - 1
        is_left = np.ones(len(self.edges), dtype=bool)
        is_left[last] = False
        left = self.edges[is_left]
        is_right = np.roll(is_left, 1)
        # The widths of float32 edges, in float64 so that the inverse is rounded once.
        width = self.edges[is_right].astype(np.float64) - left.astype(np.float64)
        return source, left, (1.0 / width).astype(np.float32)

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The document and the arrays of the artifact."""
        arrays = {name: getattr(self, name) for name in (*_VECTORS, *_RAGGED)}
        return {"encoding": self.encoding, "keep_value": self.keep_value}, arrays

    @classmethod
    def from_state(cls, document: Reader, tensors: TensorBag, n_columns: int) -> NumericColumns:
        """Read the encoding back and check it.

        Raises `ArtifactError` if arrays do not fit together, edges or knots do not increase, or
            ranges are empty.
        """
        encoding = document.choice("encoding", _ENCODINGS)
        keep_value = document.boolean("keep_value")
        document.done()
        vectors = {
            name: tensors.take(name, "float64", (n_columns,), low=-1e308, high=1e308)
            for name in _VECTORS
        }
        ragged = {name: tensors.take(name, dtype, (None,)) for name, dtype in _RAGGED.items()}
        columns = cls(encoding=encoding, keep_value=keep_value, **vectors, **ragged)
        columns._check()
        return columns

    def _check(self) -> None:
        """Refuse arrays that no fit gives."""
        piecewise = self.encoding in ("quantile_ple", "tree_ple")
        if len(self.edges) and not piecewise:
            raise ArtifactError(f"encoder.edges must be empty for encoding {self.encoding!r}")
        if len(self.knots) and self.encoding != "quantile_normal":
            raise ArtifactError(f"encoder.knots must be empty for encoding {self.encoding!r}")
        if not piecewise and not self.keep_value:
            raise ArtifactError(f"encoder.keep_value must be true for encoding {self.encoding!r}")
        if (self.scale < 0).any() or (self.lower > self.upper).any():
            raise ArtifactError("encoder.scale must not be negative, nor lower be above upper")
        # What the clip lets through must fit a float32, squared, for the smooth clip.
        with np.errstate(over="ignore", invalid="ignore"):
            reach = [(edge - self.centre) * self.scale for edge in (self.lower, self.upper)]
        if not all((np.abs(part) <= 2 * _LIMIT).all() for part in reach):
            raise ArtifactError(f"encoder.lower and upper must be within {_LIMIT} once scaled")
        _check_ragged("edges", self.edges, self.edge_offsets, len(self), _NARROWEST_BIN / 2)
        _check_ragged("knots", self.knots, self.knot_offsets, len(self), 0.0)
        if len(self.scores) != len(self.knots) or (np.abs(self.scores) > _NORMAL_SPAN).any():
            raise ArtifactError(
                f"encoder.scores must hold one value within {_NORMAL_SPAN} per knot"
            )


_VECTORS = ("centre", "scale", "lower", "upper")
_RAGGED = {
    "edges": "float32",
    "edge_offsets": "int64",
    "knots": "float64",
    "scores": "float64",
    "knot_offsets": "int64",
}


def _check_ragged(
    name: str, values: NDArray[Any], offsets: NDArray[np.int64], n_columns: int, narrowest: float
) -> None:
    """Refuse edges or knots that do not increase in each column."""
    fits = len(offsets) == n_columns + 1 and offsets[0] == 0 and offsets[-1] == len(values)
    if not fits or (np.diff(offsets) < 0).any() or (np.diff(offsets) == 1).any():
        raise ArtifactError(
            f"encoder.{name} must hold none or at least 2 values for each of {n_columns} columns"
        )
    steps = np.diff(values.astype(np.float64))
    inside = np.ones(len(steps), dtype=bool)
    borders = offsets[1:-1]
    inside[borders[(borders > 0) & (borders < len(values))] - 1] = False
    if not (steps[inside] > narrowest).all():
        raise ArtifactError(f"encoder.{name} must increase within each column")
