"""Columns made of two numeric columns: every path gives the same values, and what is refused."""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tabwright.artifact.container import pack
from tabwright.artifact.schema import Reader, TensorBag
from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.interactions import INTERACTION_KINDS, Interaction, InteractionColumn
from tabwright.encoding.oblique import ObliqueColumn
from tabwright.encoding.pair_columns import fill_pairs
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.errors import ArtifactError
from tabwright.report.column_treatment import column_treatments
from tabwright.settings import NumericEncoding
from tabwright.tables import Role, profile_table
from tests.encoders import (
    Damage,
    check_read_back,
    check_refused,
    cutting,
    equal_first,
    input_names,
    inputs_by_onnx,
    probes_of,
    setting,
    state_of,
    with_obliques,
)

N_ROWS = 3_000
ALL = tuple(Interaction(kind, 0, 1) for kind in INTERACTION_KINDS)


def _table(n_rows: int = N_ROWS) -> tuple[pl.DataFrame, np.ndarray]:
    """Columns with gaps, infinities and zeros, a switch and a category of many levels."""
    draw = np.random.default_rng(5)
    x = draw.normal(size=(n_rows, 2))
    columns: dict[str, Any] = {"east": 2 * x[:, 0] - 1, "north": 5 * x[:, 1] + 37}
    goal = np.floor(columns["east"] * columns["north"] / 40) % 2
    for values in columns.values():
        values[draw.random(n_rows) < 0.02] = np.nan
    columns["east"][:20:2], columns["north"][1:20:2] = np.inf, -np.inf
    columns["north"][20:30] = 0.0
    columns["flag"] = draw.random(n_rows) < 0.5
    columns["many"] = [f"level {k}" for k in draw.integers(0, 90, n_rows)]
    return pl.DataFrame(columns), goal


def _fit(encoding: NumericEncoding = "auto", interactions: Any = ALL) -> TableEncoder:
    frame, goal = _table()
    roles: dict[str, Role] = {
        "east": "numeric",
        "north": "numeric",
        "flag": "boolean",
        "many": "category",
    }
    rows = RowsToFit(frame, profile_table(frame, roles=roles), target=goal, task="regression")
    encoder = TableEncoder(encoding)
    compact = encoder.fit_transform(rows)
    fitted, widened = encoder.with_interactions(interactions, rows, compact)
    # Statistics of levels are cross-fitted, so that those of training rows differ.
    n_own, first = encoder.plan_.n_own, encoder.layout.n_numeric
    given = fitted.transform(frame)
    np.testing.assert_array_equal(widened.numeric[:, :n_own], given.numeric[:, :n_own])
    np.testing.assert_array_equal(widened.numeric[:, first:], given.numeric[:, first:])
    return fitted


ODD = with_obliques(_fit())
AT = ODD.layout.n_numeric - len(ODD.plan_.pairs)
N_FITTED = len(ALL)


def _asked() -> pl.DataFrame:
    return probes_of(ODD)


def test_the_value_is_the_weighted_sum_of_smooth_values() -> None:
    frame = _asked()
    compact = ODD.transform(frame)
    for k, own in enumerate(ODD.plan_.obliques, start=N_FITTED):
        one, two = (compact.numeric[:, j].astype(np.float64) for j in (own.first, own.second))
        total = own.weights[0] * one / np.hypot(1, one / 3)
        total += own.weights[1] * two / np.hypot(1, two / 3)
        scaled = (total - own.centre) * own.scale
        expected = scaled / np.hypot(1, scaled / 3)
        np.testing.assert_allclose(compact.numeric[:, AT + k], expected, rtol=1e-6, atol=1e-6)
        assert np.isnan(expected).any()
        assert np.nanmax(np.abs(expected)) <= 3


@pytest.mark.parametrize("kind", INTERACTION_KINDS)
def test_the_value_is_the_interaction_in_robust_units(kind: str) -> None:
    frame, _ = _table()
    place = INTERACTION_KINDS.index(kind)
    values = ODD.transform(frame).numeric[:, AT + place]
    low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75])
    assert abs(middle) < 1e-6
    assert high - low == pytest.approx(1.0, abs=0.1)
    edges = ODD.plan_.interactions[place].edges
    assert len(edges) > 2
    assert (edges[0], edges[-1]) == (np.nanmin(values), np.nanmax(values))
    one, two = frame["east"].to_numpy(), frame["north"].to_numpy()
    usual = np.isfinite(one) & np.isfinite(two) & (two != 0)
    one, two = one[usual], two[usual]
    expected = {"sum": one + two, "difference": one - two, "product": one * two, "ratio": one / two}
    given, wanted = (np.argsort(np.argsort(own)) for own in (values[usual], expected[kind]))
    assert np.corrcoef(given, wanted)[0, 1] > 0.99999
    is_zero = (frame["north"] == 0).fill_null(value=False).to_numpy()
    assert np.isnan(values[is_zero]).all() == (kind == "ratio")


def test_without_tree_bins_they_have_a_value_alone() -> None:
    encoder = _fit("robust")
    assert [len(column.edges) for column in encoder.plan_.interactions] == [0, 0, 0, 0]
    assert "east × north" in input_names(encoder)
    assert not any(name.startswith("east × north[") for name in input_names(encoder))
    given, inputs = inputs_by_onnx(encoder), encoder.expand(encoder.transform(probes_of(encoder)))
    np.testing.assert_allclose(given, inputs, rtol=2.5e-7, atol=0)
    check_read_back(encoder)
    assert "; east × north; east / north; " in column_treatments(encoder.plan_)[0].text


def test_one_value_alone_is_no_column() -> None:
    draw = np.random.default_rng(0).normal(size=N_ROWS)
    frame = pl.DataFrame({"a": draw, "b": 3.0 - draw, "c": draw**2})
    rows = RowsToFit(frame, profile_table(frame), target=draw, task="regression")
    encoder = TableEncoder("standard")
    pairs = (Interaction("ratio", 0, 0), Interaction("product", 0, 2))
    fitted, _ = encoder.with_interactions(pairs, rows, encoder.fit_transform(rows))
    assert [column.interaction for column in fitted.plan_.interactions] == [pairs[1]]


def test_rows_one_by_one_say_what_all_at_once_say() -> None:
    frame = _asked()
    compact = ODD.transform(frame)
    inputs = ODD.expand(compact)
    rows = np.concatenate([ODD.expand(ODD.row(row)) for row in frame.iter_rows(named=True)])
    np.testing.assert_array_equal(rows, inputs)
    np.testing.assert_array_equal(ODD.transform(frame[7:8]).numeric, compact.numeric[7:8])
    numeric = ODD.row(frame.row(11, named=True)).numeric[0]
    np.testing.assert_array_equal(np.array(numeric, dtype=np.float32), compact.numeric[11])


def test_torch_and_onnx_say_what_numpy_says() -> None:
    compact = ODD.transform(_asked())
    inputs = ODD.expand(compact)
    expand = ODD.torch_expander("cpu")
    found = expand(torch.from_numpy(compact.numeric), torch.from_numpy(compact.codes))
    np.testing.assert_array_equal(found.numpy(), inputs)

    given = inputs_by_onnx(ODD)
    pairs = [name.startswith(("east ", "2 east ")) for name in input_names(ODD)]
    assert sum(pairs) > 40
    np.testing.assert_array_equal(given[:, pairs], inputs[:, pairs])
    np.testing.assert_allclose(given, inputs, rtol=2.5e-7, atol=0)


def test_a_missing_part_makes_the_pair_missing() -> None:
    frame = pl.DataFrame(
        {"east": [None, -120.0], "north": [40.0, None], "flag": [True, None], "many": [None, "x"]}
    )
    compact = ODD.transform(frame)
    assert np.isnan(compact.numeric[:, AT:]).all()
    assert np.isfinite(ODD.expand(compact)).all()


def test_the_treatment_says_so() -> None:
    east, north, flag, _ = column_treatments(ODD.plan_)
    n_bins = len(ODD.plan_.pairs[0].edges) - 1
    for own in (east, north):
        assert f"; {ODD.plan_.pair_name(ODD.plan_.pairs[0])} in {n_bins} bins" in own.text
    assert "east" not in flag.text
    assert east.n_inputs > north.n_inputs + n_bins


def test_they_come_back_from_a_file() -> None:
    check_read_back(ODD)


EDGES = np.array([-3, 0, 3], dtype=np.float32)
TINY = ((1e-300, 0.0), (1e300, 1e300))


@pytest.mark.parametrize(
    "own",
    [
        ObliqueColumn(0, 1, (1.0, -2.0), 0.5, 1e100, EDGES),
        *(
            InteractionColumn(pair, sources, 0.0, 0.5, 1e100, EDGES)
            for pair in ALL
            for sources in (((1.0, 0.0), (1.0, 0.0)), TINY)
        ),
    ],
)
def test_extreme_scales_stay_finite(own: ObliqueColumn | InteractionColumn) -> None:
    ends = np.array([-2e18, -1, 0, 1e-30, 2e18], dtype=np.float32)
    numeric = np.stack([*(part.ravel() for part in np.meshgrid(ends, ends)), np.zeros(25)], axis=1)
    numeric = numeric.astype(np.float32)
    fill_pairs([own], numeric)
    assert not np.isinf(numeric).any()
    assert np.nanmax(np.abs(numeric[:, 2])) <= 3
    scalars = [own.scalar(one, two) for one, two, _ in numeric.tolist()]
    np.testing.assert_array_equal(np.array(scalars, dtype=np.float32), numeric[:, 2])


# ---------------------------------------------------------------------------------------------
# What a damaged state is told
# ---------------------------------------------------------------------------------------------

DAMAGE: dict[str, tuple[Damage, str]] = {
    "a column that is no number": (setting("obliques.columns", (0, 1), 2), r"obliques\.columns"),
    "a negative column": (setting("obliques.columns", (0, 0), -1), r"obliques\.columns"),
    "a column with itself": (
        setting("obliques.columns", (0, 1), 0),
        r"columns must increase within",
    ),
    "a weight too large": (setting("obliques.weights", (0, 0), 17), r"obliques\.weights"),
    "a weight that is none": (setting("obliques.weights", (0, 0), np.nan), r"obliques\.weights"),
    "a centre too far": (setting("obliques.centre", 0, 97), r"obliques\.centre"),
    "a scale below zero": (setting("obliques.scale", 0, -1), r"obliques\.scale"),
    "a scale too large": (setting("obliques.scale", 0, 1e101), r"obliques\.scale"),
    "an edge out of range": (setting("obliques.edges", -1, 3.1), r"obliques\.edges"),
    "an edge that is none": (setting("obliques.edges", 0, np.nan), r"obliques\.edges"),
    "equal edges": (equal_first("obliques.edges"), r"edges must increase within each column"),
    "an edge too few": (cutting("obliques.edges"), r"edges must be as many as n_edges says"),
    "one edge": (setting("obliques.n_edges", 0, 1), r"obliques\.n_edges"),
    "more edges than there are": (setting("obliques.n_edges", 0, 2**62), r"obliques\.n_edges"),
    "a sum too few": (cutting("obliques.columns"), r"obliques\.columns"),
    "a kind that is none": (setting("interactions.kinds", 0, 4), r"interactions\.kinds"),
    "a column past the numbers": (
        setting("interactions.columns", (0, 1), 2),
        r"interactions\.columns",
    ),
    "an interaction with itself": (
        setting("interactions.columns", (0, 1), 0),
        r"interactions\.columns must differ within each pair",
    ),
    "a column that does not vary": (setting("numbers.scale", 0, 0), r"linear encoding that vary"),
    "a centre past float32": (setting("interactions.centre", 0, 1e39), r"interactions\.centre"),
    "a scale of nothing": (setting("interactions.scale", 0, np.nan), r"interactions\.scale"),
    "edges that fall": (
        equal_first("interactions.edges"),
        r"interactions\.edges must increase within each column",
    ),
    "one edge of an interaction": (
        setting("interactions.n_edges", 0, 1),
        r"interactions\.edges must be as many as n_edges says, and not 1",
    ),
    "edges too few": (cutting("interactions.edges"), r"interactions\.edges must be as many"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_refused(damage: str) -> None:
    check_refused(ODD, *DAMAGE[damage])


@pytest.mark.parametrize("key", ["interactions", "obliques"])
@pytest.mark.parametrize("count", [0, -1, None, "2", True, 65])
def test_a_damaged_count_is_refused(key: str, count: object) -> None:
    document, arrays = state_of(ODD)
    document[key] = count
    with pytest.raises(ArtifactError, match=key):
        TableEncoder.from_state(Reader(document), TensorBag(arrays))


@pytest.mark.parametrize("key", ["interactions", "obliques"])
def test_pairs_without_their_count_are_refused(key: str) -> None:
    document, arrays = state_of(ODD)
    del document[key]
    with pytest.raises(ArtifactError, match="no other arrays"):
        TableEncoder.from_state(Reader(document), TensorBag(arrays))


def test_sums_belong_to_tree_bins() -> None:
    document, arrays = state_of(ODD)
    document["numbers"]["encoding"] = "quantile_ple"
    with pytest.raises(ArtifactError, match=r"obliques must be empty .* 'quantile_ple'"):
        TableEncoder.from_state(Reader(document), TensorBag(arrays))


def test_a_table_without_interactions_needs_no_newer_version() -> None:
    for interactions, needed in (((), 1), (ALL, 3)):
        encoder = _fit(interactions=interactions)
        document, arrays = encoder.to_state()
        data = pack({"encoder": document}, arrays)
        size = int.from_bytes(data[:8], "little")
        envelope = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["tabwright"])
        assert envelope["format"] == needed
        assert ("interactions" in document) == (needed == 3)
