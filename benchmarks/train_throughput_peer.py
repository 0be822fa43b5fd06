"""Training rate of another library: `PYTHON FILE NAME WIDTH DEPTH BATCH THREADS ROWS`.

Runs under any interpreter that has the library and imports nothing of this repository. Prints one
JSON line: rows per second, from the difference between a longer and a shorter fit, so that
imports, preparation and the first epoch's warm-up do not count, and the versions.
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
from typing import Any

N_INPUTS, DROPOUT = 64, 0.1
SHORT, LONG = 2, 12  # epochs


def _data(n_rows: int) -> tuple[Any, Any]:
    import numpy as np

    generator = np.random.default_rng(0)
    x = generator.standard_normal((n_rows, N_INPUTS), dtype=np.float32)
    return x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(np.int64)


def skorch(width: int, depth: int, batch: int, n_rows: int) -> Callable[[int], None]:
    """The same network under skorch, with its own loop and AdamW."""
    import torch
    from skorch import NeuralNetClassifier  # type: ignore[import-not-found, unused-ignore]
    from torch import nn

    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else N_INPUTS, width), nn.BatchNorm1d(width), nn.ReLU()]
        layers.append(nn.Dropout(DROPOUT))
    x, y = _data(n_rows)

    def fit(n_epochs: int) -> None:
        NeuralNetClassifier(
            nn.Sequential(*layers, nn.Linear(width, 2)),
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.AdamW,
            batch_size=batch,
            max_epochs=n_epochs,
            train_split=None,
            iterator_train__shuffle=True,
            verbose=0,
        ).fit(x, y)

    return fit


def pytabkit_mlp(width: int, depth: int, batch: int, n_rows: int) -> Callable[[int], None]:
    """RTDL's MLP in pytabkit: linear, ReLU, dropout; no batch norm."""
    from pytabkit.models.sklearn.sklearn_interfaces import MLP_RTDL_D_Classifier

    x, y = _data(n_rows)

    def fit(n_epochs: int) -> None:
        MLP_RTDL_D_Classifier(
            module_n_layers=depth,
            module_d_layers=width,
            module_d_first_layer=width,
            module_d_last_layer=width,
            module_dropout=DROPOUT,
            batch_size=batch,
            max_epochs=n_epochs,
            es_patience=10**6,
            val_fraction=0.01,
            device="cpu",
            n_threads=int(os.environ["OMP_NUM_THREADS"]),
        ).fit(x, y)

    return fit


def pytabkit_realmlp(width: int, depth: int, batch: int, n_rows: int) -> Callable[[int], None]:
    """RealMLP_TD_S in pytabkit: its own architecture, of the same width and depth."""
    from pytabkit.models.sklearn.sklearn_interfaces import RealMLP_TD_S_Classifier

    x, y = _data(n_rows)

    def fit(n_epochs: int) -> None:
        RealMLP_TD_S_Classifier(
            hidden_sizes=[width] * depth,
            p_drop=DROPOUT,
            batch_size=batch,
            n_epochs=n_epochs,
            val_fraction=0.01,
            device="cpu",
            n_threads=int(os.environ["OMP_NUM_THREADS"]),
        ).fit(x, y)

    return fit


def pytorch_tabular(width: int, depth: int, batch: int, n_rows: int) -> Callable[[int], None]:
    """The same network under pytorch_tabular: its CategoryEmbeddingModel with batch norm."""
    import pandas as pd
    from pytorch_tabular import TabularModel  # type: ignore[import-not-found, unused-ignore]
    from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig  # type: ignore[import-not-found, unused-ignore]
    from pytorch_tabular.models import CategoryEmbeddingModelConfig  # type: ignore[import-not-found, unused-ignore]

    x, y = _data(n_rows)
    names = [f"x{i}" for i in range(N_INPUTS)]
    frame = pd.DataFrame(x, columns=names).assign(target=y)
    held_out = frame.head(256)

    def fit(n_epochs: int) -> None:
        model = TabularModel(
            data_config=DataConfig(target=["target"], continuous_cols=names, num_workers=0),
            model_config=CategoryEmbeddingModelConfig(
                task="classification",
                layers="-".join([str(width)] * depth),
                dropout=DROPOUT,
                use_batch_norm=True,
            ),
            optimizer_config=OptimizerConfig(optimizer="AdamW"),
            trainer_config=TrainerConfig(
                batch_size=batch,
                max_epochs=n_epochs,
                early_stopping=None,
                checkpoints=None,
                load_best=False,
                accelerator="cpu",
                progress_bar="none",
                trainer_kwargs={"enable_model_summary": False},
            ),
            verbose=False,
        )
        model.fit(train=frame, validation=held_out)

    return fit


def pytorch_frame(width: int, depth: int, batch: int, n_rows: int) -> Callable[[int], None]:
    """pytorch-frame's MLP over its column embeddings, in the loop of its examples."""
    import pandas as pd
    import torch
    import torch_frame  # type: ignore[import-not-found, unused-ignore]
    from torch_frame.data import DataLoader, Dataset  # type: ignore[import-not-found, unused-ignore]
    from torch_frame.nn.models import MLP  # type: ignore[import-not-found, unused-ignore]

    x, y = _data(n_rows)
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(N_INPUTS)]).assign(target=y)
    kinds = dict.fromkeys(frame.columns[:-1], torch_frame.numerical)
    dataset = Dataset(frame, {**kinds, "target": torch_frame.categorical}, target_col="target")
    dataset.materialize()
    model = MLP(
        channels=width,
        out_channels=2,
        num_layers=depth,
        col_stats=dataset.col_stats,
        col_names_dict=dataset.tensor_frame.col_names_dict,
        dropout_prob=DROPOUT,
    )

    def fit(n_epochs: int) -> None:
        loader = DataLoader(dataset.tensor_frame, batch_size=batch, shuffle=True)
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(n_epochs):
            for rows in loader:
                loss = torch.nn.functional.cross_entropy(model(rows), rows.y)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()

    return fit


PEERS: dict[str, tuple[Callable[[int, int, int, int], Callable[[int], None]], str]] = {
    "skorch": (skorch, "skorch"),
    "pytabkit MLP_RTDL": (pytabkit_mlp, "pytabkit"),
    "pytabkit RealMLP_TD_S": (pytabkit_realmlp, "pytabkit"),
    "pytorch_tabular": (pytorch_tabular, "pytorch-tabular"),
    "pytorch-frame": (pytorch_frame, "pytorch-frame"),
}


def main() -> None:
    name = sys.argv[1]
    width, depth, batch, threads, n_rows = map(int, sys.argv[2:7])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    make, distribution = PEERS[name]
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        import torch

        torch.set_num_threads(threads)
        fit = make(width, depth, batch, n_rows)
        seconds = []
        for n_epochs in (1, SHORT, LONG):
            started = time.perf_counter()
            fit(n_epochs)
            seconds.append(time.perf_counter() - started)
    line = {
        "rate": (LONG - SHORT) * n_rows / (seconds[2] - seconds[1]),
        "version": version(distribution),
        "torch": torch.__version__,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
