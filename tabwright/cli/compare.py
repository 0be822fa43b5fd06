"""The command `tabwright compare`: its words, and how its result is shown."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tabwright.cli.console import (
    Advance,
    counting_bar,
    out,
    print_json,
    say,
    show_grid,
    show_message,
)
from tabwright.cli.errors import readable_errors
from tabwright.cli.options import (
    SETTINGS,
    Config,
    HelpAll,
    JsonFlag,
    QuietFlag,
    ReadingOptions,
    complete_metric,
    complete_mode,
    complete_task,
    names_of,
    takes_reading_options,
)

if TYPE_CHECKING:
    from tabwright.workflows.compare import CandidateScores, Comparison

__all__ = ["compare"]

_WIDE = 110


@takes_reading_options(roles=True)
def compare(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="As for `train`.")],
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="COLUMN", help="Column to predict.")
    ],
    mode: Annotated[
        list[str] | None,
        typer.Option(
            "--mode",
            "-m",
            metavar="MODE",
            autocompletion=complete_mode,
            help="Only these; may come again.",
        ),
    ] = None,
    references: Annotated[
        bool, typer.Option("--references/--no-references", help="Tree ensembles too.")
    ] = True,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", autocompletion=complete_metric, help="Judges [log_loss, rmse]."
        ),
    ] = None,
    folds: Annotated[int, typer.Option(metavar="N", help="Of the cross-validation.")] = 5,
    repeats: Annotated[int, typer.Option(metavar="N", help="Cross-validations.")] = 1,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMNS", callback=names_of, help="Do not use, e.g. A,B."),
    ] = None,
    time_column: Annotated[
        str | None, typer.Option("--time", metavar="COLUMN", help="Test on later rows by it.")
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
        typer.Option(
            metavar="TASK",
            autocompletion=complete_task,
            help="Else told by the target.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    members: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Networks averaged, in every mode.", rich_help_panel=SETTINGS
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="At most so many epochs, in every mode.")
    ] = None,
    eval_metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Chooses the epoch: a scorer of scikit-learn [the loss].",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Threads to fit with.", rich_help_panel=SETTINGS)
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of every random choice.", rich_help_panel=SETTINGS)
    ] = 0,
    config: Config = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    help_all: HelpAll = False,
    *,
    reading: Callable[[], ReadingOptions],
) -> None:
    """Cross-validate the modes beside tree ensembles and say which to use."""
    # PyTorch and the tree libraries bring a pool of threads each: those of one that is done must
    # not spin on the cores that the next one needs. Read when the libraries are loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with readable_errors(as_json=as_json), ExitStack() as stack:
        from tabwright.tables.column_uses import ColumnUses
        from tabwright.tables.labelled import TableRequest
        from tabwright.workflows.compare import CompareRequest, run_comparison

        said = reading()
        settings: dict[str, Any] = {"n_members": members, "max_epochs": epochs}
        settings["eval_metric"] = eval_metric
        request = CompareRequest(
            table=TableRequest(
                table,
                ColumnUses(target, tuple(drop or ()), group, weight, time_column, drop_null_target),
                task,
                said.roles,
                said.csv,
            ),
            modes=tuple(mode or ()),
            references=references,
            metric=metric,
            n_folds=folds,
            n_repeats=repeats,
            settings={name: value for name, value in settings.items() if value is not None},
            n_threads=threads,
            random_state=seed,
        )
        silent = quiet or as_json

        def start(n_fits: int) -> Advance:
            return stack.enter_context(counting_bar(silent, "fits", n_fits))

        comparison = run_comparison(
            request,
            on_message=None if silent else show_message,
            on_start=start,
        )
        stack.close()
        if as_json:
            print_json(_document(comparison))
        else:
            _show(comparison)
            say(
                "train it with\n  "
                + shlex.join(
                    ["tabwright", "train", table, "--target", target, "--mode", comparison.use]
                )
            )


def _show(comparison: Comparison) -> None:
    metric = comparison.metric
    others = [name for name in comparison.candidates[0].scores if name != metric][:2]
    # Two metrics more fit a wide screen only.
    others = others if out.width >= _WIDE else []
    say(
        f"means over folds; behind: the best's lead in {metric}, with its 95 % interval",
        style="bold",
    )
    headings = ["", metric, "behind", "", *others, "fit s", "rows/s", "KiB"]
    rows = [
        [
            candidate.name,
            _number(candidate.mean(metric)),
            *_behind(candidate),
            *(
                f"{candidate.mean(name):,.4g}" if name in candidate.scores else ""
                for name in others
            ),
            f"{candidate.fit_seconds:,.1f}",
            f"{candidate.rows_per_second:,.0f}",
            "" if candidate.size_bytes is None else f"{candidate.size_bytes / 1024:,.0f}",
        ]
        for candidate in comparison.candidates
    ]
    show_grid(headings, rows, right=[1, 2, *range(4, len(headings))])
    for sentence in comparison.advice:
        say(sentence)


def _number(value: float) -> str:
    return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.1f}"


def _behind(candidate: CandidateScores) -> tuple[str, str]:
    if candidate.behind is None:
        return "best", ""
    gap = candidate.behind
    return f"{gap.mean:.3g}", f"{gap.low:.2g} to {gap.high:.2g}"


def _document(comparison: Comparison) -> dict[str, Any]:
    document = asdict(comparison)
    for candidate, entry in zip(comparison.candidates, document["candidates"], strict=True):
        entry["means"] = {name: candidate.mean(name) for name in candidate.scores}
    return document
