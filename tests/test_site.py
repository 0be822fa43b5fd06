"""The documentation as a site: it builds without a warning, and is searched from disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packages import ROOT
from tests.report.test_in_browser import CHROMIUM, DARK, FRAME, TELL, browse, contrast

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")
def test_the_search_works_from_disk(site: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    words = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    words += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=30000"]
    words += ["--host-resolver-rules=MAP * ~NOTFOUND"]
    page = f"{(site / 'index.html').as_uri()}?q=isotonic"
    done = subprocess.run([*words, page], capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r"(\d+) matching documents?", done.stdout)
    assert found, "the search answers"
    assert int(found[1]) > 1
    links = re.findall(r'href="([^"]+)" class="md-search-result__link"', done.stdout)
    assert any("reference/command-line.html" in link for link in links)


def test_how_tos_are_grouped_and_pages_for_contributors_come_last(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    side = page.split('class="md-nav md-nav--primary', 1)[1].split('class="md-content"', 1)[0]
    places = [
        side.find(f'href="{name}.html"')
        for name in (
            *("howto/tables", "howto/callbacks", "howto/probabilities", "howto/recipes"),
            *("performance", "architecture", "reference/networks", "traceability"),
        )
    ]
    assert min(places) > 0
    assert places == sorted(places)


MEASURE = """<script>
// The theme chooses its colours after the page has come, and fades into them.
addEventListener("load", () => setTimeout(() => {
  const text = document.querySelector(".md-typeset p"), style = (e) => getComputedStyle(e);
  document.title = JSON.stringify({
    window: document.documentElement.clientWidth, page: document.documentElement.scrollWidth,
    ink: style(text).color, back: style(document.body).backgroundColor,
    pictures: [...document.images].map((i) => [i.naturalWidth, i.getBoundingClientRect().width]),
  });
  TELL
}, 2000));
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("words", [(), (DARK,)], ids=["light", "dark"])
def test_a_page_fits_narrow_and_wide_windows_light_and_dark(
    words: tuple[str, ...], width: int, site: Path, tmp_path: Path
) -> None:
    # The comparison has a chart, in light and dark, and wide tables.
    tell = TELL.removeprefix("<script>").removesuffix("</script>")
    script = MEASURE.replace("TELL", tell)
    html = (site / "comparison.html").read_text(encoding="utf-8")
    probe = site / "probe.html"
    probe.write_text(html.replace("</body>", f"{script}</body>"), encoding="utf-8")
    if width < 500:
        probe = site / "frame.html"
        probe.write_text(FRAME.replace("{width}", str(width)), encoding="utf-8")
    # A profile of its own: the site remembers the colours that a browser has shown.
    profile = f"--user-data-dir={tmp_path}"
    done = browse(probe, *words, profile, "--virtual-time-budget=10000", "--dump-dom", width=width)
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert title
    found = json.loads(title[1].replace("&amp;", "&"))
    assert found["page"] == found["window"], "the page must not scroll sideways"
    assert contrast(found["ink"], found["back"]) > 7
    is_dark = contrast(found["back"], "rgb(0, 0, 0)") < 3
    assert is_dark == bool(words)
    shown = [shown for natural, shown in found["pictures"] if natural]
    assert shown
    assert max(shown) <= width
