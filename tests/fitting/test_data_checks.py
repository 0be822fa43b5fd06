"""Columns that give the target away, repeated rows, rows that the model was trained on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright import TabularClassifier, TabularRegressor
from tabwright.cli.app import app
from tabwright.fitting.data_checks import (
    read_checked_table,
    repeated_rows,
    revealing_columns,
    warning_of_folds,
)
from tabwright.settings import Quality
from tabwright.streaming.repeated_rows import CountedHashes, merged_hashes, n_repeated
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import LabelledRows, TableRequest, read_training_table
from tabwright.workflows.evaluate import score_table
from tabwright.workflows.requests.train import TrainRequest
from tabwright.workflows.train import run_training

N_ROWS = 400


def _frame(n_rows: int = N_ROWS) -> pl.DataFrame:
    generator = np.random.default_rng(0)
    size = generator.normal(size=n_rows)
    y = size + generator.normal(size=n_rows) > 0
    value = np.exp(size + generator.normal(scale=0.2, size=n_rows))
    return pl.DataFrame(
        {
            "size": size,
            "kind": generator.choice(["a", "b", "c"], size=n_rows),
            "alive": np.where(y, "yes", "no"),
            "score": np.where(y, 1.0, -1.0) * generator.uniform(0.1, 5, n_rows),
            "left_on": np.where(y, np.nan, generator.uniform(0, 10_000, n_rows)),
            "one_wrong": np.where(np.arange(n_rows) == 7, ~y, y),
            "label": np.where(y, "y", "n"),
            "cents": np.round(100 * value),
            "value": value,
        }
    )


def _revealing(frame: pl.DataFrame, target: str, path: Path, *drop: str) -> set[str]:
    frame.write_parquet(path)
    request = TableRequest(str(path), ColumnUses(target, drop))
    table = read_training_table(request, lambda _: None)
    of_classes = table.classes is not None
    return set(revealing_columns(table.rows, table.profile, of_classes=of_classes))


def test_columns_that_tell_the_target_are_named_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    found = _revealing(_frame(), "label", path)
    assert found == {"alive", "score", "left_on", "one_wrong"}
    assert _revealing(_frame(), "value", path, "label") == {"cents"}
    # Of few rows nothing is said.
    assert not _revealing(_frame(15), "label", path)


def test_a_column_that_is_right_in_99_of_100_rows_is_named(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    y = draw.random(2_000) < 0.24
    frame = pl.DataFrame(
        {
            "leak": np.where(draw.random(2_000) < 0.01, ~y, y),
            "score": np.where(draw.random(2_000) < 0.003, ~y, y) + draw.random(2_000) / 2,
            "good": np.where(draw.random(2_000) < 0.05, ~y, y),
            "label": np.where(y, "y", "n"),
        }
    )
    assert _revealing(frame, "label", tmp_path / "t.parquet") == {
        "leak",
        "score",
    }


def test_times_of_states_and_strong_markers_are_not_named(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    n_rows = 1_500
    hours = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 7, 1), "1h", eager=True)
    state = np.arange(n_rows) // 72 % 2
    marker = draw.normal(size=n_rows) + 4 * state
    frame = pl.DataFrame(
        {
            "time": hours[:n_rows],
            "day": hours[:n_rows].dt.date(),
            "hour": np.arange(n_rows) / 2,
            # The best cut is wrong in 2 of 100 rows.
            "marker": marker,
            "rounded": marker.round(1),
            "label": np.where(state == 1, "on", "off"),
        }
    )
    assert not _revealing(frame, "label", tmp_path / "t.parquet")


@pytest.mark.parametrize("n_wrong", [0, 10])
def test_a_number_with_an_interval_for_each_label_is_named(n_wrong: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    label = draw.integers(0, 5, 1_500)
    grade = np.where(np.arange(1_500) < n_wrong, draw.integers(0, 5, 1_500), label)
    frame = pl.DataFrame(
        {
            "score": 0.9 * draw.random(1_500) - grade,
            # Missing where the label is one of them.
            "paid": np.where(label == 4, np.nan, 0.9 * draw.random(1_500) + grade),
            "label": label,
        }
    )
    frame = frame.with_columns(pl.col("label").cast(pl.String))
    assert _revealing(frame, "label", tmp_path / "t.parquet") == {"score", "paid"}


def test_the_column_that_orders_the_rows_is_not_named(tmp_path: Path) -> None:
    at = np.arange(400.0)
    frame = pl.DataFrame({"at": at, "copy": -at, "label": np.where(at < 330, "old", "new")})
    frame.write_csv(tmp_path / "t.csv")
    for time, named in ((None, ["at", "copy"]), ("at", ["copy"])):
        request = TableRequest(str(tmp_path / "t.csv"), ColumnUses("label", time=time))
        said: list[str] = []
        read_checked_table(request, said.append)
        said = [text for text in said if text.startswith("warning: ")]
        assert [text.split("'")[1] for text in said] == named
        assert "If so, keep it; if not" in said[0]


@pytest.mark.parametrize("n_labels", [2, 5])
def test_no_column_of_noise_tells_anything(n_labels: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    label = generator.integers(0, n_labels, 500)
    # A rare label, levels of one row each, a column that is right in nine of ten rows.
    label[label == 1] = np.where(generator.random((label == 1).sum()) < 0.9, 0, 1)
    frame = pl.DataFrame(
        {
            "x": generator.normal(size=500),
            "few": generator.integers(0, 3, 500),
            "many": [f"k{k}" for k in generator.integers(0, 300, 500)],
            "good": np.where(generator.random(500) < 0.9, label, 0),
            "label": [f"l{k}" for k in label],
        }
    )
    assert not _revealing(frame, "label", tmp_path / "t.parquet")


@pytest.mark.parametrize("n_copies", [2, 4])
@pytest.mark.parametrize("memory", [None, 1])
def test_train_warns_of_revealing_columns_and_repeated_rows(
    memory: int | None, n_copies: int, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    frame = _frame().drop("score", "left_on", "one_wrong", "cents", "value")
    pl.concat([frame] * n_copies).write_csv(path)
    request = TrainRequest(
        TableRequest(str(path), ColumnUses("label")),
        output=tmp_path / "m.safetensors",
        settings={"max_epochs": 1, "n_members": 1, "hidden_dim": 8},
        memory=memory,
    )
    result = run_training(request)
    assert result is not None
    said = [message for message in result.messages if message.startswith("warning: ")]
    assert "column 'alive' alone tells the target 'label'" in said[0]
    assert "rows held out are equal to a training row" in said[1]
    n_repeated, n_test = (int(word) for word in re.findall("[0-9]+", said[1])[:2])
    assert 0.6 * n_test < n_repeated <= n_test
    assert len(said) == 2


def test_repeated_rows_are_counted_with_their_target() -> None:
    frame = pl.DataFrame({"a": [1, 2, 3, None], "b": ["x", "y", "z", None]})
    training = LabelledRows(frame, np.array([0, 0, 0, 0]))
    test = LabelledRows(frame, np.array([0, 1, 1, 0]))
    assert repeated_rows(training, test) == 2
    assert repeated_rows(training, LabelledRows(frame, np.array([1, 1, 1, 1]))) == 0
    # A column may have no name.
    unnamed = LabelledRows(frame.rename({"a": ""}), training.target)
    other = LabelledRows(frame.rename({"a": ""}).with_columns(pl.lit(9).alias("")), training.target)
    assert repeated_rows(unnamed, unnamed) == 4
    assert repeated_rows(unnamed, other) == 0
    # Of a table of few values nothing is said: its rows repeat each other everywhere.
    few = training.take(np.zeros(10, dtype=np.int64))
    assert repeated_rows(few, training) == 0


@pytest.mark.parametrize("n_copies", [2, 3, 10])
def test_a_table_of_copies_is_told_and_one_of_few_values_is_not(n_copies: int) -> None:
    draw = np.random.default_rng(n_copies)
    size = draw.normal(size=300)
    frame = pl.DataFrame({"size": size, "kind": draw.integers(0, 3, 300)})
    rows = LabelledRows(pl.concat([frame] * n_copies), np.tile((size > 0) * 1, n_copies))
    order = draw.permutation(len(rows))
    test, training = order[: len(rows) // 5], order[len(rows) // 5 :]
    n_equal = int(np.isin(test % 300, training % 300).sum())
    assert n_equal > 0.7 * len(test)
    assert repeated_rows(rows.take(training), rows.take(test)) == n_equal
    warning = warning_of_folds(rows, [(training, test)])
    assert warning is not None
    assert f"{n_equal:,} of the {len(test):,} rows" in warning
    # As many rows of few levels, of which some are rare.
    codes = draw.choice(4, (len(rows), 2), p=[0.6, 0.3, 0.08, 0.02])
    few = LabelledRows(pl.DataFrame(codes, schema=["a", "b"]), codes[:, 0] % 2)
    assert repeated_rows(few.take(training), few.take(test)) == 0
    assert warning_of_folds(few, [(training, test)]) is None


@pytest.mark.parametrize("target", ["label", "value"])
def test_scoring_training_rows_is_told_and_scoring_others_is_not(
    target: str, tmp_path: Path
) -> None:
    kept = ["size", "kind", "cents", target]
    frame = _frame(2000)[kept] if target == "label" else _frame(2000)[["size", "kind", target]]
    training, other = frame[:1200], frame[1200:]
    kind = TabularClassifier if target == "label" else TabularRegressor
    model = kind(max_epochs=1, n_members=1, hidden_dim=8, random_state=0)
    model.fit(training.drop(target), training[target])
    fitted = model.model_
    for name, part in (("training", training), ("other", other), ("both", frame)):
        part.write_csv(tmp_path / f"{name}.csv")
    # A tenth of the rows chose the epoch.
    assert 900 <= score_table(fitted, str(tmp_path / "training.csv"), target).n_seen <= 1200
    assert 900 <= score_table(fitted, str(tmp_path / "both.csv"), target).n_seen <= 1250
    assert score_table(fitted, str(tmp_path / "other.csv"), target).n_seen == 0


@pytest.mark.parametrize("n_rows", [2_000, 300_000])
def test_repeated_rows_of_a_streamed_table_are_estimated(n_rows: int) -> None:
    rng = np.random.default_rng(0)
    training = rng.integers(0, 2**64, n_rows, dtype=np.uint64)
    test = np.concatenate([training[: n_rows // 4], rng.integers(0, 2**64, 1_000, dtype=np.uint64)])
    once = CountedHashes.of(training).counts
    half, rest = merged_hashes(training[::2]), merged_hashes(training[1::2])
    found = n_repeated(merged_hashes(half, rest), merged_hashes(test), len(test), once)
    assert found == pytest.approx(n_rows // 4, rel=0.05 if n_rows > 30_000 else 1e-9)
    assert n_repeated(merged_hashes(training), merged_hashes(test[-1_000:]), 1_000, once) == 0
    # Of few values each row repeats another, and copies come equally often.
    few = merged_hashes(training[:9])
    drawn = CountedHashes.of(rng.choice(training[:9], n_rows)).counts
    assert n_repeated(few, few, 9, drawn) == 0
    copied = CountedHashes.of(training[:500]).merged(CountedHashes.of(np.tile(training[:500], 2)))
    assert (copied.counts == 3).all()
    known, asked = merged_hashes(training[:400]), merged_hashes(training[100:500])
    assert n_repeated(known, asked, 400, copied.counts) == 300


@pytest.mark.parametrize("command", ["compare", "tune", "distill"])
def test_other_commands_say_what_train_says_once_and_before_any_fit(
    command: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    frame = _frame(120).drop("score", "left_on", "one_wrong", "cents", "value")
    pl.concat([frame, frame]).write_csv(path)
    small = ["--epochs", "1", "--seed", "0"]
    words = {
        "compare": ["--mode", "mlp_dense,linear_glm_baseline", "--no-references", "--folds", "2"],
        "tune": ["--trials", "1", "--folds", "2", "-o", str(tmp_path / "m.safetensors")],
        "distill": ["-o", str(tmp_path / "s.safetensors")],
    }[command]
    before = ["random_forest"] if command == "distill" else []
    done = CliRunner().invoke(app, [command, *before, str(path), "-t", "label", *words, *small])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert said.count("column 'alive' alone tells the target 'label'") == 1
    assert said.count("rows held out are equal to a training row") == 1
    fits = {"compare": "4 fits", "tune": "trial 0", "distill": "fitting the teacher"}[command]
    assert said.index("equal to a training row") < said.index(fits)


def test_rows_of_folds_are_counted_once() -> None:
    frame = pl.DataFrame({"a": [1, 2, 3, 1, 4, 5]})
    rows = LabelledRows(frame, np.array([0, 1, 0, 0, 1, 1]))
    index = np.arange(6)
    apart = [(index[3:], index[:3]), (index[:3], index[3:])]
    assert "2 of the 6 rows held out" in (warning_of_folds(rows, apart) or "")
    assert "2 of the 6 rows held out" in (warning_of_folds(rows, [*apart, *apart]) or "")
    # Equal rows on one side of every split.
    together = [(index[[1, 2, 4, 5]], index[[0, 3]]), (index[[0, 3]], index[[1, 2, 4, 5]])]
    assert warning_of_folds(rows, together) is None
    assert warning_of_folds(rows.take(np.zeros(6, dtype=np.int64)), apart) is None


@pytest.mark.parametrize(("share", "n_codes"), [(0.05, 60_000), (0.5, 3_000)])
def test_a_share_of_training_rows_is_told_and_what_chance_gives_is_not(
    share: float, n_codes: int, tmp_path: Path
) -> None:
    generator = np.random.default_rng(3)

    def drawn(n_rows: int) -> pl.DataFrame:
        code = generator.integers(0, n_codes, n_rows)
        label = np.where(code % 7 + generator.normal(size=n_rows) > 3, "y", "n")
        return pl.DataFrame({"code": code / 7, "label": label})

    training, other = drawn(2_000), drawn(4_000)
    model = TabularClassifier(max_epochs=1, n_members=1, hidden_dim=8, quality="fast", n_folds=1)
    fitted = model.fit(training.drop("label"), training["label"]).model_
    path = tmp_path / "t.csv"
    other.write_csv(path)
    # By chance, some rows are equal to one of training.
    assert np.isin(other["code"], training["code"]).mean() > 0.5 * 2_000 / n_codes
    assert score_table(fitted, str(path), "label").n_seen == 0
    n_known = round(share * 4_000)
    pl.concat([other[n_known:], training[:n_known]]).write_csv(path)
    seen = score_table(fitted, str(path), "label").n_seen
    assert 0.4 * n_known < seen < 2.0 * n_known


def _fit_and_count(training: pl.DataFrame, *scored: pl.DataFrame, path: Path) -> list[int]:
    model = TabularClassifier(max_epochs=1, n_members=1, hidden_dim=8, quality="fast", n_folds=1)
    fitted = model.fit(training.drop("label"), training["label"]).model_
    counts = []
    for frame in scored:
        frame.write_csv(path)
        counts.append(score_table(fitted, str(path), "label").n_seen)
    return counts


@pytest.mark.parametrize(
    ("repeated", "at_least"),
    [("each twice", 0.95), ("each ten times", 0.95), ("30 % twice", 0.85), ("30 % drawn", 0.85)],
)
def test_training_rows_that_repeat_are_counted(
    repeated: str, at_least: float, tmp_path: Path
) -> None:
    frame = _frame(2_400)[["size", "kind", "label"]]
    known, other = frame[:1_600], frame[1_600:]
    drawn = np.random.default_rng(0).integers(0, len(known), 480)
    table = {
        "each twice": pl.concat([known, known]),
        "each ten times": pl.concat([known[:200]] * 10),
        "30 % twice": pl.concat([known, known[:480]]),
        "30 % drawn": pl.concat([known, known[drawn]]),
    }[repeated]
    half = pl.concat([known[: 100 if "ten" in repeated else 400], other[:400]])
    training, of_half, of_none = _fit_and_count(table, table, half, other, path=tmp_path / "t.csv")
    # A tenth of the rows chose the epoch.
    assert at_least * len(table) < training <= len(table)
    assert 0.5 * (half.height - 400) < of_half < 1.4 * (half.height - 400)
    assert of_none == 0


@pytest.mark.parametrize("n_columns", [2, 4, 6, 8, 10])
def test_rows_of_few_levels_coincide_by_chance(n_columns: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(n_columns)
    codes = draw.choice(4, (8_000, n_columns), p=[0.5, 0.3, 0.15, 0.05])
    frame = pl.DataFrame({f"c{at}": [f"k{k}" for k in codes[:, at]] for at in range(n_columns)})
    label = np.where(codes[:, 0] + draw.normal(size=8_000) > 1, "y", "n")
    frame = frame.with_columns(label=pl.Series(label))
    training, *tests = frame[:2_000], frame[2_000:2_300], frame[2_300:4_300], frame[2_000:]
    counts = _fit_and_count(training, *tests, training, path=tmp_path / "t.csv")
    assert counts[:3] == [0, 0, 0]
    # Rows of ten columns hardly coincide, so that those of training are known.
    assert n_columns < 10 or 1_500 < counts[3] <= 2_000


def test_rows_of_a_refit_are_those_of_the_whole_table(tmp_path: Path) -> None:
    frame = _frame(400)[["size", "kind", "label"]]
    model = TabularClassifier(
        max_epochs=1, n_members=1, hidden_dim=8, quality="fast", n_folds=1, refit=True
    )
    fitted = model.fit(frame.drop("label"), frame["label"]).model_
    frame.write_csv(tmp_path / "t.csv")
    assert score_table(fitted, str(tmp_path / "t.csv"), "label").n_seen == 400


@pytest.mark.parametrize("quality", ["fast", "balanced"])
def test_rows_that_trees_were_fitted_on_are_training_rows(quality: Quality, tmp_path: Path) -> None:
    frame = _frame(400)[["size", "value"]]
    model = TabularRegressor(max_epochs=1, n_members=1, hidden_dim=8, quality=quality)
    fitted = model.fit(frame.drop("value"), frame["value"]).model_
    assert (fitted.trees is None) == (quality == "fast")
    assert fitted.card["n_training_rows"] < 360
    frame.write_csv(tmp_path / "t.csv")
    n_seen = score_table(fitted, str(tmp_path / "t.csv"), "value").n_seen
    assert n_seen == 400 if quality == "balanced" else 250 < n_seen < 390


def test_a_sketch_of_another_form_says_nothing(tmp_path: Path) -> None:
    frame = _frame(200)[["size", "kind", "label"]]
    model = TabularClassifier(max_epochs=1, n_members=1, hidden_dim=8, quality="fast", n_folds=1)
    fitted = model.fit(frame.drop("label"), frame["label"]).model_
    frame.write_csv(tmp_path / "t.csv")
    sketch = fitted.card["row_sketch"]
    changes: list[dict[str, object]] = [
        {"share": "all"},
        {"hashes": "abc"},
        {"hashes": "é"},
        {"by_chance": float("nan")},
        {"by_chance": -1.0},
    ]
    damaged = [{**sketch, **change} for change in changes]
    for other in (sketch["hashes"], {}, None, *damaged):
        old = replace(fitted, card={**fitted.card, "row_sketch": other})
        assert score_table(old, str(tmp_path / "t.csv"), "label").n_seen == 0
