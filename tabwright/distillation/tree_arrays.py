"""Trees of a library as plain arrays that predict the same without it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabwright.distillation.trees import FittedTrees
from tabwright.inference.tree_ensemble import TreeEnsemble

__all__ = ["ensemble_of"]


def ensemble_of(kind: str, fitted: FittedTrees, *, n_features: int, n_rounds: int) -> TreeEnsemble:
    """The first rounds of a fitted ensemble of scikit-learn's histogram gradient boosting.

    Parameters
    ----------
    kind : str
        Its name in the model.
    fitted : FittedTrees
        From the learner "hist_gradient_boosting", on float32 values without categorical columns.
    n_features, n_rounds : int

    Returns
    -------
    TreeEnsemble
        Goes the same way as the library at every split; sums differ in the last digits at most.
    """
    model: Any = getattr(fitted, "model")  # noqa: B009 - no part of the protocol
    baseline = np.ravel(model._baseline_prediction).astype(np.float64)
    trees = [tree.nodes for iteration in model._predictors[:n_rounds] for tree in iteration]
    sizes = [len(nodes) for nodes in trees]
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    nodes = np.concatenate(trees)
    leaf = nodes["is_leaf"].astype(bool)
    if nodes["is_categorical"][~leaf].any():
        raise ValueError("trees as arrays split numbers; got a split of category sets")
    local = np.concatenate([np.arange(size) for size in sizes])
    if (nodes["left"][~leaf] != local[~leaf] + 1).any():
        raise ValueError("trees as arrays have nodes in preorder; got another order of nodes")
    shift = np.repeat(roots, sizes)
    return TreeEnsemble(
        kind=kind,
        n_features=n_features,
        baseline=baseline,
        roots=roots,
        feature=np.where(leaf, 0, nodes["feature_idx"]).astype(np.int32),
        threshold=_rounded_down(np.where(leaf, 0.0, nodes["num_threshold"])),
        right=np.where(leaf, 0, nodes["right"].astype(np.int64) + shift).astype(np.int32),
        missing_left=np.where(leaf, 0, nodes["missing_go_to_left"]).astype(np.uint8),
        value=np.where(leaf, nodes["value"], 0.0),
    )


def _rounded_down(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 at most each: float32 values compare with it as with the float64."""
    with np.errstate(over="ignore"):
        rounded = threshold.astype(np.float32)
    above = rounded.astype(np.float64) > threshold
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    return rounded
