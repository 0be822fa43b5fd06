"""Whether a table fits in memory: amounts in words, estimates, what estimators make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tabwright import TabularClassifier, TabularRegressor
from tabwright.errors import TableError
from tabwright.streaming import memory
from tabwright.streaming.memory import bytes_of, free_memory, memory_needed, reason_to_stream


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2GB", 2 * 10**9),
        ("500 MB", 500 * 10**6),
        ("1.5gib", 1.5 * 2**30),
        ("64k", 64_000),
        ("4096", 4096),
    ],
)
def test_amounts_in_words(text: str, expected: float) -> None:
    assert bytes_of(text) == expected


@pytest.mark.parametrize("text", ["", "much", "2 cups", "-1GB", "0", "1iB"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"memory must be .*; got"):
        bytes_of(text)


def _table(n_rows: int) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    size = draw.normal(size=n_rows)
    label = np.where(size + 0.3 * draw.normal(size=n_rows) > 0, "yes", "no")
    weight = draw.integers(1, 3, size=n_rows)
    return pl.DataFrame({"size": size, "label": label, "score": 3 * size, "weight": weight})


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv", "csv.gz"])
def test_the_estimate_grows_with_the_rows(suffix: str, tmp_path: Path) -> None:
    needed = []
    for n_rows in (2_000, 20_000):
        path = tmp_path / f"{n_rows}.{suffix}"
        if suffix == "parquet":
            _table(n_rows).write_parquet(path)
        elif suffix == "arrow":
            _table(n_rows).write_ipc(path)
        else:
            compression: Any = "gzip" if suffix.endswith("gz") else "uncompressed"
            _table(n_rows).write_csv(path, compression=compression)
        needed.append(memory_needed(path))
    assert 9 < needed[1] / needed[0] < 11
    assert needed[1] > 2 * _table(20_000).estimated_size()


def test_the_default_budget_is_half_of_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _table(1000).write_parquet(tmp_path / "t.parquet")
    free = free_memory()
    assert free is None or free > 10**6
    assert reason_to_stream(tmp_path / "t.parquet", None) is None
    monkeypatch.setattr(memory, "free_memory", lambda: 20_000)
    reason = reason_to_stream(tmp_path / "t.parquet", None)
    assert reason is not None
    assert "more than half of the free memory (10.0 kB): rows come from disk" in reason
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    assert reason_to_stream(tmp_path / "t.parquet", None) is None


def _small(**values: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"hidden_dim": 8, "max_epochs": 6, "n_members": 2}
    settings |= {"learning_rate": 0.02}
    return settings | {"random_state": 0, "num_hidden_layers": 1} | values


@pytest.mark.parametrize("budget", ["1kB", "1GB"])
def test_estimators_fit_files_in_memory_or_from_disk(budget: str, tmp_path: Path) -> None:
    table = _table(400)
    table.write_parquet(tmp_path / "t.parquet")
    epochs: list[int] = []
    classifier = TabularClassifier(**_small())
    fitted = classifier.fit_file(
        tmp_path / "t.parquet",
        "label",
        drop=["score"],
        weight="weight",
        memory=budget,
        callbacks=[lambda epoch: epochs.append(epoch.epoch)],
    )
    assert fitted is classifier
    assert ("streamed" in classifier.model_.card) == (budget == "1kB")
    assert classifier.score(table.select("size"), table["label"]) > 0.7
    assert classifier.classes_.tolist() == ["no", "yes"]
    assert epochs == [1, 2, 3, 4, 5, 6]
    regressor = TabularRegressor(**_small()).fit_file(
        tmp_path / "t.parquet", "score", drop=["label", "weight"], memory=budget
    )
    assert regressor.score(table.select("size"), table["score"]) > 0.3


@pytest.mark.parametrize("budget", ["1kB", "1GB"])
def test_files_without_the_column_are_refused(budget: str, tmp_path: Path) -> None:
    _table(400).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(
        TableError, match=r"no column 'lable'; did you mean 'label'\? its columns are size, label"
    ):
        TabularClassifier(**_small()).fit_file(tmp_path / "t.parquet", "lable", memory=budget)


def test_rows_without_a_target_are_left_out_either_way(tmp_path: Path) -> None:
    label = pl.when(pl.col("size") > 1).then(None).otherwise("label").alias("label")
    _table(400).with_columns(label).write_parquet(tmp_path / "t.parquet")
    for budget in ("1kB", "1GB"):
        model = TabularClassifier(**_small())
        model.fit_file(tmp_path / "t.parquet", "label", memory=budget, drop_null_target=True)
        counts = model.model_.card
        assert counts["n_training_rows"] + counts["n_validation_rows"] < 360
