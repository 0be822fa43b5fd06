"""The server as an ASGI application: addresses, limits, errors.

Short requests are answered on the event loop: handing one to a thread costs more than predicting a
row. Longer ones go to a thread, so that they hold up nobody.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tabwright._version import __version__
from tabwright.serving.metrics import ServerMetrics
from tabwright.serving.model import RequestError, ServedModel
from tabwright.serving.open_inference import infer, model_metadata, server_metadata
from tabwright.serving.openapi import docs_page, openapi_document
from tabwright.serving.registry import ModelRegistry
from tabwright.serving.rows import answer_rows, to_json

_JSON = "application/json"
_HEADER_LENGTH = "inference-header-content-length"
# A body so short is parsed and predicted in about the time that a thread takes to start on it.
_SHORT_BODY = 4096
# How often the files of models are looked at for a replacement.
_RELOAD_SECONDS = 1.0
_PAGE = Path(__file__).with_name("page.html")

_Handler = Callable[[Request], Awaitable[Response]]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Limits:
    """What a request may take.

    `max_body`: bytes.
    """

    max_rows: int = 10_000
    max_body: int = 16 * 2**20


def make_app(registry: ModelRegistry, limits: Limits | None = None) -> Starlette:
    """The application that serves the models of a registry."""
    server = _Server(registry, limits or Limits())

    @contextlib.asynccontextmanager
    async def watching(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(registry.watch(_RELOAD_SECONDS))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    gets: dict[str, _Handler] = {
        "/": server.page,
        "/docs": server.docs,
        "/openapi.json": server.openapi,
        "/metrics": server.metrics,
        "/v1/models": server.list_models,
        "/v2": server.server_document,
        "/v2/health/live": server.healthy,
        "/v2/health/ready": server.healthy,
        "/v2/models/{name}": server.metadata,
        "/v2/models/{name}/ready": server.model_ready,
    }
    posts: dict[str, _Handler] = {
        "/v1/models/{name}/predict": server.predict,
        "/v2/models/{name}/infer": server.infer,
    }
    routes = [
        Route(path, server.counted(path, handler), methods=[method])
        for method, handlers in (("GET", gets), ("POST", posts))
        for path, handler in handlers.items()
    ]
    return Starlette(
        routes=routes,
        lifespan=watching,
        exception_handlers={HTTPException: _no_such_address, Exception: _fault},
    )


class _Server:
    """The handlers of the addresses, over one registry."""

    def __init__(self, registry: ModelRegistry, limits: Limits) -> None:
        self._registry = registry
        self._limits = limits
        self._metrics = ServerMetrics(registry)
        self._page, self._page_policy = _page_and_policy()

    def counted(self, route: str, handler: _Handler) -> _Handler:
        """A handler that counts, and answers a wrong request with its message."""

        async def counting(request: Request) -> Response:
            start = time.perf_counter()
            status, model = 500, ""
            try:
                name = request.path_params.get("name")
                if name is not None:
                    model = self._registry.get(name).name
                response = await handler(request)
                status = response.status_code
            except RequestError as error:
                status = error.status
                response = _error(str(error), status)
            except ClientDisconnect:
                # Nobody is left to read it.
                status = 400
                response = _error("the client went away before the body was whole", status)
            finally:
                self._metrics.count(route, model, status, time.perf_counter() - start)
            return response

        return counting

    async def page(self, request: Request) -> Response:
        return _html(self._page, self._page_policy)

    async def docs(self, request: Request) -> Response:
        document = openapi_document(self._registry.models, __version__)
        return _html(docs_page(document).encode(), "default-src 'none'; style-src 'unsafe-inline'")

    async def openapi(self, request: Request) -> Response:
        return _json(openapi_document(self._registry.models, __version__))

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=self._metrics.content_type)

    async def list_models(self, request: Request) -> Response:
        return _json({"models": [_described(model) for model in self._registry.models]})

    async def server_document(self, request: Request) -> Response:
        return _json(server_metadata(__version__))

    async def healthy(self, request: Request) -> Response:
        return _json({"live": True, "ready": True})

    async def metadata(self, request: Request) -> Response:
        return _json(model_metadata(self._model(request)))

    async def model_ready(self, request: Request) -> Response:
        return _json({"name": self._model(request).name, "ready": True})

    async def predict(self, request: Request) -> Response:
        """Answer rows as JSON."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _JSON:
            raise RequestError(
                "the body must be declared as JSON; send the header 'Content-Type: "
                "application/json'",
                status=415,
            )
        body = await self._body(request)
        model, max_rows = self._model(request), self._limits.max_rows
        found = await _run(len(body), lambda: answer_rows(model, body, max_rows))
        return Response(found, media_type=_JSON)

    async def infer(self, request: Request) -> Response:
        """Answer a request of the Open Inference Protocol."""
        length = _header_length(request)
        body = await self._body(request)
        model, max_rows = self._model(request), self._limits.max_rows
        found, head = await _run(len(body), lambda: infer(model, body, length, max_rows))
        if head is None:
            return Response(found, media_type=_JSON)
        return Response(
            found, media_type="application/octet-stream", headers={_HEADER_LENGTH: str(head)}
        )

    def _model(self, request: Request) -> ServedModel:
        return self._registry.get(request.path_params["name"])

    async def _body(self, request: Request) -> bytes:
        """The whole body, of which no more is read than the server takes."""
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError(
                "the body must not be compressed; leave out the header Content-Encoding",
                status=415,
            )
        limit = self._limits.max_body
        too_large = RequestError(
            f"the body may have at most {limit} bytes; send fewer rows a request, or start the "
            "server with a larger --max-body",
            status=413,
        )
        length = request.headers.get("content-length", "0")
        if len(length) > 15 or int(length) > limit:
            raise too_large
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
        return b"".join(parts)


async def _run(size: int, work: Callable[[], _T]) -> _T:
    return work() if size <= _SHORT_BODY else await run_in_threadpool(work)


def _header_length(request: Request) -> int | None:
    """Bytes of JSON before the binary data; None where all is JSON."""
    given = request.headers.get(_HEADER_LENGTH)
    if given is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", given):
        raise RequestError(
            f"Inference-Header-Content-Length must be a number of bytes; got {given[:40]!a}"
        )
    return int(given)


def _described(model: ServedModel) -> dict[str, Any]:
    """A model for those who build a form: columns, classes, whether there are intervals."""
    return {
        "name": model.name,
        "version": model.version,
        "task": model.fitted.settings.task,
        "target": model.fitted.card.get("target"),
        "classes": model.classes,
        "intervals": model.fitted.intervals is not None,
        "columns": [
            {"name": column.name, "kind": column.kind, "levels": list(column.levels)}
            for column in model.columns
        ],
    }


def _page_and_policy() -> tuple[bytes, str]:
    """The page, and a policy that lets its own script and style run and nothing else."""
    text = _PAGE.read_text(encoding="utf-8")
    allowed = []
    for tag in ("script", "style"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        allowed.append(f"{tag}-src 'sha256-{digest}'")
    allowed += ["connect-src 'self'", "img-src data:"]
    never = (f"{what} 'none'" for what in ("base-uri", "form-action", "frame-ancestors"))
    return text.encode(), "; ".join(["default-src 'none'", *allowed, *never])


def _html(body: bytes, policy: str) -> Response:
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
    return Response(body, media_type="text/html", headers=headers)


def _json(value: object, status: int = 200) -> Response:
    return Response(to_json(value), status_code=status, media_type=_JSON)


def _error(message: str, status: int) -> Response:
    return _json({"error": message}, status)


async def _no_such_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = "this address takes another method; see /docs"
    if error.status_code == 404:
        message = "there is nothing at this address; /docs lists what there is"
    response = _error(message, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _fault(request: Request, error: Exception) -> Response:
    # What went wrong is in the log, and not for clients to see.
    return _error("the server failed at this request; its log says why", 500)
