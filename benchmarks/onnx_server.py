"""A model's ONNX graph behind Starlette and uvicorn: what a team would write by hand.

`python -m benchmarks.onnx_server GRAPH PORT` answers `POST /predict` with `{"rows": [...]}`.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_TYPES = {
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(string)": np.object_,
}


def make_app(graph: str) -> Starlette:
    """The application; it checks nothing that ONNX Runtime does not check."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    inputs = [(column.name, _TYPES[column.type]) for column in session.get_inputs()]
    outputs = [output.name for output in session.get_outputs()]

    async def predict(request: Request) -> Response:
        rows = json.loads(await request.body())["rows"]
        feed: dict[str, np.ndarray] = {
            name: np.array([[row[name]] for row in rows], dtype=dtype) for name, dtype in inputs
        }
        found = session.run(None, feed)
        pairs = zip(outputs, found, strict=True)
        return JSONResponse({name: np.asarray(value).tolist() for name, value in pairs})

    return Starlette(routes=[Route("/predict", predict, methods=["POST"])])


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]), access_log=False, log_level="warning")
