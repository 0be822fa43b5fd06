"""The command `modes`: the training modes."""

from __future__ import annotations

from tabwright.cli.console import print_json, show_grid
from tabwright.cli.options import JsonFlag


def modes(as_json: JsonFlag = False) -> None:
    """List the six training modes and the tasks they fit."""
    from tabwright.settings import MODE_SUMMARIES, modes_for

    rows = [
        (mode, "both" if mode in modes_for("regression") else "classification", summary)
        for mode, summary in MODE_SUMMARIES.items()
    ]
    if as_json:
        keys = ("mode", "tasks", "summary")
        print_json({"modes": [dict(zip(keys, row, strict=True)) for row in rows]})
        return
    show_grid(("mode", "tasks", "what it is for"), rows)
