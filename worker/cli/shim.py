"""`sfsync shim`: the HTTP door under uvicorn."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(shim)


def shim(
    host: Annotated[str | None, typer.Option(help="Address to listen at (SFSYNC_SHIM_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen at (SFSYNC_SHIM_PORT).")] = None,
) -> None:
    """Serve the HTTP door until SIGTERM; requests in hand are finished."""
    from worker.log import setup_logging
    from worker.runtime import Runtime
    from worker.settings import load_settings
    from worker.shim.app import make_app
    from worker.shim.server import HEAD_SECONDS, make_server

    settings = load_settings(shim_host=host, shim_port=port)
    setup_logging(level=settings.log_level, as_json=settings.log_json)
    rt = Runtime(settings, application="sfsync-shim")
    rt.database.check_server()
    head_seconds = min(HEAD_SECONDS, settings.shim_body_seconds)
    make_server(make_app(rt), settings.shim_host, settings.shim_port, head_seconds=head_seconds).run()
