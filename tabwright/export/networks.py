"""What stands behind the encoder, as ONNX nodes: networks, trees, averaging, class prior,
calibration, decision rule.

The twins are `inference/numpy_network.py`, `calibration/calibrator.py` and `TargetScale`: networks
in float32, everything
behind them in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabwright.calibration.calibrator import (
    ISOTONIC_BLEND,
    SMALLEST_PROBABILITY,
    Calibrator,
)
from tabwright.calibration.decisions import DecisionRule
from tabwright.export.graph import ML_DOMAIN, Graph, piecewise_linear
from tabwright.inference.numpy_network import FoldedNetwork
from tabwright.inference.target_scale import LARGEST_LOG_SCALE, ResidualScale, TargetScale
from tabwright.inference.tree_ensemble import ObliviousTrees, TreeEnsemble, Trees
from tabwright.inference.tree_mix import TreeMix
from tabwright.regression import LARGEST_LOG, LEAST_HALF_GAP

# A bound on what a float32 network computes; past it the graph computes in float64.
_SAFE = 1e37

FloatArray = NDArray[np.float64]


def add_networks(graph: Graph, network: FoldedNetwork, x: str, largest_input: float) -> str:
    """Outputs of every member, float64 of shape (n_members, rows, output_dim).

    `x`: float32 of shape (rows, input_dim).
    `largest_input`: no input is larger in absolute value.
    """
    first, hidden, head = network.layers
    k = network.n_members
    wide = not _largest_output(network, largest_input) < _SAFE
    if wide:
        x = graph.cast(x, "float64")

    def constant(array: NDArray[Any]) -> str:
        return graph.constant(np.ascontiguousarray(array, "float64" if wide else "float32"))

    def affine(value: str, weight: NDArray[Any]) -> str:
        return graph.add("MatMul", value, constant(weight))

    def apart(value: str, width: int) -> str:
        """(rows, K width) to (K, rows, width)."""
        split = graph.add("Reshape", value, graph.int64([0, k, width]))
        return graph.add("Transpose", split, attributes={"perm": [1, 0, 2]})

    def biased(value: str, bias: NDArray[Any]) -> str:
        return graph.add("Add", value, constant(bias.reshape(k, 1, -1)))

    now = graph.add("Add", affine(x, first.weight), constant(first.bias))
    if head is None:
        return graph.cast(apart(now, network.output_dim), "float64")
    now = graph.add("Relu", apart(now, network.hidden_dim))
    for i, layer in enumerate(hidden):
        if network.residual and i % 2 == 0:
            entered = now
        now = biased(affine(now, layer.weight), layer.bias)
        if network.residual and i % 2:
            now = graph.add("Add", now, entered)
        now = graph.add("Relu", now)
    return graph.cast(biased(affine(now, head.weight), head.bias), "float64")


def _largest_output(network: FoldedNetwork, largest_input: float) -> float:
    """A bound on every value inside the networks."""
    first, hidden, head = network.layers
    largest = bound = largest_input
    carried = 0.0
    for i, layer in enumerate((first, *hidden, *(() if head is None else (head,)))):
        if network.residual and i % 2:
            carried = bound
        gain = float(np.abs(layer.weight.astype(np.float64)).sum(axis=-2).max(initial=0.0))
        bound = gain * bound + float(np.abs(layer.bias).max(initial=0.0)) + carried
        largest = max(largest, bound)
    return largest


def add_probabilities(graph: Graph, logits: str, n_members: int) -> str:
    """Softmax of every member's outputs, averaged: float64 of shape (rows, n_classes)."""
    total = graph.sum(_softmax(graph, logits), 0)
    return graph.add("Div", total, graph.float64(n_members))


def add_mean(graph: Graph, outputs: str, n_members: int) -> str:
    """The members' first output, averaged: float64 of shape (rows,)."""
    first = graph.add("Gather", outputs, graph.int64(0), attributes={"axis": 2})
    return graph.add("Div", graph.sum(first, 0), graph.float64(n_members))


def add_mean_exponential(graph: Graph, outputs: str, n_members: int) -> str:
    """`regression.member_responses` of a logarithmic link, averaged: float64 of shape (rows,)."""
    first = graph.add("Gather", outputs, graph.int64(0), attributes={"axis": 2})
    raised = graph.add("Max", first, graph.float64(-LARGEST_LOG))
    means = graph.add("Exp", graph.add("Min", raised, graph.float64(LARGEST_LOG)))
    return graph.add("Div", graph.sum(means, 0), graph.float64(n_members))


def add_mean_quantiles(graph: Graph, outputs: str, n_members: int, n_levels: int) -> str:
    """`regression.member_responses` of quantiles, averaged: float64 of shape (rows, n_levels)."""

    def levels(places: list[int]) -> str:
        return graph.add("Gather", outputs, graph.int64(places), attributes={"axis": 2})

    steps = levels([0])
    if n_levels > 1:
        steps = graph.concat([steps, _softplus(graph, levels(list(range(1, n_levels))))], axis=2)
    # A product with ones above the diagonal adds up the steps below each level.
    values = graph.add("MatMul", steps, graph.constant(np.triu(np.ones((n_levels, n_levels)))))
    return graph.add("Div", graph.sum(values, 0), graph.float64(n_members))


def _softplus(graph: Graph, value: str) -> str:
    """`np.logaddexp(0, value)`: ONNX Runtime has no softplus of doubles."""
    small = graph.add("Exp", graph.add("Neg", graph.add("Abs", value)))
    log = graph.add("Log", graph.add("Add", graph.float64(1.0), small))
    return graph.add("Add", graph.add("Max", value, graph.float64(0.0)), log)


def add_trees(graph: Graph, networks: str, mix: TreeMix, features: str, *, classifies: bool) -> str:
    """`TreeMix.mix`: float64 of the shape of `networks`."""
    mixed = graph.add("Mul", networks, graph.float64(mix.network_weight))
    for weight, ensemble in zip(mix.weights, mix.ensembles, strict=True):
        raw = _add_ensemble(graph, ensemble, features)
        if not classifies:
            raw = graph.add("Squeeze", raw, graph.int64([1]))
        elif len(ensemble.baseline) == 1:
            raw = _softmax(graph, graph.concat([graph.add("Sub", raw, raw), raw]))
        else:
            raw = _softmax(graph, raw)
        mixed = graph.add("Add", mixed, graph.add("Mul", raw, graph.float64(weight)))
    return mixed


def _add_ensemble(graph: Graph, ensemble: Trees, features: str) -> str:
    """Sums of leaves, float64 of shape (rows, n_outputs)."""
    attributes: dict[str, Any] = {"n_targets": len(ensemble.baseline), "aggregate_function": "SUM"}
    if isinstance(ensemble, ObliviousTrees):
        attributes |= _oblivious_attributes(ensemble)
    else:
        assert isinstance(ensemble, TreeEnsemble)
        attributes |= _node_attributes(ensemble)
    sums = graph.add("TreeEnsembleRegressor", features, domain=ML_DOMAIN, attributes=attributes)
    baseline = graph.constant(ensemble.baseline[None])
    return graph.add("Add", graph.cast(sums, "float64"), baseline)


def _node_attributes(ensemble: TreeEnsemble) -> dict[str, Any]:
    """Trees as the attributes of ONNX's TreeEnsembleRegressor."""
    nodes, n_outputs = np.arange(len(ensemble.value)), len(ensemble.baseline)
    tree = np.searchsorted(ensemble.roots, nodes, side="right") - 1
    local = nodes - ensemble.roots[tree]
    leaf = ensemble.right == 0
    return {
        "nodes_treeids": tree.tolist(),
        "nodes_nodeids": local.tolist(),
        "nodes_featureids": ensemble.feature.tolist(),
        "nodes_values": ensemble.threshold.tolist(),
        "nodes_modes": ["LEAF" if is_leaf else "BRANCH_LEQ" for is_leaf in leaf.tolist()],
        "nodes_truenodeids": np.where(leaf, 0, local + 1).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, ensemble.right - ensemble.roots[tree]).tolist(),
        "nodes_missing_value_tracks_true": ensemble.missing_left.tolist(),
        "target_treeids": tree[leaf].tolist(),
        "target_nodeids": local[leaf].tolist(),
        "target_ids": (tree[leaf] % n_outputs).tolist(),
        "target_weights": ensemble.value[leaf].astype(np.float32).tolist(),
    }


def _oblivious_attributes(ensemble: ObliviousTrees) -> dict[str, Any]:
    """Level by level: the children of node i are 2i + 1 (no, or missing) and 2i + 2 (yes)."""
    n_trees, depth = ensemble.feature.shape
    n_outputs, n_leaves = len(ensemble.baseline), 2**depth
    n_nodes = 2 * n_leaves - 1
    local = np.arange(n_nodes)
    split = local < n_leaves - 1
    level = np.floor(np.log2(local[split] + 1)).astype(np.int64)
    in_leaf = np.zeros((n_trees, n_leaves), dtype=np.int64)
    modes = np.where(split, "BRANCH_LEQ", "LEAF").tolist()
    # The first question is the lowest bit of a leaf's number, and the first turn on the way down.
    down = np.arange(n_leaves)
    number = sum(((down >> (depth - 1 - bit)) & 1) << bit for bit in range(depth))
    leaves = np.repeat(local[~split], n_outputs)

    def of_all(values: NDArray[Any]) -> list[Any]:
        return np.broadcast_to(values, (n_trees, *values.shape[-1:])).ravel().tolist()

    return {
        "nodes_treeids": np.repeat(np.arange(n_trees), n_nodes).tolist(),
        "nodes_nodeids": of_all(local),
        "nodes_featureids": np.append(ensemble.feature[:, level], in_leaf, axis=1).ravel().tolist(),
        "nodes_values": np.append(ensemble.threshold[:, level], in_leaf.astype(np.float32), axis=1)
        .ravel()
        .tolist(),
        "nodes_modes": modes * n_trees,
        "nodes_truenodeids": of_all(np.where(split, 2 * local + 1, 0)),
        "nodes_falsenodeids": of_all(np.where(split, 2 * local + 2, 0)),
        "nodes_missing_value_tracks_true": of_all(split.astype(np.int64)),
        "target_treeids": np.repeat(np.arange(n_trees), n_leaves * n_outputs).tolist(),
        "target_nodeids": of_all(leaves),
        "target_ids": list(range(n_outputs)) * (n_trees * n_leaves),
        "target_weights": ensemble.value[:, number].astype(np.float32).ravel().tolist(),
    }


def add_target_scale(graph: Graph, value: str, target: TargetScale) -> str:
    """`TargetScale.restore`."""
    moved = graph.add("Mul", value, graph.float64(target.scale))
    if not target.log_link:
        moved = graph.add("Add", moved, graph.float64(target.mean))
    raised = graph.add("Max", moved, graph.float64(target.low))
    return graph.add("Min", raised, graph.float64(target.high))


def add_residual_scale(graph: Graph, value: str, scale: ResidualScale) -> str:
    """`ResidualScale.restore`."""
    raised = graph.add("Max", value, graph.float64(-LARGEST_LOG_SCALE))
    multiples = graph.add("Exp", graph.add("Min", raised, graph.float64(LARGEST_LOG_SCALE)))
    return graph.add("Mul", multiples, graph.float64(scale.unit))


def add_quantile_scale(graph: Graph, quantiles: str, n_levels: int, unit: float) -> str:
    """The scale of `regression.quantile_centre_and_scale`, of shape (rows,)."""
    low, high = (
        graph.add("Gather", quantiles, graph.int64(place), attributes={"axis": 1})
        for place in (0, n_levels - 1)
    )
    half = graph.add("Div", graph.add("Sub", high, low), graph.float64(2.0))
    return graph.add("Max", half, graph.float64(LEAST_HALF_GAP * unit))


def add_quantile_shifts(
    graph: Graph, quantiles: str, shifts: Sequence[float], target: TargetScale
) -> str:
    """`Predictor.calibrated` of quantiles: float64 of shape (rows, n_levels)."""
    n_levels = len(shifts)
    scale = add_quantile_scale(graph, quantiles, n_levels, target.scale)
    column = graph.add("Unsqueeze", scale, graph.int64([1]))
    moved = graph.add("Mul", column, graph.constant(np.array([shifts], dtype=np.float64)))
    rising = graph.add(
        "TopK",
        graph.add("Add", quantiles, moved),
        graph.int64([n_levels]),
        attributes={"axis": 1, "largest": 0, "sorted": 1},
        unused=1,
    )
    raised = graph.add("Max", rising, graph.float64(target.low))
    return graph.add("Min", raised, graph.float64(target.high))


def add_quantile_centre(graph: Graph, quantiles: str, n_levels: int) -> str:
    """The middle of the outer quantiles, of shape (rows,)."""
    low, high = (
        graph.add("Gather", quantiles, graph.int64(place), attributes={"axis": 1})
        for place in (0, n_levels - 1)
    )
    return graph.add("Div", graph.add("Add", low, high), graph.float64(2.0))


def add_prior(graph: Graph, proba: str, log_ratio: FloatArray) -> str:
    """`calibrator.change_prior`."""
    logs = graph.add("Log", proba)
    return _softmax(graph, graph.add("Add", logs, graph.constant(log_ratio[None])))


def add_calibration(graph: Graph, proba: str, calibrator: Calibrator) -> str:
    """`Calibrator.apply`, but for rounding errors between probabilities that are equal."""
    kind, arrays = calibrator.kind, calibrator.arrays
    if kind == "identity":
        return proba
    if kind == "isotonic":
        return _add_isotonic(graph, proba, calibrator)
    clipped = graph.add("Max", proba, graph.float64(SMALLEST_PROBABILITY))
    logs = graph.add("Log", graph.add("Min", clipped, graph.float64(1.0)))
    if kind == "logistic":
        scale, shift = arrays["coefficients"]
        half = np.array([[-0.5 * scale, 0.5 * scale]])
        # Log-odds as a product with (-1, 1), then both halves with their signs at once.
        odds = graph.add("MatMul", logs, graph.constant(np.array([[-1.0], [1.0]])))
        halves = graph.add("Mul", odds, graph.constant(half))
        return _softmax(
            graph, graph.add("Add", halves, graph.constant(np.array([[-0.5, 0.5]]) * shift))
        )
    inverse = graph.float64(float(arrays["inverse_temperature"][0]))
    scaled = _softmax(graph, graph.add("Mul", logs, inverse))
    if kind == "temperature":
        return scaled
    uniform = float(arrays["uniform"][0])
    shrunk = graph.add("Mul", scaled, graph.float64(1.0 - uniform))
    floor = graph.float64(uniform / len(arrays["bias"]))
    mixed = graph.add("Log", graph.add("Add", shrunk, floor))
    if kind == "vector":
        mapped = graph.add("Mul", mixed, graph.constant(arrays["weight"][None]))
    else:
        mapped = graph.add(
            "MatMul", mixed, graph.constant(np.ascontiguousarray(arrays["weight"].T))
        )
    return _softmax(graph, graph.add("Add", mapped, graph.constant(arrays["bias"][None])))


def _add_isotonic(graph: Graph, proba: str, calibrator: Calibrator) -> str:
    """The nodes of `Calibrator._isotonic`."""
    borders = np.cumsum(calibrator.arrays["lengths"])[:-1].astype(np.int64)
    knots = np.split(calibrator.arrays["inputs"], borders)
    values = np.split(calibrator.arrays["outputs"], borders)
    # Two classes have one function, of class 1; class 0 gets the rest.
    if len(knots) == 1:
        second = piecewise_linear(graph, graph.columns(proba, [1]), knots, values)
        mapped = graph.concat([graph.add("Sub", graph.float64(1.0), second), second])
    else:
        mapped = piecewise_linear(graph, proba, knots, values)
    mapped = graph.add("Mul", mapped, graph.float64(1.0 - ISOTONIC_BLEND))
    blend = graph.add("Mul", proba, graph.float64(ISOTONIC_BLEND))
    mixed = graph.add("Add", mapped, blend)
    return graph.add("Div", mixed, graph.sum(mixed, 1, keep=True))


def _softmax(graph: Graph, scores: str) -> str:
    return graph.add("Softmax", scores, attributes={"axis": -1})


def add_decision(graph: Graph, proba: str, rule: DecisionRule) -> str:
    """Predicted classes, int64 of shape (rows,); the twin of `DecisionRule.apply`."""
    if rule.kind == "threshold":
        positive = graph.constant(np.array(rule.positive))
        chosen = graph.add("Gather", proba, positive, attributes={"axis": 1})
        reached = graph.add("GreaterOrEqual", chosen, graph.constant(np.array(rule.threshold)))
        return graph.add("Where", reached, positive, graph.constant(np.array(1 - rule.positive)))
    if rule.costs is not None:
        proba = graph.add("MatMul", proba, graph.constant(-rule.costs))
    return graph.add("ArgMax", proba, attributes={"axis": 1, "keepdims": 0})
