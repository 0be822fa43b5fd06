"""From raw rows to probabilities and values: every way gives the same answer, without torch."""

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from campaigns import mutate_artifact
from tabwright.artifact.container import pack
from tabwright.calibration.calibrator import Calibrator
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel, member_modules
from tabwright.inference.predictor import Predictor
from tabwright.settings import FitSettings, Task, modes_for
from tabwright.tables.labelled import LabelledRows
from tests.new_process import run_python

TASKS: tuple[Task, ...] = ("classification", "regression")
CASES = [(mode, task) for task in TASKS for mode in modes_for(task)]
ARCHITECTURES = ("mlp_dense", "tabresnet", "linear_glm_baseline")


def table(n_rows: int, seed: int = 0) -> pl.DataFrame:
    """Numbers, categories, booleans and dates, with gaps."""
    rng = np.random.default_rng(seed)
    start = np.datetime64("2020-01-01T00:00:00.000000")
    gaps = rng.random((2, n_rows)) < 0.1
    size = rng.normal(size=n_rows).tolist()
    kind = rng.choice(["red", "green", "blue", "größe"], n_rows).tolist()
    return pl.DataFrame(
        {
            "size": [None if gap else value for gap, value in zip(gaps[0], size, strict=True)],
            "count": rng.integers(0, 50, n_rows),
            "kind": [None if gap else value for gap, value in zip(gaps[1], kind, strict=True)],
            "open": rng.random(n_rows) < 0.5,
            "when": start + rng.integers(0, 10**6, n_rows) * np.timedelta64(3_600_000_000, "us"),
        },
        schema_overrides={"size": pl.Float64, "kind": pl.String},
    )


def codes(frame: pl.DataFrame) -> np.ndarray:
    red = (frame["kind"] == "red").fill_null(False).to_numpy()
    score = frame["size"].fill_null(0.5).to_numpy() + red
    result: np.ndarray = (score > 0.8).astype(np.int64) + (score > 1.6)
    return result


@cache
def model(mode: str, task: Task) -> FittedModel:
    frame = table(260)
    settings = FitSettings(
        task=task,
        training_mode=mode,  # type: ignore[arg-type]
        hidden_dim=16,
        num_hidden_layers=2,
        n_members=3,
        max_epochs=4,
        random_state=0,
        quality="fast",  # networks alone
    )
    if task == "regression":
        return fit_table(LabelledRows(frame, codes(frame) * 10.0 - 3.0), settings)
    classes = np.array(["high", "low", "mid"])
    return fit_table(LabelledRows(frame, codes(frame)), settings, classes=classes)


def predict(predictor: Predictor, frame: pl.DataFrame) -> np.ndarray:
    if predictor.model.classes is None:
        return predictor.predict_values(frame)
    return predictor.predict_proba(frame)


@pytest.mark.parametrize(("mode", "task"), CASES)
def test_equals_the_unfolded_members(mode: str, task: Task) -> None:
    fitted = model(mode, task)
    frame = table(500, seed=1)
    x = torch.from_numpy(fitted.encoder.expand(fitted.encoder.transform(frame)))
    with torch.no_grad():
        outputs = torch.stack([module(x).double() for module in member_modules(fitted)])
    if task == "regression":
        assert fitted.target is not None
        expected = fitted.target.restore(outputs.mean(0)[:, 0].numpy())
        np.testing.assert_allclose(Predictor(fitted).predict_values(frame), expected, atol=1e-4)
        return
    proba = torch.softmax(outputs, dim=2).mean(0).numpy()
    found = Predictor(fitted).network(fitted.encoder.transform(frame))
    np.testing.assert_allclose(found, proba, rtol=0, atol=1e-6)
    if fitted.class_weights is not None:
        # Weighted training answers under shares times weights: Bayes takes the weights out again.
        proba = proba / fitted.class_weights
        proba /= proba.sum(axis=1, keepdims=True)
    if fitted.calibrator is not None:
        proba = fitted.calibrator.apply(proba)
    final = Predictor(fitted).predict_proba(frame)
    np.testing.assert_allclose(final, proba, rtol=0, atol=2e-6)
    np.testing.assert_allclose(final.sum(axis=1), 1.0, atol=1e-12)
    assert final.dtype == np.float64


@pytest.mark.parametrize(("mode", "task"), CASES)
def test_one_row_of_any_form_equals_the_whole_table(mode: str, task: Task) -> None:
    predictor = Predictor(model(mode, task))
    frame = table(40, seed=2).with_columns(
        kind=pl.Series(["violet", None, "größe", "red"] * 10),
        size=pl.Series([None, 1e300, -1e300, 0.0] * 10),
    )
    whole = predict(predictor, frame)
    assert np.isfinite(whole).all()
    for i, row in enumerate(frame.iter_rows(named=True)):
        np.testing.assert_allclose(predictor.predict_row(row), whole[i], rtol=1e-12, atol=0)
        one = predict(predictor, frame[i : i + 1])
        np.testing.assert_allclose(one, whole[i : i + 1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("task", TASKS)
def test_what_a_row_gives(task: Task) -> None:
    row = table(1).row(0, named=True)
    answer = Predictor(model("mlp_dense", task)).predict_row(row)
    if task == "regression":
        assert type(answer) is float
    else:
        assert isinstance(answer, np.ndarray)
        assert answer.shape == (3,)
        assert answer.dtype == np.float64


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("n_rows", [0, 1, 8, 9, 16, 17, 100])
def test_blocks_do_not_show(task: Task, n_rows: int) -> None:
    predictor = Predictor(model("mlp_dense", task))
    frame = table(100, seed=3)[:n_rows]
    whole = predict(predictor, frame)
    predictor._network.block_rows = 16
    blocked = predict(predictor, frame)
    assert whole.shape == blocked.shape == ((n_rows, 3) if task == "classification" else (n_rows,))
    np.testing.assert_allclose(blocked, whole, rtol=1e-12, atol=0)


def test_memory_is_bounded() -> None:
    predictor = Predictor(model("mlp_dense", "classification"))
    compact = predictor.model.encoder.transform(table(200_000, seed=4))
    predictor.network(compact.take(slice(0, 10_000)))
    tracemalloc.start()
    out = predictor.network(compact)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    wide = 4 * len(compact) * predictor.model.encoder.input_dim
    assert peak < out.nbytes + 2**24 < wide


@pytest.mark.parametrize("task", TASKS)
def test_the_same_call_gives_the_same_bits_in_any_thread(task: Task) -> None:
    predictor = Predictor(model("tabresnet", task))
    frames = [table(100 + 50 * seed, seed) for seed in range(4)]
    alone = [predict(predictor, frame).tobytes() for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            together = pool.map(lambda frame: predict(predictor, frame).tobytes(), frames)
            assert list(together) == alone
    copy: Predictor = pickle.loads(pickle.dumps(predictor))
    assert [predict(copy, frame).tobytes() for frame in frames] == alone


def test_columns_go_by_name() -> None:
    predictor = Predictor(model("mlp_dense", "classification"))
    frame = table(30, seed=5)
    shuffled = frame.select(["when", "open", "kind", "count", "size"])
    np.testing.assert_array_equal(predict(predictor, frame), predict(predictor, shuffled))


def test_imbalance_aware_answers_under_the_prior_asked_for() -> None:
    fitted = model("imbalance_aware", "classification")
    assert fitted.class_prior is not None
    assert fitted.class_weights is not None
    frame = table(400, seed=6)
    network = Predictor(fitted).network(fitted.encoder.transform(frame))

    def under(prior: np.ndarray | None) -> np.ndarray:
        return Predictor(replace(fitted, prior=prior)).predict_proba(frame)

    def by_bayes(prior: np.ndarray) -> np.ndarray:
        assert fitted.class_prior is not None
        assert fitted.class_weights is not None
        proba = network * prior / (fitted.class_prior * fitted.class_weights)
        result: np.ndarray = proba / proba.sum(axis=1, keepdims=True)
        return result

    np.testing.assert_allclose(under(None), by_bayes(fitted.class_prior), atol=1e-9)
    for prior in (np.full(3, 1 / 3), np.array([0.9, 0.05, 0.05])):
        np.testing.assert_allclose(under(prior), by_bayes(prior), atol=1e-9)
    rare = under(np.array([0.01, 0.01, 0.98]))[:, 2].mean()
    assert rare > under(None)[:, 2].mean() + 0.05


def test_class_weights_of_other_modes_are_left_in() -> None:
    fitted = model("mlp_dense", "classification")
    weighted = replace(fitted, class_weights=np.array([1.0, 5.0, 9.0]))
    frame = table(20, seed=7)
    np.testing.assert_array_equal(
        Predictor(weighted).predict_proba(frame), Predictor(fitted).predict_proba(frame)
    )


def test_the_calibrator_is_applied() -> None:
    plain = replace(model("mlp_dense", "classification"), calibrator=None)
    hot = Calibrator("temperature", {"inverse_temperature": np.array([0.5])})
    frame = table(50, seed=8)
    before = Predictor(plain).predict_proba(frame)
    after = Predictor(replace(plain, calibrator=hot)).predict_proba(frame)
    expected = np.sqrt(before) / np.sqrt(before).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(after, expected, atol=1e-12)
    compact = plain.encoder.transform(frame)
    np.testing.assert_array_equal(
        Predictor(replace(plain, calibrator=hot)).network(compact),
        Predictor(plain).network(compact),
    )


def test_values_stay_in_the_range_of_the_training_targets() -> None:
    fitted = model("linear_glm_baseline", "regression")
    far = table(60, seed=9).with_columns(size=pl.lit(1e9), count=pl.lit(10**9))
    values = Predictor(fitted).predict_values(far)
    assert fitted.target is not None
    assert values.min() >= fitted.target.low == -3.0
    assert values.max() <= fitted.target.high == 17.0


def test_the_wrong_task_is_refused() -> None:
    frame = table(3)
    with pytest.raises(ValueError, match="predict_proba needs a classifier; this is a regression"):
        Predictor(model("mlp_dense", "regression")).predict_proba(frame)
    with pytest.raises(ValueError, match="predict_values needs a regression model; this is a cla"):
        Predictor(model("mlp_dense", "classification")).predict_values(frame)


@pytest.mark.parametrize(("mode", "task"), CASES)
def test_a_saved_model_predicts_without_torch(mode: str, task: Task, tmp_path: Path) -> None:
    fitted = model(mode, task)
    frame = table(50, seed=10)
    fitted.save(tmp_path / "model.safetensors")
    frame.write_parquet(tmp_path / "rows.parquet")
    script = """
        import sys
        import numpy as np
        import polars as pl
        from tabwright.inference.fitted_model import load_fitted
        from tabwright.inference.predictor import Predictor

        predictor = Predictor(load_fitted("model.safetensors"))
        frame = pl.read_parquet("rows.parquet")
        regression = predictor.model.classes is None
        predict = predictor.predict_values if regression else predictor.predict_proba
        np.save("out.npy", predict(frame))
        predictor.predict_row(frame.row(0, named=True))
        heavy = {"torch", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "typer", "rich"}
        print(sorted(heavy & set(sys.modules)))
    """
    assert run_python(script, cwd=tmp_path).strip() == "[]"
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), predict(Predictor(fitted), frame))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_doctored_models_are_refused_or_predict(
    mode: str, task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    data = pack(*model(mode, task).to_artifact())
    assert mutate_artifact.load_whole(data) == "accepted"
    mutants = mutate_artifact.structured_mutants(data, 300, seed=2)
    verdicts: Any = mutate_artifact.run(mode, mutants, data, mutate_artifact.load_whole)
    assert verdicts["refused"] > 150
