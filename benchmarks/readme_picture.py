"""The picture of the README: `python -m benchmarks.readme_picture` writes docs/report.png.

Trains on telco_churn as the README says, and takes the part of the report on probabilities as
headless Chromium shows it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl

from benchmarks.tables import ROOT, data_dirs

PICTURE = ROOT / "docs" / "report.png"
WIDTH, HEIGHT = 680, 720
ONLY_PROBABILITIES = """<style>
header, nav, footer, section:not(#probabilities) { display: none }
</style>"""


def main() -> None:
    """Train, open the report, take the picture."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("the picture needs Chromium: make browser")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = pl.read_parquet(data_dirs()[0] / "telco_churn.parquet")
        table.write_csv(folder / "telco_churn.csv")
        words = ["telco_churn.csv", "--target", "Churn", "--drop", "customerID"]
        words += ["--report", "report.html", "-o", "churn.safetensors"]
        subprocess.run([sys.executable, "-m", "tabwright", "train", *words], cwd=folder, check=True)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={PICTURE}"]
        report = folder / "report.html"
        page = report.read_text(encoding="utf-8").replace("</head>", f"{ONLY_PROBABILITIES}</head>")
        report.write_text(page, encoding="utf-8")
        subprocess.run([browser, *options, report.as_uri()], check=True, timeout=120)


if __name__ == "__main__":
    main()
