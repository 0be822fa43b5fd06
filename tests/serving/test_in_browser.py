"""The page of a server in a real browser: a person types a row and sees the answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.serving.servers import CHROMIUM, GOLDEN, browsing, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium"),
]
# With a folder here, pictures are kept there, to be looked at.
PICTURES = os.environ.get("TABWRIGHT_PICTURES")
READY = "document.querySelectorAll('#fields input').length > 2"
ANSWER = "document.getElementById('answer').textContent"


def test_a_person_types_a_row_and_sees_the_answer(tmp_path: Path) -> None:
    pictures = Path(PICTURES) if PICTURES else tmp_path
    models = [
        str(GOLDEN / f"{name}.safetensors") for name in ("mixed-calibrated", "mixed-regression")
    ]
    with serving(*models) as server, browsing() as browser:
        browser.open(server.address, READY)
        browser.type("input[name=size]", "1.5")
        browser.type("input[name=kind]", "größe")
        browser.type("input[name=when]", "2001-02-03T04:05")
        browser.press_enter()
        browser.wait(f"{ANSWER}.includes('%')")
        row = dict.fromkeys(("count", "key", "large", "many", "open", "day"))
        row |= {"size": "1.5", "kind": "größe", "when": "2001-02-03T04:05"}
        (expected,) = server.predict("mixed-calibrated", {"rows": [row]}).json()["predictions"]
        assert (
            browser.evaluate("document.querySelector('#answer b').textContent")
            == (expected["label"])
        )
        shown = browser.evaluate(
            "[...document.querySelectorAll('#answer tr')].map(r => r.textContent)"
        )
        shares = expected["probabilities"]
        assert shown == [
            f"{label}{100 * shares[label]:.1f} %"
            for label in sorted(shares, key=lambda k: -shares[k])
        ]
        browser.picture(pictures / "classes.png")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 1000

        browser.evaluate(
            "(() => { const s = document.getElementById('model'); s.selectedIndex = 1;"
            "s.dispatchEvent(new Event('change')); })()"
        )
        browser.type("input[name=size]", "2")
        browser.click("button")
        browser.wait(f"{ANSWER}.includes('90 %')")
        browser.picture(pictures / "values.png", width=420)
        assert browser.evaluate("document.documentElement.scrollWidth") <= 420

        browser.type("input[name=count]", "many")
        browser.click("button")
        browser.wait("document.getElementById('answer').className.includes('wrong')")
        assert "column 'count' must hold numbers" in browser.evaluate(ANSWER)
        browser.picture(pictures / "wrong.png")

        assert [text for text in browser.complaints if "400" not in text] == []
        browser.open(f"{server.address}/docs", "document.querySelectorAll('details').length > 3")
        browser.evaluate("document.querySelectorAll('details')[1].open = true")
        browser.picture(pictures / "docs.png")
