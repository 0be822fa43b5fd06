"""What MkDocs does to the pages beside rendering them.

Pages link to files of the repository outside `docs/`, which are not part of the site: there the
words stay and the links go. In the page on the command line, one line stands for the help of
every command, taken from the program itself.
"""

import re
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from tabwright.cli.app import app

_OUTSIDE = re.compile(
    r"\[([^\]]+)\]\((?:\.\./)+(?:tests|benchmarks|tabwright|ai|campaigns)/[^)]*\)"
)
_COMMANDS = "<!-- the help of every command -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Drop links out of the site; put in the help of the commands."""
    markdown = _OUTSIDE.sub(r"\1", markdown)
    return markdown.replace(_COMMANDS, _help()) if _COMMANDS in markdown else markdown


def _help() -> str:
    command = get_command(app)
    parts = []
    for name, sub in command.commands.items():  # type: ignore[attr-defined]
        flags = {flag for parameter in sub.params for flag in parameter.opts}
        words = [name, "--help-all" if "--help-all" in flags else "--help"]
        shown = CliRunner().invoke(app, words, prog_name="tabwright", terminal_width=80)
        if shown.exit_code:
            raise RuntimeError(f"tabwright {' '.join(words)} failed: {shown.output}")
        parts.append(f"## {name}\n\n```text\n{shown.output.strip()}\n```\n")
    return "\n".join(parts)
