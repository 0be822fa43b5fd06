"""Explanations drawn: bars that end at the row's output, dots a row, curves over the rows."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from datetime import date, time, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tabwright.explanation import EffectCurve, Explanation, explain
from tabwright.report import explanations
from tabwright.report.explanations import output_title, plot_beeswarm, plot_waterfall
from tabwright.report.plots import plot_effect
from tabwright.report.svg import BLUE, MUTED, ORANGE
from tabwright.report.write import write_report
from tabwright.tables.cell_format import CellFormat
from tests.report.test_write import fit, table


def explanation(n_rows: int = 40, n_columns: int = 3) -> Explanation:
    rng = np.random.default_rng(0)
    names = tuple(f"x{i}" for i in range(n_columns))
    sizes = rng.normal(size=(n_rows, n_columns, 1)) * 2.0 ** -np.arange(n_columns)[None, :, None]
    cells = {name: rng.normal(size=n_rows) for name in names}
    frame = pl.DataFrame(cells).with_columns(x0=pl.Series(["a", None] * (n_rows // 2)))
    base = np.array([0.5])
    return Explanation(
        names, ("yes",), sizes, base, base + sizes.sum(axis=1), "probability", frame, frame, True
    )


@pytest.mark.parametrize("n_columns", [1, 3, 30])
def test_a_waterfall_goes_from_the_mean_to_the_row(n_columns: int) -> None:
    found = explanation(n_columns=n_columns)
    figure = plot_waterfall(found, 1, limit=5)
    (axes,) = figure.axes
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(bars) == min(n_columns, 5)
    assert bars[0].get_x() == pytest.approx(0.5)
    last = bars[-1].get_x() + bars[-1].get_width()
    assert last == pytest.approx(found.output[1, 0])
    assert axes.get_xlabel() == output_title(found, 0)
    # The largest stands on top; the small ones are one bar at the bottom.
    labels = [text.get_text() for text in axes.get_yticklabels()]
    if n_columns == 30:
        assert labels[0] == "26 other columns"
    if n_columns == 3:
        assert "x0 = missing" in labels
    figure.canvas.draw()
    low, high = axes.get_xlim()
    ends = [edge for bar in bars for edge in (bar.get_x(), bar.get_x() + bar.get_width())]
    assert low < min(ends)
    assert max(ends) < high


def dots(axes: Axes) -> dict[str, list[tuple[float, float, str]]]:
    """Place, height and colour of the dots beside each name."""
    names = [text.get_text() for text in axes.get_yticklabels()]
    found: dict[str, list[tuple[float, float, str]]] = {name: [] for name in names}
    for line in axes.lines[1:]:
        for x, y in np.asarray(line.get_xydata()):
            found[names[round(y)]].append((x, y, str(line.get_color())))
    return found


def test_a_beeswarm_has_a_dot_a_row_and_column() -> None:
    found = explanation(n_columns=30)
    shown = dots(plot_beeswarm(found, limit=4).axes[0])
    assert list(shown) == ["x0", "x1", "x2", "x3"]
    assert [len(own) for own in shown.values()] == [40] * 4
    places = np.sort([x for x, _, _ in shown["x0"]])
    np.testing.assert_allclose(places, np.sort(found.attributions[:, 0, 0]))
    # Words have no order: all dots of x0 are grey.
    assert {colour for _, _, colour in shown["x0"]} == {MUTED}
    # The lowest cell of x1 is orange, the highest blue.
    cells, sizes = found.cells["x1"].to_numpy(), found.attributions[:, 1, 0]
    colours = {round(x, 9): colour for x, _, colour in shown["x1"]}
    assert colours[round(sizes[cells.argmin()], 9)] == ORANGE
    assert colours[round(sizes[cells.argmax()], 9)] == BLUE
    assert MUTED not in colours.values()


def test_a_beeswarm_colours_text_that_is_read_as_numbers_or_times() -> None:
    rng = np.random.default_rng(0)
    minutes, thousands = rng.integers(0, 24 * 60, 80), rng.integers(10, 900, 80)
    frame = pl.DataFrame(
        {
            "at": [f"{m // 60:02d}:{m % 60:02d}" for m in minutes],
            "cost": [f"£{k}k" for k in thousands],
            "kind": rng.choice(["red", "blue"], 80),
            "price": minutes / 60.0,
        }
    )
    found = explain(fit(frame, "price"), frame[:30], frame)
    assert found.cells["cost"].to_list() == frame["cost"][:30].to_list()
    for name, numbers in (("at", minutes), ("cost", thousands)):
        read = found.cells_as_read[name].to_physical().cast(float).to_numpy()
        assert np.corrcoef(read, numbers[:30])[0, 1] == pytest.approx(1.0)
    for name, own in dots(plot_beeswarm(found).axes[0]).items():
        assert len(own) == 30
        n_grey = sum(colour == MUTED for _, _, colour in own)
        assert n_grey == (30 if name == "kind" else 0)


def test_dots_of_one_place_do_not_cover_each_other() -> None:
    found = explanation(20, 1)
    found.attributions[:] = 0.25
    (own,) = dots(plot_beeswarm(found).axes[0]).values()
    heights = [y for _, y, _ in own]
    assert len(set(heights)) == 20
    assert np.abs(heights).max() < 0.5


@pytest.mark.parametrize(
    ("points", "ordered"),
    [
        ((1.0, 2.0, 5.0, None), True),
        ((date(2020, 1, 1), date(2021, 1, 1), None), True),
        ((3.0,), True),
        ((None,), True),
        (("a $x$ word", "b", None), False),
        ((*tuple(f"level {i}" for i in range(19)), None), False),
    ],
)
def test_an_effect_shows_every_kind_of_column(
    points: tuple[object, ...], ordered: bool, tmp_path: Path
) -> None:
    n = len(points)
    effect = np.linspace(-1, 1, 2 * n).reshape(n, 2)
    curve = EffectCurve("c", ("no", "yes"), ordered, points, effect, np.full(n, 1 / n))
    figure = plot_effect(curve, (0, 1), y="effect")
    figure.savefig(tmp_path / "p.png")
    above, below = figure.axes
    assert above.get_legend() is not None
    if not ordered:
        labels = [text.get_text() for text in below.get_xticklabels()]
        assert labels[-1] == "missing"
        assert len(labels) == min(n, 9)
        assert len(below.patches) == len(labels)
        bars = [bar for bar in below.patches if isinstance(bar, Rectangle)]
        edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars)
        assert all(left[1] < right[0] for left, right in itertools.pairwise(edges))


@pytest.mark.parametrize(
    ("points", "form", "title", "ticks"),
    [
        ((time(6), time(12, 30), time(22), None), {}, "c (time of day)", {"08:00", "12:00"}),
        ((0.0, 86_399.0), {"spelling": "clock"}, "c (time of day)", {"00:00", "18:00"}),
        ((time(8), time(8, 20)), {}, "c (time of day)", {"08:05"}),
        ((timedelta(0), timedelta(days=9)), {}, "c (days)", {"4", "8"}),
        ((timedelta(minutes=3), timedelta(minutes=50)), {}, "c (minutes)", {"20", "40"}),
        ((600.0, 36_000.0, None), {"spelling": "duration"}, "c (hours)", {"5", "10"}),
        ((0.5, 20.0), {"spelling": "duration"}, "c (seconds)", {"10", "15"}),
        ((1.0, 3.0), {"unit": "cm"}, "c (cm)", {"2"}),
        ((1.0, 3.0), {}, "c", {"2"}),
        ((date(2020, 1, 1), date(2023, 1, 1)), {}, "c", {"2021", "2022"}),
    ],
)
def test_the_axis_names_the_unit_of_times_and_durations(
    points: tuple[object, ...],
    form: dict[str, str],
    title: str,
    ticks: set[str],
) -> None:
    n = len(points)
    curve = EffectCurve("c", ("y",), True, points, np.zeros((n, 1)), np.full(n, 1 / n))
    figure = plot_effect(curve, form=CellFormat(**form))  # type: ignore[arg-type]
    figure.canvas.draw()
    below = figure.axes[1]
    assert below.get_xlabel() == title
    low, high = below.get_xlim()
    shown = {
        text.get_text() for text in below.get_xticklabels() if low <= text.get_position()[0] <= high
    }
    assert ticks <= shown
    assert len(shown) <= 8


@pytest.mark.parametrize("largest", [9_000, 250_000, 9e6, 924_100_070, 9e9])
def test_long_numbers_below_an_axis_do_not_touch(largest: float) -> None:
    points = tuple(np.linspace(0.57 * largest, largest, 20).tolist())
    curve = EffectCurve("c", ("y",), True, points, np.zeros((20, 1)), np.full(20, 0.05))
    figure = plot_effect(curve)
    figure.canvas.draw()
    axis = figure.axes[1].xaxis
    low, high = axis.get_view_interval()
    boxes = [
        label.get_window_extent()
        for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        if low <= place <= high
    ]
    assert len(boxes) >= 2
    assert all(left.x1 + 4 < right.x0 for left, right in itertools.pairwise(boxes))


def test_a_report_reads_the_unit_off_the_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    minutes = rng.integers(0, 24 * 60, 200)
    frame = pl.DataFrame(
        {"at": [f"{m // 60:02d}:{m % 60:02d}" for m in minutes], "price": minutes / 60.0}
    )
    write_report(fit(frame, "price"), frame, "price", tmp_path / "r.html")
    assert "at (time of day)" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_levels_that_are_cut_stay_apart() -> None:
    points = ("Gasoline (Premium Recommended)", "Gasoline (Regular Recommended)", None)
    curve = EffectCurve("c", ("y",), False, points, np.zeros((3, 1)), np.full(3, 1 / 3))
    labels = [text.get_text() for text in plot_effect(curve).axes[1].get_xticklabels()]
    assert len(set(labels)) == 3


def test_levels_are_whole_on_a_chart_that_grows_with_them() -> None:
    points = ("Electronic check", "Mailed check", "Bank transfer (automatic)", None)
    curve = EffectCurve("c", ("y",), False, points, np.zeros((4, 1)), np.full(4, 1 / 4))
    figure = plot_effect(curve)
    labels = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert labels[:2] == ["Electronic check", "Mailed check"]
    assert labels[2] == "Bank transfer (automatic)"
    above = figure.axes[0]
    short = plot_effect(replace(curve, points=("a", "b", "c", None)))
    figure.canvas.draw()
    short.canvas.draw()
    heights = [one.axes[0].get_position().height * one.get_figheight() for one in (figure, short)]
    assert heights[0] > 0.8 * heights[1]
    assert above.get_position().width > 0.5


@pytest.mark.parametrize(
    ("effect", "text"),
    [
        ([-0.000213, 0.00041], "from −0.000213 to 0.000410"),
        ([-0.00049, 0.002], "from −0.00049 to 0.00200"),
        ([-20_272.4, 34_926.1], "from −20,272 to 34,926"),
        ([-1e-9, 0.5], "from 0.000 to 0.500"),
        ([0.0, 0.0], "from 0 to 0"),
    ],
)
def test_the_ends_of_an_effect_have_as_many_places(effect: list[float], text: str) -> None:
    assert explanations._range(np.array(effect)) == text


@pytest.mark.parametrize("target", ["label", "price"])
def test_the_report_shows_curves_and_what_moved_the_hardest_rows(
    target: str, tmp_path: Path
) -> None:
    frame = table(120)
    model = fit(frame, target)
    write_report(model, frame, target, tmp_path / "r.html", n_hardest=3)
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "How the prediction moves with a column" in html
    assert html.count('aria-label="Effect of ') == len(model.encoder.plan_.compact_columns())
    assert "Moved most by" in html
    # The first two of the rows are drawn, and the table says so in place of their cells.
    assert html.count('aria-label="Waterfall of row ') == 2
    assert html.count("in the chart above") == 2
    assert html.count('aria-label="Beeswarm of what cells add to the ') == 1
    what = "predicted price" if target == "price" else "probability of c001"
    assert f"Added to the {what}" in html


def test_a_report_on_many_classes_explains_the_predicted_one(tmp_path: Path) -> None:
    frame = table(150, n_classes=4)
    model = fit(frame, "label")
    write_report(model, frame, "label", tmp_path / "r.html", n_hardest=1)
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    (label,) = re.findall(r'aria-label="Waterfall of row \d+, ([^"]*)"', html)
    predicted = re.search(r"predicted “(\w+)”", label)
    assert predicted is not None
    assert f"the probability of {predicted[1]} goes from" in label


def test_a_report_on_few_rows_draws_no_dots(tmp_path: Path) -> None:
    frame = table(60)
    write_report(fit(frame, "price"), frame[:12], "price", tmp_path / "r.html", n_hardest=1)
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert html.count('aria-label="Beeswarm') == 0
    assert html.count('aria-label="Waterfall') == 1


def test_an_axis_names_the_target_where_it_is_known() -> None:
    found = replace(explanation(), outputs=("value",))
    assert output_title(found, 0) == "Prediction"
    assert output_title(replace(found, target="price"), 0) == "Predicted price"
