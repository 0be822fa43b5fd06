"""Functions, arguments and variables say what they do or hold; what is long has a summary."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packages import FOLDER, module_name, modules

# Verbs of speech, which do not say what a value is, and what to name it by.
UNCLEAR = {
    "about": "what it holds: duration, target, section",
    "dealt": "assigned, sharded",
    "lesson": "soft targets, candidate",
    "proof": "held-out test",
    "said": "predicted, outputs, text",
    "say": "emit, on_message, report",
    "taught": "student, teacher labels",
    "tell": "report, warn",
    "telling": "reporting, naming",
    "tells": "reveals, decides",
    "told": "document, notes, advance",
}
# So is this one as a whole name: `n_own` counts what a worker or a column has itself.
UNCLEAR_ALONE = {"own": "what it is: column, record, entry"}
# Private functions and classes of more lines than these have a summary.
LONG = 8
# Names of other libraries: files have a place, optuna's studies take a result.
FOREIGN = {("artifact", "tell"), ("tuning", "tell")}


def unclear_names(source: str) -> set[str]:
    """The words of `UNCLEAR` among those of the names in a module, and of `UNCLEAR_ALONE`."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    names = {t.string for t in tokens if t.type == tokenize.NAME}
    words = {word for name in names for word in name.split("_")}
    return words & UNCLEAR.keys() | names & UNCLEAR_ALONE.keys()


@pytest.mark.parametrize("path", list(modules()), ids=module_name)
def test_names_say_what_they_hold(path: Path) -> None:
    package = path.relative_to(FOLDER).parts[0]
    found = unclear_names(path.read_text(encoding="utf-8"))
    found = {name for name in found if (package, name) not in FOREIGN}
    assert {name: (UNCLEAR | UNCLEAR_ALONE)[name] for name in found} == {}


def without_summary(tree: ast.AST) -> Iterator[str]:
    """The long private functions and classes of a module that have no docstring."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        is_private = node.name.startswith("_") and not node.name.startswith("__")
        is_long = (node.end_lineno or node.lineno) - node.lineno + 1 > LONG
        if is_private and is_long and ast.get_docstring(node) is None:
            yield node.name


@pytest.mark.parametrize("path", list(modules()), ids=module_name)
def test_what_is_private_and_long_has_a_summary(path: Path) -> None:
    assert list(without_summary(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_reader_sees_what_has_no_summary() -> None:
    long = "\n".join(f"    x = {k}" for k in range(LONG))
    tree = ast.parse(f"class A:\n  def _f():\n{long}\n  def _g():\n    'It is g.'\n{long}\n")
    assert list(without_summary(tree)) == ["_f"]
    assert list(without_summary(ast.parse("def _short(): return 1\ndef __dunder__(): ..."))) == []


def test_reader_sees_words_inside_names() -> None:
    assert unclear_names("def _told_of(x): return x.said") == {"told", "said"}
    assert unclear_names("# told\nx = 'said'\nuntold = 1; n_own = 2") == set()
    assert unclear_names("[own.x for own in y]") == {"own"}
