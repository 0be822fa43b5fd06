"""Files on disk: written whole or not at all.

`write_atomically` is how everything that Tabwright saves reaches the disk: models, checkpoints,
exports, reports; `replacing` is the same for files written in pieces, such as predictions. What the
bytes mean is not known here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator

_BINARY = getattr(os, "O_BINARY", 0)
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
# What other programs write under these names.
_FORMATS = re.compile(
    r"\.(pkl|pickle|joblib|dill|pt|pth|ckpt|bin|onnx|pmml|h5|hdf5|keras|pb|cbm|ubj|safetensors"
    r"|html|pdf|docx?|odt|rtf|pptx?|png|svg|jpe?g|csv|tsv|parquet|arrow|feather|xlsx?|ods|jsonl?|ya?ml|ini|toml|txt|md|py|zip|gz)"
)
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the limit for files here",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "writing in this folder is not permitted",
    errno.EPERM: "writing in this folder is not permitted",
    errno.ENOENT: "the folder does not exist: create it first",
    errno.ENOTDIR: "a part of its path is no folder",
    errno.EISDIR: "it is a folder: name a file in it",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ELOOP: "its symbolic links go round in circles",
    errno.EIO: "the disk reports an error",
}


def write_atomically(path: str | os.PathLike[str], data: bytes | bytearray | memoryview) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, whole.

    The bytes go to a temporary file in the same folder and to the disk itself (fsync), the
    temporary file takes the name (rename), and then the folder goes to the disk too. A file that
    was there keeps its permissions; a new one gets those of the process (umask). A symbolic link
    stays, and the file it points to is replaced. After a power cut or SIGKILL a file
    ``.tabwright-*.tmp`` may stay behind in the folder; it is safe to delete.

    Raises `OSError`: The subclass that fits its `errno` (`PermissionError`, `FileNotFoundError`,
        `IsADirectoryError`, ...), with the reason in words. The old file is untouched, unless the
        message says that the new one is in place.
    """
    shown = os.fspath(path)
    target = os.path.realpath(shown)
    with _saving(shown):
        temporary = _temporary_beside(target, memoryview(data).cast("B"))
        with _removed_if_left(temporary):
            os.replace(temporary, target)
    _sync_folder(os.path.dirname(target), shown)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Write a file in pieces that takes its name only when all of it is written.

    As `write_atomically`, for files larger than memory: write to the temporary file that this
    gives, and close it. When the block ends well it goes to the disk and takes the name; when it
    ends by an exception it is removed, and an old file of that name stays.

    Yields: a new empty file in the same folder, with the permissions of the old file.
    Raises `OSError`: as `write_atomically`; those of the block pass as they are.
    """
    shown = os.fspath(path)
    target = os.path.realpath(shown)
    with _saving(shown):
        temporary = _temporary_beside(target, memoryview(b""))
    with _removed_if_left(temporary):
        yield temporary
        with _saving(shown):
            handle = os.open(temporary, os.O_RDWR | _BINARY | _CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, target)
    _sync_folder(os.path.dirname(target), shown)


def check_suffix(
    path: str | os.PathLike[str], suffix: str, what: str = "a file of this kind"
) -> None:
    """Refuse a name that says another format than the one that would be written.

    `suffix`: Of the format, e.g. ".safetensors"; names without a known suffix are fine too.
    `what`: what the file is, for the message.
    Raises `ValueError`.
    """
    found = os.path.splitext(os.fspath(path))[1].lower()
    if _FORMATS.fullmatch(found) and found != suffix:
        raise ValueError(
            f"{what} must be named {suffix}, which is what is written; got "
            f"{os.fspath(path)}; name it {os.path.splitext(os.fspath(path))[0]}{suffix}"
        )


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a path that cannot be written, before the work whose result goes there.

    A file is made in the folder and removed again: permission bits do not tell everything. An old
    file of that name is left as it is.

    Raises `OSError`: as `write_atomically` would, but for a full disk.
    """
    shown = os.fspath(path)
    target = os.path.realpath(shown)
    with _saving(shown):
        os.unlink(_temporary_beside(target, memoryview(b"")))


@contextlib.contextmanager
def _saving(shown: str) -> Iterator[None]:
    """Within, an `OSError` says in words why nothing was saved."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        message = f"cannot save: {reason}; nothing was changed"
        raise OSError(error.errno or errno.EIO, message, shown) from error


@contextlib.contextmanager
def _removed_if_left(temporary: str) -> Iterator[None]:
    """Remove the temporary file if the block does not end well."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _temporary_beside(target: str, data: memoryview) -> str:
    """A new file with these bytes in the folder of `target`, with its permissions and owner."""
    mode, owner = _existing(target)
    temporary = os.path.join(os.path.dirname(target), f".tabwright-{os.urandom(8).hex()}.tmp")
    _write_temporary(temporary, data, mode, owner)
    return temporary


def _existing(target: str) -> tuple[int | None, tuple[int, int] | None]:
    """Permissions and owner of the file to replace, if there is one."""
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None, None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    return stat.S_IMODE(status.st_mode) & 0o777, (status.st_uid, status.st_gid)


def _write_temporary(
    temporary: str, data: memoryview, mode: int | None, owner: tuple[int, int] | None
) -> None:
    """Write and sync a new file, with the mode and owner of the one that it will replace."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY | _CLOEXEC
    # Bytes that replace a private file are private from the first one on.
    handle = os.open(temporary, flags, 0o666 if mode is None else 0o600)
    with _removed_if_left(temporary):
        try:
            written = 0
            while written < len(data):
                written += os.write(handle, data[written : written + 2**30])
            if mode is not None and owner is not None and hasattr(os, "fchmod"):
                if owner != (os.geteuid(), os.getegid()):
                    with contextlib.suppress(PermissionError):
                        os.fchown(handle, *owner)
                os.fchmod(handle, mode)
            os.fsync(handle)
        finally:
            os.close(handle)


def _sync_folder(folder: str, shown: str) -> None:
    """Make a rename in a folder last, where the system can."""
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _CLOEXEC)
    except PermissionError:
        # A folder one may write but not list: the rename is done, its timing is the system's.
        return
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync a folder, and say so with these.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            message = "the new file is in place, but the disk did not confirm it"
            raise OSError(error.errno, message, shown) from error
    finally:
        os.close(handle)
