"""Boosted trees as plain arrays: prediction in NumPy, and the closed schema of their file form.

No library that fits trees is needed here. Ensembles come in two forms: nodes for trees of any
shape, and oblivious trees, whose levels ask one question each. What the features are and how
ensembles join the networks lives in `inference/tree_mix.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabwright.artifact.schema import TensorBag
from tabwright.errors import ArtifactError
from tabwright.inference.compiled.functions import instruction_sets
from tabwright.inference.compiled.trees import CompiledTrees

# Limits of what a file may hold: no learner of ours grows trees as deep, or as many.
MAX_DEPTH = 64
MAX_OBLIVIOUS_DEPTH = 16
_MOST_NODES = 2**26
# Sums of leaves stay finite, and so do differences of sums.
_LARGEST_LEAF = 1e300
# Rows times trees that go down at once: the places of all of them stay in the cache.
_BLOCK = 2**17
# Rows up to which all trees are asked at once, and rows asked at once after that, tree by tree.
_FEW_ROWS = 512
_ROW_BLOCK = 8_192
# Bytes of leaf masks at most; ensembles that need more go down node by node.
_MOST_MASK_BYTES = 2**26

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Trees(ABC):
    """An ensemble of boosted trees of either form.

    `baseline`: (n_outputs,), float64; one output for two classes (the log-odds of the second) or a
        standardised target, else one per class.
    """

    kind: str
    n_features: int
    baseline: FloatArray

    def raw(self, features: NDArray[np.float32]) -> FloatArray:
        """Sums of leaves, before the link function: those of `raw_in_numpy`, to the last bit.

        `features`: (n, n_features), float32; from `tree_features`.
        Returns: (n, n_outputs), float64.
        """
        if self._compiled is None:
            return self.raw_in_numpy(features)
        return self._compiled(features)

    @abstractmethod
    def raw_in_numpy(self, features: NDArray[np.float32]) -> FloatArray:
        """`raw` where the extension module was not built; leaves are added tree after tree."""

    @cached_property
    def _compiled(self) -> CompiledTrees | None:
        """The trees as C functions take them; None where the extension module was not built."""
        return self._in_c() if instruction_sets() else None

    @abstractmethod
    def _in_c(self) -> CompiledTrees: ...

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle keeps: not what speeds up predictions, which is made again."""
        made = ("_masks", "_compiled")
        return {name: value for name, value in vars(self).items() if name not in made}

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

    @abstractmethod
    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the artifact."""


@dataclass(frozen=True)
class TreeEnsemble(Trees):
    """Boosted trees; nodes lie in preorder, so the left child of a split is the next node.

    Tree `t` adds to output `t % n_outputs`.

    `roots`: (n_trees,), int64; first node of each tree; its last is the one before the next tree's
        root.
    `feature`: (n_nodes,), int32; of splits; 0 in leaves.
    `threshold`: (n_nodes,), float32; a row goes left where its value is at most this.
    `right`: (n_nodes,), int32; the right child; 0 in leaves.
    `missing_left`: (n_nodes,), uint8; whether NaN goes left.
    `value`: (n_nodes,), float64; of leaves; 0 in splits.
    """

    roots: NDArray[np.int64]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.uint8]
    value: FloatArray
    depth: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", self._checked_depth())

    def raw_in_numpy(self, features: NDArray[np.float32]) -> FloatArray:
        n_outputs = len(self.baseline)
        if self._masks is not None:
            return self.baseline + self._masks.sums(features, n_outputs)
        result = np.empty((len(features), n_outputs))
        step = max(1, _BLOCK // len(self.roots))
        for start in range(0, len(features), step):
            rows = features[start : start + step]
            leaves = self.value[self._leaves(rows)].reshape(len(rows), -1, n_outputs)
            result[start : start + step] = self.baseline + _added_in_turn(leaves)
        return result

    def _in_c(self) -> CompiledTrees:
        n_features, n_trees = self.n_features, len(self.roots)
        asked, masks = _asked(self.feature, n_features), self._masks
        if masks is not None:
            name = f"sum_masked_{8 * masks.masks.itemsize}"
            return CompiledTrees(name, self.baseline, n_features, n_trees, masks.in_c())
        fields = (self.roots, asked, self.threshold, self.right, self.missing_left, self.value)
        return CompiledTrees("sum_nodes", self.baseline, n_features, n_trees, fields)

    @cached_property
    def _masks(self) -> _LeafMasks | None:
        """Another way to the leaves, faster; None where the trees are too large for it."""
        return _LeafMasks.of(self)

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

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        names = ("baseline", "roots", "feature", "threshold", "right", "missing_left", "value")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_arrays(
        cls, kind: str, tensors: TensorBag, *, n_features: int, n_outputs: int
    ) -> TreeEnsemble:
        """Read an ensemble back.

        Raises `ArtifactError` if an array does not fit, or the nodes are not trees.
        """
        value = _leaf_values(tensors, "value", (None,))
        n_nodes = len(value)
        if not 0 < n_nodes <= _MOST_NODES:
            raise ArtifactError(
                f"tree ensemble: nodes must be from 1 to {_MOST_NODES}; got {n_nodes}"
            )
        shape = (n_nodes,)
        return cls(
            kind=kind,
            n_features=n_features,
            baseline=_leaf_values(tensors, "baseline", (n_outputs,)),
            roots=tensors.take("roots", "int64", low=0),
            feature=tensors.take("feature", "int32", shape, low=0, high=n_features - 1),
            threshold=tensors.take("threshold", "float32", shape, allow_inf=True),
            right=tensors.take("right", "int32", shape, low=0),
            missing_left=tensors.take("missing_left", "uint8", shape, high=1),
            value=value,
        )


@dataclass(frozen=True)
class ObliviousTrees(Trees):
    """Boosted trees that ask the same question in all nodes of a level.

    A leaf has a value for every output.

    `feature`: (n_trees, depth), int32; of the question of each level.
    `threshold`: (n_trees, depth), float32; the answer is yes where the value is above this; of NaN
        it is no. Infinity in levels that a tree does not have.
    `value`: (n_trees, 2**depth, n_outputs), float64; of leaves; bit d of a leaf's number is the
        answer at level d.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    value: FloatArray

    def raw_in_numpy(self, features: NDArray[np.float32]) -> FloatArray:
        n_trees, depth = self.feature.shape
        if len(features) > _FEW_ROWS:
            return self.baseline + self._sums(features)
        result = np.empty((len(features), len(self.baseline)))
        tree, bit = np.arange(n_trees), (2.0 ** np.arange(depth)).astype(np.float32)
        asked, threshold = self.feature.ravel(), self.threshold.ravel()
        step = max(1, _BLOCK // (n_trees * depth))
        for start in range(0, len(features), step):
            rows = features[start : start + step]
            answers = (rows[:, asked] > threshold).astype(np.float32).reshape(-1, depth)
            leaf = (answers @ bit).astype(np.int64).reshape(len(rows), n_trees)
            result[start : start + step] = _added_in_turn(self.value[tree, leaf])
        return self.baseline + result

    def _in_c(self) -> CompiledTrees:
        n_trees, depth = self.feature.shape
        asked = _asked(self.feature, self.n_features)
        fields = (depth, asked, self.threshold, self.value)
        return CompiledTrees("sum_oblivious", self.baseline, self.n_features, n_trees, fields)

    def _sums(self, features: NDArray[np.float32]) -> FloatArray:
        """The sums of many rows: tree by tree, on columns."""
        result = np.zeros((len(features), len(self.baseline)))
        for start in range(0, len(features), _ROW_BLOCK):
            columns = np.ascontiguousarray(features[start : start + _ROW_BLOCK].T)
            total = result[start : start + _ROW_BLOCK]
            for tree in range(len(self.feature)):
                leaf = np.zeros(columns.shape[1], dtype=np.uint16)
                for level, (asked, above) in enumerate(
                    zip(self.feature[tree], self.threshold[tree], strict=True)
                ):
                    leaf |= (columns[asked] > above).astype(np.uint16) << np.uint16(level)
                total += self.value[tree][leaf]
        return result

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self, name) for name in ("baseline", "feature", "threshold", "value")}

    @classmethod
    def from_arrays(
        cls, kind: str, tensors: TensorBag, *, n_features: int, n_outputs: int
    ) -> ObliviousTrees:
        """Read an ensemble back."""
        threshold = tensors.take("threshold", "float32", (None, None), allow_inf=True)
        n_trees, depth = threshold.shape
        if not n_trees or not 0 < depth <= MAX_OBLIVIOUS_DEPTH:
            raise ArtifactError(
                f"tree ensemble: oblivious trees must be at least 1, of depth 1 to "
                f"{MAX_OBLIVIOUS_DEPTH}; got {n_trees} of depth {depth}"
            )
        shape = (n_trees, depth)
        return cls(
            kind=kind,
            n_features=n_features,
            baseline=_leaf_values(tensors, "baseline", (n_outputs,)),
            feature=tensors.take("feature", "int32", shape, low=0, high=n_features - 1),
            threshold=threshold,
            value=_leaf_values(tensors, "value", (n_trees, 2**depth, n_outputs)),
        )


@dataclass(frozen=True)
class _LeafMasks:
    """The leaves that every answer leaves open, as bits: no way down has to be walked.

    A split whose answer is "right" closes the leaves below its left child; of the leaves still
    open after all splits, the first is the one that the row reaches (QuickScorer: Lucchese et
    al., "QuickScorer: A Fast Algorithm to Rank Documents with Additive Ensembles of Regression
    Trees", SIGIR 2015, section 3). Answers to all splits of a tree on one feature depend on the
    place of the value among the feature's thresholds, so that their masks are kept together by
    place: one look-up for a tree and feature.
    """

    # Features asked for, their sorted thresholds one after the other, and where each begins.
    features: NDArray[np.int32]
    thresholds: NDArray[np.float32]
    starts: NDArray[np.int64]
    # Masks by pair of tree and feature, then by place; the last place is that of NaN.
    masks: NDArray[Any]
    # Of each pair, trees rising: where its masks begin, and the feature's position in `features`.
    pair_masks: NDArray[np.int64]
    pair_feature: NDArray[np.int64]
    # Of each tree: its first pair, and where its leaves begin, from left to right.
    first_pair: NDArray[np.int64]
    leaf_start: NDArray[np.int64]
    leaf_value: FloatArray

    @classmethod
    def of(cls, trees: TreeEnsemble) -> _LeafMasks | None:
        """Of an ensemble; None where its trees have too many leaves, or the masks are too large."""
        n_nodes, n_trees = len(trees.value), len(trees.roots)
        split = trees.right != 0
        tree = np.repeat(np.arange(n_trees), np.diff(np.append(trees.roots, n_nodes)))
        # Leaves before each node, in all trees: leaves below a left child follow each other.
        before = np.cumsum(~split) - ~split
        leaf_start = before[trees.roots]
        sizes = np.diff(np.append(leaf_start, np.count_nonzero(~split)))
        if not split.any() or sizes.max() > 64:
            return None
        node = np.flatnonzero(split)
        first = before[node] - leaf_start[tree[node]]
        last = before[trees.right[node]] - leaf_start[tree[node]]
        dtype = np.uint32 if sizes.max() <= 32 else np.uint64
        every = dtype(np.iinfo(dtype).max)
        below = np.array([2**k - 1 for k in range(65)], dtype=np.uint64)
        closed = (~(below[last] ^ below[first])).astype(dtype)
        # Places of thresholds among those of their feature, and pairs in the order of trees.
        features, thresholds, place, widths = _places(trees.feature[node], trees.threshold[node])
        owner = np.searchsorted(features, trees.feature[node])
        # A tree that is one leaf asks the first feature, whose every answer leaves it open.
        alone = np.flatnonzero(sizes == 1)
        asked = tree[node] * len(features) + owner
        pairs = np.unique(np.concatenate([asked, alone * len(features)]))
        pair = np.searchsorted(pairs, asked)
        pair_tree, pair_feature = np.divmod(pairs, len(features))
        spans = widths[pair_feature] + 2
        if int(spans.sum()) * every.itemsize > _MOST_MASK_BYTES:
            return None
        pair_masks = np.cumsum(spans) - spans
        masks = np.full(int(spans.sum()), every)
        np.bitwise_and.at(masks, pair_masks[pair] + place + 1, closed)
        for k, width in enumerate(widths.tolist()):
            where = pair_masks[pair_feature == k, None] + np.arange(width + 1)
            masks[where] = np.bitwise_and.accumulate(masks[where], axis=1)
        right = trees.missing_left[node] == 0
        missing = pair_masks + spans - 1
        np.bitwise_and.at(masks, missing[pair[right]], closed[right])
        return cls(
            features=features,
            thresholds=thresholds,
            starts=np.cumsum(widths) - widths,
            masks=masks,
            pair_masks=pair_masks,
            pair_feature=pair_feature,
            first_pair=np.searchsorted(pair_tree, np.arange(n_trees)).astype(np.int64),
            leaf_start=leaf_start,
            leaf_value=trees.value[~split],
        )

    def in_c(self) -> tuple[int | NDArray[Any], ...]:
        """The fields as `mask_trees` of kernels.c has them: lists of beginnings have an end."""
        return (
            len(self.features),
            self.features,
            self.thresholds,
            np.append(self.starts, len(self.thresholds)),
            self.masks,
            self.pair_masks,
            self.pair_feature,
            np.append(self.first_pair, len(self.pair_masks)),
            self.leaf_start,
            self.leaf_value,
        )

    def sums(self, rows: NDArray[np.float32], n_outputs: int) -> FloatArray:
        """Sums of leaves: (n, n_outputs)."""
        result = np.zeros((len(rows), n_outputs))
        few = len(rows) <= _FEW_ROWS
        step = max(1, _BLOCK // len(self.pair_masks)) if few else _ROW_BLOCK
        for start in range(0, len(rows), step):
            columns = rows[start : start + step][:, self.features]
            total = result[start : start + step]
            if few:
                places = self._few_places(columns)[:, self.pair_feature]
                open_ = np.bitwise_and.reduceat(
                    self.masks[self.pair_masks + places], self.first_pair, axis=1
                )
                leaves = self.leaf_value[self.leaf_start + _lowest_bit(open_)]
                total[:] = _added_in_turn(leaves.reshape(len(columns), -1, n_outputs))
            else:
                self._add_by_tree(self._places_by_feature(columns), total)
        return result

    def _add_by_tree(self, places: list[NDArray[np.int64]], total: FloatArray) -> None:
        """Add the leaves of many rows, tree by tree."""
        begins, features = self.pair_masks.tolist(), self.pair_feature.tolist()
        ends = np.append(self.first_pair[1:], len(begins)).tolist()
        for tree, (first, end) in enumerate(zip(self.first_pair.tolist(), ends, strict=True)):
            open_ = self.masks[begins[first] :].take(places[features[first]])
            for pair in range(first + 1, end):
                open_ &= self.masks[begins[pair] :].take(places[features[pair]])
            leaves = self.leaf_value[self.leaf_start[tree] :].take(_lowest_bit(open_))
            total[:, tree % total.shape[1]] += leaves

    def _few_places(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """Places of values among their feature's thresholds: (n, n_features)."""
        widths = np.diff(np.append(self.starts, len(self.thresholds)))
        above = np.repeat(values, widths, axis=1) > self.thresholds
        places = np.add.reduceat(above, self.starts, axis=1, dtype=np.int64)
        return np.where(np.isnan(values), widths + 1, places)

    def _places_by_feature(self, values: NDArray[np.float32]) -> list[NDArray[np.int64]]:
        """Places of many values, feature by feature."""
        ends = np.append(self.starts[1:], len(self.thresholds))
        places = []
        for column, start, end in zip(values.T, self.starts, ends, strict=True):
            place = np.searchsorted(self.thresholds[start:end], column)
            place[np.isnan(column)] = end - start + 1
            places.append(place)
        return places


def _places(
    feature: NDArray[np.int32], threshold: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Features, each one's sorted thresholds, the place of each split there, numbers of them."""
    order = np.lexsort((threshold, feature))
    features_sorted, sorted_ = feature[order], threshold[order]
    new = np.append(
        True, (features_sorted[1:] != features_sorted[:-1]) | (sorted_[1:] != sorted_[:-1])
    )
    features, starts, widths = np.unique(
        features_sorted[new], return_index=True, return_counts=True
    )
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.cumsum(new) - 1 - starts[np.searchsorted(features, features_sorted)]
    return features, sorted_[new], place, widths


def _lowest_bit(bits: NDArray[Any]) -> NDArray[np.int64]:
    """The position of the lowest bit that is set; powers of two are exact as float64."""
    lowest = bits & (~bits + bits.dtype.type(1))
    exponent: NDArray[np.int64] = lowest.astype(np.float64).view(np.int64) >> 52
    return exponent - 1023


def _added_in_turn(leaves: FloatArray) -> FloatArray:
    """Sums over trees in their order, so that few rows and many give the same last digit."""
    return np.cumsum(leaves, axis=1)[:, -1]


def _asked(feature: NDArray[np.int32], n_features: int) -> NDArray[np.int32]:
    """Features that splits ask for; refuses one that rows do not have."""
    if feature.min() < 0 or feature.max() >= n_features:
        raise ArtifactError(
            f"tree ensemble: features of splits must be from 0 to {n_features - 1}; got "
            f"{feature.min()} to {feature.max()}"
        )
    return feature


def _leaf_values(tensors: TensorBag, name: str, shape: tuple[int | None, ...]) -> FloatArray:
    return tensors.take(name, "float64", shape, low=-_LARGEST_LEAF, high=_LARGEST_LEAF)
