"""Fitted encoders for tests, and damage to their state."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest

from tabwright.artifact.container import pack, unpack
from tabwright.artifact.schema import Reader, TensorBag
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.encoding.oblique import ObliqueColumn
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.errors import ArtifactError
from tabwright.export.encoder import add_encoder, add_expanded
from tabwright.export.graph import Graph
from tabwright.export.inputs import graph_inputs
from tabwright.export.parity import probe_rows
from tabwright.settings import NumericEncoding, Task
from tabwright.tables import Role, profile_table

Arrays = dict[str, np.ndarray]
Damage = Callable[[Arrays], None]


def fit_encoder(
    columns: Mapping[str, Any],
    target: np.ndarray,
    *,
    task: Task = "classification",
    encoding: NumericEncoding = "auto",
    weight: np.ndarray | None = None,
    random_state: int = 0,
    roles: Mapping[str, Role] | None = None,
) -> tuple[TableEncoder, Compact]:
    """An encoder and the compact form of its training rows; columns without a role are numbers."""
    frame = pl.DataFrame(columns)
    numeric: dict[str, Role] = dict.fromkeys(columns, "numeric")
    encoder = TableEncoder(encoding)
    compact = encoder.fit_transform(
        RowsToFit(
            frame,
            profile_table(frame, roles=numeric | dict(roles or {})),
            target=target,
            task=task,
            sample_weight=weight,
            random_state=random_state,
        )
    )
    return encoder, compact


def with_obliques(encoder: TableEncoder) -> TableEncoder:
    """The encoder with a sum and a difference of its first two columns, as older files have."""
    edges = np.linspace(-2.5, 2.5, 13, dtype=np.float32)
    obliques = tuple(
        ObliqueColumn(0, 1, weights, 0.1, 0.7, edges) for weights in ((1.0, 1.0), (2.0, -1.0))
    )
    encoder._remember(replace(encoder.plan_, obliques=obliques))
    return encoder


def input_names(encoder: TableEncoder) -> list[str]:
    """The name of every input."""
    return [name for name, _ in encoder.plan_.inputs]


def probes_of(encoder: TableEncoder, n_rows: int = 3_000) -> pl.DataFrame:
    """Rows at the bends of the encoding and beside them, and odd ones."""
    return probe_rows(encoder.plan_, graph_inputs(encoder.plan_), n_rows).frame


def inputs_by_onnx(encoder: TableEncoder, n_rows: int = 3_000) -> np.ndarray:
    """The inputs that the graph gives for `probes_of`."""
    columns = graph_inputs(encoder.plan_)
    graph = Graph([column.name for column in columns])
    encoded = add_encoder(graph, encoder.plan_, columns)
    expanded = add_expanded(graph, encoder.plan_, encoded)
    graph.output("inputs", expanded, "float32", encoder.input_dim)
    data = graph.to_bytes(name="encoder", version="0", doc="", metadata={})
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (given,) = session.run(None, probe_rows(encoder.plan_, columns, n_rows).feed)
    found: np.ndarray = given
    return found


def state_of(encoder: TableEncoder) -> tuple[dict[str, Any], Arrays]:
    """Document and arrays as they would come from a file, to be damaged."""
    document, arrays = encoder.to_state()
    return json.loads(json.dumps(document)), dict(arrays)


def check_read_back(encoder: TableEncoder) -> None:
    """An encoder that comes back from bytes gives the same bits and names."""
    document, tensors = unpack(pack(*encoder.to_state()))
    again = TableEncoder.from_state(Reader(document), TensorBag(tensors))
    frame = probes_of(encoder)
    np.testing.assert_array_equal(again.transform(frame).numeric, encoder.transform(frame).numeric)
    assert input_names(again) == input_names(encoder)


def check_refused(encoder: TableEncoder, harm: Damage, rule: str) -> None:
    """A state with this damage is refused, with an error that matches `rule`."""
    document, arrays = state_of(encoder)
    harm(arrays)
    with pytest.raises(ArtifactError, match=rule):
        TableEncoder.from_state(Reader(document), TensorBag(arrays))


def setting(name: str, place: Any, value: float) -> Damage:
    """Damage: another value at a place of an array."""

    def damage(arrays: Arrays) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value

    return damage


def cutting(name: str) -> Damage:
    """Damage: an array without its last entry."""

    def damage(arrays: Arrays) -> None:
        arrays[name] = arrays[name][:-1]

    return damage


def equal_first(name: str) -> Damage:
    """Damage: the second entry of an array is the first."""

    def damage(arrays: Arrays) -> None:
        setting(name, 1, float(arrays[name][0]))(arrays)

    return damage
