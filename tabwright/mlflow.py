"""The MLflow flavour: a fitted model as an MLflow model, which MLflow loads and serves.

Inside is our one file, and no pickle. MLflow is imported when a function is called; it loads this
module by its name, which stands in every saved model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata as distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabwright._version import __version__
from tabwright.errors import install_command
from tabwright.inference.fitted_model import FittedModel, as_fitted, load_fitted
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import prediction_frame, prediction_names
from tabwright.tables.frames import as_frame

if TYPE_CHECKING:
    import os

    import pandas as pd

__all__ = ["log_model", "save_model"]

_FILE = "model.safetensors"
_COVERAGE = 0.9
# What reads the file and predicts; the versions at hand are those that are known to work.
_NEEDED = ("numpy", "polars", "pandas")


def save_model(
    model: Any,
    path: str | os.PathLike[str],
    *,
    mlflow_model: Any = None,
    signature: Any = None,
    input_example: Any = None,
    pip_requirements: Sequence[str] | None = None,
    extra_pip_requirements: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Save a fitted model as an MLflow model on this machine.

    Parameters
    ----------
    model : TabularClassifier, TabularRegressor or FittedModel
    path : str or path-like
        A folder that is not there yet, or is empty.
    mlflow_model : mlflow.models.Model, optional
        What the model is described in; MLflow gives it where it logs.
    signature : mlflow.models.ModelSignature, optional
        None: made from the columns of the model and its predictions. Dates are datetime, other
        columns of any type: MLflow's own types refuse missing values, or whole numbers in a column
        of doubles, and the model checks every cell itself.
    input_example : pandas.DataFrame or list of dict, optional
        A few rows with the columns of the model, saved beside it. It is predicted before
        anything is written.
    pip_requirements : sequence of str, optional
        None: this version of Tabwright, and the versions at hand of what it predicts with.
    extra_pip_requirements : sequence of str, optional
        Added to those.
    metadata : mapping, optional

    Raises
    ------
    ImportError
        If the extra `mlflow` is not installed.
    TypeError
        If the model is none of ours, or not fitted.
    TableError
        If the example does not fit the model.
    mlflow.exceptions.MlflowException
        If the folder holds something.
    """
    mlflow = _import_mlflow()
    fitted = as_fitted(model)
    if input_example is not None:
        _predictions(Predictor(fitted), input_example)
    if signature is None:
        signature = _signature(fitted)
    described = mlflow.models.Model() if mlflow_model is None else mlflow_model
    described.add_flavor("tabwright", data=f"data/{_FILE}", version=__version__)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / _FILE
        fitted.save(file)
        mlflow.pyfunc.save_model(
            path=str(path),
            loader_module="tabwright.mlflow",
            data_path=str(file),
            mlflow_model=described,
            signature=signature,
            input_example=input_example,
            pip_requirements=_requirements() if pip_requirements is None else pip_requirements,
            extra_pip_requirements=extra_pip_requirements,
            metadata=None if metadata is None else dict(metadata),
        )


def log_model(
    model: Any, name: str, *, registered_model_name: str | None = None, **options: Any
) -> Any:
    """Log a fitted model to MLflow's tracking store, and register it where asked.

    Parameters
    ----------
    model : TabularClassifier, TabularRegressor or FittedModel
    name : str
        Of the model within the run.
    registered_model_name : str, optional
        Under which a version is registered.
    **options
        Those of `save_model`.

    Returns
    -------
    mlflow.models.model.ModelInfo
        Its `model_uri` is what `mlflow.pyfunc.load_model` takes.

    Raises
    ------
    ImportError, TypeError, TableError
        As `save_model`.
    """
    mlflow = _import_mlflow()
    import tabwright.mlflow as flavour

    return mlflow.models.Model.log(
        artifact_path=None,
        name=name,
        flavor=flavour,
        registered_model_name=registered_model_name,
        model=as_fitted(model),
        **options,
    )


class _PythonModel:
    """What `mlflow.pyfunc.load_model` holds; `predict` is called by MLflow."""

    def __init__(self, fitted: FittedModel) -> None:
        self._predictor = Predictor(fitted)

    def get_raw_model(self) -> FittedModel:
        """What MLflow's `unwrap_python_model` and `get_raw_model` give."""
        return self._predictor.model

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The columns of `prediction_frame` for the rows of a table."""
        return _predictions(self._predictor, data, dict(params or {}).get("coverage", _COVERAGE))


def _load_pyfunc(path: str) -> _PythonModel:
    """Called by MLflow with the path of the file."""
    return _PythonModel(load_fitted(path))


def _predictions(predictor: Predictor, data: Any, coverage: float = _COVERAGE) -> pd.DataFrame:
    import pandas as pd

    frame, _ = as_frame(data)
    has_intervals = predictor.model.intervals is not None
    found = prediction_frame(predictor, frame, coverage if has_intervals else None)
    return pd.DataFrame({series.name: series.to_list() for series in found})


def _signature(fitted: FittedModel) -> Any:
    """The columns of a model and of its predictions, as MLflow describes them."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    plan = fitted.encoder.plan_
    # MLflow refuses whole numbers where a double is named, and missing values of other types.
    inputs = [
        ColSpec(DataType.datetime if kind == "datetime" else AnyType(), name)
        for name, kind in zip(plan.names, plan.kinds, strict=True)
        if kind != "unused"
    ]
    names = prediction_names(fitted, with_intervals=fitted.intervals is not None)
    label: Any = DataType.double
    if fitted.classes is not None:
        kinds = {"b": DataType.boolean, "i": DataType.long, "f": DataType.double}
        label = kinds.get(fitted.classes.dtype.kind, DataType.string)
    outputs = [ColSpec(DataType.double if n else label, name) for n, name in enumerate(names)]
    params = None
    if fitted.intervals is not None:
        params = ParamSchema([ParamSpec("coverage", DataType.double, _COVERAGE)])
    return ModelSignature(Schema(inputs), Schema(outputs), params)


def _requirements() -> list[str]:
    return [
        f"tabwright=={__version__}",
        *(f"{name}=={distributions.version(name)}" for name in _NEEDED),
    ]


def _import_mlflow() -> Any:
    """The library; without it an error that says what to install."""
    try:
        import mlflow
        import mlflow.models
        import mlflow.pyfunc
    except ModuleNotFoundError as error:
        raise ImportError(
            f"tabwright.mlflow needs {error.name}, which is not installed; run: "
            f"{install_command('mlflow')}"
        ) from error
    return mlflow
