"""The file of results: one JSON line per table, seed and contender, safe to kill at any moment."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# Two lines with these in common are the same measurement.
KEY = ("table", "seed", "cap", "threads", "split", "contender", "settings", "code", "versions")
Line = dict[str, Any]


def key_of(line: Line) -> str:
    """What identifies a measurement, as text."""
    return json.dumps([line[name] for name in KEY], sort_keys=True)


def read_lines(path: Path) -> list[Line]:
    """The whole lines of a file; what a killed run left half-written at the end does not count.

    Raises
    ------
    ValueError
        If a line before the last is no JSON object with the fields of `KEY`.
    """
    data = path.read_bytes()
    whole, _, _ = data.rpartition(b"\n")
    lines = []
    for number, text in enumerate(whole.splitlines(), start=1):
        try:
            line = json.loads(text)
            key_of(line)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"every line of {path} must be a result; got {text[:80]!r} in line {number} "
                f"({error}); remove that line"
            ) from None
        lines.append(line)
    return lines


class ResultFile:
    """Results so far, and a place for more. `opened_results` makes one."""

    def __init__(self, stream: IO[bytes], lines: list[Line]) -> None:
        self._stream = stream
        self._done = {key_of(line) for line in lines if "error" not in line}

    def has(self, line: Line) -> bool:
        """Whether this measurement was made, without an error."""
        return key_of(line) in self._done

    def add(self, line: Line) -> None:
        """Write one line, on the disk before this returns."""
        self._stream.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        if "error" not in line:
            self._done.add(key_of(line))


@contextmanager
def opened_results(path: Path) -> Iterator[ResultFile]:
    """Open a file of results to go on with it, for this process alone.

    Raises
    ------
    BlockingIOError
        If another run writes to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"only one run may write to {path}; another one does; wait, or use another --out"
            ) from None
        stream.seek(0)
        data = stream.read()
        stream.truncate(data.rfind(b"\n") + 1)
        yield ResultFile(stream, read_lines(path))
