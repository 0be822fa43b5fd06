"""Functions, arguments and variables of the package say what they do or hold."""

import io
import tokenize
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
# Names of other libraries: files have a place, optuna's studies take a result.
FOREIGN = {("artifact", "tell"), ("tuning", "tell")}


def unclear_names(source: str) -> set[str]:
    """The words of `UNCLEAR` among the words of the names in a module."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    words = {word for t in tokens if t.type == tokenize.NAME for word in t.string.split("_")}
    return words & UNCLEAR.keys()


@pytest.mark.parametrize("path", list(modules()), ids=module_name)
def test_names_say_what_they_hold(path: Path) -> None:
    package = path.relative_to(FOLDER).parts[0]
    found = unclear_names(path.read_text(encoding="utf-8"))
    found = {name for name in found if (package, name) not in FOREIGN}
    assert {name: UNCLEAR[name] for name in found} == {}


def test_reader_sees_words_inside_names() -> None:
    assert unclear_names("def _told_of(x): return x.said") == {"told", "said"}
    assert unclear_names("# told\nx = 'said'\nuntold = 1") == set()
