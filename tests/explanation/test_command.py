"""`tabwright explain` and `model.explain` say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright import TabularClassifier, TabularRegressor
from tabwright.cli.app import app


def test_a_row_and_all_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"size": rng.normal(size=80), "kind": rng.choice(["a", "b"], size=80)})
    y = np.where(frame["size"].to_numpy() > 0, "yes", "no")
    model = TabularClassifier(n_members=1, max_epochs=30, hidden_dim=8, random_state=0)
    model.fit(frame, y).save(tmp_path / "m.safetensors")
    frame.write_csv(tmp_path / "t.csv")
    words = ["explain", str(tmp_path / "m.safetensors"), str(tmp_path / "t.csv")]
    done = CliRunner().invoke(app, [*words, "--row", "3", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    own = model.explain(frame[2:3], frame)
    (parts,) = said["attributions"].values()
    values = {part["column"]: part["attribution"] for part in parts}
    assert values == pytest.approx(dict(zip(own.columns, own.attributions[0, :, 0], strict=True)))
    total = said["base"]["yes"] + sum(values.values())
    assert total == pytest.approx(said["output"]["yes"])
    assert total == pytest.approx(model.predict_proba(frame[2:3])[0, 1])
    shown = CliRunner().invoke(app, [*words, "--row", "3"])
    title, *lines = shown.stdout.splitlines()
    numbers = re.findall(r"[0-9.]+", title)
    assert title == f"row 3: the probability of yes is {numbers[1]}, on average {numbers[2]}"
    # As many places in every line.
    assert len({len(line.rpartition(".")[2]) for line in lines[1:]}) == 1
    done = CliRunner().invoke(app, [*words, "--rows", "20"])
    assert done.exit_code == 0, done.output
    assert done.output.index("size") < done.output.rindex("kind")
    numbers = [cell for line in done.stdout.splitlines()[2:] for cell in line.split()[1:]]
    assert len({len(cell.partition(".")[2]) for cell in numbers}) == 1
    done = CliRunner().invoke(app, [*words, "--row", "81"])
    assert done.exit_code == 2
    assert "--row must be at most 80" in " ".join(done.output.split())


def test_pictures_are_written_or_refused_before_work(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"size": rng.normal(size=60), "kind": rng.choice(["a", "b"], size=60)})
    y = np.array(["low", "mid", "high"])[np.digitize(frame["size"].to_numpy(), [-0.5, 0.5])]
    model = TabularClassifier(n_members=1, max_epochs=3, hidden_dim=8, random_state=0)
    model.fit(frame, y).save(tmp_path / "m.safetensors")
    frame.write_csv(tmp_path / "t.csv")
    words = ["explain", str(tmp_path / "m.safetensors"), str(tmp_path / "t.csv")]
    for name, more in (("all.png", ["--rows", "20"]), ("one.svg", ["--row", "2"])):
        path = tmp_path / name
        done = CliRunner().invoke(app, [*words, *more, "--picture", str(path)])
        assert done.exit_code == 0, done.output
        start = b"\x89PNG" if name == "all.png" else b"<?xml"
        assert path.read_bytes().startswith(start)
    (tmp_path / "m.safetensors").unlink()
    done = CliRunner().invoke(app, [*words, "--picture", str(tmp_path / "p.gif")])
    assert done.exit_code == 2
    assert "the picture must be .png, .svg or .pdf" in " ".join(done.output.split())


def test_log_odds_are_refused_for_a_regression(tmp_path: Path) -> None:
    frame = pl.DataFrame({"size": np.arange(40.0), "price": np.arange(40.0) * 2})
    model = TabularRegressor(quality="fast", n_members=1, max_epochs=2, random_state=0)
    model.fit(frame.drop("price"), frame["price"]).save(tmp_path / "m.safetensors")
    frame.write_csv(tmp_path / "t.csv")
    words = ["explain", str(tmp_path / "m.safetensors"), str(tmp_path / "t.csv")]
    done = CliRunner().invoke(app, [*words, "--log-odds"])
    assert done.exit_code == 2
    assert "--log-odds is for probabilities" in " ".join(done.output.split())
    done = CliRunner().invoke(app, [*words, "--row", "2"])
    assert done.stdout.startswith("row 2: the prediction is ")
