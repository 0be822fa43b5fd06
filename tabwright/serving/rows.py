"""The plain request: rows as JSON objects in, labels, probabilities and intervals out."""

from __future__ import annotations

import json
import math
from typing import Any

from tabwright.artifact.strict_json import read_object
from tabwright.serving.model import Answer, RequestError, ServedModel, shown

_KEYS = frozenset(("rows", "coverage"))


def answer_rows(model: ServedModel, body: bytes, max_rows: int) -> bytes:
    """The answer to `{"rows": [{column: cell, ...}, ...], "coverage": 0.9}` as JSON.

    Raises `RequestError` if the body is not such an object, or the model cannot answer it.
    """
    request = read_body(body)
    unknown = request.keys() - _KEYS
    if unknown:
        raise RequestError(
            f"the body must have the keys 'rows' and, if wanted, 'coverage'; got "
            f"{shown(sorted(unknown)[0])}; put rows into a list: "
            '{"rows": [{"column": 1}]}'
        )
    rows = request.get("rows")
    if not isinstance(rows, list) or not rows or not all(type(row) is dict for row in rows):
        raise RequestError(
            f"'rows' must be a list of one or more objects, cells by column; got {shown(rows)}; "
            'send {"rows": [{"column": 1}]}'
        )
    check_n_rows(len(rows), max_rows)
    coverage = coverage_of(request)
    return to_json(
        {
            "model": model.name,
            "version": model.version,
            "predictions": _predictions(model, model.predict_rows(rows, coverage)),
        }
    )


def read_body(body: bytes) -> dict[str, Any]:
    """A strict JSON object."""
    try:
        return read_object(body)
    except ValueError as error:
        raise RequestError(
            f"the body must be a JSON object; {ascii(str(error))[1:-1]}; NaN, infinity and a key "
            "twice are not allowed; give null for a missing value"
        ) from None


def check_n_rows(n_rows: int, max_rows: int) -> None:
    """Refuse more rows than the server takes at once."""
    if n_rows > max_rows:
        raise RequestError(
            f"a request may have at most {max_rows} rows; got {n_rows}; send several requests, or "
            "start the server with a larger --max-rows",
            status=413,
        )


def coverage_of(values: dict[str, Any]) -> float | None:
    """The share that prediction intervals shall hold, if one is asked for."""
    coverage = values.get("coverage")
    if coverage is None:
        return None
    if type(coverage) not in (int, float) or not 0 < coverage < 1:
        raise RequestError(
            f"'coverage' must be a number between 0 and 1; got {shown(coverage)}; send 0.9 for "
            "intervals that hold 90 % of new values"
        )
    return float(coverage)


def to_json(value: object) -> bytes:
    """JSON in UTF-8, without NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _predictions(model: ServedModel, answer: Answer) -> list[dict[str, Any]]:
    """One object a row; the end of an interval that is infinite is null."""
    if answer.proba is not None and answer.labels is not None and model.classes is not None:
        names = [label_text(label) for label in model.classes]
        return [
            {"label": label, "probabilities": dict(zip(names, row, strict=True))}
            for label, row in zip(answer.labels, answer.proba.tolist(), strict=True)
        ]
    assert answer.values is not None
    values = answer.values.tolist()
    if answer.ends is None:
        return [{"value": value} for value in values]
    finite = [[end if math.isfinite(end) else None for end in row] for row in answer.ends.tolist()]
    return [
        {"value": value, "low": low, "high": high}
        for value, (low, high) in zip(values, finite, strict=True)
    ]


def label_text(label: object) -> str:
    """A label as the key of its probability: as JSON writes it, text without quotes."""
    return label if isinstance(label, str) else json.dumps(label)
