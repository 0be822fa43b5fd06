"""What the command line says and returns when a command fails.

Every error is one block on the error stream: the rule, what was received, the way out. In a
terminal it has a frame; with `--json` it is one JSON object.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from tabwright.cli.console import err, show_block, show_note
from tabwright.cli.option_names import in_options
from tabwright.errors import no_such_file


class ExitCode(IntEnum):
    """What the command line returns."""

    DONE = 0
    FAULT = 1
    USAGE = 2
    DATA = 3
    MACHINE = 4
    INTERRUPTED = 130


_tracebacks = False


def show_tracebacks(wanted: bool) -> None:
    """Whether errors show where they came from, instead of their block."""
    global _tracebacks
    _tracebacks = wanted


@contextmanager
def readable_errors(*, as_json: bool = False) -> Iterator[None]:
    """Show warnings as notes and exceptions as one block, and leave with the code that fits.

    `as_json`: whether the block is a JSON object.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            # Of files that an interrupt left open, which the end of the process closes.
            warnings.simplefilter("ignore", ResourceWarning)
            warnings.showwarning = _noted_once()
            yield
    except BrokenPipeError:
        _forget_output()
        raise typer.Exit(ExitCode.DONE) from None
    except KeyboardInterrupt as error:
        message = str(error) or "nothing was saved"
        # The block has a title that says it; JSON has none.
        message = f"interrupted; {message}" if as_json else message
        _leave(ExitCode.INTERRUPTED, "interrupted", message, as_json=as_json)
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        if _tracebacks:
            raise
        _leave(_code_of(error), "error", _words(error), as_json=as_json)
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if _tracebacks:
            raise
        if isinstance(error.__context__, KeyboardInterrupt):
            # Met rich as it began a line, which it then could not take back.
            _leave(ExitCode.INTERRUPTED, "interrupted", "nothing was saved", as_json=as_json)
        message = (
            f"{type(error).__name__}: {error}\nThis is a bug in tabwright. Please report it with "
            "what `tabwright --traceback COMMAND ...` prints."
        )
        _leave(ExitCode.FAULT, "unexpected error", message, as_json=as_json)


def _code_of(error: Exception) -> ExitCode:
    """The exit code of an error."""
    # Not at the top: they load polars, which `--help` has no use for.
    from tabwright.errors import ArtifactError, TableError

    if isinstance(error, OSError | ImportError | MemoryError):
        return ExitCode.MACHINE
    if isinstance(error, TableError | ArtifactError | FloatingPointError):
        return ExitCode.DATA
    return ExitCode.USAGE


def _words(error: Exception) -> str:
    """The message of an error, in the options of the command line."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        # Where more is known than the system says, it stands there.
        if error.strerror == os.strerror(errno.ENOENT):
            return no_such_file(os.fsdecode(error.filename))
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"the memory of this machine does not suffice ({error}); give fewer rows or columns"
    # Not at the top: see `_code_of`.
    from tabwright.errors import ArtifactError, TableError

    # What these name are columns and fields of files.
    of_a_file = isinstance(error, TableError | ArtifactError)
    return in_options(str(error), arguments=isinstance(error, ValueError) and not of_a_file)


def _leave(code: ExitCode, title: str, message: str, *, as_json: bool) -> None:
    if as_json:
        err.file.write(json.dumps({"error": message, "exit_code": int(code)}) + "\n")
    else:
        show_block(title, message)
    raise typer.Exit(code) from None


def _forget_output() -> None:
    """Send what is left to print nowhere: the reader of the pipe is gone."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _noted_once() -> Callable[..., None]:
    """What shows a warning as a note, once: a table may be read more than once."""
    shown: set[str] = set()

    def note(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in shown:
            shown.add(str(message))
            show_note(str(message))

    return note
