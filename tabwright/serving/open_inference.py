"""The Open Inference Protocol, version 2, over HTTP: one tensor a column.

Source: the Open Inference Protocol specification (KServe), "HTTP/REST", and the binary tensor data
extension of NVIDIA Triton. Text travels as BYTES. A missing cell is null in JSON data; in binary
data, which has no null, it is NaN in a floating tensor and the empty text in a BYTES tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.serving.model import Answer, Column, RequestError, ServedModel, check_text, shown
from tabwright.serving.rows import check_n_rows, coverage_of, read_body, to_json

_NUMBERS: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
_DATATYPES = (*_NUMBERS, "BYTES")
# The datatype that a client is told to send; any other that holds the cells is taken too.
_NAMES = {
    "float64": "FP64",
    "int64": "INT64",
    "uint64": "UINT64",
    "bool": "BOOL",
    "string": "BYTES",
}
_LENGTH_BYTES = 4


def server_metadata(version: str) -> dict[str, Any]:
    """What `GET /v2` says."""
    return {"name": "tabwright", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """What `GET /v2/models/NAME` says: inputs with the table's schema, and outputs."""
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "tabwright",
        "inputs": [
            {
                "name": column.name,
                "datatype": _NAMES[column.dtype],
                "shape": [-1],
                "parameters": _facts(column),
            }
            for column in model.columns
        ],
        "outputs": _output_metadata(model),
    }


def infer(
    model: ServedModel, body: bytes, header_length: int | None, max_rows: int
) -> tuple[bytes, int | None]:
    """The answer to an inference request.

    `header_length`: bytes of the JSON in front of the binary data; None: all of it is JSON.
    Returns header_length: as above, of the answer.
    Raises `RequestError` if the request breaks the protocol, or the model cannot answer it.
    """
    if header_length is not None and header_length > len(body):
        raise RequestError(
            "Inference-Header-Content-Length must be at most the length of the body, "
            f"{len(body)}; got {header_length}; send the length of the JSON part"
        )
    request = read_body(body[:header_length])
    binary = memoryview(body)[len(body) if header_length is None else header_length :]
    parameters = _parameters(request, "the request")
    columns = _columns(request, binary, max_rows)
    wanted = _wanted_outputs(request, model, bool(parameters.get("binary_data_output", False)))
    answer = model.predict_columns(columns, coverage_of(parameters))
    reply: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if "id" in request:
        if not isinstance(request["id"], str):
            raise RequestError(f"'id' must be text; got {shown(request['id'])}; quote it")
        check_text("id", request["id"], 1)
        reply["id"] = request["id"]
    tensors = _tensors(model, answer)
    pieces: list[bytes] = []
    reply["outputs"] = [
        _write(name, tensors[name], pieces if is_binary else None)
        for name, is_binary in wanted.items()
        if name in tensors
    ]
    head = to_json(reply)
    return (head + b"".join(pieces), len(head)) if pieces else (head, None)


def _facts(column: Column) -> dict[str, Any]:
    return {"kind": column.kind} | ({"levels": list(column.levels)} if column.levels else {})


def _output_metadata(model: ServedModel) -> list[dict[str, Any]]:
    """The tensors that an answer has."""
    if model.classes is None:
        ends = [{"name": name, "datatype": "FP64", "shape": [-1]} for name in ("low", "high")]
        has_intervals = model.fitted.intervals is not None
        value = {"name": "value", "datatype": "FP64", "shape": [-1]}
        return [value, *(ends if has_intervals else [])]
    return [
        {"name": "label", "datatype": _label_type(model), "shape": [-1]},
        {
            "name": "probabilities",
            "datatype": "FP64",
            "shape": [-1, len(model.classes)],
            "parameters": {"classes": model.classes},
        },
    ]


def _label_type(model: ServedModel) -> str:
    classes = model.fitted.classes
    assert classes is not None
    names = {"b": "BOOL", "i": "INT64", "u": "UINT64", "f": "FP64"}
    return names.get(classes.dtype.kind, "BYTES")


# ---------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------


def _parameters(holder: dict[str, Any], what: str) -> dict[str, Any]:
    found = holder.get("parameters", {})
    if not isinstance(found, dict):
        raise RequestError(f"'parameters' of {what} must be an object; got {shown(found)}")
    return found


def _columns(request: dict[str, Any], binary: memoryview, max_rows: int) -> dict[str, pl.Series]:
    """The columns of a request by name, all of one length."""
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs or not all(type(t) is dict for t in inputs):
        raise RequestError(
            f"'inputs' must be a list of one tensor a column; got {shown(inputs)}; see the model's "
            "metadata for its columns"
        )
    columns: dict[str, pl.Series] = {}
    n_rows: int | None = None
    for tensor in inputs:
        name = tensor.get("name")
        if not isinstance(name, str):
            raise RequestError(f"the 'name' of an input must be a column; got {shown(name)}")
        if name in columns:
            raise RequestError(f"inputs must differ; got column {name!r} twice; leave one out")
        n_tensor_rows = _n_rows(tensor, name)
        if n_rows is None:
            check_n_rows(n_tensor_rows, max_rows)
            n_rows = n_tensor_rows
        elif n_tensor_rows != n_rows:
            raise RequestError(
                f"all columns must have the same number of rows; got {n_tensor_rows} in column "
                f"{name!r} after {n_rows}; send each with every row"
            )
        columns[name], binary = _column(tensor, name, n_tensor_rows, binary)
    if len(binary):
        raise RequestError(
            f"the binary data must be that of the inputs; got {len(binary)} bytes more; check "
            "'binary_data_size' of every input"
        )
    return columns


def _n_rows(tensor: dict[str, Any], name: str) -> int:
    """The number of rows that a tensor's shape says."""
    shape = tensor.get("shape")
    sizes = shape if isinstance(shape, list) else []
    if (
        len(sizes) not in (1, 2)
        or not all(type(size) is int and size > 0 for size in sizes)
        or sizes[1:] not in ([], [1])
    ):
        raise RequestError(
            f"the shape of column {name!r} must be [rows] or [rows, 1]; got {shown(shape)}; send "
            "one tensor a column"
        )
    return int(sizes[0])


def _column(
    tensor: dict[str, Any], name: str, n_rows: int, binary: memoryview
) -> tuple[pl.Series, memoryview]:
    """A column, and the binary data behind its own."""
    datatype = tensor.get("datatype")
    if datatype not in _DATATYPES:
        raise RequestError(
            f"the datatype of column {name!r} must be one of {', '.join(_DATATYPES)}; got "
            f"{shown(datatype)}; see the model's metadata"
        )
    size = _parameters(tensor, f"column {name!r}").get("binary_data_size")
    if size is None:
        return _from_json(name, datatype, _flat(tensor.get("data"), name, n_rows)), binary
    if type(size) is not int or not 0 <= size <= len(binary):
        raise RequestError(
            f"'binary_data_size' of column {name!r} must be a number of bytes that the body has; "
            f"got {shown(size)} with {len(binary)} left; check Inference-Header-Content-Length"
        )
    read = _bytes_cells if datatype == "BYTES" else _number_cells
    return read(name, datatype, binary[:size], n_rows), binary[size:]


def _flat(data: Any, name: str, n_rows: int) -> list[Any]:
    """The cells of a tensor, with or without an inner list for each."""
    cells = data if isinstance(data, list) else []
    if len(cells) == n_rows and all(type(cell) is list and len(cell) == 1 for cell in cells):
        cells = [cell[0] for cell in cells]
    if len(cells) != n_rows:
        raise RequestError(
            f"the data of column {name!r} must be a list of {n_rows} cells, as its shape says; got "
            f"{shown(data)}; correct one of the two"
        )
    return cells


def _from_json(name: str, datatype: str, cells: list[Any]) -> pl.Series:
    """A column from JSON cells, each of which must be of the datatype."""
    kinds: tuple[type, ...] = (float, int)
    what, dtype = "numbers", np.dtype("<f8")
    if datatype == "BYTES":
        kinds, what = (str,), "texts"
    elif datatype == "BOOL":
        kinds, what = (bool,), "true or false"
    elif not datatype.startswith("FP"):
        kinds, what, dtype = (int,), "whole numbers", _NUMBERS[datatype]
    for number, cell in enumerate(cells, 1):
        fits = cell is None or type(cell) in kinds
        if fits and dtype.kind in "iu" and cell is not None:
            bits = 8 * dtype.itemsize
            low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if dtype.kind == "i" else (0, 2**bits)
            fits = low <= cell < high
        if not fits:
            raise RequestError(
                f"column {name!r} must hold {what} of the datatype {datatype}, or null; got "
                f"{shown(cell)} in row {number}; correct the cell or the datatype"
            )
        if type(cell) is str:
            check_text(name, cell, number)
    if datatype == "BYTES":
        return pl.Series(name, cells, dtype=pl.String)
    if datatype == "BOOL":
        return pl.Series(name, cells, dtype=pl.Boolean)
    if dtype.kind == "f":
        return pl.Series(name, [None if c is None else float(c) for c in cells], dtype=pl.Float64)
    return pl.Series(name, cells, dtype=pl.UInt64 if dtype.kind == "u" else pl.Int64)


def _number_cells(name: str, datatype: str, data: memoryview, n_rows: int) -> pl.Series:
    """A column from the bytes of a tensor; NaN is missing."""
    dtype = _NUMBERS[datatype]
    if len(data) != n_rows * dtype.itemsize:
        raise RequestError(
            f"column {name!r} must have {n_rows * dtype.itemsize} bytes, {n_rows} cells of "
            f"{datatype}; got {len(data)}; check its shape and 'binary_data_size'"
        )
    if datatype == "BOOL":
        bits = np.frombuffer(data, dtype=np.uint8)
        if (bits > 1).any():
            raise RequestError(
                f"column {name!r} must hold the bytes 0 and 1; got {bits.max()} in row "
                f"{int(bits.argmax()) + 1}; send booleans"
            )
    values = np.frombuffer(data, dtype=dtype)
    if dtype.itemsize == 2 and dtype.kind == "f":
        values = values.astype(np.float32)
    series = pl.Series(name, values)
    return series.fill_nan(None) if dtype.kind == "f" else series


def _bytes_cells(name: str, datatype: str, data: memoryview, n_rows: int) -> pl.Series:
    """Cells of which each is a length of four bytes, little-endian, and its UTF-8 text."""
    cells: list[str | None] = []
    at = 0
    for number in range(1, n_rows + 1):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[start - _LENGTH_BYTES : start], "little")
        if start > len(data) or at > len(data):
            raise RequestError(
                f"column {name!r} must hold {n_rows} texts of {datatype}; its data end within row "
                f"{number}; check its shape and 'binary_data_size'"
            )
        try:
            cells.append(str(data[start:at], "utf-8") or None)
        except UnicodeDecodeError:
            raise RequestError(
                f"column {name!r} must hold text in UTF-8; got {shown(bytes(data[start:at]))} in "
                f"row {number}; encode it"
            ) from None
    if at != len(data):
        raise RequestError(
            f"column {name!r} must hold {n_rows} texts of {datatype}; got {len(data) - at} bytes "
            "more; check its shape and 'binary_data_size'"
        )
    return pl.Series(name, cells, dtype=pl.String)


def _wanted_outputs(request: dict[str, Any], model: ServedModel, binary: bool) -> dict[str, bool]:
    """Names of the outputs asked for, and whether each goes as binary data."""
    names = [str(output["name"]) for output in _output_metadata(model)]
    outputs = request.get("outputs")
    if outputs is None:
        return dict.fromkeys(names, binary)
    if not isinstance(outputs, list) or not all(type(output) is dict for output in outputs):
        raise RequestError(f"'outputs' must be a list of objects; got {shown(outputs)}")
    wanted: dict[str, bool] = {}
    for output in outputs:
        name = output.get("name")
        if name not in names:
            raise RequestError(
                f"an output must be one of {', '.join(names)}; got {shown(name)}; see the model's "
                "metadata"
            )
        wanted[name] = bool(_parameters(output, f"output {name}").get("binary_data", binary))
    return wanted or dict.fromkeys(names, binary)


# ---------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------

_Tensor = tuple[str, NDArray[Any]]


def _tensors(model: ServedModel, answer: Answer) -> dict[str, _Tensor]:
    """Outputs by name: datatype and values."""
    if answer.values is None:
        assert answer.proba is not None
        datatype = _label_type(model)
        dtype = object if datatype == "BYTES" else _NUMBERS[datatype]
        return {
            "label": (datatype, np.array(answer.labels, dtype=dtype)),
            "probabilities": ("FP64", answer.proba),
        }
    found: dict[str, _Tensor] = {"value": ("FP64", answer.values)}
    if answer.ends is not None:
        found["low"], found["high"] = (("FP64", ends) for ends in answer.ends.T)
    return found


def _write(name: str, tensor: _Tensor, pieces: list[bytes] | None) -> dict[str, Any]:
    """An output of the answer; with `pieces`, its data go there, else they are in the JSON."""
    datatype, values = tensor
    described: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
    if pieces is None:
        # JSON has no infinity: the end of an interval that is infinite is null.
        data = values.ravel().tolist()
        finite = values.dtype == object or bool(np.isfinite(values).all())
        described["data"] = data if finite else [v if math.isfinite(v) else None for v in data]
        return described
    if datatype == "BYTES":
        texts = [text.encode() for text in values.tolist()]
        data_bytes = b"".join(len(t).to_bytes(_LENGTH_BYTES, "little") + t for t in texts)
    else:
        data_bytes = np.ascontiguousarray(values, dtype=_NUMBERS[datatype]).tobytes()
    described["parameters"] = {"binary_data_size": len(data_bytes)}
    pieces.append(data_bytes)
    return described
