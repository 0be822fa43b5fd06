"""Tree ensembles beside the networks of a model: what they see, and the weighted average.

The trees see encoded rows as the encoder gives them, before the networks' expansion: numbers with
NaN where missing, and codes of categories and calendar places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabwright.artifact.format_versions import left_out, may_be_missing
from tabwright.artifact.schema import Reader, TensorBag, prefixed
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.encoding.interactions import (
    Interaction,
    interaction_values,
    interactions_from_state,
    interactions_to_state,
)
from tabwright.encoding.plan import EncodingPlan
from tabwright.errors import install_command
from tabwright.inference.tree_ensemble import ObliviousTrees, TreeEnsemble, Trees
from tabwright.number_text import number_text

_MOST_ENSEMBLES = 64
# How the trees of an ensemble lie in the arrays; a file that does not say it has nodes.
_FORMS = ("nodes", "oblivious")
_FORM_PLACE = "trees.ensembles.form"
_INTERACTIONS_PLACE = "trees.interactions"

FloatArray = NDArray[np.float64]


def _n_numeric(plan: EncodingPlan) -> int:
    """Numbers of the compact form that trees see: not the weighted sums of older files."""
    return plan.layout.n_numeric - len(plan.obliques)


def tree_features(
    encoder: TableEncoder, compact: Compact, interactions: Sequence[Interaction] = ()
) -> NDArray[np.float32]:
    """Encoded rows as trees see them.

    `compact`: rows that it encoded.
    `interactions`: of models fitted before the encoder had them.
    Returns: (n, n_features), float32; numbers, NaN where missing, then statistics of levels and
        interactions, then codes, then `interactions`.
    """
    plan = encoder.plan_
    n_numeric, n_own = _n_numeric(plan), _n_numeric(plan) + plan.n_codes
    features = np.empty((len(compact.numeric), n_own + len(interactions)), dtype=np.float32)
    features[:, :n_numeric] = compact.numeric[:, :n_numeric]
    features[:, n_numeric:n_own] = compact.codes
    features[:, n_own:] = interaction_values(interactions, plan.numbers, compact.numeric)
    return features


@dataclass(frozen=True)
class TreeMix:
    """Tree ensembles beside the networks of a model, and the weights of the average.

    `network_weight`: of the networks' mean prediction, from 0 to 1.
    `weights`: of the ensembles; all weights sum to 1.
    `interactions`: further features of all ensembles, of models fitted before the encoder had them.
    """

    network_weight: float
    weights: tuple[float, ...]
    ensembles: tuple[Trees, ...]
    interactions: tuple[Interaction, ...] = ()

    @property
    def weights_by_kind(self) -> dict[str, float]:
        """The weights of the networks and of each kind of trees."""
        found = {"networks": self.network_weight}
        for weight, ensemble in zip(self.weights, self.ensembles, strict=True):
            found[ensemble.kind] = found.get(ensemble.kind, 0.0) + weight
        return found

    def features(self, encoder: TableEncoder, compact: Compact) -> NDArray[np.float32]:
        """Encoded rows as its trees see them: `tree_features`."""
        return tree_features(encoder, compact, self.interactions)

    def mix(self, networks: FloatArray, features: NDArray[np.float32]) -> FloatArray:
        """The weighted mean of networks and trees.

        `networks`: (n, n_classes) or (n,), float64; probabilities, or standardised values.
        `features`: (n, n_features), float32.
        Returns: float64.
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
            form = "oblivious" if isinstance(ensemble, ObliviousTrees) else "nodes"
            entry = {"kind": ensemble.kind}
            if not left_out(_FORM_PLACE, form, "nodes"):
                entry["form"] = form
            described.append(entry)
            tensors |= prefixed(f"{k}.", ensemble.to_arrays())
        document: dict[str, Any] = {
            "network_weight": self.network_weight,
            "weights": list(self.weights),
            "ensembles": described,
        }
        if not left_out(_INTERACTIONS_PLACE, self.interactions, ()):
            document["interactions"] = interactions_to_state(self.interactions)
        return document, tensors

    @classmethod
    def from_state(
        cls, document: Reader, tensors: TensorBag, encoder: TableEncoder, *, n_outputs: int
    ) -> TreeMix:
        """Read trees and weights back, every value checked.

        Raises `ArtifactError` if anything is missing, left over or out of range, or nodes are not
            trees.
        """
        plan = encoder.plan_
        interactions: tuple[Interaction, ...] = ()
        if "interactions" in document or not may_be_missing(_INTERACTIONS_PLACE):
            interactions = interactions_from_state(document, "interactions", plan.numbers)
        n_features = _n_numeric(plan) + plan.n_codes + len(interactions)
        ensembles: list[Trees] = []
        for k, entry in enumerate(document.children("ensembles", max_length=_MOST_ENSEMBLES)):
            kind = entry.text("kind", max_length=100)
            form = "nodes"
            if "form" in entry or not may_be_missing(_FORM_PLACE):
                form = entry.choice("form", _FORMS)
            entry.done()
            read = ObliviousTrees.from_arrays if form == "oblivious" else TreeEnsemble.from_arrays
            ensembles.append(
                read(kind, tensors.scoped(f"{k}."), n_features=n_features, n_outputs=n_outputs)
            )
        if not ensembles:
            raise document.fail("ensembles", "at least one ensemble")
        mix = cls(
            network_weight=document.number("network_weight", low=0.0, high=1.0),
            weights=document.numbers("weights", low=0.0, high=1.0, length=len(ensembles)),
            ensembles=tuple(ensembles),
            interactions=interactions,
        )
        if abs(mix.network_weight + sum(mix.weights) - 1.0) > 1e-9:
            raise document.fail("weights", "such that all weights sum to 1")
        document.done()
        return mix


def combination_table(card: Mapping[str, Any]) -> list[tuple[str, str, float, str]]:
    """What a model's card says of the parts that were combined.

    `card`: of a `FittedModel`; what people alone read, so that anything may be in it.
    Returns: (name, weight, loss, remark) of the networks, each kind of trees, then the whole, whose
        weights in per cent, as text, are the sum of the others; empty where nothing was combined.
    """
    combination = card.get("combination")
    if not isinstance(combination, Mapping) or not isinstance(combination.get("candidates"), list):
        return []
    parts = [
        *combination["candidates"],
        {"name": "combined", "weight": 1.0, "loss": combination.get("loss")},
    ]
    rows, weights = [], []
    for part in parts:
        if not isinstance(part, Mapping):
            return []
        weight, loss = part.get("weight"), part.get("loss")
        if not isinstance(weight, float) or not isinstance(loss, float):
            return []
        remark = ""
        if "n_rounds" in part:
            remark = f"{part.get('library')} {part.get('version')}, {part['n_rounds']} rounds"
        weights.append(weight)
        rows.append((str(part.get("name")), loss, remark))
    return [
        (name, f"{percentage} %", loss, remark)
        for (name, loss, remark), percentage in zip(rows, _whole_percentages(weights), strict=True)
    ]


def _whole_percentages(shares: Sequence[float]) -> list[int]:
    """Shares of a whole in per cent, so that they add up to what the shares add up to."""
    exact = [100.0 * share for share in shares]
    whole = [math.floor(value) for value in exact]
    rest = round(sum(exact)) - sum(whole)
    # The largest remainders are rounded up.
    order = sorted(range(len(exact)), key=lambda k: whole[k] - exact[k])
    for k in order[:rest]:
        whole[k] += 1
    return whole


def combination_notes(card: Mapping[str, Any]) -> list[str]:
    """Sentences on the combination in a model's card: its parts, or why it has none."""
    combination = card.get("combination")
    if not isinstance(combination, Mapping):
        return []
    if "reason" in combination:
        return [f"no trees are combined with the networks: {combination['reason']}"]
    rows = combination_table(card)
    if not rows:
        return []
    *parts, whole = rows
    shares = ", ".join(
        f"{name} {weight} (loss {number_text(loss)})" for name, weight, loss, _ in parts
    )
    n_rows = combination.get("n_rows")
    counted = f"{n_rows:,}" if isinstance(n_rows, int) else str(n_rows)
    notes = [
        f"combined on {counted} validation rows, which chose the weights: {shares}; "
        f"together {number_text(whole[2])} ({combination.get('measure')})"
    ]
    missing = combination.get("not_installed")
    if isinstance(missing, list) and missing:
        notes.append(
            f"{', '.join(map(str, missing))} is not installed and no part of the combination; to "
            f"add it, run: {install_command('trees')}"
        )
    late = combination.get("not_in_time")
    if isinstance(late, list) and late:
        notes.append(f"trees that did not fit into the time limit: {', '.join(map(str, late))}")
    return notes
