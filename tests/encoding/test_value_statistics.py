"""Target statistics of numbers: which columns get them, and that every path agrees on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tabwright.artifact.schema import Reader, TensorBag
from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.errors import ArtifactError
from tabwright.report.column_treatment import column_treatments
from tabwright.settings import NumericEncoding, Task
from tabwright.tables import profile_table
from tests.encoders import (
    Arrays,
    Damage,
    check_read_back,
    check_refused,
    cutting,
    equal_first,
    fit_encoder,
    input_names,
    inputs_by_onnx,
    probes_of,
    setting,
    state_of,
)

N_ROWS = 3_000


def _amounts(draw: np.random.Generator, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Mostly zero, else one of 60 amounts that decide the class each for itself."""
    amounts = np.cumsum(draw.integers(1, 300, 60)).astype(np.float64)
    which = np.where(draw.random(n_rows) < 0.4, draw.integers(0, 60, n_rows), -1)
    chance = np.append(np.where(np.arange(60) % 2 == 0, 0.95, 0.05), 0.2)
    return np.append(amounts, 0.0)[which], (draw.random(n_rows) < chance[which]).astype(np.int64)


def _chosen(encoder: TableEncoder) -> list[str]:
    numbers = encoder.plan_.positions("numeric")
    return [encoder.plan_.names[numbers[leaf.source]] for leaf in encoder.plan_.value_statistics]


# ---------------------------------------------------------------------------------------------
# Which columns get them
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("seed", range(3))
def test_a_column_whose_values_each_mean_something_gets_statistics(seed: int, task: Task) -> None:
    draw = np.random.default_rng(seed)
    values, target = _amounts(draw, N_ROWS)
    goal = target if task == "classification" else 50.0 * target - 7
    columns = {"noise": draw.normal(size=N_ROWS), "amount": values}
    encoder, compact = fit_encoder(columns, goal, task=task)
    assert _chosen(encoder) == ["amount"]
    own = compact.numeric[:, encoder.plan_.n_own]
    assert np.corrcoef(own, target)[0, 1] > 0.6
    name = "share of class 1" if task == "classification" else "mean target"
    names = input_names(encoder)
    assert encoder.sources_[names.index(f"amount: {name} by value")] == 1


@pytest.mark.parametrize("seed", range(20))
def test_columns_that_say_nothing_never_get_them(seed: int) -> None:
    draw = np.random.default_rng(seed)
    values, _ = _amounts(draw, N_ROWS)
    columns = {
        "codes": values,
        "normal": draw.normal(size=N_ROWS),
        "count": draw.integers(0, 300, N_ROWS),
        "heavy": draw.standard_cauchy(N_ROWS),
    }
    for target in (draw.integers(0, 2, N_ROWS), (draw.random(N_ROWS) < 0.02).astype(np.int64)):
        assert _chosen(fit_encoder(columns, target)[0]) == []
    heavy = draw.standard_cauchy(N_ROWS)
    assert _chosen(fit_encoder(columns, heavy, task="regression")[0]) == []


@pytest.mark.parametrize("noise", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_smooth_columns_do_not_get_them(seed: int, noise: float) -> None:
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(2, N_ROWS))
    wave = draw.integers(0, 500, N_ROWS)
    signal = 2 * x + np.tanh(3 * y) + np.sin(wave / 80) + noise * draw.normal(size=N_ROWS)
    columns = {"x": x, "y": y, "wave": wave}
    assert _chosen(fit_encoder(columns, signal, task="regression")[0]) == []
    assert _chosen(fit_encoder(columns, (signal > 0).astype(np.int64))[0]) == []
    alone = 2 * x + noise * draw.normal(size=N_ROWS)
    assert _chosen(fit_encoder({"x": x}, alone, task="regression")[0]) == []


@pytest.mark.parametrize("shape", [np.sin, np.abs, lambda x: x, lambda x: x**3])
def test_what_lines_within_bins_can_follow_needs_none(
    shape: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Of many rows without noise more leaves are always better, but bins are bent lines."""
    x = np.random.default_rng(0).uniform(-3, 3, 12_000)
    assert _chosen(fit_encoder({"x": x}, shape(x), task="regression")[0]) == []


def test_few_rows_and_few_values_do_not_get_them() -> None:
    values, target = _amounts(np.random.default_rng(0), 300)
    assert _chosen(fit_encoder({"amount": values}, target)[0]) == []
    values, target = _amounts(np.random.default_rng(0), N_ROWS)
    few = np.unique(values, return_inverse=True)[1] % 16
    assert _chosen(fit_encoder({"few": few, "one": np.ones(N_ROWS)}, few % 2)[0]) == []
    known = np.where(np.arange(N_ROWS) % 10 == 0, values, np.nan)
    assert _chosen(fit_encoder({"amount": known}, target)[0]) == []


@pytest.mark.parametrize("encoding", ["standard", "robust", "quantile_normal", "quantile_ple"])
def test_plain_encodings_have_none(encoding: NumericEncoding) -> None:
    values, target = _amounts(np.random.default_rng(0), N_ROWS)
    assert _chosen(fit_encoder({"amount": values}, target, encoding=encoding)[0]) == []


def test_dates_booleans_and_a_constant_target_have_none() -> None:
    values, target = _amounts(np.random.default_rng(0), N_ROWS)
    when = pl.Series(values.astype(np.int64) * 10**9).cast(pl.Datetime("us"))
    columns = {"when": when, "on": target == 1}
    encoder, _ = fit_encoder(columns, target, roles={"when": "datetime", "on": "boolean"})
    assert encoder.plan_.value_statistics == ()
    assert _chosen(fit_encoder({"amount": values}, np.zeros(N_ROWS), task="regression")[0]) == []


def test_without_a_target_there_are_none() -> None:
    values, _ = _amounts(np.random.default_rng(0), N_ROWS)
    frame = pl.DataFrame({"amount": values})
    encoder = TableEncoder().fit(
        RowsToFit(frame, profile_table(frame), target=None, task="classification")
    )
    assert encoder.plan_.value_statistics == ()


def test_a_large_table_is_checked_on_some_of_its_rows() -> None:
    draw = np.random.default_rng(0)
    values, target = _amounts(draw, 120_000)
    encoder, compact = fit_encoder({"amount": values, "noise": draw.normal(size=120_000)}, target)
    assert _chosen(encoder) == ["amount"]
    assert np.corrcoef(compact.numeric[:, encoder.plan_.n_own], target)[0, 1] > 0.6


# ---------------------------------------------------------------------------------------------
# What they are
# ---------------------------------------------------------------------------------------------


def test_statistics_of_a_training_row_come_from_other_rows() -> None:
    values, target = _amounts(np.random.default_rng(0), N_ROWS)
    encoder, own = fit_encoder({"amount": values}, target)
    at = encoder.plan_.n_own
    plain = encoder.transform(pl.DataFrame({"amount": values}))
    np.testing.assert_array_equal(own.numeric[:, :at], plain.numeric[:, :at])
    # Within a leaf the statistic of a row is lower where its own target is 1.
    table = encoder.plan_.value_statistics[0].table
    difference = own.numeric[:, at] - plain.numeric[:, at]
    assert (difference != 0).mean() > 0.9
    assert np.corrcoef(difference, target)[0, 1] < -0.1
    assert set(plain.numeric[:, at].tolist()) <= set(table[:, 0].tolist())


def test_the_same_seed_gives_the_same_statistics() -> None:
    values, target = _amounts(np.random.default_rng(0), N_ROWS)
    one, again, other = (
        fit_encoder({"a": values}, target, random_state=seed)[1] for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one.numeric, again.numeric)
    assert (one.numeric != other.numeric).any()


def test_rows_of_weight_zero_decide_nothing() -> None:
    """Half of the rows have a target turned round; without weight they change no statistic."""
    n_rows = 2 * N_ROWS
    draw = np.random.default_rng(0)
    values, target = _amounts(draw, n_rows)
    weight = np.where(draw.random(n_rows) < 0.5, 1.0, 0.0)
    wrong = np.where(weight > 0, target, 1 - target)
    frame = pl.DataFrame({"amount": values})
    right, other = (fit_encoder({"amount": values}, y, weight=weight)[0] for y in (target, wrong))
    assert _chosen(other) == ["amount"]
    np.testing.assert_array_equal(
        right.plan_.value_statistics[0].cuts, other.plan_.value_statistics[0].cuts
    )
    np.testing.assert_array_equal(right.transform(frame).numeric, other.transform(frame).numeric)
    assert _chosen(fit_encoder({"amount": values}, wrong)[0]) == []


def test_rows_of_weight_zero_take_no_place_in_the_check() -> None:
    n_rows = 40_000
    values, target = _amounts(np.random.default_rng(0), n_rows)
    weight = np.where(np.arange(n_rows) % 16 == 0, 1.0, 0.0)
    assert _chosen(fit_encoder({"amount": values}, target, weight=weight)[0]) == ["amount"]


def test_a_weight_counts_as_so_many_rows() -> None:
    draw = np.random.default_rng(0)
    values, target = _amounts(draw, N_ROWS)
    weight = draw.integers(1, 4, N_ROWS)
    weighted, _ = fit_encoder({"amount": values}, target, weight=weight.astype(np.float64))
    repeated, _ = fit_encoder({"amount": np.repeat(values, weight)}, np.repeat(target, weight))
    assert _chosen(weighted) == _chosen(repeated) == ["amount"]
    frame = pl.DataFrame({"amount": np.unique(values)})
    one, two = (
        encoder.transform(frame).numeric[:, encoder.plan_.n_own] for encoder in (weighted, repeated)
    )
    assert np.corrcoef(one, two)[0, 1] > 0.98


# ---------------------------------------------------------------------------------------------
# Every path says the same
# ---------------------------------------------------------------------------------------------


def _odd_table() -> tuple[dict[str, Any], np.ndarray]:
    """Amounts with missing cells and infinities, and integers past 2**53."""
    draw = np.random.default_rng(5)
    values, target = _amounts(draw, N_ROWS)
    amount = np.where(draw.random(N_ROWS) < 0.1, np.nan, values)
    amount[:40:2], amount[1:40:2] = np.inf, -np.inf
    target = np.where(np.isnan(amount), 1, target)
    account = pl.Series(2**60 + np.where(np.isfinite(amount), amount, 0).astype(np.int64))
    return {"noise": draw.normal(size=N_ROWS), "amount": amount, "account": account}, target


def _odd() -> TableEncoder:
    columns, target = _odd_table()
    encoder, _ = fit_encoder(columns, target)
    assert _chosen(encoder) == ["amount", "account"]
    return encoder


ODD = _odd()


def test_a_missing_value_has_a_statistic_of_its_own() -> None:
    frame = pl.DataFrame({"noise": [0.0], "amount": [None], "account": [2**60]})
    leaf = ODD.plan_.value_statistics[0]
    at = ODD.plan_.n_own
    assert ODD.transform(frame).numeric[0, at] == leaf.table[0, 0]
    # All rows without an amount were of class 1.
    assert leaf.table[0, 0] == leaf.table[:, 0].max()
    columns, target = _odd_table()
    never, _ = fit_encoder({"account": columns["account"]}, target)
    row = pl.DataFrame({"account": pl.Series([None, 0], dtype=pl.Int64)})
    assert np.isfinite(never.transform(row).numeric[0, 1:]).all()


def test_rows_one_by_one_say_what_all_at_once_say() -> None:
    frame = probes_of(ODD)
    compact = ODD.transform(frame)
    inputs = ODD.expand(compact)
    rows = np.concatenate([ODD.expand(ODD.row(row)) for row in frame.iter_rows(named=True)])
    np.testing.assert_array_equal(rows, inputs)
    one = ODD.transform(frame[7:8])
    np.testing.assert_array_equal(one.numeric, compact.numeric[7:8])
    # The probes do stand on either side of the cuts; those of integers lie between them.
    cuts, values = (
        ODD.plan_.value_statistics[0].cuts,
        compact.numeric[:, ODD.plan_.value_statistics[0].source],
    )
    assert np.isin(cuts, values).all()
    assert np.isin(np.nextafter(cuts, np.float32(-np.inf)), values).all()


def test_torch_and_onnx_say_what_numpy_says() -> None:
    frame = probes_of(ODD)
    compact = ODD.transform(frame)
    inputs = ODD.expand(compact)
    expand = ODD.torch_expander("cpu")
    found = expand(torch.from_numpy(compact.numeric), torch.from_numpy(compact.codes))
    np.testing.assert_array_equal(found.numpy(), inputs)

    given = inputs_by_onnx(ODD)
    statistics = [" by value" in name for name in input_names(ODD)]
    assert sum(statistics) == 2
    np.testing.assert_array_equal(given[:, statistics], inputs[:, statistics])
    np.testing.assert_allclose(given, inputs, rtol=2.5e-7, atol=0)


def test_each_part_of_the_compact_form_has_one_owner() -> None:
    owned = ODD.plan_.compact_columns()
    assert owned == {0: ([0], []), 1: ([1, 3], []), 2: ([2, 4], [])}


def test_the_treatment_says_so() -> None:
    noise, amount, _ = column_treatments(ODD.plan_)
    n_ranges = len(ODD.plan_.value_statistics[0].cuts) + 1
    assert f"; share of class 1 in each of {n_ranges} ranges of values" in amount.text
    assert "share" not in noise.text


def test_they_come_back_from_a_file() -> None:
    check_read_back(ODD)


# ---------------------------------------------------------------------------------------------
# What a damaged state is told
# ---------------------------------------------------------------------------------------------


def _no_width(arrays: Arrays) -> None:
    arrays["leaves.table"] = arrays["leaves.table"][:, :0]


DAMAGE: dict[str, tuple[Damage, str]] = {
    "a source that is no number": (setting("leaves.source", 1, 3), r"leaves\.source"),
    "a negative source": (setting("leaves.source", 0, -1), r"leaves\.source"),
    "a source twice": (setting("leaves.source", 0, 2), r"leaves\.source must increase"),
    "equal cuts": (equal_first("leaves.cuts"), r"leaves\.cuts must increase"),
    "a cut at infinity": (setting("leaves.cuts", -1, np.inf), r"leaves\.cuts"),
    "a cut that is none": (setting("leaves.cuts", 0, np.nan), r"leaves\.cuts"),
    "a cut too few": (cutting("leaves.cuts"), r"two rows more than there are cuts"),
    "no cuts": (setting("leaves.n_cuts", 0, 0), r"leaves\.n_cuts"),
    "more cuts than there are": (setting("leaves.n_cuts", 0, 2**62), r"leaves\.n_cuts"),
    "a statistic too large": (setting("leaves.table", 0, 3.1), r"leaves\.table"),
    "a statistic that is none": (setting("leaves.table", 0, np.nan), r"leaves\.table"),
    "a row too few": (cutting("leaves.table"), r"two rows more than there are cuts"),
    "a source too few": (cutting("leaves.source"), r"leaves\.n_cuts"),
    "no statistics": (_no_width, r"leaves\.table"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_refused(damage: str) -> None:
    check_refused(ODD, *DAMAGE[damage])


def test_statistics_need_names() -> None:
    document, arrays = state_of(ODD)
    document["statistic_names"] = ["log count"]
    _no_width(arrays)
    with pytest.raises(ArtifactError, match="at least one statistic"):
        TableEncoder.from_state(Reader(document), TensorBag(arrays))


def test_statistics_by_value_belong_to_tree_bins() -> None:
    document, arrays = state_of(ODD)
    document["numbers"]["encoding"] = "quantile_ple"
    with pytest.raises(ArtifactError, match=r"leaves must be empty .* 'quantile_ple'"):
        TableEncoder.from_state(Reader(document), TensorBag(arrays))
