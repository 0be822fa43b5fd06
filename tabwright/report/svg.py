"""Figures that follow the colours of the page they stand in.

Here live the palette in a light and a dark form, the look of an axis, and the way from a
matplotlib figure to SVG for HTML. `report/plots.py` decides what is drawn.

Figures are `matplotlib.figure.Figure` objects drawn in the light palette; pyplot and its global
state are never touched. In SVG each palette colour becomes a CSS variable, with the light colour
for pages that do not set it.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import threading
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from tabwright.artifact.atomic_write import check_writable, write_atomically
from tabwright.number_text import may_be_years
from tabwright.report.markup import name_pieces

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]

# Name: light, dark. Blue, orange and green differ for every common kind of colour blindness, and
# every line has a dash pattern or a marker of its own besides. Lines reach a contrast of 3 to 1
# and text 4.5 to 1 on their surface (WCAG 2.2, 1.4.3 and 1.4.11).
PALETTE: dict[str, tuple[str, str]] = {
    "surface": ("#ffffff", "#141a21"),
    "ink": ("#1b2733", "#e6ebf1"),
    "muted": ("#566271", "#a3afbc"),
    "grid": ("#dfe4ea", "#2c3641"),
    "blue": ("#0a58a0", "#58a9f5"),
    "orange": ("#c04f00", "#ff9d4d"),
    "green": ("#12886a", "#5fe0b2"),
    "shade-0": ("#e3eef8", "#1b2b3b"),
    "shade-1": ("#bcd7ee", "#21405c"),
    "shade-2": ("#8ab9e0", "#285577"),
    "shade-3": ("#5f9fd0", "#31698f"),
    "shade-4": ("#2273b3", "#69a9d8"),
    "shade-5": ("#0a4a80", "#b0d9f7"),
    "on-shade": ("#fffffe", "#0b1118"),
}
SURFACE, INK, MUTED, GRID, BLUE, ORANGE, GREEN = (
    PALETTE[name][0] for name in ("surface", "ink", "muted", "grid", "blue", "orange", "green")
)
SHADES = tuple(PALETTE[f"shade-{k}"][0] for k in range(6))
# Text on the last two shades; ink is for the others.
ON_SHADE = PALETTE["on-shade"][0]

# At most so many points of a curve: more cannot be seen, and a page should stay small.
_CURVE_POINTS = 400
# More rows than this are drawn as densities.
_MOST_DOTS = 600
_DENSITY_BINS = 48
SMALL = 8.5
_LABEL_SIZE = 9.5
# Inches that a letter of this size takes.
_LABEL_LETTER = 0.068
_TICK_SIZE = 8.5
_TICK_LETTER = 0.062
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_VARIABLES = {light: f"var(--plot-{name}, {light})" for name, (light, _) in PALETTE.items()}
# Points of a figure to an inch of the page: beyond, its text could not be read.
_LEAST_SCALE = 112.0
_LONG_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
# matplotlib reads the form of text in SVG from its global settings while it draws.
_settings_lock = threading.Lock()


def palette_css(theme: int) -> str:
    """CSS declarations of the palette's variables; theme 0 is light and 1 dark."""
    return "".join(f"--plot-{name}:{colours[theme]};" for name, colours in PALETTE.items())


def check_picture(path: Path) -> None:
    """Refuse a picture that could not be written, before the work that it shows.

    Raises `ValueError`: another format than PNG, SVG or PDF; `OSError`: as `check_writable`.
    """
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"the picture must be .png, .svg or .pdf; got {path}; rename it")
    check_writable(path)


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG or PDF, whole or not at all."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.lower().lstrip("."), dpi=150)
    write_atomically(path, drawn.getvalue())


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, that keeps its parts from overlapping."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor=SURFACE)


def styled(axes: Axes, *, x: str, y: str, grid: str = "both") -> Axes:
    """Label an axis and give it the common look: `grid` is "x", "y", "both" or "".

    Long titles take several lines, each no longer than the axis.
    """
    axes.set_facecolor("none")
    box, dpi = axes.bbox, axes.figure.dpi
    # What stands at the left narrows the axis later.
    lengths = ((x, axes.set_xlabel, 0.9 * box.width), (y, axes.set_ylabel, box.height))
    for title, put, length in lengths:
        put(_in_lines(title, length / dpi), color=INK, fontsize=_LABEL_SIZE, parse_math=False)
    axes.tick_params(colors=MUTED, labelsize=_TICK_SIZE, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    return axes


def _in_lines(title: str, length: float) -> str:
    """A title of an axis of so many inches; a word longer than a line is divided as names are."""
    width = max(12, int(length / _LABEL_LETTER))
    lines = [""]
    for word in plain(title, 90).split(" "):
        pieces = [word]
        if len(word) > width:
            pieces = [part for piece in name_pieces(word) for part in textwrap.wrap(piece, width)]
        for place, piece in enumerate(pieces):
            gap = " " if lines[-1] and place == 0 else ""
            if lines[-1] and len(lines[-1] + gap + piece) > width:
                lines.append(piece)
            else:
                lines[-1] += gap + piece
    return "\n".join(lines)


def name_rows(axes: Axes, places: NDArray[Any], names: Sequence[str], *, x: str) -> None:
    """Names at the left of the rows, without ticks or a line; they narrow axis and title `x`."""
    axes.set_yticks(places, labels=names, parse_math=False)
    axes.tick_params(axis="y", colors=INK, length=0)
    axes.spines["left"].set_visible(False)
    width = axes.bbox.width / axes.figure.dpi
    left = width - _TICK_LETTER * max(map(len, names), default=0)
    axes.set_xlabel(_in_lines(x, left))


def plain(text: object, limit: int = 60) -> str:
    """Text that a figure can show on one line: no control characters, cut in the middle.

    `limit`: at most so many characters.
    """
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(text).split()))
    if len(line) <= limit:
        return line
    tail = (limit - 1) // 3
    return f"{line[: limit - 1 - tail]}…{line[len(line) - tail :]}"


def thinned(*curves: FloatArray) -> NDArray[np.int64]:
    """Places that keep the shape of curves over one axis: even steps of their common length."""
    n = len(curves[0])
    if n <= _CURVE_POINTS:
        return np.arange(n)
    length = np.concatenate([[0.0], np.cumsum(sum(np.abs(np.diff(c)) for c in curves))])
    steps = np.linspace(0.0, length[-1], _CURVE_POINTS)
    return np.unique(np.append(np.searchsorted(length, steps), [0, n - 1]).clip(0, n - 1))


def add_legend(axes: Axes, *, columns: int) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        borderaxespad=0.2,
        handlelength=2.0,
        columnspacing=1.1,
    )


def group_thousands(axes: Axes, side: str, *, of_column: bool = False) -> None:
    """Tick labels with thousands separated, in place of a common factor in the corner.

    `of_column`: whether they are values of a column, which may be years.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = axes.xaxis if side == "x" else axes.yaxis
    # Long numbers below an axis would touch: there are fewer of them.
    n_letters = len(f"{max(map(abs, axis.get_view_interval())):,.0f}")
    n_bins = min(5, max(2, 36 // n_letters)) if side == "x" else 6
    axis.set_major_locator(MaxNLocator(nbins=n_bins, steps=[1, 2, 2.5, 5, 10]))

    def shown(value: float, _: int | None) -> str:
        grouped = not of_column or not may_be_years(*axis.get_view_interval())
        return (f"{value:,.10g}" if grouped else f"{value:.10g}").replace("-", "−")

    axis.set_major_formatter(FuncFormatter(shown))


def add_squares(
    axes: Axes, x: FloatArray, y: FloatArray, width: float, height: float, c: str
) -> None:
    """Equal rectangles as one path: an element per rectangle would swell the page."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners = np.array([(0, 0), (width, 0), (width, height), (0, height), (0, 0)])
    vertices = (np.column_stack([x, y])[:, None, :] + corners).reshape(-1, 2)
    kinds = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(x)
    axes.add_patch(PathPatch(Path(vertices, kinds), facecolor=c, linewidth=0, edgecolor="none"))


def add_bars(axes: Axes, edges: FloatArray, heights: FloatArray, colour: str) -> None:
    axes.bar(
        edges[:-1],
        heights,
        width=np.diff(edges),
        align="edge",
        color=colour,
        edgecolor=SURFACE,
        linewidth=0.8,
    )


def add_cloud(axes: Axes, x: FloatArray, y: FloatArray, weight: FloatArray) -> None:
    """Rows as dots, or as shades where dots would cover each other."""
    if len(x) <= _MOST_DOTS:
        axes.plot(
            x,
            y,
            linestyle="none",
            marker="o",
            markersize=4.5,
            color=BLUE,
            alpha=0.65,
            markeredgecolor=SURFACE,
            markeredgewidth=0.4,
        )
        return
    # Outliers keep their cells: the range is the whole range.
    mass, x_edges, y_edges = np.histogram2d(x, y, bins=_DENSITY_BINS, weights=weight)
    filled = mass > 0
    # Even steps of the logarithm: a cell of few rows is as visible as one of many.
    top, bottom = float(mass.max()), float(mass[filled].min())
    scale = math.log(top / bottom) or 1.0
    level = np.zeros(mass.shape, dtype=np.int64)
    level[filled] = np.clip(np.log(mass[filled] / bottom) / scale * 5, 0, 4).astype(np.int64) + 1
    for k, shade in enumerate(SHADES):
        columns, rows = np.nonzero(filled & (level == k))
        if len(rows):
            width, height = float(np.diff(x_edges)[0]), float(np.diff(y_edges)[0])
            add_squares(axes, x_edges[columns], y_edges[rows], width, height, shade)


def row_weights(sample_weight: ArrayLike | None, n_rows: int) -> FloatArray:
    """The weights, or ones."""
    if sample_weight is None:
        return np.ones(n_rows)
    return np.asarray(sample_weight, dtype=np.float64)


def least_width(figure: Figure) -> float:
    """The inches below which a figure does not shrink on a page."""
    return 72.0 * float(figure.get_figwidth()) / _LEAST_SCALE


def to_svg(figure: Figure, *, label: str, prefix: str) -> str:
    """A figure as one `<svg>` element to put into an HTML page.

    `figure`: drawn with the palette of this module.
    `label`: what the picture shows, for those who do not see it (`aria-label`).
    `prefix`: put before every id, so that several figures fit one page; letters, digits and
        hyphens.
    Returns: text stays text; the same figure gives the same characters.
    """
    import matplotlib

    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", prefix):
        raise ValueError(f"prefix must be a letter, then letters, digits and '-'; got {prefix!r}")
    buffer = io.BytesIO()
    with _settings_lock, warnings.catch_warnings():
        # The browser has glyphs for what matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tabwright"}):
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _strip(root)
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    root.attrib.clear()
    root.attrib.update(
        {
            "role": "img",
            "aria-label": label,
            "viewBox": f"0 0 {width:g} {height:g}",
            "style": f"max-width:{width / 62:.2f}in;min-width:{width / _LEAST_SCALE:.2f}in;"
            "stroke-linejoin:round;stroke-linecap:butt",
        }
    )
    values = " ".join(value for node in root.iter() for value in node.attrib.values())
    used = set(re.findall(r"(?:url\(|(?<!\S))#([^\s)]+)", values))
    for node in root.iter():
        _style_once(node)
        _adapt(node, used, prefix)
    return ElementTree.tostring(root, encoding="unicode")


def _strip(node: ElementTree.Element) -> None:
    """Leave out what a page must not get: styles of its own, metadata, white space."""
    for child in list(node):
        if child.tag in (f"{_SVG}style", f"{_SVG}metadata") or not isinstance(child.tag, str):
            node.remove(child)
            continue
        _strip(child)
        child.tail = None
    if not (node.text or "").strip():
        node.text = None
    for child in list(node):
        if child.tag in (f"{_SVG}defs", f"{_SVG}g") and not len(child):
            node.remove(child)


def _adapt(node: ElementTree.Element, used: set[str], prefix: str) -> None:
    """Plain names, ids of this page, CSS variables for the palette, the page's font."""
    node.tag = node.tag.removeprefix(_SVG)
    identifier = node.attrib.pop("id", None)
    if identifier in used:
        node.attrib["id"] = f"{prefix}-{identifier}"
    href = node.attrib.pop(_HREF, None)
    if href is not None:
        node.attrib["href"] = f"#{prefix}-{href.removeprefix('#')}"
    for name in ("x", "y"):
        if name in node.attrib:
            node.attrib[name] = _LONG_NUMBER.sub(_hundredths, node.attrib[name])
    for name in ("clip-path", "transform", "d", "style"):
        value = node.attrib.pop(name, None)
        if value is None or (name == "transform" and value.startswith("rotate(-0 ")):
            continue
        if name == "style":
            value = re.sub(r"font-family:[^;]*;? ?", "", value)
            value = _COLOUR.sub(lambda found: _VARIABLES.get(found[0], found[0]), value)
            # Without a size of its own a font shorthand needs a family.
            value = re.sub(r"font: ((?:bold |italic |\d+ )*)([\d.]+px)[^;]*", _font, value)
        elif name == "d":
            value = _LONG_NUMBER.sub(_hundredths, " ".join(value.split()))
        node.attrib[name] = value.replace("url(#", f"url(#{prefix}-")


def _style_once(group: ElementTree.Element) -> None:
    """Marks of one style inherit it from their group: hundreds of dots would swell the page."""
    styles = {mark.attrib.get("style") for mark in group}
    if len(group) > 1 and all(mark.tag == f"{_SVG}use" for mark in group) and len(styles) == 1:
        (style,) = styles
        # What applies to a group as a whole is not inherited.
        if style and "style" not in group.attrib and not re.search(r"(?:^|[; ])opacity", style):
            group.attrib["style"] = style
            for mark in group:
                del mark.attrib["style"]


def _hundredths(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")


def _font(found: re.Match[str]) -> str:
    weight = "font-weight: bold; " if re.search(r"bold|700", found[1]) else ""
    return f"{weight}font-size: {found[2]}"
