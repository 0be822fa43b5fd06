"""A row's prediction does not hang on its place in a batch, nor on the rows beside it."""

import os
import subprocess
import sys

import numpy as np
import pytest

from ai.ml.frameworks.pytorch.models import build_model
from tabwright.inference.numpy_network import FoldedNetwork
from tests.packages import ROOT

# Members, architecture, inputs, hidden units, outputs.
NETWORKS = [
    (1, "mlp_dense", 5, 16, 1),
    (1, "linear_glm_baseline", 9, 16, 2),
    (3, "tabresnet", 31, 16, 1),
    (4, "mlp_dense", 232, 256, 2),
    (2, "mlp_dense", 129, 67, 3),
    (1, "tabresnet", 40, 128, 5),
]


def network(index: int) -> FoldedNetwork:
    import torch

    n_members, mode, input_dim, hidden_dim, output_dim = NETWORKS[index]
    torch.manual_seed(0)
    models = [
        build_model(input_dim, output_dim, mode, hidden_dim, 2, 0.0).eval()  # type: ignore[arg-type]
        for _ in range(n_members)
    ]
    return FoldedNetwork(
        [{name: value.numpy() for name, value in m.state_dict().items()} for m in models]
    )


def largest_differences(own: FoldedNetwork) -> tuple[float, float]:
    """Of the outputs of permuted rows, and of runs of a few rows, against those of all rows."""
    draw = np.random.default_rng(0)
    by_place = by_neighbours = 0.0
    for n_rows in (2, 3, 9, 30, 65, 131, 400):
        x = draw.normal(size=(n_rows, own.input_dim)).astype(np.float32)
        whole = own.logits(x)
        order = draw.permutation(n_rows)
        by_place = max(by_place, float(np.abs(own.logits(x[order]) - whole[:, order]).max()))
        for size in (1, 2, 5, 13):
            parts = [own.logits(x[start : start + size]) for start in range(0, n_rows, size)]
            gap = np.abs(np.concatenate(parts, axis=1) - whole).max() / np.abs(whole).max()
            by_neighbours = max(by_neighbours, float(gap))
    return by_place, by_neighbours


@pytest.mark.parametrize("index", range(len(NETWORKS)))
def test_place_and_neighbours_do_not_show(index: int) -> None:
    by_place, by_neighbours = largest_differences(network(index))
    assert by_place == 0.0
    # Widths that no kernel divides may meet another kernel in a smaller block.
    assert by_neighbours < 3e-7


@pytest.mark.slow
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_in_every_thread_setting(n_threads: int) -> None:
    code = (
        "from tests.inference.test_place_in_batch import *\n"
        "for index in range(len(NETWORKS)):\n"
        "    by_place, by_neighbours = largest_differences(network(index))\n"
        "    assert by_place == 0.0 and by_neighbours < 3e-7, (index, by_place, by_neighbours)\n"
    )
    threads = {name: str(n_threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **threads, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
