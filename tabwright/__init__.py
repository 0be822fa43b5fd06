"""Tabwright: neural networks for tables.

The names below are loaded when they are first used (PEP 562), so that importing this package
loads neither torch nor scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tabwright._version import __version__ as __version__

if TYPE_CHECKING:
    from ai.ml.frameworks.pytorch.models import build_model
    from tabwright.cluster.batch_functions import (
        BatchPredictor,
        spark_batch_function,
        spark_predictor,
        spark_schema,
    )
    from tabwright.cluster.ray_job import train_on_ray
    from tabwright.cluster.ray_predict import PredictRequest, predict_on_ray
    from tabwright.errors import ArtifactError, TableError
    from tabwright.estimators.classifier import TabularClassifier
    from tabwright.estimators.distill import distill
    from tabwright.estimators.loading import load_model
    from tabwright.estimators.regressor import TabularRegressor
    from tabwright.export.onnx import export_onnx
    from tabwright.inference.fitted_model import load_fitted
    from tabwright.inference.predictor import Predictor
    from tabwright.report.write import write_report
    from tabwright.tables import profile_table, read_table
    from tabwright.training.callbacks import Callback
    from tabwright.training.checkpoints import Checkpoint
    from tabwright.training.loggers import MLflowLogger, TensorBoardLogger
    from tabwright.tuning.run import tune
    from tabwright.workflows.requests.train import TrainRequest

_HOME = {
    "ArtifactError": "tabwright.errors",
    "BatchPredictor": "tabwright.cluster.batch_functions",
    "Callback": "tabwright.training.callbacks",
    "Checkpoint": "tabwright.training.checkpoints",
    "MLflowLogger": "tabwright.training.loggers",
    "PredictRequest": "tabwright.cluster.ray_predict",
    "Predictor": "tabwright.inference.predictor",
    "TableError": "tabwright.errors",
    "TabularClassifier": "tabwright.estimators.classifier",
    "TabularRegressor": "tabwright.estimators.regressor",
    "TensorBoardLogger": "tabwright.training.loggers",
    "TrainRequest": "tabwright.workflows.requests.train",
    "build_model": "ai.ml.frameworks.pytorch.models",
    "distill": "tabwright.estimators.distill",
    "export_onnx": "tabwright.export.onnx",
    "load_fitted": "tabwright.inference.fitted_model",
    "load_model": "tabwright.estimators.loading",
    "predict_on_ray": "tabwright.cluster.ray_predict",
    "profile_table": "tabwright.tables",
    "read_table": "tabwright.tables",
    "spark_batch_function": "tabwright.cluster.batch_functions",
    "spark_predictor": "tabwright.cluster.batch_functions",
    "spark_schema": "tabwright.cluster.batch_functions",
    "train_on_ray": "tabwright.cluster.ray_job",
    "tune": "tabwright.tuning.run",
    "write_report": "tabwright.report.write",
}

__all__ = [
    "ArtifactError",
    "BatchPredictor",
    "Callback",
    "Checkpoint",
    "MLflowLogger",
    "PredictRequest",
    "Predictor",
    "TableError",
    "TabularClassifier",
    "TabularRegressor",
    "TensorBoardLogger",
    "TrainRequest",
    "build_model",
    "distill",
    "export_onnx",
    "load_fitted",
    "load_model",
    "predict_on_ray",
    "profile_table",
    "read_table",
    "spark_batch_function",
    "spark_predictor",
    "spark_schema",
    "train_on_ray",
    "tune",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
