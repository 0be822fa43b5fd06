"""The rooms of the package as docs/architecture.md lists them, the one place that orders them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "ai.ml.frameworks.pytorch"
FOLDER = ROOT.joinpath(*PACKAGE.split("."))
ARCHITECTURE = ROOT / "docs" / "architecture.md"


class Room(NamedTuple):
    name: str
    loads_torch: bool


def rooms_in(text: str) -> list[Room]:
    """The rows of the table between the `rooms` markers, bottom-up."""
    table = re.search(r"^<!-- rooms -->$(.*)^<!-- /rooms -->$", text, re.MULTILINE | re.DOTALL)
    if table is None:
        raise ValueError("no table between <!-- rooms --> and <!-- /rooms -->")
    rows = re.findall(r"^\| `(\w+)\.py` \| (yes|no) \|", table[1], re.MULTILINE)
    n_rows = len(re.findall(r"^\|", table[1], re.MULTILINE)) - 2
    if len(rows) != n_rows:
        raise ValueError(f"{n_rows} rows, but {len(rows)} of the form | `name.py` | yes or no |")
    return [Room(name, loads_torch == "yes") for name, loads_torch in rows]


def rooms() -> list[Room]:
    return rooms_in(ARCHITECTURE.read_text(encoding="utf-8"))
