"""The comparison of modes and tree ensembles: same folds for all, honest words."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from sklearn.model_selection import KFold, TimeSeriesSplit
from typer.testing import CliRunner

from tabwright.cli import console
from tabwright.cli.app import app
from tabwright.cli.commands import compare as command
from tabwright.errors import install_command
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import load_fitted
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import (
    TableRequest,
    TrainingTable,
    read_training_table,
)
from tabwright.workflows import compare
from tabwright.workflows.compare import run_comparison
from tabwright.workflows.folds import folds_of
from tabwright.workflows.paired_differences import PairedDifference
from tabwright.workflows.ranking import CandidateScores
from tabwright.workflows.requests.compare import CompareRequest

runner = CliRunner()
TINY = {"n_members": 1, "max_epochs": 2, "hidden_dim": 8, "batch_size": 64}


@pytest.fixture
def table(tmp_path: Path) -> str:
    generator = np.random.default_rng(0)
    size = generator.normal(size=200)
    kind = generator.choice(["a", "b", "c"], size=200)
    pl.DataFrame(
        {
            "size": size,
            "kind": kind,
            "who": [f"g{i // 8}" for i in range(200)],
            "day": [f"2024-{1 + i // 20:02d}-{1 + i % 20:02d}" for i in range(200)],
            "label": np.where(size + (kind == "a") > 0.5, "y", "n"),
            "price": 10 * size + generator.normal(size=200),
        }
    ).write_csv(tmp_path / "t.csv")
    return str(tmp_path / "t.csv")


def _request(table: str, target: str = "label", **words: Any) -> CompareRequest:
    other = "price" if target == "label" else "label"
    named = {name: words.pop(name) for name in ("time", "group") if name in words}
    dropped = tuple({"who", "day", other} - set(named.values()))
    asked = {"settings": TINY, "references": False, "n_folds": 2, **words}
    return CompareRequest(TableRequest(table, ColumnUses(target, dropped, **named)), **asked)


@pytest.mark.parametrize(("target", "n_modes"), [("label", 6), ("price", 4)])
def test_all_modes_that_fit_the_task_are_compared(table: str, target: str, n_modes: int) -> None:
    result = run_comparison(_request(table, target))
    assert len(result.candidates) == n_modes
    assert not any(candidate.is_reference for candidate in result.candidates)
    means = [candidate.mean(result.metric) for candidate in result.candidates]
    assert means == sorted(means)
    assert result.candidates[0].behind is None
    for candidate, mean in zip(result.candidates[1:], means[1:], strict=True):
        assert candidate.behind is not None
        assert candidate.behind.mean == pytest.approx(mean - means[0])
        assert candidate.behind.low <= candidate.behind.mean <= candidate.behind.high
    assert all(c.fit_seconds > 0 and c.rows_per_second > 0 for c in result.candidates)
    assert all(c.size_bytes and c.size_bytes > 1000 for c in result.candidates)
    assert result.use == result.candidates[0].name
    assert result.advice[0].startswith(f"use {result.use}: ")


def test_higher_is_better_where_it_is(table: str) -> None:
    modes = ("mlp_dense", "linear_glm_baseline")
    result = run_comparison(_request(table, modes=modes, metric="auc"))
    means = [candidate.mean("auc") for candidate in result.candidates]
    assert means == sorted(means, reverse=True)
    behind = result.candidates[1].behind
    assert behind is not None
    assert behind.mean == pytest.approx(means[0] - means[1])


def test_ensembles_stand_beside_the_modes(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "REFERENCES", ("hist_gradient_boosting", "nonsense_boosting"))
    said: list[str] = []
    request = _request(table, modes=("linear_glm_baseline",), references=True)
    result = run_comparison(request, on_message=said.append)
    assert any(install_command("trees") in text for text in said)
    trees = next(c for c in result.candidates if c.name == "hist_gradient_boosting")
    assert trees.is_reference
    assert trees.size_bytes
    assert result.use == "linear_glm_baseline"
    # Two epochs do not reach the trees, and the words say so.
    assert result.candidates[0] is trees
    assert "hist_gradient_boosting is" in result.advice[0]
    assert result.probability_best < 0.5


@pytest.mark.slow
def test_every_installed_ensemble(table: str) -> None:
    request = _request(table, "price", modes=("linear_glm_baseline",), references=True)
    names = {candidate.name for candidate in run_comparison(request).candidates}
    assert names == {"linear_glm_baseline", *compare.REFERENCES}


def test_every_candidate_sees_the_same_rows_and_no_test_row(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    judged = compare._judge

    def watching(fit: Any, train: TrainingTable, test: TrainingTable, *rest: Any) -> Any:
        seen.append((tuple(train.row_numbers), tuple(test.row_numbers)))
        return judged(fit, train, test, *rest)

    monkeypatch.setattr(compare, "_judge", watching)
    modes = ("linear_glm_baseline", "mlp_dense")
    run_comparison(_request(table, modes=modes, n_folds=3, n_repeats=2))
    assert len(seen) == 12
    assert seen[::2] == seen[1::2]
    for train, test in seen:
        assert not set(train) & set(test)
        assert len(train) + len(test) == 200
    for repeat in (seen[:6:2], seen[6::2]):
        assert sorted(row for _, test in repeat for row in test) == list(range(1, 201))
    assert seen[0] != seen[6]


def test_folds_by_group_and_by_time(table: str) -> None:
    said: list[str] = []
    frame = pl.read_csv(table)
    for words in ({"group": "who"}, {"time": "day"}):
        request = _request(table, modes=("linear_glm_baseline", "mlp_dense"), **words)
        rows = read_training_table(request.table, said.append)
        _, folds = folds_of(rows, n_folds=2)
        assert len(folds) == 2
        for train, test in folds:
            if "time" in words:
                assert frame["day"].gather(train).max() < frame["day"].gather(test).min()  # type: ignore[operator]
            else:
                assert not set(frame["who"].gather(train)) & set(frame["who"].gather(test))


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (("--folds", "1"), "folds must be at least 2; got 1", 2),
        (("--folds", "500"), "--folds must be from 2 to the 200 rows; got 500", 2),
        (("--repeats", "0"), "repeats must be at least 1", 2),
        (("--repeats", "2", "--time", "day"), "one and the same at every repeat", 2),
        (("--metric", "mcc"), "--metric must be one of accuracy", 2),
        (("--metric", "rmse"), "the metric of a classification task must be one of log_loss", 2),
        (("--mode", "magic"), "--mode must be one of", 2),
        (("--mode", "mlp_dense", "--mode", "mlp_dense"), "compared once; got 'mlp_dense'", 2),
        (("--mode", "mlp_dense", "--no-references"), "at least 2 candidates; got mlp_dense", 2),
        (("--members", "0"), "--members must be", 2),
        (("--threads", "0"), "threads must be at least 1", 2),
        (("--task", "regression", "--mode", "imbalance_aware"), "does not fit a regression", 2),
        (("--drop", "nothing"), "no column 'nothing'", 3),
    ],
)
def test_refusals_before_any_fit(
    words: tuple[str, ...], message: str, code: int, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("fitted")

    monkeypatch.setattr(compare, "fit_table", never)
    monkeypatch.setattr(compare, "soft_labels", never)
    target = "price" if "regression" in words else "label"
    result = runner.invoke(app, ["compare", table, "-t", target, *words])
    assert message in " ".join(result.output.split())
    assert result.exit_code == code


def test_a_class_that_a_fold_cannot_learn_is_refused(tmp_path: Path) -> None:
    labels = ["a"] * 30 + ["b"] * 30 + ["rare"]
    pl.DataFrame({"x": range(0, 122, 2), "label": labels}).write_csv(tmp_path / "t.csv")
    words = ["compare", str(tmp_path / "t.csv"), "-t", "label"]
    result = runner.invoke(app, words)
    assert result.exit_code == 3
    assert "class rare has none in a split" in " ".join(result.output.split())


def test_the_command_shows_a_table_and_words(table: str) -> None:
    words = ["compare", table, "-t", "label", "--drop", "who", "--drop", "day", "--drop", "price"]
    words += ["--mode", "mlp_dense", "--mode", "linear_glm_baseline", "--no-references"]
    words += ["--folds", "2", "--epochs", "2", "--members", "1"]
    shown = runner.invoke(app, words)
    assert shown.exit_code == 0, shown.output
    flat = " ".join(shown.output.split())
    assert "2 folds x 2 candidates: 4 fits" in flat
    for part in ("log_loss", "behind", "fit s", "KiB", "best", "use "):
        assert part in flat
    # A lead has as many digits as the ends of its interval.
    found = re.search(r"(\S+)  (\S+) to (\S+)  ", shown.output)
    assert found
    assert len({len(cell.partition(".")[2]) for cell in found.groups()}) == 1
    document = json.loads(runner.invoke(app, [*words, "--json"]).output)
    names = {candidate["name"] for candidate in document["candidates"]}
    assert names == {"mlp_dense", "linear_glm_baseline"}
    assert document["use"] in names
    assert 0 <= document["probability_best"] <= 1
    assert len(document["candidates"][0]["scores"]["log_loss"]) == 2


@pytest.mark.parametrize("width", [64, 80, 130])
def test_names_are_whole_and_what_does_not_fit_is_left_out(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(
        console, "out", Console(file=file, force_terminal=True, width=width, _environ={})
    )
    names = ("hist_gradient_boosting", "tree_teacher_distillation")
    scores: dict[str, tuple[float, ...]] = {
        "log_loss": (0.44, 0.46),
        "accuracy": (0.81, 0.82),
        "auc": (0.9, 0.9),
    }
    gap = PairedDifference(0.038, 0.005, 0.071, 0.9)
    candidates = tuple(
        CandidateScores(name, name == names[0], scores, 3.5, 14_942.0, 156_000, behind)
        for name, behind in zip(names, (None, gap), strict=True)
    )
    command._show(
        compare.Comparison(
            "classification", "log_loss", 891, 2, 1, candidates, names[1], 0.9, (), (), 12.0
        )
    )
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in file.getvalue().splitlines()]
    for name in names:
        assert len([line for line in lines if line.startswith(f"{name} ")]) == 1
    grid = lines[-3:]
    assert all(len(line) <= width for line in grid)
    assert ("accuracy" in grid[0]) == (width == 130)
    assert ("fit s" in grid[0]) == (width > 64)


def test_a_splitter_gives_the_folds_and_the_rows_held_out_inside(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[int], list[int]]] = []
    inside: list[tuple[list[int], list[int]] | None] = []
    judged = compare._judge

    def watching(one: Any, train: TrainingTable, test: TrainingTable, *rest: Any) -> Any:
        seen.append((train.row_numbers.tolist(), test.row_numbers.tolist()))
        return judged(one, train, test, *rest)

    def fitting(rows: Any, *rest: Any, validation: Any, **words: Any) -> Any:
        inside.append(None if validation is None else tuple(p.tolist() for p in validation[-1]))
        return fit_table(rows, *rest, validation=validation, **words)

    monkeypatch.setattr(compare, "_judge", watching)
    monkeypatch.setattr(compare, "fit_table", fitting)
    modes = ("linear_glm_baseline", "mlp_dense")
    result = run_comparison(_request(table, modes=modes, validation=TimeSeriesSplit(3)))
    assert result.n_folds == 3
    blocks = [(list(range(1, n + 1)), list(range(n + 1, n + 51))) for n in (50, 100, 150)]
    assert seen == [block for block in blocks for _ in modes]
    # Inside: the latest of the training rows; of the first fold as `fit_table` holds out in time.
    assert inside == [
        None,
        None,
        *[(list(range(50)), list(range(50, 100)))] * 2,
        *[(list(range(100)), list(range(100, 150)))] * 2,
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"validation": KFold(2), "n_repeats": 2}, "validation decides which rows are held out"),
        ({"validation": KFold(2), "time": "day"}, "validation decides which rows are held out"),
        (
            {"validation": [(range(50), range(50, 200))]},
            "cross-validation needs at least 2 splits; got 1",
        ),
        ({"validation": KFold(300)}, "KFold cannot split these 200 rows"),
        ({"validation": 3}, "must be a splitter"),
        ({"settings": {"eval_metric": "roc_acu"}}, "did you mean 'roc_auc'"),
    ],
)
def test_bad_splits_and_metrics_are_refused_before_any_fit(
    table: str, words: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_judge", None)
    with pytest.raises(ValueError, match=said):
        run_comparison(_request(table, **words))


def test_the_mode_to_use_is_saved_fitted_on_all_rows(table: str, tmp_path: Path) -> None:
    save = tmp_path / "best.safetensors"
    modes = ("linear_glm_baseline", "mlp_dense")
    result = run_comparison(_request(table, modes=modes, save=save))
    model = load_fitted(save)
    assert result.saved == save
    assert model.settings.training_mode == result.use
    assert model.card["n_training_rows"] + model.card["n_validation_rows"] == 200


@pytest.mark.parametrize("target", ["label", "price"])
def test_the_trees_that_won_are_saved_beside_the_mode_to_use(
    target: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightgbm")
    monkeypatch.setattr(compare, "REFERENCES", ("lightgbm",))
    save = tmp_path / "best.safetensors"
    settings = {**TINY, "max_epochs": 1, "quality": "fast"}
    words = {"references": True, "modes": ("linear_glm_baseline",), "settings": settings}
    result = run_comparison(_request(table, target, save=save, **words))
    assert result.candidates[0].name == "lightgbm"
    model = load_fitted(save)
    assert model.trees is not None
    assert [trees.kind for trees in model.trees.ensembles] == ["lightgbm"]
    # The trees know more than a network of one epoch.
    assert model.trees.weights[0] > 0.5
    assert result.saved_weights == {
        "networks": model.trees.network_weight,
        "lightgbm": model.trees.weights[0],
    }
    assert not any("to stay with tabwright" in sentence for sentence in result.advice)
    # Asked for networks on all rows, the fit has no rows that could weigh trees.
    settings = {**settings, "refit": True}
    again = run_comparison(
        _request(table, target, save=save, overwrite=True, **{**words, "settings": settings})
    )
    assert again.candidates[0].name == "lightgbm"
    assert again.saved_weights == {}
    assert any("to stay with tabwright" in sentence for sentence in again.advice)
    assert load_fitted(save).trees is None


def test_what_cannot_be_saved_is_refused_before_any_fit(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "read_checked_table", None)
    other = tmp_path / "notes.safetensors"
    other.write_text("not a model")
    with pytest.raises(ValueError, match="must not replace a file that is no model"):
        run_comparison(_request(table, save=other))
    with pytest.raises(ValueError, match=r"\.safetensors"):
        run_comparison(_request(table, save=tmp_path / "best.pkl"))


@pytest.mark.slow
def test_the_command_to_train_has_the_options_of_the_comparison(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "REFERENCES", ("hist_gradient_boosting",))
    monkeypatch.chdir(tmp_path)
    words = ["--target", "label", "--drop", "who,day", "--drop", "price", "--epochs", "2"]
    words += ["--folds", "2", "--mode", "linear_glm_baseline"]
    done = runner.invoke(app, ["compare", table, *words, "--save", "best.safetensors"])
    assert done.exit_code == 0, done.output
    same = "--target label --drop who --drop day --drop price --epochs 2"
    # Two epochs do not reach the trees: they won, and there is a way to what they know.
    assert f"\n  tabwright distill hist_gradient_boosting {table} {same}\n" in done.output
    mix = load_fitted(tmp_path / "best.safetensors").trees
    assert mix is not None
    kept = (
        "saved linear_glm_baseline with hist_gradient_boosting's trees beside its networks "
        f"(weights: networks {100 * mix.network_weight:.0f} %, hist_gradient_boosting "
        f"{100 * mix.weights[0]:.0f} %), fitted on all 200 rows, as best.safetensors"
    )
    printed = " ".join(done.output.split())
    assert kept in printed
    assert "to stay with tabwright" not in printed
    assert "alone is not saved" not in printed
    again = runner.invoke(app, ["compare", table, *words, "--no-references", "-m", "mlp_dense"])
    lines = again.output.splitlines()
    line = next(line for line in lines if line.startswith(f"  tabwright train {table}"))
    trained = runner.invoke(app, [*shlex.split(line)[1:], "-o", "own.safetensors"])
    assert same in line
    assert trained.exit_code == 0, trained.output
