"""What a search found: its trials, the difference of the best to the default, and the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tabwright.inference.fitted_model import FittedModel
from tabwright.workflows.paired_differences import PairedDifference, paired_difference

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Parameters
    ----------
    number : int
        From 0.
    state : {"complete", "pruned", "cut"}
        "cut": the time ended it, the run was killed, or its loss was not finite.
    values : dict of str to object
        Of the settings that are searched.
    scores : tuple of float
        By fold, as far as it came; in the unit of the metric.
    is_default : bool
    """

    number: int
    state: Literal["complete", "pruned", "cut"]
    values: dict[str, Any]
    scores: tuple[float, ...]
    is_default: bool

    @property
    def mean(self) -> float:
        """Mean score over the folds."""
        return float(np.mean(self.scores)) if self.scores else float("nan")


@dataclass(frozen=True)
class TuningResult:
    """What a search found.

    Parameters
    ----------
    model : FittedModel
        Fitted to all rows with the settings of the best mean score, which may be the default's.
    metric : str
    greater_is_better : bool
    trials : tuple of TrialRecord
    difference : PairedDifference or None
        How much better the best trial is than the default, fold by fold, with an interval that
        allows for the choice of the best; None where one of them is not finished, or they are the
        same.
    is_better : bool
        Whether the interval of the difference lies above 0.
    verdict : str
    ended_by : {"time", "trials", "interrupt"}
    importance : dict of str to float
        Share of the variance between trials that each setting explains; empty for few trials.
    seconds : float
    """

    model: FittedModel
    metric: str
    greater_is_better: bool
    trials: tuple[TrialRecord, ...]
    difference: PairedDifference | None
    is_better: bool
    verdict: str
    ended_by: Literal["time", "trials", "interrupt"]
    importance: dict[str, float]
    seconds: float

    @property
    def default(self) -> TrialRecord | None:
        """The finished trial of the default settings."""
        return next((t for t in self.trials if t.is_default and t.state == "complete"), None)

    @property
    def best(self) -> TrialRecord | None:
        """The finished trial of the best mean score."""
        return best_of(self.trials, greater_is_better=self.greater_is_better)

    @cached_property
    def estimator(self) -> Any:
        """The model as a `TabularClassifier` or `TabularRegressor`, ready to predict."""
        from tabwright.estimators.loading import estimator_of

        return estimator_of(self.model)


def best_of(trials: tuple[TrialRecord, ...], *, greater_is_better: bool) -> TrialRecord | None:
    """The finished trial of the best mean; the first of equal ones."""
    done = [trial for trial in trials if trial.state == "complete"]
    sign = -1.0 if greater_is_better else 1.0
    return min(done, key=lambda trial: sign * trial.mean, default=None)


def chosen_difference(gains: ArrayLike, *, test_share: float, n_others: int) -> PairedDifference:
    """How much better the best of several trials is than the default.

    The best was chosen by the scores that judge it. At a level divided by the number of trials
    that could have been chosen (Bonferroni), the chance that any of them looks better where none
    is stays below that of one comparison.

    `gains`: (n_folds,); the best trial's scores less the default's, signed so that above 0 is
        better.
    `test_share`: as in `paired_difference`.
    `n_others`: trials beside the default, pruned ones included.
    """
    return paired_difference(gains, test_share=test_share, coverage=1 - 0.05 / n_others)


def changes_in_words(values: Mapping[str, Any], default: Mapping[str, Any]) -> str:
    """Which settings of a trial differ from the default, as text; empty where none does."""
    return ", ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
        if value != default.get(name)
    )
