"""Bars that are more than one delimiter: two between fields, and the outlines of Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

_RULE: Final = re.compile(rb"^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:[|+][ \t]*:?-+:?[ \t]*)+\|?[ \t]*$")
_PADDED_BAR: Final = re.compile(rb"[ \t]*\|[ \t]*")
_EDGES: Final = re.compile(rb"^[ \t]+|[ \t]+(?=\r?$)", re.MULTILINE)
_OUTER_BARS: Final = re.compile(rb"^\||\|(?=\r?$)", re.MULTILINE)

# Makes one bar between fields, and none elsewhere, of whole records.
Plain = Callable[[bytes], bytes]


def has_rule(records: Sequence[bytes]) -> bool:
    """Whether a line of dashes is below the names, as in Markdown.

    `records`: the first ones of the file.
    """
    return len(records) > 1 and b"|" in records[0] and bool(_RULE.match(records[1].strip()))


def without_padding(records: bytes) -> bytes:
    """Records without spaces around their cells."""
    return _PADDED_BAR.sub(b"|", _EDGES.sub(b"", records))


def without_outline(records: bytes) -> bytes:
    """Records without spaces around their cells and bars around their rows."""
    return _OUTER_BARS.sub(b"", without_padding(records))


def are_doubled(rows: Sequence[Sequence[str]]) -> bool:
    """Whether two bars separate fields: of fields between bars every other one is empty.

    `rows`: the fields of the first records, the names among them.
    """
    widths = {len(row) for row in rows}
    if len(widths) != 1 or len(rows) < 2 or (width := widths.pop()) < 3 or width % 2 == 0:
        return False
    return all(rows[0][0::2]) and not any(cell for row in rows for cell in row[1::2])


def single_bars(records: bytes) -> bytes:
    """Records with one bar where there were two, cells in quotes aside."""
    parts = records.split(b'"')
    parts[0::2] = [part.replace(b"||", b"|") for part in parts[0::2]]
    return b'"'.join(parts)
