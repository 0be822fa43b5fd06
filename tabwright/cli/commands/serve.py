"""The command `tabwright serve`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated

import typer

from tabwright.cli.console import progress_line, show_line
from tabwright.cli.errors import readable_errors
from tabwright.cli.options import QuietFlag


def serve(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Files that `train` saved, or NAME=FILE."),
    ],
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="0.0.0.0 to be seen from other machines.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, metavar="PORT", help="0: any that is free.")
    ] = 8000,
    max_rows: Annotated[
        int, typer.Option(min=1, metavar="ROWS", help="Rows that one request may have.")
    ] = 10_000,
    max_body: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Mebibytes that one request may have.")
    ] = 16,
    quiet: QuietFlag = False,
) -> None:
    """Serve models over HTTP: the Open Inference Protocol, rows as JSON, a page to try them.

    A replaced file is taken up without a restart. SIGTERM ends the server after the requests in
    progress. Needs the extra `serve`.
    """
    with readable_errors(), progress_line(quiet, "loading models") as line:

        def ready(address: str, names: Sequence[str]) -> None:
            line.hide()
            show_line(f"serving {', '.join(names)} on {address} (try it there; {address}/docs)")

        from tabwright.serving.run import serve as run

        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("tabwright.serving").setLevel(logging.WARNING if quiet else logging.INFO)
        run(
            models,
            host=host,
            port=port,
            max_rows=max_rows,
            max_body=max_body * 2**20,
            ready=ready,
        )
