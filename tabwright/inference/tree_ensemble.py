"""Boosted trees as plain arrays: prediction in NumPy, and the closed schema of their file form.

The trees see encoded rows as the encoder gives them, before the networks' expansion: numbers with
NaN where missing, and codes of categories and calendar places. No library that fits trees is
needed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabwright.artifact.schema import Reader, TensorBag, prefixed
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.errors import ArtifactError

__all__ = ["TreeEnsemble", "TreeMix", "n_tree_features", "tree_features"]

MAX_DEPTH = 64
_MOST_ENSEMBLES = 64
_MOST_NODES = 2**26
# Rows times trees that go down at once: the places of all of them stay in the cache.
_BLOCK = 2**17

FloatArray = NDArray[np.float64]


def n_tree_features(encoder: TableEncoder) -> int:
    """Features that trees see of the rows of an encoder."""
    plan = encoder.plan_
    return plan.layout.n_numeric - len(plan.obliques) + plan.n_codes


def tree_features(encoder: TableEncoder, compact: Compact) -> NDArray[np.float32]:
    """Encoded rows as trees see them.

    Parameters
    ----------
    encoder : TableEncoder
    compact : Compact
        Rows that it encoded.

    Returns
    -------
    ndarray of shape (n, n_features), float32
        Numbers, NaN where missing, then statistics of levels, then codes. Pairwise linear features
        are for the networks alone.
    """
    plan = encoder.plan_
    n_numeric = plan.layout.n_numeric - len(plan.obliques)
    features = np.empty((len(compact.numeric), n_numeric + plan.n_codes), dtype=np.float32)
    features[:, :n_numeric] = compact.numeric[:, :n_numeric]
    features[:, n_numeric:] = compact.codes
    return features


@dataclass(frozen=True)
class TreeEnsemble:
    """Boosted trees; nodes lie in preorder, so the left child of a split is the next node.

    Parameters
    ----------
    kind : str
        What fitted them, for people.
    n_features : int
    baseline : ndarray of shape (n_outputs,), float64
        One output for two classes (the log-odds of the second) or a standardised target, else
        one per class. Tree `t` adds to output `t % n_outputs`.
    roots : ndarray of shape (n_trees,), int64
        First node of each tree; its last is the one before the next tree's root.
    feature : ndarray of shape (n_nodes,), int32
        Of splits; 0 in leaves.
    threshold : ndarray of shape (n_nodes,), float32
        A row goes left where its value is at most this.
    right : ndarray of shape (n_nodes,), int32
        The right child; 0 in leaves.
    missing_left : ndarray of shape (n_nodes,), uint8
        Whether NaN goes left.
    value : ndarray of shape (n_nodes,), float64
        Of leaves; 0 in splits.
    """

    kind: str
    n_features: int
    baseline: FloatArray
    roots: NDArray[np.int64]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.uint8]
    value: FloatArray
    depth: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", self._checked_depth())

    def raw(self, features: NDArray[np.float32]) -> FloatArray:
        """Sums of leaves, before the link function.

        Parameters
        ----------
        features : ndarray of shape (n, n_features), float32
            From `tree_features`.

        Returns
        -------
        ndarray of shape (n, n_outputs), float64
        """
        n_outputs = len(self.baseline)
        result = np.empty((len(features), n_outputs))
        step = max(1, _BLOCK // max(len(self.roots), 1))
        for start in range(0, len(features), step):
            rows = features[start : start + step]
            leaves = self.value[self._leaves(rows)].reshape(len(rows), -1, n_outputs)
            result[start : start + step] = self.baseline + leaves.sum(axis=1)
        return result

    def predict(self, features: NDArray[np.float32], *, classifies: bool) -> FloatArray:
        """Probabilities of shape (n, n_classes), or standardised values of shape (n,)."""
        raw = self.raw(features)
        if not classifies:
            return raw[:, 0]
        if raw.shape[1] == 1:
            raw = np.concatenate([np.zeros_like(raw), raw], axis=1)
        proba: FloatArray = np.exp(raw - raw.max(axis=1, keepdims=True))
        proba /= proba.sum(axis=1, keepdims=True)
        return proba

    def _leaves(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        """The leaf of each row in each tree: (n, n_trees)."""
        n_rows = len(rows)
        leaf = np.tile(self.roots, (n_rows, 1)).ravel()
        # Places that are still splits, and the start of their row among the flat features.
        open_ = np.arange(leaf.size)
        offset = np.repeat(np.arange(n_rows) * self.n_features, len(self.roots))
        flat = rows.ravel()
        node = leaf
        for _ in range(self.depth + 1):
            split = self.right[node] > 0
            if not split.all():
                open_, node, offset = open_[split], node[split], offset[split]
            if not len(open_):
                break
            cell = flat[offset + self.feature[node]]
            left = cell <= self.threshold[node]
            left |= np.isnan(cell) & (self.missing_left[node] != 0)
            node = np.where(left, node + 1, self.right[node])
            leaf[open_] = node
        return leaf.reshape(n_rows, -1)

    def _checked_depth(self) -> int:
        """Depth of the deepest tree; refuses nodes that are not trees."""
        n_nodes, n_trees = len(self.value), len(self.roots)
        roots, right = self.roots, self.right.astype(np.int64)
        if not n_trees or n_trees % len(self.baseline):
            raise ArtifactError(
                f"tree ensemble: trees must be as many for each of {len(self.baseline)} outputs, "
                f"at least one; got {n_trees}"
            )
        if roots[0] != 0 or (np.diff(roots) <= 0).any() or roots[-1] >= n_nodes:
            raise ArtifactError("tree ensemble: roots must rise from 0 and be nodes")
        nodes = np.arange(n_nodes)
        end = np.append(roots[1:], n_nodes)[np.searchsorted(roots, nodes, side="right") - 1]
        split = right != 0
        # Children behind their parent, in the same tree: no way down comes back.
        if (right[split] <= nodes[split] + 1).any() or (right[split] >= end[split]).any():
            raise ArtifactError(
                "tree ensemble: the right child of a node must lie behind its left child and in "
                "the same tree"
            )
        parents = np.bincount(np.concatenate([nodes[split] + 1, right[split]]), minlength=n_nodes)
        parents[roots] += 1
        if (parents != 1).any():
            raise ArtifactError("tree ensemble: every node but the roots must have one parent")
        depth, level = 0, roots[split[roots]]
        while len(level):
            depth += 1
            if depth > MAX_DEPTH:
                raise ArtifactError(f"tree ensemble: trees must be at most {MAX_DEPTH} deep")
            below = np.concatenate([level + 1, right[level]])
            level = below[split[below]]
        return depth

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The document and the arrays of the artifact."""
        names = ("baseline", "roots", "feature", "threshold", "right", "missing_left", "value")
        return {"kind": self.kind}, {name: getattr(self, name) for name in names}

    @classmethod
    def from_state(
        cls, kind: str, tensors: TensorBag, *, n_features: int, n_outputs: int
    ) -> TreeEnsemble:
        """Read an ensemble back.

        Raises
        ------
        ArtifactError
            If an array does not fit, or the nodes are not trees.
        """
        value = tensors.take("value", "float64")
        n_nodes = len(value)
        if not 0 < n_nodes <= _MOST_NODES:
            raise ArtifactError(
                f"tree ensemble: nodes must be from 1 to {_MOST_NODES}; got {n_nodes}"
            )
        shape = (n_nodes,)
        return cls(
            kind=kind,
            n_features=n_features,
            baseline=tensors.take("baseline", "float64", (n_outputs,)),
            roots=tensors.take("roots", "int64", low=0),
            feature=tensors.take("feature", "int32", shape, low=0, high=n_features - 1),
            threshold=tensors.take("threshold", "float32", shape, allow_inf=True),
            right=tensors.take("right", "int32", shape, low=0),
            missing_left=tensors.take("missing_left", "uint8", shape, high=1),
            value=value,
        )


@dataclass(frozen=True)
class TreeMix:
    """Tree ensembles beside the networks of a model, and the weights of the average.

    Parameters
    ----------
    network_weight : float
        Of the networks' mean prediction, from 0 to 1.
    weights : tuple of float
        Of the ensembles; all weights sum to 1.
    ensembles : tuple of TreeEnsemble
    """

    network_weight: float
    weights: tuple[float, ...]
    ensembles: tuple[TreeEnsemble, ...]

    def mix(self, networks: FloatArray, features: NDArray[np.float32]) -> FloatArray:
        """The weighted mean of networks and trees.

        Parameters
        ----------
        networks : ndarray of shape (n, n_classes) or (n,), float64
            Probabilities, or standardised values.
        features : ndarray of shape (n, n_features), float32

        Returns
        -------
        ndarray of the same shape as `networks`, float64
        """
        mixed = self.network_weight * networks
        for weight, ensemble in zip(self.weights, self.ensembles, strict=True):
            mixed += weight * ensemble.predict(features, classifies=networks.ndim == 2)
        return mixed

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The document and the arrays of the artifact."""
        tensors: dict[str, NDArray[Any]] = {}
        described = []
        for k, ensemble in enumerate(self.ensembles):
            document, arrays = ensemble.to_state()
            described.append(document)
            tensors |= prefixed(f"{k}.", arrays)
        return {
            "network_weight": self.network_weight,
            "weights": list(self.weights),
            "ensembles": described,
        }, tensors

    @classmethod
    def from_state(
        cls, document: Reader, tensors: TensorBag, *, n_features: int, n_outputs: int
    ) -> TreeMix:
        """Read trees and weights back, every value checked.

        Raises
        ------
        ArtifactError
            If anything is missing, left over or out of range, or nodes are not trees.
        """
        ensembles = []
        for k, own in enumerate(document.children("ensembles", max_length=_MOST_ENSEMBLES)):
            kind = own.text("kind", max_length=100)
            own.done()
            ensembles.append(
                TreeEnsemble.from_state(
                    kind, tensors.scoped(f"{k}."), n_features=n_features, n_outputs=n_outputs
                )
            )
        if not ensembles:
            raise document.fail("ensembles", "at least one ensemble")
        mix = cls(
            network_weight=document.number("network_weight", low=0.0, high=1.0),
            weights=document.numbers("weights", low=0.0, high=1.0, length=len(ensembles)),
            ensembles=tuple(ensembles),
        )
        if abs(mix.network_weight + sum(mix.weights) - 1.0) > 1e-9:
            raise document.fail("weights", "such that all weights sum to 1")
        document.done()
        return mix

    def describe(self) -> Mapping[str, float]:
        """Weight by name, the networks' first."""
        named = {"networks": self.network_weight}
        for weight, ensemble in zip(self.weights, self.ensembles, strict=True):
            named[ensemble.kind] = named.get(ensemble.kind, 0.0) + weight
        return named
