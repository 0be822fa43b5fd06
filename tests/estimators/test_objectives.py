"""`objective=`: closed forms, shares of quantiles, one answer in file, NumPy and ONNX, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import GammaRegressor, PoissonRegressor, QuantileRegressor
from typer.testing import CliRunner

from tabwright import TabularRegressor, distill, load_model
from tabwright.cli.app import app
from tabwright.errors import ArtifactError
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.regression import (
    RegressionObjective,
    central_level,
    check_levels,
    inverse_softplus,
    weighted_quantiles,
)

SMALL: dict[str, Any] = {
    "hidden_dim": 16,
    "num_hidden_layers": 1,
    "n_members": 2,
    "max_epochs": 4,
    "batch_size": 64,
    "learning_rate": 0.01,
    "random_state": 0,
}
OBJECTIVES: tuple[RegressionObjective, ...] = ("absolute_error", "quantile", "poisson", "gamma")
LEVELS = (0.05, 0.5, 0.8)


def _rows(n_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Columns and amounts above 0 whose mean is log-linear in them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 3))
    return X, rng.gamma(4.0, np.exp(0.5 * X[:, 0] - 0.3 * X[:, 1]) / 4.0) + 1e-3


def _model(objective: RegressionObjective, **values: Any) -> TabularRegressor:
    levels = {"quantiles": LEVELS} if objective == "quantile" else {}
    return TabularRegressor(**{**SMALL, **levels, **values}, objective=objective)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("squared_error", lambda y, w: np.average(y, weights=w)),
        ("absolute_error", lambda y, w: weighted_quantiles(y, (0.5,), w)[0]),
        ("poisson", lambda y, w: np.average(y, weights=w)),
        ("gamma", lambda y, w: np.average(y, weights=w)),
        ("quantile", lambda y, w: weighted_quantiles(y, LEVELS, w)),
    ],
)
def test_without_a_feature_that_tells_the_constant_is_the_best_one(
    objective: RegressionObjective, expected: Any, weighted: bool
) -> None:
    rng = np.random.default_rng(0)
    y = rng.gamma(1.0, 3.0, size=400) + 0.1
    weight = rng.integers(1, 9, size=400).astype(float) if weighted else None
    X = np.zeros((400, 1))
    X[0] = 1e-9
    model = _model(objective, training_mode="linear_glm_baseline", max_epochs=150, n_members=1)
    model.fit(X, y, sample_weight=weight, eval_set=(X, y, weight) if weighted else (X, y))
    wanted = np.atleast_1d(expected(y, weight))
    found = model.predict_quantiles(X) if objective == "quantile" else model.predict(X)[:, None]
    np.testing.assert_allclose(found[5], wanted, rtol=0.04, atol=0.04)
    assert np.ptp(found[1:], axis=0).max() == 0


@pytest.mark.parametrize(
    ("objective", "peer"), [("poisson", PoissonRegressor), ("gamma", GammaRegressor)]
)
def test_the_linear_mode_is_the_generalized_linear_model(
    objective: RegressionObjective, peer: Any
) -> None:
    X, amounts = _rows(2000)
    y = (
        np.random.default_rng(1).poisson(amounts).astype(float)
        if objective == "poisson"
        else amounts
    )
    model = TabularRegressor(
        "linear_glm_baseline",
        objective=objective,
        numeric_encoding="standard",
        weight_decay=0.0,
        max_epochs=60,
        learning_rate=0.02,
        n_members=1,
        random_state=0,
    )
    model.fit(X, y, eval_set=(X, y))
    inside = (model.predict(X) < y.max()) & (np.abs(X) < 3).all(axis=1)
    other = peer(alpha=0.0, max_iter=1000).fit(X, y).predict(X)
    np.testing.assert_allclose(model.predict(X)[inside], other[inside], rtol=0.03)


def test_one_linear_quantile_is_scikit_learns() -> None:
    X, y = _rows(1500)
    model = TabularRegressor(
        "linear_glm_baseline",
        objective="quantile",
        quantiles=[0.8],
        numeric_encoding="standard",
        weight_decay=0.0,
        max_epochs=80,
        learning_rate=0.02,
        n_members=1,
        random_state=0,
    )
    model.fit(X, y, eval_set=(X, y))
    other = QuantileRegressor(quantile=0.8, alpha=0.0).fit(X, y)
    scores = [
        np.maximum(0.8 * (y - p), -0.2 * (y - p)).mean()
        for p in (model.predict(X), other.predict(X))
    ]
    # The encoder clips what is far from the middle, so that the models are not quite the same.
    assert scores[0] == pytest.approx(scores[1], rel=0.03)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("mode", ["mlp_dense", "linear_glm_baseline", "tabresnet"])
def test_each_mode_learns_each_objective_and_its_file_predicts_the_same(
    mode: Any, objective: RegressionObjective, tmp_path: Path
) -> None:
    X, y = _rows(400)
    model = _model(objective, training_mode=mode).fit(X, y)
    assert model.model_.metrics["validation"]["d2"] > 0.1
    model.save(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert isinstance(again, TabularRegressor)
    assert again.settings_ == model.settings_
    assert again.get_params()["objective"] == objective
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(again.predict_interval(X), model.predict_interval(X))
    if objective == "quantile":
        quantiles = model.predict_quantiles(X)
        np.testing.assert_array_equal(again.predict_quantiles(X), quantiles)
        assert (np.diff(quantiles, axis=1) >= 0).all()
        np.testing.assert_array_equal(model.predict(X), quantiles[:, 1])
        np.testing.assert_array_equal(model.predict_quantiles(X, [0.8, 0.05]), quantiles[:, [2, 0]])
    else:
        assert (model.predict(X) > 0).all() or objective == "absolute_error"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_row_alone_is_a_row_of_a_table(objective: RegressionObjective) -> None:
    X, y = _rows(200)
    frame = pl.DataFrame(X, schema=["a", "b", "c"])
    model = _model(objective).fit(frame, y)
    one = model.predict(frame.to_pandas().iloc[[3]])
    assert one.shape == (1,)
    np.testing.assert_allclose(one, model.predict(frame)[3:4], rtol=1e-6)
    assert isinstance(model._predictor.predict_row(frame.row(3, named=True)), float)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_onnx_graph_says_the_same(objective: RegressionObjective, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from tabwright.export.onnx import onnx_feed

    X, y = _rows(400)
    frame = pl.DataFrame(X, schema=["a", "b", "c"])
    model = _model(objective).fit(frame, y)
    report = model.export_onnx(tmp_path / "model.onnx", check_rows=500)
    assert report.max_difference < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = session.run(None, onnx_feed(model.model_, frame))
    np.testing.assert_allclose(found[0], model.predict(frame), rtol=1e-5)
    quantiles = ["quantiles"] if objective == "quantile" else []
    centre = ["interval_centre"] if model.model_.quantile_shifts else []
    names = [output.name for output in session.get_outputs()][1:]
    assert names == [*quantiles, *centre, "interval_scale"]
    if objective == "quantile":
        np.testing.assert_allclose(found[1], model.predict_quantiles(frame), rtol=1e-5)


def _moved_rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    X, y = _rows(n, seed)
    return X, y + 1.0


def _shifted(levels: tuple[float, ...] = LEVELS, **values: Any) -> TabularRegressor:
    """A model whose held-out rows say that its levels are wrong."""
    X, y = _rows(600)
    model = _model("quantile", quantiles=levels, **values)
    return model.fit(X, y, eval_set=_moved_rows(400, 1))


@pytest.mark.parametrize("levels", [LEVELS, (0.5,)])
def test_held_out_rows_move_the_levels(levels: tuple[float, ...], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = _shifted(levels)
    fitted = model.model_
    assert len(fitted.quantile_shifts) == len(levels)
    assert fitted.card["quantiles"].startswith("levels moved by what 400 held-out rows")
    X, y = _moved_rows(4000, 2)
    quantiles = model.predict_quantiles(X)
    plain = Predictor(replace(fitted, quantile_shifts=()))
    frame = pl.DataFrame(X, schema=list(fitted.encoder.feature_names_in_))
    before = plain.predict_quantiles(frame)
    off, off_before = (
        np.abs((y[:, None] <= values).mean(axis=0) - levels).max() for values in (quantiles, before)
    )
    assert off < 0.08 < off_before
    assert (np.diff(quantiles, axis=1) >= 0).all()
    np.testing.assert_array_equal(model.predict(X), quantiles[:, central_level(levels)])
    # The intervals keep their coverage as it was promised without shifts.
    np.testing.assert_array_equal(model.predict_interval(X), plain.predict_interval(frame))
    model.save(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict_quantiles(X), quantiles)
    assert model.export_onnx(tmp_path / "model.onnx", check_rows=300).passed


def test_a_file_without_shifts_predicts_as_before(tmp_path: Path) -> None:
    model = _shifted()
    document, tensors = model.model_.to_artifact()
    assert len(document.pop("quantile_shifts")) == len(LEVELS)
    older = FittedModel.from_artifact(document, tensors)
    assert older.quantile_shifts == ()
    X, _ = _rows(20)
    assert (np.diff(Predictor(older).predict_quantiles(pl.DataFrame(X))) >= 0).all()
    assert "quantile_shifts" not in older.to_artifact()[0]
    document["quantile_shifts"] = [0.5]
    with pytest.raises(ArtifactError, match="quantile_shifts"):
        FittedModel.from_artifact(document, tensors)


def test_levels_of_rows_ordered_in_time_stay_as_fitted() -> None:
    X, y = _rows(400)
    model = _model("quantile").fit(X, y + np.arange(400) / 100, time=np.arange(400))
    assert model.model_.quantile_shifts == ()
    assert "the latest" in model.model_.card["quantiles"]


def test_a_refit_keeps_the_shifts_and_folds_have_them() -> None:
    X, y = _rows(500)
    every = np.arange(500)
    y[::3] += 2.0
    parts = [(np.flatnonzero(every % 3), every[::3])]
    few: dict[str, Any] = {"max_epochs": 2, "n_members": 1, "validation": parts}
    refitted = _model("quantile", refit=True, **few).fit(X, y)
    once = _model("quantile", **few).fit(X, y)
    assert refitted.model_.quantile_shifts == once.model_.quantile_shifts != ()
    folds = [(every[::2], every[1::2]), (every[1::2], every[::2])]
    few |= {"validation": folds, "n_folds": 2, "n_members": 2}
    in_folds = _model("quantile", **few).fit(X, y + 9.0 * (every % 2))
    assert "500 held-out rows" in in_folds.model_.card["quantiles"]
    assert len(in_folds.model_.quantile_shifts) == len(LEVELS)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("table", "target"), [("california_housing", "median_house_value"), ("diamonds", "price")]
)
def test_quantiles_hold_their_shares_on_real_tables(
    table: str, target: str, data_dir: Path
) -> None:
    frame = pl.read_parquet(data_dir / f"{table}.parquet").sample(8000, seed=0)
    train, test = frame[:4000], frame[4000:]
    model = TabularRegressor(
        objective="quantile", hidden_dim=64, dropout=0.1, n_members=1, random_state=0
    )
    model.fit(train.drop(target), train[target])
    quantiles = model.predict_quantiles(test.drop(target))
    shares = (test[target].to_numpy()[:, None] <= quantiles).mean(axis=0)
    # Nothing promises these shares: networks learn with dropout, and 4,000 rows. The intervals'
    # coverage is promised.
    np.testing.assert_allclose(shares, (0.1, 0.5, 0.9), atol=0.08)
    assert (np.diff(quantiles, axis=1) >= 0).all()


def test_squared_error_is_what_a_fit_without_the_argument_gives() -> None:
    X, y = _rows(200)
    plain = TabularRegressor(**SMALL).fit(X, y)
    named = TabularRegressor(**SMALL, objective="squared_error").fit(X, y)
    np.testing.assert_array_equal(plain.predict(X), named.predict(X))
    document, _ = named.model_.to_artifact()
    assert "objective" not in document["settings"]
    assert "quantiles" not in document["settings"] | document["target"]


def test_weights_of_objectives_count_rows() -> None:
    X, y = _rows(60)
    weight = np.where(np.arange(60) % 3 == 0, 2.0, 1.0)
    twice = np.repeat(np.arange(60), weight.astype(int))
    for objective in OBJECTIVES:
        model = _model(objective).fit(X, y, sample_weight=weight, eval_set=(X, y, weight))
        other = _model(objective).fit(X[twice], y[twice], eval_set=(X[twice], y[twice]))
        left, right = model.model_, other.model_
        assert left.target is not None
        assert right.target is not None
        assert left.target.mean == pytest.approx(right.target.mean)
        assert left.target.scale == pytest.approx(right.target.scale)
        assert left.target.quantiles == pytest.approx(right.target.quantiles)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"objective": "huber"}, "objective must be one of squared_error, absolute_error"),
        ({"objective": "quantile", "quantiles": (0.9, 0.1)}, "each above the one before"),
        ({"objective": "quantile", "quantiles": (0.0, 0.5)}, "above 0 and below 1"),
        ({"objective": "quantile", "quantiles": (0.5, 1.5)}, "above 0 and below 1"),
        ({"objective": "quantile", "quantiles": (0.5, 0.5)}, "each above the one before"),
        ({"objective": "quantile", "quantiles": ()}, "one or more levels"),
        ({"objective": "quantile", "quantiles": 0.5}, "quantiles must be a tuple"),
        ({"quantiles": (0.2,)}, "quantiles are of objective='quantile'"),
        ({"objective": "poisson", "quality": "best"}, "combines networks and trees by squared"),
        (
            {"objective": "gamma", "training_mode": "tree_teacher_distillation"},
            "learns a teacher's values by squared error",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, Any], said: str) -> None:
    X, y = _rows(30)
    with pytest.raises(ValueError, match=said):
        TabularRegressor(**values).fit(X, y)


def test_targets_that_do_not_fit_are_refused_before_any_work() -> None:
    X, y = _rows(30)
    y[[3, 7]] = -2.0, -1.0
    with pytest.raises(
        ValueError, match=r"counts of at least 0; got 2 row\(s\).*first -2; correct"
    ):
        TabularRegressor(objective="poisson").fit(X, y)
    y[[3, 7]] = 0.0
    with pytest.raises(ValueError, match=r"amounts above 0; got 2 row\(s\).*use 'poisson'"):
        TabularRegressor(objective="gamma").fit(X, y)
    with pytest.raises(ValueError, match=r"got 2 row\(s\)"):
        TabularRegressor(objective="gamma", max_epochs=1).fit(X, np.abs(y) + 1, eval_set=(X, y))
    model = TabularRegressor(**SMALL, objective="poisson").fit(X, y)
    with pytest.raises(ValueError, match="needs a model fitted with objective='quantile'"):
        model.predict_quantiles(X)
    quantile = _model("quantile").fit(X, y)
    with pytest.raises(ValueError, match=r"among those of the fit, 0\.05, 0\.5, 0\.8; got 0\.9"):
        quantile.predict_quantiles(X, [0.5, 0.9])
    with pytest.raises(ValueError, match=r"levels must be a sequence, such as \[0\.05\]; got 0\.5"):
        quantile.predict_quantiles(X, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"coverage must be above 0 and below 1; got '0\.9'"):
        quantile.predict_interval(X, "0.9")  # type: ignore[arg-type]


def test_files_that_contradict_themselves_are_refused() -> None:
    X, y = _rows(60)
    document, tensors = _model("quantile").fit(X, y).model_.to_artifact()
    target, settings = document["target"], document["settings"]
    for changed, said in (
        ({"target": {**target, "quantiles": target["quantiles"][::-1]}}, "in rising order"),
        ({"target": {**target, "quantiles": target["quantiles"][:2]}}, "3"),
        ({"settings": {**settings, "quantiles": [0.5, 0.9]}}, "a list of 2 finite numbers"),
        ({"settings": {**settings, "quantiles": [0.5, 0.4, 0.9]}}, "each above the one before"),
        ({"settings": {**settings, "objective": "huber"}}, "objective must be one of"),
    ):
        with pytest.raises(ArtifactError, match=said):
            FittedModel.from_artifact({**document, **changed}, tensors)


def test_a_student_learns_the_values_of_a_teacher_of_counts() -> None:
    X, amounts = _rows(300)
    y = np.random.default_rng(0).poisson(amounts).astype(float)
    teacher = _model("poisson").fit(X, y)
    student = distill(teacher, X, y, hidden_dim=16, max_epochs=5, random_state=0)
    assert isinstance(student, TabularRegressor)
    assert student.settings_.objective == "squared_error"
    assert np.corrcoef(student.predict(X), teacher.predict(X))[0, 1] > 0.9


@pytest.mark.parametrize("objective", ["quantile", "poisson"])
def test_networks_of_folds_learn_objectives_too(objective: RegressionObjective) -> None:
    X, y = _rows(400)
    model = _model(objective, n_folds=3, n_members=1).fit(X, y)
    assert model.model_.metrics["validation"]["d2"] > 0.1
    intervals = model.model_.intervals
    assert intervals is not None
    assert len(intervals.residuals) == 400


@pytest.mark.parametrize("objective", ["quantile", "poisson"])
def test_a_metric_of_ones_own_sees_the_values_that_are_predicted(
    objective: RegressionObjective,
) -> None:
    X, y = _rows(200)
    seen = []

    def error(true: np.ndarray, said: np.ndarray) -> float:
        seen.append(said)
        return -float(np.abs(true - said).mean())

    model = _model(objective, eval_metric=error, n_members=1, max_epochs=1)
    model.fit(X, y, eval_set=(X, y))
    assert {said.ndim for said in seen} == {1}
    whole = [said for said in seen if len(said) == len(X)]
    np.testing.assert_allclose(whole[-1], model.predict(X), rtol=1e-4)


def test_levels_and_their_middle() -> None:
    assert central_level((0.1, 0.5, 0.9)) == 1
    assert central_level((0.2, 0.4, 0.6)) == 1
    assert central_level((0.9,)) == 0
    check_levels((0.25,))
    assert np.logaddexp(0, inverse_softplus(0.3)) == pytest.approx(0.3)
    assert weighted_quantiles(np.arange(10.0), (0.1, 0.5, 0.95)) == (0.0, 4.0, 9.0)


def _table(tmp_path: Path) -> Path:
    X, y = _rows(300)
    path = tmp_path / "table.csv"
    pl.DataFrame(X, schema=["a", "b", "c"]).with_columns(
        count=pl.Series(np.random.default_rng(0).poisson(y))
    ).write_csv(path)
    return path


def _run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("memory", [None, "1KB"])
def test_the_command_line_trains_objectives_in_memory_and_from_disk(
    memory: str | None, tmp_path: Path
) -> None:
    table, model, out = _table(tmp_path), tmp_path / "m.safetensors", tmp_path / "out.csv"
    words = ["train", table, "-t", "count", "-o", model, "--epochs", 3, "--members", 1]
    words += [] if memory is None else ["--memory", memory]
    said = _run(*words, "--objective", "poisson")
    assert "poisson_deviance" in said
    assert "poisson" in _run("inspect", model)
    assert "poisson_deviance" in _run("evaluate", model, table, "--intervals")
    assert "rise of poisson_deviance" in _run("importance", model, table)
    _run(*words, "--objective", "quantile", "--quantiles", "0.2,0.5,0.9", "--overwrite")
    assert "quantiles 0.2, 0.5, 0.9" in _run("inspect", model)
    _run("predict", model, table, "--output", out)
    written = pl.read_csv(out)
    assert written.columns == ["prediction", "quantile_0.2", "quantile_0.5", "quantile_0.9"]
    assert (written["prediction"] == written["quantile_0.5"]).all()


def test_levels_are_judged_by_held_out_rows_of_a_table_on_disk(tmp_path: Path) -> None:
    X, y = _rows(2400)
    pl.DataFrame(X, schema=["a", "b", "c"]).with_columns(y=y).write_parquet(tmp_path / "t.parquet")
    model = _model("quantile", validation_fraction=0.4, max_epochs=1)
    model.fit_file(tmp_path / "t.parquet", "y", memory="1KB")
    fitted = model.model_
    assert "held-out rows" in fitted.card["quantiles"]
    assert bool(fitted.quantile_shifts) == ("moved" in fitted.card["quantiles"])
    assert "pinball" in fitted.metrics["validation"]


def test_negative_counts_from_disk_are_refused_before_training(tmp_path: Path) -> None:
    table = _table(tmp_path)
    frame = pl.read_csv(table)
    frame.with_columns(count=pl.col("count") - 1).write_csv(table)
    words = ["train", table, "-t", "count", "--objective", "poisson"]
    for more in ([], ["--memory", "1KB"]):
        done = CliRunner().invoke(app, [str(word) for word in [*words, *more]])
        assert done.exit_code == 2
        assert "counts of at least 0; got" in " ".join(done.output.split())
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_command_line_refuses_words_that_are_no_levels(tmp_path: Path) -> None:
    words = ["train", _table(tmp_path), "-t", "count", "--objective", "quantile", "--quantiles"]
    done = CliRunner().invoke(app, [str(word) for word in [*words, "0.1;0.9"]])
    assert done.exit_code == 2
    assert "levels with commas between" in " ".join(done.output.split())


def test_the_report_judges_by_the_objective(tmp_path: Path) -> None:
    table = _table(tmp_path)
    for objective, wanted in (
        ("quantile", ("Pinball loss", "Training quantiles")),
        ("gamma", ("Gamma deviance", "Training mean")),
    ):
        if objective == "gamma":
            frame = pl.read_csv(table)
            frame.with_columns(count=pl.col("count") + 0.5).write_csv(table)
        page = tmp_path / f"{objective}.html"
        words = ["train", table, "-t", "count", "-o", tmp_path / f"{objective}.safetensors"]
        _run(*words, "--epochs", 2, "--objective", objective, "--report", page)
        text = page.read_text()
        for words_wanted in wanted:
            assert words_wanted in text


def test_compare_judges_by_the_objective_and_says_who_is_left_out(tmp_path: Path) -> None:
    words = ["compare", _table(tmp_path), "-t", "count", "--folds", 2, "--epochs", 2]
    said = " ".join(_run(*words, "--members", 1, "--objective", "poisson").split())
    assert "poisson_deviance" in said
    assert "no tree ensembles stand beside: they are fitted for squared error" in said
    assert "tree_teacher_distillation" not in said
    assert "--objective poisson" in said
