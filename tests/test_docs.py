"""What the README and the pages in docs/ tell people to type runs as it stands, in plain words."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright.cli.app import app
from tabwright.settings import FitSettings
from tests.packages import module_name, modules
from tests.pages import PAGES, ROOT, Block, blocks, commands

README = ROOT / "README.md"
TRUE_NOTES = re.compile(
    "equal to a training row|rows that the model was trained on|far past the range of training"
)
WITH_BLOCKS = [
    page for page in PAGES if any(b.language in ("python", "sh") for b in blocks(page.read_text()))
]
# The pages show what people want to run; the tests want to know that it runs.
_EPOCHS = 3


@pytest.fixture
def _few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = FitSettings.resolved

    def few(self: FitSettings, *, n_rows: int, n_classes: int | None = None) -> FitSettings:
        settings = resolved(self, n_rows=n_rows, n_classes=n_classes)
        return replace(settings, max_epochs=min(settings.max_epochs or _EPOCHS, _EPOCHS))

    monkeypatch.setattr(FitSettings, "resolved", few)


def _run_python(block: Block, page: Path, namespace: dict[str, object]) -> None:
    # Empty lines before it, so that an error names the line of the page.
    source = "\n" * (block.line - 1) + block.text
    exec(compile(source, str(page), "exec"), namespace)


def _run_commands(block: Block) -> None:
    for words in commands(block):
        done = CliRunner().invoke(app, words, prog_name="tabwright")
        assert done.exit_code == 0, f"{words}: {done.output}"
        # What is said of these small tables is true: they repeat rows, and pages score them again.
        strange = [line for line in done.stderr.splitlines() if not TRUE_NOTES.search(line)]
        assert not strange, f"{words}: {done.stderr}"


def _write_titanic() -> None:
    """Tables such as the README's first command speaks of, made up."""
    generator = np.random.default_rng(0)
    n_rows = 200
    sex = generator.choice(["male", "female"], n_rows)
    survived = generator.random(n_rows) < np.where(sex == "female", 0.8, 0.2)
    frame = pl.DataFrame(
        {
            "PassengerId": np.arange(n_rows),
            "Survived": survived.astype(int),
            "Sex": sex,
            "Age": generator.uniform(1, 80, n_rows).round(),
        }
    )
    frame.write_csv("titanic.csv")
    frame.drop("Survived", "PassengerId").head(5).write_csv("new_rows.csv")


@pytest.mark.slow
@pytest.mark.usefixtures("_few_epochs")
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if page in (README, ROOT / "docs" / "first-hour.md"):
        _write_titanic()
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page.read_text()):
        if block.reason:
            continue
        if block.language == "python":
            _run_python(block, page, namespace)
        elif block.language == "sh":
            _run_commands(block)


# Words of the project's past that a reader would need a glossary for, and what to write instead.
BANNED = {
    r"\brooms?\b": "module, package",
    r"\bway of the data\b": "data flow",
    r"\bbeside the others\b": "comparison with other libraries",
    r"\bwatching a fit\b": "callbacks and logging",
    r"\bdepth buys?\b": "is a deep network better than a linear one?",
    r"\bdealt\b|\bdeals? out\b": "distributed across",
    r"\blessons?\b": "soft targets",
    r"\btrials? of sums?\b|\bsums (stay|of (two )?columns)\b": "pairwise linear features are kept",
    r"\bwrong words\b": "invalid usage",
    r"\bcannot go on\b": "error",
    r"\bbytes of no kind\b": "not a Tabwright model file",
    r"\bbeaten beyond\b": "significantly better",
    r"\btold apart\b": "significantly different",
    r"\bchose nothing\b": "held out for",
    r"\blistened to\b|\blistens\b": "used, weight of the teacher",
    r"\bat the most\b": "at most",
    r"\bno riddle\b": "the error says what to install",
    r"\byardstick\b": "baseline, reference",
}


def banned_in(text: str) -> list[str]:
    """What to write instead of each banned word that the text contains, with its line."""
    lines = enumerate(text.splitlines(), 1)
    return [
        f"line {number}: {found[0]!r}; write: {instead}"
        for number, line in lines
        for word, instead in BANNED.items()
        if (found := re.search(word, line, re.IGNORECASE))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_are_in_plain_terms(page: Path) -> None:
    assert banned_in(page.read_text()) == []


@pytest.mark.parametrize("path", list(modules()), ids=module_name)
def test_code_is_in_plain_terms(path: Path) -> None:
    assert banned_in(path.read_text()) == []


def test_banned_words_are_found_in_context() -> None:
    assert banned_in("In these rooms\nat the most 3, at most 4") == [
        "line 1: 'rooms'; write: module, package",
        "line 2: 'at the most'; write: at most",
    ]


def test_files_that_the_architecture_names_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    begin, changes = page.split("## Where to begin", 1)[1].split("Five changes", 1)
    names = re.findall(r"`([\w/]+(?:\.py|/))`", begin)
    assert len(names) > 20
    # Those of before lay in one folder.
    names += re.findall(r"`(\w+/[\w/]+\.py)`", changes)
    assert len(names) > 45
    assert [name for name in names if not (ROOT / "tabwright" / name).exists()] == []


@pytest.mark.parametrize(
    ("change", "marker"),
    [
        ("add a numeric encoding", "quantile_normal"),
        ("change the default dropout", "dropout, epochs = "),
        ("a new option of `predict`", "labels_only"),
        ("a new file format", '"arrow"'),
        ("another calibration method", "isotonic"),
    ],
)
def test_architecture_lists_the_files_of_a_change(change: str, marker: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    (row,) = re.findall(rf"^\| {re.escape(change)} \|.*\|(.*)\|$", page, re.MULTILINE)
    # Files, and folders with all that is in them.
    listed = tuple(re.findall(r"`([\w/]+(?:\.py|/))`", row))
    package = ROOT / "tabwright"
    sources = {str(path.relative_to(package)): path for path in package.rglob("*.py")}
    found = {name for name, path in sources.items() if marker in path.read_text()}
    assert found
    assert sorted(name for name in found if not name.startswith(listed)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page: Path) -> None:
    known = {"python", "sh", "text", "json", "csv", "yaml", "html", "javascript", "dockerfile"}
    assert {block.language for block in blocks(page.read_text())} <= known


def test_most_pages_have_blocks() -> None:
    names = {str(page.relative_to(ROOT)) for page in WITH_BLOCKS}
    assert {"README.md", "docs/index.md", "docs/tutorial.md", "docs/modes.md"} <= names
    assert len(names) >= 12


def test_the_two_commands_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command} " in README.read_text()
        assert f"\n{command}:" in makefile


def test_blocks_are_found_in_order_with_their_lines() -> None:
    page = "# a\n```python\nx = 1\n```\n\n<!-- not run: no network -->\n```sh\nmake\n```\n"
    assert blocks(page) == [
        Block(3, "python", "x = 1\n"),
        Block(8, "sh", "make\n", "no network"),
    ]


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("- a\n\n  ```python\n  x\n  ```\n", "at the margin"),
        ("```python\nx\n", "closed"),
        ("<!-- not run: a reason -->\nwords\n```python\nx\n```\n", "follow"),
    ],
)
def test_what_would_hide_a_block_is_refused(page: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        blocks(page)


def test_a_comment_without_a_reason_hides_nothing() -> None:
    (block,) = blocks("<!-- not run: -->\n```python\nx\n```\n")
    assert not block.reason


def test_commands_of_other_kinds_are_refused() -> None:
    block = Block(1, "sh", "make demo  # all of it\ntabwright train 'a b.csv' \\\n  -t y # now\n\n")
    assert commands(block) == [["train", "a b.csv", "-t", "y"]]
    with pytest.raises(ValueError, match="must start with tabwright"):
        commands(Block(1, "sh", "cat model | tabwright modes\n"))


def test_a_block_that_fails_names_the_line_of_its_page() -> None:
    with pytest.raises(SyntaxError) as caught:
        _run_python(Block(7, "python", "x = = 1\n"), Path("page.md"), {})
    assert caught.value.lineno == 7
