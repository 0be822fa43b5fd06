"""Text becomes HTML only by being escaped."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.report.markup import Markup, breakable, element, escape, number, short, table


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader


# Characters that HTML can hold; the others have a test of their own.
PRINTABLE = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Cn"), max_codepoint=0xFFFD))


@given(PRINTABLE, PRINTABLE)
def test_any_text_comes_back_as_text_and_never_as_a_tag(content: str, attribute: str) -> None:
    read = _read(element("p", content, title=attribute))
    assert [tag for tag in read.tags if tag != ("wbr", {})] == [("p", {"title": attribute})]
    assert read.text == content


def test_markup_is_taken_as_it_is_and_text_within_lists_is_not() -> None:
    inner = element("b", "<i>")
    assert element("p", [inner, ["<", None, 3]]) == "<p><b>&lt;i&gt;</b>&lt;3</p>"
    assert isinstance(inner, Markup)


def test_what_a_file_cannot_hold_is_replaced() -> None:
    assert escape("a\x00b\ud800c\x85\ufffe\td\n") == "a\ufffdb\ufffdc\ufffd\ufffd\td\n"
    escape("\ud800").encode("utf-8")


def test_attributes_follow_their_values() -> None:
    assert element("td", class_="num", hidden=True, title=None, lang=False) == (
        '<td class="num" hidden></td>'
    )
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_tables_name_their_columns_and_rows() -> None:
    html = table("A & B", ["name", "n"], [["<x>", 1], ["y", 2]], numeric=[1])
    scopes = [own.get("scope") for tag, own in _read(html).tags if tag == "th"]
    assert scopes == ["col", "col", "row", "row"]
    assert "<caption>A &amp; B</caption>" in html
    assert "&lt;x&gt;" in html


def test_long_texts_are_cut_and_stay_readable_on_hover() -> None:
    text = "<" * 100 + ">" * 100
    html = short(text, 20)
    assert _read(html).text == "<" * 13 + "…" + ">" * 6
    assert _read(html).tags == [("span", {"title": text})]
    assert len(short("x" * 100_000)) < 1_000


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (1234567.0, "1,234,567"),
        (-3.0, "−3"),
        (0.123456, "0.1235"),
        (12.3456, "12.35"),
        (48999.61, "49,000"),
        (3e-7, "3.00e−07"),
        (2.5e300, "2.50e+300"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (None, "–"),
    ],
)
def test_numbers_are_for_people(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_sums_that_are_off_by_rounding_are_whole() -> None:
    assert number(1.0 - 1e-16) == number(1.0) == "1"
    assert number(0.99997) == "1.0000"
    assert number(0.9999) == "0.9999"


def test_names_in_headings_may_be_broken_behind_points_and_underscores() -> None:
    html = table("t", ["a_b.c", "1 < 2 _ x"], [["x", "y"]])
    assert '<th scope="col">a_<wbr>b.<wbr>c</th>' in html
    assert '<th scope="col">1 &lt; 2 _ x</th>' in html
    # On a narrow screen the label comes from the attribute, which has no tags.
    assert 'data-label="a_\u200bb.\u200bc"' in html


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("InternetService", ["Internet", "Service"]),
        ("leaf_size.max", ["leaf_", "size.", "max"]),
        ("customerID", ["customerID"]),
        ("tenure", ["tenure"]),
        ("2.5", ["2.5"]),
        ("_private__name", ["_private__", "name"]),
        ("per-2-years", ["per-", "2-years"]),
        ("2026-11-30", ["2026-11-30"]),
        ("3.00e-07", ["3.00e-07"]),
        ("HTTPResponseCode", ["HTTP", "Response", "Code"]),
        ("km/h and e.g. miles/hour", ["km/h and e.g. miles/", "hour"]),
    ],
)
def test_names_break_between_their_words_alone(name: str, parts: list[str]) -> None:
    assert breakable(name).split("<wbr>") == parts
    assert element("p", name) == f"<p>{'<wbr>'.join(parts)}</p>"
    assert short(name) == "<wbr>".join(parts)


def test_the_title_of_a_page_has_no_places_to_break() -> None:
    assert element("title", "Predicting leaf_size") == "<title>Predicting leaf_size</title>"


def test_signs_of_html_are_not_taken_for_words() -> None:
    assert breakable("a<_b&amp") == "a&lt;_b&amp;amp"
