"""Where results go: nothing of another kind, table or target is replaced unless asked for."""

from __future__ import annotations

import html
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from tabwright.artifact.container import read_document
from tabwright.errors import ArtifactError, TableError
from tabwright.export.graph import require
from tabwright.inference.fitted_model import FittedModel
from tabwright.tables import table_dtypes
from tabwright.tables.labelled import TableRequest
from tabwright.tables.paths import table_stem

_WAY_OUT = "give overwrite=True, or another name"


def of_table(model: FittedModel, request: TableRequest) -> FittedModel:
    """A model whose card names the table that it was fitted on, and the columns left out."""
    entries = {"table": request.stem, "columns_not_used": list(request.columns.left_out)}
    return replace(model, card={**model.card, **entries})


def check_model_output(path: Path, request: TableRequest, *, overwrite: bool) -> str | None:
    """Refuse to replace a file that is no model of the same table and target.

    `path`: where the model goes.
    `overwrite`: whether anything may be replaced.
    Returns: what will be replaced, in a sentence; None where there is no file.
    Raises `ValueError` if the file is of something else, and `overwrite` is False.
    """
    if not path.is_file():
        return None
    if overwrite:
        return f"replacing {path}, as asked"
    try:
        card = read_document(path).get("card")
        if not isinstance(card, dict):
            raise ArtifactError(f"{path} must be a model; got another file of Tabwright")
    except (ArtifactError, OSError) as error:
        raise ValueError(
            f"the model must not replace a file that is no model; got {path}; {_WAY_OUT}"
        ) from error
    mine = {"target": request.columns.target, "table": request.stem}
    _check_same("model", path, card, mine)
    return f"replacing {path}, an earlier model of the same table and target"


def _check_same(
    kind: str, path: Path, theirs: Mapping[str, object], mine: Mapping[str, object]
) -> None:
    """Refuse to replace a file of another target or table; what is not known is not compared."""
    for what in ("target", "table"):
        before, now = theirs.get(what), mine.get(what)
        if None not in (before, now) and before != now:
            raise ValueError(
                f"the {kind} must not replace one of another {what}; {path} is of the {what} "
                f"{before!r}, this one of {now!r}; {_WAY_OUT}"
            )


def check_report_output(path: Path, request: TableRequest, *, overwrite: bool) -> None:
    """Refuse to replace a file that is no report on the same table and target.

    Raises `ValueError` if it is something else, and `overwrite` is False.
    """
    if overwrite or not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace").replace("<wbr>", "")
    table, target = request.table, request.columns.target
    parts = ("tabwright", html.escape(f"Predicting {target}"), html.escape(Path(table).name))
    if not all(part in text for part in parts):
        raise ValueError(
            f"the report must not replace a file that is no report on {target!r} of {table}; got "
            f"{path}; {_WAY_OUT}"
        )


def check_predictions_output(path: Path, *, overwrite: bool) -> str | None:
    """Refuse to replace a file that is no table with a column of predictions.

    Returns: what will be replaced, in a sentence; None where there is nothing.
    Raises `ValueError` if it is something else, and `overwrite` is False.
    """
    rule = "predictions must not replace a file without a column 'prediction'"
    return _check_kind(path, "a table of predictions", _has_predictions, rule, overwrite=overwrite)


def check_graph_output(path: Path, card: Mapping[str, object], *, overwrite: bool) -> str | None:
    """Refuse to replace a file that is no ONNX graph of Tabwright, or of another table or target.

    `card`: of the model to export.
    Returns, raises: as `check_predictions_output`.
    """
    rule = "a graph must not replace a file that is no graph of Tabwright"
    replaced = _check_kind(path, "a graph of Tabwright", _is_graph, rule, overwrite=overwrite)
    if replaced is not None and not overwrite:
        _check_same("graph", path, _described(path), card)
    return replaced


def check_settings_output(path: Path, request: TableRequest, *, overwrite: bool) -> str | None:
    """Refuse to replace a file that holds no settings of a run on the same table and target.

    Returns: what will be replaced, in a sentence; None where there is nothing.
    Raises `ValueError` if it is something else, and `overwrite` is False.
    """
    if not path.is_file() or not path.stat().st_size:
        return None
    if overwrite:
        return f"replacing {path}, as asked"
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    table, target = found.get("table"), found.get("target")
    if not isinstance(target, str):
        raise ValueError(
            f"settings must not replace a file that holds none of a run; got {path}; {_WAY_OUT}"
        )
    theirs = {"target": target, "table": None if table is None else table_stem(str(table))}
    _check_same(
        "file of settings", path, theirs, {"target": request.columns.target, "table": request.stem}
    )
    return f"replacing {path}, settings of a run on the same table and target"


def _check_kind(
    path: Path, kind: str, is_of_kind: Callable[[Path], bool], rule: str, *, overwrite: bool
) -> str | None:
    """Refuse to replace what is not of a kind; an empty file is nothing."""
    if not path.is_file() or not path.stat().st_size:
        return None
    if overwrite:
        return f"replacing {path}, as asked"
    if not is_of_kind(path):
        raise ValueError(f"{rule}; got {path}; {_WAY_OUT}")
    return f"replacing {path}, {kind}"


def _has_predictions(path: Path) -> bool:
    try:
        return "prediction" in table_dtypes(str(path), text_as_it_is=True)
    except TableError:
        return False


def _described(path: Path) -> dict[str, object]:
    """What the metadata of a graph say; nothing where it was written before they said it."""
    onnx, message = require("onnx"), require("google.protobuf.message")
    try:
        graph = onnx.load(path, load_external_data=False)
        texts = [entry.value for entry in graph.metadata_props if entry.key == "tabwright"]
        found = json.loads(texts[0]) if texts else {}
    except (message.DecodeError, ValueError):
        # A file that ends too early, or is none of this package, names no table and no target.
        return {}
    return found if isinstance(found, dict) else {}


def _is_graph(path: Path) -> bool:
    with path.open("rb") as file:
        # The producer is the second field of a graph.
        return b"tabwright" in file.read(64)
