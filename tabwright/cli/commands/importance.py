"""The command `importance`: how much worse a model gets without a column."""

from __future__ import annotations

from typing import Annotated

import typer

from tabwright.cli.console import alike, print_json, progress_line, show_grid
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
def importance(
    model: ModelFile,
    table: LabelledTable,
    target: TargetOfModel = None,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=1, help="Shuffles of each column; more are steadier.")
    ] = 5,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the shuffles.")] = 0,
    *,
    display: DisplayOptions,
    reading: ReadingOptions,
) -> None:
    """Say how much worse the model gets when a column is shuffled (permutation importance).

    In log-loss, RMSE, or what else a regression was fitted for, on at most 2,000 of the first
    65,536 rows.
    Needs labels: it is about how good predictions are. `explain` is about what they are.
    """
    with (
        readable_errors(as_json=display.as_json),
        progress_line(display.silent, f"reading {table}") as line,
    ):
        from tabwright.inference.fitted_model import load_fitted
        from tabwright.inference.scoring import measure_of
        from tabwright.tables.column_names import shown_name
        from tabwright.workflows.evaluate import column_importance

        fitted = load_fitted(model)
        column = target_of(fitted, target)
        line.doing("shuffling columns")
        found = column_importance(
            fitted,
            table,
            column,
            csv=reading.csv_format(),
            n_repeats=repeats,
            random_state=seed,
        )
        line.hide()
        rows = list(zip(found.names, found.mean.tolist(), found.deviation.tolist(), strict=True))
        loss = measure_of(fitted)
        if display.as_json:
            print_json(
                {
                    "loss": loss,
                    "rows": found.n_rows,
                    "repeats": found.n_repeats,
                    "columns": [
                        {"name": name, "mean": mean, "deviation": deviation}
                        for name, mean, deviation in rows
                    ],
                }
            )
            return
        n = len(found.names)
        shown = alike([*found.mean.tolist(), *found.deviation.tolist()])
        # One shuffle says nothing of the spread.
        is_one = found.n_repeats == 1
        columns = [list(map(shown_name, found.names)), shown[:n], *([] if is_one else [shown[n:]])]
        show_grid(
            ("column", f"rise of {loss}", "+/-")[: len(columns)],
            list(zip(*columns, strict=True)),
            title=f"{model.name} on {found.n_rows:,} rows, "
            f"{found.n_repeats} shuffle{'' if is_one else 's'} a column",
            right=(1, 2),
        )
