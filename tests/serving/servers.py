"""Servers and a browser as processes of their own, for tests and benchmarks."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "0.2.0"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_SECONDS = 60.0
# Less than a server keeps a connection without requests.
_IDLE_SECONDS = 2.0


class Reply(NamedTuple):
    """An answer of a server."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A running `tabwright serve`."""

    def __init__(self, process: subprocess.Popen[str], address: str, log: Path) -> None:
        self.process = process
        self.address = address
        parts = urlsplit(address)
        self.host = parts.netloc
        self.endpoint = (str(parts.hostname), parts.port)
        self._log = log
        self._connection = HTTPConnection(self.host, timeout=_SECONDS)
        self._answered = time.monotonic()

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        method: str | None = None,
    ) -> Reply:
        """One request, over a connection that is kept."""
        given = {"Content-Type": "application/json"} if headers is None else dict(headers)
        verb = method or ("GET" if body is None else "POST")
        # The server ends a connection that is idle for some seconds, as another test may take.
        if time.monotonic() - self._answered > _IDLE_SECONDS:
            self._connection.close()
        try:
            self._connection.request(verb, path, body, given)
            response = self._connection.getresponse()
            found = Reply(response.status, response.read(), dict(response.headers.items()))
        except BaseException:
            self._connection.close()
            raise
        self._answered = time.monotonic()
        if found.headers.get("connection") == "close":
            self._connection.close()
        return found

    def predict(self, name: str, request: object) -> Reply:
        return self.ask(f"/v1/models/{name}/predict", json.dumps(request).encode())

    def infer(self, name: str, request: object) -> Reply:
        return self.ask(f"/v2/models/{name}/infer", json.dumps(request).encode())

    def close(self) -> None:
        """Close the connection; the server goes on."""
        self._connection.close()

    def end(self) -> int:
        """SIGTERM, and the exit code."""
        self.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_SECONDS)


@contextlib.contextmanager
def serving(*words: str) -> Iterator[Server]:
    """`tabwright serve WORDS` on a free port, until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "tabwright", "serve", "--port", "0", *words],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            )
        server = None
        try:
            server = Server(process, _address(process, log), log)
            yield server
        finally:
            if server is not None:
                server.end()
            if process.poll() is None:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    said = ""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 0.2)[0]:
            line = process.stdout.readline()
            said += line
            if found := re.search(r"http://[^\s/]+", said):
                return found[0]
            if not line:
                break
    raise RuntimeError(f"no server came up: {said} {log.read_text(encoding='utf-8')}")


class Browser:
    """Headless Chromium, driven over its debugging pipe: real key strokes, real clicks."""

    def __init__(self, process: subprocess.Popen[bytes], reader: int, writer: int) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, address: str, wait_for: str) -> None:
        """Go to an address and wait until an expression is true there."""
        self._call("Page.navigate", url=address)
        self.wait(wait_for)

    def evaluate(self, expression: str) -> Any:
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            return None
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        deadline = time.monotonic() + _SECONDS
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(f"it never became true: {expression}")
            time.sleep(0.05)

    def type(self, selector: str, text: str) -> None:
        """Click on a field and type."""
        self.click(selector)
        self._call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        place = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.left + r.width / 2, r.top + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=place[0],
                y=place[1],
                button="left",
                clickCount=1,
            )

    def press_enter(self) -> None:
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        self._call("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        self._call("Input.dispatchKeyEvent", type="keyUp", **key)

    def picture(self, path: Path, width: int = 1000, height: int = 900) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        found = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return found["result"]
            if found.get("method") == "Log.entryAdded":
                self.complaints.append(found["params"]["entry"]["text"])
            elif found.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(found["params"]["exceptionDetails"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._reader], [], [], _SECONDS)[0]:
                raise TimeoutError("the browser says nothing")
            part = os.read(self._reader, 2**16)
            if not part:
                raise RuntimeError("the browser ended")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """A browser until the block ends."""
    assert CHROMIUM is not None
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        contextlib.ExitStack() as stack,
    ):
        pipes = [*os.pipe(), *os.pipe()]
        # Numbers past those that the browser wants them under.
        high = [fcntl.fcntl(number, fcntl.F_DUPFD, 20) for number in pipes]
        for number in pipes:
            os.close(number)
        their_reader, our_writer, our_reader, their_writer = high
        process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" 3<&{their_reader} 4>&{their_writer}',
                "bash",
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
                "--window-size=1000,900",
                "about:blank",
            ],
            pass_fds=(their_reader, their_writer),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(their_reader)
        os.close(their_writer)
        stack.callback(os.close, our_reader)
        stack.callback(os.close, our_writer)
        try:
            yield Browser(process, our_reader, our_writer)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
