"""Messages of the library, which name arguments, in terms of the command line's options."""

from __future__ import annotations

import re

# Phrases with arguments of Python, and what stands for them.
_PHRASES: tuple[tuple[str, str], ...] = (
    (
        "read it with has_header=False and column_names, or has_header=True if these are the names",
        "give --no-header, or --header if these are the names",
    ),
    (" in the file, or give column_names", " in the file"),
    ("encoding='", "--encoding '"),
    ("decimal=','", "--decimal ','"),
    ("quotes=False", "--no-quotes"),
    ("use TabularRegressor for quantities", "give --task regression for a quantity"),
    ("roles must name columns", "--role must name columns"),
    (
        "read them apart, or name the columns they share with columns=[...]",
        "give one of them, or a pattern of files that have the same",
    ),
    ("name another sheet, e.g. sheet=", "put another sheet first, e.g. "),
    ("delimiter='...'", "--delimiter"),
    ("name it, delimiter=", "name it, --delimiter "),
    ("give delimiter=','", "give --delimiter ','"),
    ("by the argument missing", "by --missing"),
    ("roles={'name': 'category'}", "--role name=category"),
    ("drop_null_target=True", "--drop-null-target"),
    ("overwrite=True", "--overwrite"),
    ("missing=''", "--missing ''"),
    ("test_fraction=0.2", "--test-fraction 0.2"),
    ("leave it out of drop", "leave it out of --drop"),
    ("leave out time", "leave out --time"),
    ("leave out report", "leave out --report"),
    ("raise memory,", "raise --memory,"),
    ("use TabularClassifier if", "give --task classification if"),
    ("or no refit", "or no --refit"),
    ("refit trains once more", "--refit trains once more"),
    ("refit is for tables", "--refit is for tables"),
    ("scale='log_odds' is", "--log-odds is"),
    ("raise the memory budget", "raise --memory"),
    ("or let the references in", "or leave out --no-references"),
    (
        "a scorer of scikit-learn (sklearn.metrics.get_scorer_names), or a function",
        "the name of a scorer of scikit-learn, e.g. roc_auc, neg_log_loss or r2",
    ),
    ("or give the function itself", "its pages list them under `scoring`"),
    ("another host or port", "another --host or --port"),
    ("from the target, leave it out", "from the target, leave it out with --drop"),
    ("belong together on one side", "belong together on one side with --group"),
)

# Copies of what comes through pipes (`tables/paths.py`), which the user never named.
_OF_PIPES = re.compile(r"\S*[/\\]tabwright-pipe-\w+[/\\](?:(stdin)|pipe-(\S+?))\.[a-z]+\b")

# Advice that only Python can follow.
_OF_PYTHON = re.compile(
    r", or (?:read the column as another type with|give) dtypes=\{.*?: \.\.\.\}"
)

# A column that an option named.
_NAMED_COLUMN = re.compile(r"(has no column '.*?'), given as (drop|time|group|weight);")

# Settings with their values, of which some are called as their options are.
_SETTINGS = re.compile(
    r"(?<![\w'\"-])(device|encoder|intervals|quality|refit|task|time)=(?:True|'?(.*?)'?(?=[\s;,.]|$))"
)

# A decision that an option can turn over, and that option.
_OVERRIDDEN = re.compile(r"^task: \w+, since .+", re.DOTALL)
_OVERRIDES = " (--task overrides)"


# Arguments of Python, and the options that say them.
_ARGUMENTS = {
    "training_mode": "--mode",
    "n_members": "--members",
    "max_epochs": "--epochs",
    "n_folds": "--folds",
    "time_limit": "--time-limit",
    "patience must": "--patience must",
    "quality must": "--quality must",
    "intervals must": "--intervals must",
    "objective": "--objective",
    "quantiles must": "--quantiles must",
    "quantiles are": "--quantiles are",
    "hidden_dim": "--width",
    "num_hidden_layers": "--depth",
    "dropout must": "--dropout must",
    "threshold is": "--threshold is",
    "threshold must": "--threshold must",
    "learning_rate": "--learning-rate",
    "weight_decay": "--weight-decay",
    "batch_size": "--batch-size",
    "validation_fraction": "--validation-fraction",
    "numeric_encoding": "--numeric-encoding",
    "eval_metric": "--eval-metric",
    "calibration must": "--calibration must",
    "random_state": "--seed",
    "device must": "--device must",
    "precision must": "--precision must",
    "max_parameters": "--max-parameters",
    "max_latency_us": "--max-latency-us",
    "the seconds between two writes": "--checkpoint-seconds",
    "the number of threads": "--threads",
    "the number of folds": "--folds",
    "the number of repeats": "--repeats",
    "the test fraction": "--test-fraction",
    "n_trials": "--trials",
    "a duration must": "--time-limit must",
    "a study must": "--study must",
    "the metric must": "--metric must",
    "memory must": "--memory must",
    "the report must be": "--report must be",
    "encoding must": "--encoding must",
    "delimiter must": "--delimiter must",
    "a decision must": "--decision must",
    "the wanted recall": "the share of --decision recall",
    "the wanted precision": "the share of --decision precision",
    "the positive label must": "--positive must",
    "teachers must": "--teacher must",
    "a teacher is": "--teacher is",
    "the task must": "--task must",
    "class_weight": "class weights",
}

_PATTERN = re.compile(r"(?<![\w'\"-])(?:" + "|".join(_ARGUMENTS) + r")(?![\w'\"])(?:='?(\w+)'?)?")


def setting_of(option: str) -> str:
    """The argument of Python that an option says, by its name without the dashes."""
    names = (name for name, text in _ARGUMENTS.items() if text.partition(" ")[0] == f"--{option}")
    return next(names, option.replace("-", "_")).partition(" ")[0]


def in_options(message: str, *, arguments: bool = False) -> str:
    """A message with options of the command line in place of arguments of Python.

    `arguments`: whether the names of settings are replaced too: in errors about a value that was
        given.
    """
    for phrase, option in _PHRASES:
        message = message.replace(phrase, option)
    message = _OF_PYTHON.sub("", message)
    message = _NAMED_COLUMN.sub(r"\1, given as --\2;", message)
    message = _OF_PIPES.sub(
        lambda found: "the standard input" if found[1] else f"the pipe {found[2]}", message
    )
    if _OVERRIDDEN.match(message):
        message += _OVERRIDES
    if not arguments:
        return message
    message = message.replace("must be None or one of", "must be none or one of")
    message = message.replace("must be None, ", "must be ")
    message = re.sub(r"\bn_samples=(\d+)", r"\1 rows", message)
    message = _SETTINGS.sub(
        lambda found: f"--{found[1]}" + ("" if found[2] is None else f" {found[2]}"), message
    )
    message = re.sub(r", or None(?=[;.,]|$)", "", message)
    return _PATTERN.sub(
        lambda found: _ARGUMENTS[found[0].partition("=")[0]] + (f" {found[1]}" if found[1] else ""),
        message,
    )
