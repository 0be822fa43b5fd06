"""The command `tabwright distill`: its options, and how its result is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tabwright.cli.brief_command import SETTINGS
from tabwright.cli.console import (
    message_shower,
    print_json,
    progress_line,
    seconds_taken,
    show_grid,
    show_line,
)
from tabwright.cli.errors import readable_errors
from tabwright.cli.option_names import in_options
from tabwright.cli.options import (
    ColumnOptions,
    Depth,
    DisplayOptions,
    Epochs,
    RoleOptions,
    RunOptions,
    TableToFit,
    Target,
    TestFraction,
    Width,
    given,
    takes_groups,
    teacher_of,
)
from tabwright.number_text import number_text

if TYPE_CHECKING:
    from tabwright.distillation.fidelity import FidelityReport, ModelFigures


@takes_groups
def distill(
    *,
    teacher: Annotated[
        str,
        typer.Argument(
            metavar="TEACHER",
            help="A model file, or a tree kind such as catboost.",
            callback=teacher_of,
        ),
    ],
    table: TableToFit,
    target: Target,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to save [TABLE-student.safetensors]."
        ),
    ] = None,
    max_parameters: Annotated[
        int | None, typer.Option(metavar="N", help="Most parameters of the student.")
    ] = None,
    max_latency_us: Annotated[
        float | None,
        typer.Option(metavar="US", help="Most microseconds for a row on this machine."),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="WIDTHS", help="Try these too, e.g. 8,16,32; keep the smallest good."),
    ] = None,
    unlabelled: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE", help="More rows for the teacher to label.", rich_help_panel=SETTINGS
        ),
    ] = None,
    columns: ColumnOptions,
    test_fraction: TestFraction = 0.2,
    width: Width = None,
    depth: Depth = None,
    epochs: Epochs = None,
    run: RunOptions,
    display: DisplayOptions,
    reading: RoleOptions,
) -> None:
    """Teach a small network what a model or tree ensemble knows; say if it helped."""
    with readable_errors(as_json=display.as_json), progress_line(display.silent) as line:
        labelled = columns.request(table, target, reading)

        from tabwright.fitting.students.student_size import Budget
        from tabwright.workflows.requests.distill import DistillRequest, check_distillation

        request = DistillRequest(
            teacher=teacher,
            table=labelled,
            output=output,
            test_fraction=test_fraction,
            unlabelled=unlabelled,
            settings=given(hidden_dim=width, num_hidden_layers=depth, max_epochs=epochs),
            budget=Budget(max_parameters, max_latency_us),
            sweep=_widths(sweep),
            n_threads=run.threads,
            random_state=run.seed,
            overwrite=run.overwrite,
        )
        # A mistake is told before PyTorch is loaded.
        check_distillation(request)
        line.doing("loading PyTorch")

        from tabwright.workflows.distill import run_distillation

        line.doing("working")
        result = run_distillation(
            request,
            on_message=message_shower(line, quiet=display.quiet, as_json=display.as_json),
            on_epoch=line.epoch,
        )
        line.hide()
        if display.as_json:
            print_json(
                {
                    "model": str(result.path),
                    "report": result.report.to_document(),
                    "messages": [in_options(message) for message in result.messages],
                    "seconds": seconds_taken(),
                }
            )
        else:
            _show(result.report)
            if not display.quiet:
                show_line(f"saved {result.path} after {seconds_taken():.1f} s")


def _widths(text: str | None) -> tuple[int, ...]:
    """The widths of `--sweep`."""
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
    """Print the figures of teacher, student and direct network, and the verdict."""
    loss = "RMSE" if report.metric == "rmse" else "log-loss"
    figures = (loss, "parameters", "kB", "us, encoded row", "us, raw row")
    show_grid(
        ["", *figures],
        [
            _row("teacher", report.teacher),
            _row("student", report.student),
            _row("without teacher", report.direct),
        ],
        right=[1, 2, 3, 4, 5],
    )
    if report.sweep:
        show_grid(
            ["size", *figures],
            [
                _row(
                    f"{point.num_hidden_layers} x {point.hidden_dim}" + " (kept)" * point.chosen,
                    point.figures,
                )
                for point in report.sweep
            ],
            right=[1, 2, 3, 4, 5],
        )
    show_line("us: median microseconds for one row, encoded already or as it is in the table")
    show_line(report.verdict)


def _row(name: str, figures: ModelFigures) -> list[str]:
    """The cells of one model."""

    def cell(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    size = None if figures.file_bytes is None else figures.file_bytes / 1000
    return [
        name,
        number_text(figures.loss),
        cell(figures.n_parameters, ",d"),
        cell(size, ",.1f"),
        cell(figures.row_us, ",.1f"),
        cell(figures.raw_row_us, ",.0f"),
    ]
