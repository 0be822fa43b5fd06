"""Prediction times of another library: `PYTHON FILE NAME TABLE WIDTH DEPTH SECONDS REPEATS`.

Runs under any interpreter that has the library and imports nothing of this repository. TABLE is a
CSV file with a column `outcome`. Prints one JSON line: seconds per call for one row and for the
first 10,000 rows, each a pandas frame, `REPEATS` times over about `SECONDS` each, and the versions.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

N_TRAIN, MANY = 2_000, 10_000
Fit = Callable[[Any, Any, int, int], Callable[[Any], object]]


def _categories(frame: Any) -> list[str]:
    return [name for name in frame.columns if frame[name].dtype.kind not in "fi"]


def pytabkit_realmlp(frame: Any, target: Any, width: int, depth: int) -> Callable[[Any], object]:
    """RealMLP_TD_S of the same width and depth."""
    from pytabkit.models.sklearn.sklearn_interfaces import RealMLP_TD_S_Classifier

    model = RealMLP_TD_S_Classifier(
        hidden_sizes=[width] * depth, n_epochs=2, device="cpu", n_threads=_threads()
    )
    model.fit(frame, target, cat_col_names=_categories(frame))
    return model.predict_proba  # type: ignore[no-any-return, unused-ignore]


def pytabkit_mlp(frame: Any, target: Any, width: int, depth: int) -> Callable[[Any], object]:
    """RTDL's MLP of the same width and depth."""
    from pytabkit.models.sklearn.sklearn_interfaces import MLP_RTDL_D_Classifier

    model = MLP_RTDL_D_Classifier(
        module_n_layers=depth,
        module_d_layers=width,
        module_d_first_layer=width,
        module_d_last_layer=width,
        max_epochs=2,
        device="cpu",
        n_threads=_threads(),
    )
    model.fit(frame, target, cat_col_names=_categories(frame))
    return model.predict_proba  # type: ignore[no-any-return, unused-ignore]


def pytorch_tabular(frame: Any, target: Any, width: int, depth: int) -> Callable[[Any], object]:
    """CategoryEmbeddingModel with batch norm, of the same width and depth."""
    from pytorch_tabular import TabularModel  # type: ignore[import-not-found, unused-ignore]
    from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig  # type: ignore[import-not-found, unused-ignore]
    from pytorch_tabular.models import CategoryEmbeddingModelConfig  # type: ignore[import-not-found, unused-ignore]

    categories = _categories(frame)
    model = TabularModel(
        data_config=DataConfig(
            target=["outcome"],
            continuous_cols=[name for name in frame.columns if name not in categories],
            categorical_cols=categories,
            num_workers=0,
        ),
        model_config=CategoryEmbeddingModelConfig(
            task="classification", layers="-".join([str(width)] * depth), use_batch_norm=True
        ),
        optimizer_config=OptimizerConfig(),
        trainer_config=TrainerConfig(
            max_epochs=2,
            early_stopping=None,
            checkpoints=None,
            load_best=False,
            accelerator="cpu",
            progress_bar="none",
            trainer_kwargs={"enable_model_summary": False},
        ),
        verbose=False,
    )
    labelled = frame.assign(outcome=target)
    model.fit(train=labelled, validation=labelled.head(256))

    def predict(rows: Any) -> object:
        return model.predict(rows, progress_bar=None)

    return predict


PEERS: dict[str, tuple[Fit, str]] = {
    "pytabkit RealMLP_TD_S": (pytabkit_realmlp, "pytabkit"),
    "pytabkit MLP_RTDL": (pytabkit_mlp, "pytabkit"),
    "pytorch_tabular": (pytorch_tabular, "pytorch-tabular"),
}


def _threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def _seconds_per_call(call: Callable[[], object], seconds: float) -> float:
    started = time.perf_counter()
    n_calls = 0
    while (elapsed := time.perf_counter() - started) < seconds or n_calls < 2:
        call()
        n_calls += 1
    return elapsed / n_calls


def main() -> None:
    name, table = sys.argv[1], Path(sys.argv[2]).resolve()
    width, depth, repeats = int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[6])
    seconds = float(sys.argv[5])
    fit, distribution = PEERS[name]
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        import pandas as pd
        import torch

        torch.set_num_threads(_threads())
        frame = pd.read_csv(table)
        target = frame.pop("outcome")
        for column in _categories(frame):
            frame[column] = frame[column].astype(str).astype(object)
        predict = fit(frame.head(N_TRAIN), target.head(N_TRAIN), width, depth)
        many, rows = frame.head(MANY), [frame.iloc[[i]] for i in range(64)]
        numbers = iter(range(10**9))
        predict(rows[0]), predict(many)
        one_row = [
            _seconds_per_call(lambda: predict(rows[next(numbers) % 64]), seconds)
            for _ in range(repeats)
        ]
        batch = [_seconds_per_call(lambda: predict(many), seconds) for _ in range(repeats)]
    line = {
        "one_row": one_row,
        "many": batch,
        "version": version(distribution),
        "torch": torch.__version__,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
