"""A wanted decision rule in words: `--decision` and files of costs.

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

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DecisionRequest", "read_costs"]

_RULE = (
    "a decision must be f1, balanced_accuracy, recall=SHARE, precision=SHARE or costs=FILE, "
    "e.g. recall=0.9"
)


@dataclass(frozen=True)
class DecisionRequest:
    """A decision rule as a user asks for it, before the labels are known.

    Parameters
    ----------
    text : str
        ``f1``, ``balanced_accuracy``, ``recall=SHARE``, ``precision=SHARE`` or ``costs=FILE``.
    positive : str or None
        The positive label of two; None: the last in sorted order, as in scikit-learn.
    """

    text: str
    positive: str | None = None

    def check(self) -> None:
        """Refuse what makes no sense whatever the labels are.

        Raises
        ------
        ValueError
            Naming the rule and what was received.
        OSError
            If there is no file of costs.
        """
        goal, value = self._parts()
        if goal == "costs":
            _cost_lines(Path(value))
        elif goal in ("recall", "precision"):
            DecisionAim(goal, self._share(value)).check(2)

    def aim(self, classes: NDArray[np.generic]) -> DecisionAim:
        """The aim, for these labels.

        Parameters
        ----------
        classes : ndarray of shape (n_classes,)
            In sorted order.

        Raises
        ------
        ValueError
            If the words, the labels and the costs do not fit together.
        """
        goal, value = self._parts()
        labels = [str(label) for label in classes.tolist()]
        positive = 1
        if self.positive is not None:
            if self.positive not in labels:
                raise ValueError(
                    f"the positive label must be one of {', '.join(labels[:20])}; "
                    f"got {self.positive!r}"
                )
            positive = labels.index(self.positive)
        costs = read_costs(value, labels) if goal == "costs" else None
        share = self._share(value) if goal in ("recall", "precision") else None
        # Which of more than two labels is positive is of no account.
        aim = DecisionAim(goal, share, costs, positive if len(labels) == 2 else 1)
        aim.check(len(labels))
        return aim

    def _parts(self) -> tuple[DecisionGoal, str]:
        word, equals, value = self.text.partition("=")
        goal = next((known for known in get_args(DecisionGoal) if known == word), None)
        takes_value = goal in ("recall", "precision", "costs")
        if goal is None or bool(value) != takes_value or bool(equals) != takes_value:
            raise ValueError(f"{_RULE}; got {self.text!r}")
        return goal, value

    def _share(self, value: str) -> float:
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{_RULE}; got {self.text!r}") from None


def read_costs(path: str | Path, labels: list[str]) -> NDArray[np.float64]:
    """Read a matrix of costs.

    A CSV file (tabs in .tsv): the first line has a cell of any text and then the labels that can
    be predicted; every other line has a true label and what it costs to predict each of them,
    smaller numbers being better. Every label of the target comes once in both, in any order::

        true,no,yes
        no,0,1
        yes,9,0

    Parameters
    ----------
    path : path
    labels : list of str
        The labels of the target, in the order of the classes.

    Returns
    -------
    ndarray of shape (n_classes, n_classes), float64
        ``costs[true, predicted]``, in the order of `labels`.

    Raises
    ------
    ValueError
        Naming the line and what is wrong with it.
    OSError
        If there is no such file.
    """
    lines = _cost_lines(Path(path))
    header = lines[0][1][1:]
    _check_labels(path, "the first line", header, labels)
    _check_labels(path, "the first column", [cells[0] for _, cells in lines[1:]], labels)
    costs = np.zeros((len(labels), len(labels)))
    for number, (true, *cells) in lines[1:]:
        if len(cells) != len(labels):
            raise ValueError(
                f"{path}, line {number}: a line must have a label and {len(labels)} costs; "
                f"got {len(cells)}"
            )
        for predicted, cell in zip(header, cells, strict=True):
            costs[labels.index(true), labels.index(predicted)] = _cost(path, number, cell)
    return costs


def _cost_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Lines that are not blank, with their numbers, cells stripped."""
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
    return lines


def _check_labels(path: str | Path, where: str, found: list[str], labels: list[str]) -> None:
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
            f"({', '.join(labels[:20])}); {fault}"
        )


def _cost(path: str | Path, number: int, cell: str) -> float:
    try:
        cost = float(cell)
    except ValueError:
        cost = math.nan
    if not math.isfinite(cost):
        raise ValueError(f"{path}, line {number}: a cost must be a finite number; got {cell!r}")
    return cost
