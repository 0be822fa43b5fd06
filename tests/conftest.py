"""What every test shares: fixed seeds, the folder of real tables, the Hypothesis profile."""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# In CI the same examples every time; elsewhere new ones. A busy machine is no failure.
settings.register_profile("tabwright", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("tabwright")


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
