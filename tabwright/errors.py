"""The errors of the library that callers may want to catch."""

__all__ = ["ArtifactError", "ParityError", "TableError"]


class ArtifactError(ValueError):
    """A file is not an artifact that can be trusted and read; the message says what and where."""


class TableError(ValueError):
    """A table, a column or a cell is not what it has to be; the message names it."""


class ParityError(RuntimeError):
    """An exported graph does not say what its model says; nothing was written."""
