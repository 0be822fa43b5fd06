"""How a missing extra is installed, wherever this installation came from."""

import json
import re
import tomllib
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest

from tabwright.errors import install_command
from tests.pages import ROOT


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, 'pip install "tabwright[onnx]"'),
        (
            {"url": "file:///home/a%20b/tabwright", "dir_info": {}},
            'pip install "/home/a b/tabwright[onnx]"',
        ),
        (
            {"url": "file:///src", "dir_info": {"editable": True}},
            'pip install --editable "/src[onnx]"',
        ),
        (
            {"url": "https://example.org/t.whl", "archive_info": {}},
            'pip install "tabwright[onnx] @ https://example.org/t.whl"',
        ),
        (
            {"url": "https://example.org/t", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            'pip install "tabwright[onnx] @ git+https://example.org/t@abc"',
        ),
    ],
)
def test_the_command_installs_from_where_the_package_came(
    origin: dict[str, Any] | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = None if origin is None else json.dumps(origin)
    found = SimpleNamespace(read_text=lambda name: recorded)
    monkeypatch.setattr(metadata, "distribution", lambda name: found)
    assert install_command("onnx") == command


def test_a_source_tree_that_is_not_installed_installs_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    assert install_command("onnx") == f'pip install --editable "{ROOT}[onnx]"'


def test_every_extra_that_a_message_names_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    named = set()
    for path in (ROOT / "tabwright").rglob("*.py"):
        named |= set(re.findall(r"install_command\([\"'](\w+)[\"']\)", path.read_text()))
    assert {"trees", "onnx", "excel", "ray", "mlflow", "tensorboard"} <= named <= extras
