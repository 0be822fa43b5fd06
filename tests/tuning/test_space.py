"""The space that is searched, and what is tried first."""

from __future__ import annotations

from typing import Any

import pytest

from tabwright.settings import FitSettings, Task
from tabwright.tuning.space import first_trials, space_of, with_default, with_values


def _contains(own: Any, value: Any) -> bool:
    if hasattr(own, "values"):
        return value in own.values
    return bool(own.low <= value <= own.high)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("n_rows", [300, 1_499, 3_000, 20_000])
@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet", "linear_glm_baseline"])
def test_first_trials_lie_in_the_space(task: Task, n_rows: int, mode: Any) -> None:
    settings = FitSettings(task=task, training_mode=mode)
    space = space_of(settings, {"training_mode": mode})
    default = settings.resolved(n_rows=n_rows, n_classes=2)
    trials = first_trials(space, default)
    assert trials[0] == {name: getattr(default, name) for name in space}
    assert len(trials) == len({repr(sorted(t.items())) for t in trials}) >= 4
    for trial in trials:
        assert trial.keys() == space.keys()
        assert all(_contains(space[name], value) for name, value in trial.items())
        with_values(settings, trial)
    assert ("dropout" in space) == (mode != "linear_glm_baseline")


def test_a_space_holds_the_default_of_the_table() -> None:
    settings = FitSettings(task="regression", hidden_dim=96, max_epochs=5, dropout=0.9)
    space = with_default(space_of(settings, {}), settings.resolved(n_rows=1_000))
    for name, value in (("hidden_dim", 96), ("max_epochs", 5), ("dropout", 0.9)):
        assert _contains(space[name], value)
        assert not _contains(space_of(settings, {})[name], value)
    assert _contains(space["hidden_dim"], 512)


def test_what_the_user_fixed_is_not_searched() -> None:
    settings = FitSettings(task="regression", max_epochs=7)
    space = space_of(settings, {"max_epochs": 7, "hidden_dim": None})
    assert "max_epochs" not in space
    assert "hidden_dim" in space
    assert all("max_epochs" not in trial for trial in first_trials(space, settings))
    fast = FitSettings(task="regression", quality="fast")
    assert "n_members" not in space_of(fast, {"quality": "fast"})


def test_what_cannot_be_searched_is_refused() -> None:
    mode: Any = "tree_teacher_distillation"
    with pytest.raises(ValueError, match="distill the model that it gives"):
        space_of(FitSettings(task="regression", training_mode=mode), {})
    settings = FitSettings(task="regression")
    everything = dict.fromkeys(space_of(settings, {}), 1)
    with pytest.raises(ValueError, match="needs a setting to search"):
        space_of(settings, everything)
