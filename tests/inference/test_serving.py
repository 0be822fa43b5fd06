"""A predictor in a service: several threads, after a fork, a million rows, nothing else touched."""

import locale
import os
import random
import threading
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from decimal import getcontext

import numpy as np
import polars as pl
import pytest
import torch

from tabwright.inference.fitted_model import load_fitted
from tabwright.inference.predictor import Predictor
from tests.golden.make import mixed_table, plain_table
from tests.golden.rows import golden_models

NEWEST = {path.stem: path for path in golden_models()}
MODELS = ("binary-mlp", "mixed-calibrated", "mixed-regression", "binary-imbalance-prior")


def predictor(name: str) -> Predictor:
    return Predictor(load_fitted(NEWEST[name]))


def rows_for(name: str, n_rows: int, seed: int) -> pl.DataFrame:
    return (mixed_table if name.startswith("mixed") else plain_table)(n_rows, seed)


def said(own: Predictor, frame: pl.DataFrame) -> bytes:
    """Every way of asking, as bytes."""
    whole = own.predict_values if own.model.classes is None else own.predict_proba
    parts = [np.asarray(own.predict_row(row)) for row in frame.head(3).iter_rows(named=True)]
    return b"".join([whole(frame).tobytes(), *(part.tobytes() for part in parts)])


@pytest.mark.parametrize("name", MODELS)
def test_threads_give_the_same_bits(name: str) -> None:
    own = predictor(name)
    frames = [rows_for(name, 300 + 200 * seed, seed) for seed in range(4)]
    alone = [said(own, frame) for frame in frames]
    fresh = predictor(name)  # nothing made yet: the threads race for it
    barrier = threading.Barrier(4)

    def ask(index: int) -> list[bytes]:
        barrier.wait()
        return [said(fresh, frames[index]) for _ in range(4)]

    with ThreadPoolExecutor(4) as pool:
        for index, answers in enumerate(pool.map(ask, range(4))):
            assert answers == [alone[index]] * 4


@pytest.mark.parametrize("name", ["binary-mlp", "binary-imbalance-prior"])
def test_a_forked_child_gives_the_same_bits(name: str) -> None:
    own = predictor(name)
    x = own.model.encoder.transform(rows_for(name, 900, 5))
    row = rows_for(name, 1, 6).row(0, named=True)
    expected = own.calibrated(own.network(x)).tobytes() + np.asarray(own.predict_row(row)).tobytes()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests' threads
        child = os.fork()
    if child == 0:
        found = b"0"
        try:
            again = own.calibrated(own.network(x)).tobytes()
            again += np.asarray(own.predict_row(row)).tobytes()
            found = b"1" if again == expected else b"0"
        finally:
            os.write(writer, found)
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 1) == b"1"
    os.close(reader)
    os.waitpid(child, 0)


@pytest.mark.parametrize("name", MODELS)
def test_no_global_state_is_changed(name: str) -> None:
    own = predictor(name)
    frame = rows_for(name, 50, 7)

    def state() -> tuple[object, ...]:
        return (
            random.getstate(),
            repr(np.random.get_state()),  # noqa: NPY002
            np.geterr(),
            torch.random.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            list(warnings.filters),
            dict(os.environ),
            os.getcwd(),
            repr(getcontext()),
            locale.setlocale(locale.LC_ALL),
            threading.active_count(),
        )

    before = state()
    copy = frame.clone()
    said(own, frame)
    assert state() == before
    assert frame.equals(copy, null_equal=True)


@pytest.mark.parametrize("name", MODELS)
def test_any_batch_size_gives_the_same_answer(name: str) -> None:
    own = predictor(name)
    frame = rows_for(name, 700, 8)
    whole = own.predict_values if own.model.classes is None else own.predict_proba
    expected = whole(frame)
    allowed = 1e-6 * (1.0 if own.model.target is None else own.model.target.scale)
    for size in (1, 2, 7, 64, 511):
        count = min(len(frame), 20 * size)
        parts = [whole(frame[start : start + size]) for start in range(0, count, size)]
        found = np.concatenate(parts)
        np.testing.assert_allclose(found, expected[: len(found)], rtol=0, atol=allowed)


@pytest.mark.slow
def test_a_million_rows_in_bounded_memory() -> None:
    own = predictor("binary-mlp")
    frame = plain_table(1_000_000, seed=9)
    own.predict_proba(frame.head(5_000))
    tracemalloc.start()
    found = own.predict_proba(frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    compact = 1_000_000 * 4 * (3 + 1)
    # Probabilities a few times over (calibration) and the compact form; no network inputs.
    assert peak < 6 * found.nbytes + 2 * compact
    np.testing.assert_allclose(found[-500:], own.predict_proba(frame.tail(500)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-12)
