"""Closed-schema reading: what a file says is data, and every value is checked before it is used.

`Reader` walks a JSON object and `TensorBag` a set of named arrays. Both want each thing asked for
by name, type and range, and at the end refuse whatever nobody asked for. Every refusal is an
`ArtifactError` that names the place, the rule and the value. The layout of the
file is in `artifact/container.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tabwright.errors import ArtifactError

MAX_TEXT = 10_000
MAX_ITEMS = 200_000
ADVICE = "the file is damaged or was changed after it was saved: save the model again"

_Choice = TypeVar("_Choice", bound=str)


def shown(value: object) -> str:
    """A value for a message: never longer than a line, whatever the file holds."""
    if isinstance(value, Mapping):
        return f"an object with {len(value)} keys"
    if isinstance(value, list):
        plain = len(value) <= 10 and not any(isinstance(item, Mapping | list) for item in value)
        return f"[{', '.join(map(shown, value))}]" if plain else f"a list of {len(value)} values"
    text = repr(value[:61] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _bounds(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    if high is not None:
        return f" of at most {high}"
    return ""


def _inside(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _is_integer(value: object, low: int | None, high: int | None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and _inside(value, low, high)


def _is_number(value: object, low: float | None, high: float | None) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    finite = abs(value) < 2**1023 if isinstance(value, int) else math.isfinite(value)
    return finite and _inside(value, low, high)


class Reader:
    """A strict cursor over one JSON object of a document.

    Each method reads one key, checks it and marks it as read; `done` refuses the keys that
    nobody read. A bool is not an integer, and a text is not a number.

    `value`: what `json` made of the file; must be a dict.
    Raises `ArtifactError`: from every method: the key is missing, or its value breaks the rule.

    Examples
    --------
    >>> reader = Reader({"scale": 0.5, "kind": "standard"}, "encoder")
    >>> reader.number("scale", low=0), reader.choice("kind", ("standard", "robust"))
    (0.5, 'standard')
    >>> reader.done()
    """

    def __init__(self, value: object, where: str = "document") -> None:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ArtifactError(f"{where} must be an object; got {shown(value)}; {ADVICE}")
        self.where = where
        self._value: dict[str, Any] = value
        self._unread = set(value)

    def _get(self, key: str, rule: str) -> Any:
        if key not in self._value:
            raise ArtifactError(f"{self.where}.{key} must be {rule}; it is missing; {ADVICE}")
        self._unread.discard(key)
        return self._value[key]

    def fail(self, key: str, rule: str) -> ArtifactError:
        """The error for a value that breaks a rule of the caller's own: `raise reader.fail(...)`.

        `key`: the key that was read.
        `rule`: what it must be: it follows "must be" in the message.
        """
        got = shown(self._value.get(key))
        return ArtifactError(f"{self.where}.{key} must be {rule}; got {got}; {ADVICE}")

    def integer(self, key: str, low: int | None = None, high: int | None = None) -> int:
        """An integer within the bounds, both inclusive."""
        rule = f"an integer{_bounds(low, high)}"
        value = self._get(key, rule)
        if not _is_integer(value, low, high):
            raise self.fail(key, rule)
        return int(value)

    def number(self, key: str, low: float | None = None, high: float | None = None) -> float:
        """A finite number within the bounds, both inclusive."""
        rule = f"a finite number{_bounds(low, high)}"
        value = self._get(key, rule)
        if not _is_number(value, low, high):
            raise self.fail(key, rule)
        return float(value)

    def text(self, key: str, max_length: int = MAX_TEXT) -> str:
        """A text of at most `max_length` characters."""
        rule = f"a text of at most {max_length} characters"
        value = self._get(key, rule)
        if not isinstance(value, str) or len(value) > max_length:
            raise self.fail(key, rule)
        return value

    def boolean(self, key: str) -> bool:
        """True or false."""
        value = self._get(key, "true or false")
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def choice(self, key: str, options: Sequence[_Choice]) -> _Choice:
        """One text out of a closed set."""
        rule = "one of " + ", ".join(repr(option) for option in options)
        value = self._get(key, rule)
        for option in options:
            if isinstance(value, str) and value == option:
                return option
        raise self.fail(key, rule)

    def optional(self, key: str) -> bool:
        """Whether there is a value to read: False for a missing key, and for null."""
        if self._value.get(key) is None:
            self._unread.discard(key)
            return False
        return True

    def _list(
        self, key: str, rule: str, length: int | None = None, max_length: int = MAX_ITEMS
    ) -> list[Any]:
        """A list of exactly `length` or of at most `max_length` items, of any kind."""
        count = f"{length}" if length is not None else f"at most {max_length}"
        rule = f"a list of {count} {rule}"
        value = self._get(key, rule)
        if not isinstance(value, list) or len(value) > max_length:
            raise self.fail(key, rule)
        if length is not None and len(value) != length:
            raise self.fail(key, rule)
        return value

    def _check_each(
        self, key: str, values: list[Any], rule: str, fits: Callable[[Any], bool]
    ) -> None:
        for index, value in enumerate(values):
            if not fits(value):
                place = f"{self.where}.{key}[{index}]"
                raise ArtifactError(f"{place} must be {rule}; got {shown(value)}; {ADVICE}")

    def integers(
        self, key: str, low: int | None = None, high: int | None = None
    ) -> tuple[int, ...]:
        """A list of integers, each within the bounds."""
        bounds = _bounds(low, high)
        values = self._list(key, f"integers{bounds}")
        self._check_each(key, values, f"an integer{bounds}", lambda x: _is_integer(x, low, high))
        return tuple(values)

    def numbers(
        self,
        key: str,
        low: float | None = None,
        high: float | None = None,
        *,
        length: int | None = None,
    ) -> tuple[float, ...]:
        """A list of finite numbers, each within the bounds."""
        bounds = _bounds(low, high)
        values = self._list(key, f"finite numbers{bounds}", length)
        rule = f"a finite number{bounds}"
        self._check_each(key, values, rule, lambda x: _is_number(x, low, high))
        return tuple(float(value) for value in values)

    def texts(self, key: str, *, max_length: int = MAX_ITEMS) -> tuple[str, ...]:
        """A list of texts, each of at most `MAX_TEXT` characters."""
        values = self._list(key, "texts", max_length=max_length)
        rule = f"a text of at most {MAX_TEXT} characters"
        self._check_each(key, values, rule, lambda x: isinstance(x, str) and len(x) <= MAX_TEXT)
        return tuple(values)

    def child(self, key: str) -> Reader:
        """The object under a key, as a reader of its own (call its `done` too)."""
        return Reader(self._get(key, "an object"), f"{self.where}.{key}")

    def children(self, key: str, *, max_length: int = MAX_ITEMS) -> list[Reader]:
        """A list of objects, each as a reader of its own (call their `done` too)."""
        values = self._list(key, "objects", max_length=max_length)
        return [Reader(value, f"{self.where}.{key}[{i}]") for i, value in enumerate(values)]

    def mapping_of_numbers(self, key: str) -> dict[str, float]:
        """An object whose values are finite numbers."""
        rule = f"an object of at most {MAX_ITEMS} finite numbers"
        value = self._get(key, rule)
        if not isinstance(value, dict) or len(value) > MAX_ITEMS:
            raise self.fail(key, rule)
        for name, number in value.items():
            if not _is_number(number, None, None):
                place = f"{self.where}.{key}.{shown(name)[1:-1]}"
                raise ArtifactError(
                    f"{place} must be a finite number; got {shown(number)}; {ADVICE}"
                )
        return {name: float(number) for name, number in value.items()}

    def free(self, key: str) -> Any:
        """Any JSON value, sized only by the caps on the document: for what people alone read."""
        return self._get(key, "given")

    def __contains__(self, key: str) -> bool:
        """Whether the document has the key, null or not, and nobody has read it yet."""
        return key in self._unread

    def keys(self) -> tuple[str, ...]:
        """The keys nobody has read yet, sorted."""
        return tuple(sorted(self._unread))

    def done(self) -> None:
        """Refuse the keys that nobody read."""
        if self._unread:
            names = ", ".join(shown(name) for name in sorted(self._unread)[:5])
            raise ArtifactError(
                f"{self.where} must hold no other keys than those of its schema; "
                f"got {names}; {ADVICE}"
            )


class TensorBag:
    """The arrays of an artifact, taken out by name, dtype and shape.

    `arrays`: what `container.read_artifact` gave. The arrays are handed out, not copied.
    Raises `ArtifactError`: from `take` and `done`.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays
        self._left = set(arrays)
        self._prefix = ""

    def scoped(self, prefix: str) -> TensorBag:
        """A view of the names that begin with `prefix`, written without it.

        The prefix is joined as it stands (`scoped("encoder.")`, with the dot); `prefixed` is the
        writer's half. What is taken from the view is taken from this bag, and `done` of the view
        looks at the view's names only.
        """
        view = TensorBag.__new__(TensorBag)
        view._arrays = self._arrays
        view._left = self._left
        view._prefix = self._prefix + prefix
        return view

    def has(self, name: str) -> bool:
        """Whether there is an array of this name, taken or not."""
        return self._prefix + name in self._arrays

    def names(self) -> tuple[str, ...]:
        """The names that nobody has taken yet, sorted, without the prefix."""
        start = len(self._prefix)
        return tuple(sorted(name[start:] for name in self._left if name.startswith(self._prefix)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def take(
        self,
        name: str,
        dtype: str = "float32",
        shape: tuple[int | None, ...] = (None,),
        *,
        low: float | None = None,
        high: float | None = None,
        allow_nan: bool = False,
        allow_inf: bool = False,
    ) -> NDArray[Any]:
        """One array, checked.

        `name`: its name, without the prefix of a scoped bag.
        `dtype`: the exact NumPy dtype.
        `shape`: the exact shape; None stands for any length, zero included.
        `low`, `high`: bounds of every value, both inclusive; NaN, where allowed, is not held to
            them.
        `allow_nan`, `allow_inf`: whether a float array may hold them.
        Returns: the array itself: it may be read-only, and shares memory with its neighbours'
            buffer.
        """
        full = self._prefix + name
        rule = f"{dtype} of shape {_shape(shape)}"
        if full not in self._left:
            state = "it was already taken" if full in self._arrays else "it is missing"
            raise ArtifactError(f"tensors[{full!r}] must be {rule}; {state}; {ADVICE}")
        array = self._arrays[full]
        fits = len(array.shape) == len(shape) and all(
            want is None or want == have for want, have in zip(shape, array.shape, strict=True)
        )
        if array.dtype != np.dtype(dtype) or not fits:
            got = f"{array.dtype.name} of shape {_shape(array.shape)}"
            raise ArtifactError(f"tensors[{full!r}] must be {rule}; got {got}; {ADVICE}")
        self._check_values(full, array, low, high, allow_nan, allow_inf)
        self._left.discard(full)
        return array

    def _check_values(
        self,
        full: str,
        array: NDArray[Any],
        low: float | None,
        high: float | None,
        allow_nan: bool,
        allow_inf: bool,
    ) -> None:
        """Refuse NaN, infinities and values out of range, where they may not be."""
        if array.size == 0:
            return
        # minimum and maximum carry NaN, so two reductions without a temporary array see it all.
        with np.errstate(invalid="ignore"):
            least, most = array.min(), array.max()
        if array.dtype.kind == "f" and not (np.isfinite(least) and np.isfinite(most)):
            if not allow_nan and np.isnan(least):
                raise self._value_error(full, "no NaN", np.isnan(array), array)
            if not allow_inf and np.isinf(array).any():
                raise self._value_error(full, "finite values only", np.isinf(array), array)
            if np.isnan(least) and (low is not None or high is not None):
                known = array[~np.isnan(array)]
                if known.size == 0:
                    return
                least, most = known.min(), known.max()
        if low is not None and least < low:
            raise self._value_error(full, f"values of at least {low}", array < low, array)
        if high is not None and most > high:
            raise self._value_error(full, f"values of at most {high}", array > high, array)

    def _value_error(
        self, full: str, rule: str, wrong: NDArray[np.bool_], array: NDArray[Any]
    ) -> ArtifactError:
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        return ArtifactError(
            f"tensors[{full!r}] must hold {rule}; got {array[index]} at {index}; {ADVICE}"
        )

    def done(self) -> None:
        """Refuse the arrays that nobody took."""
        left = self.names()
        if left:
            names = ", ".join(repr(self._prefix + name) for name in left[:5])
            raise ArtifactError(
                f"tensors must hold no other arrays than those of its schema; got {names}; {ADVICE}"
            )


def _shape(shape: Sequence[int | None]) -> str:
    inner = ", ".join("any" if size is None else str(size) for size in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def prefixed(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The same arrays with `prefix` before each name: what `TensorBag.scoped` reads back."""
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def text_to_array(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts as two arrays: their UTF-8 bytes, one after the other, and where each one starts.

    `texts`: any number of texts; empty ones are fine.
    Returns data: (n_bytes,), uint8.
    Returns offsets: (n_texts + 1,), int64; text `i` is `data[offsets[i]:offsets[i + 1]]`.
    Raises `ArtifactError` if a text has no UTF-8 form (half of a surrogate pair).
    """
    try:
        parts = [text.encode("utf-8") for text in texts]
    except UnicodeEncodeError as error:
        raise ArtifactError(
            f"a text must be valid Unicode to be saved; got {shown(error.object)}; "
            "replace the characters that are half of a surrogate pair"
        ) from None
    offsets = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in parts], dtype=np.int64, out=offsets[1:])
    return np.frombuffer(b"".join(parts), dtype=np.uint8), offsets


def array_to_text(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], where: str = "texts"
) -> list[str]:
    """The strict inverse of `text_to_array`.

    `data`: (n_bytes,), uint8.
    `offsets`: (n_texts + 1,), int64.
    Raises `ArtifactError` if the offsets do not rise from 0 to the number of bytes, or a text is no
        UTF-8.
    """
    if data.dtype != np.uint8 or data.ndim != 1 or offsets.dtype != np.int64 or offsets.ndim != 1:
        raise ArtifactError(
            f"{where} must be one row of uint8 and one of int64; got {data.dtype.name} of shape "
            f"{_shape(data.shape)} and {offsets.dtype.name} of shape {_shape(offsets.shape)}; "
            f"{ADVICE}"
        )
    rising = offsets.size > 0 and offsets[0] == 0 and offsets[-1] == data.size
    if not rising or (offsets[1:] < offsets[:-1]).any():
        raise ArtifactError(
            f"{where} must have offsets that rise from 0 to the {data.size} bytes there are; "
            f"got {offsets[:3].tolist()} ... {offsets[-1:].tolist()}; {ADVICE}"
        )
    raw = data.tobytes()
    starts = offsets.tolist()
    try:
        return [raw[a:b].decode("utf-8") for a, b in itertools.pairwise(starts)]
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{where} must be UTF-8; got {error.object[:20]!r}; {ADVICE}") from None
