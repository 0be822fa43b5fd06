"""What a reader of a report may count on: numbers, their order, and what stays at home."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright.calibration.decisions import DecisionRule
from tabwright.cli.app import app
from tabwright.inference.predictor import Predictor
from tabwright.report.page import long_table
from tests.report.test_write import fit, report, table


def _value(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def _estimates(html: str) -> list[tuple[str, float, float, float]]:
    """Each estimate of a page that has an interval: where, its value, both ends."""
    found = re.findall(
        r'data-label="([^"]+)">(?:<span[^>]*>)?([−\d][^<]*)(?:</span>)?'
        r"<small>([−\d][^<]*) to ([−\d][^<]*)</small>",
        html,
    )
    return [(where, *map(_value, numbers)) for where, *numbers in found]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("target", "n_classes", "n_rows"),
    [("label", 2, 40), ("label", 2, 400), ("label", 4, 60), ("price", 2, 40)],
)
def test_no_estimate_lies_outside_its_own_interval(
    target: str, n_classes: int, n_rows: int, seed: int, tmp_path: Path
) -> None:
    frame = table(n_classes=n_classes)
    model, linear = (fit(frame, target, mode) for mode in ("mlp_dense", "linear_glm_baseline"))
    if target == "label" and n_classes == 2 and seed % 2:
        model = replace(model, decision=DecisionRule("threshold", 0.2, 1))
    rows = table(n_rows, n_classes, seed + 1).drop("label" if target == "price" else "price")
    # Labels that are noise put calibration errors far from what resamples of them give.
    if seed % 2:
        rows = rows.with_columns(rows[target].shuffle(seed))
    found = _estimates(report(model, rows, target, tmp_path, linear=linear, max_seconds=0.0))
    of_scores = [one for one in found if one[0] in ("Model", "Linear baseline")]
    assert len(of_scores) >= (6 if target == "price" else 16)
    assert len(found) > len(of_scores), "subgroups have intervals too"
    assert [one for one in found if not one[2] <= one[1] <= one[3]] == []


def test_what_people_ask_first_comes_first_and_layers_come_last(tmp_path: Path) -> None:
    frame, held_out = table(), table(seed=1)
    for target, first in (
        ("label", ["ROC AUC", "Precision", "Recall", "F1"]),
        ("price", ["RMSE", "MAE", "R²"]),
    ):
        rows = held_out.drop("label" if target == "price" else "price")
        html = report(fit(frame, target), rows, target, tmp_path)
        tiles = re.search(r'<ul class="tiles">.*?</ul>', html, re.DOTALL)
        assert tiles
        assert re.findall(r'class="of">([^<]+)<', tiles[0])[: len(first)] == first
        body = html.split(">Scores</h2>")[1].split("</table>")[0]
        rows_of_scores = re.findall(r'<th scope="row"[^>]*>([^<]+)<', body)
        assert rows_of_scores[: len(first)] == first
        keys = re.findall(r'<section[^>]* id="([^"]+)"', html)
        assert keys[:2] == ["summary", "scores"]
        assert keys[-1] == "model"
        # The shapes of layers are the last thing said, folded.
        assert html.rindex("<details>") < html.rindex("Layers") < html.rindex("</section>")
        assert html.index(">Scores</h2>") < html.index("The hardest rows</h2>")


def test_where_the_table_lies_does_not_leak_into_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "secret of the firm"
    folder.mkdir()
    path, html = folder / "table.csv", folder / "report.html"
    frame = table().drop("price")
    # Notes that name the file: another encoding, and cells that are no numbers.
    text = frame.with_columns(kind=pl.col("kind").replace({"red": "rouge é"})).write_csv()
    path.write_bytes(text.encode("cp1252"))
    words = ["train", str(path), "-t", "label", "--epochs", "1", "--quality", "fast"]
    words += ["--width", "8", "-o", str(folder / "m.safetensors"), "--report", str(html)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    page = html.read_text(encoding="utf-8").replace("<wbr>", "")
    assert "table.csv" in page
    assert folder.name not in page
    assert str(tmp_path) not in page


def test_that_files_are_replaced_is_no_decision_about_the_model(tmp_path: Path) -> None:
    path, html = tmp_path / "table.csv", tmp_path / "report.html"
    table(60).drop("price").write_csv(path)
    words = ["train", str(path), "-t", "label", "--mode", "linear_glm_baseline", "--epochs", "1"]
    words += ["-o", str(tmp_path / "m.safetensors"), "--report", str(html)]
    CliRunner().invoke(app, words)
    done = CliRunner().invoke(app, [*words, "--overwrite"])
    assert f"replacing {tmp_path / 'm.safetensors'}, as asked" in done.output.replace("\n", "")
    page = html.read_text(encoding="utf-8")
    assert "What was decided on the way" in page
    assert "replacing" not in page


def test_a_score_that_every_resample_gives_alike_has_no_interval(tmp_path: Path) -> None:
    frame, held_out = table(), table(60, seed=1).drop("price")
    model = fit(frame, "label")
    output = Predictor(model).predict_proba(held_out.drop("label"))
    assert model.classes is not None
    right = held_out.with_columns(label=pl.Series(model.classes[output.argmax(axis=1)]))
    html = report(model, right, "label", tmp_path)
    scores = html.split(">Scores</h2>")[1].split("</section>")[0]
    assert "A score that is the same in every resample has no interval." in scores
    assert ">1 to 1<" not in scores
    assert "95\u00a0%: 1\u00a0to\u00a01<" not in html
    # Those that differ have one.
    assert ("Model", 1.0, 1.0, 1.0) not in _estimates(html)
    assert any(where == "Model" for where, *_ in _estimates(html))


@pytest.mark.parametrize(("n_rows", "n_seen"), [(15, 15), (16, 12), (40, 12)])
def test_a_long_table_folds_all_but_its_first_rows(n_rows: int, n_seen: int) -> None:
    rows = [[f"column {i}", f"{i}"] for i in range(n_rows)]
    html = "".join(long_table("Columns", ["Column", "Inputs"], rows, what="columns", numeric=[1]))
    seen, _, folded = html.partition("<details>")
    assert seen.count('scope="row"') == n_seen
    assert folded.count('scope="row"') == n_rows - n_seen
    assert (f"<summary>The other {n_rows - n_seen} columns</summary>" in folded) == (n_rows > 15)
    assert html.count('<td class="num"') == n_rows


def test_cells_of_the_hardest_rows_stand_as_in_a_table(tmp_path: Path) -> None:
    days = pl.date_range(pl.date(2020, 1, 1), pl.date(2020, 6, 8), "1d", eager=True)
    frame = table().drop("price").with_columns(day=days, paid=pl.col("size") > 0)
    model = fit(frame, "label")
    html = report(model, frame, "label", tmp_path)
    hardest = html.split("The hardest rows</h2>")[1].split("</section>")[0]
    assert re.search(r'<td[^>]*><span class="whole">2020-\d\d-\d\d</span> ?</td>', hardest)
    assert re.search(r">(true|false)</td>", hardest)
    assert not re.search(r"<td[^>]*>(True|False)</td>", hardest)
