import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tabwright.distillation import augmentation
from tabwright.distillation.augmentation import (
    AUGMENTATIONS,
    Augmentation,
    augment_rows,
    with_unlabelled_rows,
)
from tabwright.errors import TableError
from tabwright.tables import Role, TableProfile, profile_table

each_method = pytest.mark.parametrize("method", AUGMENTATIONS)

CELLS: Mapping[str, tuple[pl.DataType, st.SearchStrategy[Any], Role]] = {
    "float": (pl.Float64(), st.floats(width=64), "numeric"),
    "float32": (pl.Float32(), st.floats(width=32), "numeric"),
    "int": (pl.Int64(), st.integers(-(2**63), 2**63 - 1), "numeric"),
    "small": (pl.UInt8(), st.integers(0, 255), "numeric"),
    "decimal": (pl.Decimal(20, 3), st.decimals(-(10**9), 10**9, places=3), "numeric"),
    "duration": (pl.Duration("us"), st.timedeltas(dt.timedelta(-9), dt.timedelta(9)), "numeric"),
    "flag": (pl.Boolean(), st.booleans(), "boolean"),
    "text": (pl.String(), st.sampled_from(["a", " a", "b", "", "NA", "1", "1.0"]), "category"),
    "many": (pl.String(), st.text(max_size=3), "category"),
    "enum": (pl.Enum(["p", "q", "r"]), st.sampled_from(["p", "q", "r"]), "category"),
    "categorical": (pl.Categorical(), st.sampled_from(["p", "q"]), "category"),
    "date": (pl.Date(), st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1)), "datetime"),
    "moment": (
        pl.Datetime("us"),
        st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1)),
        "datetime",
    ),
    "aside": (pl.String(), st.text(max_size=3), "text"),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[pl.DataFrame, TableProfile]:
    n_rows = draw(st.integers(1, 12))
    kinds = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=6))
    if kinds.count("aside") == len(kinds):
        kinds.append("flag")
    columns, roles = [], {}
    for k, kind in enumerate(kinds):
        dtype, cells, role = CELLS[kind]
        optional = st.one_of(st.none(), cells) if draw(st.booleans()) else cells
        values = draw(st.lists(optional, min_size=n_rows, max_size=n_rows))
        columns.append(pl.Series(f"{kind} {k}", values, dtype=dtype))
        roles[f"{kind} {k}"] = role
    frame = pl.DataFrame(columns)
    return frame, profile_table(frame, roles=roles)


@settings(max_examples=150)
@given(
    tables(),
    st.sampled_from(AUGMENTATIONS),
    st.integers(0, 30),
    st.integers(0, 2**32),
    st.floats(0.05, 1.0),
    st.integers(1, 20),
    st.floats(0.01, 100.0),
)
def test_every_cell_is_one_that_its_column_has(
    table: tuple[pl.DataFrame, TableProfile],
    method: Augmentation,
    n_rows: int,
    seed: int,
    probability: float,
    n_neighbours: int,
    variance: float,
) -> None:
    frame, profile = table

    def make() -> pl.DataFrame:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(augmentation, "_SWAP_PROBABILITY", probability)
            patch.setattr(augmentation, "_N_NEIGHBOURS", n_neighbours)
            patch.setattr(augmentation, "_LOCAL_VARIANCE", variance)
            rng = np.random.default_rng(seed)
            return augment_rows(frame, profile, n_rows, rng=rng, method=method)

    made = make()
    assert made.schema == frame.schema
    assert len(made) == n_rows
    for name in frame.columns:
        known = frame[name].unique()
        assert made[name].is_in(known, nulls_equal=True).all()
    assert_frame_equal(make(), made)


def normal_table(n_rows: int, n_columns: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame({f"x{j}": rng.normal(size=n_rows) for j in range(n_columns)})


def share_new(made: pl.DataFrame, frame: pl.DataFrame) -> float:
    return len(made.join(frame, on=frame.columns, how="anti", nulls_equal=True)) / len(made)


@each_method
@pytest.mark.parametrize("n_columns", [2, 3, 500])
def test_most_rows_are_new_in_narrow_and_wide_tables(method: Augmentation, n_columns: int) -> None:
    frame = normal_table(200, n_columns)
    made = augment_rows(
        frame, profile_table(frame), 600, rng=np.random.default_rng(0), method=method
    )
    assert made.shape == (600, n_columns)
    assert share_new(made, frame) > 0.95
    # Every column takes part.
    starts = pl.concat([frame] * 3)
    for name in frame.columns:
        assert made[name].n_unique() > 1
        assert not made[name].sort().equals(starts[name].sort())


@each_method
def test_wide_table_of_levels(method: Augmentation) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {f"c{j}": rng.choice([f"l{k}" for k in range(2 + j % 30)], 80) for j in range(500)}
    )
    made = augment_rows(
        frame, profile_table(frame), 100, rng=np.random.default_rng(0), method=method
    )
    assert share_new(made, frame) == 1.0


@each_method
def test_two_columns_of_levels_mix(method: Augmentation) -> None:
    # Exactly one of two cells changes: copies arise only where the mix exists already.
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"a": [f"a{k}" for k in range(60)], "b": [f"b{k}" for k in rng.integers(0, 30, 60)]}
    )
    made = augment_rows(
        frame, profile_table(frame), 200, rng=np.random.default_rng(1), method=method
    )
    assert share_new(made, frame) > 0.5


@each_method
def test_made_rows_lie_near_training_rows(method: Augmentation) -> None:
    # On a thin ring: rows that mixed columns of far rows would fill its inside.
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 800)
    frame = pl.DataFrame({"x": np.cos(angle), "y": np.sin(angle)})
    made = augment_rows(
        frame, profile_table(frame), 2_000, rng=np.random.default_rng(0), method=method
    )
    radius = np.hypot(made["x"].to_numpy(), made["y"].to_numpy())
    assert (np.abs(radius - 1.0) < 0.1).mean() > 0.97
    assert share_new(made, frame) > 0.9


@each_method
def test_rows_stay_among_their_levels(method: Augmentation) -> None:
    # Two groups far apart in eight columns: no cell crosses over.
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, 300)
    frame = pl.DataFrame(
        {
            **{f"n{j}": 10.0 * group + rng.normal(size=300) for j in range(4)},
            **{
                f"c{j}": [
                    f"{'pq'[g]}{k}" for g, k in zip(group, rng.integers(0, 9, 300), strict=True)
                ]
                for j in range(4)
            },
        }
    )
    made = augment_rows(
        frame, profile_table(frame), 900, rng=np.random.default_rng(0), method=method
    )
    side = (made["n0"] > 5).to_numpy()
    for j in range(4):
        np.testing.assert_array_equal((made[f"n{j}"] > 5).to_numpy(), side)
        np.testing.assert_array_equal(made[f"c{j}"].str.starts_with("q").to_numpy(), side)


def test_variance_decides_how_far_munge_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = normal_table(500, 2)
    profile = profile_table(frame)
    steps = []
    for variance in (0.2, 2.0, 50.0):
        monkeypatch.setattr(augmentation, "_LOCAL_VARIANCE", variance)
        made = augment_rows(frame, profile, 500, rng=np.random.default_rng(3))
        steps.append(made.to_numpy())
    # The same draws otherwise: with a large divisor the neighbours' values remain.
    plain = steps[2]
    assert np.abs(steps[0] - plain).mean() > 2 * np.abs(steps[1] - plain).mean() > 0


@each_method
def test_probability_decides_how_many_cells_change(
    method: Augmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = normal_table(300, 40).with_columns(row=pl.Series([f"{k}" for k in range(300)]))
    profile = profile_table(frame, roles={"row": "text"})
    for probability in (0.1, 0.5, 1.0):
        rng = np.random.default_rng(0)
        monkeypatch.setattr(augmentation, "_SWAP_PROBABILITY", probability)
        made = augment_rows(frame, profile, 600, rng=rng, method=method)
        start = frame[made["row"].cast(pl.Int64).to_numpy()]
        changed = (made.drop("row").to_numpy() != start.drop("row").to_numpy()).mean(axis=1)
        # A little less: a draw can come out at the value that was there.
        assert changed.mean() == pytest.approx(probability, abs=0.05)
        assert changed.max() < 1
        if method == "neighbourhood":
            assert changed.min() > 0


@each_method
def test_every_row_is_a_start_as_often_as_every_other(method: Augmentation) -> None:
    frame = normal_table(50, 3).with_columns(name=pl.Series([f"row {k}" for k in range(50)]))
    profile = profile_table(frame, roles={"name": "text"})
    made = augment_rows(frame, profile, 175, rng=np.random.default_rng(0), method=method)
    # Columns set aside come from the start.
    counts = made["name"].value_counts()["count"]
    assert len(counts) == 50
    assert set(counts) == {3, 4}


@each_method
def test_equal_rows_are_no_neighbours(method: Augmentation) -> None:
    frame = pl.DataFrame({"a": [1.0] * 40 + [2.0] * 40, "b": ["x"] * 40 + ["y"] * 40})
    made = augment_rows(
        frame, profile_table(frame), 80, rng=np.random.default_rng(0), method=method
    )
    assert share_new(made, frame) > 0.4
    same = frame[:40]
    profile = profile_table(same, roles={"a": "numeric", "b": "category"})
    copies = augment_rows(same, profile, 90, rng=np.random.default_rng(0), method=method)
    assert_frame_equal(copies, pl.concat([same[:30]] * 3))


@each_method
def test_one_column_and_one_row(method: Augmentation) -> None:
    rng = np.random.default_rng(0)
    one = pl.DataFrame({"a": [1, None, 3, 8]})
    assert len(augment_rows(one, profile_table(one), 9, rng=rng, method=method)) == 9
    row = pl.DataFrame({"a": [1], "b": ["x"]})
    made = augment_rows(row, profile_table(row), 3, rng=rng, method=method)
    assert_frame_equal(made, pl.concat([row] * 3))


@each_method
def test_long_tables_are_sampled(method: Augmentation, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    search = augmentation._neighbours

    def spy(columns: list[Any], *rest: Any) -> Any:
        sizes.append(len(columns[0].place))
        return search(columns, *rest)

    monkeypatch.setattr(augmentation, "_neighbours", spy)
    monkeypatch.setattr(augmentation, "_MOST_ROWS", 64)
    frame = normal_table(500, 3)
    made = augment_rows(
        frame,
        profile_table(frame),
        1_000,
        rng=np.random.default_rng(0),
        method=method,
    )
    assert sizes == [64]
    assert len(made) == 1_000
    assert made["x0"].n_unique() <= 64


@each_method
def test_chunks_are_seams_that_do_not_show(
    method: Augmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augmentation, "_CHUNK_CELLS", 70)
    frame = normal_table(100, 7)
    made = augment_rows(
        frame, profile_table(frame), 333, rng=np.random.default_rng(0), method=method
    )
    assert made.shape == (333, 7)
    assert share_new(made, frame) > 0.95


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("a", [2**62 + k for k in range(90)]),
        pl.Series(
            "a",
            [Decimal("12345678901234567.890") + Decimal(k) / 1000 for k in range(90)],
            dtype=pl.Decimal(30, 3),
        ),
    ],
    ids=["integer", "decimal"],
)
def test_values_that_float64_cannot_tell_apart_are_different(column: pl.Series) -> None:
    frame = pl.DataFrame([column])
    made = augment_rows(frame, profile_table(frame, named=False), 90, rng=np.random.default_rng(0))
    assert made["a"].is_in(column.implode()).all()
    # Had they been equal there would be no neighbour, and every row would come back once.
    assert made["a"].n_unique() < 80
    far = [abs(own - column[45]) for own in made["a"]]
    assert len(set(far)) > 20


def test_cells_come_from_one_neighbour_or_from_many() -> None:
    rng = np.random.default_rng(0)
    row = np.arange(60)
    frame = pl.DataFrame({f"c{j}": [f"{k}" for k in rng.permutation(row)] for j in range(12)})
    origin = {name: {cell: k for k, cell in enumerate(frame[name])} for name in frame.columns}
    roles: dict[str, Role] = dict.fromkeys(frame.columns, "category")
    sources = {}
    for method in AUGMENTATIONS:
        made = augment_rows(
            frame,
            profile_table(frame, roles=roles),
            120,
            rng=np.random.default_rng(0),
            method=method,
        )
        sources[method] = [
            len({origin[name][cell] for name, cell in cells.items()})
            for cells in made.iter_rows(named=True)
        ]
    assert set(sources["munge"]) == {2}
    assert min(sources["neighbourhood"]) >= 2
    assert np.mean(sources["neighbourhood"]) > 3


def test_generator_goes_on_and_the_global_one_is_left_alone() -> None:
    frame = normal_table(60, 3)
    profile = profile_table(frame)
    rng = np.random.default_rng(0)
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    first, second = (augment_rows(frame, profile, 60, rng=rng) for _ in range(2))
    assert not first.equals(second)
    after = np.random.get_state()[1]  # type: ignore[index]  # noqa: NPY002
    np.testing.assert_array_equal(before, after)


def test_own_rows_come_behind_the_made_ones() -> None:
    frame = pl.DataFrame({"a": [1, 2, 3, 4], "c": ["x", "y", "x", "y"]})
    profile = profile_table(frame)
    made = augment_rows(frame, profile, 6, rng=np.random.default_rng(0))
    own = pl.DataFrame({"extra": [0], "c": ["z"], "a": [2.5]})
    both = with_unlabelled_rows(made, own, profile)
    assert both.columns == ["a", "c"]
    assert both.row(-1) == (2.5, "z")
    assert both["a"][:6].to_list() == made["a"].to_list()
    assert_frame_equal(with_unlabelled_rows(made, None, profile), made)
    with pytest.raises(TableError, match=r"unlabelled rows must have the columns .*'c' is missing"):
        with_unlabelled_rows(made, own.drop("c"), profile)
    for wrong in (dt.date(2024, 1, 1), "2", True):
        with pytest.raises(TableError, match="types of the training rows; column 'a' holds Int64"):
            with_unlabelled_rows(made, own.with_columns(a=pl.lit(wrong)), profile)


def test_own_rows_may_bring_new_levels_and_empty_columns() -> None:
    frame = pl.DataFrame({"e": pl.Series(["p", "q"], dtype=pl.Enum(["p", "q"])), "a": [1.0, 2.0]})
    own = pl.DataFrame({"e": ["r"], "a": [None]})
    both = with_unlabelled_rows(frame, own, profile_table(frame))
    assert both.rows() == [("p", 1.0), ("q", 2.0), ("r", None)]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"method": "gan"}, "method must be one of munge, neighbourhood; got 'gan'"),
        ({"n_rows": -1}, "n_rows must not be negative; got -1"),
    ],
)
def test_arguments_out_of_range_are_refused(change: dict[str, Any], match: str) -> None:
    frame = normal_table(10, 2)
    arguments: dict[str, Any] = {"n_rows": 5, "rng": np.random.default_rng(0), **change}
    with pytest.raises(ValueError, match=match):
        augment_rows(frame, profile_table(frame), **arguments)


def test_tables_without_rows_or_columns_are_refused() -> None:
    frame = normal_table(10, 2)
    profile, rng = profile_table(frame), np.random.default_rng(0)
    with pytest.raises(TableError, match="the table has none"):
        augment_rows(frame[:0], profile, 5, rng=rng)
    with pytest.raises(TableError, match="'x1' is missing"):
        augment_rows(frame.drop("x1"), profile, 5, rng=rng)
