"""Charts: weights count, the chosen point is the one in force, colours can be told apart."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from tabwright.report import plots
from tabwright.report import probability_plots as probability
from tabwright.report.svg import PALETTE, name_rows, new_figure, plain, styled, to_svg
from tabwright.tables.column_names import shown_name
from tests.packages import PACKAGE, ROOT

N_ROWS = 1_000
_rng = np.random.default_rng(0)
P = _rng.beta(0.6, 1.4, N_ROWS)
EVENT = _rng.random(N_ROWS) < P
CODES = _rng.integers(0, 5, N_ROWS)
SAID = np.where(_rng.random(N_ROWS) < 0.7, CODES, _rng.integers(0, 5, N_ROWS))
TRUE = _rng.gamma(3.0, 70_000.0, N_ROWS)
VALUE = TRUE * _rng.normal(1.0, 0.2, N_ROWS)

Weighted = Callable[[np.ndarray, np.ndarray | None], Figure]
# From row numbers and weights to a chart.
CHARTS: dict[str, Weighted] = {
    "reliability": lambda r, w: probability.plot_reliability(EVENT[r], P[r], w, n_bins=8),
    "precision-recall": lambda r, w: probability.plot_precision_recall(
        EVENT[r], P[r], w, threshold=0.3
    ),
    "confidence": lambda r, w: probability.plot_accuracy_by_confidence(EVENT[r], P[r], w),
    "confusion": lambda r, w: probability.plot_confusion(CODES[r], SAID[r], list("abcde"), w),
    "values": lambda r, w: plots.plot_predicted_true(TRUE[r], VALUE[r], w, name="price in $"),
}


def _svg(figure: Figure) -> str:
    return to_svg(figure, label="chart", prefix="chart")


def _labels(figure: Figure) -> list[str]:
    return [axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes]


@pytest.mark.parametrize("name", CHARTS)
def test_a_weight_of_two_is_a_row_twice_and_of_zero_none(name: str) -> None:
    weight = np.arange(N_ROWS) % 3
    every = np.arange(N_ROWS)
    weighted, repeated, unweighted = (
        CHARTS[name](*rows)
        for rows in (
            (every, weight.astype(np.float64)),
            (np.repeat(every, weight), None),
            (every, None),
        )
    )
    for figure in (weighted, repeated, unweighted):
        if name == "reliability":  # "Rows" or "Weight"
            figure.axes[1].set_ylabel("")
    assert _svg(weighted) == _svg(repeated)
    assert _svg(unweighted) != _svg(repeated)


@pytest.mark.parametrize("name", CHARTS)
def test_every_axis_is_labelled(name: str) -> None:
    figure = CHARTS[name](np.arange(N_ROWS), None)
    assert all(_labels(figure))


def test_the_marked_point_is_what_the_threshold_gives() -> None:
    for threshold in (0.05, 0.3, float(P[3]), 0.9):
        figure = probability.plot_precision_recall(EVENT, P, threshold=threshold)
        (mark,) = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
        said = threshold <= P
        assert mark.get_xdata() == pytest.approx([recall_score(EVENT, said)])
        assert mark.get_ydata() == pytest.approx([precision_score(EVENT, said)])


def test_a_threshold_that_no_row_reaches_has_no_point() -> None:
    figure = probability.plot_precision_recall(EVENT, P, threshold=1.0)
    assert not [line for line in figure.axes[0].lines if line.get_marker() == "D"]


def test_curves_without_a_positive_row_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one positive row is needed"):
        probability.plot_precision_recall(np.zeros(3, dtype=bool), np.ones(3) / 2)


def test_a_rare_event_gets_a_scale_of_its_own() -> None:
    rare = probability.plot_reliability(_rng.random(N_ROWS) < P / 50, P / 50)
    assert rare.axes[0].get_xlim()[1] < 0.9
    assert probability.plot_reliability(EVENT, P).axes[0].get_xlim() == (0, 1)


def test_confusion_counts_are_those_of_scikit_learn() -> None:
    weight = _rng.random(N_ROWS)
    ours = probability.confusion_counts(CODES, SAID, 6, weight)
    theirs = confusion_matrix(CODES, SAID, labels=range(6), sample_weight=weight)
    np.testing.assert_allclose(ours, theirs)


def test_wilson_intervals_are_those_of_scipy() -> None:
    for hits, n in ((0, 7), (3, 12), (40, 40)):
        low, high = probability.wilson_interval(np.array([hits / n]), np.array([float(n)]))
        theirs = binomtest(hits, n).proportion_ci(method="wilson")
        np.testing.assert_allclose([low[0], high[0]], [theirs.low, theirs.high], atol=1e-6)


def test_accuracy_by_confidence_counts_the_rows_acted_on() -> None:
    figure = probability.plot_accuracy_by_confidence(EVENT, P)
    accuracy, kept = figure.axes[0].lines
    lines = (kept.get_xdata(), kept.get_ydata(), accuracy.get_ydata())
    for x, share, right in np.array(lines, dtype=np.float64).T:
        assert share == pytest.approx((x <= P).mean())
        assert right == pytest.approx(EVENT[x <= P].mean())


@pytest.mark.parametrize("n_classes", [2, 19, 45, 100])
def test_confusion_of_many_classes_stays_small(n_classes: int) -> None:
    codes = _rng.integers(0, n_classes, 2_000)
    figure = probability.plot_confusion(
        codes, codes[::-1], ["a long name of a class " * 9] * n_classes
    )
    assert len(_svg(figure)) < 200_000
    width, height = figure.get_size_inches()
    assert width < 11
    assert height < 11


def test_long_tables_become_small_charts() -> None:
    n = 100_000
    true, p = _rng.normal(size=n), _rng.random(n)
    assert len(_svg(plots.plot_predicted_true(true, true + p))) < 150_000
    assert len(_svg(probability.plot_precision_recall(p > 0.9, p))) < 80_000


def test_extreme_and_constant_values_can_be_drawn() -> None:
    for true in (np.full(5, 3.0), np.array([1e200, -1e200, 0.0]), np.array([1e-30, 2e-30])):
        _svg(plots.plot_predicted_true(true, true[::-1]))
    _svg(plots.plot_predicted_true(np.arange(700.0), np.full(700, 2.0)))
    _svg(probability.plot_reliability([True], [1.0]))
    _svg(plots.plot_importance(["a"], [0.0], [0.0]))


def test_learning_curves_take_what_a_history_has() -> None:
    history = [{"epoch": 1.0, "train_loss": 3.0}, {"epoch": 2.0, "train_loss": 0.01}]
    figure = plots.plot_learning_curves(history, [2, 2], unit="log-loss in nats")
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].get_ylabel() == "Loss (log-loss in nats)"
    _svg(plots.plot_learning_curves([]))
    _svg(plots.plot_learning_curves(history[:1], [1]))


def test_importance_shows_the_largest_first() -> None:
    figure = plots.plot_importance(["a", "b", "c"], [0.1, 0.3, 0.2], limit=2)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "c"]


HOSTILE = '</text><script>alert(1)</script> $x^{$ #0b66ad id="a" url(#b) 表 \x00\x1b\n\u202e& %'


def test_svg_keeps_hostile_text_as_text() -> None:
    figure = plots.plot_importance([HOSTILE, "plain"], [2.0, 1.0])
    svg = to_svg(figure, label=HOSTILE.replace("\x00", "").replace("\x1b", ""), prefix="a")
    assert "<script" not in svg
    root = ElementTree.fromstring(svg)
    texts = [node.text for node in root.iter("text")]
    assert plain(shown_name(HOSTILE), 24) in texts
    drawn = {"svg", "g", "path", "text", "use", "defs", "clipPath", "rect"}
    assert {node.tag for node in root.iter()} <= drawn


def test_svg_fits_a_page_beside_others() -> None:
    svgs = [
        to_svg(CHARTS[name](np.arange(N_ROWS), None), label=name, prefix=name) for name in CHARTS
    ]
    ids = []
    for svg in svgs:
        root = ElementTree.fromstring(svg)
        own = [node.attrib["id"] for node in root.iter() if "id" in node.attrib]
        ids += own
        for node in root.iter():
            for value in node.attrib.values():
                if value.startswith("#"):
                    assert value[1:] in own
                if "url(#" in value:
                    assert value.split("url(#")[1].split(")")[0] in own
    assert len(set(ids)) == len(ids)
    whole = "".join(svgs)
    assert "http" not in whole
    assert "<style" not in whole
    assert "<metadata" not in whole


def test_every_colour_of_a_chart_follows_the_page() -> None:
    for name, chart in CHARTS.items():
        svg = _svg(chart(np.arange(N_ROWS), None))
        left = svg
        for key, (light, _) in PALETTE.items():
            left = left.replace(f"var(--plot-{key}, {light})", "")
        assert "#" not in left.replace('href="#', "").replace("url(#", ""), name


def test_the_same_chart_is_the_same_svg_and_settings_stay() -> None:
    before = dict(matplotlib.rcParams)
    one, two = (_svg(CHARTS["reliability"](np.arange(N_ROWS), None)) for _ in range(2))
    assert one == two
    assert dict(matplotlib.rcParams) == before


def test_a_prefix_must_be_a_name() -> None:
    with pytest.raises(ValueError, match="prefix must be a letter"):
        to_svg(new_figure(1, 1), label="", prefix='"><script>')


def test_pyplot_is_never_loaded() -> None:
    code = (
        f"import sys\nfrom {PACKAGE}.report import plots, svg\n"
        "f = plots.plot_importance(['a'], [1.0])\nsvg.to_svg(f, label='', prefix='a')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_text_of_a_figure_is_one_short_line() -> None:
    assert plain("a\n b\t\x00c") == "a b \ufffdc"
    assert len(plain("x" * 1_000)) == 60
    axes = styled(new_figure(2, 2).subplots(), x="a$b", y="")
    assert not axes.xaxis.label.get_parse_math()


def _linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear: np.ndarray = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return linear


def _contrast(one: str, two: str) -> float:
    light, dark = sorted(
        (float(_linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, two)), reverse=True
    )
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_contrast_is_enough(theme: int) -> None:
    colour = {name: themes[theme] for name, themes in PALETTE.items()}
    for text in ("ink", "muted"):
        assert _contrast(colour[text], colour["surface"]) >= 4.5
    for line in ("blue", "orange", "green"):
        assert _contrast(colour[line], colour["surface"]) >= 3.0
    for k in range(6):
        text = "ink" if k < 4 else "on-shade"
        assert _contrast(colour[text], colour[f"shade-{k}"]) >= 4.5, k
    shades = [float(_linear(colour[f"shade-{k}"]).sum()) for k in range(6)]
    assert shades == sorted(shades, reverse=theme == 0)


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency" (2009), severity 1.0, for linear RGB.
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def _lab(linear: np.ndarray) -> np.ndarray:
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt((to_xyz @ linear.clip(0, 1)) / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", [0, 1])
@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_lines_differ_for_the_colour_blind(kind: str, theme: int) -> None:
    seen = [
        _lab(DEFICIENCIES[kind] @ _linear(PALETTE[name][theme]))
        for name in ("blue", "orange", "green")
    ]
    for i in range(3):
        for j in range(i):
            # About 2.3 is a just noticeable difference.
            assert float(np.linalg.norm(seen[i] - seen[j])) > 15


@pytest.mark.parametrize("size", [(4.1, 3.2), (7.0, 5.0)])
def test_a_long_title_of_an_axis_takes_lines_and_is_not_cut(size: tuple[float, float]) -> None:
    title = "Monthly charges including all taxes and fees of the whole year"
    figure = new_figure(*size)
    axes = styled(figure.subplots(), x=title, y=f"Effect on {title}")
    figure.draw_without_rendering()
    for label, said in ((axes.xaxis.label, title), (axes.yaxis.label, f"Effect on {title}")):
        assert " ".join(label.get_text().split()) == said
        shown, whole = label.get_window_extent(), figure.bbox
        assert whole.x0 <= shown.x0 <= shown.x1 <= whole.x1
        assert whole.y0 <= shown.y0 <= shown.y1 <= whole.y1


def test_a_title_below_long_names_is_not_cut() -> None:
    names = [f"a_rather_long_column_name_{k}" for k in range(4)]
    figure = plots.plot_importance(names, [4.0, 3.0, 2.0, 1.0], unit="RMSE in the target's units")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    label = axes.xaxis.label
    expected = "Rise of the loss when shuffled (RMSE in the target's units)"
    assert " ".join(label.get_text().split()) == expected
    shown, whole = label.get_window_extent(), figure.bbox
    assert whole.x0 <= shown.x0 <= shown.x1 <= whole.x1


@pytest.mark.parametrize(
    ("title", "lines"),
    [
        ("Predicted temperature_of_the_air", ["Predicted", "temperature_of_the_air"]),
        (
            "True process_temperature_in_kelvin_at_sensor",
            ["True process_temperature_", "in_kelvin_at_sensor"],
        ),
        ("AverageMonthlyRevenuePerAccount", ["AverageMonthlyRevenuePer", "Account"]),
        (f"of {'s' * 30}", ["of", "s" * 26, "ssss"]),
    ],
)
def test_names_in_titles_of_axes_break_between_their_words(title: str, lines: list[str]) -> None:
    axes = new_figure(2.6, 2.6).subplots()
    styled(axes, x=title, y="")
    assert axes.get_xlabel().split("\n") == lines
    name_rows(axes, np.arange(1), [""], x=title)
    assert "".join(axes.get_xlabel().split()) == title.replace(" ", "")
