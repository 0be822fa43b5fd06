"""How long a fit may take: `TimeLimit`, and the error of one that is too short."""

from __future__ import annotations

import re
import time

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}

# Batches that are timed before the length of the first epoch is estimated.
_TIMED_BATCHES = 16
_SHARE_TIMED = 0.05


def seconds_of(text: str) -> float:
    """Seconds of a time in words, such as 90, 90s, 10m, 1.5 h or 1h30m.

    Raises `ValueError` if it is none, or not above 0.
    """
    seconds = _seconds_in(text)
    if not seconds > 0:
        raise ValueError(
            f"time_limit must be a time above 0 such as 90, 45s, 10m or 1h30m; got {text!r}"
        )
    return seconds


def _seconds_in(text: str) -> float:
    """As `seconds_of`, but 0 where it is none."""
    plain = "".join(text.lower().split())
    if re.fullmatch(r"\d+(\.\d+)?", plain):
        return float(plain)
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", plain)
    if "".join(number + unit for number, unit in parts) != plain:
        return 0.0
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class TimeLimitError(ValueError):
    """Not even one epoch of the networks fits into the time."""


class TimeLimit:
    """Seconds of wall-clock time from now on.

    `asked`: what the user gave, where this is a part of it.
    """

    def __init__(self, seconds: float, asked: float | None = None) -> None:
        self.asked = seconds if asked is None else asked
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left; negative past the end."""
        return self._end - time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self.remaining <= 0

    def part(self, share: float) -> TimeLimit:
        """The share of what is left, from now on."""
        return TimeLimit(max(self.remaining, 0.0) * share, self.asked)

    def check_first_epoch(self, seconds: float, done: int, n_batches: int) -> None:
        """Refuse a first epoch that will not end in time, as soon as its batches tell.

        `seconds`: that the first `done` of its batches took.
        Raises `TimeLimitError`.
        """
        if self.is_over:
            raise self._too_short()
        is_known = done >= _TIMED_BATCHES or seconds > _SHARE_TIMED * self.asked
        if is_known and seconds / done * (n_batches - done) > self.remaining:
            raise self._too_short(seconds / done * n_batches)

    def n_epochs(self, seconds_per_epoch: float) -> int:
        """How many more epochs fit into what is left."""
        return max(0, int(self.remaining / max(seconds_per_epoch, 1e-9)))

    def _too_short(self, epoch: float | None = None) -> TimeLimitError:
        takes = "" if epoch is None else f", and an epoch takes about {epoch:.2g} s"
        return TimeLimitError(
            f"time_limit must be long enough for one epoch of a network; got {self.asked:g} s, "
            f"of which {max(self.remaining, 0.0):.2g} s were left for training{takes}; raise it, "
            "or train on fewer rows"
        )
