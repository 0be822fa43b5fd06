"""The first layer by tables against the inputs times the weights."""

import datetime as dt
from typing import get_args

import numpy as np
import polars as pl
import pytest

from ai.ml.frameworks.pytorch.models import build_model
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.encoding.numeric import ResolvedEncoding
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.inference import first_layer
from tabwright.inference.first_layer import BlockWorkspace, FirstLayer
from tabwright.inference.numpy_network import FoldedNetwork
from tabwright.tables import profile_table
from tests.inference.test_numpy_network import state

N_ROWS, WIDTH = 300, 24
ENCODINGS = get_args(ResolvedEncoding)


def table(seed: int = 0) -> pl.DataFrame:
    """Columns of every kind, most with gaps, some with levels past those that have inputs."""
    draw = np.random.default_rng(seed)
    start = dt.datetime(2024, 1, 1)

    def gaps(values: list[object]) -> list[object]:
        return [
            None if gap else v for gap, v in zip(draw.random(N_ROWS) < 0.1, values, strict=True)
        ]

    names = ["a", "b", "c", *(f"rare {k}" for k in range(40))]
    return pl.DataFrame(
        {
            "size": gaps(draw.normal(size=N_ROWS).tolist()),
            "heavy": draw.standard_cauchy(N_ROWS),
            "few": draw.integers(0, 3, N_ROWS),
            "kind": gaps(draw.choice(["x", "y", "z"], N_ROWS).tolist()),
            "many": draw.choice(names, N_ROWS),
            "sure": draw.choice(["p", "q"], N_ROWS),
            "open": gaps((draw.random(N_ROWS) < 0.5).tolist()),
            "when": gaps([start + dt.timedelta(hours=37 * i) for i in range(N_ROWS)]),
        }
    )


def encoded(columns: list[str], encoding: str, **options: int) -> tuple[TableEncoder, Compact]:
    frame = table().select(columns)
    encoder = TableEncoder(encoding, max_levels=5, **options)  # type: ignore[arg-type]
    target = np.arange(N_ROWS) % 2
    encoder.fit(RowsToFit(frame, profile_table(frame), target=target, task="classification"))
    new = table(seed=1).select(columns)
    # `sure` had no missing cells: they have no input of their own there.
    for name in {"kind", "sure"}.intersection(columns):
        new = new.with_columns(pl.Series(name, ["unseen", None, new[name][0]] * (N_ROWS // 3)))
    return encoder, encoder.transform(new)


EVERYTHING = table().columns
CASES = [
    *((EVERYTHING, encoding) for encoding in ENCODINGS),
    (["size", "heavy", "few"], "tree_ple"),
    (["kind", "many", "sure"], "auto"),
    (["open"], "auto"),
    (["when"], "auto"),
    (["sure"], "auto"),
]


@pytest.mark.parametrize("joint", [0, 2**18])
@pytest.mark.parametrize(("columns", "encoding"), CASES)
def test_equals_inputs_times_weights(
    columns: list[str], encoding: str, joint: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_layer, "_JOINT_FLOATS", joint)
    for keep_value in (True, False):
        encoder, compact = encoded(columns, encoding, keep_value=keep_value)
        draw = np.random.default_rng(0)
        weight = draw.normal(size=(encoder.input_dim, WIDTH)).astype(np.float32)
        bias = draw.normal(size=WIDTH).astype(np.float32)
        layer = FirstLayer(encoder.layout, weight, bias)
        wanted = encoder.expand(compact).astype(np.float64) @ weight + bias
        # Of numbers that are not clipped, only the relative error is small.
        near = 2e-6 * (1 + np.abs(encoder.expand(compact)) @ np.abs(weight))
        many = np.full((WIDTH, N_ROWS), np.nan, dtype=np.float32)
        layer.block(compact.numeric, compact.codes, many, BlockWorkspace(layer, N_ROWS))
        assert (np.abs(many.T - wanted) <= near).all()
        few = np.full((WIDTH, 16), np.nan, dtype=np.float32)
        work = BlockWorkspace(layer, 16, 4)
        for start in (0, 200, 291):
            part = compact.take(slice(start, start + 9))
            layer.block(part.numeric, part.codes, few, work)
            found = few[:, 4:13].T
            assert (np.abs(found - wanted[start : start + 9]) <= near[start : start + 9]).all()


def test_small_tables_are_joined_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = encoded(["kind", "many", "sure"], "auto")
    weight = np.ones((encoder.input_dim, WIDTH), dtype=np.float32)

    def sizes() -> list[int]:
        layer = FirstLayer(encoder.layout, weight, weight[0])
        return sorted(len(group.table) for group in layer.codes)

    # Codes: missing, unknown, and a level each.
    assert sizes() == [(2 + 3) * (2 + 5) * (2 + 2)]
    monkeypatch.setattr(first_layer, "_JOINT_FLOATS", 20 * WIDTH)
    assert sizes() == [2 + 5, (2 + 3) * (2 + 2)]
    monkeypatch.setattr(first_layer, "_ALL_JOINT_FLOATS", 19 * WIDTH)
    assert sizes() == [2 + 2, 2 + 3, 2 + 5]


def test_the_edges_of_the_bins() -> None:
    encoder, _ = encoded(["size", "heavy"], "tree_ple")
    layout = encoder.layout
    rights = layout.bin_left + 1.0 / layout.bin_inverse
    for value in np.concatenate([layout.bin_left, rights, [-1e18, 1e18, 0.0]]).tolist():
        compact = Compact(np.full((1, 2), value, np.float32), np.empty((1, 0), np.int32))
        weight = np.random.default_rng(0).normal(size=(encoder.input_dim, 3)).astype(np.float32)
        layer = FirstLayer(layout, weight, weight[0])
        out = np.empty((3, 1), dtype=np.float32)
        layer.block(compact.numeric, compact.codes, out, BlockWorkspace(layer, 1))
        wanted = encoder.expand(compact) @ weight + weight[0]
        np.testing.assert_allclose(out.T, wanted, atol=2e-5)


@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet", "linear_glm_baseline"])
def test_weights_past_float32_take_the_long_way(mode: str, n_members: int) -> None:
    encoder, compact = encoded(EVERYTHING, "tree_ple")
    model = build_model(encoder.input_dim, 2, mode, 8, 1, 0.0)  # type: ignore[arg-type]
    values = state(model.eval())
    first = next(name for name in values if name.endswith("weight") and values[name].ndim == 2)
    values[first] = np.full_like(values[first], 2e38)
    network = FoldedNetwork([values] * n_members, encoder.layout)
    whole = network.probabilities(compact)
    assert np.isfinite(whole).all()
    for i in range(5):
        row = network.probabilities(compact.take(slice(i, i + 1)))
        np.testing.assert_allclose(row, whole[i : i + 1], atol=1e-6)


def test_encoded_rows_need_the_layout() -> None:
    encoder, compact = encoded(EVERYTHING, "auto")
    values = state(build_model(encoder.input_dim, 2, "mlp_dense", 8, 1, 0.0).eval())
    with pytest.raises(ValueError, match="encoded rows need the layout of the inputs"):
        FoldedNetwork([values]).values(compact)
    small, _ = encoded(["open"], "auto")
    with pytest.raises(ValueError, match=r"layout must be of \d+ inputs, as the members are; got"):
        FoldedNetwork([values], small.layout)
