"""Class weights of the objective, and the prior under which a model answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tabwright.settings import FitSettings
from tabwright.tables.column_names import listed
from tabwright.tables.labelled import LabelledRows
from tabwright.training.objectives import class_weight_vector

ClassWeight = Literal["balanced"] | Mapping[Any, float] | None


Prior = Literal["training", "balanced"] | Mapping[Any, float] | Sequence[float] | np.ndarray


def class_weights_of(
    rows: LabelledRows, class_weight: ClassWeight, classes: np.ndarray | None
) -> np.ndarray | None:
    """Weight of each class, float64 of shape (n_classes,); None where there are none.

    `rows`: training rows, which "balanced" counts.
    `classes`: (n_classes,). None in regression.
    Raises `ValueError` if a label is unknown, or a weight is not a finite number above 0.
    """
    if classes is None:
        return None
    counts = np.bincount(rows.target, weights=rows.weight, minlength=len(classes))
    return weights_of_classes(class_weight, classes, counts)


def weights_of_classes(
    class_weight: ClassWeight, classes: np.ndarray, counts: np.ndarray
) -> np.ndarray | None:
    """As `class_weights_of`, of the weighted counts of the classes, shape (n_classes,)."""
    if class_weight is None:
        return None
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(
                "class_weight must be None, 'balanced' or a mapping of label to weight; "
                f"got {class_weight!r}"
            )
        return class_weight_vector(counts)
    return _weights_by_label(class_weight, classes)


def _weights_by_label(class_weight: Mapping[Any, float], classes: np.ndarray) -> np.ndarray:
    """The weight of each class; 1 where none is given."""
    known = classes.tolist()
    unknown = [label for label in class_weight if label not in known]
    if unknown:
        raise ValueError(
            f"class_weight names {unknown[0]!r}, which is not a label of the target; "
            f"the labels are {known[:10]}"
        )
    weights = np.array([float(class_weight.get(label, 1.0)) for label in known])
    if not np.isfinite(weights).all() or (weights <= 0).any():
        raise ValueError(
            f"class_weight must hold finite numbers above 0; got {dict(class_weight)!r}"
        )
    return weights


def checked_prior(prior: Prior, classes: np.ndarray, settings: FitSettings) -> np.ndarray | None:
    """Shares of the classes, shape (n_classes,), that sum to 1; None for the training prior."""
    n_classes = len(classes)
    if isinstance(prior, str):
        if prior not in ("training", "balanced"):
            raise ValueError(
                f"prior must be 'training', 'balanced', an array of {n_classes} shares or a "
                f"mapping of label to share; got {prior!r}"
            )
        if prior == "training":
            return None
        _check_answers_under_a_prior(settings)
        return np.full(n_classes, 1.0 / n_classes)
    if isinstance(prior, Mapping):
        prior = _shares_by_label(prior, classes)
    shares: np.ndarray = np.asarray(prior, dtype=np.float64)
    if shares.shape != (n_classes,) or not np.isfinite(shares).all() or (shares <= 0).any():
        raise ValueError(
            f"prior must hold {n_classes} finite shares above 0, in the order of classes_; "
            f"got {prior!r}"
        )
    _check_answers_under_a_prior(settings)
    total: float = shares.sum()
    return shares / total


def _shares_by_label(prior: Mapping[Any, float], classes: np.ndarray) -> list[float]:
    """Shares in the order of the classes; labels are matched as text, as a file has them."""
    shares = {str(label): share for label, share in prior.items()}
    labels = [str(label) for label in classes.tolist()]
    if sorted(shares) != sorted(labels):
        raise ValueError(
            f"prior must have a share for each label; got {dict(prior)!r}; the labels are "
            f"{listed(labels, quoted=False)}"
        )
    return [shares[label] for label in labels]


def _check_answers_under_a_prior(settings: FitSettings) -> None:
    if settings.training_mode != "imbalance_aware":
        raise ValueError(
            "prior is an argument of training_mode='imbalance_aware'; the mode is "
            f"{settings.training_mode!r}"
        )
