"""The wheel: what it holds, and that it works where the source is not."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.packages import CONTRACT, PACKAGE, ROOT

pytestmark = pytest.mark.slow

PREFIXES = (f"{PACKAGE}/", CONTRACT.replace(".", "/") + "/")
SOURCE = (".py", ".pyi", ".typed")
NOT_SOURCE = shutil.ignore_patterns(
    ".*_cache",
    "*.egg-info",
    "*.so",
    ".git",
    ".venv*",
    ".hypothesis",
    "__pycache__",
    "build",
    "dist",
    "demo-output",
    "*.so",
)


def run(*words: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command away from the source tree; what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**clean, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    options = ("--wheel", "--no-isolation", "--outdir", folder / "dist")
    run(sys.executable, "-m", "build", *options, source, cwd=folder)
    (built,) = (folder / "dist").glob("tabwright-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of a new environment: the wheel, and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    # Only now, or pip would see this environment's own tabwright and install nothing.
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = Path(run(scripts / "python", "-c", asked, cwd=folder).strip())
    dependencies = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (purelib / "dependencies.pth").write_text("\n".join(sorted(dependencies)) + "\n")
    return scripts


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    folders = [ROOT / prefix for prefix in PREFIXES]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in SOURCE]
    files += [folder / "py.typed" for folder in folders]
    files.append(ROOT / "tabwright" / "serving" / "page.html")
    compiled = {name for name in held if name.endswith((".so", ".pyd"))}
    assert held - compiled == {path.relative_to(ROOT).as_posix() for path in files}
    assert {prefix + "py.typed" for prefix in PREFIXES} <= held
    assert len(compiled) == 2


def test_wheel_has_compiled_kernels_that_work(installed: Path, tmp_path: Path) -> None:
    use = "from tabwright.training.engine.compiled_kernels import engine_name as e; print(e())"
    assert run(installed / "python", "-c", use, cwd=tmp_path).startswith("compiled, ")
    use = (
        "from tabwright.inference.compiled.functions import instruction_sets\n"
        "print(*instruction_sets())"
    )
    assert run(installed / "python", "-c", use, cwd=tmp_path).startswith("baseline")


def test_a_wheel_built_without_a_compiler_trains_all_the_same(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    options = ("--wheel", "--no-isolation", "--outdir", tmp_path / "dist")
    run(sys.executable, "-m", "build", *options, source, cwd=tmp_path, CC="no-such-compiler")
    (built,) = (tmp_path / "dist").glob("tabwright-*.whl")
    names = zipfile.ZipFile(built).namelist()
    assert not [name for name in names if name.endswith((".so", ".pyd"))]
    zipfile.ZipFile(built).extractall(tmp_path / "unpacked")
    use = (
        "import sys, warnings; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, tabwright\n"
        "assert tabwright.__file__.startswith(sys.argv[1])\n"
        "X = np.random.default_rng(0).normal(size=(80, 2))\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(2):\n"
        "        model = tabwright.TabularClassifier(max_epochs=1, n_members=1)\n"
        "        model.fit(X, X[:, 0] > 0)\n"
        "        model.predict_proba(X)\n"
        "print([str(w.message) for w in seen])\n"
        "print('trees', model.model_.trees is not None)"
    )
    told = run(sys.executable, "-c", use, tmp_path / "unpacked", cwd=tmp_path)
    assert told.count("has no compiled kernels") == 1


def test_nothing_above_the_package_claims_the_namespace(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    inits = [name for name in names if name.startswith("ai/") and name.endswith("__init__.py")]
    assert inits == [PREFIXES[1] + "__init__.py"]


def test_wheel_names_its_licence_and_its_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    text = archive.read(metadata).decode()
    assert "\nName: tabwright\n" in text
    assert "\nLicense-Expression: Apache-2.0\n" in text
    entry_points = metadata.replace("METADATA", "entry_points.txt")
    assert f"tabwright = {PACKAGE}.cli.app:main" in archive.read(entry_points).decode()


def test_installed_wheel_works_from_another_directory(installed: Path, tmp_path: Path) -> None:
    use = (
        f"import {CONTRACT}.models as models, torch\n"
        "model = models.build_model(3, 2, 'tabresnet', 4, 1, 0.1).eval()\n"
        "assert model(torch.zeros(1, 3)).shape == (1, 2)\n"
        "print(models.__file__)"
    )
    origin = Path(run(installed / "python", "-c", use, cwd=tmp_path).strip())
    assert origin.is_relative_to(installed.parent)


def test_installed_command_works_from_another_directory(installed: Path, tmp_path: Path) -> None:
    printed = run(installed / "tabwright", "--help", cwd=tmp_path)
    assert "train" in printed
    assert "predict" in printed


def test_namespace_is_shared_with_another_distribution(installed: Path, tmp_path: Path) -> None:
    sibling = tmp_path / "ai" / "ml" / "frameworks" / "sibling"
    sibling.mkdir(parents=True)
    (sibling / "__init__.py").write_text("")
    use = f"import ai.ml.frameworks.sibling, {CONTRACT}.models, {PACKAGE}"
    run(installed / "python", "-c", use, cwd=tmp_path)
