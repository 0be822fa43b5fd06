"""The models of a server by name, and how a replaced file takes the place of the old model."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabwright.serving.model import RequestError, ServedModel

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_log = logging.getLogger("tabwright.serving")

# What changes when a file is replaced or written again: time, size and inode.
_Signature = tuple[int, int, int]


def named_paths(models: Sequence[str]) -> dict[str, Path]:
    """Files by the names under which they are served.

    `models`: each a path, whose file name without its ending is the name, or `NAME=PATH`.
    Raises `ValueError` if a name comes twice, or cannot stand in an address.
    """
    found: dict[str, Path] = {}
    for given in models:
        name, equals, rest = given.partition("=")
        # A path may have an equals sign of its own.
        is_named = bool(equals) and "/" not in name and not Path(given).exists()
        path = Path(rest if is_named else given)
        name = name if is_named else path.name.removesuffix(".safetensors")
        if not _NAME.fullmatch(name):
            raise ValueError(
                "the name of a model must be letters, digits, '_', '-' and '.', at most 100; got "
                f"{name!r}; give another: NAME={path}"
            )
        if name in found:
            raise ValueError(
                f"models must have different names; got {name!r} twice; name one: NAME={path}"
            )
        found[name] = path
    return found


class ModelRegistry:
    """Models by name, each loaded from its file.

    Raises `ArtifactError` if a file is not a model; `OSError` if a file cannot be read.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = dict(paths)
        self._signatures = {name: _signature(path) for name, path in self._paths.items()}
        self._models = {name: ServedModel.load(name, path) for name, path in self._paths.items()}
        self.n_failures = 0

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """Those that serve now, in the order they were given."""
        return tuple(self._models.values())

    def get(self, name: str) -> ServedModel:
        """The model of a name.

        Raises `RequestError`: with status 404, if there is none.
        """
        model = self._models.get(name)
        if model is None:
            raise RequestError(
                f"there is no model of this name; this server has {', '.join(self._models)}",
                status=404,
            )
        return model

    def refresh(self) -> None:
        """Load every file that has changed; one that does not load leaves its old model serving."""
        for name, path in self._paths.items():
            try:
                signature = _signature(path)
                if signature == self._signatures[name]:
                    continue
                # Taken before the file is read: a change while it is read is seen next time.
                self._signatures[name] = signature
                model = ServedModel.load(name, path)
            except Exception as error:
                if not isinstance(error, FileNotFoundError) or self._signatures[name] != _GONE:
                    self.n_failures += 1
                    _log.warning("model %s stays as it was: %s", name, error)
                if isinstance(error, FileNotFoundError):
                    self._signatures[name] = _GONE
            else:
                self._models[name] = model
                _log.info("model %s was replaced; its version is %s", name, model.version)

    async def watch(self, seconds: float) -> None:
        """Refresh again and again, without holding up requests, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.refresh)


_GONE: _Signature = (-1, -1, -1)


def _signature(path: Path) -> _Signature:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
