"""HTML that is safe by default: every text is escaped unless it is `Markup` already.

Here live elements and tables as functions, and how long texts and numbers are shown. What a page
says and how it looks is not known here.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence

from tabwright.number_text import number_text

_VOID = frozenset({"meta", "br", "hr", "col"})
# Elements that hold text alone: a tag in them would be shown.
_TEXT_ALONE = frozenset({"title"})
# Between the words of a name: behind underscores, hyphens, points and strokes, and where a capital
# begins a word. Never within a number.
_BETWEEN_WORDS = re.compile(
    r"(?<=\w_)(?=[^\W_])"
    r"|(?<=[^\W\d_]{2}-)(?=\w)"
    r"|(?<=\w\w\.)(?=\w)(?!(?<=\d\.)\d)"
    r"|(?<=[^\W\d]{2}/)(?=[^\W\d]{2})"
    r"|(?<=[a-z]{2})(?=[A-Z][a-z])"
    r"|(?<=[A-Z]{2})(?=[A-Z][a-z])"
)


class Markup(str):
    """Text that is HTML: it goes into a page as it is."""

    __slots__ = ()


Node = str | int | float | None | Sequence["Node"]


def escape(text: object) -> Markup:
    """Text as HTML, in content and in quoted attributes alike.

    Control characters and lone surrogates, which no HTML file may hold, become U+FFFD.
    """
    clean = "".join(c if c.isprintable() or c in " \t\n" else _visible(c) for c in str(text))
    return Markup(html.escape(clean, quote=True))


def _visible(character: str) -> str:
    code = ord(character)
    unfit = code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 or code & 0xFFFE == 0xFFFE
    return "\ufffd" if unfit else character


def element(tag: str, *children: Node, **attributes: object) -> Markup:
    """One HTML element.

    `tag`: its name; never from a table.
    `*children`: text is escaped, and may be broken between the words of names; `Markup` is taken
        as it is, None is left out.
    `**attributes`: Names with `_` for `-`, and one at the end for Python's keywords (`class_`).
        Values are escaped; None and False leave the attribute out, True gives it no value.
    """
    opened = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        shown = name.rstrip("_").replace("_", "-")
        opened.append(shown if value is True else f'{shown}="{escape(value)}"')
    start = f"<{' '.join(opened)}>"
    if tag in _VOID:
        return Markup(start)
    as_html = escape if tag in _TEXT_ALONE else breakable
    return Markup(f"{start}{_content(children, as_html)}</{tag}>")


def _content(node: Node, as_html: Callable[[str], str]) -> str:
    """A node as HTML; `as_html` is for its texts."""
    if node is None:
        return ""
    if isinstance(node, Markup):
        return node
    if isinstance(node, str):
        return as_html(node)
    if isinstance(node, int | float):
        return escape(node)
    return "".join(_content(child, as_html) for child in node)


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Node]],
    *,
    numeric: Iterable[int] = (),
    class_: str | None = None,
) -> Markup:
    """A table whose first column names its rows.

    `numeric`: columns of numbers, set flush right.
    """
    right = set(numeric)
    style = ["num" if i in right else None for i in range(len(head))]
    labels = ["\u200b".join(name_pieces(text)) or None for text in head]
    heading = [
        element("th", text, scope="col", class_=style[i]) if text else element("td")
        for i, text in enumerate(head)
    ]
    body = [
        element(
            "tr",
            [
                element("th", cell, scope="row", class_=style[0], data_label=labels[0])
                if i == 0
                else element("td", cell, class_=style[i], data_label=labels[i])
                for i, cell in enumerate(row)
            ],
        )
        for row in rows
    ]
    grid = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", heading)),
        element("tbody", body),
        class_=class_,
    )
    # A wide table scrolls by itself, by keyboard too.
    return element("div", grid, class_="scroll", tabindex="0", role="region", aria_label=caption)


def breakable(text: str) -> Markup:
    """Text that may be broken between the words of a name: leaf.size, leaf_size, LeafSize."""
    return Markup("<wbr>".join(map(escape, name_pieces(text))))


def name_pieces(text: str) -> list[str]:
    """The parts of a text that no line break may divide, apart from breaks at its spaces."""
    return _BETWEEN_WORDS.split(text)


def short(text: object, limit: int = 48) -> Markup:
    """Text, cut in the middle where it is long, with up to 400 characters on hover."""
    whole = str(text)
    if len(whole) <= limit:
        return breakable(whole)
    tail = (limit - 1) // 3
    shown = f"{whole[: limit - 1 - tail]}…{whole[len(whole) - tail :]}"
    return element("span", shown, title=whole if len(whole) <= 400 else f"{whole[:399]}…")


def number(value: float | None, digits: int = 4) -> str:
    """`number_text` with a true minus sign."""
    return number_text(value, digits).replace("-", "−")


def percent(share: float, digits: int = 1) -> str:
    """A share in per cent, on one line with its sign."""
    return f"{100 * share:.{digits}f}\u00a0%".replace("-", "−")
