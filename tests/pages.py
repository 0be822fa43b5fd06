"""The pages of the documentation as tests see them: their blocks of Python and of commands.

A block is fenced by three backquotes at the margin. Blocks of one page share one namespace and one
folder, from top to bottom, as a reader who types them in would have it. A block that cannot run
here stands behind `<!-- not run: the reason -->`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"( *)(`{3,}|~{3,})(.*)")
_NOT_RUN = re.compile(r"<!-- not run: (\S.*?) *-->")
# Words that start a line of a shell block which is for people to type, not for these tests.
_OTHER_COMMANDS = ("make", "pip", "tensorboard", "mlflow", "torchrun")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Parameters
    ----------
    line : int
        Of the first line inside the fence, from 1.
    language : str
    text : str
    reason : str
        Why it is not run; empty for one that is.
    """

    line: int
    language: str
    text: str
    reason: str = ""


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order.

    Raises
    ------
    ValueError
        For what would hide a block from the tests: a fence that is indented or not closed, or a
        comment that no block follows.
    """
    found: list[Block] = []
    fence = language = reason = ""
    start = 0
    lines = page.splitlines()
    for number, line in enumerate(lines, 1):
        match = _FENCE.fullmatch(line)
        if fence:
            if match and match[2].startswith(fence) and not match[3].strip():
                text = "\n".join(lines[start - 1 : number - 1]) + "\n"
                found.append(Block(start, language, text, reason))
                fence = reason = ""
        elif match:
            if match[1]:
                raise ValueError(f"line {number}: a fence must stand at the margin")
            fence, language, start = match[2], match[3].strip(), number + 1
        elif comment := _NOT_RUN.fullmatch(line.strip()):
            reason = comment[1]
        elif reason and line.strip():
            raise ValueError(f"line {number}: a block must follow the comment that it is not run")
    if fence or reason:
        raise ValueError(f"line {start}: a block must be closed, and a comment have its block")
    return found


def commands(block: Block) -> list[list[str]]:
    """The words of each `tabwright` command in a block of shell lines.

    Raises
    ------
    ValueError
        If a line is neither such a command nor one of those that only people type.
    """
    whole = block.text.replace("\\\n", " ")
    lines = (shlex.split(line, comments=True) for line in whole.splitlines())
    found = []
    for words in filter(None, lines):
        if words[0] == "tabwright":
            found.append(words[1:])
        elif words[0] not in _OTHER_COMMANDS:
            raise ValueError(f"the line must start with tabwright; got {words}")
    return found
