"""ONNX: one graph from the raw columns of a table to calibrated probabilities, or values.

The graph holds all that `Predictor` does. It needs the operators of ai.onnx (opset 17) and
ai.onnx.ml (3) only, so that any ONNX Runtime since 1.12 runs it, with nothing of ours installed.
`export_onnx` writes it only after it has said the same as the model on many rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.artifact.atomic_write import check_suffix, write_atomically
from tabwright.calibration.decisions import DecisionRule
from tabwright.encoding.plan import EncodingPlan
from tabwright.errors import ParityError
from tabwright.export.encoder import add_encoder, add_expanded, add_tree_features
from tabwright.export.graph import Graph, require
from tabwright.export.inputs import GraphInput, graph_array, graph_inputs
from tabwright.export.networks import (
    add_calibration,
    add_decision,
    add_mean,
    add_mean_exponential,
    add_mean_quantiles,
    add_networks,
    add_prior,
    add_probabilities,
    add_quantile_centre,
    add_quantile_scale,
    add_quantile_shifts,
    add_residual_scale,
    add_target_scale,
    add_trees,
)
from tabwright.export.parity import ParityReport, check_parity, probe_rows
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.numpy_network import FoldedNetwork
from tabwright.inference.predictor import Predictor
from tabwright.regression import central_level, has_log_link

# Of the half-widths that the metadata name.
_COVERAGES = (0.5, 0.8, 0.9, 0.95)


def export_onnx(
    model: FittedModel, path: str | os.PathLike[str], *, check_rows: int = 100_000
) -> ParityReport:
    """Write a model as one ONNX file and report how well it agrees.

    Parameters
    ----------
    model : FittedModel
    path : str or path-like
        Written whole or not at all.
    check_rows : int, default=100_000
        Rows, at least, on which the graph is compared with the model before it is written:
        edges of bins and their neighbours, every level, unseen ones, missing cells, extremes.

    Returns
    -------
    ParityReport

    Raises
    ------
    ParityError
        If a probability differs by more than 1e-5, or a label although the two highest
        probabilities differ by more than 2e-5, and float32 does not explain it (see
        `ParityReport`). No file is left.
    ImportError
        If onnx or onnxruntime is missing; the message names the line that installs them.
    OSError
        If the file cannot be written.
    ValueError
        If `check_rows` is below 1, or the file would be 2 GiB or more.

    Notes
    -----
    The graph has one input of shape (rows, 1) for each column in use, named like the column:

    ===========  ========  =====================================================================
    column       type      cells
    ===========  ========  =====================================================================
    numeric      double    NaN is missing; ±inf counts as the end of the range of training
    numeric      int64     columns with integers past 2**53 only; -2**63 is missing
    datetime     int64     microseconds since 1970-01-01 00:00 UTC; -2**63 (NaT) is missing
    boolean      double    0 and 1; NaN is missing
    category     string    see below; '' is missing
    ===========  ========  =====================================================================

    Category text may have one space on either side, the markers of missing cells (NA, NaN, null,
    ?, ...) are missing, an integer level may be written with ``.0`` and a boolean one as true,
    True or TRUE. Any other text is an unknown level; the encoder itself knows more spellings (1.50
    for 1.5, two spaces, other forms of a date), which `onnx_feed` translates. Columns of Decimals
    past 15 digits, or of integers past 2**63, are doubles here, and only as exact as doubles are.

    The outputs are `label` of shape (rows,), in the type of the labels, by the model's decision
    rule where it has one and else the most probable, and `probabilities`, double
    of shape (rows, n_classes), or in regression `value`, double of shape (rows,); a model of
    quantiles has `quantiles` too, double of shape (rows, n_levels). Where intervals are adaptive,
    `interval_scale`, double of shape (rows,), is what half-widths are multiples of: the metadata
    have them by coverage (`interval_half_widths`), to be put around the value or, of quantiles,
    around the middle of the outer two; where held-out rows moved the levels, around the output
    `interval_centre`, double of shape (rows,). Where a column has such a name, the output has an
    underscore behind it. The metadata key `tabwright` says all this in
    JSON. The same model gives the same bytes.
    """
    if check_rows < 1:
        raise ValueError(f"check_rows must be at least 1; got {check_rows}")
    check_suffix(path, ".onnx")
    require("onnxruntime")
    data = build_onnx(model)
    plan = model.encoder.plan_
    inputs = graph_inputs(plan)
    probes = probe_rows(plan, inputs, check_rows)
    report = check_parity(data, _output_names(model, inputs), Predictor(model), probes)
    if not report.passed:
        raise ParityError(
            f"the ONNX graph must say what the model says; got {report.describe()}; "
            "nothing was written; use the model file itself"
        )
    write_atomically(path, data)
    return report


def onnx_feed(model: FittedModel, frame: pl.DataFrame) -> dict[str, NDArray[np.generic]]:
    """A table as the inputs of the model's graph.

    Parameters
    ----------
    model : FittedModel
    frame : polars.DataFrame
        The columns of training, in any order; by position where the model has no names.

    Returns
    -------
    dict of str to ndarray of shape (n_rows, 1)
        For `InferenceSession.run`.

    Raises
    ------
    TableError
        If columns are missing, or a cell does not fit its column.
    """
    plan = model.encoder.plan_
    if plan.named:
        plan.check_names(frame.columns)
    return {
        column.name: graph_array(
            plan, column, frame[column.column] if plan.named else frame[:, column.position]
        )
        for column in graph_inputs(plan)
    }


def build_onnx(model: FittedModel) -> bytes:
    """The model as the bytes of an ONNX file, checked in full mode but not compared.

    Raises `ImportError` if onnx is missing; `ValueError` if it would be 2 GiB or more.
    """
    from tabwright._version import __version__

    plan, settings = model.encoder.plan_, model.settings
    inputs = graph_inputs(plan)
    outputs = _output_names(model, inputs)
    graph = Graph([*(column.name for column in inputs), *outputs])
    network = FoldedNetwork(model.members)
    encoded = add_encoder(graph, plan, inputs)
    x = add_expanded(graph, plan, encoded)
    scores = add_networks(graph, network, x, _largest_input(plan))
    if model.classes is None:
        value = _add_responses(graph, model, scores, network.n_members)
        if model.trees is not None:
            features = add_tree_features(graph, plan, encoded, model.trees.interactions)
            value = add_trees(graph, value, model.trees, features, classifies=False)
        if model.target is not None:
            value = add_target_scale(graph, value, model.target)
        if settings.objective == "quantile":
            levels = settings.quantiles
            shown = value
            if model.quantile_shifts and model.target is not None:
                shown = add_quantile_shifts(graph, value, model.quantile_shifts, model.target)
            central = graph.int64(central_level(levels))
            point = graph.add("Gather", shown, central, attributes={"axis": 1})
            graph.output(outputs[0], point, "float64")
            graph.output(outputs[1], shown, "float64", width=len(levels))
            if "interval_centre" in _wanted_outputs(model):
                centre = add_quantile_centre(graph, value, len(levels))
                graph.output(outputs[2], centre, "float64")
        else:
            graph.output(outputs[0], value, "float64")
        if "interval_scale" in _wanted_outputs(model):
            scale = _add_interval_scale(graph, model, x, value)
            graph.output(outputs[-1], scale, "float64")
    else:
        proba = add_probabilities(graph, scores, network.n_members)
        if model.trees is not None:
            features = add_tree_features(graph, plan, encoded, model.trees.interactions)
            proba = add_trees(graph, proba, model.trees, features, classifies=True)
        shift = Predictor(model).prior_shift
        if shift is not None:
            proba = add_prior(graph, proba, shift)
        if model.calibrator is not None:
            proba = add_calibration(graph, proba, model.calibrator)
        best = add_decision(graph, proba, model.decision or DecisionRule())
        labels, dtype = _labels(model.classes)
        graph.output(outputs[0], graph.add("Gather", graph.constant(labels), best), dtype)
        graph.output(outputs[1], proba, "float64", width=len(labels))
    described = {
        "format": 1,
        "inputs": [
            {
                "name": column.name,
                "column": column.column,
                "kind": column.kind,
                "dtype": column.dtype,
                "cells": column.describe(),
            }
            for column in inputs
        ],
        "outputs": list(outputs),
        "task": settings.task,
        "training_mode": settings.training_mode,
        "classes": None if model.classes is None else model.classes.tolist(),
        "objective": settings.objective if model.classes is None else None,
        "quantiles": list(settings.quantiles) if settings.objective == "quantile" else None,
        "interval_half_widths": _half_widths(model),
        "table": model.card.get("table"),
        "target": model.card.get("target"),
        "decision": None if model.decision is None else model.decision.to_state()[0],
    }
    return graph.to_bytes(
        name="tabwright",
        version=__version__,
        doc=f"{settings.task} by {settings.training_mode}: raw columns in, predictions out",
        metadata={"tabwright": json.dumps(described, sort_keys=True, ensure_ascii=False)},
    )


def _add_responses(graph: Graph, model: FittedModel, scores: str, n_members: int) -> str:
    """Standardised values, or quantiles, from the outputs of all members."""
    settings = model.settings
    if settings.objective == "quantile":
        return add_mean_quantiles(graph, scores, n_members, len(settings.quantiles))
    if has_log_link(settings.objective):
        return add_mean_exponential(graph, scores, n_members)
    return add_mean(graph, scores, n_members)


def _wanted_outputs(model: FittedModel) -> tuple[str, ...]:
    """What the graph puts out, by the names that it has where no column has them."""
    if model.classes is not None:
        return ("label", "probabilities")
    follows = model.intervals is not None and model.intervals.scale != "constant"
    return (
        "value",
        *(("quantiles",) if model.settings.objective == "quantile" else ()),
        *(("interval_centre",) if model.quantile_shifts else ()),
        *(("interval_scale",) if follows else ()),
    )


def _add_interval_scale(graph: Graph, model: FittedModel, x: str, value: str) -> str:
    """The scale of `Predictor.centre_and_scale`, float64 of shape (rows,)."""
    if model.residual_scale is not None:
        network = model.residual_scale.network()
        scores = add_networks(graph, network, x, _largest_input(model.encoder.plan_))
        return add_residual_scale(graph, add_mean(graph, scores, 1), model.residual_scale)
    unit = 1.0 if model.target is None else model.target.scale
    return add_quantile_scale(graph, value, len(model.settings.quantiles), unit)


def _half_widths(model: FittedModel) -> dict[str, float] | None:
    """Half-widths of intervals by coverage, in multiples of the scale or in the target's unit."""
    if model.intervals is None:
        return None
    widths = {str(share): model.intervals.half_width(share) for share in _COVERAGES}
    return {share: width for share, width in widths.items() if np.isfinite(width)}


def _output_names(model: FittedModel, inputs: Sequence[GraphInput]) -> tuple[str, ...]:
    taken = {column.name for column in inputs}
    names = []
    for name in _wanted_outputs(model):
        while name in taken:
            name += "_"
        names.append(name)
    return tuple(names)


def _labels(classes: NDArray[np.generic]) -> tuple[NDArray[np.generic], str]:
    if classes.dtype.kind in "OU":
        return np.array([str(label) for label in classes], dtype=object), "string"
    return classes, classes.dtype.name


def _largest_input(plan: EncodingPlan) -> float:
    """A bound on the inputs of the networks, which are 0 to 1 but for numbers and statistics."""
    fitted = plan.numbers
    largest = 5.0
    for limit in (fitted.lower, fitted.upper):
        reach = np.abs((limit - fitted.centre) * fitted.scale)
        largest = max(largest, float(reach.max(initial=0.0)))
    for category in plan.categories:
        if category.statistics is not None:
            largest = max(largest, float(np.abs(category.statistics).max(initial=0.0)))
    for leaf in plan.value_statistics:
        largest = max(largest, float(np.abs(leaf.table).max(initial=0.0)))
    return largest
