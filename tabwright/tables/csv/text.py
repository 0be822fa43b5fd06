"""The bytes of a text file as UTF-8: byte order marks, encodings, ends of lines."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Final

from tabwright.errors import TableError, warn_caller
from tabwright.tables.paths import DAMAGED, TableFile, opened

# Least share of UTF-16's upper bytes that are NUL: of a table's letters, digits and delimiters.
_UPPER_NULS: Final = 0.7
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def text_blocks(path: TableFile, encoding: str | None, *, chunk_bytes: int) -> Iterator[bytes]:
    """The content of a text file as UTF-8, without byte order mark, checked.

    Raises `TableError`: naming file and line, at bytes that are no text, and at NUL bytes.
    """
    n_lines = 0
    try:
        for block in _decoded(path, encoding, chunk_bytes):
            position = block.find(b"\0")
            if position >= 0:
                line = n_lines + block.count(b"\n", 0, position) + 1
                raise TableError(
                    f"{path}, line {line}: text must not hold NUL bytes; if the file is in an "
                    "encoding of several bytes a letter, name it, e.g. encoding='utf-16-le', else "
                    "it is damaged or no text file"
                )
            yield block
            n_lines += block.count(b"\n")
    except UnicodeDecodeError as error:
        line = n_lines + error.object[: error.start].count(b"\n") + 1
        found = error.object[error.start : error.start + 1].hex()
        likely = "cp1252" if _decodes(error.object, "cp1252") else "shift_jis"
        raise TableError(
            f"{path}, line {line}: the text must be {error.encoding}; got the byte 0x{found}; "
            f"name the encoding it was written in, e.g. encoding='{likely}'"
        ) from None
    except UnicodeError as error:
        raise TableError(
            f"{path}: the text must be {encoding}; it is not ({error}); name the encoding it was "
            "written in"
        ) from None
    except DAMAGED as error:
        raise TableError(
            f"{path}: compressed data must be whole; it is damaged or cut short ({error}); "
            "copy the file again"
        ) from error


def _decoded(path: TableFile, encoding: str | None, chunk_bytes: int) -> Iterator[bytes]:
    """The text in UTF-8, chunk by chunk, whatever encoding the file has."""
    with opened(path) as stream:
        start = stream.read(4)
        for mark, marked in _BOMS:
            if start.startswith(mark):
                encoding, start = marked, start[len(mark) :]
                break
        block = start + stream.read(max(chunk_bytes - len(start), 0))
        encoding = encoding or _unmarked_utf16(block)
        certain, encoding = encoding is not None, encoding or "utf-8"
        decoder = codecs.getincrementaldecoder(encoding)()
        utf8 = codecs.lookup(encoding).name == "utf-8"
        old_returns: bool | None = None
        while block:
            following = stream.read(chunk_bytes)
            if utf8 and not certain and not block.isascii():
                # The first text beyond ASCII tells what the file is.
                certain = True
                if _is_cp1252(block, final=not following):
                    decoder, utf8 = codecs.getincrementaldecoder("cp1252")(), False
                    warn_caller(
                        f"{path} is not UTF-8, and is read as cp1252 (Western European); if its "
                        "letters come out wrong, name the encoding it was written in, e.g. "
                        "encoding='cp1250'",
                    )
            if not utf8:
                block = decoder.decode(block, final=not following).encode()
            elif not (block.isascii() and not decoder.getstate()[0]):
                decoder.decode(block, final=not following)
            if old_returns is None:
                # Records that end in returns alone, whatever ends the last of them.
                has_newline = b"\n" in block.rstrip(b"\r\n")
                old_returns = not has_newline and b"\r" in block.replace(b"\r\n", b"")
            if old_returns:
                block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            yield block
            block = following


def _unmarked_utf16(block: bytes) -> str | None:
    """The encoding of text whose every other byte is NUL, or nearly: the upper half of a letter."""
    for encoding, upper, lower in (("utf-16-le", 1, 0), ("utf-16-be", 0, 1)):
        n_upper = block[upper::2].count(0)
        if n_upper and n_upper >= _UPPER_NULS * len(block) / 2 and not block[lower::2].count(0):
            return encoding
    return None


def _is_cp1252(block: bytes, *, final: bool) -> bool:
    """Whether text is not UTF-8 and every byte of it is a character of cp1252.

    Where as many characters are UTF-8 as not, the file is that, and damaged.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(block, final=final)
    n_wrong = text.count("\ufffd") - block.count("\ufffd".encode())
    n_right = sum(1 for character in text if character > "\x7f") - n_wrong
    if n_wrong == 0 or n_right >= n_wrong:
        return False
    return _decodes(block, "cp1252")


def _decodes(block: bytes, encoding: str) -> bool:
    try:
        block.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
