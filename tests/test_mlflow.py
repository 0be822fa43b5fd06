"""The MLflow flavour, by MLflow's own ways: its store, its loader, its server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from tabwright.errors import TableError
from tabwright.inference.fitted_model import load_fitted
from tests.golden.rows import read_golden
from tests.serving.servers import GOLDEN, ROOT
from tests.test_imports import loaded_by

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow
    import mlflow.pyfunc

import tabwright.mlflow as flavour

# MLflow's own code uses what pandas will change.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*An input example was not provided"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]
NAMES = ("binary-mlp", "mixed-calibrated", "mixed-regression")


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield
    mlflow.set_tracking_uri(None)


def rows(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of a golden model as a pandas frame, and its predictions."""
    own = read_golden(GOLDEN / f"{name}.safetensors")
    columns = {
        series.name: pd.Series(series.to_list(), dtype=_pandas_type(series)) for series in own.frame
    }
    return pd.DataFrame(columns), own.predictions


def _pandas_type(series: pl.Series) -> str | None:
    if series.dtype.is_integer():
        return "UInt64" if series.dtype == pl.UInt64 else "Int64"
    return None


def numbers(found: pd.DataFrame) -> np.ndarray:
    """Probabilities, or values, of a frame of predictions."""
    shares = [name for name in found.columns if name.startswith("probability_")]
    return np.asarray(found[shares] if shares else found["prediction"], dtype=float)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    allowed = 1e-6 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_predicts_the_same(name: str, tmp_path: Path) -> None:
    fitted = load_fitted(GOLDEN / f"{name}.safetensors")
    frame, expected = rows(name)
    flavour.save_model(fitted, tmp_path / "saved", input_example=frame.head(3))
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "saved"))
    close(numbers(loaded.predict(frame)), expected)
    close(numbers(loaded.predict(frame.head(1))), expected[:1])
    inputs = loaded.metadata.get_input_schema().input_names()
    used = [n for n, k in zip(*_plan(fitted), strict=True) if k != "unused"]
    assert inputs == used
    found = loaded.predict(frame)
    assert loaded.metadata.get_output_schema().input_names() == list(found.columns)


def _plan(fitted: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    plan = fitted.encoder.plan_
    return plan.names, plan.kinds


def test_inside_is_our_file_and_no_pickle(tmp_path: Path) -> None:
    fitted = load_fitted(GOLDEN / "binary-mlp.safetensors")
    flavour.save_model(fitted, tmp_path / "saved")
    held = {p.relative_to(tmp_path / "saved").as_posix() for p in tmp_path.rglob("saved/**/*.*")}
    texts = {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"}
    assert held | {"MLmodel"} == texts | {"data/model.safetensors"}
    again = tmp_path / "again.safetensors"
    fitted.save(again)
    assert (tmp_path / "saved" / "data" / "model.safetensors").read_bytes() == again.read_bytes()
    needed = (tmp_path / "saved" / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in needed} >= {
        "tabwright",
        "numpy",
        "polars",
        "pandas",
    }


def test_intervals_hold_the_share_that_is_asked_for(tmp_path: Path) -> None:
    fitted = load_fitted(GOLDEN / "mixed-regression.safetensors")
    flavour.save_model(fitted, tmp_path / "saved")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "saved"))
    frame, _ = rows("mixed-regression")
    wide, narrow = loaded.predict(frame), loaded.predict(frame, params={"coverage": 0.5})
    assert (narrow["high"] - narrow["low"] < wide["high"] - wide["low"]).all()


def test_a_logged_estimator_is_registered_and_loaded_by_name() -> None:
    from tabwright import TabularClassifier

    generator = np.random.default_rng(0)
    size = generator.normal(size=80)
    table = pd.DataFrame({"size": size, "kind": generator.choice(["a", "b"], size=80)})
    model = TabularClassifier(max_epochs=2, n_members=1, random_state=0)
    model.fit(table, np.where(size > 0, "big", "small"))
    with mlflow.start_run():
        info = flavour.log_model(
            model, "own", registered_model_name="sizes", input_example=table.head(2)
        )
    assert info.flavors["tabwright"]["data"] == "data/model.safetensors"
    for address in (info.model_uri, "models:/sizes/1"):
        loaded = mlflow.pyfunc.load_model(address)
        close(numbers(loaded.predict(table)), model.predict_proba(table))


def test_what_is_no_model_or_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(TypeError, match="must be a fitted TabularClassifier"):
        flavour.save_model("model.safetensors", tmp_path / "saved")
    fitted = load_fitted(GOLDEN / "binary-mlp.safetensors")
    with pytest.raises(TableError, match="'b', 'c' are missing"):
        flavour.save_model(fitted, tmp_path / "saved", input_example=pd.DataFrame({"a": [1.0]}))
    assert not (tmp_path / "saved").exists()


def test_importing_the_flavour_loads_no_mlflow() -> None:
    assert "mlflow" not in loaded_by("import tabwright.mlflow")


def test_without_the_extra_one_sentence_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['mlflow'] = None\nimport tabwright.mlflow as m\n"
        "try:\n    m.save_model(None, 'x')\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("tabwright.mlflow needs mlflow, which is not installed; run: pip")


@pytest.mark.slow
def test_mlflow_serves_it(tmp_path: Path) -> None:
    name = "mixed-calibrated"
    frame, expected = rows(name)
    fitted = load_fitted(GOLDEN / f"{name}.safetensors")
    flavour.save_model(fitted, tmp_path / "saved")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "models", "serve"),
                *("-m", str(tmp_path / "saved"), "--env-manager", "local"),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            # MLflow looks for uvicorn on the path.
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            },
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/ping", process, log)
        columns = [n for n, k in zip(*_plan(fitted), strict=True) if k != "unused"]
        text = frame[columns].to_json(
            orient="split", date_format="iso", date_unit="us", double_precision=15
        )
        body = json.dumps({"dataframe_split": json.loads(text)}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            found = json.loads(response.read())["predictions"]
        # MLflow reads whole numbers past 2**53 as doubles where their column has missing cells.
        np.testing.assert_allclose(numbers(pd.DataFrame(found)), expected, rtol=0, atol=1e-4)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
        else:
            return
