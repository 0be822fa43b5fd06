"""The encoder as a whole: laws that hold for any table, and what it says of bad ones."""

import datetime as dt
import json
import pickle
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tabwright.artifact.container import pack, unpack
from tabwright.artifact.schema import Reader, TensorBag
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.errors import ArtifactError, TableError
from tabwright.settings import NumericEncoding
from tabwright.tables import Role, profile_table
from tests.encoders import input_names

ENCODINGS: tuple[NumericEncoding, ...] = get_args(NumericEncoding)
ROLES: dict[str, Role] = {
    "size": "numeric",
    "count": "numeric",
    "account": "numeric",
    "price": "numeric",
    "kind": "category",
    "street": "category",
    "old": "boolean",
    "when": "datetime",
    "day": "datetime",
}


def _table(n_rows: int = 400, seed: int = 0) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    start = dt.datetime(2024, 1, 1)
    holes = generator.random(n_rows) < 0.1
    return pl.DataFrame(
        {
            "size": pl.Series(
                [
                    None if h else v
                    for h, v in zip(holes, generator.normal(size=n_rows).tolist(), strict=True)
                ],
                dtype=pl.Float64,
            ),
            "count": generator.poisson(2.0, n_rows),
            "account": 2**60 + generator.integers(0, 50, n_rows),
            "price": [Decimal(int(v)).scaleb(-2) for v in generator.integers(0, 10**6, n_rows)],
            "kind": generator.choice(["red", "green", "blue"], n_rows, p=[0.6, 0.3, 0.1]),
            "street": [f"street {k}" for k in generator.integers(0, 90, n_rows)],
            "old": generator.random(n_rows) < 0.5,
            "when": [start + dt.timedelta(minutes=37 * i) for i in range(n_rows)],
            "day": pl.Series(
                [
                    None if i % 7 == 0 else (start + dt.timedelta(days=i)).date()
                    for i in range(n_rows)
                ],
                dtype=pl.Date,
            ),
        }
    )


def _fitted(
    frame: pl.DataFrame | None = None,
    encoding: NumericEncoding = "auto",
    roles: dict[str, Role] | None = None,
    **settings: Any,
) -> TableEncoder:
    frame = _table() if frame is None else frame
    roles = ROLES if roles is None else roles
    target = np.arange(len(frame)) % 3
    return TableEncoder(encoding, **settings).fit(
        RowsToFit(frame, profile_table(frame, roles=roles), target=target, task="classification")
    )


def _inputs(encoder: TableEncoder, frame: pl.DataFrame) -> np.ndarray:
    return encoder.expand(encoder.transform(frame))


def _reloaded(encoder: TableEncoder) -> TableEncoder:
    document, tensors = unpack(pack(*encoder.to_state()))
    return TableEncoder.from_state(Reader(document), TensorBag(tensors))


# What a caller may put into a cell of each column, wild values included.
_SPACED = st.sampled_from(["", "  ", " NA ", "?", "null", " red", "red ", "RED", "été", "1", "01"])
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "size": st.none() | st.floats(width=64) | st.integers(-(2**63), 2**63 - 1) | st.booleans()
    | st.sampled_from(["", " 1.5", "NA", "1e300", "-inf", "None"]),
    "count": st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(width=64),
    "account": st.none() | st.integers(2**60 - 100, 2**60 + 100) | st.floats(width=64),
    "price": st.none() | st.decimals(-(10**9), 10**9, places=2) | st.integers(-(10**9), 10**9),
    "kind": st.none() | st.sampled_from(["red", "green", "blue"]) | st.text(max_size=5) | _SPACED
    | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(width=64),
    "street": st.none() | st.integers(0, 99).map(lambda k: f"street {k}") | st.text(max_size=9),
    "old": st.none() | st.booleans() | st.integers(0, 1) | st.sampled_from(["true", "False", ""]),
    "when": st.none() | st.datetimes(dt.datetime(1600, 1, 1), dt.datetime(2400, 1, 1))
    | st.datetimes(timezones=st.just(dt.timezone(dt.timedelta(hours=5))),
                   min_value=dt.datetime(1600, 1, 1), max_value=dt.datetime(2400, 1, 1))
    | st.dates(dt.date(1600, 1, 1), dt.date(2400, 1, 1))
    | st.sampled_from(["2024-02-29", "2024-02-29T12:30:00", " NA"]),
    "day": st.none() | st.dates(dt.date(1600, 1, 1), dt.date(2400, 1, 1)),
}  # fmt: skip
ROWS = st.fixed_dictionaries(CELLS)
FITTED = {encoding: _fitted(encoding=encoding) for encoding in ENCODINGS}


def _frame_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(
        [pl.Series(name, [row[name] for row in rows], strict=False) for name in ROLES]
    )


@given(ROWS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_one_row_is_encoded_as_a_table_of_one_row(
    encoding: NumericEncoding, row: dict[str, Any]
) -> None:
    encoder = FITTED[encoding]
    # Two rows go through the columns, one row through its cells.
    expected = _inputs(encoder, _frame_of([row, row]))
    np.testing.assert_array_equal(expected[0], expected[1])
    np.testing.assert_array_equal(encoder.expand(encoder.row(row)), expected[:1])
    np.testing.assert_array_equal(_inputs(encoder, _frame_of([row])), expected[:1])


OTHER_TYPES: dict[str, list[pl.Series]] = {
    "size": [
        pl.Series([0.1, 3e38, None], dtype=pl.Float32),
        pl.Series(["0.1", "-inf", "NA"], dtype=pl.Categorical),
        pl.Series([1, 200, None], dtype=pl.UInt8),
        pl.Series([1, 2**64 - 1, None], dtype=pl.UInt64),
        pl.Series([Decimal("0.10"), Decimal("12.34"), None], dtype=pl.Decimal(10, 2)),
        pl.Series([dt.timedelta(seconds=1.5), dt.timedelta(days=-9), None]),
        pl.Series([dt.time(1, 2, 3), dt.time(23), None]),
    ],
    "account": [
        pl.Series([2**60 + 1, 2**60 + 2, None], dtype=pl.UInt64),
        pl.Series([2**60 + 1, 2**60 + 2, None], dtype=pl.Int128),
        pl.Series([str(2**60 + 1), f" {2**60 + 2}", ""]),
    ],
    "price": [pl.Series([Decimal("0.1"), Decimal("9999.99999"), None], dtype=pl.Decimal(30, 9))],
    "kind": [
        pl.Series(["red", "green", None], dtype=pl.Enum(["green", "red", "blue"])),
        pl.Series(["red", "violet", None], dtype=pl.Categorical),
        pl.Series([0.1, 1.0, None], dtype=pl.Float32),
        pl.Series([dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, 3), None]).dt.cast_time_unit(
            "ms"
        ),
    ],
    "old": [
        pl.Series([1, 0, None], dtype=pl.Int8),
        pl.Series([1.0, 0.0, None], dtype=pl.Float32),
        pl.Series(["TRUE", "false", None], dtype=pl.Categorical),
    ],
    "when": [
        pl.Series([1_700_000_000_123_456_789, -1, None]).cast(pl.Datetime("ns")),
        pl.Series([1_700_000_000_123, -1, None]).cast(pl.Datetime("ms")),
        pl.Series([1_700_000_000_123_456, -1, None]).cast(pl.Datetime("us", "Asia/Kolkata")),
        pl.Series([dt.date(2024, 2, 29), dt.date(1969, 12, 31), None]),
    ],
}


@pytest.mark.parametrize("encoding", ["standard", "tree_ple"])
def test_one_row_of_another_type_is_encoded_as_in_a_table(encoding: NumericEncoding) -> None:
    encoder, frame = FITTED[encoding], _table(3, seed=3)
    for name, columns in OTHER_TYPES.items():
        for column in columns:
            other = frame.with_columns(column.alias(name))
            together = _inputs(encoder, other)
            alone = [_inputs(encoder, other[i : i + 1])[0] for i in range(3)]
            np.testing.assert_array_equal(alone, together, err_msg=f"{name}: {column.dtype}")


def test_a_wrong_cell_in_a_frame_of_one_row_has_the_same_message() -> None:
    encoder = FITTED["standard"]
    for name, cell in [("size", "much"), ("old", "perhaps"), ("when", "soon")]:
        frame = _table(1).with_columns(pl.Series(name, [cell]))
        with pytest.raises(TableError) as alone:
            encoder.transform(frame)
        with pytest.raises(TableError) as together:
            encoder.transform(pl.concat([frame, frame]))
        assert str(alone.value) == str(together.value)
        assert f"column '{name}'" in str(alone.value)


@given(st.lists(st.integers(0, 399), min_size=1, max_size=20))
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_rows_one_by_one_are_encoded_as_all_at_once(
    encoding: NumericEncoding, index: list[int]
) -> None:
    encoder, frame = FITTED[encoding], _table()[index]
    together = _inputs(encoder, frame)
    for i in range(len(index)):
        np.testing.assert_array_equal(_inputs(encoder, frame[i : i + 1])[0], together[i])
    for i, row in enumerate(frame.iter_rows(named=True)):
        np.testing.assert_array_equal(encoder.expand(encoder.row(row))[0], together[i])


@given(ROWS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_torch_and_numpy_give_the_same_finite_inputs(
    encoding: NumericEncoding, row: dict[str, Any]
) -> None:
    encoder = FITTED[encoding]
    compact = encoder.transform(_frame_of([row]))
    inputs = encoder.expand(compact)
    expand = encoder.torch_expander(torch.device("cpu"))
    same = expand(torch.from_numpy(compact.numeric), torch.from_numpy(compact.codes))
    np.testing.assert_array_equal(same.numpy(), inputs)
    assert inputs.dtype == np.float32
    assert inputs.shape == (1, encoder.input_dim)
    assert inputs.flags.c_contiguous
    assert np.isfinite(inputs).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_torch_and_numpy_agree_on_a_batch(encoding: NumericEncoding) -> None:
    encoder = FITTED[encoding]
    compact = encoder.transform(_table(5_000, seed=1))
    expand = encoder.torch_expander("cpu")
    same = expand(torch.from_numpy(compact.numeric), torch.from_numpy(compact.codes))
    np.testing.assert_array_equal(same.numpy(), encoder.expand(compact))


@given(st.permutations(list(ROLES)))
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
def test_the_order_of_columns_does_not_matter(names: list[str]) -> None:
    frame = _table()
    encoder = FITTED["tree_ple"]
    np.testing.assert_array_equal(_inputs(encoder, frame.select(names)), _inputs(encoder, frame))
    other = _fitted(frame.select(names), "tree_ple")
    place = {name: i for i, name in enumerate(input_names(other))}
    index = [place[name] for name in input_names(encoder)]
    np.testing.assert_array_equal(_inputs(other, frame)[:, index], _inputs(encoder, frame))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_state_gives_the_same_bits_back(encoding: NumericEncoding) -> None:
    encoder, frame = FITTED[encoding], _table(seed=2)
    again = _reloaded(encoder)
    np.testing.assert_array_equal(_inputs(again, frame), _inputs(encoder, frame))
    row = frame.row(3, named=True)
    np.testing.assert_array_equal(again.expand(again.row(row)), encoder.expand(encoder.row(row)))
    assert input_names(again) == input_names(encoder)
    assert pack(*again.to_state()) == pack(*encoder.to_state())


def test_state_is_plain_data_and_arrays_without_objects() -> None:
    document, arrays = FITTED["tree_ple"].to_state()
    assert json.loads(json.dumps(document)) == document
    assert all(array.dtype != object for array in arrays.values())


def test_a_used_encoder_pickles() -> None:
    encoder, frame = FITTED["auto"], _table()
    encoder.expand(encoder.row(frame.row(0, named=True)))
    again = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(_inputs(again, frame), _inputs(encoder, frame))


# ---------------------------------------------------------------------------------------------
# What a damaged state is told
# ---------------------------------------------------------------------------------------------


def _edit_doc(path: str, value: object) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def edit(document: dict[str, Any], arrays: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            document = document[key]
        document[last] = value

    return edit


def _edit_array(
    name: str, change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def edit(document: dict[str, Any], arrays: dict[str, Any]) -> None:
        arrays[name] = change(arrays[name].copy())

    return edit


def _reverse(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[::-1])


DAMAGE = {
    "an encoding that is none": _edit_doc("numbers.encoding", "os.system"),
    "an unknown key": _edit_doc("more", 1),
    "edges that fall": _edit_array("numbers.edges", _reverse),
    "edges of another encoding": _edit_doc("numbers.encoding", "standard"),
    "a negative scale": _edit_array("numbers.scale", lambda a: -a - 1),
    "a scale past float32": _edit_array("numbers.scale", lambda a: a + 1e300),
    "a NaN centre": _edit_array("numbers.centre", lambda a: a * np.nan),
    "an empty range": _edit_array("numbers.lower", lambda a: a + 1e30),
    "one column less": _edit_array("numbers.centre", lambda a: a[1:]),
    "offsets that fall": _edit_array("numbers.edge_offsets", _reverse),
    "a kind that is none": _edit_array("kinds", lambda a: a + 200),
    "two kinds swapped": _edit_array("kinds", lambda a: a * 0 + 4),
    "half a name": _edit_array("name_offsets", lambda a: np.maximum(a - 1, 0)),
    "levels cut short": _edit_array("categories.text", lambda a: a[:-1]),
    "more inputs than levels": _edit_array("categories.n_inputs", lambda a: a + 1),
    "more levels than there are": _edit_array("categories.n_levels", lambda a: a + 1),
    "an infinite statistic": _edit_array("categories.statistics", lambda a: a + np.inf),
    "statistics without a name": _edit_doc("statistic_names", []),
    "origins that are no numbers": _edit_array("origins", lambda a: a * 0 + 65),
    "an indicator too many": _edit_array("had_missing", lambda a: np.append(a, a[:1])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_refused(damage: str) -> None:
    document, arrays = FITTED["quantile_ple"].to_state()
    document, arrays = json.loads(json.dumps(document)), dict(arrays)
    DAMAGE[damage](document, arrays)
    with pytest.raises(ArtifactError):
        TableEncoder.from_state(Reader(document), TensorBag(arrays))


# ---------------------------------------------------------------------------------------------
# What becomes of cells
# ---------------------------------------------------------------------------------------------


def _row_of(encoder: TableEncoder, **changes: Any) -> dict[str, float]:
    """Inputs by name of the first row of the table with some cells changed."""
    row = {**_table().row(0, named=True), **changes}
    names = input_names(encoder)
    return dict(zip(names, encoder.expand(encoder.row(row))[0].tolist(), strict=True))


def test_a_missing_number_sits_at_the_centre_and_has_an_indicator() -> None:
    inputs = _row_of(FITTED["robust"], size=None)
    assert inputs["size"] == 0.0
    assert inputs["size is missing"] == 1.0
    assert _row_of(FITTED["robust"], size=1.0)["size is missing"] == 0.0


def test_a_column_without_missing_values_in_training_takes_one_later_as_its_centre() -> None:
    inputs = _row_of(FITTED["robust"], count=None)
    assert inputs["count"] == 0.0
    assert "count is missing" not in inputs


def test_a_level_never_seen_is_unknown() -> None:
    inputs = _row_of(FITTED["auto"], kind="violet")
    assert inputs["kind is rare or unknown"] == 1.0
    assert all(inputs[f"kind={level}"] == 0.0 for level in ("red", "green", "blue"))


def test_a_missing_level_is_unknown_where_training_had_none_missing() -> None:
    assert _row_of(FITTED["auto"], kind=None) == _row_of(FITTED["auto"], kind="violet")


def test_one_level_one_input() -> None:
    inputs = _row_of(FITTED["auto"], kind="green")
    kinds = {name: value for name, value in inputs.items() if name.startswith("kind")}
    assert kinds == {
        "kind is rare or unknown": 0.0, "kind=red": 0.0, "kind=green": 1.0, "kind=blue": 0.0
    }  # fmt: skip


def test_booleans_are_one_input() -> None:
    values = [_row_of(FITTED["auto"], old=old)["old"] for old in (True, False, None)]
    assert values == [1.0, -1.0, 0.0]


def test_neighbouring_integers_past_2_53_stay_apart() -> None:
    values = {_row_of(FITTED["robust"], account=2**60 + k)["account"] for k in range(50)}
    assert len(values) == 50


def test_decimals_that_float64_cannot_tell_apart_stay_apart() -> None:
    base = Decimal("12345678901234567.00")
    frame = pl.DataFrame({"amount": [base + Decimal(k) / 100 for k in range(40)]})
    encoder = _fitted(frame, "robust", {"amount": "numeric"})
    assert len(np.unique(_inputs(encoder, frame))) == 40


def test_a_zoned_time_is_the_same_moment_in_any_zone() -> None:
    zone = dt.timezone(dt.timedelta(hours=10))
    local = dt.datetime(2024, 1, 5, 8, 0, tzinfo=zone)
    assert _row_of(FITTED["auto"], when=local) == _row_of(
        FITTED["auto"], when=dt.datetime(2024, 1, 4, 22, 0)
    )


@pytest.mark.parametrize("keep_value", [True, False])
def test_elapsed_time_has_its_value_and_no_bins(keep_value: bool) -> None:
    names = input_names(_fitted(encoding="tree_ple", keep_value=keep_value))
    assert "when: elapsed" in names
    assert not [name for name in names if name.startswith("when: elapsed[")]
    assert [name for name in names if name.startswith("size[bin")]


def test_dates_have_no_time_of_day() -> None:
    names = input_names(FITTED["auto"])
    assert "when: time of day sin" in names
    assert "day: weekday cos" in names
    assert not [name for name in names if name.startswith("day: time of day")]


def test_hidden_levels_reach_the_input_of_unknown_ones() -> None:
    encoder = FITTED["auto"]
    compact = encoder.transform(_table())
    assert encoder.hidable_.dtype == bool
    assert encoder.hidable_.tolist() == [True, True] + [False] * (compact.codes.shape[1] - 2)
    hidden = compact.codes.copy()
    hidden[:, encoder.hidable_] = TableEncoder.unknown_code
    inputs = encoder.expand(Compact(compact.numeric, hidden))
    unknown = input_names(encoder).index("kind is rare or unknown")
    assert (inputs[:, unknown] == 1.0).all()


def test_names_are_unique_and_sources_are_columns() -> None:
    frame = pl.DataFrame(
        {"a": [1.0, 2.0, None], "a is missing": [1.0, 5.0, 9.0], "a[bin 1]": [0.0, 1.0, 2.0]}
    )
    encoder = _fitted(frame, "quantile_ple", dict.fromkeys(frame.columns, "numeric"))
    names = input_names(encoder)
    assert len(set(names)) == len(names) == encoder.input_dim == len(encoder.sources_)
    for encoder in FITTED.values():
        names = input_names(encoder)
        assert len(set(names)) == len(names) == encoder.input_dim
        for name, source in zip(names, encoder.sources_.tolist(), strict=True):
            assert name.startswith(encoder.feature_names_in_[source])


def test_fit_transform_is_fit_then_transform_without_statistics() -> None:
    frame = _table().drop("street")
    profile = profile_table(frame, roles={k: v for k, v in ROLES.items() if k != "street"})
    target = np.arange(len(frame)) % 2
    encoder = TableEncoder()
    compact = encoder.fit_transform(RowsToFit(frame, profile, target=target, task="classification"))
    again = encoder.transform(frame)
    np.testing.assert_array_equal(compact.numeric, again.numeric)
    np.testing.assert_array_equal(compact.codes, again.codes)


def test_target_statistics_of_training_rows_come_from_other_rows() -> None:
    generator = np.random.default_rng(0)
    frame = pl.DataFrame({"street": [f"s{k}" for k in generator.integers(0, 300, 900)]})
    target = generator.normal(size=900)
    encoder = TableEncoder(max_levels=5)
    profile = profile_table(frame, roles={"street": "category"})
    compact = encoder.fit_transform(RowsToFit(frame, profile, target=target, task="regression"))
    own = np.corrcoef(encoder.transform(frame).numeric[:, 0], target)[0, 1]
    other = np.corrcoef(compact.numeric[:, 0], target)[0, 1]
    assert own > 0.3
    assert other < 0.1


def test_a_fit_is_the_same_twice() -> None:
    assert pack(*_fitted(encoding="tree_ple").to_state()) == pack(*FITTED["tree_ple"].to_state())


def test_long_tables_are_encoded_in_chunks_as_they_are_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder, frame = FITTED["auto"], _table()
    whole = _inputs(encoder, frame)
    monkeypatch.setattr("tabwright.encoding.encoder._CHUNK_ROWS", 37)
    monkeypatch.setattr("tabwright.encoding.layout._BLOCK_ROWS", 53)
    np.testing.assert_array_equal(_inputs(encoder, frame), whole)
    bad = frame.with_columns(pl.lit("7").alias("size"))
    bad[300, "size"] = "seven"
    with pytest.raises(TableError, match=r"'size' must hold numbers; got 'seven' in row 301;"):
        encoder.transform(bad)


# ---------------------------------------------------------------------------------------------
# Columns: missing, extra, reordered, unnamed
# ---------------------------------------------------------------------------------------------


def test_missing_columns_are_named() -> None:
    rule = r"columns that the model was trained on; 'kind', 'day' are missing; add them"
    with pytest.raises(TableError, match=rule):
        FITTED["auto"].transform(_table().drop("day", "kind"))
    row = _table().row(0, named=True)
    del row["kind"]
    with pytest.raises(TableError, match="'kind' is missing; add it"):
        FITTED["auto"].expand(FITTED["auto"].row(row))


def test_extra_columns_are_ignored_with_one_warning() -> None:
    frame = _table()
    more = frame.with_columns(pl.lit(1).alias("b"), pl.lit("x").alias("a"))
    rule = "ignored 2 columns that the model was not trained on: 'a', 'b'"
    with pytest.warns(UserWarning, match=rule) as caught:
        inputs = _inputs(FITTED["auto"], more)
    assert len(caught) == 1
    np.testing.assert_array_equal(inputs, _inputs(FITTED["auto"], frame))
    with pytest.warns(UserWarning, match="ignored 1 column that the model was not trained on"):
        FITTED["auto"].expand(FITTED["auto"].row({**frame.row(0, named=True), "a": 1}))


def test_the_target_and_columns_set_aside_are_ignored_in_silence() -> None:
    frame = _table().with_columns(pl.lit("same").alias("always"))
    encoder = TableEncoder().fit(
        RowsToFit(
            frame,
            profile_table(frame, roles=ROLES),
            target=np.arange(len(frame)) % 2,
            task="classification",
            target_name="label",
        )
    )
    assert encoder.n_features_in_ == len(ROLES) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inputs = _inputs(encoder, frame.with_columns(pl.lit(1).alias("label")))
        np.testing.assert_array_equal(inputs, _inputs(encoder, frame.drop("always")))
        np.testing.assert_array_equal(inputs, _inputs(_reloaded(encoder), frame.drop("always")))


def test_arrays_go_by_position() -> None:
    frame = pl.DataFrame({"x0": [1.0, 2.0, 3.0], "x1": [5.0, 4.0, 9.0]})
    encoder = TableEncoder().fit(
        RowsToFit(
            frame, profile_table(frame, named=False), target=None, task="regression", named=False
        )
    )
    expected = _inputs(encoder, frame)
    with pytest.warns(UserWarning, match="should have no feature names"):
        renamed = _inputs(encoder, frame.rename({"x0": "b", "x1": "a"}))
    np.testing.assert_array_equal(renamed, expected)
    # These names say the place.
    np.testing.assert_array_equal(_inputs(encoder, frame.select("x1", "x0")), expected)
    assert not encoder.named
    with pytest.raises(
        TableError,
        match="the table has 1 features, but the model is expecting 2 features as input",
    ):
        encoder.transform(frame.drop("x1"))


@pytest.mark.parametrize(
    ("name", "cell", "rule"),
    [
        ("size", "seven", r"'size' must hold numbers; got 'seven' in row 1"),
        ("old", "maybe", r"'old' must hold true and false .* got 'maybe' in row 1"),
        ("when", "soon", r"'when' must hold dates or times .* got 'soon' in row 1"),
        ("kind", [1, 2], r"'kind' must hold single values"),
    ],
)
def test_a_wrong_cell_is_named_with_column_row_and_value(
    name: str, cell: object, rule: str
) -> None:
    row = {**_table().row(0, named=True), name: cell}
    with pytest.raises(TableError, match=rule):
        FITTED["auto"].transform(_frame_of([row]))
    with pytest.raises(TableError, match=rule):
        FITTED["auto"].expand(FITTED["auto"].row(row))


# ---------------------------------------------------------------------------------------------
# Odd tables
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_one_row_fits(encoding: NumericEncoding) -> None:
    frame = _table(1)
    assert np.isfinite(_inputs(_fitted(frame, encoding), _table())).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_zero_rows_encode_to_zero_rows(encoding: NumericEncoding) -> None:
    encoder = FITTED[encoding]
    assert _inputs(encoder, _table().clear()).shape == (0, encoder.input_dim)
    with pytest.raises(TableError, match="at least 1 row; got 0"):
        _fitted(_table().clear())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_constant_and_empty_columns_fit_where_a_role_asks_for_them(
    encoding: NumericEncoding,
) -> None:
    frame = pl.DataFrame(
        {
            "same": [4.0] * 9,
            "none": pl.Series([None] * 9, dtype=pl.Float64),
            "null": pl.Series([None] * 9, dtype=pl.Null),
            "level": ["a"] * 9,
            "bare": pl.Series([None] * 9, dtype=pl.String),
            "flag": [True] * 9,
            "moment": [dt.date(2020, 1, 1)] * 9,
            "never": pl.Series([None] * 9, dtype=pl.Date),
        }
    )
    roles: dict[str, Role] = {
        "same": "numeric", "none": "numeric", "null": "numeric", "level": "category",
        "bare": "category", "flag": "boolean", "moment": "datetime", "never": "datetime",
    }  # fmt: skip
    encoder = _fitted(frame, encoding, roles)
    assert np.isfinite(_inputs(encoder, frame)).all()
    again = _reloaded(encoder)
    np.testing.assert_array_equal(_inputs(again, frame), _inputs(encoder, frame))


def test_infinities_in_training_are_no_part_of_the_scale() -> None:
    values = np.random.default_rng(0).normal(size=200)
    wild = np.concatenate([values, [np.inf, -np.inf]])
    calm = _fitted(pl.DataFrame({"v": values}), "standard", {"v": "numeric"})
    other = _fitted(pl.DataFrame({"v": wild}), "standard", {"v": "numeric"})
    frame = pl.DataFrame({"v": values})
    np.testing.assert_array_equal(_inputs(other, frame), _inputs(calm, frame))


def test_no_usable_column_is_refused() -> None:
    frame = pl.DataFrame({"same": [1.0]})
    profile = profile_table(frame, roles={"same": "constant"})
    with pytest.raises(TableError, match="at least 1 usable column; got none: 'same' is constant"):
        TableEncoder().fit(RowsToFit(frame, profile, target=None, task="regression"))


def test_tree_bins_without_a_target_are_refused() -> None:
    frame = pl.DataFrame({"v": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="'tree_ple' needs a target; got None; use 'quantile_ple'"):
        TableEncoder("tree_ple").fit(
            RowsToFit(frame, profile_table(frame), target=None, task="regression")
        )


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"n_bins": 1}, "n_bins must be at least 2; got 1"),
        ({"max_levels": 0}, "max_levels must be at least 1; got 0"),
        ({"min_count": 0}, "min_count must be at least 1, or None; got 0"),
        ({"numeric_encoding": "magic"}, "numeric_encoding must be one of auto, .*; got 'magic'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        TableEncoder(**settings)


@pytest.mark.slow
def test_ten_thousand_columns_fit_with_a_bounded_number_of_inputs() -> None:
    generator = np.random.default_rng(0)
    numbers = pl.DataFrame(generator.normal(size=(50, 9_000)))
    levels = pl.DataFrame(
        {f"level_{k}": generator.choice(["a", "b", "c"], 50).tolist() for k in range(1_000)}
    )
    frame = pl.concat([numbers, levels], how="horizontal")
    encoder = TableEncoder("quantile_ple")
    compact = encoder.fit_transform(
        RowsToFit(frame, profile_table(frame), target=np.arange(50) % 2, task="classification")
    )
    assert compact.numeric.shape == (50, 9_000)
    assert encoder.input_dim < 20_000
    assert np.isfinite(encoder.expand(compact)).all()


@pytest.mark.slow
def test_a_million_levels_keep_a_bounded_vocabulary() -> None:
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 1_000_000, 1_200_000)
    frame = pl.DataFrame({"user": pl.Series(ids).cast(pl.String) + "u"})
    encoder = TableEncoder()
    target = (ids % 2).astype(np.float64)
    profile = profile_table(frame, roles={"user": "category"})
    compact = encoder.fit_transform(RowsToFit(frame, profile, target=target, task="regression"))
    assert len(compact) == 1_200_000
    assert encoder.input_dim < 60
    _, arrays = encoder.to_state()
    assert sum(array.nbytes for array in arrays.values()) < 4 * 2**20


def test_more_inputs_than_a_network_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tabwright.encoding.plan._MOST_INPUTS", 20)
    with pytest.raises(TableError, match=r"from 1 to 20 network inputs; got .* lower max_levels"):
        _fitted()


# ---------------------------------------------------------------------------------------------
# Real tables
# ---------------------------------------------------------------------------------------------


def _real(data_dir: Path, name: str) -> tuple[pl.DataFrame, np.ndarray, str]:
    sets = json.loads((data_dir / "datasets.json").read_text())
    entries = sets if isinstance(sets, list) else sets.get("datasets", sets)
    entry = (
        next(e for e in entries if e["name"] == name)
        if isinstance(entries, list)
        else entries[name]
    )
    frame = pl.read_parquet(data_dir / f"{name}.parquet")
    target = frame[entry["target"]]
    regression = entry["task"] == "regression"
    values = (
        target.to_numpy() if regression else target.cast(pl.String).rank("dense").to_numpy() - 1
    )
    kept = frame.drop([entry["target"], *entry["drop"]])
    return kept, values.astype(np.float64 if regression else np.int64), entry["task"]


@pytest.mark.shared_data
@pytest.mark.parametrize("encoding", ["standard", "quantile_ple", "tree_ple"])
@pytest.mark.parametrize(
    "name", ["adult", "titanic", "soybean", "comics", "vic_electricity", "ames_housing"]
)
def test_real_tables_encode_alike_by_every_way(
    data_dir: Path, name: str, encoding: NumericEncoding
) -> None:
    frame, target, task = _real(data_dir, name)
    frame, target = frame.head(3_000), target[:3_000]
    encoder = TableEncoder(encoding).fit(
        RowsToFit(
            frame,
            profile_table(frame),
            target=target,
            task="regression" if task == "regression" else "classification",
        )
    )
    compact = encoder.transform(frame)
    inputs = encoder.expand(compact)
    assert np.isfinite(inputs).all()
    same = encoder.torch_expander("cpu")(
        torch.from_numpy(compact.numeric), torch.from_numpy(compact.codes)
    )
    np.testing.assert_array_equal(same.numpy(), inputs)
    for i, row in enumerate(frame.head(50).iter_rows(named=True)):
        np.testing.assert_array_equal(encoder.expand(encoder.row(row))[0], inputs[i])
    np.testing.assert_array_equal(_inputs(_reloaded(encoder), frame), inputs)


@pytest.mark.shared_data
def test_half_hours_of_a_day_are_told_apart(data_dir: Path) -> None:
    frame, target, _ = _real(data_dir, "vic_electricity")
    encoder = TableEncoder().fit(
        RowsToFit(frame, profile_table(frame), target=target, task="regression")
    )
    names = input_names(encoder)
    assert "Time: time of day sin x4" in names
    assert "Time: weekday cos x3" in names
    cycle = [i for i, name in enumerate(names) if name.startswith("Time: time of day")]
    day = _inputs(encoder, frame.head(48))[:, cycle]
    assert len(np.unique(day.round(4), axis=0)) == 48


@pytest.mark.parametrize("encoding", ["standard", "robust", "quantile_normal", "tree_ple"])
def test_a_trend_in_time_is_not_carried_on(encoding: NumericEncoding) -> None:
    """A day past the training rows differs from the last of them by its calendar alone."""
    start = dt.datetime(2020, 1, 1)
    when = [start + dt.timedelta(days=7 * i) for i in range(60)]
    frame = pl.DataFrame({"when": when, "x": [float(i % 7) for i in range(60)]})
    encoder = TableEncoder(numeric_encoding=encoding).fit(
        RowsToFit(frame, profile_table(frame), target=np.arange(60.0), task="regression")
    )

    def elapsed_of(day: dt.datetime) -> float:
        compact = encoder.transform(pl.DataFrame({"when": [day], "x": [1.0]}))
        return float(compact.numeric[0, 1])

    last, first = elapsed_of(when[-1]), elapsed_of(when[0])
    assert elapsed_of(when[-1] + dt.timedelta(days=400)) == last > elapsed_of(when[-2])
    assert elapsed_of(when[0] - dt.timedelta(days=400)) == first < elapsed_of(when[1])
    row = {"when": when[-1] + dt.timedelta(days=400), "x": 1.0}
    table = encoder.expand(encoder.transform(pl.DataFrame([row])))
    np.testing.assert_array_equal(encoder.expand(encoder.row(row)), table)
