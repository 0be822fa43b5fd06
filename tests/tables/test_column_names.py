"""Columns are matched by name; it is said where one of two tables has names and the other none."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.inspection import permutation_importance
from sklearn.model_selection import cross_val_predict
from typer.testing import CliRunner

from tabwright import (
    Predictor,
    TabularClassifier,
    TabularRegressor,
    load_fitted,
    load_model,
    write_report,
)
from tabwright.cli.app import app
from tabwright.errors import TableError
from tabwright.explanation import explain
from tabwright.tables.column_names import (
    FittedColumns,
    check_names,
    listed,
    positional_names,
    shown_name,
)

NAMES = ["tall", "wide", "deep"]
TINY: dict[str, Any] = {"n_members": 1, "max_epochs": 2, "hidden_dim": 8, "random_state": 0}
SHOULD_HAVE = "should have the feature names that .* fitted with; .* in the order of the fit: 'tall"
SHOULD_NOT = "should have no feature names, since .* fitted without; got 'tall', 'wide', 'deep'"


def _table() -> tuple[np.ndarray, pl.DataFrame, np.ndarray]:
    X = np.random.default_rng(0).normal(size=(80, 3))
    return X, pl.DataFrame(X, schema=NAMES), (X[:, 0] + X[:, 1] > 0).astype(int)


def _renamed(X: np.ndarray, form: str, first: int = 0) -> pl.DataFrame:
    return pl.DataFrame(X, schema=[form.format(first + i) for i in range(X.shape[1])])


@pytest.mark.parametrize(
    ("form", "first"),
    [("{}", 0), *itertools.product(["x{}", "column_{}", "f{}", "Column{}", "V{}"], [0, 1])],
)
def test_names_of_places_say_the_place(form: str, first: int) -> None:
    X, _, _ = _table()
    fitted = FittedColumns(positional_names(3), False, "the model")
    frame = _renamed(X, form, first)
    for own in (frame, frame[frame.columns[::-1]]):
        found = fitted.of(own, named=True)
        assert found.columns == positional_names(3)
        np.testing.assert_array_equal(found.to_numpy(), X)
    # A fit to such names has nothing to miss in an array.
    named = FittedColumns(frame.columns, True, "the model")
    array = pl.DataFrame(X, schema=positional_names(3))
    assert named.of(array, named=False).columns == frame.columns


def test_names_of_places_in_another_order_are_names() -> None:
    X, _, _ = _table()
    fitted = FittedColumns(["x2", "x0", "x1"], True, "the model")
    with pytest.warns(UserWarning, match=r"in the order of the fit: 'x2', 'x0', 'x1'; give"):
        fitted.of(pl.DataFrame(X, schema=positional_names(3)), named=False)


def test_integers_of_pandas_are_names_where_the_fit_selected_them(tmp_path: Path) -> None:
    X, _, y = _table()
    table = pd.DataFrame(np.c_[X, X[:, ::-1]])
    whole = table[[0, 1, 2]]
    for chosen in ([2, 0, 1], [1, 2, 0]):
        own = table[chosen]
        model = TabularClassifier(**TINY).fit(own, y, eval_set=(whole, y))
        again = TabularClassifier(**TINY).fit(own, y, eval_set=(own, y))
        expected = model.predict_proba(own)
        np.testing.assert_array_equal(again.predict_proba(own), expected)
        for n_rows in (1, 80):
            np.testing.assert_array_equal(
                model.predict_proba(whole[:n_rows]), model.predict_proba(own[:n_rows])
            )
        model.save(tmp_path / "m.safetensors")
        write_report(load_fitted(tmp_path / "m.safetensors"), whole, y, tmp_path / "r.html")
        with pytest.warns(UserWarning, match=SHOULD_HAVE.replace("tall", str(chosen[0]))):
            np.testing.assert_array_equal(model.predict_proba(own.to_numpy()), expected)
    # Three of four columns are not the three beside them.
    shifted = TabularClassifier(**TINY).fit(table[[1, 2, 3]], y)
    with pytest.raises(TableError, match="'3' is missing"):
        shifted.predict(whole)
    with pytest.raises(TableError, match=r"numbered from 0 to 2; got \['1', '2', '3'\]"):
        TabularClassifier(**TINY).fit(whole, y).predict(table[[1, 2, 3]])


def test_other_numbers_and_other_widths_are_refused() -> None:
    X, frame, _ = _table()
    fitted = FittedColumns(positional_names(3), False, "the model")
    with pytest.raises(TableError, match=r"numbered from 0 to 2; got \['0', '1', '7'\]"):
        fitted.of(pl.DataFrame(X, schema=["0", "1", "7"]), named=True)
    for own, named in ((frame[:, :2], True), (pl.DataFrame(X[:, :2]), False)):
        with pytest.raises(TableError, match="X has 2 features, but the model is expecting 3"):
            fitted.of(own, named=named)


@pytest.mark.parametrize(
    ("names", "message"),
    [(["a", 1], "must be text; got 1"), (["a", "b", "a"], "'a' comes 2 times")],
)
def test_wrong_names_are_refused(names: list[object], message: str) -> None:
    with pytest.raises(TableError, match=message):
        check_names(names)


def _ways(model: Any) -> dict[str, Callable[[Any], Any]]:
    """All that a fitted estimator does with rows."""
    own = {
        "predict": model.predict,
        "score": lambda X: model.score(X, np.arange(len(X)) % 2),
        "explain": lambda X: model.explain(X[:2], X[2:6]).attributions,
    }
    if isinstance(model, TabularClassifier):
        return {**own, "predict_proba": model.predict_proba}
    return {**own, "predict_interval": lambda X: model.predict_interval(X, 0.5)}


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_one_table_with_names_and_one_without_are_told_of(kind: Any, tmp_path: Path) -> None:
    X, frame, y = _table()
    by_name, by_place = kind(**TINY).fit(frame, y), kind(**TINY).fit(X, y)
    for model, own, other, message in (
        (by_name, frame, X, SHOULD_HAVE),
        (by_place, X, frame, SHOULD_NOT),
    ):
        model.save(tmp_path / "m.safetensors")
        for each in (model, load_model(tmp_path / "m.safetensors")):
            for way in _ways(each).values():
                with pytest.warns(UserWarning, match=message) as told:
                    found = way(other)
                assert {str(own.message) for own in told} == {str(told[0].message)}
                np.testing.assert_array_equal(found, way(own))  # by position, and nothing to say
    # One row of a pandas frame goes a way of its own.
    with pytest.warns(UserWarning, match=SHOULD_NOT):
        by_place.predict(frame[:1].to_pandas())
    with pytest.warns(UserWarning, match=SHOULD_HAVE):
        by_name.predict(X[:1].tolist())


def test_permuted_names_are_told_of_where_the_fit_had_none() -> None:
    X, frame, y = _table()
    model = TabularClassifier(**TINY).fit(X, y)
    with pytest.warns(UserWarning, match=r"got 'deep', 'wide', 'tall', which are taken in this"):
        model.predict(frame[NAMES[::-1]])


@pytest.mark.parametrize("form", ["x{}", "{}", "column_{}"])
def test_generic_names_are_no_news(form: str) -> None:
    X, _, y = _table()
    model = TabularClassifier(**TINY).fit(X, y)
    frame = _renamed(X, form)
    expected = model.predict_proba(X)
    for own in (frame, frame[frame.columns[::-1]], frame.to_pandas(), pd.DataFrame(X)):
        np.testing.assert_array_equal(model.predict_proba(own), expected)
    again = TabularClassifier(**TINY).fit(frame, y)
    np.testing.assert_array_equal(again.predict(X), again.predict(frame))


def test_what_runs_without_torch_says_it_too(tmp_path: Path) -> None:
    X, frame, y = _table()
    model = TabularClassifier(**TINY).fit(X, y)
    model.save(tmp_path / "m.safetensors")
    fitted = load_fitted(tmp_path / "m.safetensors")
    with pytest.warns(UserWarning, match=SHOULD_NOT):
        proba = Predictor(fitted).predict_proba(frame)
    np.testing.assert_array_equal(proba, model.predict_proba(X))
    with pytest.warns(UserWarning, match=f"the table {SHOULD_NOT}"):
        explain(fitted, frame[:2], frame[2:6].rename({n: f"x{i}" for i, n in enumerate(NAMES)}))
    with pytest.warns(UserWarning, match=f"frame {SHOULD_NOT}"):
        write_report(fitted, frame, y, tmp_path / "r.html")
    TabularClassifier(**TINY).fit(frame, y).save(tmp_path / "n.safetensors")
    with pytest.warns(UserWarning, match=f"frame {SHOULD_HAVE}"):
        write_report(load_fitted(tmp_path / "n.safetensors"), X, y, tmp_path / "r.html")


def test_eval_set_of_an_array_is_told_of() -> None:
    X, frame, y = _table()
    with pytest.warns(UserWarning, match=f"the X of eval_set {SHOULD_HAVE}"):
        TabularClassifier(**TINY).fit(frame, y, eval_set=(X, y))
    with pytest.warns(UserWarning, match=f"the X of eval_set {SHOULD_NOT}"):
        TabularClassifier(**TINY).fit(X, y, eval_set=(frame, y))


def test_the_command_says_once_that_a_file_goes_by_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    X, frame, y = _table()
    TabularClassifier(**TINY).fit(X, y).save(tmp_path / "m.safetensors")
    pl.concat([frame] * 900).write_csv("t.csv")  # several batches
    done = CliRunner().invoke(
        app,
        ["predict", "m.safetensors", "t.csv", "-o", "p.csv"],
    )
    assert done.exit_code == 0, done.output
    assert " ".join(done.output.split()).count("should have no feature names") == 1


@pytest.mark.parametrize("give", [lambda X: X, lambda X: pd.DataFrame(X, columns=NAMES)])
def test_tools_of_scikit_learn_keep_what_they_are_given(give: Callable[[Any], Any]) -> None:
    X, _, y = _table()
    own = give(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cross_val_predict(TabularClassifier(**TINY), own, y, cv=2)
        model = TabularClassifier(**TINY).fit(own, y)
        permutation_importance(model, own, y, n_repeats=1)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a b", "a b"),
        ("*", "*"),
        ("é", "é"),
        ("", "''"),
        ("\n", r"'\n'"),
        (" a", "' a'"),
        ("a  b", "'a  b'"),
        ("a\u200bb", r"'a\u200bb'"),
    ],
)
def test_a_name_that_cannot_be_seen_is_quoted(name: str, wanted: str) -> None:
    assert shown_name(name) == wanted


@pytest.mark.parametrize(
    ("values", "quoted", "shown"),
    [
        (["a", " b"], True, "'a', ' b'"),
        (["a", " b"], False, "a, ' b'"),
        ([1, 2.5], True, "1, 2.5"),
        (list("abcdefghijkl"), False, "a, b, c, d, e, f, g, h, i, j, k, l"),
        (range(14), False, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more"),
    ],
)
def test_the_first_twelve_are_listed_and_the_rest_counted(
    values: Sequence[object], quoted: bool, shown: str
) -> None:
    assert listed(values, quoted=quoted) == shown
