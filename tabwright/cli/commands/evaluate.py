"""The command `evaluate`: scores of a saved model on labelled rows."""

from __future__ import annotations

from typing import Annotated

import typer

from tabwright.cli.console import positive_label, print_json, progress_line, show_note, show_scores
from tabwright.cli.errors import readable_errors
from tabwright.cli.options import (
    DisplayOptions,
    LabelledTable,
    ModelFile,
    ReadingOptions,
    TargetOfModel,
    takes_groups,
    target_of,
)


@takes_groups
def evaluate(
    model: ModelFile,
    table: LabelledTable,
    target: TargetOfModel = None,
    weight: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of sample weights.")
    ] = None,
    drop_null_target: Annotated[
        bool, typer.Option("--drop-null-target", help="Leave out rows without a target.")
    ] = False,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Add 95 % bootstrap intervals.")
    ] = False,
    *,
    display: DisplayOptions,
    reading: ReadingOptions,
) -> None:
    """Score a saved model on labelled rows.

    Scores of labels (accuracy, balanced accuracy) follow the decision rule stored with the model.
    """
    with (
        readable_errors(as_json=display.as_json),
        progress_line(display.silent, f"reading {table}") as line,
    ):
        from tabwright.inference.fitted_model import load_fitted
        from tabwright.workflows.evaluate import score_table

        fitted = load_fitted(model)
        column = target_of(fitted, target)
        scores = score_table(
            fitted,
            table,
            column,
            weight=weight,
            drop_null_target=drop_null_target,
            intervals=intervals,
            csv=reading.csv_format(),
            on_progress=line.counted,
        )
        line.hide()
        if display.as_json:
            print_json(
                {
                    "rows": scores.n_rows,
                    "rows_without_target": scores.n_without_target,
                    "rows_of_training": scores.n_seen,
                    "metrics": scores.metrics,
                    "class_weighted_metrics": scores.class_weighted,
                    "intervals": {name: list(ends) for name, ends in scores.intervals.items()},
                }
            )
            return
        if scores.n_seen:
            are = "are" if 5 * scores.n_seen >= scores.n_rows else "may be"
            show_note(
                f"about {scores.n_seen:,} of the {scores.n_rows:,} rows are rows that the model "
                f"was trained on: the scores {are} too good; score rows that had no part in "
                "training"
            )
        left_out = f", {scores.n_without_target:,} without a target left out"
        show_scores(
            {"score": scores.metrics}
            | ({"by class weights": scores.class_weighted} if scores.class_weighted else {}),
            f"{model.name} on {scores.n_rows:,} rows"
            + (left_out if scores.n_without_target else "")
            + positive_label(fitted),
            scores.intervals,
        )
