"""What watches a fit is told of its start, each epoch, and its end or failure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tabwright import Callback, TabularClassifier, TabularRegressor
from tabwright.inference.fitted_model import FittedModel
from tabwright.settings import FitSettings
from tabwright.training.callbacks import as_callback, reporting_failures
from tabwright.training.loop import Epoch

SMALL: dict[str, Any] = {
    "hidden_dim": 8,
    "num_hidden_layers": 1,
    "n_members": 1,
    "max_epochs": 3,
    "batch_size": 16,
    "random_state": 0,
}
X = np.random.default_rng(0).normal(size=(60, 2))


class Diary(Callback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.settings: FitSettings | None = None
        self.model: FittedModel | None = None

    def on_start(self, settings: FitSettings, n_training_rows: int, n_validation_rows: int) -> None:
        self.settings = settings
        self.lines.append(f"start {n_training_rows} {n_validation_rows}")

    def on_epoch(self, epoch: Epoch) -> None:
        self.lines.append(f"epoch {epoch.epoch}")

    def on_end(self, model: FittedModel) -> None:
        self.model = model
        self.lines.append("end")

    def on_failure(self, error: BaseException) -> None:
        self.lines.append(f"failure {type(error).__name__}")


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_start_epochs_and_end_in_order(kind: type[Any]) -> None:
    diary = Diary()
    model = kind(**SMALL).fit(X, (X[:, 0] > 0).astype(int), callbacks=[diary])
    assert diary.lines == ["start 48 12", "epoch 1", "epoch 2", "epoch 3", "end"]
    assert diary.settings == model.settings_
    assert diary.model is model.model_


def test_watching_changes_nothing() -> None:
    y = X[:, 0]
    plain = TabularRegressor(**SMALL).fit(X, y)
    watched = TabularRegressor(**SMALL).fit(X, y, callbacks=[Diary(), print])
    np.testing.assert_array_equal(plain.predict(X), watched.predict(X))


def test_functions_are_called_with_each_epoch_and_verbose_prints_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    losses: list[float] = []
    model = TabularRegressor(**SMALL, verbose=1)
    model.fit(X, X[:, 0], callbacks=[lambda epoch: losses.append(epoch.validation_loss)])
    assert losses == [epoch["validation_loss"] for epoch in model.history_]
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "epoch 1",
        "epoch 2",
        "epoch 3",
        "combined on 12 validation rows, which chose the weights",
    ]


def test_an_exception_in_a_callback_ends_the_fit_and_every_callback_is_told() -> None:
    class PrunedError(Exception):
        pass

    def prune(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise PrunedError

    first, last = Diary(), Diary()
    model = TabularRegressor(**SMALL)
    with pytest.raises(PrunedError):
        model.fit(X, X[:, 0], callbacks=[first, prune, last])
    assert first.lines == ["start 48 12", "epoch 1", "epoch 2", "failure PrunedError"]
    assert last.lines == ["start 48 12", "epoch 1", "failure PrunedError"]
    assert not hasattr(model, "model_")


def test_keyboard_interrupt_from_a_callback_keeps_the_best_epoch() -> None:
    def enough(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    diary = Diary()
    with pytest.warns(RuntimeWarning, match="interrupted"):
        model = TabularRegressor(**SMALL).fit(X, X[:, 0], callbacks=[diary, enough])
    assert diary.lines[-1] == "end"
    assert len(model.history_) == 1


def test_a_callback_that_fails_in_turn_hides_no_other() -> None:
    class Broken(Callback):
        def on_failure(self, error: BaseException) -> None:
            raise OSError("no connection")

    diary = Diary()
    several = as_callback([Broken(), diary])
    with pytest.raises(OSError, match="no connection"), reporting_failures(several):
        raise ValueError("bad")
    assert diary.lines == ["failure ValueError"]


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (Diary(), "must be a list of Callback objects, or functions of an epoch; got Diary"),
        ({1}, "must be a list of Callback objects.*; got set"),
        ([Diary], "got the class Diary; give an object"),
        ([7], "must hold Callback objects.*; got 7"),
    ],
)
def test_anything_else_is_refused_before_the_fit(callbacks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabularRegressor(**SMALL).fit(None, None, callbacks=callbacks)
