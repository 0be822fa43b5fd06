"""Sums of two numeric columns: who gets them, and that every path gives the same values."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tabwright import TabularRegressor
from tabwright.artifact.container import pack
from tabwright.artifact.schema import Reader, TensorBag
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.encoding.oblique import ObliqueColumn, fill_obliques
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.encoding.supervised import oblique_search
from tabwright.errors import ArtifactError
from tabwright.explanation.importance import permutation_importance
from tabwright.fitting import member_training, recipe
from tabwright.fitting import oblique_selection as oblique_selection
from tabwright.fitting.arguments import Columns, FitCallbacks
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.predictor import Predictor
from tabwright.report.column_treatment import column_treatments
from tabwright.settings import FitSettings, NumericEncoding, Task
from tabwright.tables import Role, profile_table
from tabwright.tables.labelled import LabelledRows
from tabwright.training import loop as trainer
from tests.encoders import (
    Damage,
    check_read_back,
    check_refused,
    cutting,
    equal_first,
    fit_encoder,
    input_names,
    inputs_by_onnx,
    probes_of,
    setting,
    state_of,
)

N_ROWS = 3_000


def _fit(
    columns: dict[str, Any], target: np.ndarray, *, task: Task = "regression", **settings: Any
) -> tuple[TableEncoder, Compact]:
    return fit_encoder(columns, target, task=task, **settings)


def _found(encoder: TableEncoder) -> list[str]:
    return [encoder.plan_.oblique_name(own) for own in encoder.plan_.obliques]


def _coast(n_rows: int = N_ROWS, seed: int = 0, *, n_noise: int = 1) -> dict[str, Any]:
    x = np.random.default_rng(seed).normal(size=(n_rows, 2 + n_noise))
    columns = {"east": 2 * x[:, 0] - 120, "north": 5 * x[:, 1] + 37}
    return columns | {f"noise {k}": x[:, 2 + k] for k in range(n_noise)}


def _steps(columns: dict[str, Any], slope: float = 1.0) -> np.ndarray:
    """Stripes across the two columns, each in units of its spread."""
    stripes: np.ndarray = (
        np.floor(2 * ((columns["east"] + 120) / 2 + slope * (columns["north"] - 37) / 5)) % 2
    )
    return stripes


# ---------------------------------------------------------------------------------------------
# Which tables get them
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slope", "name"),
    [
        (1.0, "east + north"),
        (-1.0, "east - north"),
        (2.0, "east + 2 north"),
        (-0.5, "2 east - north"),
    ],
)
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_stripes_across_two_columns_are_found(task: Task, slope: float, name: str) -> None:
    columns = _coast(n_noise=3)
    target = _steps(columns, slope).astype(np.int64)
    noise = np.random.default_rng(1)
    if task == "classification":
        target = np.where(noise.random(N_ROWS) < 0.1, 1 - target, target)
        goal: np.ndarray = target
    else:
        goal = 50.0 * target - 7 + noise.normal(size=N_ROWS)
    encoder, compact = _fit(columns, goal, task=task)
    assert _found(encoder)[0] == name
    names = input_names(encoder)
    assert encoder.sources_[names.index(name)] == 0
    assert f"{name}[bin 3]" in names
    assert compact.numeric.shape[1] == encoder.plan_.n_own + len(encoder.plan_.obliques)


def test_the_sum_makes_the_better_model() -> None:
    """New rows, one network: a step that bins of the two columns leave as a staircase."""
    columns, asked = _coast(seed=0, n_noise=3), _coast(2_000, seed=1, n_noise=3)
    settings = FitSettings(task="regression", n_members=1, max_epochs=20, random_state=0)
    losses = []
    for most in (0, 8):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(oblique_search, "_MOST_SUMS", most)
            model = fit_table(LabelledRows(pl.DataFrame(columns), _steps(columns)), settings)
        assert bool(model.encoder.plan_.obliques) == (most > 0)
        said = Predictor(model).predict_values(pl.DataFrame(asked))
        losses.append(float(np.mean((said - _steps(asked)) ** 2)))
    assert losses[1] < 0.8 * losses[0], losses


def _chessboard(n_rows: int, seed: int) -> tuple[pl.DataFrame, np.ndarray]:
    """Sums tell the fields apart somewhat; a network finds them in the columns themselves."""
    draw = np.random.default_rng(seed)
    x = draw.integers(0, 60, (n_rows, 6))
    fields = np.sign(np.sin(x[:, 0] / 5 - 6)) * np.sign(np.sin(x[:, 1] / 5 - 6))
    target = (fields + 0.25 * draw.normal(size=n_rows) > 0).astype(np.int64)
    return pl.DataFrame({f"x{k}": x[:, k] for k in range(6)}), target


def test_sums_that_lead_a_network_astray_are_dropped() -> None:
    frame, target = _chessboard(3_000, seed=0)
    settings = FitSettings(
        task="classification",
        quality="fast",  # trees would save what the sums spoil
        max_epochs=25,
        hidden_dim=256,
        num_hidden_layers=3,
    )
    roles: dict[str, Role] = dict.fromkeys(frame.columns, "numeric")
    found = TableEncoder().fit(
        RowsToFit(frame, profile_table(frame, roles=roles), target=target, task="classification")
    )
    assert len(found.plan_.obliques) >= 2
    classes = np.array([0, 1])
    model = fit_table(
        LabelledRows(frame, target), settings, classes=classes, columns=Columns(roles=roles)
    )
    assert model.encoder.plan_.obliques == ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "select_obliques", lambda *given: given[:2])
        other = fit_table(
            LabelledRows(frame, target), settings, classes=classes, columns=Columns(roles=roles)
        )
    assert other.encoder.plan_.obliques
    asked, truth = _chessboard(3_000, seed=1)
    losses = [
        -np.log(Predictor(own).predict_proba(asked)[np.arange(3_000), truth]).mean()
        for own in (model, other)
    ]
    assert losses[0] < losses[1], losses


def test_the_trial_is_the_same_on_every_run_and_leaves_the_world_as_it_was() -> None:
    columns = _coast(n_noise=3)
    settings = FitSettings(task="regression", n_members=2, max_epochs=8, random_state=3)
    rows = LabelledRows(pl.DataFrame(columns), _steps(columns))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    epochs: list[int] = []
    one = fit_table(
        rows, settings, callbacks=FitCallbacks(on_epoch=lambda epoch: epochs.append(epoch.epoch))
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert epochs == list(range(1, 9))
    assert one.encoder.plan_.obliques
    again = fit_table(rows, settings)
    assert pack(*again.encoder.to_state()) == pack(*one.encoder.to_state())
    for member, same in zip(one.members, again.members, strict=True):
        for name, value in member.items():
            np.testing.assert_array_equal(value, same[name])


def test_a_refit_keeps_what_the_first_networks_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = _coast(n_noise=3)
    rows = LabelledRows(pl.DataFrame(columns), _steps(columns))
    trials: list[TableEncoder] = []
    whole = member_training.train_members

    def counted(*given: Any, **named: Any) -> Any:
        trials.append(given[1])
        return whole(*given, **named)

    monkeypatch.setattr(oblique_selection, "train_members", counted)
    settings = FitSettings(task="regression", n_members=1, max_epochs=8, refit=True)
    assert fit_table(rows, settings).encoder.plan_.obliques
    assert len(trials) == 2
    monkeypatch.setattr(oblique_selection, "_LEAST_GAIN", 100.0)
    assert fit_table(rows, settings).encoder.plan_.obliques == ()
    assert len(trials) == 4


def _watched_trials(patch: pytest.MonkeyPatch) -> list[list[list[float]]]:
    """Filled, for each network of a trial, with "noise 0" of the rows that learn and that judge."""
    seen: list[list[list[float]]] = []
    whole = member_training.train_members

    def watched(*given: Any, **named: Any) -> Any:
        seen.append([part[1].frame["noise 0"].to_list() for part in given[2:4]])
        return whole(*given, **named)

    patch.setattr(oblique_selection, "train_members", watched)
    return seen


def test_groups_stay_on_one_side_of_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = _coast(n_noise=3)
    groups = np.arange(N_ROWS) // 10
    columns["noise 0"] = groups.astype(np.float64)
    seen = _watched_trials(monkeypatch)
    settings = FitSettings(task="regression", n_members=1, max_epochs=2)
    fit_table(LabelledRows(pl.DataFrame(columns), _steps(columns), groups=groups), settings)
    assert len(seen) == 2
    for learning, judging in seen:
        assert not set(learning) & set(judging)
        assert 0.15 < len(set(judging)) / len(set(learning + judging)) < 0.25


def test_the_later_rows_judge_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = _coast(n_noise=3)
    time = np.random.default_rng(2).permutation(N_ROWS) // 3
    columns["noise 0"] = time.astype(np.float64)
    seen = _watched_trials(monkeypatch)
    settings = FitSettings(task="regression", n_members=1, max_epochs=2)
    fit_table(LabelledRows(pl.DataFrame(columns), _steps(columns), time=time), settings)
    assert len(seen) == 2
    for learning, judging in seen:
        assert max(learning) < min(judging)
        assert 0.15 < len(judging) / len(learning + judging) < 0.25


def test_the_trial_is_told_of_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    columns = _coast(n_noise=3)
    model = TabularRegressor(n_members=1, max_epochs=12, random_state=0, verbose=1)
    model.fit(pl.DataFrame(columns), _steps(columns))
    found, decided, *epochs = capsys.readouterr().out.splitlines()
    assert found.startswith("pairwise linear features that may help: east + north")
    assert found.endswith("; two networks are compared first")
    assert decided == "the column combinations are kept: the network with them is better"
    assert epochs[0].startswith("epoch 1: ")


def _bare_rows(n_rows: int, **asides: Any) -> LabelledRows:
    return LabelledRows(pl.DataFrame(height=n_rows), np.zeros(n_rows), **asides)


def test_every_row_judges_at_most_once() -> None:
    draw = np.random.default_rng(0)
    for groups in (None, draw.integers(0, 40, 3_000)):
        sides = list(oblique_selection._sides(_bare_rows(3_000, groups=groups), 0))
        assert len(sides) == 2
        for learning, judging in sides:
            assert np.array_equal(np.sort(np.concatenate([learning, judging])), np.arange(3_000))
            assert 500 < len(judging) < 750
        assert not set(sides[0][1]) & set(sides[1][1])
        if groups is not None:
            assert not set(groups[sides[1][0]]) & set(groups[sides[1][1]])


@pytest.mark.parametrize("order", ["groups", "time"])
def test_rows_that_nothing_parts_cannot_try_sums(order: str) -> None:
    assert list(oblique_selection._sides(_bare_rows(1_000, **{order: np.zeros(1_000)}), 0)) == []


@pytest.mark.parametrize(("second_gain", "stay"), [(0.1, True), (-0.1, False), (0.0, False)])
def test_an_undecided_trial_is_made_again(
    second_gain: float, stay: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = _coast(n_noise=3)
    # Without and with sums: first 5 % better by two standard errors, of which three are asked.
    noise = np.tile([-0.1, 0.1], 10)
    told = [np.ones(20), 0.95 + noise, np.ones(20), 1.0 - second_gain + 0.1 * noise]
    monkeypatch.setattr(oblique_selection, "_part_losses", lambda *given: told.pop(0))
    monkeypatch.setattr(oblique_selection, "_STANDARD_ERRORS", 3.0)
    settings = FitSettings(task="regression", n_members=1, max_epochs=2)
    model = fit_table(LabelledRows(pl.DataFrame(columns), _steps(columns)), settings)
    assert bool(model.encoder.plan_.obliques) == stay
    assert not told


@pytest.mark.parametrize(
    "choice",
    [
        {"training_mode": "imbalance_aware"},
        {"training_mode": "tabresnet"},
        {"training_mode": "linear_glm_baseline"},
        {"training_mode": "calibrated_classifier"},
        {"training_mode": "tree_teacher_distillation"},
        {"precision": "bfloat16"},
    ],
)
def test_every_mode_has_sums(choice: dict[str, Any]) -> None:
    columns = _coast(n_noise=1)
    target = _steps(columns).astype(np.int64)
    weight = np.where(np.arange(N_ROWS) % 3 == 0, 2.0, 1.0)
    settings = FitSettings(
        task="classification", n_members=1, max_epochs=6, hidden_dim=32, **choice
    )
    rows = LabelledRows(pl.DataFrame(columns), target, weight)
    model = fit_table(rows, settings, classes=np.array([0, 1]))
    assert "east + north" in _found(model.encoder)
    proba = Predictor(model).predict_proba(rows.frame)
    one = Predictor(model).predict_row(rows.frame.row(4, named=True))
    np.testing.assert_allclose(one, proba[4], atol=1e-5)


def test_what_cannot_be_trained_with_sums_is_trained_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns = _coast(n_noise=3)
    whole = member_training.train_members

    def fails(*given: Any, **named: Any) -> Any:
        if given[1].plan_.obliques:
            raise FloatingPointError("the training loss is not finite in the first epoch")
        return whole(*given, **named)

    monkeypatch.setattr(oblique_selection, "train_members", fails)
    settings = FitSettings(task="regression", n_members=1, max_epochs=2)
    model = fit_table(LabelledRows(pl.DataFrame(columns), _steps(columns)), settings)
    assert model.encoder.plan_.obliques == ()


def test_files_larger_than_memory_have_them(tmp_path: Path) -> None:
    columns = _coast(6_000, n_noise=1)
    path = tmp_path / "coast.parquet"
    pl.DataFrame(columns).with_columns(goal=pl.Series(_steps(columns))).write_parquet(path)
    model = TabularRegressor(n_members=1, max_epochs=4, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit_file(path, "goal", memory=1)
    assert "east + north" in _found(model.model_.encoder)


def test_groups_of_files_stay_on_one_side_of_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = _coast(6_000, n_noise=1)
    groups = np.arange(6_000) // 10
    columns["noise 0"] = groups.astype(np.float64)
    path = tmp_path / "coast.parquet"
    table = pl.DataFrame(columns).with_columns(goal=pl.Series(_steps(columns)))
    table.with_columns(place=pl.Series([f"place {k}" for k in groups])).write_parquet(path)
    seen = _watched_trials(monkeypatch)
    model = TabularRegressor(n_members=1, max_epochs=2, device="cpu")
    model.fit_file(path, "goal", memory=1, group="place")
    assert len(seen) == 2
    for learning, judging in seen:
        assert not set(learning) & set(judging)
        assert judging


def test_an_interrupt_in_the_trial_ends_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first epochs are the trial's: a fit that went on would train on what is half tried."""
    columns = _coast(n_noise=3)
    settings = FitSettings(task="regression", n_members=1, max_epochs=8, random_state=3)
    record, done = trainer._BestEpochs.record, 0

    def interrupted(*given: Any) -> bool:
        nonlocal done
        done += 1
        if done == 3:
            raise KeyboardInterrupt
        return record(*given)

    monkeypatch.setattr(trainer._BestEpochs, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_table(LabelledRows(pl.DataFrame(columns), _steps(columns)), settings)
    assert done == 3


@pytest.mark.parametrize("seed", range(12))
def test_columns_that_say_nothing_get_none(seed: int) -> None:
    draw = np.random.default_rng(seed)
    columns = {
        "a": draw.normal(size=N_ROWS),
        "b": draw.normal(size=N_ROWS),
        "count": draw.integers(0, 300, N_ROWS),
        "heavy": draw.standard_cauchy(N_ROWS),
    }
    for target in (draw.integers(0, 2, N_ROWS), (draw.random(N_ROWS) < 0.02).astype(np.int64)):
        assert _found(_fit(columns, target, task="classification")[0]) == []
    assert _found(_fit(columns, draw.standard_cauchy(N_ROWS))[0]) == []


@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_what_single_columns_or_a_smooth_surface_say_needs_none(seed: int, noise: float) -> None:
    draw = np.random.default_rng(seed)
    a, b, c = draw.normal(size=(3, N_ROWS))
    columns = {"a": a, "b": b, "c": c}
    error = noise * draw.normal(size=N_ROWS)
    assert _found(_fit(columns, np.sign(a) + 2 * np.abs(b) + np.sin(4 * c) + error)[0]) == []
    assert _found(_fit(columns, a * b + np.tanh(a + c) + error)[0]) == []


def test_levels_booleans_and_dates_are_taken_away_first() -> None:
    """What they say would else be noise, in which the stripes are not seen."""
    columns = _coast()
    draw = np.random.default_rng(2)
    kind, flag = draw.integers(0, 5, N_ROWS), draw.random(N_ROWS) < 0.5
    hour = draw.integers(0, 24, N_ROWS)
    start = np.datetime64("2020-01-01T00", "us")
    when = start + (24 * draw.integers(0, 400, N_ROWS) + hour) * np.timedelta64(3_600_000_000, "us")
    beside = 3.0 * kind + 4.0 * flag + 0.5 * hour
    goal = _steps(columns) + 0.3 * draw.normal(size=N_ROWS) + beside
    texts = pl.Series([f"level {k}" for k in kind])
    every = {**columns, "kind": texts, "flag": flag, "when": when}
    roles: dict[str, Role] = {"kind": "category", "flag": "boolean", "when": "datetime"}
    assert _found(_fit(every, goal, roles=roles)[0]) == ["east + north"]
    assert _found(_fit(columns, goal)[0]) == []


def test_where_there_is_no_search() -> None:
    columns = _coast()
    goal = _steps(columns)
    assert _found(_fit(columns, goal)[0]) == ["east + north"]
    few = {name: values[:1_499] for name, values in columns.items()}
    assert _found(_fit(few, goal[:1_499])[0]) == []
    encodings: tuple[NumericEncoding, ...] = ("quantile_ple", "standard", "robust")
    for encoding in encodings:
        assert _found(_fit(columns, goal, encoding=encoding)[0]) == []
    assert _found(_fit({"east": columns["east"]}, goal)[0]) == []
    ten = (goal + 2 * (np.arange(N_ROWS) % 5)).astype(np.int64)
    assert _found(_fit(columns, ten, task="classification")[0]) == []
    wide = columns | {f"more {k}": columns["east"] for k in range(254)}
    assert _found(_fit(wide, goal)[0]) == []
    assert _found(_fit(columns, np.ones(N_ROWS))[0]) == []


def test_columns_of_few_values_are_not_paired() -> None:
    columns = _coast() | {"flat": np.ones(N_ROWS), "two": np.arange(N_ROWS) % 2}
    goal = _steps(columns)
    assert _found(_fit(columns, goal)[0]) == ["east + north"]


def test_the_same_seed_finds_the_same() -> None:
    columns = _coast()
    goal = _steps(columns) + np.random.default_rng(3).normal(size=N_ROWS)
    one, again = (_fit(columns, goal, random_state=5)[1] for _ in range(2))
    np.testing.assert_array_equal(one.numeric, again.numeric)


def test_rows_of_weight_zero_decide_nothing() -> None:
    n_rows = 2 * N_ROWS
    columns = _coast(n_rows)
    goal = _steps(columns)
    weight = np.where(np.arange(n_rows) % 2 == 0, 1.0, 0.0)
    wrong = np.where(weight > 0, goal, np.random.default_rng(0).normal(size=n_rows) * 20)
    right, other = (_fit(columns, y, weight=weight)[0] for y in (goal, wrong))
    assert _found(right) == _found(other) == ["east + north"]
    assert _found(_fit(columns, wrong)[0]) == []
    light = np.where(np.arange(n_rows) < 1_400, 1.0, 0.0)
    assert _found(_fit(columns, goal, weight=light)[0]) == []


def test_heavy_rows_are_seen() -> None:
    """Stripes on a third of the rows, which have nearly all of the weight."""
    n_rows = 6_000
    columns = _coast(n_rows)
    draw = np.random.default_rng(0)
    is_heavy = draw.random(n_rows) < 0.3
    goal = np.where(is_heavy, 2 * _steps(columns), draw.normal(size=n_rows) * 3)
    weight = np.where(is_heavy, 20.0, 0.01)
    assert _found(_fit(columns, goal, weight=weight)[0]) == ["east + north"]
    assert _found(_fit(columns, goal)[0]) == []


@pytest.mark.parametrize("seed", range(3))
def test_copies_of_rows_prove_nothing(seed: int) -> None:
    """Noise of which every row stands four times: held-out copies would be foretold by heart."""
    draw = np.random.default_rng(seed)
    columns = {f"x{k}": np.repeat(draw.normal(size=1_600), 4) for k in range(6)}
    encoder, _ = _fit(columns, np.repeat(draw.normal(size=1_600), 4))
    assert _found(encoder) == []
    assert encoder.plan_.value_statistics == ()


def test_copies_are_not_rows() -> None:
    columns = _coast(1_400)
    copies = {name: np.repeat(values, 3) for name, values in columns.items()}
    assert _found(_fit(copies, np.repeat(_steps(columns), 3))[0]) == []


@pytest.mark.parametrize("seed", range(3))
def test_what_many_levels_say_is_no_reason(seed: int) -> None:
    """A place says the same as its coordinates; the level of the place has it already."""
    draw = np.random.default_rng(seed)
    n_rows, n_places = 6_000, 200
    place = draw.integers(0, n_places, n_rows)
    where, effect = draw.normal(size=(n_places, 2)), 2 * draw.normal(size=n_places)
    near = where[place] + 0.01 * draw.normal(size=(n_rows, 2))
    columns = {"lat": near[:, 0], "lon": near[:, 1], "place": [f"p{k}" for k in place]}
    goal = effect[place] + draw.normal(size=n_rows)
    assert _found(_fit(columns, goal, roles={"place": "category"})[0]) == []


def test_a_large_table_is_searched_on_some_of_its_rows() -> None:
    columns = _coast(120_000)
    encoder, compact = _fit(columns, _steps(columns))
    assert _found(encoder)[0] == "east + north"
    assert np.isfinite(compact.numeric).all()


# ---------------------------------------------------------------------------------------------
# Every path says the same
# ---------------------------------------------------------------------------------------------


def _odd() -> TableEncoder:
    """Two sums, columns with gaps and infinities, target statistics and a category besides."""
    n_rows = 6_000
    columns = _coast(n_rows, n_noise=0)
    draw = np.random.default_rng(5)
    goal = _steps(columns) + _steps(columns, -1.0)
    for name in columns:
        columns[name][draw.random(n_rows) < 0.02] = np.nan
    columns["east"][:20:2], columns["north"][1:20:2] = np.inf, -np.inf
    columns |= {
        "flag": draw.random(n_rows) < 0.5,
        "many": [f"level {k}" for k in draw.integers(0, 90, n_rows)],
    }
    roles: dict[str, Role] = {"flag": "boolean", "many": "category"}
    encoder, _ = _fit(columns, goal, roles=roles)
    assert set(_found(encoder)) >= {"east + north", "east - north"}
    assert encoder.plan_.categories[0].statistics is not None
    return encoder


ODD = _odd()
AT = ODD.layout.n_numeric - len(ODD.plan_.obliques)


def _asked() -> pl.DataFrame:
    return probes_of(ODD)


def test_the_value_is_the_weighted_sum_of_smooth_values() -> None:
    frame = _asked()
    compact = ODD.transform(frame)
    for k, own in enumerate(ODD.plan_.obliques):
        one, two = (compact.numeric[:, j].astype(np.float64) for j in (own.first, own.second))
        total = own.weights[0] * one / np.hypot(1, one / 3)
        total += own.weights[1] * two / np.hypot(1, two / 3)
        scaled = (total - own.centre) * own.scale
        expected = scaled / np.hypot(1, scaled / 3)
        np.testing.assert_allclose(compact.numeric[:, AT + k], expected, rtol=1e-6, atol=1e-6)
        assert np.isnan(expected).any()
        assert np.nanmax(np.abs(expected)) <= 3


def test_a_sum_is_in_robust_units() -> None:
    columns = _coast(n_noise=0)
    encoder, compact = _fit(columns, _steps(columns))
    (own,) = encoder.plan_.obliques
    low, middle, high = np.quantile(compact.numeric[:, -1], [0.25, 0.5, 0.75])
    assert abs(middle) < 1e-6
    assert high - low == pytest.approx(1.0, abs=0.05)
    assert own.edges[0] == compact.numeric[:, -1].min()
    assert own.edges[-1] == compact.numeric[:, -1].max()


def test_rows_one_by_one_say_what_all_at_once_say() -> None:
    frame = _asked()
    compact = ODD.transform(frame)
    inputs = ODD.expand(compact)
    rows = np.concatenate([ODD.expand(ODD.row(row)) for row in frame.iter_rows(named=True)])
    np.testing.assert_array_equal(rows, inputs)
    np.testing.assert_array_equal(ODD.transform(frame[7:8]).numeric, compact.numeric[7:8])
    numeric = ODD.row(frame.row(11, named=True)).numeric[0]
    np.testing.assert_array_equal(np.array(numeric, dtype=np.float32), compact.numeric[11])


def test_torch_and_onnx_say_what_numpy_says() -> None:
    compact = ODD.transform(_asked())
    inputs = ODD.expand(compact)
    expand = ODD.torch_expander("cpu")
    found = expand(torch.from_numpy(compact.numeric), torch.from_numpy(compact.codes))
    np.testing.assert_array_equal(found.numpy(), inputs)

    given = inputs_by_onnx(ODD)
    sums = [name.startswith(("east + ", "east - ")) for name in input_names(ODD)]
    assert sum(sums) > 20
    np.testing.assert_array_equal(given[:, sums], inputs[:, sums])
    np.testing.assert_allclose(given, inputs, rtol=2.5e-7, atol=0)


def test_a_missing_part_makes_the_sum_missing() -> None:
    frame = pl.DataFrame(
        {"east": [None, -120.0], "north": [40.0, None], "flag": [True, None], "many": [None, "x"]}
    )
    compact = ODD.transform(frame)
    assert np.isnan(compact.numeric[:, AT:]).all()
    assert np.isfinite(ODD.expand(compact)).all()


def test_an_encoder_without_its_sums() -> None:
    frame = _asked()
    plain, whole = ODD.without_obliques(), ODD.transform(frame)
    compact = plain.transform(frame)
    np.testing.assert_array_equal(compact.numeric, whole.numeric[:, :AT])
    inputs = ODD.expand(whole)
    kept = np.isin(input_names(ODD), input_names(plain))
    np.testing.assert_array_equal(plain.expand(compact), inputs[:, kept])
    assert plain.layout.n_numeric == AT
    assert ODD.plan_.obliques


def test_importance_shuffles_what_a_column_gives_to_sums() -> None:
    """`east` and `north` matter through their sum alone."""
    columns = _coast(4_000)
    goal = _steps(columns)
    settings = FitSettings(task="regression", quality="fast", max_epochs=15, hidden_dim=64)
    rows = LabelledRows(pl.DataFrame(columns), goal)
    model = fit_table(rows, settings)
    plan = model.encoder.plan_
    assert plan.obliques
    assert plan.compact_columns() == {0: ([0], []), 1: ([1], []), 2: ([2], [])}
    importance = permutation_importance(Predictor(model), rows.frame, goal)
    by_name = dict(zip(importance.names, importance.mean.tolist(), strict=True))
    assert by_name["east"] > 0.1
    assert by_name["north"] > 0.1
    assert abs(by_name["noise 0"]) < 0.1 * by_name["east"]


def test_the_treatment_says_so() -> None:
    east, north, flag, _ = column_treatments(ODD.plan_)
    n_bins = len(ODD.plan_.obliques[0].edges) - 1
    for own in (east, north):
        assert f"; {ODD.plan_.oblique_name(ODD.plan_.obliques[0])} in {n_bins} bins" in own.text
    assert "east" not in flag.text
    assert east.n_inputs > north.n_inputs + n_bins


def test_they_come_back_from_a_file() -> None:
    check_read_back(ODD)


def test_extreme_scales_stay_finite() -> None:
    own = ObliqueColumn(0, 1, (1.0, -2.0), 0.5, 1e100, np.array([-3, 0, 3], dtype=np.float32))
    ends = np.array([-2e18, -1, 0, 1e-30, 2e18], dtype=np.float32)
    numeric = np.stack([*(part.ravel() for part in np.meshgrid(ends, ends)), np.zeros(25)], axis=1)
    numeric = numeric.astype(np.float32)
    fill_obliques([own], numeric)
    assert np.isfinite(numeric).all()
    assert np.abs(numeric[:, 2]).max() <= 3
    scalars = [own.scalar(one, two) for one, two, _ in numeric.tolist()]
    np.testing.assert_array_equal(np.array(scalars, dtype=np.float32), numeric[:, 2])


# ---------------------------------------------------------------------------------------------
# What a damaged state is told
# ---------------------------------------------------------------------------------------------

DAMAGE: dict[str, tuple[Damage, str]] = {
    "a column that is no number": (setting("obliques.columns", (0, 1), 2), r"obliques\.columns"),
    "a negative column": (setting("obliques.columns", (0, 0), -1), r"obliques\.columns"),
    "a column with itself": (
        setting("obliques.columns", (0, 1), 0),
        r"columns must increase within",
    ),
    "a weight too large": (setting("obliques.weights", (0, 0), 17), r"obliques\.weights"),
    "a weight that is none": (setting("obliques.weights", (0, 0), np.nan), r"obliques\.weights"),
    "a centre too far": (setting("obliques.centre", 0, 97), r"obliques\.centre"),
    "a scale below zero": (setting("obliques.scale", 0, -1), r"obliques\.scale"),
    "a scale too large": (setting("obliques.scale", 0, 1e101), r"obliques\.scale"),
    "an edge out of range": (setting("obliques.edges", -1, 3.1), r"obliques\.edges"),
    "an edge that is none": (setting("obliques.edges", 0, np.nan), r"obliques\.edges"),
    "equal edges": (equal_first("obliques.edges"), r"edges must increase within each column"),
    "an edge too few": (cutting("obliques.edges"), r"edges must be as many as n_edges says"),
    "one edge": (setting("obliques.n_edges", 0, 1), r"obliques\.n_edges"),
    "more edges than there are": (setting("obliques.n_edges", 0, 2**62), r"obliques\.n_edges"),
    "a sum too few": (cutting("obliques.columns"), r"obliques\.columns"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_refused(damage: str) -> None:
    check_refused(ODD, *DAMAGE[damage])


@pytest.mark.parametrize("count", [0, -1, None, "2", True, 65])
def test_a_damaged_count_is_refused(count: object) -> None:
    document, arrays = state_of(ODD)
    document["obliques"] = count
    with pytest.raises(ArtifactError, match="obliques"):
        TableEncoder.from_state(Reader(document), TensorBag(arrays))


def test_sums_without_their_count_are_refused() -> None:
    document, arrays = state_of(ODD)
    del document["obliques"]
    with pytest.raises(ArtifactError, match="no other arrays"):
        TableEncoder.from_state(Reader(document), TensorBag(arrays))


def test_sums_belong_to_tree_bins() -> None:
    document, arrays = state_of(ODD)
    document["numbers"]["encoding"] = "quantile_ple"
    with pytest.raises(ArtifactError, match=r"obliques must be empty .* 'quantile_ple'"):
        TableEncoder.from_state(Reader(document), TensorBag(arrays))


def test_a_table_without_sums_needs_no_newer_version() -> None:
    columns = _coast(200)
    for n_rows, needed in ((200, 1), (N_ROWS, 2)):
        columns = _coast(n_rows)
        encoder, _ = _fit(columns, _steps(columns))
        document, arrays = encoder.to_state()
        data = pack({"encoder": document}, arrays)
        size = int.from_bytes(data[:8], "little")
        envelope = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["tabwright"])
        assert envelope["format"] == needed
        assert ("obliques" in document) == (needed == 2)
