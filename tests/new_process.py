"""A script in a process of its own."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from tests.packages import ROOT


def finished_python(
    script: str,
    *arguments: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, with the package of this tree and more environment."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
    )


def run_python(
    script: str,
    *arguments: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What a script prints that must succeed."""
    done = finished_python(script, *arguments, cwd=cwd, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
