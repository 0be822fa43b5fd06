"""What every test shares: fixed seeds, the folder of real tables, the Hypothesis profile."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
# What the S3 endpoint of this machine lets in.
S3_ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
}

# In CI the same examples every time; elsewhere new ones. A busy machine is no failure.
settings.register_profile("tabwright", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("tabwright")


def pytest_configure(config: pytest.Config) -> None:
    """Build the extensions anew where their C sources changed: nobody tests what is not there."""
    if hasattr(config, "workerinput"):
        return
    package = ROOT / "tabwright"
    for source in package.rglob("_*.c"):
        built = max(
            (path.stat().st_mtime for path in source.parent.glob(f"{source.stem}.*.so")),
            default=0.0,
        )
        parts = [*source.parent.glob("*.c"), *package.glob("*.h")]
        if built < max(path.stat().st_mtime for path in parts):
            command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            return


def _data_dir() -> Path:
    named = os.environ.get("TABWRIGHT_DATA")
    return Path(named).resolve() if named else ROOT.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = _data_dir()
    if folder.is_dir():
        return
    absent = pytest.mark.skip(reason=f"no folder of real tables at {folder}; set TABWRIGHT_DATA")
    for item in items:
        if item.get_closest_marker("shared_data"):
            item.add_marker(absent)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # third-party code still draws from the global state
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real tables, for tests marked `shared_data`."""
    return _data_dir()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of an S3 endpoint of this machine."""
    pytest.importorskip("moto", reason="moto, a local S3 endpoint, is absent")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
