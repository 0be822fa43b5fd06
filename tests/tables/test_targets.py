"""Targets: which task, which labels, and that labels come back as they went in."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.errors import TableError
from tabwright.tables.targets import (
    encode_labels,
    infer_task,
    labels_to_codes,
    regression_target,
)

# ---------------------------------------------------------------------------------------------
# The task
# ---------------------------------------------------------------------------------------------

TASKS: dict[str, tuple[list[Any], str, str]] = {
    "text": (["a", "b", None], "classification", r"text \(2 distinct\), so they are classes"),
    "booleans": ([True, False], "classification", "holds true and false"),
    "fractions": ([0.5, 1.0, None], "regression", "numbers with a fraction, so it is a quantity"),
    "two whole numbers": ([0, 1], "classification", "2 distinct in 2 rows: few"),
    "one whole number": ([7] * 3, "classification", "1 distinct in 3 rows: few"),
    "whole floats": ([1.0, 2.0, float("nan")], "classification", "2 distinct in 2 rows: few"),
    "20 values, 5 rows each": (list(range(20)) * 5, "classification", "20 distinct in 100 rows"),
    "21 values": (list(range(21)) * 50, "regression", "21 distinct in 1,050 rows: many"),
    "20 values, fewer rows": ((list(range(20)) * 5)[:-1], "regression", "in 99 rows: many"),
    "Decimals": ([Decimal("0.50"), Decimal("1.25")], "regression", "with a fraction"),
    "whole Decimals": ([Decimal("1.00"), Decimal("2.00")], "classification", "whole numbers"),
}


@pytest.mark.parametrize("case", TASKS)
def test_the_task_is_told_by_the_target(case: str) -> None:
    cells, task, reason = TASKS[case]
    found, said = infer_task(pl.Series("y", cells, strict=False))
    assert found == task
    assert said.startswith("'y' holds ")
    assert re.search(reason, said)


@pytest.mark.parametrize(
    ("target", "rule"),
    [
        (pl.Series("y", [None, None]), "every cell of column 'y' is missing; name another"),
        (pl.Series("y", [float("nan")]), "every cell of column 'y' is missing"),
        (pl.Series("y", [dt.date(2020, 1, 1)]), "column 'y' holds Date; make a number of it"),
        (pl.Series("y", [[1]]), r"'y' must hold single values .* got \[1\]"),
    ],
)
def test_what_is_no_target_is_refused(target: pl.Series, rule: str) -> None:
    with pytest.raises(TableError, match=rule):
        infer_task(target)


# ---------------------------------------------------------------------------------------------
# Labels
# ---------------------------------------------------------------------------------------------

LABELS: dict[str, tuple[Any, list[Any], str]] = {
    "list of text": (["b", "a", "b"], ["a", "b"], "<U1"),
    "list of integers": ([3, 1, 3], [1, 3], "int64"),
    "list of booleans": ([True, False], [False, True], "bool"),
    "NumPy int8": (np.array([5, -5], "i1"), [-5, 5], "int8"),
    "NumPy unsigned": (np.array([2**64 - 1, 0], "u8"), [0, 2**64 - 1], "uint64"),
    "NumPy whole floats": (np.array([2.0, 1.0], "f4"), [1.0, 2.0], "float32"),
    "NumPy text": (np.array(["long", "a"]), ["a", "long"], "<U4"),
    "NumPy objects": (np.array(["b", "a"], object), ["a", "b"], "object"),
    "one column": (np.array([[1], [0]]), [0, 1], "int64"),
    "polars text": (pl.Series(["b", "a"]), ["a", "b"], "object"),
    "polars integers": (pl.Series([2, 1], dtype=pl.Int16), [1, 2], "int16"),
    "polars booleans": (pl.Series([True, False]), [False, True], "bool"),
    "polars frame": (pl.DataFrame({"y": [2, 1]}), [1, 2], "int64"),
    "polars categories": (pl.Series(["b", "a"], dtype=pl.Categorical), ["a", "b"], "object"),
    "pandas integers": (pd.Series([2, 1]), [1, 2], "int64"),
    "pandas nullable": (pd.Series([2, 1], dtype="Int64"), [1, 2], "int64"),
    "pandas text": (pd.Series(["b", "a"]), ["a", "b"], "object"),
    "pandas categories of integers": (pd.Series([2, 1], dtype="category"), [1, 2], "int64"),
    "pandas frame": (pd.DataFrame({"y": [2, 1]}), [1, 2], "int64"),
    "pyarrow": (pa.array(["b", "a"]), ["a", "b"], "object"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_come_back_as_they_went_in(case: str) -> None:
    y, classes, dtype = LABELS[case]
    labels = encode_labels(y)
    assert labels.classes.tolist() == classes
    assert labels.classes.dtype == np.dtype(dtype)
    assert labels.codes.dtype == np.int64
    plain = np.asarray(y).reshape(-1) if not isinstance(y, pl.Series) else y.to_numpy()
    assert labels.classes[labels.codes].tolist() == plain.tolist()
    assert labels_to_codes(y, labels.classes).tolist() == labels.codes.tolist()


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


@given(st.lists(text, min_size=1) | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_classes_are_sorted_as_numpy_sorts_them(y: list[Any]) -> None:
    # NumPy's fixed-width text drops NUL characters at the end.
    y = [value.replace("\0", "x") if isinstance(value, str) else value for value in y]
    labels = encode_labels(y)
    classes, codes = np.unique(np.array(y), return_inverse=True)
    assert labels.classes.tolist() == classes.tolist()
    assert labels.codes.tolist() == codes.reshape(-1).tolist()
    objects = encode_labels(np.array(y, dtype=object))
    assert objects.classes.tolist() == classes.tolist()


def test_one_class_and_a_class_of_one_row_are_labels() -> None:
    assert encode_labels(["a", "a"]).classes.tolist() == ["a"]
    assert encode_labels([0, 0, 1]).codes.tolist() == [0, 0, 1]


REFUSED: dict[str, tuple[Any, str]] = {
    "missing text": (
        ["a", None],
        r"Input y contains NaN. The target must not be missing; got 1 missing, the first in row 2; "
        "drop these rows$",
    ),
    "missing in polars": (pl.Series([1, None, None]), "got 2 missing, the first in row 2"),
    "missing in pandas": (pd.Series([pd.NA, 1], dtype="Int64"), "1 missing, the first in row 1"),
    "NaN": (np.array([1.0, np.nan]), "contains NaN.* 1 missing, the first in row 2"),
    "infinity": (np.array([1.0, np.inf]), "contains infinity .* Labels must be strings, integers"),
    "fractions": (
        np.array([1.0, 1.5]),
        "Unknown label type: continuous. The labels must be strings, integers, booleans or "
        "integral floats; got 1.5; use TabularRegressor for quantities",
    ),
    "dates": (pl.Series([dt.date(2020, 1, 1)]), "Unknown label type: Date.*; convert them first"),
    "lists": (pl.Series([[1]]), r"must hold single values .* got \[1\]"),
    "objects": ([object()], "must hold single values .*object"),
    "no labels": ([], "y must have labels; got none; check the filter that made them"),
    "nothing": (None, "a target is needed to fit; got None; pass y"),
    "several columns": (
        np.zeros((3, 2)),
        r"y should be a 1d array; got an array of shape \(3, 2\) instead; for several targets use "
        r"sklearn.multioutput.MultiOutputClassifier",
    ),
    "several columns in lists": ([[1, 0], [0, 1]], "MultiOutputClassifier"),
    "several columns in polars": (pl.DataFrame({"a": [1], "b": [2]}), "MultiOutputClassifier"),
    "several columns in pandas": (pd.DataFrame({"a": [1], "b": [2]}), "MultiOutputClassifier"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_labels_are_refused(case: str) -> None:
    y, rule = REFUSED[case]
    with pytest.raises(TableError, match=rule):
        encode_labels(y)


@pytest.mark.parametrize(
    ("y", "classes", "shown"),
    [
        (["a", "z"], ["a", "b"], "'a', 'b'); got 'z'"),
        ([1, 9], [1, 2], "1, 2); got 9"),
        ([1], ["a", "b"], "'a', 'b'); got 1"),
        (["a"], [1, 2], "1, 2); got 'a'"),
        ([99], list(range(40)), "10, 11 and 28 more); got 99"),
    ],
)
def test_labels_that_training_lacks_are_refused(
    y: list[Any], classes: list[Any], shown: str
) -> None:
    with pytest.raises(TableError, match="eval_set must hold labels that the training") as error:
        labels_to_codes(y, np.array(classes))
    assert shown in str(error.value)
    with pytest.raises(TableError, match="test rows must hold"):
        labels_to_codes(y, np.array(classes), where="test rows")


# ---------------------------------------------------------------------------------------------
# Quantities
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "y",
    [
        [1, 2.5],
        np.array([[1.0], [2.5]]),
        np.array([1.0, 2.5], "f4"),
        pl.Series(["1", " 2.5"]),
        pl.Series([Decimal("1.0"), Decimal("2.5")]),
        pd.Series([1, 2.5], dtype="Float64"),
        pa.array([1.0, 2.5]),
        pd.DataFrame({"y": [1, 2.5]}),
    ],
)
def test_a_target_as_numbers(y: object) -> None:
    values = regression_target(y)
    assert values.dtype == np.float64
    assert values.tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("y", "rule"),
    [
        ([1.0, None], "Input y contains NaN.* got 1 missing, the first in row 2"),
        ([np.nan, 1.0], "Input y contains NaN.* the first in row 1"),
        ([1.0, np.inf], "Input y contains infinity .* got inf in row 2; drop or cap such rows"),
        (["1", "x"], "column 'y' must hold numbers; got 'x' in row 2"),
        ([dt.date(2020, 1, 1)], "must hold numbers; got Date; make a number of it first"),
        (np.zeros((2, 3)), r"shape \(2, 3\) instead; .*MultiOutputRegressor"),
        (None, "a target is needed to fit"),
    ],
)
def test_other_quantities_are_refused(y: object, rule: str) -> None:
    with pytest.raises(TableError, match=rule):
        regression_target(y)
