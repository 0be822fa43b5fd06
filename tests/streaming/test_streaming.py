"""Laws of training from disk: every row once, the same rows for all, and the model of memory."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from campaigns.kill_training import difference
from tabwright import TabularClassifier, TabularRegressor
from tabwright.distributed.member_assignment import MemberAssignment
from tabwright.distributed.workers import ALONE, Workers
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.errors import TableError
from tabwright.fitting.arguments import FitCallbacks
from tabwright.fitting.fit_table import fit_table
from tabwright.fitting.streamed import jobs, scanned_table
from tabwright.fitting.streamed.fit_files import fit_files
from tabwright.fitting.streamed.jobs import LocalTrainer
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.target_scale import TargetScale
from tabwright.metrics import score_classification, score_regression
from tabwright.settings import FitSettings, Task
from tabwright.streaming import chunks as table_chunks
from tabwright.streaming import spool
from tabwright.streaming.chunks import FilesTable, RowPlaces
from tabwright.streaming.rows import Goal, StreamedHeldOut, StreamedRows
from tabwright.streaming.scan import SAMPLE_LIMITS, Scan, ScanJob
from tabwright.streaming.spool import Blocks, SpoolWriter, record_dtype, records_of
from tabwright.tables import profile_table, read_described
from tabwright.tables.cell_format import USUAL
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import LabelledRows
from tabwright.training import steps
from tabwright.training.batches import batch_bounds
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.steps import Steps

N_ROWS = 1500
COLUMNS = ColumnUses("label", drop=("value",))


def table(n_rows: int = N_ROWS) -> pl.DataFrame:
    """Numbers, levels, a numbering, a target of each task, groups and weights."""
    draw = np.random.default_rng(0)
    size, noise = draw.normal(size=n_rows), draw.normal(size=n_rows)
    kind = draw.choice(["red", "green", "blue"], size=n_rows)
    score = size + (kind == "red") + 0.5 * noise
    return pl.DataFrame(
        {
            "number": np.arange(n_rows) + 7,
            "size": size,
            "kind": kind,
            "label": np.where(score > 0.4, "yes", "no"),
            "value": 1e6 + score,
            "household": np.arange(n_rows) // 5,
            "mass": draw.integers(0, 3, size=n_rows),
        }
    )


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The table in two files of several small chunks."""
    monkeypatch.setattr(table_chunks, "CHUNK_ROWS", 400)
    folder = tmp_path / "table"
    folder.mkdir()
    table()[:900].write_parquet(folder / "a.parquet")
    table()[900:].write_parquet(folder / "b.parquet")
    return folder


def _settings(task: Task, **values: Any) -> FitSettings:
    values = {"max_epochs": 3, "n_members": 2, "hidden_dim": 16, "num_hidden_layers": 1} | values
    return FitSettings(task=task, **values)


def _fit(
    source: Path, columns: ColumnUses = COLUMNS, test_fraction: float = 0.2, **rest: Any
) -> FittedModel:
    model = fit_files(str(source), columns, _settings, test_fraction=test_fraction, **rest)
    assert model is not None
    return model


# -- the fixed place of every row ---------------------------------------------------------------


def _places(files: FilesTable, group: str | None = None) -> RowPlaces:
    return RowPlaces(files, 3, validation_fraction=0.25, test_fraction=0.2, group=group)


def _placed(source: Path, group: str | None = None) -> pl.DataFrame:
    files = FilesTable.of(source)
    parts = []
    for chunk in files.chunks(["number", "household"]):
        for place, mask in _places(files, group).masks(chunk).items():
            rows = chunk.frame.filter(pl.Series(mask))
            parts.append(rows.with_columns(pl.lit(place).alias("place")))
    return pl.concat(parts).sort("number")


def test_every_row_has_one_place_whatever_the_chunks_and_the_folder(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = _placed(files)
    assert placed["number"].to_list() == table()["number"].to_list()
    shares = dict(placed["place"].value_counts().iter_rows())
    assert shares["test"] == pytest.approx(0.2 * N_ROWS, abs=60)
    assert shares["validation"] == pytest.approx(0.2 * N_ROWS, abs=60)
    monkeypatch.setattr(table_chunks, "CHUNK_ROWS", 65_536)
    assert _placed(files.rename(tmp_path / "elsewhere")).equals(placed)


def test_groups_stay_on_one_side(files: Path) -> None:
    placed = _placed(files, group="household")
    sides = placed.group_by("household").agg(pl.col("place").n_unique())
    assert sides["place"].max() == 1
    assert placed["place"].n_unique() == 3


# -- the first pass -----------------------------------------------------------------------------


def _job(
    source: Path, columns: ColumnUses = COLUMNS, task: Task | None = None, **rest: Any
) -> ScanJob:
    files = FilesTable.of(source)
    return ScanJob(files, columns, _places(files, columns.group), task, **rest)


def _scan(
    source: Path, columns: ColumnUses = COLUMNS, task: Task | None = None, **rest: Any
) -> Scan:
    job = _job(source, columns, task, **rest)
    return job.found(job.share())


def test_counts_and_scales_are_exact(files: Path) -> None:
    placed = _placed(files).hstack(table().drop("number", "household"))
    train = placed.filter(pl.col("place") == "train")
    scan = _scan(files)
    assert scan.task == "classification"
    assert scan.classes is not None
    assert scan.class_mass is not None
    assert scan.classes.tolist() == ["no", "yes"]
    assert scan.class_mass.tolist() == [(train["label"] == v).sum() for v in ("no", "yes")]
    assert scan.identifiers == ("number",)
    values = _scan(files, ColumnUses("value", weight="mass"))
    assert values.task == "regression"
    assert values.scale is not None
    kept = train.filter(pl.col("mass") > 0)
    weight = kept["mass"].to_numpy().astype(np.float64)
    exact = TargetScale.fit(kept["value"].to_numpy(), weight)
    assert values.scale.mean == pytest.approx(exact.mean, rel=1e-14)
    assert values.scale.scale == pytest.approx(exact.scale, rel=1e-9)
    assert (values.scale.low, values.scale.high) == (exact.low, exact.high)
    assert values.mean_weight == pytest.approx(weight.mean())
    assert values.n_left_out == (table()["mass"] == 0).sum()


def test_samples_are_the_rows_in_order_or_the_same_uniform_ones(files: Path) -> None:
    placed = _placed(files).hstack(table().drop("number", "household"))
    train = placed.filter(pl.col("place") == "train")
    assert _scan(files).samples["train"]["number"].to_list() == train["number"].to_list()
    limits = {"train": 100, "validation": 30, "test": 2000}
    sample = _scan(files, limits=limits).samples
    assert sample["train"].height == 100
    assert sample["validation"].height == 30
    assert set(sample["train"]["number"]) <= set(train["number"])
    # Rows stay whole, whatever was thrown out between them.
    whole = sample["train"].select(name for name in sample["train"].columns if name in train)
    assert whole.height == whole.join(train, on=whole.columns, how="semi").height
    assert len(whole.columns) >= 5
    middle = sample["train"]["number"].median()
    assert isinstance(middle, float)
    assert 500 < middle < 1000


@pytest.mark.parametrize("columns", [COLUMNS, ColumnUses("value", weight="mass")])
def test_workers_find_together_what_one_finds(files: Path, columns: ColumnUses) -> None:
    limits = {"train": 100, "validation": 2000, "test": 20}
    alone = _scan(files, columns, limits=limits)
    barrier, given = threading.Barrier(3, timeout=30), [b""] * 3  # pickled: nothing is shared

    def scan(rank: int) -> Scan:
        job = _job(files, columns, limits=limits)
        # Five chunks: the third worker has one.
        given[rank] = pickle.dumps(job.share(jobs.chunks_of_worker(rank, 3)))
        barrier.wait()
        found = job.merged(piece for data in given for piece in pickle.loads(data).pieces(7))
        barrier.wait()
        return found

    with ThreadPoolExecutor(3) as pool:
        scans = list(pool.map(scan, range(3)))
    for found in scans:
        assert found.n_rows == alone.n_rows
        assert found.task == alone.task
        for place, sample in alone.samples.items():
            assert found.samples[place].equals(sample)
        if alone.scale is not None:
            assert found.scale is not None
            assert found.scale.mean == pytest.approx(alone.scale.mean, rel=1e-14)
            assert found.scale.scale == pytest.approx(alone.scale.scale, rel=1e-9)
        np.testing.assert_array_equal(found.class_mass, alone.class_mass)


def test_a_class_that_would_not_train_trains(files: Path) -> None:
    placed = _placed(files)
    rare = placed.filter(pl.col("place") == "test")["number"].to_list()[:2]
    rare += placed.filter(pl.col("place") == "validation")["number"].to_list()[:1]
    for name, rows in (("a", slice(0, 900)), ("b", slice(900, None))):
        label = pl.when(pl.col("number").is_in(rare)).then(pl.lit("rare")).otherwise("label")
        table()[rows].with_columns(label.alias("label")).write_parquet(files / f"{name}.parquet")
    scan = _scan(files)
    assert scan.classes is not None
    assert scan.class_mass is not None
    assert scan.classes.tolist() == ["no", "rare", "yes"]
    assert scan.class_mass[1] == 3
    assert scan.only_training == {1}
    assert sum(scan.n_rows.values()) == N_ROWS
    assert scan.n_rows["train"] == scan.class_mass.sum()
    for place in ("validation", "test"):
        assert "rare" not in scan.samples[place]["label"]
        assert scan.samples[place].height == scan.n_rows[place]
    model = _fit(files)
    assert model.class_prior is not None
    assert model.class_prior.min() > 0


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        ({"label": None}, COLUMNS, "'label' must have no missing values; got one in row 1"),
        ({"mass": -1}, ColumnUses("label", weight="mass"), "finite numbers, none below 0"),
        ({}, ColumnUses("labels"), "has no column 'labels'"),
        ({"label": "yes"}, COLUMNS, "at least 2 classes; got 1 class"),
    ],
)
def test_bad_tables_are_refused(
    change: dict[str, Any], columns: ColumnUses, message: str, files: Path
) -> None:
    every = {name: pl.lit(value, dtype=table().schema[name]) for name, value in change.items()}
    for path in files.iterdir():
        pl.read_parquet(path).with_columns(**every).write_parquet(path)
    with pytest.raises(ValueError, match=message):
        _fit(files, columns)


def test_rows_without_a_target_are_left_out_where_that_is_asked_for(files: Path) -> None:
    whole = pl.read_parquet(files / "a.parquet")
    holes = pl.when(pl.col("number") % 3 == 0).then(None).otherwise("label").alias("label")
    whole.with_columns(holes).write_parquet(files / "a.parquet")
    columns = replace(COLUMNS, drop_null_target=True)
    said: list[str] = []
    model = _fit(files, columns, callbacks=FitCallbacks(on_message=said.append))
    assert "left out 300 rows without a target or of weight 0" in said
    assert model.card["n_training_rows"] < 900


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training_mode": "tree_teacher_distillation"}, "a tree ensemble learns in memory"),
        ({"refit": True}, "refit is for tables in memory"),
    ],
)
def test_what_needs_memory_is_refused(values: dict[str, Any], message: str, files: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fit_files(str(files), COLUMNS, lambda task: _settings(task, **values))


SPELT = {
    "a unit": ([f"{k % 50} kg" for k in range(N_ROWS)], "7 lb", "got '7 lb' in row 98;"),
    "dates": (
        [f"{k % 12 + 1}/{k % 28 + 1}/2020" for k in range(N_ROWS)],
        "31/12/2020",
        "got '31/12/2020' in row 98;",
    ),
    "a marker": ([f"{k % 50} kg" for k in range(N_ROWS)], "unknown", "got 'unknown' in row 98;"),
}


def _spelt_file(folder: Path, kind: str) -> Path:
    """A table of one chunk and a fourth, whose third row from the end breaks the spelling."""
    cells, odd, _ = SPELT[kind]
    cells = [*cells[: N_ROWS - 3], odd, *cells[-2:]]
    path = folder / "t.csv"
    table().select("label", "size").with_columns(spelt=pl.Series(cells)).write_csv(path)
    return path


@pytest.mark.parametrize("kind", SPELT)
def test_text_means_in_a_stream_what_it_means_in_memory(kind: str, tmp_path: Path) -> None:
    path = _spelt_file(tmp_path, kind)
    streamed = _fit(path, ColumnUses("label")).encoder.plan_
    found = read_described(path)
    profile = profile_table(
        found.frame.drop("label"), notes=found.notes, formats=found.formats, typed=True
    )
    roles = {column.name: column.role for column in profile.columns}
    forms = {column.name: column.form for column in profile.columns}
    assert dict(zip(streamed.names, streamed.kinds, strict=True)) == roles
    for place, name in enumerate(streamed.names):
        assert streamed.formats.get(place, USUAL) == forms[name]


@pytest.mark.parametrize("kind", SPELT)
def test_a_cell_that_breaks_a_spelling_is_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_chunks, "CHUNK_ROWS", 1400)
    monkeypatch.setitem(SAMPLE_LIMITS, "train", 100)
    monkeypatch.setitem(SAMPLE_LIMITS, "validation", 100)
    monkeypatch.setitem(SAMPLE_LIMITS, "test", 100)
    path = _spelt_file(tmp_path, kind)
    rule = f"column 'spelt' must hold .*{SPELT[kind][2]}.*role.*counted from row 1,401 of t.csv"
    with pytest.raises(TableError, match=rule):
        _fit(path, ColumnUses("label"))
    model = _fit(path, ColumnUses("label"), roles={"spelt": "category"})
    assert model.encoder.plan_.kinds == ("numeric", "category")


@pytest.mark.parametrize(
    ("dtype", "task"),
    [(pl.Decimal(20, 2), "regression"), (pl.Float32, "regression"), (pl.UInt8, "classification")],
)
def test_a_target_of_any_type_of_numbers_is_learned(dtype: Any, task: str, tmp_path: Path) -> None:
    numbers = pl.Series([k % (2 if dtype == pl.UInt8 else 90) / 1 for k in range(N_ROWS)])
    numbers = numbers if dtype == pl.UInt8 else numbers / 4
    path = tmp_path / "t.parquet"
    table().select("size").with_columns(y=numbers.cast(dtype)).write_parquet(path)
    assert _fit(path, ColumnUses("y")).settings.task == task


def test_a_target_that_breaks_its_spelling_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_chunks, "CHUNK_ROWS", 1400)
    path = _spelt_file(tmp_path, "a unit")
    rule = "column 'spelt' must hold numbers; got '7 lb' in row 98; .*from row 1,401 of t.csv"
    with pytest.raises(TableError, match=rule):
        _fit(path, ColumnUses("spelt"))


def test_excel_is_not_streamed(tmp_path: Path) -> None:
    table(20).write_excel(tmp_path / "table.xlsx")
    with pytest.raises(TableError, match="streamed must be CSV, JSON lines, Parquet or Arrow"):
        FilesTable.of(tmp_path / "table.xlsx")


# -- rows in batches ----------------------------------------------------------------------------


def _blocks(folder: Path, sizes: tuple[int, ...] = (700, 90, 555)) -> tuple[Blocks, Goal]:
    """Rows whose only column is their own number, in chunks written by two workers."""
    n_rows = sum(sizes)
    frame = pl.DataFrame({"number": np.arange(n_rows, dtype=np.float64)})
    encoder = TableEncoder("standard")
    encoder.fit(RowsToFit(frame, profile_table(frame), target=None, task="classification"))
    dtype = record_dtype(1, 0, weighted=False)
    writers = [SpoolWriter(folder, "rows", worker) for worker in range(2)]
    numbers = np.arange(n_rows, dtype=np.float32)[:, None]
    for number, (start, size) in enumerate(
        zip(np.cumsum([0, *sizes[:-1]]).tolist(), sizes, strict=True)
    ):
        compact = Compact(numbers[start : start + size], np.empty((size, 0), dtype=np.int32))
        target = np.arange(start, start + size) % 2
        writers[(number + 1) % 2].append(0, number, records_of(compact, target, None, dtype))
    for writer in writers:
        writer.close()
    goal = Goal(encoder, None, None, 1.0, torch.device("cpu"))
    return Blocks.open(folder, "rows", 2, dtype), goal


def _batches(rows: StreamedRows, epoch: int, skip: int = 0) -> list[list[float]]:
    return [batch.x[:, 0].tolist() for batch in rows.epoch(epoch, skip=skip)]


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_BUFFER_BLOCKS", 2)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("batch_size", [32, 1000])
def test_an_epoch_deals_every_row_once_in_an_order_of_its_own(
    batch_size: int, tmp_path: Path
) -> None:
    blocks, goal = _blocks(tmp_path)
    assert blocks.total == 1345
    rows = StreamedRows(blocks, goal, batch_size, 0, MemberAssignment.of(ALONE, 1))
    first, second = _batches(rows, 1), _batches(rows, 2)
    bounds = batch_bounds(1345, batch_size)
    assert [len(batch) for batch in first] == [end - start for start, end in bounds]
    assert rows.n_batches == len(first)
    for epoch in (first, second):
        assert sorted(chain.from_iterable(epoch)) == list(range(1345))
    assert first != second
    assert _batches(rows, 1) == first
    assert (
        _batches(StreamedRows(blocks, goal, batch_size, 1, MemberAssignment.of(ALONE, 1)), 1)
        != first
    )
    for skip in range(len(first) + 1):
        assert _batches(rows, 2, skip=skip) == second[skip:]
    blocks.close()


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("n_workers", [2, 3, 40])
def test_workers_share_every_batch_evenly(n_workers: int, tmp_path: Path) -> None:
    blocks, goal = _blocks(tmp_path, (75, 62))
    whole = _batches(StreamedRows(blocks, goal, 32, 0, MemberAssignment.of(ALONE, 1)), 1, skip=1)
    shares = [
        list(
            StreamedRows(
                blocks, goal, 32, 0, MemberAssignment.of(Workers(rank, n_workers), 1)
            ).epoch(1, skip=1)
        )
        for rank in range(n_workers)
    ]
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert torch.cat([part.x[:, 0] for part in parts]).tolist() == batch
        sizes = [len(part.x) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        for part, start in zip(parts, np.cumsum([0, *sizes[:-1]]), strict=True):
            assert part.part == (start, len(batch))
    blocks.close()


def test_losses_of_held_out_rows_are_those_of_all_of_them(tmp_path: Path) -> None:
    blocks, goal = _blocks(tmp_path)

    def logits(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.cat([x, -x], dim=1) / 1000, torch.cat([-x, x], dim=1) / 500])

    everyone = goal.objective(blocks.read(np.arange(len(blocks))))
    x = torch.arange(1345.0)[:, None]
    found = StreamedHeldOut(blocks, goal, MemberAssignment.of(ALONE, 2)).losses(logits)
    torch.testing.assert_close(found, everyone.loss(logits(x)))
    blocks.close()


def test_a_spool_that_was_cut_short_is_no_spool(tmp_path: Path) -> None:
    blocks, _ = _blocks(tmp_path)
    with (tmp_path / "rows-0.rows").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(OSError, match="shorter than it was"):
        blocks.read(np.arange(len(blocks)))
    blocks.close()


# -- the whole way ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_file_of_text_gives_the_model_of_parquet(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_chunks, "CHUNK_ROWS", 400)
    models = []
    for kind in ("parquet", suffix):
        # The name is part of the hash; so it must not tell the formats apart.
        monkeypatch.setattr(FilesTable, "name", lambda self, file: str(file))
        path = tmp_path / f"t.{kind}"
        write: dict[str, Callable[[Path], object]] = {
            "parquet": table().write_parquet,
            "csv": table().write_csv,
            "jsonl": table().write_ndjson,
        }
        write[kind](path)
        models.append(_fit(path))
    assert difference(*models) is None


def test_a_run_stopped_at_any_step_goes_on_to_the_same_bits(files: Path, tmp_path: Path) -> None:
    whole = _fit(files)
    take = Steps.take
    for wanted in (1, 9, 17):
        checkpoint = Checkpoint(tmp_path / f"run{wanted}.safetensors", 0.0)
        count = 0

        def counted(self: Steps, *arguments: Any, wanted: int = wanted, **named: Any) -> None:
            nonlocal count
            count += 1
            if count > wanted:
                raise InterruptedError
            take(self, *arguments, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "_MOST_BATCHES", 1)
            patch.setattr(Steps, "take", counted)
            with pytest.raises(InterruptedError):
                _fit(files, checkpoint=checkpoint)
        assert difference(whole, _fit(files, checkpoint=checkpoint)) is None
    with pytest.raises(ValueError, match=r"same data and settings; different: .*table"):
        _fit(files, replace(COLUMNS, weight="mass"), checkpoint=checkpoint)


def test_the_spool_goes_with_the_run(files: Path, tmp_path: Path) -> None:
    spool = tmp_path / "rows"
    (tmp_path / "rows-0").mkdir()
    (tmp_path / "rows-0" / "left by a kill").write_text("")
    _fit(files, trainer=LocalTrainer(spool=spool))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table"]


def test_a_disk_without_room_is_said_before_the_work(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("", (), {"free": 10}))
    with pytest.raises(OSError, match=r"the encoded rows take 0\.0 GB"):
        _fit(files)


@pytest.mark.parametrize("mode", ["imbalance_aware", "calibrated_classifier", "tabresnet"])
def test_the_modes_train_from_files(mode: Any, files: Path) -> None:
    model = fit_files(
        str(files), COLUMNS, lambda task: _settings(task, training_mode=mode), test_fraction=0.2
    )
    assert model is not None
    assert model.metrics["test"]["log_loss"] < model.metrics["baseline"]["log_loss"]
    assert (model.class_weights is not None) == (mode == "imbalance_aware")
    assert json.dumps(model.card)


def test_a_quantity_gets_intervals_from_rows_that_chose_nothing(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanned_table, "_ASIDE_FROM", 50)
    # A share of some twenty rows would say little of nine in ten.
    rows = table(9_000)
    rows[:5000].write_parquet(files / "a.parquet")
    rows[5000:].write_parquet(files / "b.parquet")
    columns = ColumnUses("value", drop=("label",), weight="mass")
    model = _fit(files, columns, callbacks=FitCallbacks(on_message=print))
    assert model.metrics["test"]["rmse"] < model.metrics["baseline"]["rmse"]
    assert model.intervals is not None
    assert model.intervals.scale == "network"
    low, high = Predictor(model).predict_interval(rows.drop("value", "label", "mass"), 0.9).T
    true = rows["value"].to_numpy()
    assert np.mean((low <= true) & (true <= high)) == pytest.approx(0.9, abs=0.06)


def test_target_statistics_of_a_training_row_come_from_other_rows(files: Path) -> None:
    """A column that tells every row apart from most others must not give the target away."""
    draw = np.random.default_rng(1)
    for path in files.iterdir():
        frame = pl.read_parquet(path)
        code = pl.Series("code", [f"c{v}" for v in draw.integers(0, 600, size=frame.height)])
        label = pl.Series("label", draw.choice(["no", "yes"], size=frame.height))
        frame.select("number", code, label).write_parquet(path)
    model = _fit(files, ColumnUses("label"))
    assert model.encoder.plan_.statistic_names
    assert model.metrics["test"]["log_loss"] > 0.66
    assert model.history[-1]["train_loss"] > 0.6


def test_statistics_by_value_of_a_training_row_come_from_other_rows(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(1)
    for path in files.iterdir():
        which = draw.integers(0, 24, size=len(pl.read_parquet(path)))
        amount, label = 1_000 + 37 * which**2, np.array(["no", "yes"])[which % 2]
        pl.DataFrame({"amount": amount, "label": label}).write_parquet(path)
    encoded: dict[str, list[Compact]] = {"train": [], "validation": []}

    def noted(compact: Compact, *rest: Any) -> np.ndarray:
        # Of each chunk the training rows come first.
        name = min(encoded, key=lambda name: len(encoded[name]))
        encoded[name].append(compact)
        return records_of(compact, *rest)

    monkeypatch.setattr(jobs, "records_of", noted)
    model = _fit(files, ColumnUses("label"))
    plan = model.encoder.plan_
    assert len(plan.value_statistics) == 1
    of_new_rows = set(plan.value_statistics[0].table.ravel().tolist())
    for name, parts in encoded.items():
        own = np.concatenate([part.numeric[:, plan.n_own] for part in parts])
        assert (set(own.tolist()) <= of_new_rows) == (name == "validation")


def test_a_table_that_fits_in_memory_gives_as_good_a_model(files: Path) -> None:
    def settings(task: Task) -> FitSettings:
        return _settings(task, max_epochs=12, hidden_dim=32, batch_size=64, learning_rate=0.01)

    streamed = fit_files(str(files), COLUMNS, settings)
    assert streamed is not None
    frame = table().drop("label", "value")
    codes = (table()["label"] == "yes").to_numpy().astype(np.int64)
    in_memory = fit_table(
        LabelledRows(frame, codes), settings("classification"), classes=np.array(["no", "yes"])
    )
    fresh = table(6000)[N_ROWS:]
    scores = [
        score_classification(
            (fresh["label"] == "yes").to_numpy().astype(np.int64),
            Predictor(model).predict_proba(fresh.drop("label", "value")),
        )["log_loss"]
        for model in (streamed, in_memory)
    ]
    assert abs(scores[0] - scores[1]) < 0.03
    assert max(scores) < 0.45


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "target", "estimator", "loss", "unlearned"),
    [
        ("adult", "class", TabularClassifier, "log_loss", 0.55),
        ("california_housing", "median_house_value", TabularRegressor, "rmse", 115_000),
    ],
)
def test_real_tables_are_learned_from_disk_as_well_as_in_memory(
    name: str,
    target: str,
    estimator: type[TabularClassifier] | type[TabularRegressor],
    loss: str,
    unlearned: float,
    data_dir: Path,
    tmp_path: Path,
) -> None:
    """Two seeds of either way, on the same rows; one way's seeds differ by up to 2 %."""
    frame = pl.read_parquet(data_dir / f"{name}.parquet")
    frame = frame[np.random.default_rng(0).permutation(frame.height)]
    known, fresh = frame[: frame.height * 3 // 4], frame[frame.height * 3 // 4 :]
    for number, part in enumerate(known.iter_slices(known.height // 3 + 1)):
        part.write_parquet(tmp_path / f"{number}.parquet")

    def mean_loss(memory: str) -> float:
        losses = []
        for seed in (0, 1):
            model = estimator(
                quality="fast",  # networks alone, as from disk
                hidden_dim=64,
                num_hidden_layers=2,
                max_epochs=5,
                random_state=seed,
            ).fit_file(tmp_path, target, memory=memory)
            assert ("streamed" in model.model_.card) == (memory == "1kB")
            losses.append(_loss(model, fresh, target)[loss])
        return float(np.mean(losses))

    streamed, in_memory = mean_loss("1kB"), mean_loss("100GB")
    assert streamed == pytest.approx(in_memory, rel=0.02)
    assert max(streamed, in_memory) < 0.7 * unlearned


def _loss(
    model: TabularClassifier | TabularRegressor, rows: pl.DataFrame, target: str
) -> dict[str, float]:
    features = rows.drop(target)
    if isinstance(model, TabularRegressor):
        return score_regression(rows[target].to_numpy(), model.predict(features))
    codes = np.searchsorted(model.classes_, rows[target].to_numpy())
    return score_classification(codes, model.predict_proba(features))
