"""Networks in C say what networks in NumPy say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from ai.ml.frameworks.pytorch.models import TrainingMode, build_model
from tabwright.encoding.encoder import Compact
from tabwright.inference import numpy_network
from tabwright.inference.numpy_network import FoldedNetwork
from tests.inference.test_first_layer import CASES, encoded
from tests.inference.test_place_in_batch import NETWORKS, WITH_NETWORKS, network, run_by

pytestmark = pytest.mark.skipif(
    not WITH_NETWORKS, reason="no extension, or a processor without fused products"
)
in_every_set = pytest.mark.parametrize("instruction_set", WITH_NETWORKS)


def member(mode: TrainingMode, input_dim: int, n_outputs: int, seed: int) -> dict[str, np.ndarray]:
    torch.manual_seed(seed)
    model = build_model(input_dim, n_outputs, mode, 19, 2, 0.0).eval()
    return {name: value.numpy() for name, value in model.state_dict().items()}


def in_numpy(own: FoldedNetwork, rows: np.ndarray | Compact) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numpy_network, "can_run_networks", lambda: False)
        return own.logits(rows)


@in_every_set
@pytest.mark.parametrize("index", range(len(NETWORKS)))
def test_inputs_give_what_numpy_gives(
    index: int, instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_by(instruction_set, monkeypatch)
    own = network(index)
    x = np.random.default_rng(0).normal(size=(2_500, own.input_dim)).astype(np.float32)
    wanted = in_numpy(own, x)
    near = 3e-6 * max(1.0, np.abs(wanted).max())
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            np.testing.assert_allclose(own.logits(x), wanted, rtol=0, atol=near)
    assert own.logits(x[:0]).shape == (own.n_members, 0, own.output_dim)
    # Infinite in float32, and not a number: the same as in NumPy, and no other row is touched.
    x[7] *= np.float32(1e37)
    x[11, 0] = np.nan
    found, hard = own.logits(x), in_numpy(own, x)
    assert np.isfinite(found[:, 7]).all()
    near = 1e-5 * np.abs(hard[:, 7]).max()
    np.testing.assert_allclose(found[:, 7], hard[:, 7], rtol=0, atol=near)
    assert np.isnan(found[:, 11]).all()
    rest = np.delete(np.arange(len(x)), [7, 11])
    np.testing.assert_array_equal(found[:, rest], own.logits(x[rest]))


@in_every_set
@pytest.mark.parametrize(("columns", "encoding"), CASES)
@pytest.mark.parametrize(("mode", "n_outputs"), [("tabresnet", 3), ("linear_glm_baseline", 1)])
def test_encoded_rows_give_what_numpy_gives(
    columns: list[str],
    encoding: str,
    mode: TrainingMode,
    n_outputs: int,
    instruction_set: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_by(instruction_set, monkeypatch)
    for keep_value in (True, False):
        encoder, compact = encoded(columns, encoding, keep_value=keep_value)
        members = [member(mode, encoder.input_dim, n_outputs, seed) for seed in range(3)]
        own = FoldedNetwork(members, encoder.layout)
        wanted = in_numpy(own, compact)
        found = own.logits(compact)
        near = 3e-6 * (1.0 + np.abs(wanted).max())
        np.testing.assert_allclose(found, wanted, rtol=0, atol=near)
        for size in (1, 3, 4, 33):
            part = slice(100, 100 + size)
            np.testing.assert_array_equal(own.logits(compact.take(part)), found[:, part])


def test_rows_of_another_shape_are_refused() -> None:
    encoder, compact = encoded(["size", "kind"], "auto")
    own = FoldedNetwork([member("mlp_dense", encoder.input_dim, 2, 0)], encoder.layout)
    for numeric, codes in (
        (compact.numeric[:, :0], compact.codes),
        (compact.numeric, compact.codes[:, :0]),
        (compact.numeric, compact.codes[:9]),
    ):
        with pytest.raises(ValueError, match="numbers and codes must have shapes"):
            own.logits(Compact(numeric, codes))


def test_codes_past_the_tables_read_no_other_memory() -> None:
    encoder, compact = encoded(["kind", "many", "when"], "auto")
    own = FoldedNetwork([member("mlp_dense", encoder.input_dim, 2, 0)], encoder.layout)
    wild = np.full_like(compact.codes, 2**30)
    for codes in (wild, -wild):
        assert np.isfinite(own.logits(Compact(compact.numeric, codes))).all()
