"""A wanted decision rule: `--decision` and files of costs.

What a rule is, and how it is tuned, lives in `calibration/decisions.py`.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from tabwright.calibration.decisions import DecisionAim, DecisionGoal
from tabwright.errors import nearest_name
from tabwright.tables.column_names import listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RULE = (
    "a decision must be f1, balanced_accuracy, recall=SHARE, precision=SHARE or costs=FILE, "
    "e.g. recall=0.9"
)


@dataclass(frozen=True)
class CostTable:
    """Costs by label, as a file has them: what it costs to predict a label in place of the true.

    `source`: what errors call it.
    `predicted`: the labels of the columns.
    """

    source: str
    predicted: list[str]
    lines: list[tuple[int, str, list[float]]]

    def matrix(self, labels: list[str]) -> NDArray[np.float64]:
        """``costs[true, predicted]``, shape (n_classes, n_classes), in the order of `labels`."""
        _check_labels(self.source, "the first line", self.predicted, labels)
        _check_labels(self.source, "the first column", [true for _, true, _ in self.lines], labels)
        costs = np.zeros((len(labels), len(labels)))
        for _, true, row in self.lines:
            for predicted, cost in zip(self.predicted, row, strict=True):
                costs[labels.index(true), labels.index(predicted)] = cost
        return costs


@dataclass(frozen=True)
class DecisionRequest:
    """A decision rule as a user asks for it, before the labels are known.

    `share`: of the goals "recall" and "precision".
    `costs`: of the goal "costs".
    `positive`: the positive label of two; None: the last in sorted order, as in scikit-learn.
    """

    goal: DecisionGoal
    share: float | None = None
    costs: CostTable | None = None
    positive: str | None = None

    @classmethod
    def parse(cls, text: str, positive: str | None = None) -> DecisionRequest:
        """The request of ``f1``, ``balanced_accuracy``, ``recall=SHARE``, ``costs=FILE``, ...

        Raises `ValueError`: naming the rule and what was received; `OSError` if there is no file of
            costs.
        """
        word, equals, value = text.partition("=")
        goal = next((known for known in get_args(DecisionGoal) if known == word), None)
        takes_value = goal in ("recall", "precision", "costs")
        if goal is None or bool(value) != takes_value or bool(equals) != takes_value:
            hint = "" if goal else nearest_name(word, get_args(DecisionGoal))
            raise ValueError(f"{_RULE}; got {text!r}{hint}")
        if goal == "costs":
            return cls(goal, costs=read_costs(value), positive=positive)
        if not takes_value:
            return cls(goal, positive=positive)
        try:
            share = float(value)
        except ValueError:
            raise ValueError(f"{_RULE}; got {text!r}") from None
        DecisionAim(goal, share).check(2)
        return cls(goal, share, positive=positive)

    def aim(self, classes: NDArray[np.generic]) -> DecisionAim:
        """The aim, for labels of shape (n_classes,) in sorted order.

        Raises `ValueError` if the request, the labels and the costs do not fit together.
        """
        labels = [str(label) for label in classes.tolist()]
        positive = 1
        if self.positive is not None:
            if self.positive not in labels:
                raise ValueError(
                    f"the positive label must be one of {listed(labels, quoted=False)}; "
                    f"got {self.positive!r}{nearest_name(self.positive, labels)}"
                )
            positive = labels.index(self.positive)
        costs = None if self.costs is None else self.costs.matrix(labels)
        # Which of more than two labels is positive is of no account.
        aim = DecisionAim(self.goal, self.share, costs, positive if len(labels) == 2 else 1)
        aim.check(len(labels))
        return aim


def read_costs(path: str | Path) -> CostTable:
    """Read a table of costs.

    A CSV file (tabs in .tsv): the first line has a cell of any text and then the labels that can
    be predicted; every other line has a true label and what it costs to predict each of them,
    smaller numbers being better. Every label of the target comes once in both, in any order::

        true,no,yes
        no,0,1
        yes,9,0

    Raises `ValueError`: naming the line and what is wrong with it; `OSError` if there is no such
        file.
    """
    path = Path(path)
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            lines = [
                (reader.line_num, [cell.strip() for cell in cells])
                for cells in reader
                if any(cells)
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} must be a CSV file of costs, in UTF-8; {error}") from None
    if len(lines) < 2:
        raise ValueError(
            f"{path} must have a line of labels and then a line of costs for each label; "
            f"got {len(lines)} lines"
        )
    predicted = lines[0][1][1:]
    for number, (_, *cells) in lines[1:]:
        if len(cells) != len(predicted):
            raise ValueError(
                f"{path}, line {number}: a line must have a label and {len(predicted)} costs; "
                f"got {len(cells)}"
            )
    return CostTable(
        str(path),
        predicted,
        [
            (number, true, [_cost(path, number, cell) for cell in cells])
            for number, (true, *cells) in lines[1:]
        ],
    )


def _check_labels(path: str | Path, where: str, found: list[str], labels: list[str]) -> None:
    """Refuse costs that do not name each label once."""
    lacking = [label for label in labels if label not in found]
    unknown = [label for label in found if label not in labels]
    if lacking or unknown or len(found) != len(labels):
        fault = (
            f"{lacking[0]!r} is missing"
            if lacking
            else f"{unknown[0]!r} is no label"
            if unknown
            else "one comes twice"
        )
        raise ValueError(
            f"{path}: {where} must name each label of the target once "
            f"({listed(labels, quoted=False)}); {fault}"
        )


def _cost(path: str | Path, number: int, cell: str) -> float:
    try:
        cost = float(cell)
    except ValueError:
        cost = math.nan
    if not math.isfinite(cost):
        raise ValueError(f"{path}, line {number}: a cost must be a finite number; got {cell!r}")
    return cost
