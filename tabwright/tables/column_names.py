"""Names of columns: which ones a table may have, and how new tables are matched with a fit's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from tabwright.errors import TableError, warn_caller

_MOST_LISTED: Final = 12
# Names that say the place of a column, from 0 or from 1, and nothing else.
_PLACES: Final = tuple(
    (form, first)
    for form in ("x{}", "{}", "column_{}", "f{}", "unnamed_{}", "Column{}", "V{}")
    for first in (0, 1)
    # From 1 to n, integers may be some of those from 0 on.
    if (form, first) != ("{}", 1)
)


def positional_names(n_columns: int) -> list[str]:
    """The names of columns that have none."""
    return [f"x{i}" for i in range(n_columns)]


def check_names(names: Sequence[object]) -> None:
    """Raise `TableError` unless the names of columns are text and differ."""
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise TableError(
            f"column names must be text; got {wrong[0]!r} ({type(wrong[0]).__name__}); "
            "with pandas: df.columns = df.columns.astype(str)"
        )
    seen: set[object] = set()
    for name in names:
        if name in seen:
            raise TableError(
                f"column names must differ; {name!r} comes {list(names).count(name)} times; "
                "rename or drop the copies"
            )
        seen.add(name)


def shown_name(name: str) -> str:
    """A name for people: in quotes where one would not see it as it is."""
    is_plain = name and name == name.strip() and name.isprintable() and "  " not in name
    return name if is_plain else repr(name)


def listed(values: Sequence[object], *, quoted: bool = True) -> str:
    """Names or labels in a row for people: the first twelve, and how many more.

    `quoted`: as Python writes them, for messages; else as `shown_name` does.
    """
    shown = [repr(v) if quoted else shown_name(str(v)) for v in values[:_MOST_LISTED]]
    rest = len(values) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


@dataclass(frozen=True)
class FittedColumns:
    """The columns of the table that something was fitted to.

    `names`: in its order; those of `positional_names` where it had none.
    `named`: whether it had names, as frames have and arrays have not.
    `owner`: what was fitted, for messages.
    """

    names: Sequence[str]
    named: bool
    owner: str

    @property
    def numbered(self) -> bool:
        """Whether the columns had integers as names, such as those of a selection by number."""
        return self.named and all(name.isdecimal() for name in self.names)

    def of(self, frame: pl.DataFrame, *, named: bool, argument: str = "X") -> pl.DataFrame:
        """A table of new rows, with its columns as `names` has them where one of both has no names.

        `named`: whether the table has names of its own.
        `argument`: what brought the table, for messages.
        Raises `TableError` if columns go by position and are not as many, or have other numbers.
        Warns `UserWarning` where columns with names are taken by position.
        """
        if named and self.named:
            return frame
        if named and set(frame.columns) == set(self.names):
            return frame[list(self.names)]
        n_columns = len(self.names)
        places = next(_places_of(frame.columns), None) if named else None
        if named and places is None and self._is_numbered(frame.columns):
            raise TableError(
                f"the columns of {argument} must be those of the fit, numbered from 0 to "
                f"{n_columns - 1}; got {frame.columns[:10]}; select them by number"
            )
        if frame.width != n_columns:
            raise TableError(
                f"{argument} has {frame.width} features, but {self.owner} is expecting {n_columns} "
                "features as input"
            )
        if named and places is None:
            warn_caller(
                f"{argument} should have no feature names, since {self.owner} was fitted without; "
                f"got {listed(frame.columns)}, which are taken in this order; fit to a frame to "
                "have columns matched by name, or give an array"
            )
        elif not named and self.named and list(self.names) not in _places_of(self.names):
            warn_caller(
                f"{argument} should have the feature names that {self.owner} was fitted with; got "
                "a table without names, whose columns are taken in the order of the fit: "
                f"{listed(self.names)}; give a frame with these names"
            )
        names = places or frame.columns
        return pl.DataFrame({new: frame[old] for old, new in zip(names, self.names, strict=True)})

    @staticmethod
    def _is_numbered(names: Sequence[str]) -> bool:
        return any(name.lstrip("-").isdecimal() for name in names)


def _places_of(names: Sequence[str]) -> Iterator[list[str]]:
    """The names in the order of the places that they say; nothing where they say none."""
    given = set(names)
    for form, first in _PLACES:
        if form.format(first) in given:
            places = [form.format(first + i) for i in range(len(names))]
            if given.issuperset(places):
                yield places
