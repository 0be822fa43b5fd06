"""What importing and running Tabwright loads, each time in a fresh interpreter."""

import functools
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.packages import CONTRACT, PACKAGE, ROOT, module_name, modules, parts
from tests.test_architecture import part_of

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
# What a small service needs to read a model file and predict with it stands in packages that load
# no torch; these modules of others keep to that too.
LIGHT = {
    "tabwright.training.callbacks",
    "tabwright.training.loggers",
    "tabwright.workflows.paired_differences",
    "tabwright.workflows.evaluate",
    "tabwright.workflows.predict",
    "tabwright.workflows.reading",
}


NOT_TO_PREDICT = frozenset(
    {"torch", "sklearn", "scipy", "joblib", "matplotlib", "typer", "rich", "pandas", "ai"}
)


def light_modules() -> list[str]:
    light = {part.name for part in parts() if not part.loads_torch}
    return [
        name for path in modules() if part_of(name := module_name(path)) in light or name in LIGHT
    ]


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
        f"import sys\nfrom {PACKAGE}.cli.app import main\nsys.argv = {['tabwright', *words]!r}\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )


def test_package_loads_nothing_heavy() -> None:
    assert loaded_by(f"import {PACKAGE}") & (HEAVY | {"numpy", "polars"}) == set()


def test_models_loads_nothing_beyond_torch() -> None:
    ours = {"ai", "ai.ml", "ai.ml.frameworks", CONTRACT, f"{CONTRACT}.models"}
    beyond = loaded_by(f"import {CONTRACT}.models") - loaded_by("import torch")
    assert beyond == ours


def test_the_older_path_hands_on_every_public_name() -> None:
    assert loaded_by(f"import {CONTRACT}") & (HEAVY | {"numpy", "polars", PACKAGE}) == set()
    older = import_module(CONTRACT)
    public = import_module(PACKAGE)
    for name in [*public.__all__, "__version__"]:
        assert getattr(older, name) is getattr(public, name)
    assert set(dir(older)) >= set(public.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'unheard_of'"):
        _ = older.unheard_of


def test_the_older_command_still_runs() -> None:
    words = [sys.executable, "-m", CONTRACT, "--version"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"tabwright {import_module(PACKAGE).__version__}\n"


def test_the_estimators_load_only_what_a_fit_needs() -> None:
    later = {"cli", "cluster", "distributed", "explanation", "export", "mlflow", "report"}
    later |= {"serving", "streaming", "tuning", "workflows", "fitting.streamed", "fitting.students"}
    loaded = loaded_by(f"from {PACKAGE} import TabularClassifier, TabularRegressor, load_model")
    assert {name for name in loaded if part_of(name) in later and name.startswith(PACKAGE)} == set()


@pytest.mark.parametrize("name", light_modules())
def test_module_that_promises_to_be_light_loads_nothing_heavy(name: str) -> None:
    assert loaded_by(f"import {name}") & HEAVY == set()


@pytest.mark.parametrize("words", [["--help"], ["predict", "--help"], ["explain", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    assert loaded_by(command(*words)) & (HEAVY | {"numpy", "polars"}) == set()


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model file, with the table it was fitted on beside it as rows.csv."""
    from tabwright import TabularClassifier

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


def test_predicting_needs_four_packages(saved_model: Path) -> None:
    # The package's other dependencies, and what these bring, are as good as not installed.
    code = f"""
import sys
import importlib.abc

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(NOT_TO_PREDICT)}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import polars as pl
from tabwright import Predictor, load_fitted

rows = pl.read_csv({str(saved_model.with_name("rows.csv"))!r})
proba = Predictor(load_fitted({str(saved_model)!r})).predict_proba(rows)
assert proba.shape == (80, 2)
"""
    loaded = loaded_by(code)
    assert "polars" in loaded
    assert loaded & NOT_TO_PREDICT == set()


def test_predicting_with_a_model_loads_nothing_heavy(saved_model: Path) -> None:
    rows, output = saved_model.with_name("rows.csv"), saved_model.with_name("predictions.csv")
    loaded = loaded_by(command("predict", str(saved_model), str(rows), "--output", str(output)))
    assert pl.read_csv(output).height == 80
    assert loaded & HEAVY == set()
