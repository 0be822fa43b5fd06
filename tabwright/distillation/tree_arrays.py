"""Trees of the libraries as plain arrays that predict the same without them.

Each library's own description of its model is read: scikit-learn's node tables, the text of
LightGBM, the JSON of XGBoost and CatBoost. What an ensemble was fitted on must be float32 values
without categorical columns: splits of sets of categories, and CatBoost's statistics of categories,
have no arrays here.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabwright.distillation.trees.oblivious import FittedObliviousTrees
from tabwright.distillation.trees.problem import FittedTrees
from tabwright.inference.tree_ensemble import MAX_OBLIVIOUS_DEPTH, ObliviousTrees, TreeEnsemble

ARRAY_KINDS = ("hist_gradient_boosting", "lightgbm", "xgboost", "catboost")

FloatArray = NDArray[np.float64]


def ensemble_of(
    kind: str, fitted: FittedTrees, *, n_features: int, n_classes: int, n_rounds: int
) -> TreeEnsemble | ObliviousTrees:
    """The first rounds of a fitted ensemble.

    `fitted`: on float32 values without categorical columns.
    Returns: goes the same way as the library at every split; sums differ in the last digits at most
        (XGBoost's are of float32).
    Raises `ValueError` if the kind has no arrays, or a split is not one of numbers.
    """
    if isinstance(fitted, FittedObliviousTrees):
        return fitted.first(n_rounds)
    model: Any = getattr(fitted, "model")  # noqa: B009 - no part of the protocol
    if kind == "catboost":
        return _catboost(model, n_features, n_rounds)
    if kind == "hist_gradient_boosting":
        trees, baseline = _hist_gradient_boosting(model, n_rounds)
    elif kind == "lightgbm":
        trees, baseline = _lightgbm(model, n_rounds, 1 if n_classes <= 2 else n_classes)
    elif kind == "xgboost":
        trees, baseline = _xgboost(model, n_rounds, n_classes)
    else:
        raise ValueError(f"trees as arrays must be of {', '.join(ARRAY_KINDS)}; got {kind!r}")
    return _in_preorder(kind, trees, baseline, n_features)


def split_gains(fitted: FittedTrees, n_features: int) -> FloatArray:
    """What the splits of scikit-learn's boosted trees gained, summed by feature: (n_features,)."""
    model: Any = getattr(fitted, "model")  # noqa: B009 - no part of the protocol
    gains = np.zeros(n_features)
    for tree in (predictor.nodes for iteration in model._predictors for predictor in iteration):
        splits = tree[tree["is_leaf"] == 0]
        np.add.at(gains, splits["feature_idx"], splits["gain"])
    return gains


@dataclass(frozen=True)
class _Nodes:
    """One tree, root first; every array of shape (n_nodes,)."""

    leaf: NDArray[np.bool_]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float32]
    missing_left: NDArray[np.bool_]
    value: FloatArray


def _in_preorder(
    kind: str, trees: Sequence[_Nodes], baseline: FloatArray, n_features: int
) -> TreeEnsemble:
    """Trees one after the other, each node before its left child."""
    orders = [_preorder(tree) for tree in trees]
    sizes = [len(order) for order in orders]
    roots = (np.cumsum(sizes) - sizes).astype(np.int64)
    right = []
    for tree, order, root in zip(trees, orders, roots.tolist(), strict=True):
        place = np.empty(len(tree.leaf), dtype=np.int64)
        place[order] = np.arange(root, root + len(order))
        right.append(np.where(tree.leaf[order], 0, place[tree.right[order]]))

    def joined(name: str, at_leaves: bool, other: float) -> NDArray[Any]:
        parts = []
        for tree, order in zip(trees, orders, strict=True):
            column = getattr(tree, name)[order]
            parts.append(np.where(tree.leaf[order] == at_leaves, column, column.dtype.type(other)))
        return np.concatenate(parts)

    return TreeEnsemble(
        kind=kind,
        n_features=n_features,
        baseline=baseline,
        roots=roots,
        feature=joined("feature", False, 0).astype(np.int32),
        threshold=joined("threshold", False, 0.0),
        right=np.concatenate(right).astype(np.int32),
        missing_left=joined("missing_left", False, 0).astype(np.uint8),
        value=joined("value", True, 0.0),
    )


def _preorder(tree: _Nodes) -> NDArray[np.int64]:
    """The nodes in the order of the file format: a node, its left part, its right part."""
    leaf, left, right = tree.leaf.tolist(), tree.left.tolist(), tree.right.tolist()
    order, stack = [], [0]
    while stack:
        node = stack.pop()
        order.append(node)
        if not leaf[node]:
            stack += [right[node], left[node]]
    return np.array(order, dtype=np.int64)


def _hist_gradient_boosting(model: Any, n_rounds: int) -> tuple[list[_Nodes], FloatArray]:
    """The trees of scikit-learn's, and the values (n_outputs,) that they start from."""
    trees = []
    for nodes in (tree.nodes for iteration in model._predictors[:n_rounds] for tree in iteration):
        leaf = nodes["is_leaf"].astype(bool)
        _refuse(bool(nodes["is_categorical"][~leaf].any()))
        threshold = np.where(leaf, 0.0, nodes["num_threshold"])
        trees.append(
            _Nodes(
                leaf=leaf,
                left=nodes["left"].astype(np.int64),
                right=nodes["right"].astype(np.int64),
                feature=nodes["feature_idx"].astype(np.int64),
                threshold=_rounded_down(threshold),
                missing_left=nodes["missing_go_to_left"].astype(bool),
                value=nodes["value"].astype(np.float64),
            )
        )
    return trees, np.ravel(model._baseline_prediction).astype(np.float64)


def _lightgbm(model: Any, n_rounds: int, n_outputs: int) -> tuple[list[_Nodes], FloatArray]:
    """The trees in LightGBM's model text, and the values that they start from."""
    text = model.model_to_string(num_iteration=n_rounds, importance_type="split")
    trees = []
    for section in text.partition("\nend of trees")[0].split("\nTree=")[1:]:
        lines = dict(line.split("=", 1) for line in section.splitlines() if "=" in line)

        def numbers(
            name: str, dtype: Any = np.int64, lines: dict[str, str] = lines
        ) -> NDArray[Any]:
            return np.array(lines.get(name, "").split(), dtype=dtype)

        decision = numbers("decision_type")
        _refuse(lines["num_cat"] != "0" or lines["is_linear"] != "0")
        value = numbers("leaf_value", np.float64)
        n_splits, n_leaves = len(decision), len(value)

        def child(name: str, n_splits: int = n_splits) -> NDArray[np.int64]:
            # Leaf k is ~k there, and the k-th node behind the splits here.
            child_index = numbers(name)
            return np.where(child_index < 0, n_splits + ~child_index, child_index)

        def split(column: NDArray[Any], n_leaves: int = n_leaves) -> NDArray[Any]:
            return np.append(column, np.zeros(n_leaves, dtype=column.dtype))

        threshold = numbers("threshold", np.float64)
        # Where training had no missing cells, a missing one is 0 to the library.
        missing_left = np.where((decision >> 2) & 3 == 2, decision & 2 > 0, threshold >= 0.0)
        trees.append(
            _Nodes(
                leaf=np.arange(n_splits + n_leaves) >= n_splits,
                left=split(child("left_child")) if n_splits else np.zeros(1, dtype=np.int64),
                right=split(child("right_child")) if n_splits else np.zeros(1, dtype=np.int64),
                feature=split(numbers("split_feature")),
                threshold=_rounded_down(split(threshold)),
                missing_left=split(missing_left),
                value=np.append(np.zeros(n_splits), value),
            )
        )
    return trees, np.zeros(n_outputs)


def _xgboost(model: Any, n_rounds: int, n_classes: int) -> tuple[list[_Nodes], FloatArray]:
    """The trees in XGBoost's JSON, and the values that they start from."""
    learner = json.loads(bytes(model[:n_rounds].save_raw("json")))["learner"]
    trees = []
    for tree_document in learner["gradient_booster"]["model"]["trees"]:
        _refuse(any(tree_document["split_type"]))
        left = np.array(tree_document["left_children"], dtype=np.int64)
        leaf = left < 0
        condition = np.array(tree_document["split_conditions"], dtype=np.float32)
        trees.append(
            _Nodes(
                leaf=leaf,
                left=left,
                right=np.array(tree_document["right_children"], dtype=np.int64),
                feature=np.array(tree_document["split_indices"], dtype=np.int64),
                # Left is below the condition there, and at most the threshold here.
                threshold=np.nextafter(condition, np.float32(-np.inf)),
                missing_left=np.array(tree_document["default_left"], dtype=bool),
                value=condition.astype(np.float64),
            )
        )
    text = learner["learner_model_param"]["base_score"]
    base = np.atleast_1d(np.array(json.loads(text), dtype=np.float64))
    if n_classes == 2:
        base = np.log(base / (1.0 - base))
    return trees, np.broadcast_to(base, (max(n_classes, 1) if n_classes != 2 else 1,)).copy()


def _catboost(model: Any, n_features: int, n_rounds: int) -> ObliviousTrees:
    """The trees in CatBoost's JSON, one condition per level."""
    # The library writes descriptions to files only.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trees.json"
        model.save_model(str(path), format="json")
        document = json.loads(path.read_text(encoding="utf-8"))
    trees = document["oblivious_trees"][:n_rounds]
    scale, bias = document["scale_and_bias"]
    # A tree that found nothing to split has null there.
    asked = [tree["splits"] or () for tree in trees]
    splits = (split for tree in asked for split in tree)
    _refuse(any(split["split_type"] != "FloatFeature" for split in splits))
    floats = document["features_info"]["float_features"]
    column = {known["feature_index"]: known["flat_feature_index"] for known in floats}
    # "AsTrue" would send missing values right, which the learner does not ask for.
    _refuse(any(known["nan_value_treatment"] == "AsTrue" for known in floats))
    depth = max(1, *map(len, asked))
    _refuse(depth > MAX_OBLIVIOUS_DEPTH)
    feature = np.zeros((len(trees), depth), dtype=np.int32)
    threshold = np.full((len(trees), depth), np.inf, dtype=np.float32)
    value = np.zeros((len(trees), 2**depth, len(bias)))
    for k, tree in enumerate(trees):
        for level, split in enumerate(asked[k]):
            feature[k, level] = column[split["float_feature_index"]]
            threshold[k, level] = split["border"]
        leaves = np.array(tree["leaf_values"], dtype=np.float64).reshape(-1, len(bias))
        value[k, : len(leaves)] = scale * leaves
    return ObliviousTrees(
        kind="catboost",
        n_features=n_features,
        baseline=np.array(bias, dtype=np.float64),
        feature=feature,
        threshold=threshold,
        value=value,
    )


def _refuse(other: bool) -> None:
    if other:
        raise ValueError(
            "trees as arrays must split numbers at thresholds; got another kind of split"
        )


def _rounded_down(threshold: FloatArray) -> NDArray[np.float32]:
    """The largest float32 at most each: float32 values compare with it as with the float64."""
    with np.errstate(over="ignore"):
        rounded = threshold.astype(np.float32)
    above = rounded.astype(np.float64) > threshold
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    return rounded
