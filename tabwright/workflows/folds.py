"""The folds of a cross-validation: the same rules for every workflow that compares fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tabwright.fitting.data_checks import warning_of_folds
from tabwright.splits import fold_rows, forward_folds
from tabwright.tables.labelled import TrainingTable, check_classes, splits_of_rows

if TYPE_CHECKING:
    from tabwright.splits import Splits


def folds_of(
    table: TrainingTable,
    *,
    n_folds: int,
    n_repeats: int = 1,
    validation: object = None,
    random_state: int = 0,
    on_message: Callable[[str], None] = lambda message: None,
) -> tuple[TrainingTable, Splits]:
    """The folds of a table, and the table with what they say of the order of its rows.

    `n_folds`: stratified by class, by group where there are groups, or forward where there are
        times.
    `n_repeats`: how often rows are assigned to folds anew; not with times.
    `validation`: gives the folds, in place of all this.
    `on_message`: called with a warning of rows that their folds cannot hold out, since equal rows
        are trained on.
    Returns `folds`: at least 2.
    Raises `ValueError` if there are fewer than 2 folds, or the splitter's are no splits of these
        rows.
    Raises `TableError` if a fold tests a class that its training rows lack.
    """
    folds: Splits = []
    if validation is not None:
        folds, rows = splits_of_rows(validation, table.rows, table.classes)
        table = replace(table, rows=rows)
        if len(folds) < 2:
            raise ValueError(
                f"cross-validation needs at least 2 splits; got {len(folds)} from validation; give "
                "a splitter with more"
            )
    elif table.rows.time is not None:
        folds += forward_folds(table.rows.time, n_folds)
    else:
        for repeat in range(n_repeats):
            of_row = fold_rows(
                len(table),
                n_folds,
                table.codes,
                table.rows.groups,
                random_state=random_state + repeat,
            )
            folds += [
                (np.flatnonzero(of_row != fold), np.flatnonzero(of_row == fold))
                for fold in range(n_folds)
            ]
    check_classes(folds, table.rows, table.classes)
    warning = warning_of_folds(table.rows, folds)
    if warning is not None:
        on_message(warning)
    return table, folds
