"""A module imports only from rows above its own in docs/architecture.md, functions included."""

import ast
from collections.abc import Iterator

import pytest

from tests.rooms import FOLDER, PACKAGE, rooms, rooms_in

# The lazy public face and `python -m` stand above every room.
OUTSIDE = {"__init__", "__main__"}
ORDER = [room.name for room in rooms()]


def imported_rooms(source: str) -> Iterator[tuple[int, str]]:
    """Line and room of every import of ours; a name of the public face counts as `__init__`."""
    for node in ast.walk(ast.parse(source)):
        for path in _imported(node):
            if path == PACKAGE:
                yield _line(node), "__init__"
            elif path.startswith(f"{PACKAGE}."):
                yield _line(node), path.removeprefix(f"{PACKAGE}.").split(".")[0]


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def _imported(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            base = ".".join(filter(None, [PACKAGE if level else "", module]))
            if base != PACKAGE:
                yield base
                return
            for alias in names:
                is_room = alias.name in ORDER or (FOLDER / f"{alias.name}.py").exists()
                if is_room:
                    yield f"{PACKAGE}.{alias.name}"
                elif alias.name != "__version__":
                    yield PACKAGE
        case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]):
            if ast.unparse(func).split(".")[-1] in ("import_module", "__import__"):
                yield f"{PACKAGE}{name}" if name.startswith(".") else name


def test_every_module_has_a_row_and_every_row_a_module() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - OUTSIDE
    assert sorted(files) == sorted(ORDER)


def test_package_is_flat() -> None:
    assert list(FOLDER.glob("*/**/*.py")) == []


def test_no_module_has_two_rows() -> None:
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_module_imports_only_from_rows_above_its_own(name: str) -> None:
    above = set(ORDER[: ORDER.index(name)])
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    wrong = [f"line {line}: {room}" for line, room in imported_rooms(source) if room not in above]
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "room"),
    [
        (f"import {PACKAGE}.models", "models"),
        (f"import numpy, {PACKAGE}.models as m", "models"),
        (f"from {PACKAGE}.models import MLP", "models"),
        (f"from {PACKAGE} import models", "models"),
        ("from . import models", "models"),
        ("from .models import MLP", "models"),
        (f"def f():\n    from {PACKAGE}.models import MLP", "models"),
        (f"if TYPE_CHECKING:\n    from {PACKAGE}.models import MLP", "models"),
        (f"importlib.import_module('{PACKAGE}.models')", "models"),
        ("import_module('.models', __package__)", "models"),
        (f"from {PACKAGE} import TabularClassifier", "__init__"),
        (f"import {PACKAGE}", "__init__"),
        (f"from {PACKAGE}.unheard_of import x", "unheard_of"),
    ],
)
def test_reader_sees_every_form_of_import(source: str, room: str) -> None:
    assert [found for _, found in imported_rooms(source)] == [room]


@pytest.mark.parametrize(
    "source",
    ["import torch", "from os import path", f"from {PACKAGE} import __version__", "f('models')"],
)
def test_reader_leaves_other_imports_alone(source: str) -> None:
    assert list(imported_rooms(source)) == []


def test_table_is_read_in_its_order() -> None:
    table = (
        "<!-- rooms -->\n| module | loads torch | owns |\n|---|---|---|\n"
        "| `b.py` | yes | x |\n| `a.py` | no | y |\n<!-- /rooms -->\n| `c.py` | no | z |\n"
    )
    assert rooms_in(table) == [("b", True), ("a", False)]
    with pytest.raises(ValueError, match="2 rows, but 1 of the form"):
        rooms_in(table.replace("`a.py`", "a.py"))
    with pytest.raises(ValueError, match="no table between"):
        rooms_in("nothing")
