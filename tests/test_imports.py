"""What importing and running Tabwright loads, each time in a fresh interpreter."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.rooms import PACKAGE, ROOT, rooms

HEAVY = {
    "torch",
    "sklearn",
    "scipy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "lightgbm",
    "xgboost",
    "catboost",
    "onnx",
    "onnxruntime",
}
# What a small service needs to read a model file and predict with it, and what stands below.
LIGHT = {
    "serialization",
    "settings",
    "tables",
    "features",
    "splits",
    "metrics",
    "calibration",
    "fitted",
    "predictor",
}


@functools.cache
def loaded_by(code: str) -> frozenset[str]:
    """The names in `sys.modules` of a fresh interpreter that has run the code."""
    report = "import sys as _s, json as _j; _s.stdout.write('\\n' + _j.dumps(list(_s.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return frozenset(json.loads(done.stdout.splitlines()[-1]))


def command(*words: str) -> str:
    return (
        f"import sys\nfrom {PACKAGE}.cli import main\nsys.argv = {['tabwright', *words]!r}\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )


def test_package_loads_nothing_heavy() -> None:
    assert loaded_by(f"import {PACKAGE}") & (HEAVY | {"numpy", "polars"}) == set()


def test_models_loads_nothing_beyond_torch() -> None:
    ours = {"ai", "ai.ml", "ai.ml.frameworks", PACKAGE, f"{PACKAGE}.models"}
    beyond = loaded_by(f"import {PACKAGE}.models") - loaded_by("import torch")
    assert beyond == ours


def test_light_modules_are_marked_so_in_the_architecture() -> None:
    assert {room.name for room in rooms() if not room.loads_torch} >= LIGHT


@pytest.mark.parametrize("name", [room.name for room in rooms() if not room.loads_torch])
def test_module_that_promises_to_be_light_loads_nothing_heavy(name: str) -> None:
    assert loaded_by(f"import {PACKAGE}.{name}") & HEAVY == set()


def test_help_loads_nothing_heavy() -> None:
    assert loaded_by(command("--help")) & HEAVY == set()
    assert loaded_by(command("predict", "--help")) & HEAVY == set()


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model file, with the table it was fitted on beside it as rows.csv."""
    from ai.ml.frameworks.pytorch import TabularClassifier

    folder = tmp_path_factory.mktemp("model")
    generator = np.random.default_rng(0)
    size = generator.normal(size=80)
    table = pl.DataFrame({"size": size, "kind": generator.choice(["a", "b"], size=80)})
    table.write_csv(folder / "rows.csv")
    model = TabularClassifier(max_epochs=2, n_members=1, random_state=0)
    model.fit(table, np.where(size > 0, "big", "small"))
    model.save(folder / "model.safetensors")
    return folder / "model.safetensors"


def test_inspecting_a_model_loads_nothing_heavy(saved_model: Path) -> None:
    assert loaded_by(command("inspect", str(saved_model))) & HEAVY == set()


def test_predicting_with_a_model_loads_nothing_heavy(saved_model: Path) -> None:
    rows, output = saved_model.with_name("rows.csv"), saved_model.with_name("predictions.csv")
    loaded = loaded_by(command("predict", str(saved_model), str(rows), "--output", str(output)))
    assert pl.read_csv(output).height == 80
    assert loaded & HEAVY == set()
