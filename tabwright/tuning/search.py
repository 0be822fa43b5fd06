"""The search: trials over the same folds, pruned by epochs, within a time, then one fit.

`tune_table` is the one way; the function `tune` and the command line are two faces of it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from tabwright.encoding.encoder import TableEncoder
from tabwright.fitting.arguments import Aims, Columns, FitCallbacks
from tabwright.fitting.eval_metric import eval_metric_of
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import score_rows
from tabwright.number_text import number_text
from tabwright.regression import MEASURES
from tabwright.settings import FitSettings
from tabwright.splits import splits_within
from tabwright.tables.labelled import LabelledRows, TrainingTable
from tabwright.training.callbacks import Callback
from tabwright.training.loop import Epoch
from tabwright.tuning.request import TuneOptions
from tabwright.tuning.result import (
    TrialRecord,
    TuningResult,
    best_of,
    changes_in_words,
    chosen_difference,
)
from tabwright.tuning.space import Space, first_trials, space_of, with_default, with_values
from tabwright.tuning.study import cut_trials, enqueue_next, identity_of, opened_study
from tabwright.workflows.folds import folds_of
from tabwright.workflows.paired_differences import PairedDifference

if TYPE_CHECKING:
    from optuna import Study, Trial

    from tabwright.splits import Splits

# How often in a fit it is compared with other trials.
_PARTS: Final = 4
# Kept back for the last fit, beside its estimated time: a share of it, and of the whole. Trees come
# after the last epoch, and cannot end early as epochs can.
_SPARE, _SPARE_OF_ALL, _MOST_SPARE = 0.4, 0.03, 5.0
# For the last fit where nothing was fitted yet to estimate it by.
_UNKNOWN_SHARE = 0.4
# The pace of a fit is known from such a part of its epochs on.
_PACE_FROM: Final = 8


def tune_table(
    table: TrainingTable,
    options: TuneOptions,
    *,
    named: bool = True,
    target_name: str | None = None,
    started: float | None = None,
    on_message: Callable[[str], None] | None = None,
    on_progress: Callable[[str, float, float | None], None] | None = None,
) -> TuningResult:
    """Search settings for a table, and fit a model with the best.

    `named`: as in `fit_table`.
    `started`: when the time began, by `time.perf_counter`; None: now.
    `on_message`: called with a sentence on each trial, and on the verdict.
    `on_progress`: called with what goes on, the seconds so far, and the limit, of each epoch.
    Raises `ValueError` if the options contradict themselves or the table, or the study is another
        table's.
    Raises `KeyboardInterrupt` if the interrupt came before anything was scored; the study keeps
        what there is.
    Raises `ImportError` if the extra `tune` is not installed.
    """
    started = time.perf_counter() if started is None else started
    emit = on_message or (lambda message: None)
    metric = eval_metric_of(options.eval_metric, table.task)
    settings = FitSettings(
        task=table.task,
        random_state=options.random_state,
        **{**options.fixed, "eval_metric": None if metric is None else metric.name},
    )
    table, folds = folds_of(
        table,
        n_folds=options.n_folds,
        validation=options.validation,
        random_state=options.random_state,
        on_message=emit,
    )
    settings = _with_folds(settings, table, options)
    space = space_of(settings, options.fixed)
    name = "log_loss" if table.task == "classification" else MEASURES[settings.objective]
    if metric is not None:
        name = metric.name
    identity = identity_of(table, folds, settings, name, options.eval_metric)
    is_random = options.search == "random"
    with opened_study(options.study, identity, options.random_state, is_random=is_random) as study:
        search = _Search(
            table=table,
            folds=folds,
            options=options,
            settings=settings,
            space=space,
            study=study,
            named=named,
            metric=name,
            started=started,
            emit=emit,
            show=on_progress or (lambda what, seconds, limit: None),
        )
        return search.run(target_name)


def _with_folds(settings: FitSettings, table: TrainingTable, options: TuneOptions) -> FitSettings:
    """Settings that say whether fits have folds: some trials would have the default's, else."""
    n_classes = None if table.classes is None else len(table.classes)
    chosen = settings.with_folds_for(len(table), n_classes)
    if chosen != settings and (options.validation is not None or table.rows.time is not None):
        return replace(settings, n_folds=1)
    return chosen


class _OutOfTime(Exception):  # noqa: N818
    """The time that is left is needed for the last fit."""


class _Interrupted(Exception):  # noqa: N818
    """Ctrl-C, which a fit after its first epoch keeps to itself."""


@dataclass
class _Search:
    """A search under way."""

    table: TrainingTable
    folds: Splits
    options: TuneOptions
    settings: FitSettings
    space: Space
    study: Study
    named: bool
    metric: str
    started: float
    emit: Callable[[str], None]
    show: Callable[[str, float, float | None], None]
    encoders: dict[tuple[int, str], TableEncoder] = field(default_factory=dict)

    def __post_init__(self) -> None:
        train, _ = self.folds[0]
        share = self.settings.held_out_share(len(train))
        n_classes = None if self.table.classes is None else len(self.table.classes)
        self.default = self.settings.resolved(
            n_rows=round(len(train) * (1 - share)), n_classes=n_classes
        )
        self.space = with_default(self.space, self.default)
        self.growth = len(self.table) / float(np.mean([len(train) for train, _ in self.folds]))
        self.judge = eval_metric_of(self.options.eval_metric, self.table.task)
        if self.judge is not None:
            for _, index in self.folds:
                self.judge.check(self.table.rows.take(index), self.table.classes)

    # -- time ---------------------------------------------------------------------------------

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        limit = self.options.time_limit
        return float("inf") if limit is None else self.started + limit - time.perf_counter()

    def kept_back(self, seconds_a_fit: float = 0.0) -> float:
        """Seconds that the last fit may need, if a trial under way takes so many for a fold."""
        limit = self.options.time_limit
        if limit is None:
            return 0.0
        trials = self.records()
        best = best_of(trials, greater_is_better=self.judge is not None)
        of_fits = [seconds_a_fit]
        for trial in self.study.trials:
            seconds = trial.user_attrs.get("seconds", [])
            is_best = best is not None and trial.number == best.number
            if seconds and (trial.user_attrs.get("is_default") or is_best):
                of_fits.append(float(np.mean(seconds)))
        if not max(of_fits):
            return _UNKNOWN_SHARE * limit
        spare = min(_SPARE_OF_ALL * limit, _MOST_SPARE)
        return max(of_fits) * self.growth * (1 + _SPARE) + spare

    def doing(self, what: str) -> None:
        """Tell what goes on."""
        self.show(what, time.perf_counter() - self.started, self.options.time_limit)

    # -- trials -------------------------------------------------------------------------------

    def run(self, target_name: str | None) -> TuningResult:
        """Trials until the end, then the verdict and the last fit."""
        first = first_trials(self.space, self.default)
        if self.options.search == "random":
            first = first[:1]
        cut = cut_trials(self.study)
        if n_before := len([t for t in self.records() if t.state != "cut"]):
            trials = "the one trial" if n_before == 1 else f"the {n_before} trials"
            self.emit(f"going on with {trials} of {self.options.study}")
        if cut:
            which = f"{len(cut)} trials that were" if len(cut) > 1 else "a trial that was"
            self.emit(f"taking up {which} cut short before")
        ended_by: Literal["time", "trials", "interrupt"] = "trials"
        try:
            while not self._is_full():
                if self.left <= self.kept_back():
                    ended_by = "time"
                    break
                enqueue_next(self.study, cut, first)
                self._trial()
        except _OutOfTime:
            ended_by = "time"
        except (_Interrupted, KeyboardInterrupt):
            ended_by = "interrupt"
            if best_of(self.records(), greater_is_better=self.judge is not None) is None:
                raise KeyboardInterrupt from None
            self.emit("interrupted: the last fit is made with what is known so far")
        return self._result(ended_by, target_name)

    def _is_full(self) -> bool:
        wanted = self.options.n_trials
        done = [trial for trial in self.records() if trial.state != "cut"]
        return wanted is not None and len(done) >= wanted

    def _trial(self) -> None:
        """One trial, told to the study whatever becomes of it."""
        import optuna
        from optuna.trial import TrialState

        trial = self.study.ask()
        values = {name: dimension.suggest(trial, name) for name, dimension in self.space.items()}
        is_default = bool(trial.user_attrs.get("is_default"))
        settings = self.settings if is_default else with_values(self.settings, values)
        try:
            may_prune = not is_default and self.options.search == "tpe"
            scores = self._scores(trial, settings, may_prune=may_prune)
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
            self.emit(f"trial {trial.number}: pruned; {self._words(values)}")
        except (_OutOfTime, _Interrupted, KeyboardInterrupt) as error:
            trial.set_user_attr("cut", True)
            self.study.tell(trial, state=TrialState.FAIL)
            if is_default or not isinstance(error, _OutOfTime):
                raise
        except FloatingPointError:
            self.study.tell(trial, state=TrialState.FAIL)
            self.emit(f"trial {trial.number}: its loss was not finite; {self._words(values)}")
        else:
            sign = 1.0 if self.judge is None else -1.0
            self.study.tell(trial, sign * float(np.mean(scores)))
            what = "the default" if is_default else self._words(values)
            mean = number_text(float(np.mean(scores)), 5)
            self.emit(f"trial {trial.number}: {self.metric} {mean}; {what}")

    def _words(self, values: Mapping[str, Any]) -> str:
        """What differs from the default."""
        default = {name: getattr(self.default, name) for name in values}
        return changes_in_words(values, default) or "as the default"

    def _scores(self, trial: Trial, settings: FitSettings, *, may_prune: bool) -> list[float]:
        """Scores of the folds; those that an earlier run finished are taken from the study."""
        kept = trial.user_attrs
        scores, seconds = list(kept.get("scores", [])), list(kept.get("seconds", []))
        lowest = list(kept.get("lowest", []))
        for fold in range(len(scores), len(self.folds)):
            watcher = _Watcher(self, trial, lowest, may_prune)
            began = time.perf_counter()
            scores.append(self._fold_score(fold, settings, watcher))
            seconds.append(time.perf_counter() - began)
            lowest.append(watcher.lowest)
            trial.set_user_attr("lowest", lowest)
            trial.set_user_attr("seconds", seconds)
            # The last of the three: a fold without it is fitted again.
            trial.set_user_attr("scores", scores)
        return scores

    def _fold_score(self, fold: int, settings: FitSettings, watcher: _Watcher) -> float:
        """The loss or score of settings on one fold."""
        train_index, test_index = self.folds[fold]
        train, test = self.table.rows.take(train_index), self.table.rows.take(test_index)
        inner = None
        if self.options.validation is not None:
            inner = splits_within(self.folds, train_index) or None
        # Its rows are those of the first fit of this fold, which found the pairwise features.
        key = (fold, settings.numeric_encoding)
        model = self._fit(train, settings, inner, watcher, encoder=self.encoders.get(key))
        if settings.asked_folds == 1 and not model.encoder.plan_.statistic_names:
            # With folds, and with statistics of the target, the encoding of a row that trains
            # leaves rows out, which a finished encoder does not.
            self.encoders.setdefault(key, model.encoder)
        if model.stopped == "interrupted":
            raise _Interrupted
        predictor = Predictor(model)
        if self.judge is None:
            scores = score_rows(predictor, test.frame, test.target, test.weight)
            return scores["test"][self.metric]
        if model.classes is None:
            values = predictor.predict_values(test.frame)
            return self.judge(test.target, values, test.weight)
        proba, labels = predictor.predict_proba(test.frame), model.classes[test.target]
        return self.judge(labels, proba, test.weight, classes=model.classes)

    def _fit(
        self,
        rows: LabelledRows,
        settings: FitSettings,
        splits: Splits | None,
        watcher: Callback,
        *,
        encoder: TableEncoder | None = None,
        target_name: str | None = None,
    ) -> FittedModel:
        """A fit of the searched settings, which may be interrupted."""
        with warnings.catch_warnings():
            # What ends a fit here is told by whoever ended it.
            warnings.filterwarnings("ignore", "training was interrupted")
            return fit_table(
                rows,
                settings,
                classes=self.table.classes,
                validation=splits,
                aims=Aims(
                    eval_metric=self.options.eval_metric, class_weight=self.options.class_weight
                ),
                columns=Columns(
                    named=self.named, profile=self.table.profile, target_name=target_name
                ),
                encoder=encoder,
                callbacks=FitCallbacks(on_start=watcher.on_start, on_epoch=watcher.on_epoch),
            )

    # -- the end ------------------------------------------------------------------------------

    def records(self) -> tuple[TrialRecord, ...]:
        """The trials so far, but for those that wait."""
        from optuna.trial import TrialState

        names: dict[TrialState, Literal["complete", "pruned", "cut"]] = {
            TrialState.COMPLETE: "complete",
            TrialState.PRUNED: "pruned",
            TrialState.FAIL: "cut",
        }
        return tuple(
            TrialRecord(
                trial.number,
                names[trial.state],
                dict(trial.params),
                tuple(trial.user_attrs.get("scores", ())),
                bool(trial.user_attrs.get("is_default")),
            )
            for trial in self.study.trials
            if trial.state in names
        )

    def _result(
        self, ended_by: Literal["time", "trials", "interrupt"], target_name: str | None
    ) -> TuningResult:
        """Judge the best trial against the default, and fit it to all rows."""
        trials = self.records()
        greater = self.judge is not None
        best = best_of(trials, greater_is_better=greater)
        default = next((t for t in trials if t.is_default and t.state == "complete"), None)
        difference = None
        if best is not None and default is not None and best is not default:
            sign = 1.0 if greater else -1.0
            share = float(np.mean([len(test) / len(train) for train, test in self.folds]))
            gains = sign * (np.array(best.scores) - np.array(default.scores))
            n_others = len([t for t in trials if t.state != "cut" and not t.is_default])
            difference = chosen_difference(gains, test_share=share, n_others=n_others)
        is_better = difference is not None and difference.low > 0
        verdict = self._verdict(best, default, difference)
        self.emit(verdict)
        settings = self.settings
        if best is not None and difference is not None:
            settings = with_values(self.settings, best.values)
        splits = self.folds if self.options.validation is not None else None
        last = _LastFit(self)
        model = self._fit(self.table.rows, settings, splits, last, target_name=target_name)
        if model.stopped == "interrupted":
            self.emit(f"the last fit was ended after epoch {last.n_epochs} of {last.most}")
        summary = {
            "metric": self.metric,
            "verdict": verdict,
            "default": None if default is None else list(default.scores),
            "best": None if best is None else list(best.scores),
            "is_better": is_better,
            "n_trials": len([t for t in trials if t.state != "cut"]),
        }
        model = replace(model, card={**model.card, "tuning": summary})
        return TuningResult(
            model=model,
            metric=self.metric,
            greater_is_better=greater,
            trials=trials,
            difference=difference,
            is_better=is_better,
            verdict=verdict,
            ended_by=ended_by,
            importance=self._importance(trials),
            seconds=time.perf_counter() - self.started,
        )

    def _verdict(
        self,
        best: TrialRecord | None,
        default: TrialRecord | None,
        difference: PairedDifference | None,
    ) -> str:
        """Whether the best trial is better than the default, as a sentence."""
        n = len([trial for trial in self.records() if trial.state != "cut"])
        if default is None:
            return (
                "the time was too short to score the default on every fold, so that nothing is "
                "known; the model is the default's: give more time, or fewer folds"
            )
        if best is None or difference is None:
            return (
                f"none of {n} trials is better than the default, whose {self.metric} is "
                f"{number_text(default.mean, 5)}; the model is the default's"
            )
        gap, low, high = (
            number_text(value, 3) for value in (difference.mean, difference.low, difference.high)
        )
        found = (
            f"the best of {n} trials, {self.metric} {number_text(best.mean, 5)} "
            f"({self._words(best.values)}), beats the default, {number_text(default.mean, 5)}, by "
            f"{gap} (interval {low} to {high}, at 95 % for the best of so many)"
        )
        if difference.low > 0:
            return f"{found}: more than its error; the model is fitted with it"
        return f"{found}: not more than its error, but the model is fitted with it: it leads so far"

    def _importance(self, trials: tuple[TrialRecord, ...]) -> dict[str, float]:
        """The share of the variance of the scores that each setting explains; empty if too few."""
        done = [trial for trial in trials if trial.state == "complete"]
        if len(done) < max(4, len(self.space)) or len({trial.mean for trial in done}) < 2:
            return {}
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        evaluator = FanovaImportanceEvaluator(seed=self.options.random_state)
        found = get_param_importances(self.study, evaluator=evaluator)
        return {name: float(share) for name, share in found.items()}


class _Watcher(Callback):
    """Ends a trial's fit at the time, or where other trials were better by then."""

    def __init__(self, search: _Search, trial: Trial, before: list[float], may_prune: bool) -> None:
        self._search, self._trial, self._may_prune = search, trial, may_prune
        self._before = list(before)
        self._most, self._part = 1, 0
        self._began = time.perf_counter()
        self.lowest = float("inf")

    def on_start(self, settings: FitSettings, n_training_rows: int, n_validation_rows: int) -> None:
        self._most = settings.max_epochs or 1

    def on_epoch(self, epoch: Epoch) -> None:
        """End a fit that the time does not allow, and prune one that is behind others."""
        import optuna

        search, fold = self._search, len(self._before) + 1
        search.doing(f"s: trial {self._trial.number}, fold {fold} of {len(search.folds)}")

        self.lowest = -epoch.best_score if np.isnan(epoch.best_loss) else epoch.best_loss
        # The first epochs are slow, and say little of the others.
        a_fit = 0.0
        if _PACE_FROM * epoch.epoch >= self._most:
            before = time.perf_counter() - self._began - epoch.seconds
            to_go = max(epoch.n_folds - epoch.fold, 0) + 1
            a_fit = before + to_go * epoch.seconds * self._most / epoch.epoch
        if self._search.left <= self._search.kept_back(a_fit):
            raise _OutOfTime
        part = _PARTS * epoch.epoch // self._most
        if part <= self._part:
            return
        self._part = part
        # Means over the folds so far of losses at the same part of a schedule: other trials have
        # the same, whatever the number of their epochs.
        step = _PARTS * len(self._before) + part - 1
        self._trial.report(float(np.mean([*self._before, self.lowest])), step)
        if self._may_prune and self._trial.should_prune():
            raise optuna.TrialPruned


class _LastFit(Callback):
    """Ends the last fit at the limit, with its best epoch so far."""

    def __init__(self, search: _Search) -> None:
        self._search = search
        self.n_epochs, self.most = 0, 0

    def on_start(self, settings: FitSettings, n_training_rows: int, n_validation_rows: int) -> None:
        self.most = settings.max_epochs or 0

    def on_epoch(self, epoch: Epoch) -> None:
        self.n_epochs = epoch.epoch
        self._search.doing("s: the last fit, on all rows")
        if self._search.left <= 0:
            raise KeyboardInterrupt
