"""The packages of `tabwright` as docs/architecture.md orders them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "tabwright"
CONTRACT = "ai.ml.frameworks.pytorch"
FOLDER = ROOT / PACKAGE
ARCHITECTURE = ROOT / "docs" / "architecture.md"


class Part(NamedTuple):
    """A package, or a module of the root; `training.engine` is a package of its own."""

    name: str
    loads_torch: bool


def parts_in(text: str) -> list[Part]:
    """The rows of the table between the `packages` markers, bottom-up."""
    table = re.search(r"^<!-- packages -->$(.*)^<!-- /packages -->$", text, re.M | re.S)
    if table is None:
        raise ValueError("no table between <!-- packages --> and <!-- /packages -->")
    rows = re.findall(r"^\| `([\w.]+)` \| (yes|no) \|", table[1], re.MULTILINE)
    n_rows = len(re.findall(r"^\|", table[1], re.MULTILINE)) - 2
    if len(rows) != n_rows:
        raise ValueError(f"{n_rows} rows, but {len(rows)} of the form | `name` | yes or no |")
    return [Part(name, loads_torch == "yes") for name, loads_torch in rows]


def parts() -> list[Part]:
    return parts_in(ARCHITECTURE.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    """The dotted name of a module file below the root of the repository."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def modules() -> Iterator[Path]:
    """Every module of `tabwright` but the public face and `python -m`."""
    for path in sorted(FOLDER.rglob("*.py")):
        if path.relative_to(FOLDER).as_posix() not in ("__init__.py", "__main__.py"):
            yield path
