"""Every fault found in use, as the script that showed it: each ends with 0."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(os.environ.get("TABWRIGHT_DATA", "../shared/data")).parent / "cases"
# What the scripts say of the package before it had its name, and what they get wrong themselves.
ADAPTED = (
    ("ai.ml.frameworks.pytorch.predictor", "tabwright.inference.predictor"),
    ("ai.ml.frameworks.pytorch", "tabwright"),
)
ADAPTED_IN = {
    # A NumPy boolean is no exit status.
    "case_04": (("sys.exit(abs", "sys.exit(1 if abs"), ("> 1e-6)", "> 1e-6 else 0)")),
    "case_05": (("sys.exit(abs", "sys.exit(1 if abs"), ("> 1e-6)", "> 1e-6 else 0)")),
    # The note no longer advises decimal=',': to follow it is to read the file as it is.
    "case_10": ((', csv=CsvFormat(decimal=",")', ""),),
    # A run without an error has no last line of one.
    "case_12": (("[2].strip().splitlines()[-1]", "[2].strip()"),),
    # Its last line is a limit in seconds, which a busy machine does not keep.
    "case_21": (("> 2)", "> 20)"),),
}
# These always exit with 1: `test_reading_options.py` has their tests.
ADAPTED_BY_HAND = {"case_25", "case_28"}


@pytest.mark.shared_data
def test_there_are_cases() -> None:
    assert len(list(CASES.glob("case_*.py"))) >= 26


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "case", sorted({path.stem for path in CASES.glob("case_*.py")} - ADAPTED_BY_HAND)
)
def test_a_fault_found_in_use_is_mended(case: str) -> None:
    script = (CASES / f"{case}.py").read_text()
    for old, new in (*ADAPTED_IN.get(case, ()), *ADAPTED):
        script = script.replace(old, new)
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
