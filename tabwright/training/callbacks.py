"""What may watch a fit: one small interface, for the estimators and the command line alike.

Here live `Callback`, how several are one (`as_callback`) and what tells them of a failure
(`reporting_failures`). The loggers that write elsewhere are in `loggers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tabwright.inference.fitted_model import FittedModel
    from tabwright.settings import FitSettings
    from tabwright.training.loop import Epoch


class Callback:
    """Called while a model is fitted; override what you need.

    An exception in a callback ends the fit, and goes on to the caller. `KeyboardInterrupt` ends
    training as Ctrl-C does: the best epoch so far is kept, and the model is made.
    """

    def on_start(self, settings: FitSettings, n_training_rows: int, n_validation_rows: int) -> None:
        """Training is about to begin, with every setting resolved."""

    def on_message(self, message: str) -> None:
        """A sentence on what the fit decides, or on what takes time outside its epochs."""

    def on_epoch(self, epoch: Epoch) -> None:
        """An epoch is done. A fit that trains more than once counts from 1 each time."""

    def on_end(self, model: FittedModel) -> None:
        """The model is made, and scored where rows were held out for that."""

    def on_failure(self, error: BaseException) -> None:
        """The fit ended with an exception, perhaps before `on_start`; no model was made."""


class _Several(Callback):
    """Several callbacks as one."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks

    def on_start(self, settings: FitSettings, n_training_rows: int, n_validation_rows: int) -> None:
        for callback in self._callbacks:
            callback.on_start(settings, n_training_rows, n_validation_rows)

    def on_message(self, message: str) -> None:
        for callback in self._callbacks:
            callback.on_message(message)

    def on_epoch(self, epoch: Epoch) -> None:
        for callback in self._callbacks:
            callback.on_epoch(epoch)

    def on_end(self, model: FittedModel) -> None:
        for callback in self._callbacks:
            callback.on_end(model)

    def on_failure(self, error: BaseException) -> None:
        with contextlib.ExitStack() as stack:
            # Every one is told, even where one before it fails in turn.
            for callback in reversed(self._callbacks):
                stack.callback(callback.on_failure, error)


class _Function(Callback):
    def __init__(self, function: Callable[[Epoch], object]) -> None:
        self._function = function

    def on_epoch(self, epoch: Epoch) -> None:
        self._function(epoch)


def as_callback(
    callbacks: Sequence[Callback | Callable[[Epoch], object]] | None,
) -> Callback:
    """Several callbacks as one, called in their order.

    `callbacks`: a function is called with each `Epoch`.
    Raises `ValueError` if it is not a sequence, or holds anything else.
    """
    if callbacks is None:
        return Callback()
    if not isinstance(callbacks, Sequence):
        raise ValueError(
            "callbacks must be a list of Callback objects, or functions of an epoch; got "
            f"{type(callbacks).__name__}; put a single one into a list"
        )
    return _Several([_checked(callback) for callback in callbacks])


def _checked(callback: Callback | Callable[[Epoch], object]) -> Callback:
    """A callback, or a function of an epoch as one."""
    if isinstance(callback, Callback):
        return callback
    if isinstance(callback, type) or not callable(callback):
        got = f"the class {callback.__name__}" if isinstance(callback, type) else repr(callback)
        raise ValueError(
            "callbacks must hold Callback objects, or functions of an epoch; "
            f"got {got}; give an object, such as TensorBoardLogger('runs')"
        )
    return _Function(callback)


@contextlib.contextmanager
def reporting_failures(callback: Callback) -> Iterator[None]:
    """Tell a callback of the exception that ends this block, and let it go on."""
    try:
        yield
    except BaseException as error:
        callback.on_failure(error)
        raise
