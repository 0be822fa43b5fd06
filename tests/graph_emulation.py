"""CUDA graphs on a CPU, for tests: `EmulatedCapture`, and `HostWaits`, which counts waits.

A capture records every operation of torch and leaves no trace: what it wrote is as before, and
what it made holds garbage. A replay does the operations again at the same addresses. As on a
device, a graph owns the memory that it made, keeps nothing else alive, and knows of the host only
the numbers that were there when it was captured. What CUDA cannot capture is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tabwright.training.cuda_graphs import Graph

__all__ = ["EmulatedCapture", "HostWaits", "NotCapturableError"]

# What leaves torch without an operation that is seen here: what waits for a device, and others.
# `one_hot` reads the classes inside, where no mode looks.
_WAITS = frozenset({"tolist", "numpy", "cpu", "__array__", "one_hot"})
_ESCAPES = _WAITS | {"data_ptr", "pin_memory"}
_INDEXING = frozenset({"index", "index_put", "index_put_", "_unsafe_index"})
_GARBAGE = 0xFF  # floats of it are NaN


class NotCapturableError(RuntimeError):
    """CUDA would have refused it."""


def _is_composite(func: Any) -> bool:
    """Whether it is made of other operations, which inference mode does not take apart itself."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _why_not(func: Any, args: tuple[Any, ...]) -> str | None:
    """Why the host would wait for the device, or the device for the host; None: it does not."""
    name = func.overloadpacket.__name__
    if name == "lift_fresh":
        return "makes a tensor of what the host has"
    if torch.Tag.data_dependent_output in func.tags:
        return "gives the host a number"
    if name in _INDEXING:
        masks = (leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor))
        if not any(mask.dtype in (torch.bool, torch.uint8) for mask in masks):
            return None
        return "has a shape that depends on values"
    if torch.Tag.dynamic_output_shape in func.tags:
        return "has a shape that depends on values"
    return None


@dataclass(frozen=True)
class _Address:
    """Where a tensor lies, without keeping it there."""

    storage: StorageWeakRef
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> _Address:
        return cls(
            StorageWeakRef(tensor.untyped_storage()),  # type: ignore[no-untyped-call]
            tensor.dtype,
            int(tensor.storage_offset()),
            tuple(tensor.shape),
            tensor.stride(),
        )

    def tensor(self) -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        if storage is None:
            raise RuntimeError("a graph must not outlive memory that it uses; it was freed")
        empty = torch.empty(0, dtype=self.dtype)
        return empty.set_(storage, self.offset, self.shape, self.stride)


class _Operation(NamedTuple):
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made: list[_Address]


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


class _EmulatedGraph(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operations: list[_Operation] = []
        self._own: dict[int, torch.UntypedStorage] = {}
        self._before: dict[int, tuple[torch.UntypedStorage, Tensor]] = {}
        self.n_replays = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        reason = _why_not(func, args)
        if reason is None and torch.Tag.nondeterministic_seeded in func.tags:
            reason = "draws from a generator"
        if reason is not None:
            raise NotCapturableError(f"{func} {reason}")
        written = list(_written(func, args, kwargs))
        for tensor in written:
            self._keep(tensor.untyped_storage())
        result = func(*args, **kwargs)
        made = _made(func, result)
        for tensor in made:
            storage = tensor.untyped_storage()
            self._own[storage._cdata] = storage
        if made or written:
            args, kwargs = tree_map(_frozen, (args, kwargs))
            addresses = [_Address.of(tensor) for tensor in made]
            self._operations.append(_Operation(func, args, kwargs, addresses))
        return result

    def _keep(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._own and key not in self._before:
            self._before[key] = storage, _bytes(storage).clone()

    def end(self) -> None:
        """Undo what the recording did."""
        for storage, content in self._before.values():
            _bytes(storage).copy_(content)
        self._before.clear()
        self._spoil()

    def _spoil(self) -> None:
        """Graphs that share memory overwrite it: nothing of its own outlives a replay."""
        for storage in self._own.values():
            _bytes(storage).fill_(_GARBAGE)

    def replay(self) -> None:
        self.n_replays += 1
        with torch.inference_mode():
            for func, args, kwargs, made in self._operations:
                args, kwargs = tree_map(_thawed, (args, kwargs))
                result = func(*args, **kwargs)
                if "empty" not in func.overloadpacket.__name__:
                    for address, tensor in zip(made, _made(func, result), strict=True):
                        address.tensor().copy_(tensor)
            self._spoil()


def _frozen(leaf: object) -> object:
    return _Address.of(leaf) if isinstance(leaf, Tensor) else leaf


def _thawed(leaf: object) -> object:
    return leaf.tensor() if isinstance(leaf, _Address) else leaf


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _made(func: Any, result: Any) -> list[Tensor]:
    """The results that are no views of an argument."""
    returns = func._schema.returns
    results = (result,) if len(returns) == 1 else result or ()
    return [
        leaf
        for declared, value in zip(returns, results, strict=True)
        if declared.alias_info is None
        for leaf in tree_leaves(value)
        if isinstance(leaf, Tensor)
    ]


class _Methods(TorchFunctionMode):
    """Tells of each call of a method by one of the names."""

    def __init__(self, names: frozenset[str], tell: Callable[[str], None]) -> None:
        super().__init__()
        self._names, self._tell = names, tell

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in self._names:
            self._tell(f"{name} gives the host what is on the device")
        return func(*args, **(kwargs or {}))


def _refuse(reason: str) -> None:
    raise NotCapturableError(reason)


class EmulatedCapture:
    """`graphs.Capture` on a CPU, with the graphs that it made."""

    def __init__(self) -> None:
        self.graphs: list[_EmulatedGraph] = []

    def run(self, work: Callable[[], None]) -> None:
        work()

    def capture(self, work: Callable[[], None], beside: Graph | None) -> Graph:
        graph = _EmulatedGraph()
        try:
            with graph, _Methods(_ESCAPES, _refuse):
                work()
        finally:
            graph.end()
        self.graphs.append(graph)
        return graph


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells of each operation that would make the host wait."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tell = tell

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        reason = _why_not(func, args)
        if reason is not None:
            self._tell(f"{func} {reason}")
        return func(*args, **kwargs)


class HostWaits:
    """While it is entered, `found` gathers what would make the host wait for a CUDA device."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._modes = ExitStack()

    def __enter__(self) -> HostWaits:
        self._modes.enter_context(_Operations(self.found.append))
        self._modes.enter_context(_Methods(_WAITS, self.found.append))
        return self

    def __exit__(self, *error: object) -> None:
        self._modes.close()
