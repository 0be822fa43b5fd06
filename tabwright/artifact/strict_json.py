"""JSON, strictly: one spelling on the way out; no duplicates, giants or NaN on the way in.

The standard `json` module accepts duplicate keys, NaN, integers of any length and any nesting
that the stack bears. A file that must be trusted has none of them.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from tabwright.artifact.schema import ADVICE, shown
from tabwright.errors import ArtifactError

MAX_DEPTH = 24
MAX_VALUES = 1_000_000

# An unclosed text swallows the rest, so that the pattern matches in one pass whatever the input.
_JSON_TEXT = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)


def dump_json(value: object) -> str:
    """The one spelling of a value: sorted keys, no spaces, no escapes but JSON's own."""
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )


class _JsonError(ValueError):
    """A rule of ours that a JSON text breaks."""


def parse_json(raw: bytes, what: str) -> dict[str, Any]:
    """A JSON object of a file, as `read_object` reads it."""
    try:
        return read_object(raw)
    except ValueError as error:
        raise ArtifactError(f"{what} must be a JSON object; {error}; {ADVICE}") from None


def read_object(raw: bytes) -> dict[str, Any]:
    """A JSON object without duplicate keys, huge numbers, NaN or deep nesting.

    Raises `ValueError`: saying in one line what is wrong with the text.
    """
    try:
        text = raw.decode("utf-8")
        _check_size(text)
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
        if not isinstance(value, dict):
            raise _JsonError("it is no object")
    except (ValueError, RecursionError) as error:
        raise ValueError(_reason(error)) from None
    return value


def _check_size(text: str) -> None:
    """Refuse text with too many values, or nested too deep, before it is parsed."""
    # Before anything is built: json makes 50 bytes and more of each "[]".
    frame = _JSON_TEXT.sub("", text)
    if frame.count(",") + frame.count(":") > MAX_VALUES:
        raise _JsonError(f"it has more than {MAX_VALUES} values")
    depth = 0
    for match in re.finditer(r"[\[\]{}]", frame):
        depth += 1 if match[0] in "[{" else -1
        if depth > MAX_DEPTH:
            raise _JsonError(f"it is nested more than {MAX_DEPTH} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a key that comes twice is an error."""
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _JsonError(f"it has the key {shown(key)} twice")
            seen.add(key)
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else 2**64
    if not -(2**63) <= value < 2**64:
        raise _JsonError(f"its integers must fit 64 bits; got {text[:40]}")
    return value


def _float(text: str) -> float:
    value = float(text) if len(text) <= 40 else math.inf
    if not math.isfinite(value):
        raise _JsonError(f"its numbers must be finite; got {text[:40]}")
    return value


def _constant(text: str) -> NoReturn:
    raise _JsonError(f"its numbers must be finite; got {text}")


def _reason(error: BaseException) -> str:
    return str(error).replace("\n", " ")[:200] or type(error).__name__


def check_json(value: object, where: str = "document", depth: int = 1) -> None:
    """The writer's half: refuse what would not come back as it went."""
    if depth > MAX_DEPTH - 2:
        raise ArtifactError(f"{where} must be nested at most {MAX_DEPTH - 2} deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ArtifactError(f"{where} must have texts as keys; got {shown(key)}")
            _check_json_text(key, where)
            check_json(item, f"{where}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_json(item, f"{where}[{index}]", depth + 1)
    elif type(value) is str:
        _check_json_text(value, where)
    elif type(value) is float:
        if not math.isfinite(value):
            raise ArtifactError(
                f"{where} must be a finite number; got {value}; "
                "save None, or an array that may hold it"
            )
    elif type(value) is int:
        if not -(2**63) <= value < 2**64:
            raise ArtifactError(f"{where} must be an integer of 64 bits; got {shown(value)}")
    elif value is not None and type(value) is not bool:
        raise ArtifactError(
            f"{where} must be a dict, list, text, number, bool or None; "
            f"got {type(value).__name__}; convert it first"
        )


def _check_json_text(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ArtifactError(
            f"{where} must be valid Unicode; got {shown(text)}; "
            "replace the characters that are half of a surrogate pair"
        ) from None
