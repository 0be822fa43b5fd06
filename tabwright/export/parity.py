"""Whether an ONNX graph says what the model says: the rows to ask about, and the report.

The rows come from the state of the encoder: edges of bins and their neighbours, knots, clip
limits, every level, unseen ones, missing cells, turns of the calendar, infinities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.calibration.calibrator import log_proba, softmax
from tabwright.calibration.decisions import DecisionRule
from tabwright.encoding.categorical import CategoryColumn
from tabwright.encoding.plan import EncodingPlan
from tabwright.export.graph import require
from tabwright.export.inputs import MISSING_INTEGER, GraphInput, level_spellings, missing_spellings
from tabwright.inference.numpy_network import FoldedNetwork
from tabwright.inference.predictor import Predictor
from tabwright.regression import member_responses
from tabwright.tables.cells import to_levels

# Of a probability, or of a value in deviations of the target.
TOLERANCE = 1e-5
_CHUNK_ROWS = 8_192
# Two float32 computations of one logit agree this well, relative to the largest of its row.
_NOISE = 8 * 2.0**-24
_LEAST_LOGIT = 4.0
_SHAKES = 8
_MISSING_SHARE = 0.04
_MOST_SPELLINGS = 1_000
_UNSEEN = ("never seen", "größer", "\U0001f71a", "x" * 300, "-", "0x10", "1e5000", "a\tb", "Z  z")

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ParityReport:
    """How a graph in ONNX Runtime compares with `Predictor` on the same rows.

    Parameters
    ----------
    rows : int
        Compared.
    max_difference : float
        The largest between two probabilities; in regression between two predictions, in standard
        deviations of the training target, relative where they are more than 1 from its mean.
    label_disagreements : int
        Rows with another label, where the two highest probabilities differ by more than 2e-5 (or
        where another decision rule is as clear).
    close_calls : int
        Rows where they do not; their labels may differ.
    rounding_rows : int
        Rows past the tolerance that float32 explains, left out of the two numbers above: the
        difference is no larger than what a change of the logits by 5e-7 of the largest of them
        makes, or in regression a change of the inputs by 5e-7 of each. Such are rows far from
        those of training, with logits in the hundreds, and jumps of an isotonic calibrator.
    max_rounding : float
        The largest difference among them.
    tolerance : float
        What `max_difference` may be.
    runtime : str
        Version of ONNX Runtime.
    """

    rows: int
    max_difference: float
    label_disagreements: int
    close_calls: int
    rounding_rows: int
    max_rounding: float
    tolerance: float
    runtime: str

    @property
    def passed(self) -> bool:
        """Whether the graph may be used in the model's place."""
        return self.max_difference <= self.tolerance and self.label_disagreements == 0

    def describe(self) -> str:
        """The report in a sentence."""
        text = (
            f"{self.rows:,} rows in ONNX Runtime {self.runtime}: largest difference "
            f"{self.max_difference:.2g} (allowed {self.tolerance:g}), "
            f"{self.label_disagreements:,} other labels"
        )
        if self.rounding_rows:
            text += (
                f"; {self.rounding_rows:,} rows differ by up to {self.max_rounding:.2g}, as far as "
                "float32 can"
            )
        return text


@dataclass(frozen=True)
class ProbeRows:
    """The same rows for the graph and for the model.

    `feed`: (n, 1); by name of the graph's input.
    """

    feed: dict[str, NDArray[np.generic]]
    frame: pl.DataFrame


# ---------------------------------------------------------------------------------------------
# Rows to ask about
# ---------------------------------------------------------------------------------------------


def probe_rows(plan: EncodingPlan, inputs: Sequence[GraphInput], n_rows: int) -> ProbeRows:
    """Rows that try the encoder where it is most easily got wrong.

    `n_rows`: at least; more where a column has more values to try.
    """
    draw = np.random.default_rng(0)
    order: dict[str, list[int]] = {
        kind: plan.positions(kind) for kind in ("numeric", "datetime", "category")
    }
    pools: list[NDArray[np.generic]] = []
    ordinary: list[NDArray[np.generic]] = []
    for column in inputs:
        pool: NDArray[np.generic]
        usual: NDArray[np.generic]
        if column.kind == "category":
            category = plan.categories[order["category"].index(column.position)]
            pool, usual = _texts(category, draw)
        elif column.kind == "boolean":
            pool = usual = np.array([0.0, 1.0])
        elif column.kind == "datetime":
            j = order["datetime"].index(column.position)
            at = len(order["numeric"]) + j
            edges = _whole(_edges(plan, at), plan.date_origins[j])
            pool = np.concatenate([edges, _turns(), _whole(np.array([-1e19, 1e19, 0.0]), 0)])
            usual = _whole(_usual(plan, at, draw), plan.date_origins[j])
        else:
            j = order["numeric"].index(column.position)
            pool, usual = _edges(plan, j), _usual(plan, j, draw)
            origin = plan.origins[j]
            if column.dtype == "int64":
                assert isinstance(origin, int)
                pool, usual = _whole(pool, origin), _whole(usual, origin)
            elif origin is not None:
                pool, usual = pool + float(origin), usual + float(origin)
        pools.append(pool)
        ordinary.append(usual)
    n_rows = max(n_rows, 4 * max(len(pool) for pool in pools))
    # Some rows are odd in one cell out of ten, the others in nine.
    oddness = np.where(draw.random(n_rows) < 0.5, 0.1, 0.9)
    feed: dict[str, NDArray[np.generic]] = {}
    series: dict[int, pl.Series] = {}
    for column, pool, usual in zip(inputs, pools, ordinary, strict=True):
        cells = usual[draw.integers(0, len(usual), n_rows)]
        odd = np.flatnonzero(draw.random(n_rows) < oddness)
        cells[odd] = np.resize(draw.permutation(pool), len(odd))
        absent = draw.random(n_rows) < _MISSING_SHARE
        cells[absent] = _missing(column)
        feed[column.name] = cells[:, None]
        series[column.position] = _series(column, cells)
    if not plan.named:
        # By position: the columns that are set aside take up their places.
        nothing = [pl.Series([None] * n_rows) for _ in plan.names]
        series = {k: series.get(k, empty) for k, empty in enumerate(nothing)}
    frame = pl.DataFrame({plan.names[k]: column for k, column in series.items()})
    return ProbeRows(feed, frame)


def _missing(column: GraphInput) -> str | float | int:
    if column.dtype == "string":
        return ""
    return np.nan if column.dtype == "float64" else MISSING_INTEGER


def _series(column: GraphInput, cells: NDArray[np.generic]) -> pl.Series:
    """The cells as a table would hold them."""
    if column.dtype == "string":
        texts = pl.Series(cells.tolist(), dtype=pl.String)
        return texts.set(texts == "", None)
    if column.dtype == "float64":
        values = pl.Series(cells, dtype=pl.Float64).fill_nan(None)
        return values.cast(pl.Boolean) if column.kind == "boolean" else values
    whole = pl.Series(cells, dtype=pl.Int64)
    whole = whole.set(whole == MISSING_INTEGER, None)
    return whole.cast(pl.Datetime("us")) if column.kind == "datetime" else whole


def _edges(plan: EncodingPlan, column: int) -> FloatArray:
    """Numbers, less the origin, at which the encoding of a column bends, and beside them."""
    fitted = plan.numbers
    centre, scale = float(fitted.centre[column]), float(fitted.scale[column])
    edges = fitted.edges[fitted.edge_offsets[column] : fitted.edge_offsets[column + 1]]
    knots = fitted.knots[fitted.knot_offsets[column] : fitted.knot_offsets[column + 1]]
    cuts = [leaf.cuts for leaf in plan.value_statistics if leaf.source == column]
    edges = np.concatenate([edges, *cuts])
    beside = [
        edges,
        np.nextafter(edges, np.float32(-np.inf)),
        np.nextafter(edges, np.float32(np.inf)),
    ]
    scaled = np.concatenate([*(part.astype(np.float64) for part in beside), knots])
    bends = scaled / scale + centre if scale > 0 else np.empty(0)
    limits = np.array([fitted.lower[column], fitted.upper[column], centre])
    points = np.concatenate([bends, limits])
    up, down = np.nextafter(points, np.inf), np.nextafter(points, -np.inf)
    far = np.array([np.inf, -np.inf, 1e308, -1e308, 0.0, -0.0, 5e-324, 1.0, -1.0])
    return np.concatenate([points, up, down, np.round(points), far])


def _usual(plan: EncodingPlan, column: int, draw: np.random.Generator) -> FloatArray:
    fitted = plan.numbers
    scale = float(fitted.scale[column])
    spread = 1.0 / scale if scale > 0 else 1.0
    values = float(fitted.centre[column]) + draw.normal(size=4096) * spread
    values = np.clip(values, fitted.lower[column], fitted.upper[column])
    return np.concatenate([values, np.round(values)])


def _whole(values: FloatArray, origin: int) -> NDArray[np.int64]:
    """Integers from distances to an origin, within 64 bits."""
    near = np.clip(values, -2e19, 2e19).tolist()
    lowest, highest = MISSING_INTEGER + 1, 2**63 - 1
    return np.array(
        [min(max(origin + round(value), lowest), highest) for value in near], dtype=np.int64
    )


def _turns() -> NDArray[np.int64]:
    """Moments about the turns of calendar cycles: leap days, centuries, months, minutes."""
    days = [
        f"{year}-{day}"
        for year in (1600, 1899, 1900, 1969, 1970, 1999, 2000, 2024, 2025, 2100, 9999)
        for day in ("01-01", "02-28", "03-01", "12-31")
    ]
    days += [f"{year}-02-29" for year in (1600, 2000, 2024)]
    run = np.datetime64("2023-12-15") + np.arange(500)
    turns = np.concatenate([np.array(days, dtype="datetime64[us]"), run.astype("datetime64[us]")])
    minutes = np.datetime64("1965-07-06T00:00", "us") + np.arange(1_440) * np.timedelta64(1, "m")
    moments = np.concatenate([turns, minutes]).astype(np.int64)
    return np.concatenate([moments, moments - 1, moments + 1])


def _texts(
    category: CategoryColumn, draw: np.random.Generator
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Texts to compare on, as a file may hold them, and the usual ones."""
    written = category.markers
    spellings = level_spellings(category.levels) if written is None else category.levels
    some = list(spellings)
    if len(some) > _MOST_SPELLINGS:
        some = [some[k] for k in draw.choice(len(some), _MOST_SPELLINGS, replace=False)]
    names = to_levels(pl.Series(_UNSEEN, dtype=pl.String), markers=written).to_list()
    known = set(category.levels)
    # Text that only the encoder takes for a known level is no concern of the graph.
    unseen = [text for text, name in zip(_UNSEEN, names, strict=True) if name not in known]
    usual = [*category.levels] or unseen
    pool = [*category.levels, *some, *missing_spellings(written), *unseen * 4]
    return np.array(pool, dtype=object), np.array(usual, dtype=object)


# ---------------------------------------------------------------------------------------------
# Comparison
# ---------------------------------------------------------------------------------------------


def check_parity(
    data: bytes, outputs: Sequence[str], predictor: Predictor, probes: ProbeRows
) -> ParityReport:
    """Run a graph and its model on the same rows.

    `data`: the ONNX file.
    `outputs`: names of the outputs: label and probabilities, or value.
    """
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    n_rows = len(probes.frame)
    largest, rounding, wrong, close, explained = 0.0, 0.0, 0, 0, 0
    for start in range(0, n_rows, _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        frame = probes.frame.slice(start, _CHUNK_ROWS)
        found = session.run(
            list(outputs), {name: cells[rows] for name, cells in probes.feed.items()}
        )
        if predictor.model.classes is None:
            difference, is_rounding = _value_differences(predictor, frame, found)
        else:
            difference, labels, is_close, is_rounding = _class_differences(predictor, frame, *found)
            wrong, close = wrong + labels, close + int(is_close.sum())
        explained += int(is_rounding.sum())
        rounding = max(rounding, float(difference[is_rounding].max(initial=0.0)))
        difference = difference[~is_rounding]
        # A NaN must not pass as no difference.
        largest = max(largest, float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0)))
    return ParityReport(
        rows=n_rows,
        max_difference=largest,
        label_disagreements=wrong,
        close_calls=close,
        rounding_rows=explained,
        max_rounding=rounding,
        tolerance=TOLERANCE,
        runtime=str(runtime.__version__),
    )


def _value_differences(
    predictor: Predictor, frame: pl.DataFrame, found: Sequence[NDArray[np.generic]]
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Differences, rows at float32's limit; of quantiles, of the worst level."""
    model = predictor.model
    compact = model.encoder.transform(frame)
    outputs = predictor.outputs(compact)
    judged = predictor.calibrated(outputs)
    expected_parts = [predictor.point(judged), *([judged] if judged.ndim == 2 else [])]
    centre, interval_scale = predictor.centre_and_scale(compact, outputs)
    if model.quantile_shifts:
        expected_parts.append(centre)
    if model.intervals is not None and model.intervals.scale != "constant":
        expected_parts.append(interval_scale)
    expected, values = (
        np.column_stack([*parts]).astype(np.float64) for parts in (expected_parts, found)
    )
    mean, scale = (0.0, 1.0) if model.target is None else (model.target.mean, model.target.scale)
    distances = np.maximum(np.abs(expected - mean) / scale, 1.0)
    differences: FloatArray = np.abs(values - expected) / scale / distances
    # A NaN must not pass as no difference.
    worst = np.nan_to_num(differences, nan=np.inf).argmax(axis=1)[:, None]
    difference, distance = (
        np.take_along_axis(array, worst, 1)[:, 0] for array in (differences, distances)
    )
    is_rounding = np.zeros(len(expected), dtype=bool)
    over = np.flatnonzero(~(difference <= TOLERANCE))
    if len(over):
        # What cancels in the sums shows when the inputs are shaken in their last bits.
        network, draw = FoldedNetwork(model.members), np.random.default_rng(0)

        def mean_response(inputs: NDArray[np.float32]) -> FloatArray:
            responses = member_responses(network.logits(inputs), model.settings.objective)
            mean: FloatArray = responses.mean(axis=0)
            return mean

        x = model.encoder.expand(compact.take(over))
        reach = np.zeros(len(over))
        for _ in range(_SHAKES):
            shaken = x * (1.0 + _NOISE * draw.choice([-1.0, 1.0], x.shape)).astype(np.float32)
            moved = np.abs(mean_response(shaken) - mean_response(x))
            reach = np.maximum(reach, moved.reshape(len(over), -1).max(axis=1))
        is_rounding[over] = difference[over] <= TOLERANCE + reach / distance[over]
    return difference, is_rounding


def _class_differences(
    predictor: Predictor,
    frame: pl.DataFrame,
    labels: NDArray[np.generic],
    proba: NDArray[np.generic],
) -> tuple[FloatArray, int, NDArray[np.bool_], NDArray[np.bool_]]:
    """Differences, wrong labels, rows whose label hangs by a thread, rows at float32's limit."""
    model = predictor.model
    assert model.classes is not None
    compact = model.encoder.transform(frame)
    before = predictor.network(compact)
    expected = predictor.calibrated(before)
    found = proba.astype(np.float64)
    difference = np.abs(found - expected).max(axis=1)
    is_rounding = np.zeros(len(found), dtype=bool)
    over = np.flatnonzero(~(difference <= TOLERANCE))
    if len(over):
        logits = FoldedNetwork(model.members).logits(model.encoder.expand(compact.take(over)))
        reach = _reach(predictor, before[over], np.abs(logits).max(axis=(0, 2)))
        is_rounding[over] = (np.abs(found[over] - expected[over]) <= TOLERANCE + reach).all(axis=1)
    is_close = _is_close(model.decision or DecisionRule(), expected)
    other = labels != model.classes[predictor.decide(expected)]
    return difference, int((other & ~is_close & ~is_rounding).sum()), is_close, is_rounding


def _is_close(rule: DecisionRule, proba: FloatArray) -> NDArray[np.bool_]:
    """Rows whose label differences within the tolerance can turn."""
    if rule.kind == "threshold":
        return np.abs(proba[:, rule.positive] - rule.threshold) <= TOLERANCE
    merit, reach = proba, TOLERANCE
    if rule.costs is not None:
        merit = -proba @ rule.costs
        reach = TOLERANCE * float(np.abs(rule.costs).sum(axis=0).max())
    top = np.partition(merit, -2, axis=1)
    return np.asarray(top[:, -1] - top[:, -2] <= 2 * reach)


def _reach(predictor: Predictor, before: FloatArray, largest_logit: FloatArray) -> FloatArray:
    """How far float32 noise in the logits moves calibrated probabilities, of shape (n, C)."""
    noise = _NOISE * np.maximum(largest_logit, _LEAST_LOGIT)
    logs = log_proba(before)
    expected = predictor.calibrated(before)
    reach = np.zeros_like(before)
    for column in range(before.shape[1]):
        ends = []
        for sign in (-1.0, 1.0):
            moved = logs.copy()
            moved[:, column] += sign * noise
            ends.append(np.abs(predictor.calibrated(softmax(moved)) - expected))
        reach += np.maximum(*ends)
    return reach
