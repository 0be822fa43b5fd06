"""Does a save that is killed at any moment leave the old file or the new one, whole?

A child process saves over a file while the functions of the system that `write_atomically` calls
are counted; it kills itself with SIGKILL right before, or right after, one of them. Each call is
tried both ways, with the bytes written in several pieces. Then saves of a larger file are killed
by the parent after random times. With ``--full-disk`` a small tmpfs is mounted (root only) and
filled up.

    python -m campaigns.kill_saves
    python -m campaigns.kill_saves --random 500 --full-disk
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_CALLS = ("open", "write", "fchmod", "fsync", "close", "replace")

# argv: path of the target, path of the new bytes, number of the call (-1: list them all), when.
_CHILD = r"""
import os, signal, sys
from tabwright.artifact.atomic_write import write_atomically

target, source, number, when = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
with open(source, "rb") as file:
    data = file.read()
count = 0

def watched(name, function):
    def call(*arguments, **named):
        global count
        mine, count = count, count + 1
        if mine == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if mine == number and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        if number < 0:
            print(name, flush=True)
        return result
    return call

whole_write = os.write

def write(handle, part):
    # Several pieces, as a slow or nearly full disk takes them.
    return whole_write(handle, part[: max(1, len(data) // 3)])

os.write = write
for name in CALLS:
    setattr(os, name, watched(name, getattr(os, name)))
write_atomically(target, data)
""".replace("CALLS", repr(_CALLS))


class Outcome(NamedTuple):
    """What one killed save left behind."""

    call: str
    when: str
    content: str  # "old", "new", "missing" or "broken"
    leftovers: int


def _run(folder: Path, number: int, when: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _CHILD, str(folder / "model"), str(folder / "new")]
    root = str(Path(__file__).resolve().parent.parent)
    return subprocess.run(
        [*command, str(number), when],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )


def _content(folder: Path, old: bytes | None, new: bytes) -> str:
    try:
        found = (folder / "model").read_bytes()
    except FileNotFoundError:
        return "old" if old is None else "missing"
    if found == new:
        return "new"
    return "old" if found == old else "broken"


def calls_of_a_save(folder: Path, old: bytes | None, new: bytes) -> list[str]:
    """The names of the system's functions that one save calls, in order."""
    _prepare(folder, old, new)
    done = _run(folder, -1, "never")
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return done.stdout.split()


def _prepare(folder: Path, old: bytes | None, new: bytes) -> None:
    for path in folder.iterdir():
        path.unlink()
    if old is not None:
        (folder / "model").write_bytes(old)
    (folder / "new").write_bytes(new)


def kill_everywhere(folder: Path, old: bytes | None, new: bytes) -> Iterator[Outcome]:
    """Kill a save before and after each of its calls; `old` None: there is no file yet.

    Parameters
    ----------
    folder : Path
        An empty folder to work in.
    old, new : bytes
        What was there, and what is saved.
    """
    for number, call in enumerate(calls_of_a_save(folder, old, new)):
        for when in ("before", "after"):
            _prepare(folder, old, new)
            done = _run(folder, number, when)
            if done.returncode != -signal.SIGKILL:
                raise RuntimeError(f"not killed {when} {call}: {done.returncode} {done.stderr}")
            leftovers = len(list(folder.glob(".tabwright-*.tmp")))
            yield Outcome(call, when, _content(folder, old, new), leftovers)


def kill_at_random(folder: Path, count: int, seed: int) -> dict[str, int]:
    """Kill saves of 8 MiB after random times; how often the old and the new file were left."""
    rng = random.Random(seed)
    old, new = rng.randbytes(2**23), rng.randbytes(2**23)
    _prepare(folder, old, new)
    root = str(Path(__file__).resolve().parent.parent)
    script = (
        "import sys; from tabwright.artifact.atomic_write import write_atomically\n"
        "data = open(sys.argv[2], 'rb').read(); print(flush=True)\n"
        "write_atomically(sys.argv[1], data)"
    )
    left = {"old": 0, "new": 0, "missing": 0, "broken": 0}
    for _ in range(count):
        (folder / "model").write_bytes(old)
        command = [sys.executable, "-c", script, str(folder / "model"), str(folder / "new")]
        environment = {**os.environ, "PYTHONPATH": root}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
            assert child.stdout is not None
            child.stdout.read(1)
            time.sleep(rng.random() * 0.04)
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGKILL)
        left[_content(folder, old, new)] += 1
        for path in folder.glob(".tabwright-*.tmp"):
            path.unlink()
    return left


def fill_a_disk(folder: Path) -> str:
    """Save onto a tmpfs of 1 MiB that has too little room; the message of the refusal."""
    from tabwright.artifact.atomic_write import write_atomically

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        old = bytes(400_000)
        write_atomically(folder / "model", old)
        try:
            write_atomically(folder / "model", bytes(900_000))
        except OSError as error:
            message = str(error)
        else:
            raise AssertionError("the disk was not full")
        assert (folder / "model").read_bytes() == old
        assert [path.name for path in folder.iterdir()] == ["model"]
        return message
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--random", type=int, default=100, help="saves killed at random times")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full-disk", action="store_true", help="mount and fill a small tmpfs")
    arguments = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for old in (b"old" * 1000, None):
            for outcome in kill_everywhere(folder, old, b"new!" * 1500):
                print(f"{outcome.when:6} {outcome.call:8} -> {outcome.content}")
                bad += outcome.content in ("missing", "broken")
        left = kill_at_random(folder, arguments.random, arguments.seed)
        print(f"killed at random times: {left}")
        bad += left["missing"] + left["broken"]
    if arguments.full_disk:
        with tempfile.TemporaryDirectory() as name:
            print(f"full disk: {fill_a_disk(Path(name))}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
