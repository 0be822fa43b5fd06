"""A server as clients see it: tritonclient, curl, a socket. Each test's server is a process."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tritonclient.http as triton

from tabwright.serving.app import make_app
from tabwright.serving.registry import ModelRegistry
from tests.golden.rows import Golden, read_golden
from tests.serving.servers import GOLDEN, ROOT, Reply, Server, serving

NAMES = ("binary-mlp", "mixed-calibrated", "mixed-regression", "three-vector")
_TYPES = {"FP64": np.float64, "INT64": np.int64, "UINT64": np.uint64, "BOOL": np.bool_}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(
        *(str(GOLDEN / f"{name}.safetensors") for name in NAMES), "--max-rows", "500"
    ) as running:
        yield running


def golden(name: str) -> Golden:
    return read_golden(GOLDEN / f"{name}.safetensors")


def json_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows as a JSON client would send them: dates and times as ISO text."""
    moments = pl.selectors.date() | pl.selectors.datetime()
    rows: list[dict[str, Any]] = json.loads(
        json.dumps(
            frame.with_columns(
                moments.cast(pl.Datetime("us")).dt.to_string("iso:strict")
            ).to_dicts()
        )
    )
    return rows


def outputs(reply: Reply) -> np.ndarray:
    """Probabilities or values of a plain answer."""
    assert reply.status == 200, reply.body
    found = reply.json()["predictions"]
    return np.array(
        [p["value"] if "value" in p else list(p["probabilities"].values()) for p in found]
    )


def error(reply: Reply, status: int = 400) -> str:
    assert reply.status == status, reply.body
    message = reply.json()["error"]
    assert isinstance(message, str)
    return message


@pytest.mark.parametrize("name", NAMES)
def test_rows_as_json_are_predicted_as_a_table_is(name: str, server: Server) -> None:
    own = golden(name)
    rows = json_rows(own.frame)
    allowed = 1e-6 * max(1.0, float(np.abs(own.predictions).max()))
    together = outputs(server.predict(name, {"rows": rows}))
    np.testing.assert_allclose(together, own.predictions, rtol=0, atol=allowed)
    alone = [outputs(server.predict(name, {"rows": [row]}))[0] for row in rows]
    np.testing.assert_allclose(alone, own.predictions, rtol=0, atol=allowed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_predicts(name: str, binary: bool, server: Server) -> None:
    own = golden(name)
    client = triton.InferenceServerClient(server.host)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name)
    metadata = client.get_model_metadata(name)
    texts = own.frame.with_columns(
        (pl.selectors.date() | pl.selectors.datetime()).cast(pl.Datetime("us")).dt.to_string("iso")
    )
    whole = texts.drop_nulls()
    if binary:
        # The missing cells of these have a spelling of their own: NaN, and the empty text.
        whole = texts.filter(~pl.any_horizontal(pl.selectors.boolean().is_null()))
    assert whole.height > 1
    tensors = []
    for column in metadata["inputs"]:
        series, datatype = whole[column["name"]], column["datatype"]
        if datatype == "BYTES":
            values = series.fill_null("").to_numpy().astype(object)
        else:
            values = series.to_numpy().astype(_TYPES[datatype])
        tensor = triton.InferInput(column["name"], [len(whole)], datatype)
        tensor.set_data_from_numpy(values, binary_data=binary)
        tensors.append(tensor)
    names = [
        output["name"] for output in metadata["outputs"] if output["name"] not in ("low", "high")
    ]
    wanted = [triton.InferRequestedOutput(output, binary_data=binary) for output in names]
    found = client.infer(name, tensors, outputs=wanted, request_id="7")
    client.close()
    assert found.get_response()["id"] == "7"
    kept = texts.with_row_index("row").join(
        whole.with_columns(there=True), on=texts.columns, how="left", nulls_equal=True
    )
    expected = own.predictions[kept.filter(pl.col("there"))["row"].to_numpy()]
    main = "value" if own.classes is None else "probabilities"
    np.testing.assert_allclose(found.as_numpy(main), expected, rtol=1e-6, atol=1e-6)
    if own.classes is not None:
        labels = found.as_numpy("label").tolist()
        plain = [label.decode() if isinstance(label, bytes) else label for label in labels]
        assert set(plain) <= set(own.classes)


def test_curl_gets_intervals(server: Server) -> None:
    row = json_rows(golden("mixed-regression").frame)[0]
    # Before curl, which may take longer than the server keeps a connection without requests.
    wide = server.predict("mixed-regression", {"rows": [row], "coverage": 0.9}).json()
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--fail-with-body"),
            *("-H", "Content-Type: application/json"),
            *("--data", json.dumps({"rows": [row], "coverage": 0.8})),
            f"{server.address}/v1/models/mixed-regression/predict",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    (one,) = json.loads(done.stdout)["predictions"]
    assert one["low"] < one["value"] < one["high"]
    assert wide["predictions"][0]["high"] >= one["high"]
    inputs = [
        {"name": n, "shape": [1], "datatype": t["datatype"], "data": [row[n]]}
        for t in server.ask("/v2/models/mixed-regression").json()["inputs"]
        for n in [t["name"]]
    ]
    found = server.infer("mixed-regression", {"inputs": inputs, "parameters": {"coverage": 0.8}})
    tensors = {t["name"]: t["data"][0] for t in found.json()["outputs"]}
    assert tensors == {"value": one["value"], "low": one["low"], "high": one["high"]}


ROW = {"a": 1.0, "b": 2, "c": None}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "must be a JSON object"),
        (b"[]", "it is no object"),
        (b"{", "must be a JSON object"),
        (b"\xff{}", "must be a JSON object"),
        (b'{"rows": [{"a": NaN, "b": 1, "c": 1}]}', "finite; got NaN"),
        (b'{"rows": [{"a": 1e999, "b": 1, "c": 1}]}', "finite; got 1e999"),
        (b'{"rows": [{"a": 1, "a": 2, "b": 1, "c": 1}]}', "the key 'a' twice"),
        (b"[" * 5000, "nested more than"),
        ({"rows": []}, "one or more objects"),
        ({"rows": {"a": 1}}, "one or more objects"),
        ({"rows": [[1, 2, 3]]}, "one or more objects"),
        ({"row": [ROW]}, "got 'row'"),
        ({"rows": [ROW], "coverage": 2}, "between 0 and 1; got 2"),
        ({"rows": [ROW], "coverage": True}, "between 0 and 1; got True"),
        ({"rows": [ROW], "coverage": 0.9}, "need a regression model"),
        ({"rows": [{"a": 1, "b": 2}]}, "'c' is missing"),
        ({"rows": [ROW, {"a": 1, "c": 2}]}, "'b' is missing in row 2"),
        ({"rows": [ROW | {"d": 1}]}, "got 'd'; leave it out; the model has 'a', 'b', 'c'"),
        ({"rows": [ROW, ROW | {"d": 1}]}, "got 'd' in row 2"),
        ({"rows": [ROW | {"a": "tall"}]}, "column 'a' must hold numbers"),
        ({"rows": [ROW, ROW | {"a": "tall"}]}, "column 'a' must hold numbers"),
        ({"rows": [ROW | {"b": [1]}]}, "column 'b' must hold single values"),
        ({"rows": [ROW | {"b": {"x": 1}}]}, "column 'b' must hold single values"),
        ({"rows": [ROW | {"b": "\ud800"}]}, "column 'b' must hold valid Unicode"),
        ({"rows": [ROW | {"\ud800": 1}]}, "leave it out"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(body: object, said: str, server: Server) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert said in error(server.ask("/v1/models/binary-mlp/predict", raw))


def tensor(name: str, **changes: object) -> dict[str, object]:
    return {"name": name, "shape": [1], "datatype": "FP64", "data": [1.0]} | changes


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "one tensor a column"),
        ([tensor("a"), tensor("b")], "'c' is missing"),
        ([*map(tensor, "abcd")], "got 'd'"),
        ([tensor("a"), tensor("a")], "'a' twice"),
        ([tensor("a", shape=[1, 2])], "shape of column 'a'"),
        ([tensor("a", shape=[True])], "shape of column 'a'"),
        ([tensor("a", shape=[2], data=[1, 2]), tensor("b")], "same number of rows"),
        ([tensor("a", datatype="FP8")], "datatype of column 'a'"),
        ([tensor("a", datatype=[])], "datatype of column 'a'"),
        ([tensor("a", data=[1, 2])], "list of 1 cells"),
        ([tensor("a", data=["1"])], "must hold numbers of the datatype FP64"),
        ([tensor("a", datatype="INT8", data=[128])], "whole numbers of the datatype INT8"),
        ([tensor("a", datatype="BYTES", data=["tall"]), tensor("b"), tensor("c")], "column 'a'"),
        ([tensor("a", parameters={"binary_data_size": 8})], "'binary_data_size' of column 'a'"),
        ([tensor("a", parameters=[])], "'parameters' of column 'a'"),
    ],
)
def test_a_wrong_tensor_is_told_of(inputs: object, said: str, server: Server) -> None:
    assert said in error(server.infer("binary-mlp", {"inputs": inputs}))


def test_binary_data_that_do_not_fit_are_told_of(server: Server) -> None:
    def ask(datatype: str, data: bytes, said: str, extra: bytes = b"") -> None:
        one = {"name": "a", "shape": [1], "datatype": datatype}
        head = json.dumps({"inputs": [one | {"parameters": {"binary_data_size": len(data)}}]})
        found = server.ask(
            "/v2/models/binary-mlp/infer",
            head.encode() + data + extra,
            {"Inference-Header-Content-Length": str(len(head))},
        )
        assert said in error(found)

    ask("FP64", b"1234567", "must have 8 bytes")
    ask("FP64", b"12345678", "1 bytes more", extra=b"9")
    ask("BOOL", b"\x02", "the bytes 0 and 1; got 2 in row 1")
    ask("BYTES", b"\x09\0\0\0text", "end within row 1")
    ask("BYTES", b"\x01\0\0\0texts", "4 bytes more")
    ask("BYTES", b"\x01\0\0\0\xff", "UTF-8")
    headers = {"Inference-Header-Content-Length": "-1"}
    assert "number of bytes" in error(server.ask("/v2/models/binary-mlp/infer", b"{}", headers))
    headers = {"Inference-Header-Content-Length": "99"}
    assert "length of the body" in error(server.ask("/v2/models/binary-mlp/infer", b"{}", headers))


def test_bodies_and_batches_are_capped(server: Server) -> None:
    message = error(server.predict("binary-mlp", {"rows": [ROW] * 501}), 413)
    assert "at most 500 rows; got 501" in message
    assert "--max-rows" in message
    with socket.create_connection(server.endpoint) as wire:
        wire.sendall(
            b"POST /v1/models/binary-mlp/predict HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nContent-Length: 99999999\r\n\r\n"
        )
        assert wire.recv(100).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(server.endpoint) as wire:
        wire.sendall(
            b"POST /v1/models/binary-mlp/predict HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        piece = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        answer = b""
        try:
            for _ in range(18):
                wire.sendall(piece)
        except OSError:
            pass  # it has answered and closed
        else:
            answer = wire.recv(100)
            assert answer.startswith(b"HTTP/1.1 413 ")


def test_other_kinds_of_bodies_are_refused(server: Server) -> None:
    body = json.dumps({"rows": [ROW]}).encode()
    path = "/v1/models/binary-mlp/predict"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert "Content-Type" in error(server.ask(path, body, form), 415)
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert "compressed" in error(server.ask(path, body, packed), 415)


def test_unknown_addresses_and_models(server: Server) -> None:
    assert "/docs" in error(server.ask("/nothing"), 404)
    assert "another method" in error(server.ask("/v2", b"{}"), 405)
    assert "binary-mlp, mixed" in error(server.predict("other", {"rows": [ROW]}), 404)
    assert "binary-mlp, mixed" in error(server.ask("/v2/models/other/ready"), 404)


def test_the_columns_are_described(server: Server) -> None:
    metadata = server.ask("/v2/models/mixed-calibrated").json()
    columns = {column["name"]: column for column in metadata["inputs"]}
    assert columns["key"]["datatype"] == "INT64"
    assert columns["large"]["datatype"] == "UINT64"
    assert "größe" in columns["kind"]["parameters"]["levels"]
    document = server.ask("/openapi.json").json()
    schema = document["paths"]["/v1/models/mixed-calibrated/predict"]["post"]["requestBody"]
    row = schema["content"]["application/json"]["schema"]["properties"]["rows"]["items"]
    assert list(row["properties"]) == list(columns)
    page = server.ask("/docs")
    assert page.status == 200
    assert b"POST /v1/models/mixed-calibrated/predict" in page.body.replace(b"<wbr>", b"")


def test_metrics_count_by_route_and_never_by_what_clients_send(server: Server) -> None:
    server.predict("binary-mlp", {"rows": [ROW]})
    server.predict("made-up-by-a-client", {"rows": [ROW]})
    text = server.ask("/metrics").body.decode()
    route = 'route="/v1/models/{name}/predict"'
    assert f'tabwright_requests_total{{model="binary-mlp",{route},status="200"}}' in text
    assert "made-up" not in text
    assert 'tabwright_request_seconds_count{model="binary-mlp"' in text


def test_no_path_leaves_and_nothing_failed(server: Server) -> None:
    said = b"".join(
        server.ask(path).body for path in ("/", "/docs", "/v1/models", "/v2", "/metrics")
    )
    assert str(ROOT).encode() not in said
    assert b'status="5' not in server.ask("/metrics").body
    assert "Traceback" not in server.log()


def replace(source: str, target: Path) -> None:
    fresh = target.with_suffix(".new")
    shutil.copy(GOLDEN / f"{source}.safetensors", fresh)
    fresh.replace(target)


def wait_until(what: Any) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_replaced_file_is_taken_up_without_a_failed_request(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    replace("binary-mlp", path)
    with serving(str(path)) as own:
        first = own.predict("own", {"rows": [ROW]}).json()
        failed: list[Reply] = []
        done = threading.Event()
        other = Server(own.process, own.address, path)

        def ask_on() -> None:
            while not done.is_set():
                found = other.predict("own", {"rows": [ROW]})
                if found.status != 200:
                    failed.append(found)

        asking = threading.Thread(target=ask_on)
        asking.start()
        replace("binary-logistic", path)
        wait_until(
            lambda: own.predict("own", {"rows": [ROW]}).json()["version"] != first["version"]
        )
        second = own.predict("own", {"rows": [ROW]}).json()
        path.write_bytes(b"no model")
        wait_until(lambda: "stays as it was" in own.log())
        assert own.predict("own", {"rows": [ROW]}).json() == second
        path.unlink()
        wait_until(lambda: b"tabwright_failed_reloads 2.0" in own.ask("/metrics").body)
        assert own.predict("own", {"rows": [ROW]}).json() == second
        replace("binary-mlp", path)
        wait_until(lambda: own.predict("own", {"rows": [ROW]}).json() == first)
        done.set()
        asking.join()
        other.close()
        assert failed == []
        assert second["predictions"] != first["predictions"]


def test_a_signal_lets_what_has_begun_finish() -> None:
    with serving(f"own={GOLDEN / 'binary-mlp.safetensors'}") as own:
        body = json.dumps({"rows": [ROW]}).encode()
        with socket.create_connection(own.endpoint) as wire:
            wire.sendall(
                b"POST /v1/models/own/predict HTTP/1.1\r\nHost: x\r\nContent-Type: "
                b"application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            time.sleep(0.3)  # the request has begun
            own.process.terminate()
            time.sleep(0.5)
            assert own.process.poll() is None
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(own.endpoint)
            wire.sendall(body)
            wire.settimeout(30)
            answer = b"".join(iter(lambda: wire.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"predictions" in answer
        assert own.process.wait(30) == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["binary-mlp.safetensors", "binary-mlp.safetensors"], 2, "got 'binary-mlp' twice"),
        (["a b=binary-mlp.safetensors"], 2, "letters, digits"),
        (["absent.safetensors"], 4, "there is no file absent.safetensors"),
        (["binary-mlp.json"], 3, "model"),
        (["binary-mlp.safetensors", "--host", "203.0.113.1"], 4, "another --host or --port"),
    ],
)
def test_what_cannot_be_served_is_said_at_the_start(words: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tabwright", "serve", "--port", "0", *words],
        cwd=GOLDEN,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert said in " ".join(done.stderr.split())


def test_without_the_extra_one_sentence_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from tabwright.cli.app import main\n"
        f"sys.argv = ['tabwright', 'serve', {str(GOLDEN / 'binary-mlp.safetensors')!r}]\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 4
    assert "needs uvicorn, which is not installed; run: pip install" in " ".join(
        done.stderr.split()
    )


def test_it_binds_to_loopback_unless_told(server: Server) -> None:
    assert server.host.startswith("127.0.0.1:")
    _, _, port = server.host.rpartition(":")
    addresses = {
        info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, family=socket.AF_INET)
    } - {"127.0.0.1", "127.0.1.1"}
    for address in addresses:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((str(address), int(port)), timeout=5)


def test_a_fault_of_the_server_is_for_its_log_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ModelRegistry({"own": GOLDEN / "binary-mlp.safetensors"})
    app = make_app(registry)

    def fail(*_: object) -> bytes:
        raise RuntimeError(f"what nobody outside may see: {ROOT}")

    monkeypatch.setattr("tabwright.serving.app.answer_rows", fail)
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    path = "/v1/models/own/predict"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "headers": [(b"content-type", b"application/json")]}
    # The error goes on to the server, which logs it.
    with pytest.raises(RuntimeError, match="nobody outside"):
        asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 500
    body = b"".join(message.get("body", b"") for message in sent)
    assert json.loads(body) == {"error": "the server failed at this request; its log says why"}
