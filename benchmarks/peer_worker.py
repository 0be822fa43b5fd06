"""Fits one peer in an environment of its own: `PYTHON peer_worker.py FOLDER`.

Runs under another interpreter, so it imports nothing of this repository. The folder holds
`job.json`, `train.parquet`, `target.parquet` and `test.parquet`; the worker adds
`predictions.npz` and `report.json`. `PYTHON peer_worker.py --versions NAME ...` prints versions.

Columns are float64 (null: missing) or strings (categories; null: missing). Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MISSING = "(missing)"


def versions(names: list[str]) -> dict[str, str]:
    """Installed versions of distributions, and of Python."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name} is not installed in {sys.executable}") from None
    return found


def pytabkit_estimator(name: str, task: str) -> Any:
    """The class behind a short name: explicit, so that nothing else can be asked for."""
    from pytabkit import models  # noqa: F401  # slow imports happen before the clock starts
    from pytabkit.models.sklearn import sklearn_interfaces as interfaces

    classifier, regressor = {
        "RealMLP_TD_S": (interfaces.RealMLP_TD_S_Classifier, interfaces.RealMLP_TD_S_Regressor),
        "RealMLP_TD": (interfaces.RealMLP_TD_Classifier, interfaces.RealMLP_TD_Regressor),
        "TabM_D": (interfaces.TabM_D_Classifier, interfaces.TabM_D_Regressor),
        "MLP_RTDL_D": (interfaces.MLP_RTDL_D_Classifier, interfaces.MLP_RTDL_D_Regressor),
        "MLP_PLR_D": (interfaces.MLP_PLR_D_Classifier, interfaces.MLP_PLR_D_Regressor),
        "Resnet_RTDL_D": (interfaces.Resnet_RTDL_D_Classifier, interfaces.Resnet_RTDL_D_Regressor),
    }[name]
    return classifier if task == "classification" else regressor


class Imputer:
    """pytabkit refuses NaN: the training median instead, and a column that says so."""

    def __init__(self, train: pd.DataFrame, categorical: list[str]) -> None:
        self.categorical = categorical
        numeric = train.drop(columns=categorical)
        self.medians = numeric.median().fillna(0.0)
        self.holed = [name for name in numeric.columns if numeric[name].isna().any()]

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        filled = frame.copy()
        for name, median in self.medians.items():
            filled[name] = frame[name].fillna(median)
        for name in self.holed:
            filled[f"{name}_missing"] = frame[name].isna().astype("float64")
        for name in self.categorical:
            filled[name] = frame[name].astype(object).where(frame[name].notna(), MISSING)
        return filled


def fit_and_predict(
    job: dict[str, Any], train: pd.DataFrame, target: np.ndarray, test: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Predictions on the test rows, the classes of their columns, and the seconds it took."""
    import numpy as np

    build = pytabkit_estimator(job["estimator"], job["task"])
    started = time.perf_counter()
    prepare = Imputer(train, job["categorical"])
    model = build(
        random_state=job["seed"], n_threads=job["threads"], device="cpu", **job["settings"]
    )
    model.fit(prepare(train), target, cat_col_names=job["categorical"])
    fitted = time.perf_counter()
    if job["task"] == "classification":
        prediction, classes = model.predict_proba(prepare(test)), model.classes_
    else:
        prediction, classes = model.predict(prepare(test)), np.empty(0, dtype=np.int64)
    seconds = {
        "fit_seconds": fitted - started,
        "predict_seconds": time.perf_counter() - fitted,
    }
    if job.get("deployed"):
        seconds |= deployed(model, prepare(test), job["task"])
    return np.asarray(prediction, dtype=np.float64), np.asarray(classes), seconds


def deployed(model: Any, rows: pd.DataFrame, task: str) -> dict[str, Any]:
    """Size of the pickled model, and median seconds of one prepared row."""
    import pickle
    import statistics

    predict = model.predict_proba if task == "classification" else model.predict
    single = [rows.iloc[[number]] for number in range(min(16, len(rows)))]
    taken = []
    for number in range(53):
        begun = time.perf_counter()
        predict(single[number % len(single)])
        taken.append(time.perf_counter() - begun)
    return {
        "file_bytes": len(pickle.dumps(model)),
        "one_row_seconds": statistics.median(taken[3:]),
    }


def main(folder: Path) -> None:
    """Do the job in a folder."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(job["threads"])
    import warnings

    import numpy as np
    import pandas as pd
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(job["threads"])
    train, test = (pd.read_parquet(folder / f"{side}.parquet") for side in ("train", "test"))
    target = pd.read_parquet(folder / "target.parquet")["target"].to_numpy()
    prediction, classes, seconds = fit_and_predict(job, train, target, test)
    np.savez(folder / "predictions.npz", prediction=prediction, classes=classes)
    (folder / "report.json").write_text(json.dumps(seconds), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "--versions":
        print(json.dumps(versions(sys.argv[2:])))
    else:
        main(Path(sys.argv[1]))
