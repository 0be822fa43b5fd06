"""The search: trials on the same folds, studies that go on, the time, the verdict, one model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.model_selection import KFold, TimeSeriesSplit

from tabwright import TabularClassifier, tune
from tabwright.errors import TableError, install_command
from tabwright.fitting.fit_table import fit_table
from tabwright.tables import encode_labels, profile_table
from tabwright.tables.labelled import LabelledRows, TrainingTable
from tabwright.training.loop import Epoch
from tabwright.training.time_limit import seconds_of
from tabwright.tuning import run as run_module
from tabwright.tuning import search
from tabwright.tuning.picture import plot_tuning
from tabwright.tuning.request import TuneOptions
from tabwright.tuning.result import TrialRecord, TuningResult, chosen_difference
from tabwright.tuning.search import tune_table
from tabwright.workflows.paired_differences import paired_difference

optuna = pytest.importorskip("optuna", reason="optuna is not installed")

SMALL: dict[str, Any] = {"n_members": 1, "hidden_dim": 8, "max_epochs": 3, "num_hidden_layers": 1}
OPTIONS: dict[str, Any] = {
    "time_limit": None,
    "n_trials": 3,
    "n_folds": 2,
    "settings": SMALL,
    "random_state": 0,
}


@pytest.fixture
def rows() -> tuple[pl.DataFrame, np.ndarray]:
    generator = np.random.default_rng(0)
    size = generator.normal(size=160)
    kind = generator.choice(["a", "b"], size=160)
    frame = pl.DataFrame({"row": np.arange(160.0) + 0.5, "size": size, "kind": kind})
    return frame, np.where(size + (kind == "a") + generator.normal(size=160) > 0.5, "yes", "no")


@pytest.fixture
def given_scores(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Scores of the folds by trial, in place of fits; more trials have the last ones."""
    scores: list[list[float]] = []
    seen: list[int] = []

    def score(self: Any, fold: int, settings: Any, watcher: Any) -> float:
        number = watcher._trial.number
        if number not in seen:
            seen.append(number)
        own = scores[min(len(seen), len(scores)) - 1]
        watcher.lowest = own[fold]
        return own[fold]

    monkeypatch.setattr(search._Search, "_fold_score", score)
    return scores


def test_a_search_ends_in_a_fitted_model(rows: tuple[pl.DataFrame, np.ndarray]) -> None:
    X, y = rows
    result = tune(X, y, **OPTIONS)
    assert [trial.number for trial in result.trials] == [0, 1, 2]
    assert result.trials[0].is_default
    assert not any(trial.is_default for trial in result.trials[1:])
    assert all(len(trial.scores) == 2 for trial in result.trials if trial.state == "complete")
    assert result.ended_by == "trials"
    assert result.metric == "log_loss"
    assert isinstance(result.estimator, TabularClassifier)
    assert result.estimator.predict_proba(X).shape == (160, 2)
    card = result.model.card["tuning"]
    assert card["verdict"] == result.verdict
    assert card["n_trials"] == 3
    for name, value in SMALL.items():
        assert getattr(result.model.settings, name) == value
    # The same call, the same trials.
    again = tune(X, y, **OPTIONS)
    assert [t.scores for t in again.trials] == [t.scores for t in result.trials]
    assert (again.estimator.predict_proba(X) == result.estimator.predict_proba(X)).all()


def test_the_default_is_scored_as_it_is_fitted(rows: tuple[pl.DataFrame, np.ndarray]) -> None:
    X, y = rows
    result = tune(X, y, **(OPTIONS | {"n_trials": 1, "validation": KFold(2)}))
    assert result.default is not None
    from sklearn.metrics import log_loss

    for (train, test), score in zip(KFold(2).split(X), result.default.scores, strict=True):
        # Of two splits nothing is left inside a fold.
        model = TabularClassifier(**SMALL, random_state=0).fit(X[train], y[train])
        assert score == pytest.approx(log_loss(y[test], model.predict_proba(X[test])))


@pytest.mark.parametrize(
    ("validation", "n_folds", "n_networks"), [(None, 4, {4, 8}), (KFold(2), 1, {1, 2, 4, 8})]
)
def test_every_trial_has_the_folds_of_the_default(
    rows: tuple[pl.DataFrame, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    validation: Any,
    n_folds: int,
    n_networks: set[int],
) -> None:
    X, y = rows
    models = []

    def fit(*args: Any, **kwargs: Any) -> Any:
        models.append(fit_table(*args, **kwargs))
        return models[-1]

    monkeypatch.setattr(search, "fit_table", fit)
    small = {name: SMALL[name] for name in SMALL if name != "n_members"}
    tune(X, y, **(OPTIONS | {"settings": small, "validation": validation, "n_trials": 4}))
    assert len(models) > 2
    assert {model.settings.n_folds for model in models} == {n_folds}
    assert {len(model.members) for model in models} <= n_networks
    assert len({len(model.encoder.plan_.names) for model in models}) == 1


def test_statistics_of_the_target_leave_a_training_row_out_in_every_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(2)
    who = rng.integers(0, 400, 1_600)
    X = pl.DataFrame({"who": [f"u{k}" for k in who], "size": rng.random(1_600)})
    y = np.where(rng.normal(size=400)[who] + 0.3 * rng.normal(size=1_600) > 0, "no", "yes")
    fits = []

    def fit(*args: Any, **kwargs: Any) -> Any:
        fits.append((fit_table(*args, **kwargs), kwargs.get("encoder")))
        return fits[-1][0]

    monkeypatch.setattr(search, "fit_table", fit)
    tune(X, y, **(OPTIONS | {"validation": KFold(3), "n_trials": 3}))
    assert len(fits) > 6
    assert all(model.encoder.plan_.statistic_names for model, _ in fits)
    # One that is finished would show a training row the statistics that its own target is part of.
    assert {encoder for _, encoder in fits} == {None}


def test_a_metric_that_cannot_score_a_fold_is_refused_at_once(
    rows: tuple[pl.DataFrame, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = rows
    same = np.flatnonzero(y == y[0])[:20]
    rest = np.setdiff1d(np.arange(len(y)), same)
    monkeypatch.setattr(search, "fit_table", None)
    folds = [(rest, same), (np.arange(40, len(y)), np.arange(40))]
    with pytest.raises(ValueError, match="eval_metric 'roc_auc' must score the 20 validation rows"):
        tune(X, y, eval_metric="roc_auc", **(OPTIONS | {"validation": folds}))


def test_every_trial_sees_the_same_folds(
    rows: tuple[pl.DataFrame, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = rows
    seen: list[list[float]] = []

    def watching(rows: Any, *rest: Any, **words: Any) -> Any:
        seen.append(rows.frame["row"].to_list())
        return fit_table(rows, *rest, **words)

    monkeypatch.setattr(search, "fit_table", watching)
    groups = np.arange(160) // 8
    result = tune(X, y, groups=groups, **(OPTIONS | {"n_trials": 3}))
    assert all(trial.state == "complete" for trial in result.trials)
    assert seen[:2] == seen[2:4] == seen[4:6]
    assert seen[6] == X["row"].to_list()
    left_out = [set(X["row"]) - set(fold) for fold in seen[:2]]
    assert not {int(row) // 8 for row in left_out[0]} & {int(row) // 8 for row in left_out[1]}


def test_folds_by_time_and_by_a_splitter(
    rows: tuple[pl.DataFrame, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = rows
    found: list[Any] = []
    judged = search._Search._fold_score

    def watching(self: Any, fold: int, *rest: Any) -> float:
        found.append(tuple(part.tolist() for part in self.folds[fold]))
        return judged(self, fold, *rest)

    monkeypatch.setattr(search._Search, "_fold_score", watching)
    once = OPTIONS | {"n_trials": 1}
    tune(X, y, time=np.arange(160)[::-1], **once)
    tune(X, y, validation=TimeSeriesSplit(3), **once)
    by_time, by_splitter = found[:2], found[2:]
    assert all(min(train) > max(test) for train, test in by_time)
    assert [len(test) for _, test in by_splitter] == [40, 40, 40]
    assert all(max(train) < min(test) for train, test in by_splitter)


@pytest.mark.parametrize("is_clear", [True, False])
def test_the_best_is_the_model_and_the_verdict_has_its_error(
    rows: tuple[pl.DataFrame, np.ndarray], given_scores: list[list[float]], is_clear: bool
) -> None:
    X, y = rows
    given_scores += [[0.5, 0.6, 0.7], [0.4, 0.5, 0.601] if is_clear else [0.3, 0.7, 0.6]]
    result = tune(X, y, **(OPTIONS | {"n_trials": 2, "n_folds": 3}))
    assert result.best is not None
    gap = paired_difference(np.array(given_scores[0]) - np.array(given_scores[1]), test_share=0.5)
    assert result.difference is not None
    assert result.difference.mean == pytest.approx(gap.mean)
    assert result.difference.low == pytest.approx(gap.low, rel=0.02)
    assert result.is_better is is_clear is (gap.low > 0)
    settings = result.model.settings
    changed = result.best.values
    assert all(getattr(settings, name) == value for name, value in changed.items())
    assert settings.weight_decay != 0.05
    assert ("not more than its error" in result.verdict) is not is_clear
    assert "the model is fitted with it" in result.verdict


def test_where_nothing_is_better_the_default_is_the_model(
    rows: tuple[pl.DataFrame, np.ndarray], given_scores: list[list[float]]
) -> None:
    given_scores += [[0.5, 0.5], [0.6, 0.6]]
    result = tune(*rows, **OPTIONS)
    assert result.best is result.default
    assert result.difference is None
    assert "none of 3 trials is better than the default" in result.verdict


def test_a_score_of_which_greater_is_better(
    rows: tuple[pl.DataFrame, np.ndarray], given_scores: list[list[float]]
) -> None:
    given_scores += [[0.5, 0.5], [0.7, 0.701], [0.6, 0.6]]
    result = tune(*rows, eval_metric="roc_auc", **OPTIONS)
    assert result.metric == "roc_auc"
    assert result.best is not None
    assert result.best.number == 1
    assert result.is_better
    assert result.model.settings.eval_metric == "roc_auc"


def test_trials_that_are_behind_are_pruned(
    rows: tuple[pl.DataFrame, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[tuple[int, int]] = []

    def score(self: Any, fold: int, settings: Any, watcher: Any) -> float:
        number = watcher._trial.number
        fits.append((number, fold))
        loss = 9.0 if number in (0, 6) else 1.0 - number / 100
        watcher.on_start(self.default, 1, 1)
        for n in range(1, (self.default.max_epochs or 0) + 1):
            watcher.on_epoch(Epoch(n, loss, loss, loss, 0.1, 0.0))
        return loss

    monkeypatch.setattr(search._Search, "_fold_score", score)
    result = tune(*rows, **(OPTIONS | {"n_trials": 7}))
    # The default never is; the last one ends in its first fold.
    assert [trial.state for trial in result.trials] == ["complete"] * 6 + ["pruned"]
    assert [fold for number, fold in fits if number == 6] == [0]


def test_a_random_search_draws_after_the_default(
    rows: tuple[pl.DataFrame, np.ndarray], given_scores: list[list[float]]
) -> None:
    given_scores += [[0.5, 0.5]]
    X, y = rows
    labels = encode_labels(y)
    numbers = np.arange(1, 161)
    table = TrainingTable(
        LabelledRows(X, labels.codes), labels.classes, "classification", numbers, profile_table(X)
    )
    found = {}
    for name in ("tpe", "random"):
        options: Any = {"time_limit": None, "n_trials": 4, "n_folds": 2, "search": name}
        found[name] = tune_table(table, TuneOptions(SMALL, **options)).trials
    assert found["tpe"][0].values == found["random"][0].values
    assert found["tpe"][1].values["weight_decay"] == 1e-4
    drawn = [trial.values["dropout"] for trial in found["random"][1:]]
    assert len(set(drawn)) == 3
    assert not set(drawn) & {0.1, 0.2, 0.3}


def test_trials_whose_loss_is_not_finite_are_left(
    rows: tuple[pl.DataFrame, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = search._Search._fold_score

    def score(self: Any, fold: int, settings: Any, watcher: Any) -> float:
        if watcher._trial.number == 1:
            raise FloatingPointError("the training loss is not finite")
        return judged(self, fold, settings, watcher)

    monkeypatch.setattr(search._Search, "_fold_score", score)
    result = tune(*rows, **(OPTIONS | {"n_trials": 2}))
    assert [trial.state for trial in result.trials] == ["complete", "cut", "complete"]


# ---------------------------------------------------------------------------------------------
# Studies
# ---------------------------------------------------------------------------------------------


def test_a_study_goes_on(
    rows: tuple[pl.DataFrame, np.ndarray], tmp_path: Path, given_scores: list[list[float]]
) -> None:
    given_scores += [[0.5, 0.5], [0.6, 0.6]]
    study = tmp_path / "study.db"
    tune(*rows, study=study, **(OPTIONS | {"n_trials": 2}))
    result = tune(*rows, study=study, **(OPTIONS | {"n_trials": 4}))
    assert [trial.number for trial in result.trials] == [0, 1, 2, 3]
    assert sum(trial.is_default for trial in result.trials) == 1
    values = [repr(trial.values) for trial in result.trials]
    assert len(set(values)) == 4


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"y": 1}, "target"),
        ({"X": 1}, "table"),
        ({"X": 2}, "table, columns"),
        ({"n_folds": 3}, "splits"),
        ({"validation": KFold(2)}, "splits"),
        ({"settings": SMALL | {"n_members": 2}}, "settings"),
        ({"eval_metric": "roc_auc"}, "settings, metric"),
        ({"sample_weight": np.arange(1.0, 161.0)}, "weights"),
    ],
)
def test_a_study_of_another_table_is_refused(
    rows: tuple[pl.DataFrame, np.ndarray],
    tmp_path: Path,
    given_scores: list[list[float]],
    change: dict[str, Any],
    differs: str,
) -> None:
    X, y = rows
    given_scores += [[0.5, 0.5, 0.5]]
    study = tmp_path / "study.db"
    tune(X, y, study=study, **(OPTIONS | {"n_trials": 1}))
    before = study.read_bytes()
    change = dict(change)
    if change.pop("y", None):
        y = np.roll(y, 1)
        # Stratified folds follow the target.
        differs = "target, splits"
    if how := change.pop("X", None):
        X = X.with_columns(pl.col("size") + 1) if how == 1 else X.rename({"size": "width"})
    with pytest.raises(ValueError, match=f"differ in: {differs}; give the former ones again"):
        tune(X, y, study=study, **(OPTIONS | change))
    assert study.read_bytes() == before


def test_another_function_of_the_same_name_is_another_study(
    rows: tuple[pl.DataFrame, np.ndarray], tmp_path: Path
) -> None:
    options = OPTIONS | {"n_trials": 1, "study": tmp_path / "study.db"}
    tune(*rows, eval_metric=lambda y, p: float(np.mean(p[y == "yes"])), **options)
    tune(*rows, eval_metric=lambda y, p: float(np.mean(p[y == "yes"])), **options)
    with pytest.raises(ValueError, match="metric"):
        tune(*rows, eval_metric=lambda y, p: -float(np.mean(p[y == "no"])), **options)


def test_a_search_that_fails_before_a_score_leaves_no_study(
    rows: tuple[pl.DataFrame, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("counts must be at least 0; got -1")

    study = tmp_path / "study.db"
    with monkeypatch.context() as patch:
        patch.setattr(search, "fit_table", refused)
        with pytest.raises(ValueError, match="counts must be"):
            tune(*rows, study=study, **OPTIONS)
    assert not study.exists()
    # One with scores stays, whatever ends it.
    tune(*rows, study=study, **OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(search, "fit_table", refused)
        with pytest.raises(ValueError, match="counts must be"):
            tune(*rows, study=study, **(OPTIONS | {"n_trials": 9}))
    assert study.exists()


def test_a_file_that_is_no_study_is_refused(
    rows: tuple[pl.DataFrame, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "notes.db"
    path.write_text("no database at all, but some text of more than a few characters\n" * 20)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="a study must be a file that tune wrote"):
        tune(*rows, study=path, **OPTIONS)
    assert path.read_bytes() == before
    with pytest.raises(OSError, match="cannot save"):
        tune(*rows, study=tmp_path / "no folder" / "s.db", **OPTIONS)


_KILLED = """
import sys
import numpy as np, polars as pl
from tabwright import tune
from tabwright.tuning import search

judged = search._Search._fold_score

def telling(self, fold, settings, watcher):
    print(watcher._trial.number, fold, flush=True)
    return judged(self, fold, settings, watcher)

search._Search._fold_score = telling
rows = pl.read_parquet("rows.parquet")
tune(rows.drop("y"), rows["y"], study="study.db", **eval(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_study_goes_on_after_sigkill(
    rows: tuple[pl.DataFrame, np.ndarray], tmp_path: Path
) -> None:
    X, y = rows
    X.with_columns(pl.Series("y", y)).write_parquet(tmp_path / "rows.parquet")
    options = OPTIONS | {"n_trials": 4, "n_folds": 3}
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, repr(options)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    # In the last fold of the second trial.
    for line in process.stdout:
        if line.split() == ["1", "2"]:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait(60) == -signal.SIGKILL
    process.stdout.close()
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = optuna.storages.RDBStorage(url)
    killed = optuna.load_study(study_name="tabwright", storage=storage).trials[1]
    storage.remove_session()
    storage.engine.dispose()
    assert killed.state is optuna.trial.TrialState.RUNNING
    kept = killed.user_attrs["scores"]
    assert len(kept) == 2
    options["n_trials"] = 6
    result = tune(X, y, study=tmp_path / "study.db", **options)
    done = [trial for trial in result.trials if trial.state != "cut"]
    assert len(done) == 6
    again = next(trial for trial in done if trial.values == killed.params)
    # The folds that were finished are not fitted again.
    assert list(again.scores[:2]) == kept
    assert len(again.scores) == 3 or again.state == "pruned"
    whole = tune(X, y, **options)
    assert again.scores == whole.trials[1].scores
    assert result.trials[0].scores == whole.trials[0].scores
    # The killed trial was taken up before any other, and no other was lost.
    assert again.number == 2
    # A third call has nothing left to take up.
    third = tune(X, y, study=tmp_path / "study.db", **options)
    assert len(third.trials) == len(result.trials)


# ---------------------------------------------------------------------------------------------
# The end
# ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_time_is_kept(rows: tuple[pl.DataFrame, np.ndarray]) -> None:
    X, y = rows
    words: dict[str, Any] = {"n_folds": 2, "settings": {"n_members": 1}, "random_state": 0}
    # Libraries are loaded before.
    tune(X, y, time_limit=None, n_trials=1, **(words | {"settings": SMALL}))
    began = time.perf_counter()
    result = tune(X, y, time_limit=15, **words)
    seconds = time.perf_counter() - began
    assert result.ended_by == "time"
    # A tenth more on a machine of its own; other tests run beside this one.
    assert 8 < seconds < 18
    assert result.default is not None


def test_a_trial_ends_at_the_time_and_is_taken_up_again(
    rows: tuple[pl.DataFrame, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = rows
    left = [1000.0]
    judged = search._Search._fold_score

    def score(self: Any, fold: int, settings: Any, watcher: Any) -> float:
        if (watcher._trial.number, fold) == (1, 1):
            left[0] = 0.0
        return judged(self, fold, settings, watcher)

    with monkeypatch.context() as patched:
        patched.setattr(search._Search, "left", property(lambda self: left[0]))
        patched.setattr(search._Search, "_fold_score", score)
        result = tune(X, y, study=tmp_path / "s.db", **(OPTIONS | {"time_limit": 1000}))
    assert result.ended_by == "time"
    assert [trial.state for trial in result.trials] == ["complete", "cut"]
    assert len(result.trials[1].scores) == 1
    # The last fit was ended at the limit too, after its first epoch.
    assert len(result.model.history) == 1
    more = tune(X, y, study=tmp_path / "s.db", **(OPTIONS | {"n_trials": 6}))
    again = [trial for trial in more.trials[2:] if trial.values == result.trials[1].values]
    assert [trial.scores[:1] for trial in again] == [result.trials[1].scores]
    assert again[0].state != "cut"


def test_the_best_of_trials_that_are_alike_is_seldom_called_better() -> None:
    rng = np.random.default_rng(0)
    n_folds, n_others, n_searches = 5, 20, 2000
    called = {"as one": 0, "as the best": 0}
    for _ in range(n_searches):
        # Scores that differ by chance alone; folds share training rows, and so correlate by the
        # share of the test rows, as the corrected t-test takes it.
        common = rng.normal(size=(n_others + 1, 1))
        scores = 0.2**0.5 * common + 0.8**0.5 * rng.normal(size=(n_others + 1, n_folds))
        gains = scores[1:] - scores[0]
        gains = gains[gains.mean(axis=1).argmax()]
        for name, n in (("as one", 1), ("as the best", n_others)):
            found = chosen_difference(gains, test_share=1 / 4, n_others=n)
            called[name] += found.low > 0
    assert called["as one"] > 2 * 0.025 * n_searches
    assert called["as the best"] < 0.025 * n_searches


def test_too_little_time_fits_the_default_and_says_so(
    rows: tuple[pl.DataFrame, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tune(*rows, **(OPTIONS | {"time_limit": 0.001}))
    assert result.trials == () or result.trials[0].state == "cut"
    assert "too short to score the default" in result.verdict
    assert not result.is_better
    assert result.estimator.predict(rows[0]).shape == (160,)


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C is heard; a shell that runs the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
def test_an_interrupt_ends_with_what_is_known(
    rows: tuple[pl.DataFrame, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = search._Search._fold_score
    at = [2]

    def score(self: Any, fold: int, settings: Any, watcher: Any) -> float:
        if watcher._trial.number == at[0]:
            # In the middle of a fit, as the loop hears it.
            epoch = watcher.on_epoch

            def interrupting(one: Epoch) -> None:
                epoch(one)
                signal.raise_signal(signal.SIGINT)

            watcher.on_epoch = interrupting
        return judged(self, fold, settings, watcher)

    monkeypatch.setattr(search._Search, "_fold_score", score)
    result = tune(*rows, **(OPTIONS | {"n_trials": 9}))
    assert result.ended_by == "interrupt"
    assert [trial.state for trial in result.trials] == ["complete", "complete", "cut"]
    assert len(result.model.history) == SMALL["max_epochs"]
    at[0] = 0
    with pytest.raises(KeyboardInterrupt):
        tune(*rows, **OPTIONS)


# ---------------------------------------------------------------------------------------------
# Bad input, the command line, the picture
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"n_trials": None}, "tune needs an end"),
        ({"time_limit": 0}, "time_limit must be seconds above 0; got 0"),
        ({"time_limit": "soon"}, "a time above 0 such as 90, 45s, 10m or 1h30m; got 'soon'"),
        ({"n_trials": 0}, "n_trials must be at least 1"),
        ({"n_folds": 1}, "the number of folds must be at least 2"),
        ({"n_folds": None}, "the number of folds must be at least 2; got None"),
        ({"validation": KFold(500)}, "KFold cannot split these 160 rows"),
        (
            {"validation": [(range(80), range(80, 160))]},
            "cross-validation needs at least 2 splits; got 1",
        ),
        ({"eval_metric": "roc_acu"}, "did you mean 'roc_auc'"),
        ({"settings": {"depth": 3}}, "a setting must be one of"),
        ({"settings": {"training_mode": "tree_teacher_distillation"}}, "distill the model"),
        ({"groups": [1, 2]}, "groups must have one value a row; got 2 for 160 rows"),
        ({"sample_weight": np.zeros(160)}, "sample_weight must be above 0"),
    ],
)
def test_bad_arguments_are_refused_before_any_fit(
    rows: tuple[pl.DataFrame, np.ndarray],
    words: dict[str, Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "fit_table", None)
    with pytest.raises(ValueError, match=said):
        tune(*rows, **(OPTIONS | words))


def test_a_class_that_a_fold_lacks_is_refused(rows: tuple[pl.DataFrame, np.ndarray]) -> None:
    X, y = rows
    y = y.astype("<U4")
    y[-1] = "rare"
    with pytest.raises(TableError, match="class rare has none in a split"):
        tune(X, y, validation=KFold(2), **OPTIONS)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5", 1.5), ("45s", 45), ("10m", 600), ("1h30m", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-3", "10 minutes", "m", "1d", "5mx"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a time above 0"):
        seconds_of(text)


def test_without_the_extra_it_says_what_to_install(
    rows: tuple[pl.DataFrame, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match="tuning needs optuna") as caught:
        tune(*rows, **OPTIONS)
    assert install_command("tune") in str(caught.value)


def _result(n: int, *, greater: bool = False) -> TuningResult:
    generator = np.random.default_rng(0)
    trials = tuple(
        TrialRecord(
            k,
            "pruned" if k % 4 == 3 else "complete",
            {"dropout": k / n},
            () if k % 4 == 3 else (0.4 + 0.05 * generator.random() + (2.0 if k == 5 else 0.0),),
            k == 0,
        )
        for k in range(n)
    )
    importance = {"max_epochs": 0.61, "dropout": 0.3, "numeric_encoding": 0.09}
    model: Any = None
    name = "roc_auc" if greater else "log_loss"
    few: dict[str, float] = {}
    ends: Any = "trials"
    return TuningResult(
        model, name, greater, trials, None, False, "", ends, importance if n > 5 else few, 1.0
    )


@pytest.mark.parametrize("n", [0, 1, 30])
def test_the_picture(n: int, tmp_path: Path) -> None:
    figure = plot_tuning(_result(n))
    figure.savefig(tmp_path / "p.png", dpi=100)
    history, importance = figure.axes
    labels = history.get_legend_handles_labels()[1]
    assert ("pruned" in labels) == ("beyond the axis" in labels) == (n == 30)
    if n == 30:
        bars = [text.get_text() for text in importance.get_yticklabels()]
        assert bars == ["numeric_encoding", "dropout", "max_epochs"]


def test_options_of_the_function_are_those_of_the_search() -> None:
    assert TuneOptions().time_limit == 600.0
    assert (run_module.tune.__kwdefaults__ or {})["n_folds"] == TuneOptions().n_folds
