"""Arguments that other libraries have: a `TypeError` that says what they are called here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Names of Keras, XGBoost, LightGBM, CatBoost, scikit-learn, PyTorch and TabNet.
_MEANT = {
    **dict.fromkeys(
        ("epochs", "n_epochs", "num_epochs", "max_iter", "iterations", "num_boost_round"),
        "max_epochs",
    ),
    **dict.fromkeys(("early_stopping_rounds", "early_stopping", "n_iter_no_change"), "patience"),
    **dict.fromkeys(("lr", "eta", "learning_rate_init"), "learning_rate"),
    **dict.fromkeys(("alpha", "l2", "reg_lambda", "l2_leaf_reg"), "weight_decay"),
    **dict.fromkeys(("hidden_size", "width", "d_model", "n_units"), "hidden_dim"),
    **dict.fromkeys(("n_layers", "num_layers", "depth", "max_depth"), "num_hidden_layers"),
    "hidden_layer_sizes": "hidden_dim and num_hidden_layers",
    **dict.fromkeys(("n_estimators", "n_ensemble", "ensemble_size"), "n_members"),
    **dict.fromkeys(("mode", "model", "model_type"), "training_mode"),
    **dict.fromkeys(("seed", "random_seed"), "random_state"),
    **dict.fromkeys(("validation_split", "val_fraction", "val_size"), "validation_fraction"),
    **dict.fromkeys(("class_weights", "scale_pos_weight", "is_unbalance"), "class_weight"),
    **dict.fromkeys(("batch", "virtual_batch_size"), "batch_size"),
    "drop_rate": "dropout",
    "verbosity": "verbose",
    "tree_method": "device",
    **dict.fromkeys(
        ("cat_features", "categorical_features", "categorical_feature", "cat_cols"),
        "roles={'column': 'category'}; text, categories and booleans need no word",
    ),
    **dict.fromkeys(
        ("X_val", "y_val", "X_valid", "y_valid", "validation_data", "eval_X", "valid_sets"),
        "eval_set=(X_val, y_val)",
    ),
    **dict.fromkeys(("sample_weights", "weights", "weight"), "sample_weight"),
    "group": "groups",
    **dict.fromkeys(("metric", "scoring", "metrics"), "eval_metric"),
    **dict.fromkeys(("cv", "splitter"), "validation"),
}
_NOT_NEEDED = {
    "optimizer": "training uses AdamW; see learning_rate and weight_decay",
    "loss": "the loss follows from the task and training_mode",
    "objective": "the loss follows from the task and training_mode",
    "n_jobs": "threads are those of PyTorch: torch.set_num_threads",
    "nthread": "threads are those of PyTorch: torch.set_num_threads",
    "feature_names": "names are those of the columns of X",
}


def with_hints(method: Callable[P, R]) -> Callable[P, R]:
    """A method whose unknown arguments are answered with those that are meant."""
    known = list(inspect.signature(method).parameters)

    @functools.wraps(method)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                owner = f"{type(args[0]).__name__}.{method.__name__}".removesuffix(".__init__")
                raise TypeError(f"{owner} has no argument {name!r}{_hint(name, known)}")
        return method(*args, **kwargs)

    return checked


def _hint(name: str, known: list[str]) -> str:
    """What to give in place of an argument that there is none of."""
    if name in _NOT_NEEDED:
        return f": {_NOT_NEEDED[name]}"
    meant = _MEANT.get(name)
    if meant is None:
        meant = name if name in _PARAMETERS | _ARGUMENTS else None
    if meant is None:
        return f"; it has {', '.join(known[1:])}"
    first = meant.partition("=")[0].partition(" ")[0].partition(";")[0]
    if first in known:
        return f": give {meant}"
    where = "fit" if first in _ARGUMENTS else "the estimator, when it is made"
    value, remark, rest = meant.partition(";")
    return f": give {value} to {where}{remark}{rest}"


_ARGUMENTS = frozenset({"eval_set", "sample_weight", "groups", "time", "callbacks", "checkpoint"})
_PARAMETERS = frozenset(_MEANT.values()) - _ARGUMENTS
