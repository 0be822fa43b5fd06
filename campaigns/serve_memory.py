"""A server under many requests: its memory stays flat and none fails.

`python -m campaigns.serve_memory` asks 100,000 times, one row and 100 rows in turn, by both
protocols, with texts that the model has never seen.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.serving.servers import GOLDEN, Server, serving

MODEL = "mixed-calibrated"


def campaign(n_requests: int, *, most_mib: float) -> float:
    """Ask so many times; the growth of the server's memory after the first tenth, in MiB.

    Raises
    ------
    RuntimeError
        If a request fails, or the memory grows by more than `most_mib`.
    """
    with serving(str(GOLDEN / f"{MODEL}.safetensors")) as server:
        inputs = server.ask(f"/v2/models/{MODEL}").json()["inputs"]
        first = 0.0
        for number in range(n_requests):
            if number == n_requests // 10:
                first = resident_mib(server.process.pid)
            _ask(server, number, inputs)
        grown = resident_mib(server.process.pid) - first
    if grown > most_mib:
        raise RuntimeError(f"memory grew by {grown:.1f} MiB over {n_requests} requests")
    return grown


def resident_mib(pid: int) -> float:
    """Memory that a process holds, in MiB (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found
    return int(found[1]) / 1024


def _ask(server: Server, number: int, inputs: list[dict[str, Any]]) -> None:
    row: dict[str, object] = {column["name"]: None for column in inputs}
    row |= {"size": number / 7, "many": f"text {number}", "when": "2001-02-03T04:05:06"}
    if number % 3 == 2:
        tensors = [
            {"name": c["name"], "shape": [1], "datatype": c["datatype"], "data": [row[c["name"]]]}
            for c in inputs
        ]
        reply = server.infer(MODEL, {"inputs": tensors})
    elif number % 50 == 0:
        reply = server.predict(MODEL, {"rows": [row] * 100})
    else:
        reply = server.predict(MODEL, {"rows": [row]})
    if reply.status != 200:
        raise RuntimeError(f"request {number} failed: {json.dumps(row)} {reply.body!r}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--most-mib", type=float, default=8.0, help="growth that is a failure")
    arguments = parser.parse_args()
    grown = campaign(arguments.requests, most_mib=arguments.most_mib)
    print(f"{arguments.requests:,} requests answered; memory grew by {grown:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
