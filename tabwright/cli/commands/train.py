"""The command `tabwright train`: its options, and how its result is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tabwright.cli.brief_command import SETTINGS
from tabwright.cli.completion import (
    complete_calibration,
    complete_decision,
    complete_encoding,
    complete_mode,
    complete_teacher,
)
from tabwright.cli.console import (
    describe_rule,
    message_shower,
    print_json,
    progress_line,
    seconds_taken,
    show_command,
    show_line,
    show_message,
    show_model_scores,
    show_profile,
)
from tabwright.cli.errors import readable_errors
from tabwright.cli.option_names import in_options
from tabwright.cli.options import (
    ColumnOptions,
    Depth,
    DisplayOptions,
    Epochs,
    EvalMetric,
    Members,
    ObjectiveOptions,
    QualityOption,
    RoleOptions,
    RunOptions,
    SaveConfig,
    Target,
    TestFraction,
    Width,
    given,
    takes_groups,
)
from tabwright.cli.settings_file import settings_text

if TYPE_CHECKING:
    from tabwright.fitting.class_weights import Prior
    from tabwright.settings import FitSettings
    from tabwright.training.callbacks import Callback


@dataclass(frozen=True)
class SettingOptions:
    """Settings of a fit, named as `FitSettings` names them."""

    n_members: Members = None
    max_epochs: Epochs = None
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Stop after so many epochs without gain; 0: as by default.",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    hidden_dim: Width = None
    num_hidden_layers: Depth = None
    dropout: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of units dropped; more against overfitting.",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Highest step size; lower where the loss jumps.",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    weight_decay: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Decay of AdamW; more against overfitting.", rich_help_panel=SETTINGS
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="ROWS",
            help="Rows per step; more make an epoch shorter.",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Share of rows that choose the epoch.", rich_help_panel=SETTINGS
        ),
    ] = None
    eval_metric: EvalMetric = None
    numeric_encoding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_encoding,
            help="How numbers go in: auto, standard, robust, quantile_normal, quantile_ple, "
            "tree_ple.",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_calibration,
            help="Of probabilities: auto, temperature, logistic, vector, structured, isotonic, "
            "none.",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    refit: Annotated[
        bool,
        typer.Option(
            "--refit", help="Train again on validation rows too.", rich_help_panel=SETTINGS
        ),
    ] = False
    quality: QualityOption = None
    intervals: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Prediction intervals: adaptive (width by row), constant.",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    n_folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            metavar="N",
            help="Networks hold out a fold each [8 for best; else 4 for classes in few rows].",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    time_limit: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Longest time for the fit: 90s, 10m, 1h.", rich_help_panel=SETTINGS
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Where to train: auto, cpu, cuda.", rich_help_panel=SETTINGS
        ),
    ] = None
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Precision of products while training: float32, bfloat16.",
            rich_help_panel=SETTINGS,
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Those that were given."""
        settings = given(**asdict(self))
        if not self.refit:
            del settings["refit"]
        if self.patience == 0:
            settings["patience"] = None
        if self.calibration == "none":
            settings["calibration"] = None
        if self.time_limit is not None:
            from tabwright.training.time_limit import seconds_of

            settings["time_limit"] = seconds_of(self.time_limit)
        return settings


@takes_groups
def train(
    *,
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="CSV, Parquet, Arrow, JSON lines, Excel; folder.")
    ],
    target: Target,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            "-m",
            metavar="MODE",
            autocompletion=complete_mode,
            help="One of `tabwright modes`.",
        ),
    ] = "mlp_dense",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to save [TABLE-MODE.safetensors]."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML report on the held-out rows.")
    ] = None,
    columns: ColumnOptions,
    test_fraction: TestFraction = 0.2,
    decision: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            autocompletion=complete_decision,
            help="What labels serve: f1, balanced_accuracy, recall=X, precision=X, costs=FILE.",
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL",
            help="Which of two labels is positive [the last].",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    prior: Annotated[
        str,
        typer.Option(
            metavar="PRIOR",
            help="Class shares that imbalance_aware assumes: training, balanced, no=0.9,yes=0.1.",
            rich_help_panel=SETTINGS,
        ),
    ] = "training",
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_teacher,
            help="For tree_teacher_distillation: catboost, lightgbm, xgboost, random_forest, "
            "extra_trees, hist_gradient_boosting; may come again.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    aim: ObjectiveOptions,
    options: SettingOptions,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write curves to this folder.", rich_help_panel=SETTINGS
        ),
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="Log to this server, as sqlite:///x.db.", rich_help_panel=SETTINGS
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="AMOUNT",
            help="Most memory for training, e.g. 2GB; rows of more stay on disk [half of free].",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep the run's state here, and go on from it.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    checkpoint_seconds: Annotated[
        float,
        typer.Option(
            metavar="X", help="Seconds between writes of the state.", rich_help_panel=SETTINGS
        ),
    ] = 60.0,
    run: RunOptions,
    save_config: SaveConfig = None,
    display: DisplayOptions,
    reading: RoleOptions,
    context: typer.Context,
) -> None:
    """Train a model on a table, score it on held-out rows, save it as one file."""
    with readable_errors(as_json=display.as_json), progress_line(display.silent) as line:
        labelled = aim.columns(columns).request(table, target, reading)

        from tabwright.artifact.atomic_write import check_suffix, check_writable, write_atomically
        from tabwright.streaming.memory import bytes_of
        from tabwright.workflows.requests.decision import DecisionRequest
        from tabwright.workflows.requests.outputs import check_settings_output
        from tabwright.workflows.requests.train import TrainRequest, check_training

        if positive is not None and decision is None:
            raise ValueError(f"--positive is for --decision; got {positive!r} and no --decision")
        request = TrainRequest(
            table=labelled,
            output=output,
            test_fraction=test_fraction,
            settings={"training_mode": mode, **options.settings(), **aim.settings()},
            prior=_prior_of(prior),
            teachers=tuple(teacher or ()),
            decision=None if decision is None else DecisionRequest.parse(decision, positive),
            n_threads=run.threads,
            random_state=run.seed,
            report=report,
            memory=None if memory is None else bytes_of(memory),
            checkpoint=checkpoint,
            checkpoint_interval=checkpoint_seconds,
            overwrite=run.overwrite,
        )
        if save_config is not None:
            check_suffix(save_config, ".toml", "the file of --save-config")
            check_writable(save_config)
            replaced = check_settings_output(save_config, labelled, overwrite=run.overwrite)
            if replaced is not None and not display.quiet and not display.as_json:
                line.hidden_during(show_message)(replaced)
        # A mistake is told before PyTorch is loaded.
        check_training(request)
        line.doing("loading PyTorch")

        from tabwright.workflows.train import run_training

        result = run_training(
            request,
            on_message=message_shower(line, quiet=display.quiet, as_json=display.as_json),
            on_profile=None if display.silent else line.hidden_during(show_profile),
            on_stage=line.doing,
            on_epoch=line.epoch,
            callbacks=_loggers(tensorboard, mlflow),
        )
        line.hide()
        if result is None:
            # Another worker speaks for all.
            return
        model = result.model
        if save_config is not None:
            write_atomically(save_config, settings_text(context, _used(model.settings)).encode())
        if display.as_json:
            print_json(
                {
                    "model": str(result.path),
                    "report": None if report is None else str(report),
                    "mode": model.settings.training_mode,
                    "task": model.settings.task,
                    "decision": describe_rule(model),
                    "metrics": {rows: dict(scores) for rows, scores in model.metrics.items()},
                    "set_aside": {
                        column["name"]: column["note"]
                        for column in model.card["columns"]
                        if not column["used"]
                    },
                    "messages": [in_options(message) for message in result.messages],
                    "seconds": seconds_taken(),
                }
            )
        else:
            show_model_scores(model)
            if display.quiet:
                return
            show_line(f"saved {result.path} after {seconds_taken():.1f} s; use it with")
            show_command(["tabwright", "predict", str(result.path), "NEW_TABLE"])


def _used(settings: FitSettings) -> dict[str, Any]:
    """The settings of a fit, but for those of another task, objective or mode."""
    used = asdict(settings)
    # The options have words for what is None here.
    used["patience"] = settings.patience or 0
    used["eval_metric"] = settings.eval_metric or "loss"
    if settings.task == "classification":
        del used["objective"], used["intervals"]
    else:
        del used["calibration"]
    if settings.objective != "quantile":
        del used["quantiles"]
    if settings.training_mode == "linear_glm_baseline":
        del used["hidden_dim"], used["num_hidden_layers"], used["dropout"]
    if settings.asked_folds > 1:
        # To ask for a number of networks is to ask for one set of validation rows.
        del used["n_members"]
    return used


def _prior_of(text: str) -> Prior:
    """The prior that was asked for: "training", "balanced" or a share by label."""
    if text == "training":
        return "training"
    if text == "balanced":
        return "balanced"
    shares: dict[str, float] = {}
    for part in text.split(","):
        label, equals, share = part.rpartition("=")
        try:
            shares[label.strip()] = float(share if equals else "")
        except ValueError:
            raise ValueError(
                "--prior must be training, balanced, or a share for each label as no=0.9,yes=0.1; "
                f"got {text!r}"
            ) from None
    return shares


def _loggers(tensorboard: Path | None, mlflow: str | None) -> list[Callback]:
    """The callbacks of `--tensorboard` and `--mlflow`."""
    from tabwright.training.loggers import MLflowLogger, TensorBoardLogger

    loggers: list[Callback] = []
    if tensorboard is not None:
        loggers.append(TensorBoardLogger(tensorboard))
    if mlflow is not None:
        loggers.append(MLflowLogger(mlflow))
    return loggers
