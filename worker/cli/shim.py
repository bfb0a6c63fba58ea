"""`sfsync shim`: the HTTP door under uvicorn."""

from typing import Annotated

import typer

GRACE_SECONDS = 25  # longer than the longest wait for an outcome


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(shim)


def shim(
    host: Annotated[str | None, typer.Option(help="Address to listen at (SFSYNC_SHIM_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen at (SFSYNC_SHIM_PORT).")] = None,
) -> None:
    """Serve the HTTP door until SIGTERM; requests in hand are finished."""
    import uvicorn

    from worker.log import setup_logging
    from worker.runtime import Runtime
    from worker.settings import load_settings
    from worker.shim.app import make_app

    settings = load_settings()
    setup_logging(level=settings.log_level, as_json=settings.log_json)
    rt = Runtime(settings, application="sfsync-shim")
    rt.database.check_server()
    uvicorn.run(
        make_app(rt),
        host=host or settings.shim_host,
        port=port or settings.shim_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
