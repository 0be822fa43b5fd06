"""A package imports only from those above it in docs/architecture.md, functions included."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packages import CONTRACT, FOLDER, PACKAGE, module_name, modules, parts, parts_in

ORDER = [part.name for part in parts()]


def part_of(dotted: str) -> str:
    """The row of the table that a module of ours belongs to; `__init__` is the public face."""
    if dotted == PACKAGE:
        return "__init__"
    if dotted == CONTRACT or dotted.startswith(f"{CONTRACT}."):
        return CONTRACT if dotted != CONTRACT else "__init__"
    inner = dotted.removeprefix(f"{PACKAGE}.")
    fitting = [name for name in ORDER if inner == name or inner.startswith(f"{name}.")]
    return max(fitting, key=len, default=inner.split(".")[0])


def imported(source: str, module: str = "") -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import of ours, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        for name in _names(node, module):
            if name.split(".")[0] == PACKAGE or name.startswith(CONTRACT):
                yield getattr(node, "lineno", 0), name


def _names(node: ast.AST, module: str) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=base, names=names, level=level):
            if level:
                base = ".".join([*module.split(".")[:-level], *filter(None, [base])])
            for alias in names:
                path = FOLDER.parent.joinpath(*f"{base}.{alias.name}".split("."))
                is_module = path.is_dir() or path.with_suffix(".py").exists()
                yield f"{base}.{alias.name}" if is_module else str(base)
        case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]):
            if ast.unparse(func).split(".")[-1] in ("import_module", "__import__"):
                yield name


def test_every_module_belongs_to_a_row_and_every_row_has_a_module() -> None:
    held = {part_of(module_name(path)) for path in modules()}
    assert sorted(held) == sorted(ORDER)


def test_no_package_has_two_rows() -> None:
    assert len(set(ORDER)) == len(ORDER)


def test_packages_are_small() -> None:
    folders = {path.parent for path in modules()}
    crowded = {f.name: n for f in folders if (n := len(list(f.glob("[!_]*.py")))) > 14}
    assert crowded == {}


@pytest.mark.parametrize("path", list(modules()), ids=module_name)
def test_module_imports_only_from_packages_above_its_own(path: Path) -> None:
    module = module_name(path)
    own = part_of(module)
    allowed = {*ORDER[: ORDER.index(own) + 1], CONTRACT}
    source = path.read_text(encoding="utf-8")
    inner = f"{module}.__init__" if path.name == "__init__.py" else module
    wrong = [
        f"line {line}: {name}"
        for line, name in imported(source, inner)
        if part_of(name) not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import tabwright.metrics", "tabwright.metrics"),
        ("import numpy, tabwright.metrics as m", "tabwright.metrics"),
        ("from tabwright.metrics import log_loss", "tabwright.metrics"),
        ("from tabwright import metrics", "tabwright.metrics"),
        ("from tabwright.tables import cells", "tabwright.tables.cells"),
        ("from . import cells", "tabwright.tables.cells"),
        ("from .cells import x", "tabwright.tables.cells"),
        ("from ..metrics import x", "tabwright.metrics"),
        ("def f():\n    from tabwright.metrics import x", "tabwright.metrics"),
        ("if TYPE_CHECKING:\n    from tabwright.metrics import x", "tabwright.metrics"),
        ("importlib.import_module('tabwright.metrics')", "tabwright.metrics"),
        ("from tabwright import TabularClassifier", "tabwright"),
        (f"from {CONTRACT}.models import MLP", f"{CONTRACT}.models"),
        (f"from {CONTRACT} import models", f"{CONTRACT}.models"),
    ],
)
def test_reader_sees_every_form_of_import(source: str, name: str) -> None:
    assert [found for _, found in imported(source, "tabwright.tables.frames")] == [name]


@pytest.mark.parametrize("source", ["import torch", "from os import path", "f('models')"])
def test_reader_leaves_other_imports_alone(source: str) -> None:
    assert list(imported(source)) == []


def test_a_module_belongs_to_the_innermost_package() -> None:
    assert part_of("tabwright.training.engine.dropout") == "training.engine"
    assert part_of("tabwright.training.loop") == "training"
    assert part_of("tabwright") == "__init__"
    assert part_of(CONTRACT) == "__init__"


def test_table_is_read_in_its_order() -> None:
    table = (
        "<!-- packages -->\n| package | loads torch | owns |\n|---|---|---|\n"
        "| `b` | yes | x |\n| `a.c` | no | y |\n<!-- /packages -->\n| `d` | no | z |\n"
    )
    assert parts_in(table) == [("b", True), ("a.c", False)]
    with pytest.raises(ValueError, match="2 rows, but 1 of the form"):
        parts_in(table.replace("`a.c`", "a.c"))
    with pytest.raises(ValueError, match="no table between"):
        parts_in("nothing")
