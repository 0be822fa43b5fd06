"""What Dockerfiles say can be done, without Docker: files, packages, and the very commands.

The images themselves are not built here.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tabwright import TabularClassifier
from tabwright.inference.fitted_model import load_fitted
from tabwright.inference.predictor import Predictor
from tests.pages import ROOT, blocks

RECIPES = (ROOT / "docs" / "howto" / "recipes.md").read_text(encoding="utf-8")
RECIPE = next(block.text for block in blocks(RECIPES) if block.language == "dockerfile")
SERVER = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PORT = "8000"


def _instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile with what follows it, on one line."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in whole.splitlines() if line]


def _of(text: str, name: str) -> list[str]:
    return [words for instruction, words in _instructions(text) if instruction == name]


@pytest.mark.parametrize("text", [RECIPE, SERVER], ids=["recipe", "server"])
def test_a_dockerfile_names_what_there_is(text: str) -> None:
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "CMD", "ENTRYPOINT", "ENV"}
    names = [name for name, _ in _instructions(text)]
    assert names[0] == "FROM"
    assert set(names) <= known | {"HEALTHCHECK"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for version in re.findall(r"python:3\.(\d+)-slim", text):
        least = re.search(r">=3\.(\d+)", project["requires-python"])
        assert least is not None
        assert int(version) >= int(least[1])
    stages = {words.split()[-1] for words in _of(text, "FROM") if " AS " in words}
    for words in _of(text, "COPY"):
        assert set(re.findall(r"--from=(\S+)", words)) <= stages
    (installed,) = re.findall(r"pip install (.*?)(?: &&|$)", " ".join(_of(text, "RUN")))
    for word in shlex.split(installed):
        if word.startswith((".", "/src")):
            extras = re.findall(r"\[(.*)\]", word)
            assert {e for group in extras for e in group.split(",")} <= set(
                project["optional-dependencies"]
            )
    (constraints,) = re.findall(r"--constraint (\S+)", installed)
    assert (ROOT / constraints.removeprefix("/src/")).is_file()
    # The sources of the package are in the image where they are installed from.
    assert any(words.split()[0] == "." for words in _of(text, "COPY"))
    exposed = set(_of(text, "EXPOSE"))
    assert exposed == {PORT}
    assert f'"--port", "{PORT}"' in " ".join(words for _, words in _instructions(text))


def _free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def _words(command: str, port: str) -> list[str]:
    """A command of a Dockerfile on this machine: at another port, by this interpreter."""
    words = [word.replace(PORT, port) for word in json.loads(command)]
    module = [] if words[0] == "python" else ["-m", words[0]]
    return [sys.executable, *module, *words[1:]]


@contextmanager
def _running(words: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, cwd=folder, env=env, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _answer(url: str, body: bytes | None, process: subprocess.Popen[bytes]) -> bytes:
    """What a server that is starting answers once it does."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                found: bytes = reply.read()
                return found
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the recipes, made fast."""
    generator = np.random.default_rng(0)
    visits = generator.poisson(4, 300)
    plan = generator.choice(["basic", "plus", "max"], 300)
    y = np.where(visits + 2 * (plan == "max") > 4, "stays", "goes")
    model = TabularClassifier(quality="fast", max_epochs=2, n_members=1, random_state=0)
    place = tmp_path_factory.mktemp("image")
    model.fit(pl.DataFrame({"plan": plan, "visits": visits}), y).save(place / "churn.safetensors")
    return place


def test_the_command_of_the_recipe_serves_the_application_of_the_page(folder: Path) -> None:
    python = [block.text for block in blocks(RECIPES) if block.language == "python"]
    application = next(text for text in python if "FastAPI()" in text)
    # As the page says: without the last line, behind the import of its first block.
    body = application.rstrip().rsplit("\n", 1)[0]
    (folder / "app.py").write_text(f"import tabwright as tw\n{body}\n", encoding="utf-8")
    port = _free_port()
    (command,) = _of(RECIPE, "CMD")
    with _running(_words(command, port), folder) as process:
        url = f"http://127.0.0.1:{port}/churn"
        answer = json.loads(_answer(url, b'{"plan": "max", "visits": 3}', process))
        model = load_fitted(folder / "churn.safetensors")
        known = np.asarray(Predictor(model).predict_row({"plan": "max", "visits": 3.0}))
        assert answer == pytest.approx(dict(zip(["goes", "stays"], known, strict=True)))
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    copied = {word for words in _of(RECIPE, "COPY") for word in words.split()[:-1]}
    assert {"app.py", "churn.safetensors"} <= copied


def test_the_server_of_the_image_is_healthy_and_drains(folder: Path) -> None:
    port = _free_port()
    (entry,) = _of(SERVER, "ENTRYPOINT")
    (health,) = _of(SERVER, "HEALTHCHECK")
    check = _words(health.split("CMD ", 1)[1], port)
    assert subprocess.run(check, capture_output=True, check=False).returncode != 0
    with _running([*_words(entry, port), "churn.safetensors"], folder) as process:
        rows = b'{"rows": [{"plan": "max", "visits": 3}]}'
        _answer(f"http://127.0.0.1:{port}/v1/models/churn/predict", rows, process)
        assert subprocess.run(check, capture_output=True, check=False).returncode == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
