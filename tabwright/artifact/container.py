"""The one-file artifact as bytes: written whole or not at all, read strictly or not at all.

An artifact is a `.safetensors` file with one metadata key, ``tabwright``, that holds a canonical
JSON text: ``{"document": ..., "format": 1, "needs": "0.1.0", "sha256": "..."}``. Arrays are
tensors, everything else is the document. The digest is that of the whole file with the digest's
own 64 places set to "0"; it tells damage, not forgery. What the document must hold is not known
here: `schema.py` has the tools, each module checks its own part, and
`artifact/format_versions.py` has the rule by which later versions may add to a frozen format.

The header is read by our own code, since the safetensors library accepts what a trusted file must
not have (duplicate keys, unknown fields, any name); any safetensors reader can open the result.
Nothing is ever imported, evaluated or opened because a file says so. There is one spelling of
each content: a header that is not byte for byte what `pack` would write is refused.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from tabwright._version import __version__
from tabwright.artifact.atomic_write import write_atomically
from tabwright.artifact.format_versions import FORMATS, format_of
from tabwright.artifact.schema import (
    ADVICE,
    shown,
)
from tabwright.artifact.strict_json import check_json, dump_json, parse_json
from tabwright.errors import ArtifactError

METADATA_KEY = "tabwright"

# Limits far above any model of ours: what a hostile or broken file claims must not make a reader
# take memory for it.
_MAX_FILE = 2**31
MAX_HEADER = 16 * 2**20
MAX_TENSORS = 50_000
MAX_NAME = 200
MAX_DIMENSIONS = 8

# Little-endian, whatever the machine: these are the codes of safetensors.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){1,3}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ZERO_DIGEST = "0" * 64
# Enough for the length of the header, and to tell what another file is.
_PEEK = 64
_DAMAGED = "the file is damaged or incomplete: copy it again from where it came"

# What a wrong file is most likely to be, by its first bytes.
_LOOKS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive (such as torch.save, .npz and .xlsx write)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a Parquet table"),
    (b"ARROW1", "an Arrow table"),
    (b"\x1f\x8b", "a gzip-compressed file"),
    (b"BZh", "a bzip2-compressed file"),
    (b"\x28\xb5\x2f\xfd", "a zstandard-compressed file"),
    (b"\x89PNG", "a picture"),
    (b"%PDF", "a PDF"),
    (b"version https://git-lfs", "a Git LFS pointer in place of the file (run `git lfs pull`)"),
    (b"<!doctype html", "a web page, perhaps a login or error page in place of a download"),
    (b"<html", "a web page, perhaps a login or error page in place of a download"),
    (b"<?xml", "an XML text"),
    (b"{", "a JSON text"),
)


class _Spec(NamedTuple):
    """One tensor's entry in the header; the offsets count from the end of the header."""

    name: str
    code: str
    shape: tuple[int, ...]
    start: int
    stop: int


class _Header(NamedTuple):
    document: dict[str, Any]
    specs: list[_Spec]
    digest: str
    blank: bytes  # the header's bytes, length included, with zeros for the digest


# ---------------------------------------------------------------------------------------------
# Bytes
# ---------------------------------------------------------------------------------------------


def pack(document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """An artifact as bytes; the same content gives the same bytes.

    `document`: dicts with text keys, lists or tuples, texts, finite numbers, integers of 64 bits,
        bools and None; no NumPy scalars.
    `tensors`: arrays of float32, float64, bool or integers, of any strides.
    Raises `ArtifactError` if something could not be read back: a NaN in the document, an odd name,
        an array of objects, or more than the caps of this module allow.
    """
    check_json(dict(document))
    arrays: dict[str, NDArray[Any]] = {}
    for name, array in tensors.items():
        _check_name(name, "tensors")
        little = array.dtype.newbyteorder("<")
        if little not in _CODES:
            raise ArtifactError(
                f"tensors[{name!r}] must be one of {_dtype_names()}; got {array.dtype}; "
                "cast it, or put texts through text_to_array"
            )
        arrays[name] = np.asarray(array, dtype=little)
    specs: list[_Spec] = []
    start = 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].itemsize, name)):
        array = arrays[name]
        specs.append(_Spec(name, _CODES[array.dtype], array.shape, start, start + array.nbytes))
        start += array.nbytes
    blank = _header(dict(document), specs, _ZERO_DIGEST)
    if len(blank) - 8 > MAX_HEADER:
        raise ArtifactError(
            f"the document must take at most {MAX_HEADER} bytes; got {len(blank) - 8}; "
            "store long lists as tensors, and vocabularies with text_to_array"
        )
    parts = [_as_bytes(arrays[spec.name]) for spec in specs]
    digest = hashlib.sha256(blank)
    for part in parts:
        digest.update(part)
    header = _header(dict(document), specs, digest.hexdigest())
    # Whatever is written can be read: our own reader has the last word before anything is saved.
    _parse_header(header[8:], len(header) + start, "the model to save")
    return b"".join([header, *parts])


def unpack(
    data: bytes | bytearray | memoryview, where: str = "artifact"
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Document and tensors of an artifact; every check that needs no knowledge of the content.

    Returns tensors: views of `data`, not copies: read-only where `data` is.
    Raises `ArtifactError` if `data` is no artifact, is damaged, or needs a newer Tabwright.
    """
    view = memoryview(data).cast("B")
    size = _header_size(bytes(view[:_PEEK]), len(view), where)
    header = _parse_header(bytes(view[8 : 8 + size]), len(view), where)
    return header.document, _tensors(view[8 + size :], header, where)


def write_artifact(
    path: str | os.PathLike[str],
    document: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
) -> None:
    """Write an artifact: `pack` first, then `write_atomically`, with the errors of both."""
    write_atomically(path, pack(document, tensors))


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The document of an artifact on disk; its tensors are not read, nor the digest checked.

    Raises `ArtifactError` and `OSError` as `read_artifact`.
    """
    with _opened(path) as (file, total):
        return _read_header(file, total, os.fspath(path)).document


def read_artifact(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Document and tensors of an artifact on disk.

    `path`: a regular file, or a symbolic link to one.
    Returns tensors: views of one buffer that holds the file; writable, and nobody else's.
    Raises `ArtifactError` if the file is no artifact, is damaged, too large, or needs a newer
        Tabwright; `OSError` if it cannot be opened or read.
    """
    where = os.fspath(path)
    with _opened(path) as (file, total):
        header = _read_header(file, total, where)
        # np.empty leaves the pages untouched, and starts where every dtype may.
        body = _read(file, np.empty(total - file.tell(), dtype=np.uint8).data, where)
    return header.document, _tensors(body, header, where)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[FileIO, int]]:
    """A regular file and its size."""
    where = os.fspath(path)
    _check_file(os.stat(where), where)
    # Not to wait for a writer, should a pipe take the file's place meanwhile.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(where, flags | getattr(os, "O_CLOEXEC", 0)), "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        _check_file(status, where)
        yield file, status.st_size


def _read_header(file: FileIO, total: int, where: str) -> _Header:
    """The header; the file then stands at the tensors."""
    head = _read(file, bytearray(min(total, _PEEK)), where)
    size = _header_size(bytes(head), total, where)
    file.seek(8)
    return _parse_header(bytes(_read(file, bytearray(size), where)), total, where)


def _check_file(status: os.stat_result, where: str) -> None:
    """Refuse what is no regular file, or is larger than any model."""
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
        raise ArtifactError(f"{where} must be a file; got {kind}; give the path of a saved model")
    if status.st_size > _MAX_FILE:
        raise ArtifactError(
            f"{where} must take at most {_MAX_FILE} bytes; got {status.st_size}; "
            "give the path of a saved model"
        )


def _read(file: FileIO, buffer: bytearray | memoryview, where: str) -> memoryview:
    """Fill a buffer from a file; an end before that is an error."""
    view = memoryview(buffer)
    filled = 0
    while filled < len(view):
        count = file.readinto(view[filled:])
        if not count:
            raise ArtifactError(
                f"{where} must have {len(view)} bytes here; got {filled}: it changed while it "
                "was read; read it again when it is complete"
            )
        filled += count
    return view


def _as_bytes(array: NDArray[Any]) -> memoryview:
    # reshape copies what does not lie in C order.
    return array.reshape(-1).view(np.uint8).data


def _header(document: dict[str, Any], specs: list[_Spec], digest: str) -> bytes:
    """The first bytes of a file: the length, then the JSON header padded to eight bytes."""
    form = format_of(document)
    envelope = {"document": document, "format": form, "needs": FORMATS[form], "sha256": digest}
    entries = [f'"__metadata__":{{"{METADATA_KEY}":{dump_json(dump_json(envelope))}}}']
    for spec in specs:
        shape, offsets = dump_json(spec.shape), dump_json((spec.start, spec.stop))
        entries.append(
            f'"{spec.name}":{{"dtype":"{spec.code}","shape":{shape},"data_offsets":{offsets}}}'
        )
    text = ("{" + ",".join(entries) + "}").encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _tensors(body: memoryview, header: _Header, where: str) -> dict[str, NDArray[Any]]:
    """The arrays of the bytes behind the header, once those are what the digest says."""
    digest = hashlib.sha256(header.blank)
    digest.update(body)
    if digest.hexdigest() != header.digest:
        raise ArtifactError(
            f"{where} must match the digest that was saved with it; got other bytes; {_DAMAGED}"
        )
    arrays: dict[str, NDArray[Any]] = {}
    for spec in header.specs:
        part = body[spec.start : spec.stop]
        array: NDArray[Any] = np.frombuffer(part, dtype=_DTYPES[spec.code])
        if spec.code == "BOOL" and array.size and array.view(np.uint8).max() > 1:
            raise ArtifactError(
                f"{where}: tensor {spec.name!r} must hold bools; got a byte above 1; {ADVICE}"
            )
        arrays[spec.name] = array.reshape(spec.shape)
    return arrays


# ---------------------------------------------------------------------------------------------
# The header, checked
# ---------------------------------------------------------------------------------------------


def _header_size(head: bytes, total: int, where: str) -> int:
    """Bytes of the JSON header, from the first bytes of a file of `total` bytes."""
    if total == 0:
        raise ArtifactError(f"{where} must be a Tabwright model; got an empty file; {_DAMAGED}")
    size = int.from_bytes(head[:8], "little")
    if total < 8 or size > MAX_HEADER or head[8:9] not in (b"{", b""):
        _refuse_foreign(head, where)
    if 8 + size > total:
        raise ArtifactError(
            f"{where} must have a header of {size} bytes; got {total - 8} in all; {_DAMAGED}"
        )
    if size < 2:
        _refuse_foreign(head, where)
    return size


def _refuse_foreign(head: bytes, where: str) -> NoReturn:
    """Raise, with a guess from the first bytes at what the file is instead."""
    looks = "a file of an unknown kind"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        looks = "a Python pickle, which Tabwright never opens, since it can run any code"
    for magic, kind in _LOOKS:
        if head.startswith(magic) or start.startswith(magic):
            looks = kind
            break
    raise ArtifactError(
        f"{where} must be a model that Tabwright saved; it looks like {looks}; "
        "save models with `model.save(path)`"
    )


def _parse_header(raw: bytes, total: int, where: str) -> _Header:
    """Check everything that the header alone can tell.

    `raw` is the JSON text without its length, `total` the size of the whole file.
    """
    header = parse_json(raw, f"{where}: its header")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or METADATA_KEY not in metadata:
        raise ArtifactError(
            f"{where} must be a model that Tabwright saved; it looks like a safetensors file of "
            "another program; open it with that program, or with the safetensors library"
        )
    text = metadata[METADATA_KEY]
    if not isinstance(text, str):
        raise ArtifactError(f"{where}: its document must be a JSON text; {ADVICE}")
    envelope = parse_json(text.encode("utf-8", "replace"), f"{where}: its document")
    _check_format(envelope, where)
    if set(envelope) != {"document", "format", "needs", "sha256"} or len(metadata) != 1:
        names = sorted({*envelope, *metadata} - {METADATA_KEY})
        raise ArtifactError(
            f"{where}: its metadata must have the four fields of an artifact; "
            f"got {shown(names)}; {ADVICE}"
        )
    document, digest = envelope["document"], envelope["sha256"]
    if not isinstance(document, dict) or not isinstance(digest, str):
        raise ArtifactError(f"{where}: its document must be an object with a digest; {ADVICE}")
    if not _DIGEST.fullmatch(digest):
        raise ArtifactError(f"{where}: its digest must be 64 hex digits; {ADVICE}")
    specs = _parse_specs(header, total - 8 - len(raw), where)
    try:
        spelled = _header(document, specs, digest)[8:]
    except UnicodeEncodeError:
        raise ArtifactError(f"{where}: its texts must be valid Unicode; {ADVICE}") from None
    if spelled != raw:
        raise ArtifactError(
            f"{where}: its header must be spelled as Tabwright spells it; it has other spaces, "
            f"escapes, numbers or order; {ADVICE}"
        )
    return _Header(document, specs, digest, _header(document, specs, _ZERO_DIGEST))


def _check_format(envelope: dict[str, Any], where: str) -> None:
    """Refuse a format that this version does not read, and name the version that does."""
    version, needs, newest = envelope.get("format"), envelope.get("needs"), max(FORMATS)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ArtifactError(
            f"{where}: its format must be a number from 1 to {newest}; "
            f"got {shown(version)}; {ADVICE}"
        )
    if version > newest:
        known = isinstance(needs, str) and _VERSION.fullmatch(needs)
        wanted = f"tabwright >= {needs}" if known else "a newer tabwright"
        raise ArtifactError(
            f"{where} is in format {shown(version)} and needs {wanted}; this is tabwright "
            f"{__version__}, which reads formats up to {newest}; "
            "run `pip install --upgrade tabwright`"
        )


def _parse_specs(entries: dict[str, Any], space: int, where: str) -> list[_Spec]:
    """The tensors of a header, which must fill the `space` bytes behind it, one after the other."""
    if len(entries) > MAX_TENSORS:
        raise ArtifactError(
            f"{where} must hold at most {MAX_TENSORS} tensors; got {len(entries)}; {ADVICE}"
        )
    specs: list[_Spec] = []
    end = 0
    for name, entry in entries.items():
        _check_name(name, f"{where}: tensors")
        spec = _parse_spec(name, entry, f"{where}: tensor {name!r}")
        if spec.start != end:
            raise ArtifactError(
                f"{where}: tensor {name!r} must start where the one before ends, at {end}; "
                f"got {spec.start}; {ADVICE}"
            )
        end = spec.stop
        specs.append(spec)
    if end != space:
        problem = "is cut short" if end > space else "has bytes behind its end"
        raise ArtifactError(
            f"{where} {problem}: its tensors must take {end} bytes; got {space}; {_DAMAGED}"
        )
    order = sorted(specs, key=lambda spec: (-_DTYPES[spec.code].itemsize, spec.name))
    if order != specs:
        raise ArtifactError(f"{where}: its tensors must be in order; {ADVICE}")
    return specs


def _parse_spec(name: str, entry: object, where: str) -> _Spec:
    """The dtype, shape and place of an array, each checked."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ArtifactError(
            f"{where} must have the fields dtype, shape and data_offsets; "
            f"got {shown(sorted(entry) if isinstance(entry, dict) else entry)}; {ADVICE}"
        )
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise ArtifactError(
            f"{where} must be one of {', '.join(_DTYPES)}; got {shown(code)}; {ADVICE}"
        )
    if not _is_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise ArtifactError(
            f"{where} must have a shape of at most {MAX_DIMENSIONS} sizes; "
            f"got {shown(shape)}; {ADVICE}"
        )
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise ArtifactError(f"{where} must have two offsets; got {shown(offsets)}; {ADVICE}")
    # An array of no elements may still overflow NumPy's idea of its strides.
    if math.prod(max(size, 1) for size in shape) > 2**56:
        raise ArtifactError(f"{where} must be of a possible shape; got {shown(shape)}; {ADVICE}")
    start, stop = offsets
    span = math.prod(shape) * _DTYPES[code].itemsize
    if stop - start != span:
        raise ArtifactError(
            f"{where} must take {span} bytes, as its dtype and shape say; "
            f"got {shown(stop - start)}; {ADVICE}"
        )
    return _Spec(name, code, tuple(shape), start, stop)


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in value
    )


def _check_name(name: object, where: str) -> None:
    good = isinstance(name, str) and len(name) <= MAX_NAME and _NAME.fullmatch(name)
    if not good or ".." in str(name) or str(name).startswith("__"):
        raise ArtifactError(
            f"{where} must have names of at most {MAX_NAME} letters, digits and single ._-/ ; "
            f"got {shown(name)}; {ADVICE}"
        )


def _dtype_names() -> str:
    return ", ".join(dtype.name for dtype in _DTYPES.values())
