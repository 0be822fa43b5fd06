"""Tabwright: neural networks for tables.

The names below are loaded when they are first used (PEP 562), so that importing this package
loads neither torch nor scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai.ml.frameworks.pytorch.callbacks import Callback
    from ai.ml.frameworks.pytorch.checkpoints import Checkpoint
    from ai.ml.frameworks.pytorch.estimators import (
        TabularClassifier,
        TabularRegressor,
        load_model,
    )
    from ai.ml.frameworks.pytorch.loggers import MLflowLogger, TensorBoardLogger
    from ai.ml.frameworks.pytorch.schema import ArtifactError
    from ai.ml.frameworks.pytorch.students import distill
    from ai.ml.frameworks.pytorch.tables import TableError

__version__ = "0.2.0"

_HOME = {
    "Callback": "callbacks",
    "MLflowLogger": "loggers",
    "TensorBoardLogger": "loggers",
    "Checkpoint": "checkpoints",
    "TabularClassifier": "estimators",
    "TabularRegressor": "estimators",
    "distill": "students",
    "load_model": "estimators",
    "ArtifactError": "schema",
    "TableError": "tables",
}

__all__ = [
    "ArtifactError",
    "Callback",
    "Checkpoint",
    "MLflowLogger",
    "TableError",
    "TabularClassifier",
    "TabularRegressor",
    "TensorBoardLogger",
    "distill",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
