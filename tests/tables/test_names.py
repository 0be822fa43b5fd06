"""Any text is a possible name of a column: expressions of a library are never made of one."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright import TabularClassifier, TabularRegressor
from tabwright.cli.app import app
from tabwright.tables import as_frame, profile_table, read_table

HOSTILE = ["*", "^x.*$", "^.*$", "", " ", "x1", "a,b", 'q"uote', "row", "literal", "len"]


def table(n_rows: int = 130) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    columns: dict[str, object] = {}
    for place, name in enumerate(HOSTILE):
        columns[name] = [
            draw.normal(size=n_rows),
            draw.choice(["u", "v", "w"], n_rows),
            draw.integers(0, 9, n_rows),
            draw.random(n_rows) < 0.5,
        ][place % 4]
    return pl.DataFrame(columns)


def every_kind(name: str, n_rows: int = 130) -> list[pl.DataFrame]:
    """Tables whose first column has the name, of each kind in turn."""
    draw = np.random.default_rng(1)
    days = (np.datetime64("2024-01-01") + draw.integers(0, 400, n_rows)).astype("datetime64[us]")
    kinds = [
        draw.normal(size=n_rows),
        [("u", "v", None)[i] for i in draw.integers(0, 3, n_rows)],
        draw.choice([f"level {i}" for i in range(70)], n_rows).tolist(),
        draw.random(n_rows) < 0.5,
        days,
    ]
    # A column that a pattern would take instead.
    other = draw.normal(size=n_rows)
    return [pl.DataFrame({name: values, "x1 other": other}) for values in kinds]


@pytest.mark.parametrize("name", ["*", "^x.*$", ""])
def test_fits_and_predicts_as_under_another_name(name: str) -> None:
    for frame in every_kind(name):
        plain = frame.rename({name: "plain"})
        y = np.arange(len(frame)) % 2
        options = {"n_members": 1, "max_epochs": 1, "hidden_dim": 8, "random_state": 0}
        own = TabularClassifier(**options).fit(frame, y)  # type: ignore[arg-type]
        other = TabularClassifier(**options).fit(plain, y)  # type: ignore[arg-type]
        wanted = other.predict_proba(plain)
        np.testing.assert_array_equal(own.predict_proba(frame), wanted)
        np.testing.assert_array_equal(own.predict_proba(frame[frame.columns[::-1]]), wanted)
        np.testing.assert_allclose(own.predict_proba(frame[3:4]), wanted[3:4], rtol=1e-9)


def test_profile_and_files(tmp_path: Path) -> None:
    frame = table()
    assert [column.name for column in profile_table(frame).columns] == HOSTILE
    frame.write_parquet(tmp_path / "t.parquet")
    for name in HOSTILE:
        assert read_table(tmp_path / "t.parquet", columns=[name]).columns == [name]


@pytest.mark.parametrize("target", ["y", "^x.*$", "*"])
def test_commands_take_any_name(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = table().select(pl.nth([i for i, n in enumerate(HOSTILE) if n and n.strip()]))
    labels = np.where(np.arange(len(frame)) % 2, "yes", "no")
    kept = [frame.get_column(n) for n in frame.columns if n != target]
    pl.DataFrame([*kept, pl.Series(target, labels)]).write_csv("t.csv")

    def run(*words: str) -> None:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, done.output

    brief = ("--epochs", "1", "--members", "1", "-o", "m.safetensors")
    run("train", "t.csv", "--target", target, *brief, "--report", "r.html")
    run("evaluate", "m.safetensors", "t.csv", "--target", target)
    run("predict", "m.safetensors", "t.csv", "--keep", "a,b", "-o", "p.csv")
    run("train", "t.csv", "--target", target, *brief, "--memory", "1MB")


def test_places_of_pandas_columns_are_matched() -> None:
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)))
    model = TabularRegressor(n_members=1, max_epochs=1, random_state=0).fit(X, X[0])
    np.testing.assert_array_equal(model.predict(X[[2, 0, 1]]), model.predict(X))
    np.testing.assert_array_equal(model.predict(X.to_numpy()), model.predict(X))


def test_interchange_frames_keep_their_names() -> None:
    class Interchange:
        def __init__(self, frame: pl.DataFrame) -> None:
            self._frame = frame

        def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True) -> object:
            return self._frame.to_arrow().__dataframe__(nan_as_null, allow_copy)

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return self._frame.to_numpy()

    class Stream(Interchange):
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return self._frame.__arrow_c_stream__(requested_schema)

    frame = pl.DataFrame({"b": [1.0, 2.0], "a": [3.0, 4.0]})
    for X in (Interchange(frame), Stream(frame)):
        found, named = as_frame(X)
        assert named
        assert found.equals(frame)
