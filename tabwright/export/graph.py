"""A small builder of ONNX graphs: nodes, constants, inputs, outputs, and the bytes of the whole.

Here lives what any graph needs and nothing that knows of tables or networks. The onnx package is
loaded when a graph is begun.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tabwright.errors import install_command

if TYPE_CHECKING:
    import types

# Old enough for every ONNX Runtime since 1.12, and all that is needed.
OPSET = 17
_ML_OPSET = 3
_IR_VERSION = 8
ML_DOMAIN = "ai.onnx.ml"
_LARGEST_PROTOBUF = 2**31 - 1

FloatArray = NDArray[np.float64]


def require(name: str) -> types.ModuleType:
    """A module of the extra `onnx`.

    Raises `ImportError`: with the line that installs it, if it is missing.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"exporting to ONNX needs {name.partition('.')[0]}, which is not installed; run: "
            f"{install_command('onnx')}",
            name=name,
        ) from error


class Graph:
    """A graph under construction; values are known by their names.

    `reserved`: names that inputs and outputs will have; values in between get others.
    """

    def __init__(self, reserved: Iterable[str]) -> None:
        self._onnx = require("onnx")
        self._helper = require("onnx.helper")
        self._arrays = require("onnx.numpy_helper")
        self._prefix = "_"
        taken = tuple(reserved)
        while any(name.startswith(self._prefix) for name in taken):
            self._prefix += "_"
        self._nodes: list[Any] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Any] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def constant(self, value: NDArray[Any]) -> str:
        """A constant tensor; equal ones are kept once."""
        raw = repr(value.tolist()).encode() if value.dtype.kind in "OU" else value.tobytes()
        key = (value.dtype.str, value.shape, raw)
        if key not in self._constants:
            name = f"{self._prefix}constant_{len(self._constants)}"
            text = value.astype(object) if value.dtype.kind == "U" else value
            self._constants[key] = self._arrays.from_array(text, name)
        return str(self._constants[key].name)

    def float64(self, value: float) -> str:
        """A float64 scalar."""
        return self.constant(np.array(value, dtype=np.float64))

    def float32(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(np.array(value, dtype=np.float32))

    def int64(self, value: int | Sequence[int]) -> str:
        """An int64 scalar, or a vector."""
        return self.constant(np.array(value, dtype=np.int64))

    def add(
        self,
        operator: str,
        *inputs: str,
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
        unused: int = 0,
    ) -> str:
        """A node and the name of its first output; `unused` more are there and not needed."""
        name = f"{self._prefix}{operator}_{len(self._nodes)}"
        names = [name, *(f"{name}_{k}" for k in range(1, unused + 1))]
        node = self._helper.make_node(
            operator, list(inputs), names, domain=domain or None, **(attributes or {})
        )
        self._nodes.append(node)
        return name

    def cast(self, value: str, dtype: str) -> str:
        """A value in another dtype, by its NumPy name."""
        return self.add("Cast", value, attributes={"to": self._kind(dtype)})

    def concat(self, values: Sequence[str], axis: int = 1) -> str:
        """Values side by side; one alone stays as it is."""
        if len(values) == 1:
            return values[0]
        return self.add("Concat", *values, attributes={"axis": axis})

    def columns(self, value: str, index: NDArray[np.int64] | Sequence[int]) -> str:
        """Columns of a matrix."""
        place = self.constant(np.asarray(index, dtype=np.int64))
        return self.add("Gather", value, place, attributes={"axis": 1})

    def sum(self, value: str, axis: int, *, keep: bool = False) -> str:
        """The sum along an axis."""
        return self.add("ReduceSum", value, self.int64([axis]), attributes={"keepdims": int(keep)})

    def input(self, name: str, dtype: str, doc: str) -> None:
        """Declare an input of shape (rows, 1)."""
        info = self._helper.make_tensor_value_info(name, self._kind(dtype), ["rows", 1])
        info.doc_string = doc
        self._inputs.append(info)

    def output(self, name: str, source: str, dtype: str, width: int | None = None) -> None:
        """Declare a value an output: of shape (rows,), or (rows, width)."""
        shape: list[str | int] = ["rows"] if width is None else ["rows", width]
        self._nodes.append(self._helper.make_node("Identity", [source], [name]))
        self._outputs.append(self._helper.make_tensor_value_info(name, self._kind(dtype), shape))

    def to_bytes(self, *, name: str, version: str, doc: str, metadata: Mapping[str, str]) -> bytes:
        """The finished model, checked in full mode; the same bytes for the same graph.

        Raises `ValueError` if it is larger than the 2 GiB that one ONNX file can hold.
        """
        graph = self._helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, list(self._constants.values())
        )
        model = self._helper.make_model(
            graph,
            producer_name="tabwright",
            producer_version=version,
            doc_string=doc,
            opset_imports=[
                self._helper.make_opsetid("", OPSET),
                self._helper.make_opsetid(ML_DOMAIN, _ML_OPSET),
            ],
            ir_version=_IR_VERSION,
        )
        self._helper.set_model_props(model, dict(sorted(metadata.items())))
        if model.ByteSize() > _LARGEST_PROTOBUF:
            raise ValueError(
                f"an ONNX file must be below 2 GiB; this model makes {model.ByteSize():,} bytes; "
                "train fewer or smaller members"
            )
        self._onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def _kind(self, dtype: str) -> int:
        if dtype == "string":
            return int(self._onnx.TensorProto.STRING)
        return int(self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def floor_divide(graph: Graph, value: str, divisor: int) -> str:
    """`value // divisor` of int64, rounding down; ONNX rounds towards zero."""
    by, zero = graph.int64(divisor), graph.int64(0)
    exact = graph.add("Equal", graph.add("Mod", value, by), zero)
    down = graph.add("And", graph.add("Less", value, zero), graph.add("Not", exact))
    return graph.add("Sub", graph.add("Div", value, by), graph.cast(down, "int64"))


def piecewise_linear(
    graph: Graph, x: str, knots: Sequence[FloatArray], values: Sequence[FloatArray]
) -> str:
    """Each column through its own piecewise-linear function, constant beyond its ends.

    `x`: float64 of shape (rows, n_columns), finite.
    `knots`, `values`: (n_knots,), float64; of each column: the places, rising, and the values
        there; none: 0.
    Returns: float64 of the same shape. The interval is found by binary search, all columns at once.
    """
    depth = max(len(part) for part in knots).bit_length()
    width = 2 ** max(depth, 1)
    places = np.full((len(knots), width), np.inf)
    heights = np.zeros((len(knots), width))
    slopes = np.zeros((len(knots), width))
    for j, (column_knots, height) in enumerate(zip(knots, values, strict=True)):
        n = len(column_knots)
        # The first interval stands for everything below: its slope is 0. So is the last one's.
        places[j, 0] = column_knots[0] - 1.0 if n else 0.0
        heights[j, 0] = height[0] if n else 0.0
        places[j, 1 : n + 1] = column_knots
        heights[j, 1 : n + 1] = height
        steps = np.diff(column_knots)
        slopes[j, 1:n] = np.divide(
            np.diff(height), steps, out=np.zeros_like(steps), where=steps > 0
        )
    flat = graph.constant(places.ravel())
    at = graph.constant(np.arange(len(knots), dtype=np.int64)[None] * width)
    step = width // 2
    while step:
        ahead = graph.add("Add", at, graph.int64(step))
        reached = graph.add("LessOrEqual", graph.add("Gather", flat, ahead), x)
        at = graph.add("Where", reached, ahead, at)
        step //= 2
    moved = graph.add("Sub", x, graph.add("Gather", flat, at))
    risen = graph.add("Mul", moved, graph.add("Gather", graph.constant(slopes.ravel()), at))
    return graph.add("Add", risen, graph.add("Gather", graph.constant(heights.ravel()), at))
