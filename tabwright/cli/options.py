"""Options that several commands share, each said once, and the groups that belong together.

A group is a dataclass whose fields are options. `takes_groups` gives a command the options of a
group in place of the parameter that is annotated with it.
"""

from __future__ import annotations

import csv
import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import typer
from typer._click.exceptions import UsageError

from tabwright.cli.brief_command import SETTINGS, HelpAll
from tabwright.cli.completion import complete_objective, complete_task
from tabwright.cli.settings_file import apply_settings

if TYPE_CHECKING:
    from tabwright.inference.fitted_model import FittedModel
    from tabwright.tables.csv.reader import CsvFormat
    from tabwright.tables.labelled import TableRequest
    from tabwright.tables.roles import Role


def names_of(given: list[str] | None) -> list[str] | None:
    """Names, of which one option may hold several: A,B or '"A, or B",C'."""
    if given is None:
        return None
    return [name for text in given for name in next(csv.reader([text], skipinitialspace=True), [])]


# Formats whose files begin or end with the names of the columns.
_NAMES_FIRST = ("csv", "parquet", "arrow")
# A model is never named so.
_TABLES = (".csv", ".tsv", ".parquet", ".jsonl", ".arrow", ".feather", ".xlsx")


def _model_file(path: Path) -> Path:
    """A model is read in place, more than once, and from a file alone."""
    if str(path) in ("-", "/dev/stdin"):
        raise UsageError(
            f"a model must be a file; got {path}; only tables come through a pipe: save the model "
            "to a file first"
        )
    if path.suffix.lower() in _TABLES:
        raise UsageError(
            f"the first argument must be a model that `train` saved; got a table, {path}"
        )
    return path


def teacher_of(name: str) -> str:
    """A teacher comes before the table, and is none."""
    if Path(name).suffix.lower() in _TABLES:
        raise UsageError(
            f"the first argument must be a teacher, a model file or a tree kind such as catboost; "
            f"got a table, {name}"
        )
    return name


ModelFile = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A file that `train` saved.", callback=_model_file),
]
LabelledTable = Annotated[
    str, typer.Argument(metavar="TABLE", help="Labelled rows that had no part in training.")
]
TableToFit = Annotated[
    str, typer.Argument(metavar="TABLE", help="A labelled table, as for `train`.")
]
Target = Annotated[str, typer.Option("--target", "-t", metavar="COLUMN", help="Column to predict.")]
TargetOfModel = Annotated[
    str | None,
    typer.Option("--target", "-t", metavar="COLUMN", help="Column of the labels [as in training]."),
]
TestFraction = Annotated[
    float,
    typer.Option(
        "--test-fraction",
        metavar="SHARE",
        help="Share of rows kept for the scores; 0: none.",
        rich_help_panel=SETTINGS,
    ),
]
Members = Annotated[
    int | None,
    typer.Option(
        "--members",
        metavar="N",
        help="Networks to average; more are steadier.",
        rich_help_panel=SETTINGS,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs", metavar="N", help="Most passes over the rows.", rich_help_panel=SETTINGS
    ),
]
Width = Annotated[
    int | None,
    typer.Option("--width", metavar="N", help="Units of a hidden layer.", rich_help_panel=SETTINGS),
]
Depth = Annotated[
    int | None,
    typer.Option(
        "--depth", metavar="N", help="Hidden layers, or residual blocks.", rich_help_panel=SETTINGS
    ),
]
QualityOption = Annotated[
    str | None,
    typer.Option(
        "--quality",
        metavar="NAME",
        help="Effort: fast (one network), balanced (four and trees), best (folds, more trees).",
        rich_help_panel=SETTINGS,
    ),
]
EvalMetric = Annotated[
    str | None,
    typer.Option(
        "--eval-metric",
        metavar="NAME",
        callback=lambda name: None if name == "loss" else name,
        help="Scorer of scikit-learn that chooses the epoch, as roc_auc [loss].",
        rich_help_panel=SETTINGS,
    ),
]
SaveConfig = Annotated[
    Path | None,
    typer.Option(
        "--save-config",
        metavar="FILE",
        help="Write the options of this run there, for --config.",
        rich_help_panel=SETTINGS,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files of another kind, table or target too.",
        rich_help_panel=SETTINGS,
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
QuietFlag = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only results, warnings and errors.")
]


def given(**settings: Any) -> dict[str, Any]:
    """Those of the settings that were given."""
    return {name: value for name, value in settings.items() if value is not None}


def target_of(fitted: FittedModel, given: str | None) -> str:
    """The column of labels: the one given, else that of training."""
    column = given or fitted.card.get("target")
    if not isinstance(column, str):
        raise ValueError("the model does not record its target's name; give --target")
    return column


@dataclass(frozen=True)
class DisplayOptions:
    """What a command prints."""

    as_json: JsonFlag = False
    quiet: QuietFlag = False
    help_all: HelpAll = False

    @property
    def silent(self) -> bool:
        """Whether no progress is shown."""
        return self.quiet or self.as_json


@dataclass(frozen=True)
class RunOptions:
    """How a command that fits models runs."""

    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Threads to fit with; fewer leave processors to others.",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Of every random choice; another gives another fit.",
            rich_help_panel=SETTINGS,
        ),
    ] = 0
    overwrite: Overwrite = False
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            is_eager=True,
            callback=apply_settings,
            help="TOML file of options; those on the command line win.",
            rich_help_panel=SETTINGS,
        ),
    ] = None


@dataclass(frozen=True)
class ReadingOptions:
    """How the files of a table are written."""

    encoding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Encoding of the text, as cp1250 [found out].",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    decimal: Annotated[
        str | None,
        typer.Option(
            metavar="MARK", help="Decimal mark, . or , [found out].", rich_help_panel=SETTINGS
        ),
    ] = None
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="SIGN",
            help="What stands between cells; \\t: tab [found out].",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="Whether the first line has the names.",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    quotes: Annotated[
        bool,
        typer.Option(
            "--quotes/--no-quotes", help="Whether quotes enclose cells.", rich_help_panel=SETTINGS
        ),
    ] = True
    missing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Text of a missing cell, in place of NA, null ...; '': empty; may come again.",
            rich_help_panel=SETTINGS,
        ),
    ] = None

    def csv_format(self) -> CsvFormat | None:
        """The format of CSV files; None where nothing was said."""
        from tabwright.settings import NumericEncoding
        from tabwright.tables.csv.reader import CsvFormat

        if self.encoding in get_args(NumericEncoding):
            raise ValueError(
                f"--encoding is of the table's text, such as cp1252; got {self.encoding!r}; the "
                "encoding of numbers is --numeric-encoding"
            )
        found = CsvFormat(
            has_header=self.header,
            delimiter="\t" if self.delimiter in ("\\t", "tab") else self.delimiter,
            encoding=self.encoding,
            decimal=_decimal_mark(self.decimal),
            quotes=self.quotes,
            missing=None if self.missing is None else tuple(self.missing),
        )
        return None if found == CsvFormat() else found


def _decimal_mark(text: str | None) -> Literal[".", ","] | None:
    if text not in (None, ".", ","):
        raise ValueError(f"--decimal must be . or ,; got {text!r}")
    return None if text is None else "," if text == "," else "."


@dataclass(frozen=True)
class RoleOptions(ReadingOptions):
    """How the files of a table are written, and what its columns are."""

    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=ROLE",
            help="Role: numeric, category, boolean, datetime, identifier, text; may come again.",
            rich_help_panel=SETTINGS,
        ),
    ] = None

    def roles(self) -> dict[str, Role]:
        """Roles by column."""
        from tabwright.errors import nearest_name
        from tabwright.tables.roles import Role

        roles: dict[str, Role] = {}
        for text in self.role or ():
            # A name may hold the sign.
            name, sign, wanted = text.rpartition("=")
            known = next((role for role in get_args(Role) if role == wanted), None)
            if not sign or known is None:
                raise ValueError(
                    f"--role must be COLUMN=ROLE with one of {', '.join(get_args(Role))}; "
                    f"got {text!r}{nearest_name(wanted, get_args(Role))}"
                )
            roles[name] = known
        return roles


@dataclass(frozen=True)
class ColumnOptions:
    """What the columns of a labelled table are for."""

    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMNS", callback=names_of, help="Columns to leave out, e.g. A,B."),
    ] = None
    time: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Test on the latest rows by this column.")
    ] = None
    group: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Keep rows of equal value on one side.")
    ] = None
    weight: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of sample weights.", rich_help_panel=SETTINGS),
    ] = None
    drop_null_target: Annotated[
        bool,
        typer.Option(
            "--drop-null-target", help="Leave out rows without a target.", rich_help_panel=SETTINGS
        ),
    ] = False
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            autocompletion=complete_task,
            help="classification or regression [found out].",
        ),
    ] = None

    def request(self, table: str, target: str, reading: RoleOptions) -> TableRequest:
        """The table as it is to be read."""
        from tabwright.object_stores import is_object_uri
        from tabwright.tables.column_uses import ColumnUses
        from tabwright.tables.file_readers import names_of_file
        from tabwright.tables.labelled import TableRequest
        from tabwright.tables.paths import table_format, table_paths
        from tabwright.tables.reading import table_dtypes

        csv = reading.csv_format()
        columns = ColumnUses(
            target,
            drop=tuple(self.drop or ()),
            group=self.group,
            weight=self.weight,
            time=self.time,
            drop_null_target=self.drop_null_target,
        )
        request = TableRequest(table, columns, task=self.task, roles=reading.roles(), csv=csv)
        # A misspelt name is told before PyTorch is loaded. Files of other formats have to be read
        # to their end for the names of their columns.
        if not is_object_uri(table) and table_format(table_paths(table)[0]) in _NAMES_FIRST:
            names = names_of_file(table_paths(table)[0])
            if names is None:
                names = list(table_dtypes(table, csv=csv, text_as_it_is=True))
            columns.check(names, table)
        return request


@dataclass(frozen=True)
class ObjectiveOptions:
    """What a regression is fitted for."""

    objective: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_objective,
            help="Loss of a regression: squared_error, absolute_error, quantile, poisson, gamma.",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    quantiles: Annotated[
        str | None,
        typer.Option(
            metavar="LEVELS",
            help="Levels for --objective quantile [0.1,0.5,0.9].",
            rich_help_panel=SETTINGS,
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Those that were given."""
        levels = None if self.quantiles is None else _levels_of(self.quantiles)
        return given(objective=self.objective, quantiles=levels)

    def columns(self, columns: ColumnOptions) -> ColumnOptions:
        """What columns are for; an objective says that the task is regression."""
        if self.objective is None or columns.task is not None:
            return columns
        return replace(columns, task="regression")


def _levels_of(text: str) -> tuple[float, ...]:
    """Quantile levels of "0.1,0.5,0.9"."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"--quantiles must be levels with commas between, such as 0.1,0.5,0.9; got {text!r}"
        ) from None


def takes_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of each group, in place of the parameter annotated with it."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if not is_dataclass(hints[name]):
            parameters.append(
                parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            )
            continue
        group = groups[name] = hints[name]
        options = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=options[field.name],
            )
            for field in fields(group)
        ]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {known.name: known.annotation for known in parameters}
    del wrapper.__wrapped__  # its signature is not this one
    return wrapper
