"""Models that earlier versions saved load, say what they said, and are saved as they were."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors
from typer.testing import CliRunner

from tabwright import load_model
from tabwright._version import __version__
from tabwright.artifact.format_versions import FORMATS
from tabwright.cli.app import app
from tabwright.inference.fitted_model import load_fitted
from tabwright.inference.predictor import Predictor
from tests.golden import make
from tests.golden.rows import FOLDER, golden_models, read_golden

MODELS = [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in golden_models()]


def said_by(predictor: Predictor, frame: pl.DataFrame) -> np.ndarray:
    if predictor.model.classes is None:
        return predictor.predict_values(frame)
    return predictor.predict_proba(frame)


def scale_of(predictor: Predictor) -> float:
    target = predictor.model.target
    return 1.0 if target is None else target.scale


@pytest.mark.parametrize("path", MODELS)
def test_says_what_it_said(path: Path) -> None:
    golden = read_golden(path)
    predictor = Predictor(load_fitted(path))
    allowed = 1e-6 * scale_of(predictor)
    found = said_by(predictor, golden.frame)
    assert len(found) == len(golden.frame) > 0
    np.testing.assert_allclose(found, golden.predictions, rtol=0, atol=allowed)
    rows = [predictor.predict_row(row) for row in golden.frame.iter_rows(named=True)]
    np.testing.assert_allclose(np.array(rows), golden.predictions, rtol=0, atol=allowed)
    # Rows that differ are told apart: a constant would also agree with itself.
    assert np.ptp(golden.predictions, axis=0).max() > 100 * allowed


@pytest.mark.parametrize("path", MODELS)
def test_estimators_give_the_labels(path: Path) -> None:
    golden = read_golden(path)
    estimator = load_model(path)
    found = estimator.predict(golden.frame)
    if golden.classes is None:
        np.testing.assert_allclose(found, golden.predictions, rtol=1e-5, atol=1e-5)
        return
    assert estimator.classes_.tolist() == golden.classes
    assert {type(label) for label in estimator.classes_.tolist()} == set(map(type, golden.classes))
    top = np.sort(golden.predictions, axis=1)
    clear = top[:, -1] - top[:, -2] > 1e-5
    assert clear.any()
    expected = np.array(golden.classes, dtype=object)[golden.predictions.argmax(axis=1)]
    assert found[clear].tolist() == expected[clear].tolist()


@pytest.mark.parametrize("path", MODELS)
def test_is_saved_as_it_was(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    load_fitted(path).save(again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", MODELS[:1])
def test_command_line_shows_it(path: Path) -> None:
    done = CliRunner().invoke(app, ["inspect", str(path)])
    assert done.exit_code == 0, done.output
    assert "tabwright 0.1.0" in " ".join(done.output.split())


def test_every_kind_of_model_is_kept() -> None:
    kept: dict[str, set[str]] = {path.parent.name: set() for path in golden_models()}
    for path in golden_models():
        kept[path.parent.name].add(path.stem)
        assert path.with_suffix(".json").exists()
        assert path.stat().st_size < 32_000
    assert set(FORMATS.values()) <= set(kept), "run python -m tests.golden.make"
    if __version__ in kept:
        assert kept[__version__] == set(make.cases())


def test_a_release_is_not_rewritten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in FOLDER.glob("*/*")}
    (folder,) = {path.parent.name for path in golden_models()[-1:]}
    monkeypatch.setattr(make, "__version__", folder)
    monkeypatch.setattr(sys, "argv", ["make"])
    assert make.main() == 2
    assert "a release is never rewritten" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in FOLDER.glob("*/*")}


CARD = """
    import importlib, json, sys
    from safetensors import safe_open

    for name in ("torch", "ai", "polars", "sklearn"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        raise SystemExit(f"{name} can be imported")
    with safe_open(sys.argv[1], "numpy") as file:
        envelope = json.loads(file.metadata()["tabwright"])
        assert sorted(file.keys())
    document = envelope["document"]
    print(envelope["format"], envelope["needs"])
    print(document["card"]["target"], document["settings"]["training_mode"])
    print([column["name"] for column in document["card"]["columns"]])
    print(document["metrics"]["validation"]["log_loss"] > 0)
    print(document["card"]["versions"]["tabwright"])
"""


def test_safetensors_alone_shows_the_card(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for module in (np, safetensors):
        folder = Path(str(module.__file__)).parent
        for own in (folder, folder.with_name(f"{folder.name}.libs")):
            if own.is_dir():
                (packages / own.name).symlink_to(own)
    code = f"import sys; sys.path.append({str(packages)!r})\n{textwrap.dedent(CARD)}"
    path = FOLDER / "0.1.0" / "binary-mlp.safetensors"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "1 0.1.0",
        "outcome mlp_dense",
        "['a', 'b', 'c']",
        "True",
        "0.1.0",
    ]
