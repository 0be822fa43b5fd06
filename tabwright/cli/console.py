"""What the command line shows: tables of scores, a model's card, notes, progress.

Results go to the standard output, everything else to the error stream. Progress and colours
appear in a terminal only. Nothing here decides anything.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from tabwright.cli import STARTED
from tabwright.cli.column_widths import GAP, broken_name, column_widths
from tabwright.cli.option_names import in_options
from tabwright.number_text import number_text

if TYPE_CHECKING:
    from tabwright.calibration.decisions import DecisionRule
    from tabwright.inference.fitted_model import FittedModel
    from tabwright.tables import TableProfile
    from tabwright.training.loop import Epoch

Message = TypeVar("Message")


class _Stream(Console):
    """A console that is silent once the reader of its pipe has left: the work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


out = _Stream(highlight=False)
err = _Stream(stderr=True, highlight=False)

_MOST_LISTED = 12
_PIPE_WIDTH = 10_000
_WARNING = "warning: "


def seconds_taken() -> float:
    """Seconds since the process began, what it had to load included."""
    return time.perf_counter() - STARTED


def show_line(text: str, *, style: str = "") -> None:
    """A line of the result."""
    text = in_options(text)
    # Soft wrap: what is copied from a pipe must not be cut.
    out.print(Text(text, style=style), soft_wrap=not out.is_terminal)


def show_command(words: Sequence[str]) -> None:
    """A command to copy, whole: the terminal wraps it, so that it is pasted as one line."""
    out.print(Text(f"  {shlex.join(words)}"), soft_wrap=True)


def show_note(text: str) -> None:
    """A remark beside the result."""
    err.print(Text(f"note: {in_options(text)}", style="yellow"), soft_wrap=not err.is_terminal)


def show_message(text: str) -> None:
    """What was decided on the way, or a warning."""
    if text.startswith(_WARNING):
        err.print(Text(in_options(text), style="yellow"), soft_wrap=not err.is_terminal)
    else:
        show_line(text, style="dim")


def message_shower(
    line: ProgressLine, *, quiet: bool, as_json: bool
) -> Callable[[str], None] | None:
    """What shows the messages of a job beside its line; None for JSON, which holds them.

    `quiet`: whether warnings alone are shown.
    """

    def show_warning(text: str) -> None:
        if text.startswith(_WARNING):
            show_message(text)

    return None if as_json else line.hidden_during(show_warning if quiet else show_message)


def show_block(title: str, message: str) -> None:
    """An error: framed in a terminal, plain lines in a pipe."""
    if err.is_terminal:
        err.print(Panel(Text(message), title=title, border_style="red", expand=False))
    else:
        err.print(Text(f"{title}: {message}"), soft_wrap=True)


def line_width() -> int:
    """Characters that a line of the result may have."""
    # A pipe has no width: names are not cut for it.
    return out.width if out.is_terminal else _PIPE_WIDTH


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object, keys sorted, without NaN."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_out(data: bytes) -> None:
    """Bytes of a result, e.g. CSV, on the standard output as they are."""
    sys.stdout.write(data.decode())


def show_grid(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    right: Sequence[int] = (),
) -> None:
    """A table without lines; `right` names the columns of numbers."""
    if title:
        show_line(title, style="bold")
    grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, GAP, 0, 0))
    widths = column_widths(headings, rows, right, line_width())
    for position, (heading, width) in enumerate(zip(headings, widths, strict=True)):
        justify: Literal["left", "right"] = "right" if position in right else "left"
        grid.add_column(heading, justify=justify, overflow="fold", width=width)
    for row in rows:
        grid.add_row(
            *(
                Text(cell if width is None else broken_name(cell, width))
                for cell, width in zip(row, widths, strict=True)
            )
        )
    wide = out if out.is_terminal else _Stream(file=out.file, width=line_width(), highlight=False)
    wide.print(grid)


def show_scores(
    columns: Mapping[str, Mapping[str, float]],
    title: str,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Scores side by side, one row a metric, in the order of the first column."""
    headings = ["metric", *columns, *(["95 % interval"] if intervals else [])]
    rows = []
    for metric in next(iter(columns.values())):
        # As many digits as mean something, and as many in every cell of a line.
        places = _places(max(abs(s[metric]) for s in columns.values() if metric in s))
        # The sum takes the sign from a zero.
        values = [round(s[metric], places) + 0.0 if metric in s else None for s in columns.values()]
        cells = ["" if value is None else f"{value:,.{places}f}" for value in values]
        if intervals:
            low, high = intervals.get(metric, (float("nan"),) * 2)
            cells.append(f"{low:,.{places}f} to {high:,.{places}f}" if low == low else "")
        rows.append([metric, *cells])
    show_grid(headings, rows, title=title, right=range(1, len(headings)))


def alike(values: Sequence[float], *, most: int = 12) -> list[str]:
    """Numbers with as many decimal places as leave the largest three digits, at most `most`."""
    largest = max(map(abs, values), default=0.0)
    places = 3 if largest == 0.0 else min(max(0, 2 - math.floor(math.log10(largest))), most)
    # The sum takes the sign from a zero.
    return [f"{round(value, places) + 0.0:,.{places}f}" for value in values]


def _places(size: float) -> int:
    """Decimal places that leave a number of this size five digits, or four after the point."""
    return 4 if size < 10 else max(0, 4 - math.floor(math.log10(size)))


def show_model_scores(fitted: FittedModel) -> None:
    """The scores that a model carries: of test rows if there were any, else of validation rows."""
    from tabwright.inference.scoring import note_on_baseline
    from tabwright.metrics import in_order

    names = {
        "test": "test rows",
        "baseline": "trivial baseline",
        "test_class_weighted": "by class weights",
    }
    if "test" not in fitted.metrics:
        names = {
            "validation": "rows out of fold" if "folds" in fitted.card else "validation rows",
            "validation_class_weighted": "by class weights",
        }
    shown = {
        title: in_order(fitted.metrics[rows])
        for rows, title in names.items()
        if rows in fitted.metrics
    }
    if shown:
        labels = "" if fitted.decision is None else f"; labels: {describe_rule(fitted)}"
        title = f"scores of {fitted.settings.training_mode}{positive_label(fitted)}{labels}"
        show_scores(shown, title)
    note = note_on_baseline(fitted.metrics)
    if note is not None:
        show_message(note)


def show_card(fitted: FittedModel, path: Path) -> None:
    """What a model file holds, in one screen."""
    from tabwright.inference.tree_mix import combination_notes
    from tabwright.report.limits import limits
    from tabwright.tables.column_names import listed

    architecture, settings, card = fitted.architecture, fitted.settings, fitted.card
    n_parameters = sum(
        value.size
        for name, value in fitted.members[0].items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    layers = f"{architecture.num_hidden_layers} x {architecture.hidden_dim}, "
    if architecture.training_mode == "linear_glm_baseline":
        layers = ""
    plan = fitted.encoder.plan_
    used = [n for n, kind in zip(plan.names, plan.kinds, strict=True) if kind != "unused"]
    aside = [n for n, kind in zip(plan.names, plan.kinds, strict=True) if kind == "unused"]
    facts: dict[str, object] = {
        "file": f"{path} ({path.stat().st_size / 1024:,.0f} KiB)",
        "task": settings.task,
        "mode": settings.training_mode,
        "target": card.get("target"),
        "objective": None if fitted.classes is not None else describe_objective(fitted),
        "labels": None if fitted.classes is None else listed(fitted.classes.tolist(), quoted=False),
        "decision": None if fitted.classes is None else describe_rule(fitted),
        "network": f"{len(fitted.members)} x {_ARCHITECTURES[architecture.training_mode]}: "
        f"{architecture.input_dim} inputs, {layers}dropout {architecture.dropout:g}, "
        f"{n_parameters:,} parameters" + (" each" if len(fitted.members) > 1 else ""),
        "combined": "\n".join(combination_notes(card)).removeprefix("combined "),
        "columns": f"{len(used)}: {listed(used, quoted=False)}",
        "interactions": ", ".join(map(plan.pair_name, plan.pairs)),
        "set aside": listed(aside, quoted=False) if aside else None,
        "trained on": _rows_used(card),
        "calibration": card.get("calibration"),
        "trained by": f"{card['device']}, {_counted_threads(card.get('threads'))}"
        if "device" in card
        else None,
        "versions": ", ".join(f"{k} {v}" for k, v in dict(card.get("versions", {})).items()),
        "limits": "\n".join(limits(fitted)),
    }
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            grid.add_row(name, Text(str(value)))
    out.print(grid)
    _show_combination(fitted)
    show_model_scores(fitted)


def _counted_threads(count: object) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _rows_used(card: Mapping[str, Any]) -> str:
    """How many rows trained and validated, from a model's card."""
    n_rows = f"{card.get('n_training_rows', 0):,} rows"
    if "folds" in card:
        folds = dict(card["folds"])
        return (
            f"{n_rows} in {folds['n_folds']} folds, each held out by the networks of "
            "another; scores and calibration are of predictions out of fold"
        )
    return f"{n_rows}, validated on {card.get('n_validation_rows', 0):,}"


def _show_combination(fitted: FittedModel) -> None:
    """Networks and trees that were combined, with their losses on the rows that chose."""
    from tabwright.inference.tree_mix import combination_table

    rows = combination_table(fitted.card)
    if rows:
        measure = fitted.card["combination"].get("measure")
        show_grid(
            ["part", "weight", "loss", ""],
            [[name, weight, number_text(loss), remark] for name, weight, loss, remark in rows],
            title=f"parts by {measure} on the validation rows that chose the weights",
            right=(1, 2),
        )


def show_profile(profile: TableProfile) -> None:
    """What the columns are, counted by role, and each column that is set aside, with the reason."""
    from tabwright.tables.column_names import shown_name

    counts = Counter(column.role for column in profile.used)
    kinds = ", ".join(f"{count} {role}" for role, count in counts.items())
    missing = sum(column.n_missing > 0 for column in profile.used)
    text = f"{len(profile.used)} columns used: {kinds}"
    show_line(text + (f"; {missing} with missing cells" if missing else ""), style="dim")
    remarked = [*profile.set_aside, *(column for column in profile.used if column.note)]
    for column in remarked[:_MOST_LISTED]:
        show_line(f"  {shown_name(column.name)}: {column.note}", style="dim")
    if len(remarked) > _MOST_LISTED:
        rest = len(remarked) - _MOST_LISTED
        show_line(
            f"  and {rest} more columns with a remark; `tabwright inspect` lists them", style="dim"
        )


def describe_objective(fitted: FittedModel) -> str:
    """What a regression was fitted for, in words."""
    settings = fitted.settings
    levels = ", ".join(f"{level:g}" for level in settings.quantiles)
    return f"quantiles {levels}" if settings.objective == "quantile" else settings.objective


def describe_rule(fitted: FittedModel) -> str:
    """The decision rule of a classifier, in words."""
    rule: DecisionRule | None = fitted.decision
    if fitted.classes is None or rule is None or rule.kind == "argmax":
        return "the most probable class"
    labels = fitted.classes.tolist()
    if rule.costs is not None:
        return "the class of lowest expected cost"
    return f"{labels[rule.positive]} where its probability is at least {rule.threshold:.4g}"


def positive_label(fitted: FittedModel) -> str:
    """Which label precision, recall and F1 are of, as the end of a title; empty if of none."""
    if fitted.classes is None or len(fitted.classes) != 2:
        return ""
    from tabwright.inference.scoring import positive_class

    return f"; positive: {fitted.classes.tolist()[positive_class(fitted)]}"


# The class that each architecture is built of.
_ARCHITECTURES = {
    "mlp_dense": "MLP",
    "tabresnet": "TabResNet",
    "linear_glm_baseline": "LinearBaseline",
}


class Advance(Protocol):
    """Told how many more are done, and what is going on."""

    def __call__(self, count: int, text: str = "") -> None: ...


class _TimeLeft(ProgressColumn):
    """The time left of `seconds` that all will take by what was done since the start.

    Rich leaves the first thing out, and things here differ: of `compare`, the first fit is the
    slowest.
    """

    def render(self, task: Task) -> Text:
        seconds = task.fields["seconds"]
        left = None if seconds is None else max(0, round(seconds - (task.elapsed or 0.0)))
        shown = "-:--:--" if left is None else str(timedelta(seconds=left))
        return Text(shown, style="progress.remaining")


class ProgressLine:
    """One line of the terminal that says what goes on: a step, a count, or epochs.

    It takes the line at the first call, and gives it back by `hide`. Nothing is shown where nobody
    would see it.
    """

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._bar: Progress | None = None
        self._line: TaskID | None = None
        self._kind = ""
        self._text = ""

    def doing(self, text: str) -> None:
        """Show a step whose length nobody knows, with the time it has taken."""
        self._text = text
        columns = (SpinnerColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
        self._update(f"doing {text}", columns, None, text=text)

    def counted(self, what: str, n_done: float, total: float | None = None) -> None:
        """Show how many are done, such as rows; with a total, the time left too."""
        columns: list[ProgressColumn] = [SpinnerColumn()]
        if total is None:
            columns += [TextColumn("{task.completed:,.0f} {task.fields[what]}")]
        else:
            columns += [
                TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.fields[what]}"),
                BarColumn(bar_width=None),
                TimeRemainingColumn(),
            ]
        self._update(f"count of {total}", columns, total, completed=n_done, what=what)

    def epoch(self, epoch: Epoch, n_epochs: int) -> None:
        """Show an epoch, of at most so many."""
        what, now, best = "loss", epoch.validation_loss, epoch.best_loss
        if not math.isnan(epoch.best_score):
            what, now, best = "score", epoch.validation_score, epoch.best_score
        columns = (
            TextColumn("{task.fields[part]}epoch {task.completed:.0f}"),
            TextColumn("of at most {task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[what]} {task.fields[now]:.4f}, best {task.fields[best]:.4f}"),
            TimeRemainingColumn(),
        )
        # With both words the time left would not fit a terminal of 80 columns.
        part = epoch.part or "training: "
        shown: dict[str, Any] = {"part": part, "what": what, "now": now, "best": best}
        self._update("epochs", columns, n_epochs, completed=epoch.epoch, **shown)
        if epoch.epoch >= n_epochs:
            # A full bar with no time left would stand there for as long as trees take.
            self.doing("after the last epoch: trees, calibration, scores")

    def hidden_during(self, show: Callable[[Message], None]) -> Callable[[Message], None]:
        """What shows a message, made to give the line back before, and to take it again after."""

        def show_without_line(message: Message) -> None:
            self.hide()
            show(message)
            if self._text:
                self.doing(self._text)

        return show_without_line

    def hide(self) -> None:
        """Give the line back, before something else is printed."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._kind = None, ""

    def _update(
        self, kind: str, columns: Sequence[ProgressColumn], total: float | None, **fields: Any
    ) -> None:
        """Show a bar of this kind, in place of one of another."""
        if not self._shown:
            return
        if self._bar is None or kind != self._kind:
            self.hide()
            self._bar = Progress(*columns, console=err, transient=True, expand=total is not None)
            self._line = self._bar.add_task("", total=total, **fields)
            self._kind = kind
            self._bar.start()
        if self._line is not None:
            self._bar.update(self._line, **fields)


def _can_redraw() -> bool:
    """Whether a line can be drawn again; a dumb terminal would get an empty line each time."""
    return err.is_terminal and not err.is_dumb_terminal


@contextmanager
def progress_line(silent: bool, text: str = "starting") -> Iterator[ProgressLine]:
    """A line that says at once what goes on, `text` first, and is gone in the end."""
    # Of several workers in one terminal, the first one speaks.
    is_first = os.environ.get("RANK", "0") == "0"
    line = ProgressLine(is_first and not silent and _can_redraw())
    try:
        line.doing(text)
        yield line
    finally:
        line.hide()


@contextmanager
def counting_bar(silent: bool, what: str, total: int | None = None) -> Iterator[Advance]:
    """A count of things done, e.g. rows; with a total a bar. Silent where nobody would see it."""
    if silent or not _can_redraw():
        yield lambda count, text="": None
        return
    seen = "{task.description}: {task.completed:,.0f}" + (
        "" if total is None else " of {task.total}"
    )
    columns = [SpinnerColumn(), TextColumn(seen)]
    columns += [] if total is None else [BarColumn(bar_width=None)]
    columns += [TextColumn("{task.fields[text]}")]
    # Both times would not fit beside long names.
    columns += [TimeElapsedColumn()] if total is None else [TextColumn("left:"), _TimeLeft()]
    with Progress(*columns, console=err, transient=True, expand=total is not None) as bar:
        line = bar.add_task(what, total=total, text="", seconds=None)
        (task,) = bar.tasks

        def advance(count: int, text: str = "") -> None:
            bar.update(line, advance=count, text=text)
            if count and total is not None:
                bar.update(line, seconds=(task.elapsed or 0.0) * total / task.completed)

        yield advance
