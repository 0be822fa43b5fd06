"""The NumPy networks against the torch modules that they come from."""

import copy
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from ai.ml.frameworks.pytorch.models import TrainingMode, build_model
from tabwright.inference import folding
from tabwright.inference.numpy_network import FoldedNetwork

MODES: tuple[TrainingMode, ...] = ("mlp_dense", "tabresnet", "linear_glm_baseline")
INPUT_DIM = 7


def member(mode: TrainingMode, seed: int, *, output_dim: int = 3, depth: int = 2) -> nn.Module:
    """A model with batch statistics and affine parameters that matter, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    model = build_model(INPUT_DIM, output_dim, mode, 16, depth, 0.1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) * 2 + 0.25)
            elif value.is_floating_point():
                value.add_(torch.randn(value.shape, generator=generator) * 0.15)
    return model.eval()


def state(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def rows(n_rows: int, seed: int = 0) -> np.ndarray:
    x: np.ndarray = np.random.default_rng(seed).normal(size=(n_rows, INPUT_DIM)).astype(np.float32)
    return x


def unfolded(models: list[nn.Module], x: np.ndarray) -> np.ndarray:
    """Members' logits by torch, (K, n, output_dim), float64."""
    with torch.no_grad():
        return np.stack([model(torch.from_numpy(x)).double().numpy() for model in models])


def softmax(logits: np.ndarray) -> np.ndarray:
    result: np.ndarray = torch.softmax(torch.from_numpy(logits), -1).numpy()
    return result


def build(
    mode: TrainingMode, n_members: int, **options: int
) -> tuple[FoldedNetwork, list[nn.Module]]:
    models = [member(mode, seed, **options) for seed in range(n_members)]
    return FoldedNetwork([state(model) for model in models]), models


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_members", [1, 2, 5])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_equals_the_unfolded_models(mode: TrainingMode, n_members: int, depth: int) -> None:
    network, models = build(mode, n_members, depth=depth)
    x = rows(200)
    expected = unfolded(models, x)
    assert network.input_dim == INPUT_DIM
    assert network.output_dim == 3
    assert network.n_members == n_members
    np.testing.assert_allclose(network.logits(x), expected, rtol=1e-5, atol=2e-5)
    proba = network.probabilities(x)
    assert proba.dtype == np.float64
    np.testing.assert_allclose(proba, softmax(expected).mean(axis=0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode", MODES)
def test_values_are_the_mean_of_the_members(mode: TrainingMode) -> None:
    network, models = build(mode, 3, output_dim=1)
    x = rows(50)
    values = network.values(x)
    assert values.shape == (50,)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, unfolded(models, x).mean(axis=0)[:, 0], atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_rows", [0, 1, 2, 63, 64, 65, 1000])
def test_any_number_of_rows(mode: TrainingMode, n_rows: int) -> None:
    network, models = build(mode, 2)
    network.block_rows = 64
    x = rows(n_rows)
    proba = network.probabilities(x)
    assert proba.shape == (n_rows, 3)
    if n_rows:
        expected = softmax(unfolded(models, x)).mean(axis=0)
        np.testing.assert_allclose(proba, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_one_row_at_a_time_equals_all_at_once(mode: TrainingMode) -> None:
    network, _ = build(mode, 3)
    x = rows(300)
    at_once = network.probabilities(x)
    one_by_one = np.concatenate([network.probabilities(x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(one_by_one, at_once, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_the_same_call_gives_the_same_bits(mode: TrainingMode) -> None:
    network, _ = build(mode, 3)
    x = rows(1500)
    first = network.probabilities(x)
    network.probabilities(rows(77, seed=1))
    assert first.tobytes() == network.probabilities(x).tobytes()


def test_results_are_not_the_buffers() -> None:
    network, _ = build("mlp_dense", 1)
    for method in (network.probabilities, network.logits, network.values):
        first = method(rows(1))
        kept = first.copy()
        method(rows(1, seed=5))
        np.testing.assert_array_equal(first, kept)


def test_inputs_are_left_alone_and_may_be_strided_and_read_only() -> None:
    network, _ = build("tabresnet", 2)
    x = rows(40)
    wide = np.zeros((40, INPUT_DIM * 2), dtype=np.float32)
    wide[:, ::2] = x
    x.setflags(write=False)
    np.testing.assert_allclose(
        network.probabilities(wide[:, ::2]), network.probabilities(x), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("mode", MODES)
def test_huge_inputs_give_finite_probabilities(mode: TrainingMode) -> None:
    # A network in float32 gives NaN here: infinity less infinity.
    models = [member(mode, seed) for seed in range(2)]
    for model in models:
        next(model.parameters()).data.mul_(20)
    network = FoldedNetwork([state(model) for model in models])
    x = rows(4)
    x[1] = np.copysign(np.float32(3e38), x[1])
    assert not np.isfinite(unfolded(models, x)).all()
    proba = network.probabilities(x)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, atol=1e-12)
    double = [copy.deepcopy(model).double() for model in models]
    with torch.no_grad():
        logits = np.stack([model(torch.from_numpy(x).double()).numpy() for model in double])
    np.testing.assert_allclose(proba, softmax(logits).mean(axis=0), rtol=0, atol=1e-6)
    assert np.isfinite(network.logits(x)).all()


def test_weights_that_fold_past_float32_stay_finite() -> None:
    arrays = {name: value.copy() for name, value in state(member("mlp_dense", 0)).items()}
    arrays["net.norm1.weight"][:] = 3e38
    arrays["net.norm1.running_var"][:] = 0.0
    assert np.isfinite(FoldedNetwork([arrays]).probabilities(rows(5))).all()


def test_sure_networks_do_not_overflow() -> None:
    network, _ = build("linear_glm_baseline", 1)
    proba = network.probabilities(rows(20) * np.float32(1e4))
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.max(axis=1), 1.0, atol=1e-6)


def in_threads(call: Callable[[int], bytes], n_threads: int = 4) -> list[bytes]:
    barrier = threading.Barrier(n_threads)

    def start(index: int) -> bytes:
        barrier.wait()
        result = b""
        for _ in range(20):
            result = call(index)
        return result

    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(start, range(n_threads)))


def test_threads_do_not_disturb_each_other() -> None:
    network, _ = build("mlp_dense", 3)
    alone = [network.probabilities(rows(500 + seed, seed)).tobytes() for seed in range(4)]
    together = in_threads(lambda i: network.probabilities(rows(500 + i, i)).tobytes())
    assert together == alone


def test_a_workspace_has_one_user_at_a_time() -> None:
    network, _ = build("mlp_dense", 1)
    mine = network._workspace(network._smallest, 0)
    theirs = network._workspace(network._smallest, 0)
    assert not np.shares_memory(mine.out.flat, theirs.out.flat)
    network.probabilities(rows(1))
    again = network._workspace(network._smallest, 0)
    assert again is not mine
    assert again is not theirs
    network._free[network._smallest].append(again)
    network.probabilities(rows(1))
    assert network._workspace(network._smallest, 0) is again


def test_after_a_fork() -> None:
    network, _ = build("mlp_dense", 2)
    x = rows(700)
    expected = network.probabilities(x).tobytes()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        same = network.probabilities(x).tobytes() == expected
        os.write(writer, b"1" if same else b"0")
        os._exit(0)
    os.close(writer)
    answer = os.read(reader, 1)
    os.close(reader)
    os.waitpid(child, 0)
    assert answer == b"1"


def test_pickles_and_copies_without_buffers() -> None:
    network, _ = build("tabresnet", 2)
    fresh = len(pickle.dumps(network))
    expected = network.probabilities(rows(2000))
    assert len(pickle.dumps(network)) == fresh
    for other in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        assert other.probabilities(rows(2000)).tobytes() == expected.tobytes()


def test_memory_does_not_grow_with_the_rows() -> None:
    import tracemalloc

    network, _ = build("mlp_dense", 4)
    x = rows(100_000)
    with threadpool_limits(1, user_api="blas"):
        network.probabilities(x[:2000])
    tracemalloc.start()
    with threadpool_limits(1, user_api="blas"):
        out = network.probabilities(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < out.nbytes + 2**21


def test_numpy_error_settings_are_left_alone() -> None:
    network, _ = build("mlp_dense", 1)
    before = np.geterr()
    x = rows(3)
    x[0] = 3e38
    network.probabilities(x)
    assert np.geterr() == before


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="members must hold at least one network; got none"):
        FoldedNetwork([])
    with pytest.raises(ValueError, match=r"must be MLP, TabResNet or Lin.*net\.linear1"):
        FoldedNetwork([state(nn.Linear(3, 2))])
    mixed = [state(member("mlp_dense", 0)), state(member("mlp_dense", 0, depth=3))]
    with pytest.raises(ValueError, match="members must all be of one architecture and size"):
        FoldedNetwork(mixed)


@pytest.mark.parametrize("shape", [(INPUT_DIM,), (2, INPUT_DIM + 1), (1, 2, INPUT_DIM), (0, 3)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    network, _ = build("mlp_dense", 1)
    with pytest.raises(ValueError, match=rf"x must have shape \(n, {INPUT_DIM}\); got"):
        network.probabilities(np.zeros(shape, dtype=np.float32))


def test_the_eps_is_that_of_the_models() -> None:
    norms = [m for m in build_model(2, 2, "tabresnet", 4, 1, 0.0).modules() if hasattr(m, "eps")]
    assert norms
    assert {norm.eps for norm in norms} == {folding._EPS}
