"""`time_limit`: kept, refused where it is too short, and what was done is told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright import TabularClassifier, TabularRegressor, load_fitted
from tabwright.cli.app import app
from tabwright.fitting import combination
from tabwright.settings import FitSettings
from tabwright.training.callbacks import Callback
from tabwright.training.loop import Epoch
from tabwright.training.time_limit import TimeLimit, TimeLimitError, seconds_of

# Epochs that would take minutes.
ENDLESS: dict[str, Any] = {"max_epochs": 5_000, "random_state": 0, "numeric_encoding": "standard"}


def table(n_rows: int = 1_500) -> tuple[pl.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(rng.normal(size=(n_rows, 4)), schema=list("abcd"))
    return frame, (frame["a"].to_numpy() + rng.normal(size=n_rows) > 0).astype(np.int64)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """What the first fit of a process loads is not timed."""
    TabularClassifier(max_epochs=1, random_state=0).fit(*table(100))


@pytest.mark.parametrize("settings", [{}, {"n_folds": 8}, {"quality": "best"}])
def test_the_time_is_kept_and_the_work_is_told(settings: dict[str, Any]) -> None:
    X, y = table()
    model = TabularClassifier(time_limit=5.0, **ENDLESS, **settings)
    begun = time.monotonic()
    model.fit(X, y)
    taken = time.monotonic() - begun
    # The machine of a test may be busy, and these fits would take minutes.
    assert taken < 15.0
    told = model.model_.card["time_limit"]
    assert told["seconds"] == 5.0
    assert 0.5 * taken < told["taken"] <= taken
    assert told["n_epochs"] == len(model.history_) < 5_000
    assert told["n_networks"] == len(model.members_)
    assert model.model_.stopped == "time limit"
    assert model.score(X, y) > 0.65


def test_the_schedule_is_shortened_to_what_fits() -> None:
    X, y = table()
    model = TabularClassifier(time_limit=5.0, **ENDLESS).fit(X, y)
    rates = [epoch["learning_rate"] for epoch in model.history_]
    # Of 5,000 epochs all rates would be the highest; the last ones are near zero.
    assert rates[-1] < 0.4 * max(rates)


def test_enough_time_changes_nothing() -> None:
    X, y = table(300)
    settings: dict[str, Any] = {"max_epochs": 3, "random_state": 0}
    free = TabularClassifier(**settings).fit(X, y)
    bound = TabularClassifier(time_limit=600.0, **settings).fit(X, y)
    np.testing.assert_array_equal(free.predict_proba(X), bound.predict_proba(X))
    assert bound.model_.stopped == free.model_.stopped


def test_folds_that_do_not_fit_are_left_out() -> None:
    X, y = table(400)
    said: list[str] = []

    model = TabularClassifier(n_folds=8, time_limit=7.0, max_epochs=3, random_state=0)

    class Told(Callback):
        def on_message(self, message: str) -> None:
            said.append(message)

        def on_epoch(self, epoch: Epoch) -> None:
            time.sleep(0.4)

    model.fit(X, y, callbacks=[Told()])
    told = model.model_.card["folds"]
    assert 1 <= told["n_trained"] < 8
    assert told["n_rows"] == 50 * told["n_trained"]
    assert len(model.members_) == told["n_trained"]
    assert any("folds fit into the time" in sentence for sentence in said)


def test_trees_that_do_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combination, "_SHARE_OF_TIME", 0.0)
    X, y = table(300)
    settings: dict[str, Any] = {"quality": "best", "n_folds": 1, "max_epochs": 2}
    model = TabularClassifier(time_limit=600.0, **settings).fit(X, y)
    assert "time" in model.model_.card["combination"]["reason"]
    assert model.model_.trees is None


def test_too_short_a_time_is_refused() -> None:
    X, y = table(300)
    model = TabularClassifier(time_limit=1e-3, max_epochs=2)
    with pytest.raises(TimeLimitError, match=r"one epoch of a network; got 0\.001 s, of which 0 s"):
        model.fit(X, y)


def test_one_network_where_four_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    from tabwright.fitting import recipe as module
    from tabwright.fitting.member_training import train_members as original

    def short(settings: FitSettings, **arguments: Any) -> Any:
        if settings.n_members != 1:
            raise TimeLimitError("too short")
        return original(settings, **arguments)

    monkeypatch.setattr(module, "train_members", short)
    X, y = table(300)
    model = TabularRegressor(time_limit=60.0, max_epochs=2).fit(X, y.astype(float))
    assert len(model.members_) == model.settings_.n_members == 1


def test_streams_keep_the_time_too(tmp_path: Path) -> None:
    X, y = table(4_000)
    path = tmp_path / "t.csv"
    X.with_columns(target=pl.Series(y)).write_csv(path)
    model = TabularClassifier(time_limit=5.0, **ENDLESS)
    model.fit_file(path, "target", memory=1)
    assert model.model_.stopped == "time limit"
    assert model.model_.card["time_limit"]["n_epochs"] == len(model.history_)


def test_the_first_epoch_is_foretold() -> None:
    limit = TimeLimit(10.0)
    limit.check_first_epoch(0.1, 16, 100)
    limit.check_first_epoch(0.1, 1, 10_000)  # one batch tells nothing yet
    with pytest.raises(TimeLimitError, match="an epoch takes about 62 s"):
        limit.check_first_epoch(0.1, 16, 10_000)
    assert TimeLimit(10.0).n_epochs(1.0) == 9
    with pytest.raises(TimeLimitError, match="got 3 s"):
        TimeLimit(0.0, asked=3.0).check_first_epoch(0.1, 1, 2)
    assert 4.8 < limit.part(0.5).remaining < 5.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_limit": 0}, "seconds above 0, or None; got 0"),
        ({"time_limit": 9, "training_mode": "tree_teacher_distillation"}, "a teacher's fits"),
        ({"time_limit": 9, "refit": True}, "use one of the two"),
    ],
)
def test_what_does_not_go_with_a_limit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitSettings(task="regression", **settings)


def test_times_in_words() -> None:
    words = ("90", "90s", "10m", "1.5 h", "1h30m")
    assert [seconds_of(text) for text in words] == [90, 90, 600, 5400, 5400]
    for text in ("0m", "soon", "10 min", "-3"):
        with pytest.raises(ValueError, match="such as 90, 45s, 10m or 1h30m; got"):
            seconds_of(text)


def test_the_command_line_has_both(tmp_path: Path) -> None:
    X, y = table(300)
    path = tmp_path / "t.csv"
    X.with_columns(target=pl.Series(y)).write_csv(path)
    out = tmp_path / "m.safetensors"
    words = ["train", str(path), "-t", "target", "-o", str(out), "--epochs", "2", "--quiet"]
    result = CliRunner().invoke(app, [*words, "--folds", "3", "--time-limit", "5m"])
    assert result.exit_code == 0, result.output
    model = load_fitted(out)
    assert (model.settings.n_folds, model.settings.time_limit) == (3, 300.0)
    shown = CliRunner().invoke(app, ["inspect", str(out)])
    assert "in 3 folds" in " ".join(shown.output.split())
    assert "rows out of fold" not in shown.output  # test rows were kept
    refused = CliRunner().invoke(app, [*words, "--overwrite", "--time-limit", "soon"])
    assert refused.exit_code == 2
    assert "--time-limit must be a time above 0" in " ".join(refused.output.split())
