"""A server under malformed bodies: each is answered, none with a status from 500 on.

`python -m campaigns.malformed_requests` sends 10,000 bodies that Hypothesis makes: bytes, JSON of
any shape, and valid requests of which something was changed or cut.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.servers import GOLDEN, Server, serving

MODEL = "mixed-calibrated"
ROW: dict[str, Any] = {
    **{"size": 1.5, "count": 3, "key": 2**60, "large": 2**63, "kind": "red", "many": "level 1"},
    **{"open": True, "when": "2001-02-03T04:05:06", "day": "2001-02-03"},
}
PLAIN = {"rows": [ROW, ROW], "coverage": None}
TENSORS = {
    "id": "1",
    "parameters": {"binary_data_output": False},
    "inputs": [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [str(cell)]}
        for name, cell in ROW.items()
    ],
    "outputs": [{"name": "label", "parameters": {"binary_data": True}}],
}
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\ud800", "", "FP64", "BOOL", "INT8", "BYTES", -1, 2**64, 10**30, 1e308])
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place within a JSON value."""
    found = [path]
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            found += _places(inner, (*path, key))
    return found


@st.composite
def _changed(draw: st.DrawFn, request: dict[str, Any]) -> bytes:
    """A valid request of which up to three places hold something else, or are gone."""
    changed = copy.deepcopy(request)
    for _ in range(draw(st.integers(0, 3))):
        *path, last = draw(st.sampled_from(_places(changed)[1:] or [("rows",)]))
        holder: Any = changed
        for key in path:
            holder = holder[key]
        if draw(st.booleans()):
            holder[last] = draw(_VALUES)
        elif isinstance(holder, dict):
            holder.pop(last, None)
    raw = json.dumps(changed).encode()
    return raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 9)) == 0 else raw


BODIES = (
    st.binary()
    | _VALUES.map(lambda value: json.dumps(value).encode())
    | _changed(PLAIN)
    | _changed(TENSORS)
)
PATHS = st.sampled_from(["v1/models/{}/predict", "v2/models/{}/infer"])
HEADERS = st.fixed_dictionaries(
    {"Content-Type": st.just("application/json")},
    optional={
        "Inference-Header-Content-Length": st.integers(-2, 2000).map(str) | st.sampled_from("a+")
    },
)


def campaign(n_bodies: int) -> Counter[int]:
    """Send so many bodies; how often each status came.

    Raises
    ------
    AssertionError
        With the smallest body found, if a status is 500 or more.
    """
    statuses: Counter[int] = Counter()
    with serving(str(GOLDEN / f"{MODEL}.safetensors")) as server:

        @settings(
            max_examples=n_bodies,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(BODIES, PATHS, HEADERS)
        def send(body: bytes, path: str, headers: dict[str, str]) -> None:
            statuses[_status(server, body, path, headers)] += 1

        send()
        assert "Traceback" not in server.log(), server.log()
    return statuses


def _status(server: Server, body: bytes, path: str, headers: dict[str, str]) -> int:
    reply = server.ask("/" + path.format(MODEL), body, headers)
    assert reply.status < 500, (body, reply)
    if reply.status != 200:
        assert isinstance(reply.json()["error"], str)
    return reply.status


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bodies", type=int, default=10_000)
    arguments = parser.parse_args()
    print(dict(sorted(campaign(arguments.bodies).items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
