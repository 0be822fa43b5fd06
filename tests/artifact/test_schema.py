"""Closed-schema reading: every rule refuses what breaks it, and says where."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.artifact.schema import Reader, TensorBag, array_to_text, prefixed, text_to_array
from tabwright.errors import ArtifactError


def test_error_is_a_value_error() -> None:
    assert issubclass(ArtifactError, ValueError)


@pytest.mark.parametrize("value", [None, [], "x", 3, {1: 2}])
def test_reader_wants_an_object(value: object) -> None:
    with pytest.raises(ArtifactError, match=r"^document\.encoder must be an object; got "):
        Reader(value, "document.encoder")


BAD_VALUES: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = [
    ("integer", (), {}, True),
    ("integer", (), {}, 1.0),
    ("integer", (), {}, "1"),
    ("integer", (), {}, None),
    ("integer", (), {"low": 0}, -1),
    ("integer", (), {"high": 8}, 9),
    ("number", (), {}, False),
    ("number", (), {}, "x"),
    ("number", (), {}, float("nan")),
    ("number", (), {}, float("inf")),
    ("number", (), {}, 10**400),
    ("number", (), {"low": 0}, -0.5),
    ("number", (), {"high": 1}, 1.5),
    ("text", (), {}, 3),
    ("text", (3,), {}, "four"),
    ("boolean", (), {}, 0),
    ("boolean", (), {}, "true"),
    ("choice", (("a", "b"),), {}, "c"),
    ("choice", (("a", "b"),), {}, ["a"]),
    ("integers", (), {}, 3),
    ("numbers", (), {"length": 2}, [1]),
    ("texts", (), {"max_length": 1}, ["a", "b"]),
    ("numbers", (), {}, {"a": 1}),
    ("texts", (), {}, "abc"),
    ("child", (), {}, []),
    ("children", (), {}, {}),
    ("mapping_of_numbers", (), {}, [1.0]),
    ("children", (), {"max_length": 1}, [{}, {}]),
]


@pytest.mark.parametrize(("method", "arguments", "named", "value"), BAD_VALUES)
def test_reader_refuses_and_names_the_place(
    method: str, arguments: tuple[Any, ...], named: dict[str, Any], value: Any
) -> None:
    reader = Reader({"key": value}, "document.columns[3]")
    with pytest.raises(ArtifactError, match=r"^document\.columns\[3\]\.key must be .*; got .*; "):
        getattr(reader, method)("key", *arguments, **named)


@pytest.mark.parametrize("method", ["integer", "number", "text", "boolean", "child", "free"])
def test_reader_names_a_missing_key(method: str) -> None:
    with pytest.raises(ArtifactError, match=r"document\.scale must be .*; it is missing; .*save"):
        getattr(Reader({}), method)("scale")


@pytest.mark.parametrize(
    ("method", "value", "place"),
    [
        ("integers", [1, True], r"document\.key\[1\] must be an integer; got True"),
        ("integers", [1, 2.5], r"document\.key\[1\] must be an integer; got 2\.5"),
        ("numbers", ["x"], r"document\.key\[0\] must be a finite number; got 'x'"),
        ("texts", ["a", None], r"document\.key\[1\] must be a text of at most .*; got None"),
        ("children", [{}, 3], r"document\.key\[1\] must be an object; got 3"),
        ("mapping_of_numbers", {"a": True}, r"document\.key\.a must be a finite number; got True"),
    ],
)
def test_reader_names_the_item(method: str, value: Any, place: str) -> None:
    with pytest.raises(ArtifactError, match=place):
        getattr(Reader({"key": value}), method)("key")


def test_reader_gives_what_it_checked() -> None:
    reader = Reader(
        {
            "n": 3,
            "x": 2,
            "t": "é",
            "b": False,
            "c": "two",
            "none": None,
            "is": [1, 2],
            "xs": [1, 2.5],
            "ts": ["a"],
            "m": {"loss": 1},
            "o": {"k": 1},
            "os": [{"k": 2}],
            "card": {"any": [None, {}]},
        }
    )
    assert reader.integer("n", low=3, high=3) == 3
    number = reader.number("x")
    assert number == 2.0
    assert isinstance(number, float)
    assert reader.text("t") == "é"
    assert reader.boolean("b") is False
    assert reader.choice("c", ("one", "two")) == "two"
    assert not reader.optional("none")
    assert not reader.optional("absent")
    assert reader.optional("is")
    assert reader.integers("is") == (1, 2)
    assert reader.numbers("xs") == (1.0, 2.5)
    assert reader.texts("ts") == ("a",)
    assert reader.mapping_of_numbers("m") == {"loss": 1.0}
    assert reader.child("o").integer("k") == 1
    assert [child.integer("k") for child in reader.children("os")] == [2]
    assert reader.keys() == ("card",)
    assert reader.free("card") == {"any": [None, {}]}
    reader.done()


def test_reader_refuses_what_nobody_read() -> None:
    reader = Reader({"a": 1, "surprise": 2}, "document.settings")
    reader.integer("a")
    with pytest.raises(ArtifactError, match=r"document\.settings must hold no other.*'surprise'"):
        reader.done()


def test_present_optional_must_be_read() -> None:
    reader = Reader({"a": 1})
    assert reader.optional("a")
    with pytest.raises(ArtifactError, match="'a'"):
        reader.done()


def test_messages_stay_short_whatever_the_file_holds() -> None:
    for value in ("x" * 10**6, [0] * 10**6, {str(i): i for i in range(1000)}, 10**4000):
        with pytest.raises(ArtifactError) as caught:
            Reader({"key": value}).boolean("key")
        assert len(str(caught.value)) < 300


def test_fail_is_the_callers_rule_in_our_words() -> None:
    reader = Reader({"scale": 0.0}, "document.target")
    reader.number("scale")
    assert "document.target.scale must be above 0; got 0.0; " in str(
        reader.fail("scale", "above 0")
    )


# --- TensorBag ---


def bag(**arrays: np.ndarray) -> TensorBag:
    return TensorBag(arrays)


def test_bag_gives_the_array_itself() -> None:
    weight = np.ones((2, 3), dtype=np.float32)
    tensors = bag(weight=weight)
    assert tensors.take("weight", shape=(None, 3)) is weight
    tensors.done()


@pytest.mark.parametrize(
    ("dtype", "shape", "message"),
    [
        ("float64", (2, 3), r"must be float64 of shape \(2, 3\); got float32 of shape \(2, 3\)"),
        ("float32", (3, 2), r"must be float32 of shape \(3, 2\); got float32 of shape \(2, 3\)"),
        ("float32", (None,), r"must be float32 of shape \(any,\); got"),
        ("float32", (None, 4), r"must be float32 of shape \(any, 4\); got"),
        ("float32", (2, 3, 1), r"got float32 of shape \(2, 3\)"),
        ("float32", (), r"of shape \(\); got"),
    ],
)
def test_bag_refuses_dtype_and_shape(dtype: str, shape: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=r"^tensors\['w'\] .*" + message):
        bag(w=np.ones((2, 3), dtype=np.float32)).take("w", dtype, shape)


def test_bag_names_missing_and_twice_taken() -> None:
    tensors = bag(w=np.ones(1, dtype=np.float32))
    with pytest.raises(ArtifactError, match=r"tensors\['v'\] must be .*; it is missing"):
        tensors.take("v")
    tensors.take("w")
    with pytest.raises(ArtifactError, match="it was already taken"):
        tensors.take("w")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bag_wants_finite_values(value: float, dtype: str) -> None:
    array = np.ones((2, 3), dtype=dtype)
    array[1, 2] = value
    with pytest.raises(ArtifactError, match=r"tensors\['w'\] must hold .*; got -?(nan|inf) at \(1"):
        bag(w=array).take("w", dtype, (2, 3))
    assert bag(w=array).take("w", dtype, (2, 3), allow_nan=True, allow_inf=True) is array
    # Leave for one is no leave for the other.
    with pytest.raises(ArtifactError, match="must hold"):
        bag(w=array).take(
            "w", dtype, (2, 3), allow_nan=not np.isnan(value), allow_inf=not np.isinf(value)
        )


def test_bag_sees_an_infinity_behind_a_nan() -> None:
    array = np.array([np.nan, np.inf])
    with pytest.raises(ArtifactError, match="finite values only; got inf"):
        bag(w=array).take("w", "float64", allow_nan=True)


def test_bag_holds_values_to_bounds() -> None:
    codes = np.array([0, 5, 2], dtype=np.int32)
    assert bag(c=codes).take("c", "int32", low=0, high=5) is codes
    with pytest.raises(ArtifactError, match=r"values of at most 4; got 5 at \(1,\)"):
        bag(c=codes).take("c", "int32", low=0, high=4)
    with pytest.raises(ArtifactError, match=r"values of at least 1; got 0 at \(0,\)"):
        bag(c=codes).take("c", "int32", low=1)
    gaps = np.array([np.nan, 0.5])
    assert bag(g=gaps).take("g", "float64", low=0, high=1, allow_nan=True) is gaps
    with pytest.raises(ArtifactError, match=r"at most 0\.4"):
        bag(g=gaps).take("g", "float64", high=0.4, allow_nan=True)
    empty = np.zeros(0)
    assert bag(e=empty).take("e", "float64", low=0) is empty


def test_scoped_bags_share_what_is_left() -> None:
    arrays = prefixed("encoder.", {"a": np.zeros(1), "b": np.zeros(1)}) | {"c": np.zeros(1)}
    whole = TensorBag(arrays)
    encoder = whole.scoped("encoder.")
    assert encoder.names() == ("a", "b")
    assert encoder.has("a")
    assert not encoder.has("c")
    encoder.take("a", "float64")
    with pytest.raises(ArtifactError, match=r"no other arrays.*'encoder\.b'"):
        encoder.done()
    encoder.take("b", "float64")
    encoder.done()
    with pytest.raises(ArtifactError, match="'c'"):
        whole.done()
    whole.take("c", "float64")
    whole.done()
    with pytest.raises(ArtifactError, match=r"tensors\['encoder\.c'\]"):
        encoder.take("c", "float64")


# --- texts ---


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20))
def test_texts_come_back(texts: list[str]) -> None:
    data, offsets = text_to_array(texts)
    assert data.dtype == np.uint8
    assert offsets.dtype == np.int64
    assert len(offsets) == len(texts) + 1
    assert array_to_text(data, offsets) == texts


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"valid Unicode to be saved; got .*\\ud800"):
        text_to_array(["fine", "\ud800"])


@pytest.mark.parametrize(
    ("raw", "offsets"),
    [
        (b"abc", []),
        (b"abc", [0]),
        (b"abc", [1, 3]),
        (b"abc", [0, 2]),
        (b"abc", [0, 4]),
        (b"abc", [0, 2, 1, 3]),
        (b"abc", [0, -1, 3]),
        ("é".encode(), [0, 1, 2]),
        (b"\xff", [0, 1]),
    ],
)
def test_wrong_offsets_and_bytes_are_refused(raw: bytes, offsets: list[int]) -> None:
    with pytest.raises(ArtifactError, match=r"^levels must (be UTF-8|have offsets)"):
        array_to_text(
            np.frombuffer(raw, dtype=np.uint8), np.array(offsets, dtype=np.int64), "levels"
        )


def test_texts_want_their_dtypes() -> None:
    with pytest.raises(ArtifactError, match="must be one row of uint8 and one of int64"):
        array_to_text(np.zeros(1, dtype=np.int8), np.array([0, 1]))
