"""The settings that `tune` searches, and the trials that it begins with.

Each range holds what measured as worth it on some tables of the benchmark suite, and the default:
docs/performance.md, "Settings". What is tried first is what did best there where the default did
not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from tabwright.settings import FitSettings

if TYPE_CHECKING:
    from optuna.trial import Trial


@dataclass(frozen=True)
class _Choice:
    values: tuple[str | int, ...]

    def suggest(self, trial: Trial, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)

    def including(self, value: Any) -> _Choice:
        return self if value in self.values else _Choice((*self.values, value))


@dataclass(frozen=True)
class _Whole:
    """An integer between two ends."""

    low: int
    high: int
    is_log: bool = False

    def suggest(self, trial: Trial, name: str) -> Any:
        return trial.suggest_int(name, self.low, self.high, log=self.is_log)

    def including(self, value: Any) -> _Whole:
        return _Whole(min(self.low, value), max(self.high, value), self.is_log)


@dataclass(frozen=True)
class _Number:
    """A number between two ends."""

    low: float
    high: float
    is_log: bool = False

    def suggest(self, trial: Trial, name: str) -> Any:
        return trial.suggest_float(name, self.low, self.high, log=self.is_log)

    def including(self, value: Any) -> _Number:
        return _Number(min(self.low, value), max(self.high, value), self.is_log)


_Range = _Choice | _Whole | _Number
Space = Mapping[str, _Range]

_SPACE: Final[dict[str, _Range]] = {
    "training_mode": _Choice(("mlp_dense", "tabresnet")),
    "numeric_encoding": _Choice(("auto", "standard", "quantile_normal", "quantile_ple")),
    "hidden_dim": _Choice((64, 128, 256, 512)),
    "num_hidden_layers": _Whole(1, 4),
    "dropout": _Number(0.0, 0.6),
    "learning_rate": _Number(3e-4, 1e-2, is_log=True),
    # The lowest is as good as none: AdamW takes 1 - rate x decay of a weight at each step.
    "weight_decay": _Number(1e-4, 1.0, is_log=True),
    "max_epochs": _Whole(10, 120, is_log=True),
    "n_members": _Choice((1, 2, 4, 8)),
}
# Networks of each fold, where the default has folds.
_MEMBERS_IN_FOLDS: Final = _Choice((1, 2))
_OF_LAYERS: Final = ("hidden_dim", "num_hidden_layers", "dropout")


# Changes to the default, as measured: docs/performance.md and, of long training, one table of
# rules (churn), on which the default is far behind.
_FIRST: Final[tuple[dict[str, Any], ...]] = (
    {"max_epochs": 80, "dropout": 0.1, "weight_decay": 1e-4},
    {"numeric_encoding": "quantile_ple", "max_epochs": 40, "dropout": 0.2},
    {"training_mode": "tabresnet", "max_epochs": 80, "dropout": 0.1},
    {"learning_rate": 4e-3},
    {"numeric_encoding": "quantile_normal", "weight_decay": 0.1},
    {"hidden_dim": 512, "n_members": 8},
)


def space_of(settings: FitSettings, fixed: Mapping[str, Any]) -> Space:
    """The ranges to search: all but those of settings that the user fixed.

    `settings`: the default, unresolved; with `n_folds` where it has folds.
    `fixed`: what the user asked for.
    Raises `ValueError` if nothing is left, or the mode cannot be tuned.
    """
    if settings.training_mode == "tree_teacher_distillation":
        raise ValueError(
            "tune is for modes that learn from the labels; got tree_teacher_distillation; tune "
            "without a mode, and distill the model that it gives"
        )
    asked = {name for name in fixed if fixed[name] is not None}
    if settings.quality != "balanced":
        # The quality says how many networks there are.
        asked.add("n_members")
    if settings.training_mode == "linear_glm_baseline":
        asked.update(_OF_LAYERS)
    space = {name: dimension for name, dimension in _SPACE.items() if name not in asked}
    if settings.asked_folds > 1 and "n_members" in space:
        space["n_members"] = _MEMBERS_IN_FOLDS
    if not space:
        raise ValueError(
            f"tune needs a setting to search; all of {', '.join(_SPACE)} are given; leave one out"
        )
    return space


def with_default(space: Space, settings: FitSettings) -> Space:
    """A space, widened to hold the default of a table.

    `settings`: the default, resolved.
    """
    return {name: dimension.including(getattr(settings, name)) for name, dimension in space.items()}


def first_trials(space: Space, settings: FitSettings) -> list[dict[str, Any]]:
    """What is tried before anything is drawn: the default, then changes that did well elsewhere.

    `settings`: the default, resolved.
    """
    default = {name: getattr(settings, name) for name in space}
    trials = [default]
    for change in _FIRST:
        searched = {name: value for name, value in change.items() if _has(space, name, value)}
        trial = default | searched
        if searched and trial not in trials:
            trials.append(trial)
    return trials


def _has(space: Space, name: str, value: Any) -> bool:
    dimension = space.get(name)
    return dimension is not None and dimension.including(value) == dimension


def with_values(settings: FitSettings, values: Mapping[str, Any]) -> FitSettings:
    """Settings with the values of a trial."""
    return replace(settings, **values)
