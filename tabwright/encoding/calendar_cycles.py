"""Calendar parts of points in time: which cycle a moment is in, and where.

Moments are integers, microseconds since 1970-01-01 00:00 UTC. A zoned time is converted to UTC
before it comes here, a time without a zone is taken as it stands. The same arithmetic serves
NumPy arrays and Python integers, so that one row and a million rows get the same codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

CycleName = Literal["time of day", "weekday", "day of month", "day of year"]
Moments = TypeVar("Moments", int, NDArray[np.int64])

_MINUTE = 60_000_000
_DAY = 1_440 * _MINUTE


@dataclass(frozen=True)
class Cycle:
    """A cycle and its harmonics.

    `n_steps`: steps of one turn; code 0 is a missing value and code `1 + k` step `k`.
    `harmonics`: Sines and cosines of 1, 2, ... turns. Three describe the seven weekdays completely;
        more than one let a network see two peaks a day.
    """

    name: CycleName
    n_steps: int
    harmonics: int

    def table(self) -> NDArray[np.float32]:
        """Sine and cosine of every code, float32 of shape (n_steps + 1, 2 * harmonics)."""
        turn = np.arange(self.n_steps)[:, None] * np.arange(1, self.harmonics + 1) / self.n_steps
        angle = 2.0 * math.pi * (turn % 1.0)
        table = np.zeros((self.n_steps + 1, 2 * self.harmonics), dtype=np.float32)
        table[1:, 0::2] = np.sin(angle)
        table[1:, 1::2] = np.cos(angle)
        return table

    def input_names(self) -> list[str]:
        """Names of the columns of `table`."""
        return [
            f"{self.name} {wave}" + (f" x{turns}" if turns > 1 else "")
            for turns in range(1, self.harmonics + 1)
            for wave in ("sin", "cos")
        ]


CYCLES: tuple[Cycle, ...] = (
    Cycle("time of day", 1_440, 4),
    Cycle("weekday", 7, 3),
    Cycle("day of month", 31, 1),
    Cycle("day of year", 366, 2),
)


def cycle_codes(name: CycleName, moments: Moments) -> Moments:
    """Where moments are in a cycle.

    `moments`: microseconds since 1970-01-01 00:00 UTC.
    Returns: 1 + the minute of the day, the weekday (Monday first), the day of the month or the day
        of the year.
    """
    if name == "time of day":
        return moments % _DAY // _MINUTE + 1
    days = moments // _DAY
    if name == "weekday":
        return (days + 3) % 7 + 1
    # Days to civil date in a calendar whose year begins in March, so that the leap day is last
    # (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", 2013, civil_from_days).
    shifted = days + 719_468
    era = shifted // 146_097
    day_of_era = shifted - era * 146_097
    year = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    if name == "day of year":
        # From 1 March; which day a cycle starts on is of no account.
        since_march: Moments = day_of_year + 1
        return since_march
    month = (5 * day_of_year + 2) // 153
    day_of_month: Moments = day_of_year - (153 * month + 2) // 5 + 1
    return day_of_month
