"""A row's prediction does not hang on its place in a batch, nor on the rows beside it."""

import numpy as np
import pytest

from ai.ml.frameworks.pytorch.models import build_model
from tabwright.inference import numpy_network
from tabwright.inference.compiled import functions
from tabwright.inference.numpy_network import FoldedNetwork
from tests.new_process import run_python

# Members, architecture, inputs, hidden units, outputs.
NETWORKS = [
    (1, "mlp_dense", 5, 16, 1),
    (1, "mlp_dense", 1, 1, 1),
    (1, "linear_glm_baseline", 9, 16, 1),
    (3, "linear_glm_baseline", 400, 16, 2),
    (3, "tabresnet", 31, 16, 1),
    (3, "tabresnet", 7, 1, 3),
    (4, "mlp_dense", 232, 256, 2),
    (2, "mlp_dense", 129, 67, 3),
    (1, "tabresnet", 40, 128, 5),
    (1, "mlp_dense", 1_000, 520, 33),
]


WITH_NETWORKS = [
    name for name, own in functions.instruction_sets().items() if "network_scores" in own
]


def run_by(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks run in C by an instruction set, or in NumPy."""
    if way == "numpy":
        monkeypatch.setattr(numpy_network, "can_run_networks", lambda: False)
    else:
        own = {way: functions.instruction_sets()[way]}
        monkeypatch.setattr(functions, "instruction_sets", lambda: own)


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


def check(own: FoldedNetwork) -> None:
    """The same bits for a row among permuted ones, and in calls of other sizes."""
    draw = np.random.default_rng(0)
    for n_rows in (3, 8, 9, 17, 65, 340, 700):
        x = draw.normal(size=(n_rows, own.input_dim)).astype(np.float32)
        # A row that overflows is computed again, in float64.
        x[n_rows // 2] *= np.float32(1e37)
        whole = own.logits(x)
        order = draw.permutation(n_rows)
        np.testing.assert_array_equal(own.logits(x[order]), whole[:, order])
        for size in (1, 5, 8, 9, 40, 200):
            for start in range(0, min(n_rows, 8 * size), size):
                part = slice(start, start + size)
                np.testing.assert_array_equal(own.logits(x[part]), whole[:, part])


@pytest.mark.parametrize("way", [*WITH_NETWORKS, "numpy"])
@pytest.mark.parametrize("index", range(len(NETWORKS)))
def test_place_and_neighbours_do_not_show(
    index: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_by(way, monkeypatch)
    check(network(index))


# The kernels that OpenBLAS has for x86, by what they are made for; Prescott stands for all
# processors without AVX, SkylakeX for those with AVX-512. Those that this processor cannot run
# become the best it can.
@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["Prescott", "Nehalem", "Sandybridge", "Haswell", "SkylakeX"])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_on_every_instruction_set_with_any_threads(kernel: str, n_threads: int) -> None:
    code = (
        "from tests.inference.test_place_in_batch import *\n"
        "numpy_network.can_run_networks = lambda: False\n"
        "for index in range(len(NETWORKS)):\n"
        "    check(network(index))\n"
    )
    threads = {name: str(n_threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    run_python(code, environment={**threads, "OPENBLAS_CORETYPE": kernel})
