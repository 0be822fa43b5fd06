"""The command `explain`: which columns move a model's predictions, and why a row got its own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tabwright.cli.console import alike, print_json, progress_line, show_grid, show_line
from tabwright.cli.errors import readable_errors
from tabwright.cli.options import DisplayOptions, ModelFile, ReadingOptions, takes_groups

if TYPE_CHECKING:
    from tabwright.explanation import Explanation


@takes_groups
def explain(
    model: ModelFile,
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="Rows to explain: file, folder, pattern.")
    ],
    row: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Explain this row alone, counted from 1."),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=2, metavar="ROWS", help="Rows to sample, without --row.")
    ] = 100,
    log_odds: Annotated[
        bool, typer.Option("--log-odds", help="In log-odds rather than in probability.")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw a waterfall of --row, else all rows (png, svg, pdf).",
        ),
    ] = None,
    *,
    display: DisplayOptions,
    reading: ReadingOptions,
) -> None:
    """Say which columns move predictions, and by how much.

    With --row, what each column adds to that row's prediction, from the mean of the table's rows
    on. Without, the mean size of that over rows, with 95 % intervals. Labels are not needed;
    `importance` needs them, and says how much worse predictions get.
    """
    with (
        readable_errors(as_json=display.as_json),
        progress_line(display.silent, "explaining") as line,
    ):
        import numpy as np

        from tabwright.explanation import explain as attributions_of
        from tabwright.inference.fitted_model import load_fitted
        from tabwright.report.explanations import output_title, uncapitalised
        from tabwright.tables.column_names import shown_name
        from tabwright.workflows.reading import read_features

        if picture is not None:
            from tabwright.report.svg import check_picture

            check_picture(picture)
        fitted = load_fitted(model)
        if log_odds and fitted.classes is None:
            raise ValueError(
                f"--log-odds is for probabilities; {model} is a regression, which is explained in "
                "the target's unit; leave it out"
            )
        frame = read_features(fitted, table, csv=reading.csv_format())
        if row is not None and row > len(frame):
            raise ValueError(
                f"--row must be at most {len(frame):,}, the rows of {table}; got {row}"
            )
        explained = frame
        if row is not None:
            explained = frame[row - 1 : row]
        elif len(frame) > rows:
            drawn = np.random.default_rng(0).choice(len(frame), rows, replace=False)
            explained = frame[np.sort(drawn)]
        found = attributions_of(
            fitted,
            explained,
            frame,
            scale="log_odds" if log_odds else "probability",
            on_message=None if display.silent else line.hidden_during(show_line),
        )
        line.hide()
        tables = {
            name: found.importance(k) if row is None else found.row(0, k)
            for k, name in enumerate(found.outputs)
        }
        if picture is not None:
            _draw(found, picture, is_one=row is not None)
            if not display.silent:
                show_line(f"wrote {picture}")
        if display.as_json:
            facts: dict[str, object] = {"rows": len(explained), "exact": found.exact}
            facts |= {
                "scale": found.scale,
                "base": dict(zip(found.outputs, found.base, strict=True)),
            }
            if row is not None:
                facts |= {
                    "row": row,
                    "output": dict(zip(found.outputs, found.output[0], strict=True)),
                }
            key = "importance" if row is None else "attributions"
            print_json({**facts, key: {name: part.to_dicts() for name, part in tables.items()}})
            return
        for k, part in enumerate(tables.values()):
            what = uncapitalised(output_title(found, k))
            title = (
                f"mean size of what each column adds to the {what}, over {len(explained):,} rows, "
                "with the ends of its 95 % interval"
            )
            if row is not None:
                here, usual = alike([found.output[0, k], found.base[k]])
                title = f"row {row}: the {what} is {here}, on average {usual}"
            numbers = [column.name for column in part.iter_columns() if column.dtype.is_float()]
            # An interval has as many digits as what it is of.
            shown = iter(alike([x for name in numbers for x in part[name]]))
            cells = [
                list(itertools.islice(shown, len(part)))
                if column.name in numbers
                else ["missing" if cell is None else shown_name(str(cell)) for cell in column]
                for column in part.iter_columns()
            ]
            grid = list(zip(*cells, strict=True))
            show_grid(part.columns, grid, title=title, right=range(1, len(part.columns)))


def _draw(found: Explanation, picture: Path, *, is_one: bool) -> None:
    """The picture: of several classes, of the most probable, or of the one that moves most."""
    from tabwright.report.explanations import plot_beeswarm, plot_waterfall
    from tabwright.report.svg import write_picture

    if is_one:
        figure = plot_waterfall(found, output=int(found.output[0].argmax()))
    else:
        figure = plot_beeswarm(found, int(abs(found.attributions).sum(axis=(0, 1)).argmax()))
    write_picture(figure, picture)
