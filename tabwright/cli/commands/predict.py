"""The command `predict`: labels and probabilities of new rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tabwright.cli.brief_command import SETTINGS
from tabwright.cli.console import (
    ProgressLine,
    counting_bar,
    print_json,
    progress_line,
    seconds_taken,
    show_line,
    show_note,
    write_out,
)
from tabwright.cli.errors import readable_errors
from tabwright.cli.options import (
    DisplayOptions,
    ModelFile,
    Overwrite,
    ReadingOptions,
    takes_groups,
)

if TYPE_CHECKING:
    import polars as pl

    from tabwright.cluster.ray_predict import PredictRequest


@takes_groups
def predict(
    model: ModelFile,
    table: Annotated[
        str,
        typer.Argument(metavar="TABLE", help="New rows: file, folder, pattern; -: a pipe."),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="CSV, TSV, JSONL, Parquet or Arrow [CSV on the screen].",
        ),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="On a Ray cluster (RAY_ADDRESS) or a local one; --output is a folder or a URI.",
            rich_help_panel=SETTINGS,
        ),
    ] = False,
    n_workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            help="Most workers of --ray [all CPUs].",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Copy this column of TABLE; may come again."),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Add intervals that hold this share, as 0.9."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="The positive label from this probability on.",
        ),
    ] = None,
    labels_only: Annotated[
        bool,
        typer.Option("--labels-only", help="Leave out the probabilities."),
    ] = False,
    digits: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=17,
            help="Significant digits; 17: all [in text: 6 or more].",
        ),
    ] = None,
    escape_formulas: Annotated[
        bool,
        typer.Option(
            "--escape-formulas",
            help="Put ' before text that a spreadsheet would run (= + - @).",
            rich_help_panel=SETTINGS,
        ),
    ] = False,
    overwrite: Overwrite = False,
    *,
    display: DisplayOptions,
    reading: ReadingOptions,
) -> None:
    """Predict new rows: the label, and the probability of every class.

    Labels follow the decision rule of the model. Tables may exceed the memory.
    """
    with (
        readable_errors(as_json=display.as_json),
        progress_line(display.silent, f"loading {model}") as line,
    ):
        from tabwright.inference.fitted_model import load_fitted
        from tabwright.object_stores import is_object_uri
        from tabwright.tables import (
            check_table_path,
            write_batches,
            write_csv_batches,
        )
        from tabwright.tables.paths import has_types
        from tabwright.workflows.predict import iter_predictions, with_threshold
        from tabwright.workflows.requests.outputs import check_predictions_output

        if output == "-":
            # As without it: CSV, or JSON lines, on the standard output.
            output = None
        if ray:
            if output is None or escape_formulas:
                raise ValueError(
                    "--ray writes a folder of Parquet files; give --output FOLDER, and leave out "
                    "--escape-formulas"
                )
            from tabwright.cluster.ray_predict import PredictRequest

            request = PredictRequest(
                model,
                table,
                output,
                keep=tuple(keep or ()),
                coverage=coverage,
                threshold=threshold,
                labels_only=labels_only,
                digits=digits,
                csv=reading.csv_format(),
            )
            line.hide()
            _predict_on_ray(request, n_workers, display)
            return
        if n_workers is not None:
            raise ValueError(f"--workers is for --ray; got {n_workers}; leave the option out")
        replaced: str | None = None
        if output is not None:
            if is_object_uri(output):
                raise ValueError(
                    f"one file goes to this machine; got {output}; --ray writes a folder in a store"
                )
            check_table_path(output)
            if escape_formulas and not _is_csv(Path(output)):
                raise ValueError(
                    f"--escape-formulas is for CSV and TSV; got {output}; leave the option out"
                )
            _check_output(Path(output), model, table)
            replaced = check_predictions_output(Path(output), overwrite=overwrite)
            if replaced is not None and not display.silent:
                line.hidden_during(show_note)(replaced)
        fitted = load_fitted(model)
        if threshold is not None:
            fitted = with_threshold(fitted, threshold)
        in_text = output is None or not has_types(Path(output))
        remarks: list[str] = []
        pieces = iter_predictions(
            fitted,
            table,
            keep=keep or (),
            coverage=coverage,
            labels_only=labels_only,
            digits="meaningful" if digits is None and in_text else digits,
            csv=reading.csv_format(),
            on_unfamiliar=remarks.append,
        )
        line.doing(f"predicting {table}")
        pieces = _counted(pieces, line, on_screen=output is None)
        if output is not None:
            n_rows = write_batches(pieces, output, protect_formulas=escape_formulas)
        elif display.as_json:
            for piece in pieces:
                write_out(piece.write_ndjson().encode())
        else:
            write_csv_batches(pieces, write_out, protect_formulas=escape_formulas)
        line.hide()
        if not (display.as_json and output is not None):
            for remark in remarks:
                show_note(remark)
        if output is None:
            return
        seconds = seconds_taken()
        if display.as_json:
            print_json(
                {
                    "output": str(output),
                    "rows": n_rows,
                    "seconds": seconds,
                    "messages": [] if replaced is None else [replaced],
                    "warnings": remarks,
                }
            )
        elif not display.quiet:
            show_line(f"wrote {n_rows:,} predictions to {output} after {seconds:.1f} s")


def _counted(
    pieces: Iterable[pl.DataFrame], line: ProgressLine, *, on_screen: bool
) -> Iterator[pl.DataFrame]:
    """The pieces; the line counts the rows that are done, or makes way for rows on the screen."""
    n_done = 0
    for piece in pieces:
        if on_screen:
            line.hide()
        yield piece
        n_done += piece.height
        if not on_screen:
            line.counted("rows predicted", n_done)


def _predict_on_ray(
    request: PredictRequest, n_workers: int | None, display: DisplayOptions
) -> None:
    """Predict a table on Ray, and say what came of it."""
    from tabwright.cluster.ray_predict import predict_on_ray

    try:
        with counting_bar(display.quiet, "rows predicted") as advance:
            result = predict_on_ray(request, n_workers=n_workers, on_rows=advance)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"the parts in {request.output} stay; the same command goes on with what is missing"
        ) from error
    seconds = seconds_taken()
    if display.as_json:
        print_json(
            {
                "output": request.output,
                "rows": result.n_rows,
                "parts": result.n_parts,
                "parts_of_earlier_runs": result.n_earlier,
                "seconds": seconds,
                "warnings": list(result.remarks),
            }
        )
        return
    for remark in result.remarks:
        show_note(remark)
    if not display.quiet:
        earlier = f", {result.n_earlier:,} of them by an earlier run" if result.n_earlier else ""
        show_line(
            f"wrote {result.n_rows:,} predictions to {request.output} in {result.n_parts:,} parts"
            f"{earlier}, after {seconds:.1f} s"
        )


def _is_csv(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".tab"))


def _check_output(output: Path, *inputs: str | Path) -> None:
    """Refuse, before any work, an output that is an input or cannot be written."""
    from tabwright.artifact.atomic_write import check_writable

    for path in map(Path, inputs):
        if path.exists() and output.exists() and output.samefile(path):
            raise ValueError(f"the output must not replace an input; got {output} as both")
    check_writable(output)
