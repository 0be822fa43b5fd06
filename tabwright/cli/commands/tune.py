"""The command `tabwright tune`: its options, and how its result is shown."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tabwright.cli.brief_command import SETTINGS
from tabwright.cli.completion import complete_encoding, complete_mode
from tabwright.cli.console import (
    message_shower,
    print_json,
    progress_line,
    seconds_taken,
    show_grid,
    show_line,
)
from tabwright.cli.errors import readable_errors
from tabwright.cli.options import (
    ColumnOptions,
    DisplayOptions,
    Epochs,
    Members,
    ObjectiveOptions,
    QualityOption,
    RoleOptions,
    RunOptions,
    TableToFit,
    Target,
    given,
    takes_groups,
)
from tabwright.number_text import number_text

if TYPE_CHECKING:
    from tabwright.tuning.request import TuneRequest
    from tabwright.tuning.result import TuningResult

_SHOWN = 5


@takes_groups
def tune(
    *,
    table: TableToFit,
    target: Target,
    time_limit: Annotated[
        str, typer.Option(metavar="TIME", help="As 90s, 10m, 1h; the last fit included.")
    ] = "10m",
    trials: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Most trials [as the time allows].", rich_help_panel=SETTINGS
        ),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the trials there (SQLite), and go on from it."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to save [TABLE-tuned.safetensors]."
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Picture of the search: .png, .svg, .pdf [beside the model].",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    folds: Annotated[
        int, typer.Option(metavar="N", help="Parts of the rows, each tested once.")
    ] = 5,
    eval_metric: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Scorer of scikit-learn that ranks [log_loss, rmse]."),
    ] = None,
    columns: ColumnOptions,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            "-m",
            metavar="MODE",
            autocompletion=complete_mode,
            help="Mode to hold fixed, as the settings below.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    members: Members = None,
    epochs: Epochs = None,
    quality: QualityOption = None,
    numeric_encoding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_encoding,
            help="How numbers go in, held fixed.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    aim: ObjectiveOptions,
    run: RunOptions,
    display: DisplayOptions,
    reading: RoleOptions,
) -> None:
    """Search settings by cross-validation, and save a model with the best."""
    # To load PyTorch is part of the time that the user gives.
    began = time.perf_counter()
    with readable_errors(as_json=display.as_json), progress_line(display.silent) as line:
        labelled = aim.columns(columns).request(table, target, reading)

        from tabwright.training.time_limit import seconds_of
        from tabwright.tuning.request import TuneOptions, TuneRequest, check_tuning

        request = TuneRequest(
            table=labelled,
            options=TuneOptions(
                fixed=aim.settings()
                | given(
                    training_mode=mode,
                    n_members=members,
                    max_epochs=epochs,
                    numeric_encoding=numeric_encoding,
                    quality=quality,
                ),
                time_limit=seconds_of(time_limit),
                n_trials=trials,
                n_folds=folds,
                eval_metric=eval_metric,
                study=study,
                random_state=run.seed,
            ),
            output=output,
            picture=picture,
            n_threads=run.threads,
            overwrite=run.overwrite,
        )
        # A mistake is told before PyTorch is loaded.
        check_tuning(request)
        line.doing("loading PyTorch")

        from tabwright.tuning.run import run_tuning

        line.doing("searching")
        result = run_tuning(
            request,
            started=began,
            on_message=message_shower(line, quiet=display.quiet, as_json=display.as_json),
            on_progress=line.counted,
        )
        line.hide()
        if display.as_json:
            print_json(_document(request, result))
            return
        _show(result)
        if display.quiet:
            show_line(result.verdict)
            return
        show_line(f"saved {request.path} and {request.picture_path} after {seconds_taken():.0f} s")


def _show(result: TuningResult) -> None:
    """Print the best trials, best first."""
    sign = -1.0 if result.greater_is_better else 1.0
    done = sorted(
        (trial for trial in result.trials if trial.state == "complete"),
        key=lambda trial: sign * trial.mean,
    )
    if not done:
        return
    from tabwright.tuning.result import changes_in_words

    default = result.default.values if result.default is not None else {}
    rows = [
        [
            str(trial.number),
            number_text(trial.mean, 5),
            "the default" if trial.is_default else changes_in_words(trial.values, default),
        ]
        for trial in done[:_SHOWN]
    ]
    show_grid(["trial", result.metric, "differs from the default in"], rows, right=[0, 1])


def _document(request: TuneRequest, result: TuningResult) -> dict[str, Any]:
    """What `--json` prints."""
    gap = result.difference
    return {
        "model": str(request.path),
        "picture": str(request.picture_path),
        "metric": result.metric,
        "is_better": result.is_better,
        "verdict": result.verdict,
        "difference": None if gap is None else {"mean": gap.mean, "low": gap.low, "high": gap.high},
        "settings": result.model.settings.to_document(),
        "trials": [
            {
                "number": trial.number,
                "state": trial.state,
                "default": trial.is_default,
                "settings": trial.values,
                "scores": list(trial.scores),
            }
            for trial in result.trials
        ],
        "importance": result.importance,
        "ended_by": result.ended_by,
        "seconds": seconds_taken(),
    }
