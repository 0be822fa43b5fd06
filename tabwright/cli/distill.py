"""The command `tabwright distill`: its words, and how its result is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tabwright.cli.console import print_json, say, show_grid, show_message
from tabwright.cli.errors import readable_errors
from tabwright.cli.options import (
    SETTINGS,
    Config,
    HelpAll,
    JsonFlag,
    Overwrite,
    QuietFlag,
    ReadingOptions,
    names_of,
    takes_reading_options,
)

if TYPE_CHECKING:
    from tabwright.distillation.fidelity import FidelityReport, ModelFigures

__all__ = ["distill"]


@takes_reading_options(roles=True)
def distill(
    teacher: Annotated[
        str,
        typer.Argument(metavar="TEACHER", help="A model file, or a tree kind such as catboost."),
    ],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="As for `train`.")],
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="COLUMN", help="Column to predict.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Else TABLE-student.safetensors."),
    ] = None,
    max_parameters: Annotated[
        int | None, typer.Option(metavar="N", help="At most so many, of the student.")
    ] = None,
    max_latency_us: Annotated[
        float | None,
        typer.Option(metavar="US", help="Of an encoded row, in microseconds, on this machine."),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="WIDTHS", help="Try these too, e.g. 8,16,32; keep the smallest good."),
    ] = None,
    unlabelled: Annotated[
        str | None, typer.Option(metavar="TABLE", help="More rows for the teacher to label.")
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMNS", callback=names_of, help="Do not use, e.g. A,B."),
    ] = None,
    time_column: Annotated[
        str | None, typer.Option("--time", metavar="COLUMN", help="Test on the latest rows by it.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Keep rows of equal value together.")
    ] = None,
    weight: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Sample weights.", rich_help_panel=SETTINGS)
    ] = None,
    drop_null_target: Annotated[
        bool,
        typer.Option(
            "--drop-null-target", help="Leave out rows without a target.", rich_help_panel=SETTINGS
        ),
    ] = False,
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="Else by teacher or target.", rich_help_panel=SETTINGS),
    ] = None,
    test_fraction: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Rows kept for the verdict; 0: none.", rich_help_panel=SETTINGS
        ),
    ] = 0.2,
    hidden_dim: Annotated[
        int | None,
        typer.Option("--width", metavar="N", help="The student's.", rich_help_panel=SETTINGS),
    ] = None,
    num_hidden_layers: Annotated[
        int | None,
        typer.Option("--depth", metavar="N", help="The student's.", rich_help_panel=SETTINGS),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", help="At most so many epochs.", rich_help_panel=SETTINGS),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Threads to fit with.", rich_help_panel=SETTINGS)
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of every random choice.", rich_help_panel=SETTINGS)
    ] = 0,
    overwrite: Overwrite = False,
    config: Config = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    help_all: HelpAll = False,
    *,
    reading: Callable[[], ReadingOptions],
) -> None:
    """Teach a small network what a model or tree ensemble knows; say if it helped."""
    with readable_errors(as_json=as_json):
        from tabwright.fitting.student_size import Budget
        from tabwright.tables.column_uses import ColumnUses
        from tabwright.tables.labelled import TableRequest
        from tabwright.workflows.distill import DistillRequest, run_distillation

        said = reading()
        settings: dict[str, Any] = {
            "hidden_dim": hidden_dim,
            "num_hidden_layers": num_hidden_layers,
            "max_epochs": epochs,
        }
        request = DistillRequest(
            teacher=teacher,
            table=TableRequest(
                table,
                ColumnUses(target, tuple(drop or ()), group, weight, time_column, drop_null_target),
                task,
                said.roles,
                said.csv,
            ),
            output=output,
            test_fraction=test_fraction,
            unlabelled=unlabelled,
            settings={name: value for name, value in settings.items() if value is not None},
            budget=Budget(max_parameters, max_latency_us),
            sweep=_widths(sweep),
            n_threads=threads,
            random_state=seed,
            overwrite=overwrite,
        )
        silent = quiet or as_json
        result = run_distillation(request, on_message=None if silent else show_message)
        if as_json:
            print_json(
                {
                    "model": str(result.path),
                    "report": result.report.to_document(),
                    "messages": list(result.messages),
                    "seconds": result.seconds,
                }
            )
        else:
            _show(result.report)
            say(f"saved {result.path} after {result.seconds:.1f} s")


def _widths(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = (0,)
    if min(widths) < 1:
        raise ValueError(
            f"--sweep must be widths with commas, each at least 1; got {text!r}; e.g. 8,16,32"
        )
    return widths


def _show(report: FidelityReport) -> None:
    show_grid(
        [
            "",
            "RMSE" if report.metric == "rmse" else "log-loss",
            "parameters",
            "kB",
            "row us",
            "raw",
        ],
        [
            _row("teacher", report.teacher),
            _row("student", report.student),
            _row("without teacher", report.direct),
        ],
        right=[1, 2, 3, 4, 5],
    )
    if report.sweep:
        show_grid(
            ["size", "loss", "parameters", "kB", "row us", "raw"],
            [
                _row(
                    f"{point.num_hidden_layers} x {point.hidden_dim}" + " (kept)" * point.chosen,
                    point.figures,
                )
                for point in report.sweep
            ],
            right=[1, 2, 3, 4, 5],
        )
    say(report.verdict)


def _row(name: str, figures: ModelFigures) -> list[str]:
    def cell(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    size = None if figures.file_bytes is None else figures.file_bytes / 1000
    return [
        name,
        f"{figures.loss:,.5g}",
        cell(figures.n_parameters, ",d"),
        cell(size, ",.1f"),
        cell(figures.row_us, ",.1f"),
        cell(figures.raw_row_us, ",.0f"),
    ]
