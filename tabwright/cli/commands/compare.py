"""The command `tabwright compare`: its options, and how its result is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tabwright.cli.brief_command import SETTINGS
from tabwright.cli.completion import complete_metric, complete_mode
from tabwright.cli.console import (
    Advance,
    alike,
    counting_bar,
    line_width,
    message_shower,
    print_json,
    progress_line,
    seconds_taken,
    show_command,
    show_grid,
    show_line,
)
from tabwright.cli.errors import readable_errors
from tabwright.cli.options import (
    ColumnOptions,
    DisplayOptions,
    Epochs,
    EvalMetric,
    Members,
    ObjectiveOptions,
    RoleOptions,
    RunOptions,
    TableToFit,
    Target,
    given,
    names_of,
    takes_groups,
)
from tabwright.cli.settings_file import options_for

if TYPE_CHECKING:
    from tabwright.workflows.compare import Comparison


@takes_groups
def compare(
    *,
    table: TableToFit,
    target: Target,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            "--mode",
            "-m",
            metavar="MODE",
            autocompletion=complete_mode,
            callback=names_of,
            help="Compare only these modes: A,B; may come again.",
        ),
    ] = None,
    references: Annotated[
        bool,
        typer.Option(
            "--references/--no-references", show_default=False, help="Tree ensembles too [yes]."
        ),
    ] = True,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_metric,
            help="Metric that ranks [log_loss, rmse].",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    folds: Annotated[int, typer.Option(metavar="N", help="Parts, each tested once.")] = 5,
    repeats: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Cross-validations to average; more are steadier.",
            rich_help_panel=SETTINGS,
        ),
    ] = 1,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Fit the mode to use on all rows, with the trees that won, and save it.",
        ),
    ] = None,
    columns: ColumnOptions,
    aim: ObjectiveOptions,
    members: Members = None,
    epochs: Epochs = None,
    eval_metric: EvalMetric = None,
    run: RunOptions,
    display: DisplayOptions,
    reading: RoleOptions,
    context: typer.Context,
) -> None:
    """Cross-validate the modes beside tree ensembles and say which to use."""
    with readable_errors(as_json=display.as_json), ExitStack() as stack:
        line = stack.enter_context(progress_line(display.silent))
        labelled = aim.columns(columns).request(table, target, reading)

        from tabwright.workflows.requests.compare import CompareRequest, check_comparison

        request = CompareRequest(
            table=labelled,
            modes=tuple(mode or ()),
            references=references,
            metric=metric,
            n_folds=folds,
            n_repeats=repeats,
            settings={
                **given(n_members=members, max_epochs=epochs, eval_metric=eval_metric),
                **aim.settings(),
            },
            n_threads=run.threads,
            random_state=run.seed,
            save=save,
            overwrite=run.overwrite,
        )

        def same(command: str) -> list[str]:
            return options_for(command, context, but=("mode", "folds"))

        def start(n_fits: int) -> Advance:
            line.hide()
            return stack.enter_context(counting_bar(display.silent, "fits", n_fits))

        # A mistake is told before PyTorch is loaded.
        check_comparison(request)
        line.doing("loading PyTorch")

        from tabwright.workflows.compare import run_comparison

        line.doing(f"reading {table}")
        comparison = run_comparison(
            request,
            on_message=message_shower(line, quiet=display.quiet, as_json=display.as_json),
            on_start=start,
        )
        stack.close()
        if display.as_json:
            print_json({**_document(comparison), "seconds": seconds_taken()})
            return
        _show(comparison)
        if display.quiet:
            return
        best = comparison.candidates[0]
        if best.is_reference:
            saves_trees = best.name in comparison.saved_weights
            alone = "" if saves_trees else f"{best.name} alone is not saved by tabwright; "
            show_line(f"{alone}a small network can learn what {best.name} knows:")
            show_command(["tabwright", "distill", best.name, table, *same("distill")])
        if comparison.saved is None:
            beside = f", with {best.name}'s trees beside it" if best.is_reference else ""
            show_line(f"to train {comparison.use}, or compare again with --save FILE{beside}:")
            show_command(["tabwright", "train", table, *same("train"), "--mode", comparison.use])
        else:
            show_line(
                f"saved {comparison.use}{_trees_beside(comparison)}, fitted on all "
                f"{comparison.n_rows:,} rows, as {comparison.saved}; use it with"
            )
            show_command(["tabwright", "predict", str(comparison.saved), "NEW_TABLE"])


def _trees_beside(comparison: Comparison) -> str:
    """What became of the trees of a reference that came first, in the model that was saved."""
    best = comparison.candidates[0]
    if not best.is_reference:
        return ""
    if best.name in comparison.saved_weights:
        shares = [
            f"{name} {100 * weight:.0f} %" for name, weight in comparison.saved_weights.items()
        ]
        return f" with {best.name}'s trees beside its networks (weights: {', '.join(shares)})"
    return f" without {best.name}'s trees, which were not fitted or got no weight"


def _show(comparison: Comparison) -> None:
    """Print the candidates, best first, with what they lag behind."""
    metric = comparison.metric
    show_line(
        f"means over folds; behind: the best's lead in {metric}, with its 95 % interval",
        style="bold",
    )
    gaps = [candidate.behind for candidate in comparison.candidates]
    ends = [end for gap in gaps if gap is not None for end in (gap.mean, gap.low, gap.high)]
    # With more places the grid is wider than 80 columns.
    shown = iter(alike(ends, most=4))
    columns = {
        "": [candidate.name for candidate in comparison.candidates],
        metric: [_number(candidate.mean(metric)) for candidate in comparison.candidates],
    }
    lines = [
        ("best", "") if gap is None else (next(shown), f"{next(shown)} to {next(shown)}")
        for gap in gaps
    ]
    columns["behind"], columns["95 %"] = ([line[part] for line in lines] for part in (0, 1))
    columns |= _that_fit(comparison, line_width() - _width(columns))
    right = [1, 2, *range(4, len(columns))]
    show_grid(list(columns), list(zip(*columns.values(), strict=True)), right=right)
    for sentence in comparison.advice:
        show_line(sentence)


def _that_fit(comparison: Comparison, width: int) -> dict[str, list[str]]:
    """Columns that can be left out, those first that matter most, as many as fit a width."""
    candidates = comparison.candidates
    sizes = [candidate.size_bytes for candidate in candidates]
    wanted = {
        "fit s": [f"{candidate.fit_seconds:,.1f}" for candidate in candidates],
        "rows/s": [f"{candidate.rows_per_second:,.0f}" for candidate in candidates],
        "KiB": ["" if size is None else f"{size / 1024:,.0f}" for size in sizes],
    }
    others = [name for name in candidates[0].scores if name != comparison.metric][:2]
    for name in others:
        wanted[name] = [
            _number(candidate.mean(name)) if name in candidate.scores else ""
            for candidate in candidates
        ]
    while wanted and _width(wanted) > width:
        wanted.popitem()
    return wanted


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    """How wide a grid of columns is, the space behind each included."""
    return sum(max(map(len, (name, *cells))) + 2 for name, cells in columns.items())


def _number(value: float) -> str:
    return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.1f}"


def _document(comparison: Comparison) -> dict[str, Any]:
    document = asdict(comparison)
    document["saved"] = None if comparison.saved is None else str(comparison.saved)
    for candidate, entry in zip(comparison.candidates, document["candidates"], strict=True):
        entry["means"] = {name: candidate.mean(name) for name in candidate.scores}
    return document
