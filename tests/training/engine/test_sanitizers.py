"""A sample of the sanitizer campaign; `python -m campaigns.sanitize_kernels` runs longer."""

import shutil
import subprocess
import sys

import pytest

from campaigns.sanitize_kernels import find_runtime
from tests.packages import ROOT

COMPILER = shutil.which("gcc")


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or COMPILER is None or find_runtime(COMPILER) is None,
    reason="no gcc with AddressSanitizer",
)
def test_random_shapes_give_no_report() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "campaigns.sanitize_kernels", "--seconds", "10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "an overstep on purpose was caught" in done.stdout
    assert "no report" in done.stdout
