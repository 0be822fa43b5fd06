"""How to search: `TuneOptions`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tabwright.fitting.class_weights import ClassWeight
from tabwright.workflows.folds import check_n_folds

SearchName = Literal["tpe", "random"]


@dataclass(frozen=True)
class TuneOptions:
    """How to search.

    Parameters
    ----------
    fixed : mapping of str to object
        Fields of `FitSettings` that are not searched.
    time_limit : float or None
        Seconds, the last fit included; None: no limit.
    n_trials : int or None
        Trials of the study in all that are finished or pruned; None: as many as the time allows.
    n_folds : int
    validation : splitter, list of (train, test), or None
        The folds, in place of `n_folds`.
    eval_metric : object
        Judges, and chooses the epochs; as in `eval_metric_of`. None: log-loss, or what the
        objective of a regression is judged by, RMSE for squared error.
    class_weight : "balanced", mapping of label to weight, or None
    study : Path or None
        Where the study is kept, and gone on from.
    search : {"tpe", "random"}
        "random": uniform draws after the default, and nothing is pruned; to compare with.
    random_state : int
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    time_limit: float | None = 600.0
    n_trials: int | None = None
    n_folds: int = 5
    validation: object = None
    eval_metric: object = None
    class_weight: ClassWeight = None
    study: Path | None = None
    search: SearchName = "tpe"
    random_state: int = 0

    def __post_init__(self) -> None:
        if self.time_limit is None and self.n_trials is None:
            raise ValueError("tune needs an end; got neither time_limit nor n_trials; give one")
        if self.time_limit is not None and not 0 < self.time_limit < float("inf"):
            raise ValueError(f"time_limit must be seconds above 0; got {self.time_limit!r}")
        if self.n_trials is not None and self.n_trials < 1:
            raise ValueError(f"n_trials must be at least 1, or None; got {self.n_trials!r}")
        check_n_folds(self.n_folds)
