"""The report: one file that says what happened, safe with whatever a table holds."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright import TableError, TabularClassifier
from tabwright.calibration.decisions import DecisionRule
from tabwright.cli.app import app
from tabwright.fitting.arguments import Columns
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.report.column_treatment import column_treatments
from tabwright.report.probability_sections import implied_threshold
from tabwright.report.write import write_report
from tabwright.settings import TRAINING_MODES, FitSettings, modes_for
from tabwright.tables.labelled import LabelledRows

N_ROWS = 160
ATTACK = "\"><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>"


class Page(HTMLParser):
    """What a test asks of a page."""

    VOID = frozenset({"meta", "br", "hr", "col", "wbr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self.text = ""
        self.balanced = True
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.balanced = self.balanced and bool(self.open) and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [own for name, own in self.tags if name == tag]


def table(n_rows: int = N_ROWS, n_classes: int = 2, seed: int = 0) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    size = generator.normal(size=n_rows)
    kind = generator.choice(["red", "green", "blue"], size=n_rows)
    codes = np.argsort(np.argsort(size + 0.2 * generator.normal(size=n_rows)))
    return pl.DataFrame(
        {
            "size": [None if i % 23 == 0 else float(v) for i, v in enumerate(size)],
            "kind": kind,
            "constant": [1] * n_rows,
            "label": [f"c{code * n_classes // n_rows:03d}" for code in codes],
            "price": 1000 + 100 * size + 50 * (kind == "red"),
        }
    )


def fit(
    frame: pl.DataFrame, target: str, mode: str = "mlp_dense", numeric_encoding: str = "auto"
) -> FittedModel:
    settings = FitSettings(
        task="regression" if target == "price" else "classification",
        training_mode=mode,  # type: ignore[arg-type]
        hidden_dim=8,
        num_hidden_layers=1,
        n_members=1,
        max_epochs=3,
        numeric_encoding=numeric_encoding,  # type: ignore[arg-type]
    )
    features = frame.drop("label", "price", strict=False)
    if target == "price":
        rows = LabelledRows(features, frame["price"].to_numpy())
        return fit_table(rows, settings, columns=Columns(target_name=target))
    classes, codes = np.unique(frame[target].to_numpy().astype(str), return_inverse=True)
    rows = LabelledRows(features, codes.astype(np.int64))
    return fit_table(rows, settings, classes=classes, columns=Columns(target_name=target))


def report(
    model: FittedModel, frame: pl.DataFrame, target: str, folder: Path, **more: object
) -> str:
    path = folder / "report.html"
    write_report(model, frame, target, path, **more)  # type: ignore[arg-type]
    return path.read_text(encoding="utf-8")


def check(html: str) -> Page:
    """What must hold for every page."""
    page = Page(html)
    assert page.balanced
    assert page.open == []
    assert html.startswith("<!DOCTYPE html>")
    assert page.named("html") == [{"lang": "en"}]
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert page.named("script") == page.named("link") == page.named("img") == []
    for tag, own in page.tags:
        assert not any(name.startswith("on") for name in own), tag
        for name in ("src", "href", "action", "data", "srcset", "formaction"):
            value = own.get(name)
            assert value is None or value.startswith("#"), (tag, value)
    ids = [own["id"] for _, own in page.tags if "id" in own]
    assert len(set(ids)) == len(ids)
    links = {own["href"] for own in page.named("a")}
    assert links <= {f"#{name}" for name in ids}
    for landmark in ("header", "nav", "main", "footer", "title"):
        assert len(page.named(landmark)) == 1, landmark
    assert page.headings[:2] == [1, 2]
    assert page.headings.count(1) == 1
    steps = zip(page.headings, page.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)
    charts = page.named("svg")
    assert len(charts) == len(page.named("figure")) == len(page.named("figcaption")) > 1
    assert all(own["role"] == "img" and own["aria-label"] for own in charts)
    assert all(own.get("scope") in ("col", "row") for own in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table")) > 2
    return page


@pytest.mark.parametrize("mode", TRAINING_MODES)
@pytest.mark.parametrize("target", ["label", "price"])
def test_every_mode_gets_a_page(mode: str, target: str, tmp_path: Path) -> None:
    frame = table()
    if mode not in modes_for("regression" if target == "price" else "classification"):
        return
    model = fit(frame, target, mode)
    page = check(report(model, table(seed=1), target, tmp_path, max_seconds=0.0))
    for part in (mode, "In short", "The hardest rows", "The model", "constant", "set aside"):
        assert part in page.text
    keys = {own["id"] for own in page.named("section")}
    assert {"scores", "importance", "table", "training"} <= keys
    assert keys & {"probabilities", "decisions", "values"} == (
        {"values"} if target == "price" else {"probabilities", "decisions"}
    )


def test_the_scores_are_those_of_the_rows_given(tmp_path: Path) -> None:
    from tabwright.inference.scoring import score_rows
    from tabwright.report.markup import number
    from tabwright.tables import labels_to_codes

    frame, held_out = table(), table(seed=1)
    for target in ("label", "price"):
        model, linear = fit(frame, target), fit(frame, target, "linear_glm_baseline")
        rows = held_out.drop("label" if target == "price" else "price")
        page = check(report(model, rows, target, tmp_path, linear=linear))
        for own in (model, linear):
            classes = own.classes
            known = rows[target].to_numpy()
            codes = known if classes is None else labels_to_codes(rows[target], classes)
            for value in score_rows(Predictor(own), rows, codes)["test"].values():
                assert number(value) in page.text
        assert "Linear baseline" in page.text
        assert "95\u00a0% bootstrap" in page.text
        assert re.search(
            "Significantly (better|worse) than the linear|Not significantly different", page.text
        )


def test_the_same_call_writes_the_same_bytes(tmp_path: Path) -> None:
    frame = table()
    model = fit(frame, "label")
    assert report(model, frame, "label", tmp_path) == report(model, frame, "label", tmp_path)


def test_weights_count(tmp_path: Path) -> None:
    frame = table()
    model = fit(frame, "label")
    weight = np.ones(N_ROWS)
    weight[:40] = 0.0
    weighted = check(report(model, frame, "label", tmp_path, sample_weight=weight))
    assert "Sample weights count" in weighted.text
    rest = check(report(model, frame[40:], "label", tmp_path))
    one, two = (re.search(r"Log-loss([\d.]+)95", page.text) for page in (weighted, rest))
    assert one
    assert two
    assert one[1] == two[1]
    shown = weighted.text.split("The hardest rows")[-1].split("The table and its columns")[0]
    assert not re.search(r"\b(?:[1-9]|[123]\d|40)c00", shown)


def test_the_rule_of_the_model_decides(tmp_path: Path) -> None:
    frame = table()
    rule = DecisionRule("threshold", threshold=0.2)
    model = replace(fit(frame, "label"), decision=rule)
    text = check(report(model, frame, "label", tmp_path)).text
    assert "c001 where its probability is at least 0.2" in text
    assert "threshold 0.2" in text


def _scores(text: str, name: str) -> list[float]:
    """The values of a score in the order of the columns, without intervals."""
    section = text.split(">Scores</h2>")[1]
    row = re.search(rf">{name}<small>.*?</tr>", section, re.DOTALL)
    assert row
    cells = re.findall(r"<td[^>]*>([^<]*)", row[0])
    return [float(cell.replace("−", "-").replace(",", "")) for cell in cells]


def test_the_baseline_is_decided_by_the_threshold_of_the_model(tmp_path: Path) -> None:
    frame, held_out = table(), table(seed=1).drop("price")
    threshold = 0.35
    model = replace(fit(frame, "label"), decision=DecisionRule("threshold", threshold, 1))
    linear = fit(frame, "label", "linear_glm_baseline")
    text = report(model, held_out, "label", tmp_path, linear=linear)
    truth = held_out["label"].to_numpy() == "c001"
    shown = _scores(text, "Recall")
    for own, value in zip((model, linear), shown, strict=False):
        said = Predictor(own).predict_proba(held_out)[:, 1] >= threshold
        assert value == pytest.approx((said & truth).sum() / truth.sum(), abs=1e-4)
    # By the most probable class it would be another number.
    plain = Predictor(linear).predict_proba(held_out)[:, 1] >= 0.5
    assert shown[1] != pytest.approx((plain & truth).sum() / truth.sum(), abs=1e-4)
    assert "All labels are decided by one rule" in text


def test_a_column_of_one_bin_or_of_rare_levels_is_told_in_good_english() -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "pool": [float(i) if i in (7, 8) else 0.0 for i in range(300)],
            "rare": pl.Series([f"r{i}" if i < 5 else None for i in range(300)]),
            "price": rng.normal(size=300),
        }
    )
    pool, rare = column_treatments(fit(frame, "price", numeric_encoding="tree_ple").encoder.plan_)
    assert pool.text.startswith("1 piecewise-linear bin between")
    assert rare.text == "one input for rare and unknown levels; one input for missing"


def test_errors_have_one_sign_everywhere(tmp_path: Path) -> None:
    from tabwright.report.plots import plot_predicted_true

    frame = table()
    model = fit(frame, "price")
    # All true values are far below: every prediction is too high, every error above zero.
    low = table(seed=1).with_columns(pl.col("price") - 10_000)
    text = report(model, low.drop("label"), "price", tmp_path)
    hardest = text.split(">The hardest rows</h2>")[1].split("</section>")[0]
    errors = re.findall(r'data-label="Error \(predicted less true\)">([^<]+)<', hardest)
    assert len(errors) == 10
    assert all(error.startswith("+") for error in errors)
    groups = text.split(">Scores by subgroup</h2>")[1].split("</section>")[0]
    means = re.findall(r'data-label="Mean error \(predicted less true\)">([^<]+)<', groups)
    assert means
    assert all(float(mean.replace(",", "")) > 9_000 for mean in means)
    true = np.linspace(0.0, 1.0, 50)
    lower = plot_predicted_true(true, true + 5.0).axes[1]
    assert lower.get_ylabel() == "Error (predicted less true)"
    median = next(line for line in lower.get_lines() if line.get_label() == "median")
    np.testing.assert_allclose(np.asarray(median.get_ydata()), 5.0)


def test_the_rows_add_up_to_those_of_the_table(tmp_path: Path) -> None:
    # From 800 validation rows on a regression keeps some for its intervals: they count too.
    table(4_500).drop("label").write_csv(tmp_path / "t.csv")
    words = ["train", str(tmp_path / "t.csv"), "-t", "price", "--validation-fraction", "0.3"]
    words += ["--epochs", "1", "--quality", "fast", "--width", "8", "--report"]
    words += [str(tmp_path / "r.html"), "-o", str(tmp_path / "m.safetensors")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    facts = dict(re.findall(r"<dt>([^<]+)</dt><dd>([\d,]*\d)", text))
    parts = ("Training rows", "Validation rows", "Rows for the prediction intervals")
    counts = [int(facts[name].replace(",", "")) for name in (*parts, "Rows of this report")]
    assert all(counts)
    assert sum(counts) == 4_500
    assert facts["All rows together"] == "4,500"
    held_out = re.search(r"held out ([\d,]+) rows", done.output)
    assert held_out
    assert held_out[1] == facts["Rows of this report"]


def test_what_is_for_machines_stays_out_of_the_card(tmp_path: Path) -> None:
    frame = table()
    model = fit(frame, "label")
    assert model.card["row_sketch"]["hashes"] not in report(model, frame, "label", tmp_path)


def test_a_chart_wider_than_a_phone_says_so(tmp_path: Path) -> None:
    def figures(n_classes: int) -> list[str]:
        frame = table(200, n_classes=n_classes)
        text = report(fit(frame, "label"), frame, "label", tmp_path)
        return re.findall(r"<figure( class=\"wide\")?>", text)

    assert any(figures(15))
    assert not any(figures(2))


def test_costs_imply_a_threshold() -> None:
    costs = np.array([[0.0, 1.0], [9.0, 0.0]])
    threshold, positive = implied_threshold(DecisionRule("costs", costs=costs))
    assert threshold == pytest.approx(0.1)
    assert positive == 1
    below, above = np.array([[0.901, 0.099], [0.899, 0.101]])
    assert list(DecisionRule("costs", costs=costs).apply(np.array([below, above]))) == [0, 1]
    assert implied_threshold(DecisionRule("costs", costs=-costs)) == (None, 1)
    assert implied_threshold(DecisionRule()) == (0.5, 1)
    threshold, positive = implied_threshold(DecisionRule("costs", positive=0, costs=costs))
    assert threshold == pytest.approx(0.9)
    assert positive == 0
    assert implied_threshold(DecisionRule(positive=0)) == (0.5, 0)


def test_nothing_of_a_table_becomes_markup(tmp_path: Path) -> None:
    frame = table()
    hostile = frame.with_columns(
        pl.col("kind").replace({"red": ATTACK}).alias(ATTACK),
        (pl.col("label") + ATTACK).alias("label"),
    ).drop("kind")
    hostile = hostile.rename(
        {"size": "</style></svg><script>1</script>", "constant": "\x00\x1b<b>"}
    )
    model = fit(hostile, "label")
    model = replace(
        model, card={**model.card, "target": ATTACK, ATTACK: ATTACK, "calibration": ATTACK}
    )
    path = tmp_path / "report.html"
    write_report(
        model,
        hostile.drop("label"),
        hostile["label"],
        path,
        table_name=ATTACK,
        notes=[ATTACK],
        left_out={ATTACK: ATTACK},
    )
    html = path.read_text(encoding="utf-8")
    page = check(html)
    assert html.count("<script") == 0
    assert "<img" not in html
    assert "alert('x')" in page.text
    # Every tag is one that a harmless table gives, too.
    harmless = {tag for tag, _ in check(report(fit(frame, "label"), frame, "label", tmp_path)).tags}
    assert {tag for tag, _ in page.tags} <= harmless | {"ul", "li", "span"}


@pytest.mark.slow
def test_a_hundred_classes_stay_readable(tmp_path: Path) -> None:
    frame = table(300, n_classes=100)
    names = {f"c{i:03d}": f"class {i} " + "with a very long name " * 20 for i in range(100)}
    frame = frame.with_columns(pl.col("label").replace(names))
    html = report(fit(frame, "label"), frame, "label", tmp_path, max_seconds=0.5)
    text = check(html).text
    assert len(html) < 400_000
    assert "the 30 of lowest recall, of 100" in text
    assert "The most frequent mistakes" in text


@pytest.mark.slow
def test_ten_thousand_columns_stay_small(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    cells = generator.normal(size=(60, 10_000))
    names = [f"a column with quite a long name, number {i}" for i in range(10_000)]
    frame = pl.DataFrame(cells, schema=names, orient="row")
    frame = frame.with_columns(pl.lit(1.0).alias(names[0]), pl.Series("price", cells[:, 1]))
    model = fit(frame, "price", numeric_encoding="standard")
    html = report(model, frame, "price", tmp_path, max_seconds=1.0)
    text = check(html).text
    assert len(html) < 400_000
    assert "the first 100 of 9,999" in text
    assert "of 9,999 columns were measured" in text


def test_estimators_arrays_and_labels_are_taken(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(90, 3))
    y = (X[:, 0] > 0).astype(int)
    model = TabularClassifier(n_members=1, max_epochs=2, hidden_dim=8, random_state=0).fit(X, y)
    write_report(model, X, y, tmp_path / "report.html", n_hardest=0)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "hardest" not in [own["id"] for own in check(html).named("section")]


def test_rows_without_a_positive_one_still_make_a_page(tmp_path: Path) -> None:
    frame = table()
    only = frame.filter(pl.col("label") == "c000")
    check(report(fit(frame, "label"), only, "label", tmp_path))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    frame = table()
    model = fit(frame, "label")
    path = tmp_path / "report.html"
    with pytest.raises(ValueError, match=r"must be a column of the frame.*'nope'"):
        write_report(model, frame, "nope", path)
    with pytest.raises(TableError, match="labels that the training rows have"):
        write_report(model, frame.with_columns(label=pl.lit("new")), "label", path)
    with pytest.raises(ValueError, match="the same number of rows; got 160 and 3"):
        write_report(model, frame, ["c000"] * 3, path)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(160,\)"):
        write_report(model, frame, "label", path, sample_weight=[1.0])
    with pytest.raises(ValueError, match="row_numbers must have one number per row, 160"):
        write_report(model, frame, "label", path, row_numbers=np.arange(3))
    with pytest.raises(TypeError, match="must be a fitted TabularClassifier"):
        write_report(TabularClassifier(), frame, "label", path)
    with pytest.raises(FileNotFoundError, match="create it first"):
        write_report(model, frame, "label", tmp_path / "no" / "report.html")
    with pytest.raises(IsADirectoryError, match="name a file in it"):
        write_report(model, frame, "label", tmp_path)
    assert not path.exists()


def test_train_writes_a_report_beside_the_model(tmp_path: Path) -> None:
    frame = table().with_row_index("line", offset=1)
    frame = pl.concat([frame[:5].with_columns(label=pl.lit(None, pl.String)), frame])
    path, html = tmp_path / "table.csv", tmp_path / "report.html"
    frame.write_csv(path)
    words = [
        "train",
        str(path),
        "-t",
        "label",
        "--drop",
        "price",
        "--epochs",
        "2",
        "--members",
        "1",
    ]
    words += ["--drop-null-target", "-o", str(tmp_path / "m.safetensors"), "--report", str(html)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "wrote the report" in done.output
    page = check(html.read_text(encoding="utf-8"))
    for part in ("Linear baseline", "left out on request", "held out 32 rows", "table.csv"):
        assert part in page.text
    # Row numbers are those of the file, the five rows without a target included.
    cells = page.text.split("The hardest rows")[-1]
    found = re.findall(r"(?:^|\D)(\d{1,3})c00[01]c00[01]0\.\d+", cells)
    assert found
    labels = frame["label"].to_list()
    assert all(labels[int(number) - 1] is not None for number in found)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--test-fraction", "0"), 2, "a report needs rows that had no part in training"),
        (("--report", "/no/such/folder/report.html"), 4, "create it first"),
        (("--report", "{table}"), 2, "the report must not replace the table"),
        (("--report", "{model}"), 2, "the report must not replace the model"),
    ],
)
def test_train_refuses_a_report_it_cannot_write(
    more: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "table.csv"
    table().write_csv(path)
    words = ["train", str(path), "-t", "label", "-o", str(tmp_path / "m.safetensors")]
    places = {"table": path, "model": tmp_path / "m.safetensors"}
    if "--report" not in more:
        words += ["--report", str(tmp_path / "report.html")]
    words += [word.format(**places) for word in more]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == code
    assert message in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "m.safetensors").exists()
