"""The documentation as a site: it builds without a warning, and is searched from disk."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packages import ROOT
from tests.report.test_in_browser import CHROMIUM

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
