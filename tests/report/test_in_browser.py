"""Reports in a real browser: nothing leaves, nothing complains, everything has its place.

Runs where Chromium is installed (Debian's package `chromium`).
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tabwright.report.write import write_report
from tests.report.test_write import ATTACK, fit, table

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium"),
]
# What is measured, as JSON in the title; the page itself has no script, this is put in for a test.
MEASURE = """<script>
const box = (e) => {
  const r = e.getBoundingClientRect();
  return [r.left, r.top, r.width, r.height];
};
// Texts that a line break divides where neither a space nor a tag, such as <wbr>, stands.
const brokenWords = () => {
  document.querySelectorAll("details").forEach((e) => { e.open = true; });
  const found = [], range = document.createRange();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode;
    if (node.parentElement.closest("svg, script")) continue;
    for (const word of node.data.matchAll(/[^\\s…-]+/g)) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((r) => r.top)).size > 1) found.push(word[0]);
    }
  }
  return found;
};
const of = (s) => [...document.querySelectorAll(s)].map(box);
document.title = JSON.stringify({
  window: document.documentElement.clientWidth, page: document.documentElement.scrollWidth,
  height: document.documentElement.scrollHeight,
  sections: of("main > section"), charts: of("figure > svg"), tables: of(".scroll"),
  ink: getComputedStyle(document.body).color, back: getComputedStyle(document.body).backgroundColor,
  line: getComputedStyle(document.querySelector("figure svg path[style*=plot-]")).stroke,
  outside: [...document.querySelectorAll("figure svg")].flatMap((svg) => {
    const own = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter((t) => {
      const r = t.getBoundingClientRect();
      return r.left < own.left - 2 || r.right > own.right + 2 || r.top < own.top - 2 ||
        r.bottom > own.bottom + 2;
    }).map((t) => t.textContent);
  }),
  broken: brokenWords(),
});
</script>"""


def browse(page: Path, *words: str, width: int = 1100) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    return subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--enable-logging=stderr",
            # Whatever asks for a host learns that there is none.
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={page.parent / 'profile'}",
            f"--window-size={width},1000",
            *words,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def requested(page: Path) -> tuple[set[str], list[str]]:
    """Every host's address that the browser asks for while it shows a page, and its complaints."""
    log = page.with_suffix(".netlog.json")
    done = browse(page, f"--log-net-log={log}", "--dump-dom")
    assert "</html>" in done.stdout, "the page was shown"
    urls = set(re.findall(r'"(?:url|original_url)":"([^"]+)"', log.read_text(encoding="utf-8")))
    return urls, console(done)


DARK = "--blink-settings=preferredColorScheme=0"
# A window is at least 500 pixels wide; a frame in it may be narrower, and says what it measured.
FRAME = """<!DOCTYPE html><title></title>
<script>onmessage = (e) => { document.title = e.data; };</script>
<iframe src="probe.html" style="width: {width}px; height: 900px; border: 0"></iframe>"""
TELL = "<script>parent.postMessage(document.title, '*')</script>"


def measured(page: Path, *words: str, width: int = 1100) -> dict[str, object]:
    html = page.read_text(encoding="utf-8")
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    probe = page.with_name("probe.html")
    probe.write_text(html.replace("</body>", f"{MEASURE}{TELL}</body>"), encoding="utf-8")
    if width < 500:
        probe = page.with_name("frame.html")
        probe.write_text(FRAME.replace("{width}", str(width)), encoding="utf-8")
    done = browse(probe, *words, "--dump-dom", width=width)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title
    found: dict[str, object] = json.loads(
        title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    )
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Reports on two classes, on values, and on twelve classes with hostile names."""

    @functools.cache
    def written(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("report")
        frame = table(200, n_classes=12 if kind == "hostile" else 2)
        if kind == "hostile":
            frame = frame.with_columns(
                pl.col("label") + ATTACK, pl.col("kind").replace({"red": ATTACK}).alias("kind")
            ).rename({"size": ATTACK})
        target = "price" if kind == "values" else "label"
        model, linear = fit(frame, target), fit(frame, target, "linear_glm_baseline")
        held_out = frame.drop("label" if target == "price" else "price")
        path = folder / "report.html"
        write_report(model, held_out, target, path, linear=linear, table_name="a table.csv")
        return path

    return written


KINDS = pytest.mark.parametrize("kind", ["classes", "values", "hostile"])


@KINDS
def test_the_page_asks_for_nothing_and_complains_of_nothing(
    kind: str, pages: Callable[[str], Path]
) -> None:
    urls, complaints = requested(pages(kind))
    # The browser itself may try its maker's servers.
    own = re.compile(r"https?://([\w.-]+\.)?(google|googleapis|gvt1|gstatic|chromium)\.(com|org)/")
    assert [u for u in urls if u.startswith("http") and not own.match(u)] == []
    assert complaints == []


def test_a_page_that_asks_for_something_would_be_caught(tmp_path: Path) -> None:
    leaky = tmp_path / "leaky.html"
    leaky.write_text(
        "<!DOCTYPE html><title>x</title><img src='http://leak.invalid/a.png'>"
        "<script>console.error('no')</script>"
    )
    urls, complaints = requested(leaky)
    assert "http://leak.invalid/a.png" in urls
    assert complaints


@KINDS
@pytest.mark.parametrize("width", [1280, 500, 400])
def test_everything_has_its_place(kind: str, width: int, pages: Callable[[str], Path]) -> None:
    found = measured(pages(kind), width=width)
    assert found["page"] == found["window"], "the page must not scroll sideways"
    assert 0 <= width - float(str(found["window"])) <= 20, "a scroll bar at most"
    assert 2_000 < float(str(found["height"])) < 30_000
    sections, charts = found["sections"], found["charts"]
    assert isinstance(sections, list)
    assert isinstance(charts, list)
    assert len(sections) >= 8
    assert all(w > 0.8 * min(width, 960) - 40 and h > 80 for _, _, w, h in sections)
    # On a narrow screen a chart scrolls in its figure rather than shrink past reading.
    outliers = [(w, h) for _, _, w, h in charts if not (270 < w < 1_000 and 80 < h < 1_200)]
    assert outliers == []
    assert found["outside"] == [], "text must stay inside its chart"


LONG_NAMES = {
    "size": "process_temperature_in_kelvin_at_sensor_number_two",
    "kind": "AverageMonthlyRevenuePerCustomerAccount",
    "constant": "total-amount-of-recurring-charges-per-2-years",
}


@pytest.mark.parametrize("width", [1280, 400])
def test_names_break_between_their_words_alone(width: int, tmp_path: Path) -> None:
    frame = table(200).rename(LONG_NAMES).with_columns("probability_of_" + pl.col("label"))
    path = tmp_path / "report.html"
    note = f"{LONG_NAMES['size']!r} is given in degrees"
    model = fit(frame, "label")
    write_report(model, frame.drop("price"), "label", path, table_name="a_b.csv", notes=[note])
    assert measured(path, width=width)["broken"] == []


def test_a_word_longer_than_its_line_is_found_broken(tmp_path: Path) -> None:
    frame = table(200).rename({"size": "s" * 48})
    path = tmp_path / "report.html"
    write_report(fit(frame, "label"), frame.drop("price"), "label", path)
    assert "s" * 48 in str(measured(path, width=400)["broken"])


@pytest.mark.parametrize("width", [1280, 400])
def test_dark_and_light_differ_and_can_be_read(width: int, pages: Callable[[str], Path]) -> None:
    light = measured(pages("classes"), width=width)
    dark = measured(pages("classes"), DARK, width=width)
    for theme in (light, dark):
        assert contrast(str(theme["ink"]), str(theme["back"])) > 7
        assert theme["page"] == theme["window"], "the page must not scroll sideways"
        assert theme["outside"] == [], "text must stay inside its chart"
    assert _luminance(str(light["back"])) > 0.8 > 0.1 > _luminance(str(dark["back"]))
    assert light["line"] != dark["line"]


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as CSS computes them, from 1 to 21 (WCAG 2.2, section 1.4.3)."""
    darker, lighter = sorted(map(_luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_prints(pages: Callable[[str], Path]) -> None:
    page = pages("classes")
    pdf = page.with_suffix(".pdf")
    browse(page, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    data = pdf.read_bytes()
    assert data.startswith(b"%PDF")
    n_pages = len(re.findall(rb"/Type\s*/Page\b", data))
    assert 3 <= n_pages <= 15
