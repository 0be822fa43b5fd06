"""How the columns of a table share the width of a terminal, so that no name is cut."""

from __future__ import annotations

import re
from collections.abc import Sequence

GAP = 2  # spaces between columns
# What a name may be broken behind.
_WORDS = re.compile(r"[^_ ]*[_ ]+|[^_ ]+")


def column_widths(
    headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int], line: int
) -> list[int | None]:
    """Widths that fit a line and break names between their words alone; None: as it comes.

    `right`: columns of numbers, whose cells are not broken.
    """
    least, natural = [], []
    for place, heading in enumerate(headings):
        cells = [row[place] for row in rows]
        words = [word for cell in cells for word in _WORDS.findall(cell)]
        parts = [*heading.split(), *(cells if place in right else words)]
        least.append(max(map(len, parts), default=0))
        natural.append(max(map(len, [heading, *cells])))
    space = line - GAP * (len(headings) - 1)
    if sum(natural) <= space or sum(least) > space:
        return [None] * len(headings)
    spare, widths = space - sum(least), []
    for narrow, wide in zip(least, natural, strict=True):
        width = min(wide, narrow + spare)
        spare -= width - narrow
        widths.append(width)
    return [*widths]


def broken_name(text: str, width: int) -> str:
    """A text with line breaks after its underscores and spaces, where it is wider than that."""
    lines = [""]
    for word in _WORDS.findall(text):
        if lines[-1] and len(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)
