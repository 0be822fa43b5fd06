"""The frame and the look of a self-contained HTML page.

One file, no scripts, no requests: a content security policy forbids both. Colours follow the
reader's light or dark setting; on paper they are light.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tabwright.report.markup import Markup, Node, element, table
from tabwright.report.svg import least_width, palette_css, plain, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches that a chart has on a screen of 400 pixels.
_PHONE = 3.5
# Rows of a long table that are seen before it is unfolded, and how few more are not worth folding.
_UNFOLDED, _FEW_MORE = 12, 3
_LIGHT = "--page:#f5f7f9;--line:#cfd6de;--link:#0b5a99;--good:#00664c;--bad:#a33f00;"
_DARK = "--page:#0d1217;--line:#3a4653;--link:#7cc2fb;--good:#3fcf9e;--bad:#ff9d4d;"
_STYLE = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--plot-ink);overflow-wrap:break-word;
font:16px/1.55 system-ui,"Segoe UI",Roboto,"Noto Sans",Helvetica,Arial,sans-serif}
.wrap{max-width:66rem;margin:0 auto;padding:0 1.25rem}
header{padding:2.25rem 0 .5rem}
h1{font-size:1.8rem;line-height:1.2;margin:0 0 .35rem;letter-spacing:-.01em;
overflow-wrap:anywhere}
h2{font-size:1.3rem;line-height:1.3;margin:0 0 .6rem;letter-spacing:-.005em}
h3{font-size:1.02rem;margin:1.6rem 0 .4rem}
p{margin:.5rem 0;max-width:46rem;overflow-wrap:anywhere}
.lead{color:var(--plot-muted);margin-top:0}
.small,figcaption,caption,dt{font-size:.88rem}
a{color:var(--link)}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:2px solid var(--link);
outline-offset:2px}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:.5rem;background:var(--plot-surface);padding:.4rem .8rem}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;list-style:none;margin:.6rem 0 0;padding:0;
font-size:.92rem}
main>section{background:var(--plot-surface);border:1px solid var(--line);border-radius:.6rem;
padding:1.25rem 1.4rem 1.4rem;margin:1.1rem 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.8rem;
margin:1rem 0 .4rem;padding:0;list-style:none}
.tiles li{border:1px solid var(--line);border-radius:.5rem;padding:.7rem .9rem}
.tiles b{display:block;font-size:1.65rem;font-weight:650;line-height:1.25;
font-variant-numeric:tabular-nums}
.tiles span{display:block;font-size:.86rem;color:var(--plot-muted)}
.tiles .of{color:var(--plot-ink);font-weight:600}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:0 1.2rem}
.wide-charts{grid-template-columns:repeat(auto-fill,minmax(min(24rem,100%),1fr))}
figure{margin:1.1rem 0 .6rem;overflow-x:auto}
figure svg{display:block;width:100%;height:auto;font-family:"DejaVu Sans",Verdana,sans-serif}
figcaption{color:var(--plot-muted);max-width:46rem;margin-top:.35rem;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:.7rem 0}
table{border-collapse:collapse;width:100%;font-size:.9rem}
caption{text-align:left;color:var(--plot-muted);padding:0 0 .4rem}
th,td{text-align:left;vertical-align:top;padding:.36rem .7rem .36rem 0;
border-bottom:1px solid var(--plot-grid);unicode-bidi:isolate}
thead th{border-bottom:1px solid var(--line);font-weight:600;vertical-align:bottom;
color:var(--plot-muted)}
tbody th{font-weight:550;min-width:6.5rem;max-width:18rem}
.num{text-align:right;font-variant-numeric:tabular-nums}
tbody .num,tbody .num small{white-space:nowrap}
td small,th small{display:block;color:var(--plot-muted);font-size:.85em;font-weight:400}
tbody .num{min-width:0}
.cells td{max-width:14rem}
.cells tbody th{min-width:0;white-space:nowrap}
.cells th,.cells td{padding-right:.9rem}
.whole{white-space:nowrap}
.long{display:inline-block;min-width:9rem}
td[data-label="Moved most by"]{min-width:11.5rem}
.good{color:var(--good);font-weight:600}
.bad{color:var(--bad);font-weight:600}
.off th,.off td{color:var(--plot-muted)}
dl{display:grid;grid-template-columns:minmax(7rem,13rem) 1fr;gap:.3rem 1rem;margin:.6rem 0}
dt{color:var(--plot-muted)}
dd{margin:0;overflow-wrap:anywhere}
details{margin:.5rem 0}
summary{cursor:pointer;color:var(--link);font-size:.92rem}
.note{border-left:3px solid var(--plot-orange);padding:.1rem 0 .1rem .8rem}
footer{color:var(--plot-muted);padding:.4rem 0 2.5rem}
@media(max-width:34rem){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}
main>section{padding:.9rem}.wrap{padding:0 .7rem}
table,caption,tbody,tr,tbody th,tbody td{display:block}thead{display:none}
tbody tr{border-bottom:1px solid var(--line);padding:.3rem 0}
tbody th,tbody td,.cells tbody th,.cells td{border:0;padding:.12rem 0;max-width:none;
text-align:left;white-space:normal}
tbody td{display:grid;grid-template-columns:minmax(6rem,40%) minmax(0,1fr);gap:0 .6rem}
.cells tbody th:before{content:attr(data-label) " "}
tbody td:empty{display:none}
tbody td:before{content:attr(data-label);color:var(--plot-muted);grid-row:1/span 2;text-align:left}
.wide figcaption:before{content:"Wider than this screen: scroll the chart sideways. "}
.long{min-width:0}.tiles{grid-template-columns:1fr 1fr;gap:.5rem}.tiles b{font-size:1.4rem}
tbody td small,tbody td .more{grid-column:2}}
@media print{@page{size:A4;margin:14mm 13mm}
body{background:#fff;font-size:10pt}.wrap{max-width:none;padding:0}header{padding-top:0}
nav,.skip{display:none}main>section{border:0;border-top:1px solid var(--line);border-radius:0;
padding:.7rem 0 0;margin:.9rem 0 0}
h2,h3,caption{break-after:avoid}figure,.tiles,tr,dl>div{break-inside:avoid}
thead{display:table-header-group}.scroll{overflow:visible}table{font-size:8.5pt}
th,td{padding:.25rem .5rem .25rem 0}figcaption,caption,dt{font-size:8.5pt}thead{break-after:avoid}
.tiles{grid-template-columns:repeat(4,1fr)}.tiles b{font-size:15pt}
figure svg{max-height:115mm}a{color:inherit;text-decoration:none}details:not([open]){display:none}}
"""


class Section(NamedTuple):
    """One part of a page: `key` is its place in the address, letters and hyphens."""

    key: str
    title: str
    body: Node


def page(title: str, lead: Node, sections: Sequence[Section], footer: Node) -> str:
    """A whole HTML document.

    `lead`: what stands under the title.
    """
    links = [
        element("li", element("a", section.title, href=f"#{section.key}")) for section in sections
    ]
    parts = [
        element(
            "section",
            element("h2", section.title, id=f"{section.key}-title"),
            section.body,
            id=section.key,
            aria_labelledby=f"{section.key}-title",
        )
        for section in sections
    ]
    body = element(
        "body",
        element("a", "Skip to the report", class_="skip", href="#content"),
        element(
            "div",
            element(
                "header",
                element("h1", title),
                element("p", lead, class_="lead"),
                element("nav", element("ul", links), aria_label="Sections"),
            ),
            element("main", parts, id="content"),
            element("footer", footer, class_="small"),
            class_="wrap",
        ),
    )
    style = (
        f":root{{color-scheme:light dark;{palette_css(0)}{_LIGHT}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{palette_css(1)}{_DARK}}}}}"
        f"{_STYLE}"
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(style)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def chart(figure: Figure, *, key: str, label: str, caption: Node) -> Markup:
    """A figure with a caption; `label` says what it shows to those who do not see it."""
    svg = to_svg(figure, label=plain(label, 400), prefix=key)
    wide = "wide" if least_width(figure) > _PHONE else None
    return element("figure", Markup(svg), element("figcaption", caption), class_=wide)


def facts(pairs: Sequence[tuple[str, Node]]) -> Markup:
    """Names and values as a list of definitions; empty values are left out."""
    return element(
        "dl",
        [
            [element("dt", name), element("dd", value)]
            for name, value in pairs
            if value is not None and value != ""
        ],
    )


def tiles(entries: Sequence[tuple[str, str, str]]) -> Markup:
    """A few large numbers: name, value and what goes with it."""
    return element(
        "ul",
        [
            element(
                "li",
                element("span", name, class_="of"),
                element("b", value),
                element("span", beside),
            )
            for name, value, beside in entries
        ],
        class_="tiles",
    )


def more(summary: str, *content: Node) -> Markup:
    """What only some readers want, folded away."""
    return element("details", element("summary", summary), *content)


def long_table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Node]],
    *,
    what: str,
    numeric: Iterable[int] = (),
) -> list[Markup]:
    """A table that shows its first rows and folds the others away: a phone shows few at a time.

    `what`: what the rows are, in the plural.
    `numeric`: columns of numbers, set flush right.
    """
    numeric = tuple(numeric)
    if len(rows) <= _UNFOLDED + _FEW_MORE:
        return [table(caption, head, rows, numeric=numeric)]
    rest = f"The other {len(rows) - _UNFOLDED:,} {what}"
    return [
        table(caption, head, rows[:_UNFOLDED], numeric=numeric),
        more(rest, table(f"{caption}: the others", head, rows[_UNFOLDED:], numeric=numeric)),
    ]
