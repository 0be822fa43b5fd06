"""The artifact as bytes: one spelling of each content, and nothing else is ever accepted."""

import hashlib
import io
import json
import os
import pickle
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from campaigns import mutate_artifact
from tabwright.artifact import container as serialization
from tabwright.artifact.container import pack, read_artifact, unpack, write_artifact
from tabwright.artifact.format_versions import FORMATS
from tabwright.errors import ArtifactError
from tests.new_process import run_python

DOCUMENT = {"name": "größe", "n": 3, "scale": 1e-3, "none": None, "deep": [{"a": [True, "\n"]}]}
DTYPES = ("f8", "f4", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")


def tensors() -> dict[str, np.ndarray]:
    return {
        "member.0/net.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "edges": np.array([0.5, np.inf, np.nan]),
        "steps": np.array(7, dtype=np.int64),
        "none": np.zeros((0, 4), dtype=np.int32),
        "hidable": np.array([True, False, True]),
        "bytes": np.frombuffer("é".encode(), dtype=np.uint8),
    }


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].shape == right[name].shape
        and left[name].dtype == right[name].dtype
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


# --- one content, one file ---


def test_round_trip() -> None:
    document, arrays = unpack(pack(DOCUMENT, tensors()))
    assert document == DOCUMENT
    assert same(arrays, tensors())


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)
arrays_by_name = st.dictionaries(
    st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,8}(\.[a-z0-9]{1,4})?\Z"),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text('abcé"\\\n ', max_size=4), json_values), arrays_by_name)
def test_any_content_comes_back_and_has_one_spelling(
    document: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    data = pack(document, arrays)
    found, back = unpack(data)
    # repr tells 1 from 1.0 and from True, and 0.0 from -0.0.
    assert repr(sorted(found.items())) == repr(sorted(document.items())) or found == document
    assert json.dumps(found, sort_keys=True) == json.dumps(document, sort_keys=True)
    assert same(back, arrays)
    assert pack(found, back) == data


def test_order_strides_and_byte_order_do_not_show() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    plain = pack({"a": 1, "b": 2}, {"x": weight, "y": np.arange(3)})
    other = pack({"b": 2, "a": 1}, {"y": np.arange(3, dtype=">i8"), "x": np.asfortranarray(weight)})
    assert plain == other
    assert same(unpack(pack({}, {"x": weight.T}))[1], {"x": np.ascontiguousarray(weight.T)})
    assert same(
        unpack(pack({}, {"x": weight[:, ::2]}))[1], {"x": np.ascontiguousarray(weight[:, ::2])}
    )


def test_files_come_back_aligned_and_writable(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_artifact(path, DOCUMENT, tensors())
    assert path.read_bytes() == pack(DOCUMENT, tensors())
    document, arrays = read_artifact(path)
    assert document == DOCUMENT
    assert same(arrays, tensors())
    assert all(array.flags.aligned and array.flags.writeable for array in arrays.values())
    arrays["edges"][:] = 0
    assert same(read_artifact(path)[1], tensors())


def test_tensors_are_views_of_the_bytes() -> None:
    data = pack({}, {"x": np.arange(100_000.0)})
    buffer = np.frombuffer(data, dtype=np.uint8)
    assert np.shares_memory(unpack(data)[1]["x"], buffer)


def test_a_tensor_changed_later_does_not_change_the_bytes() -> None:
    array = np.zeros(3)
    data = pack({}, {"x": array})
    array[:] = 1
    assert unpack(data)[1]["x"].tolist() == [0, 0, 0]


def test_symbolic_links_are_read(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", DOCUMENT, tensors())
    (tmp_path / "b").symlink_to("a")
    assert read_artifact(tmp_path / "b")[0] == DOCUMENT


def test_safetensors_reads_it_and_shows_the_document(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_artifact(path, DOCUMENT, tensors())
    with safetensors.safe_open(path, "numpy") as file:
        assert list(file.metadata()) == ["tabwright"]
        envelope = json.loads(file.metadata()["tabwright"])
        assert same({name: file.get_tensor(name) for name in file.keys()}, tensors())  # noqa: SIM118
    assert envelope["document"] == DOCUMENT
    assert (envelope["format"], envelope["needs"]) == (1, "0.1.0")


def test_format_1_is_written_as_it_always_was() -> None:
    data = pack({"a": [1, 0.5, "é"]}, {"x": np.arange(3, dtype=np.float32)})
    assert hashlib.sha256(data).hexdigest() == FORMAT_1_DIGEST


FORMAT_1_DIGEST = "e276708c8ef3c488321846bdfe06b822ce7045d4ba8c98b0507e13f9f1eb82c6"


# --- what cannot be saved ---


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"metrics": {"auc": float("nan")}}, r"document\.metrics\.auc must be a finite number"),
        ({"a": [float("inf")]}, r"document\.a\[0\] must be a finite number; got inf"),
        ({"a": np.float64(1.0)}, r"document\.a must be a dict.*; got float64; convert it"),
        ({"a": np.str_("x")}, r"document\.a must be a dict.*; got str_"),
        ({"a": np.zeros(2)}, r"document\.a must be a dict.*; got ndarray"),
        ({"a": {1: 2}}, r"document\.a must have texts as keys; got 1"),
        ({"a": 2**64}, r"document\.a must be an integer of 64 bits"),
        ({"a": "\ud800"}, r"document\.a must be valid Unicode"),
        ({"\ud800": 1}, r"document must be valid Unicode"),
        ({"a": {3, 4}}, r"document\.a must be a dict.*; got set"),
    ],
)
def test_pack_refuses_documents_that_would_not_come_back(document: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        pack(document, {})


def test_pack_refuses_deep_and_huge_documents() -> None:
    deep: Any = []
    for _ in range(50):
        deep = [deep]
    with pytest.raises(ArtifactError, match="nested at most"):
        pack({"a": deep}, {})
    with pytest.raises(ArtifactError, match=r"at most 16777216 bytes.*store long lists as tensors"):
        pack({"a": "x" * (2**24)}, {})
    with pytest.raises(ArtifactError, match="more than 1000000 values"):
        pack({"a": [0] * 1_100_000}, {})


@pytest.mark.parametrize(
    "name",
    ["", "/x", "../x", "a/../b", "a b", "é", "__metadata__", "x\x00", ".x", "x" * 201, "a\n"],
)
def test_pack_and_unpack_refuse_odd_names(name: str) -> None:
    with pytest.raises(ArtifactError, match=r"tensors must have names of at most 200 letters"):
        pack({}, {name: np.zeros(1)})
    entry = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
    if name != "__metadata__":
        with pytest.raises(ArtifactError, match=r"tensors must have names of at most 200 letters"):
            unpack(built([(name, entry)], bytes(8)))


@pytest.mark.parametrize(
    "array",
    [
        np.array(["x"]),
        np.array([object()]),
        np.zeros(1, "c8"),
        np.zeros(1, "f2"),
        np.zeros(1, "M8[s]"),
        np.zeros(1, "V8"),
    ],
)
def test_pack_refuses_other_dtypes(array: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match=r"tensors\['x'\] must be one of float64, .*; got"):
        pack({}, {"x": array})


# --- damage ---


def test_every_truncation_is_refused() -> None:
    data = mutate_artifact.small_artifact()
    for cut in mutate_artifact.truncations(data):
        with pytest.raises(ArtifactError):
            unpack(cut)


def test_changed_bytes_are_refused() -> None:
    # The whole campaign tries all 255 values of each place: campaigns/mutate_artifact.py.
    data = mutate_artifact.small_artifact()
    for mutant in mutate_artifact.single_byte_changes(data, step=37):
        with pytest.raises(ArtifactError):
            unpack(mutant)


def test_a_sample_of_the_mutants() -> None:
    data = mutate_artifact.small_artifact()
    verdicts = mutate_artifact.run(
        "sample",
        mutate_artifact.structured_mutants(data, 3000, seed=1),
        data,
        mutate_artifact.load_generic,
    )
    # Both ways of the campaign are taken: else it would test nothing.
    assert verdicts["refused"] > 1000
    assert verdicts["accepted"] > 100


def test_a_changed_value_names_the_digest() -> None:
    data = bytearray(pack(DOCUMENT, tensors()))
    data[-1] ^= 1
    with pytest.raises(ArtifactError, match=r"^model\.st must match the digest .*copy it again"):
        unpack(data, "model.st")
    data = bytearray(pack(DOCUMENT, tensors()))
    place = data.index(b"gr\xc3\xb6\xc3\x9fe")
    data[place] ^= 1
    with pytest.raises(ArtifactError, match="must match the digest"):
        unpack(data)


def test_appended_bytes() -> None:
    data = pack(DOCUMENT, tensors())
    with pytest.raises(ArtifactError, match=r"has bytes behind its end: .*; got"):
        unpack(data + b"\x00")
    with pytest.raises(ArtifactError, match="has bytes behind its end"):
        unpack(data + data)


def test_cut_short_says_so() -> None:
    data = pack(DOCUMENT, tensors())
    with pytest.raises(
        ArtifactError, match=r"is cut short: its tensors must take 61 bytes; got 60"
    ):
        unpack(data[:-1])
    with pytest.raises(ArtifactError, match=r"must have a header of \d+ bytes; got 92 in all"):
        unpack(data[:100])


# --- doctored headers: the digest is right, the content is not ---


def built(
    entries: list[tuple[str, Any]],
    body: bytes = b"",
    *,
    envelope: dict[str, Any] | None = None,
    text: Callable[[str], str] = lambda header: header,
    metadata: str | None = None,
) -> bytes:
    """A file with these entries whose digest is right; `text` may respell the header."""
    envelope = {"document": {}, "format": 1, "needs": "0.1.0", **(envelope or {})}

    def header(digest: str) -> bytes:
        inner = json.dumps(
            {**envelope, "sha256": digest},
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )
        parts = [metadata or f'"__metadata__":{{"tabwright":{json.dumps(inner)}}}']
        parts += [f"{json.dumps(n)}:{json.dumps(e, separators=(',', ':'))}" for n, e in entries]
        raw = text("{" + ",".join(parts) + "}").encode()
        raw += b" " * (-len(raw) % 8)
        return len(raw).to_bytes(8, "little") + raw

    digest = hashlib.sha256(header("0" * 64) + body).hexdigest()
    return header(digest) + body


def entry(shape: list[Any], start: Any, stop: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_the_builder_builds_valid_files() -> None:
    _, arrays = unpack(built([("a", entry([2], 0, 8)), ("b", entry([], 8, 12))], bytes(12)))
    assert arrays["a"].tolist() == [0, 0]
    assert arrays["b"].shape == ()


BAD_ENTRIES: list[tuple[list[tuple[str, Any]], int, str]] = [
    ([("a", entry([2], 0, 8)), ("a", entry([2], 8, 16))], 16, "has the key 'a' twice"),
    ([("a", entry([2], 0, 8)), ("b", entry([2], 4, 12))], 12, "must start where the one before"),
    ([("a", entry([2], 0, 8)), ("b", entry([2], 0, 8))], 8, "must start where the one before"),
    ([("a", entry([2], 0, 8)), ("b", entry([2], 12, 20))], 20, "must start where the one before"),
    ([("a", entry([2], 4, 12))], 12, "must start where the one before ends, at 0; got 4"),
    ([("b", entry([2], 0, 8)), ("a", entry([2], 8, 16))], 16, "its tensors must be in order"),
    ([("a", entry([2], 0, 8)), ("b", entry([1], 8, 16, "F64"))], 16, "must be in order"),
    ([("a", {**entry([2], 0, 8), "extra": 1})], 8, "must have the fields dtype, shape and"),
    ([("a", {"dtype": "F32", "shape": [2]})], 8, "must have the fields dtype, shape and"),
    ([("a", None)], 8, "must have the fields dtype, shape and data_offsets; got None"),
    ([("a", entry([2], 0, 8, "F16"))], 8, "must be one of F64, .*; got 'F16'"),
    ([("a", entry([2], 0, 8, "BF16"))], 8, "got 'BF16'"),
    ([("a", entry([2], 0, 8, ["F32"]))], 8, "must be one of"),
    ([("a", entry([2.0], 0, 8))], 8, "must have a shape"),
    ([("a", entry([True, 2], 0, 8))], 8, "must have a shape"),
    ([("a", entry([-2], 0, 8))], 8, "must have a shape"),
    ([("a", entry([1] * 9, 0, 4))], 4, "must have a shape of at most 8 sizes"),
    ([("a", entry([3], 0, 8))], 8, "must take 12 bytes, as its dtype and shape say; got 8"),
    ([("a", entry([2**62, 4], 0, 0))], 0, "must be of a possible shape"),
    ([("a", entry([0, 2**62, 4], 0, 0))], 0, "must be of a possible shape"),
    ([("a", entry([2], 8, 0))], 8, "must take 8 bytes.*; got -8"),
    ([("a", entry([2], -8, 0))], 8, "must have two offsets"),
    ([("a", entry([2], 0, 8.0))], 8, "must have two offsets"),
    ([("a", {**entry([2], 0, 8), "data_offsets": [0, 4, 8]})], 8, "must have two offsets"),
    ([("a", entry([2], 0, 2**64 - 1))], 8, "must take 8 bytes"),
    ([("a", entry([2**40], 0, 2**42))], 8, "is cut short"),
    ([("a", entry([2], 0, 8))], 9, "has bytes behind its end"),
    ([], 1, "has bytes behind its end"),
    ([("a", entry([2**64], 0, 8))], 8, "its integers must fit 64 bits"),
    ([("a", entry([10**30], 0, 8))], 8, "its integers must fit 64 bits"),
]


@pytest.mark.parametrize(("entries", "size", "message"), BAD_ENTRIES)
def test_doctored_entries(entries: list[tuple[str, Any]], size: int, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        unpack(built(entries, bytes(size)))


def test_bools_are_zero_or_one() -> None:
    with pytest.raises(ArtifactError, match="tensor 'a' must hold bools; got a byte above 1"):
        unpack(built([("a", entry([2], 0, 2, "BOOL"))], b"\x01\x02"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lambda header: header.replace("{", "{ ", 1), "must be spelled as Tabwright spells it"),
        (lambda header: header.replace('"a"', '"\\u0061"'), "must be spelled as"),
        (lambda header: header + "x", "must be a JSON object"),
        (lambda header: "[" + header + "]", "must be a model that Tabwright saved"),
        (lambda header: header.replace("[2]", "[02]"), "must be a JSON object"),
        (lambda header: header.replace("[2]", "[2e0]"), "must have a shape"),
        (lambda header: header.replace("[2]", "[NaN]"), "its numbers must be finite; got NaN"),
        (lambda header: header.replace("[2]", "[-Infinity]"), "must be finite; got -Infinity"),
        (lambda header: header.replace("[2]", "[1e999]"), "must be finite; got 1e999"),
        (lambda header: header.replace("[2]", "[" * 99 + "]" * 99), "nested more than 24 deep"),
        (lambda header: header.replace("[2]", "[" + "1" * 5000 + "]"), "integers must fit 64 bits"),
        (lambda header: header.replace('"F32"', '"F32","dtype":"F32"'), "the key 'dtype' twice"),
        (lambda header: header.replace('"format', '"sha256\\":1,\\"format'), "JSON object"),
        (
            lambda header: header.replace('\\"format', '\\"needs\\":\\"9\\",\\"format'),
            "its document must be a JSON object; it has the key 'needs' twice",
        ),
        (
            lambda header: header.replace('{"tabwright', '{"other":"","tabwright'),
            "must have the four fields of an artifact; got .*other",
        ),
        (
            lambda header: header.replace('{\\"document', '{\\"a\\":0,\\"document'),
            "must have the four fields of an artifact; got .*'a'",
        ),
        (
            lambda header: header.replace(
                '\\"document\\":{}', '\\"document\\":{\\"a\\":\\"\\\\ud800\\"}'
            ),
            "its texts must be valid Unicode",
        ),
    ],
)
def test_doctored_spellings(text: Callable[[str], str], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        unpack(built([("a", entry([2], 0, 8))], bytes(8), text=text))


@pytest.mark.parametrize(
    ("envelope", "message"),
    [
        ({"format": True}, "its format must be a number from 1"),
        ({"format": 0}, f"its format must be a number from 1 to {max(FORMATS)}; got 0"),
        ({"format": "1"}, "its format must be a number"),
        ({"format": 1.0}, "its format must be a number"),
        ({"needs": "0.3.0"}, "must be spelled as"),
        ({"document": []}, "its document must be an object"),
        ({"document": None}, "its document must be an object"),
        ({"extra": 1}, "must have the four fields"),
    ],
)
def test_doctored_envelopes(envelope: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        unpack(built([], envelope=envelope))


def test_a_newer_format_names_the_version_it_needs() -> None:
    # Whatever else a newer format changes: new dtypes, new fields.
    newer = built(
        [("a", entry([4], 0, 8, "BF16"))],
        bytes(8),
        envelope={"format": 9, "needs": "0.7.1", "more": 1},
    )
    with pytest.raises(
        ArtifactError,
        match=r"m\.st is in format 9 and needs tabwright >= 0\.7\.1; this is tabwright .* "
        "run `pip install --upgrade tabwright`",
    ):
        unpack(newer, "m.st")
    odd = built([], envelope={"format": 9, "needs": "evil; rm -rf /"})
    with pytest.raises(ArtifactError, match=r"in format 9 and needs a newer tabwright; this is"):
        unpack(odd)


def test_header_bombs_are_cheap() -> None:
    lists = "[" + "[]," * 2_000_000 + "[]]"
    quotes = '"' + '\\"' * 3_000_000
    nested = "[" * 5_000_000
    for bomb in (lists, quotes, nested):
        data = built([], text=lambda header, bomb=bomb: header[:-1] + ',"a":' + bomb + "}")  # type: ignore[misc]
        tracemalloc.start()
        with pytest.raises(ArtifactError):
            unpack(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 80 * 2**20


def test_too_many_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialization, "MAX_TENSORS", 2)
    with pytest.raises(ArtifactError, match="must hold at most 2 tensors; got 3"):
        unpack(built([(name, entry([0], 0, 0)) for name in "abc"]))


# --- files that are something else ---


def zip_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("data.pkl", b"x" * 100)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        (b"", "must be a Tabwright model; got an empty file"),
        (pickle.dumps({"a": np.zeros(3)}), "looks like a Python pickle, which Tabwright never"),
        (pickle.dumps([1], protocol=2), "looks like a Python pickle"),
        (zip_bytes(), r"looks like a zip archive \(such as torch\.save"),
        (b"<!DOCTYPE html><html><body>404", "looks like a web page"),
        (b"\n<html>" + b" " * 100, "looks like a web page"),
        (b'{"a": 1, "b": [1, 2, 3, 4, 5, 6]}', "looks like a JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"PAR1" + b"\x15" * 100, "looks like a Parquet table"),
        (b"\x1f\x8b\x08" + b"\x00" * 100, "looks like a gzip-compressed file"),
        (b"\x89HDF\r\n\x1a\n" + b"\x00" * 100, "looks like an HDF5 file"),
        (b"a,b,c\n1,2,3\n4,5,6\n", "looks like a file of an unknown kind"),
        (b"short", "looks like a file of an unknown kind"),
        (bytes(100), "looks like a file of an unknown kind"),
        (b"\xff" * 100, "looks like a file of an unknown kind"),
        (
            safetensors.numpy.save({"a": np.zeros(3, dtype=np.float32)}),
            "looks like a safetensors file of another program",
        ),
        (
            safetensors.numpy.save({"a": np.zeros(3)}, metadata={"format": "pt"}),
            "looks like a safetensors file of another program",
        ),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, looks: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=looks) as caught:
        read_artifact(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(ArtifactError, match=looks):
        unpack(data)


class Bomb:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.abort, ()


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ArtifactError, match="Python pickle"):
        read_artifact(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_artifact(tmp_path / "none")


def test_folders_pipes_and_devices(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="must be a file; got a folder"):
        read_artifact(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="must be a file; got a device, pipe or socket"):
        read_artifact(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="must be a file; got a device, pipe or socket"):
        read_artifact("/dev/zero")


def test_huge_files_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.write(built([("a", entry([2**36], 0, 2**36, "U8"))]))
        file.truncate(file.tell() + 2**36)
    tracemalloc.start()
    with pytest.raises(ArtifactError, match=r"must take at most 2147483648 bytes; got \d+; give"):
        read_artifact(path)
    # Within the limit, what the header says must agree with the size before it is allocated.
    with path.open("wb") as file:
        file.write(built([("a", entry([2**30], 0, 2**30, "U8"))]))
    with pytest.raises(ArtifactError, match="is cut short"):
        read_artifact(path)
    with path.open("wb") as file:
        file.write(pickle.dumps([0]))
        file.truncate(2**30)
    with pytest.raises(ArtifactError, match="Python pickle"):
        read_artifact(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_file_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    write_artifact(path, {}, {"x": np.zeros(100_000)})
    real = serialization._parse_header

    def shrinking(raw: bytes, total: int, where: str) -> Any:
        os.truncate(path, total // 2)
        return real(raw, total, where)

    monkeypatch.setattr(serialization, "_parse_header", shrinking)
    with pytest.raises(ArtifactError, match="it changed while it was read"):
        read_artifact(path)


# --- nothing runs ---


def test_loading_opens_one_file_and_runs_nothing(tmp_path: Path) -> None:
    document = {
        "class": "antigravity.Model",
        "module": "os.system",
        "import": ["this", "__import__('os').abort()"],
        "path": "/etc/passwd",
        "url": "http://localhost:1/",
        "!!python/object/apply:os.abort": [],
    }
    write_artifact(tmp_path / "plain", {}, {"x": np.zeros(3)})
    write_artifact(tmp_path / "hostile", document, tensors())
    output = run_python(
        """
        import sys
        from tabwright.artifact.container import read_artifact

        # Once before, so that what NumPy and json import on first use is not counted.
        read_artifact(sys.argv[1])
        modules = set(sys.modules)
        events = []
        sys.addaudithook(lambda name, arguments: events.append((name, str(arguments[:1]))))
        document, arrays = read_artifact(sys.argv[2])
        found = list(events)
        assert document["class"] == "antigravity.Model" and len(arrays) == 6
        assert set(sys.modules) == modules
        for name, argument in found:
            print(name, argument)
        """,
        str(tmp_path / "plain"),
        str(tmp_path / "hostile"),
    )
    lines = output.splitlines()
    # os.open of the path, then open() of its descriptor.
    assert len(lines) == 2
    assert lines[0].startswith("open ('")
    assert "hostile" in lines[0]
    assert re.fullmatch(r"open \(\d+,\)", lines[1])


def test_importing_loads_no_torch_and_no_scikit_learn() -> None:
    output = run_python(
        """
        import sys
        import tabwright.artifact.container
        heavy = {"torch", "sklearn", "pandas", "polars", "matplotlib", "scipy", "pickle5"}
        print(sorted(heavy & set(sys.modules)))
        """
    )
    assert output.strip() == "[]"


# --- the sampled campaign is the same every time ---


def test_mutants_are_reproducible() -> None:
    data = mutate_artifact.small_artifact()
    first = list(mutate_artifact.structured_mutants(data, 40, seed=3))
    assert first == list(islice(mutate_artifact.structured_mutants(data, 80, seed=3), 40))
    assert len(set(first)) > 30
