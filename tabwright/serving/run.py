"""A server process: binds, serves until a signal, and finishes what it has begun."""

from __future__ import annotations

import contextlib
import signal
import socket
import warnings
from collections.abc import Callable, Sequence

from tabwright.errors import install_command

# Requests in progress at a signal are given so long, in seconds.
_DRAIN_SECONDS = 30


def serve(
    models: Sequence[str],
    *,
    host: str,
    port: int,
    max_rows: int,
    max_body: int,
    ready: Callable[[str, Sequence[str]], None],
) -> None:
    """Serve models until SIGTERM or SIGINT; requests in progress are answered first.

    `models`: each `PATH` or `NAME=PATH`.
    `port`: 0: any that is free.
    `max_rows`: rows of a request.
    `max_body`: bytes of a request.
    `ready`: told the address and the names once the server is about to answer.
    Raises `ImportError` if the extra `serve` is not installed; `ValueError` if the names of the
        models are not valid; `ArtifactError` if a file is not a model; `OSError` if a file cannot
        be read, or the address cannot be bound.
    """
    try:
        import uvicorn

        from tabwright.serving.app import Limits, make_app
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tabwright"):
            raise
        raise ImportError(
            f"tabwright serve needs {error.name}, which is not installed; run: "
            f"{install_command('serve')}"
        ) from error
    from tabwright.serving.registry import ModelRegistry, named_paths

    registry = ModelRegistry(named_paths(models))
    app = make_app(registry, Limits(max_rows=max_rows, max_body=max_body))
    config = uvicorn.Config(
        app,
        access_log=False,
        server_header=False,
        log_level="warning",
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    # Python keeps every text that it has warned of, and a client could send any number of them.
    warnings.simplefilter("ignore")
    with contextlib.closing(_bound(host, port)) as listener:
        own_port = listener.getsockname()[1]
        # uvicorn raises the signal again once it has finished; then there is nothing left to end.
        before = {
            number: signal.signal(number, lambda *_: None)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            shown_host = f"[{host}]" if ":" in host else host
            ready(f"http://{shown_host}:{own_port}", [model.name for model in registry.models])
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _bound(host: str, port: int) -> socket.socket:
    """The socket of the server, at its address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(
            f"the address {host}:{port} cannot be served ({error.strerror or error}); give "
            "another host or port"
        ) from error
