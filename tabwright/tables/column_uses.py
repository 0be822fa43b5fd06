"""What the columns of a table are for: the target, what is set aside, and the features."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from tabwright.errors import TableError
from tabwright.tables.column_names import listed


@dataclass(frozen=True)
class ColumnUses:
    """What the columns of a table are for; every other column is a feature.

    `target`: column to predict.
    `drop`: columns not to use.
    `group`: column whose equal cells stay on one side of every split; not a feature.
    `weight`: Column of sample weights; not a feature. Rows of weight 0 are left out.
    `time`: column of dates or numbers that orders the rows; a feature too, unless dropped.
    `drop_null_target`: leave out rows without a target.
    Raises `ValueError` if a column has two uses, or rows are kept apart by group and by time.
    """

    target: str
    drop: tuple[str, ...] = ()
    group: str | None = None
    weight: str | None = None
    time: str | None = None
    drop_null_target: bool = False

    def __post_init__(self) -> None:
        if self.target in self.drop:
            raise ValueError(
                f"the target is not a feature anyway; got {self.target!r} to drop; leave it out of "
                "drop"
            )
        if self.time is not None and self.group is not None:
            raise ValueError(
                f"rows are kept apart by time or by group, not both; got {self.time!r} and "
                f"{self.group!r}; leave one of them out"
            )
        uses: dict[str, str] = {self.target: "target"}
        for name, use in ((self.weight, "weight"), (self.group, "group"), (self.time, "time")):
            if name is None:
                continue
            if name in uses:
                raise ValueError(
                    f"a column has one use; got {name!r} as {uses[name]} and as {use}; "
                    "name another column"
                )
            uses[name] = use

    @property
    def left_out(self) -> tuple[str, ...]:
        """Columns of the table, other than the target, that the model does not get."""
        asides = (self.group, self.weight)
        return (*self.drop, *(name for name in asides if name is not None))

    def features(self, columns: Iterable[str]) -> list[str]:
        """Those of the columns that may be features, in their order."""
        asides = {self.target, *self.left_out}
        return [name for name in columns if name not in asides]

    def to_read(self, columns: Iterable[str]) -> list[str]:
        """The features, and the columns of the target, groups, weights and time."""
        features = self.features(columns)
        named = (self.target, self.group, self.weight, self.time)
        return [*features, *(n for n in named if n is not None and n not in features)]

    def check(self, columns: Iterable[str], table: str = "the table") -> None:
        """Refuse a name that the table lacks, and a table without a feature.

        `columns`: those of the table.
        `table`: what an error calls it.
        Raises `TableError`.
        """
        columns = list(columns)
        named = [
            (self.target, ""),
            *((name, ", given as drop") for name in self.drop),
            (self.time, ", given as time"),
            (self.group, ", given as group"),
            (self.weight, ", given as weight"),
        ]
        for name, use in named:
            if name is None or name in columns:
                continue
            near = get_close_matches(name, columns, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            if len(columns) == 1 and name in columns[0]:
                hint = "if something else separates the columns, name it by delimiter='...'; "
            raise TableError(
                f"{table} has no column {name!r}{use}; {hint}its columns are "
                f"{listed(columns, quoted=False)}"
            )
        if not self.features(columns):
            raise TableError(
                f"a model needs a column to learn from; {table} has none beside the target "
                "and the columns left out"
            )
