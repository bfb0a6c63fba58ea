"""`python -m local_org`: start a local Salesforce. Stops on SIGTERM and Ctrl-C."""

import gc
import json
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from local_org import define, exchange, made, seed, tls
from local_org.org import DEFAULT_PASSWORD, Org
from local_org.proxy import HOSTS as PROXIED_HOSTS
from local_org.proxy import Proxy
from local_org.server import Server as OrgServer
from local_org.tokens import Client

DEFAULT_CLIENT_ID = "local-org-client"
DEFAULT_CLIENT_SECRET = "local-org-secret"  # noqa: S105 - documented, for a toy org
DEFAULT_SEED = ",".join(f"{name}={count}" for name, count in seed.DEFAULT_COUNTS.items())

console = Console(stderr=True)


class Server(uvicorn.Server):
    """A uvicorn server that says when it answers."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], proxy: "ProxyPort | None") -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._proxy = proxy

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then tell."""
        await super().startup(sockets=sockets)
        if self._proxy is not None and self.started:
            await self._proxy.proxy.start(self._proxy.listener)
        if self.started:
            self._on_ready()


@dataclass(frozen=True, slots=True)
class ProxyPort:
    """The proxy for clients with fixed hosts, and where it listens."""

    proxy: Proxy
    listener: socket.socket

    @property
    def url(self) -> str:
        host, port = self.listener.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def main(
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0: any free one.")] = 8443,
    http: Annotated[bool, typer.Option("--http", help="Plain HTTP instead of HTTPS.")] = False,
    data: Annotated[Path, typer.Option(help="Data folder; an existing one is opened as it is.")] = Path(".local-org"),
    import_: Annotated[
        Path | None, typer.Option("--import", help="A Data Export folder (one CSV per object) to start from.")
    ] = None,
    seed_: Annotated[
        str | None, typer.Option("--seed", help=f"Records to start from: OBJECT=COUNT,… (default {DEFAULT_SEED}).")
    ] = None,
    define_: Annotated[
        Path | None, typer.Option("--define", help="A JSON file with objects, fields, users, rules, ….")
    ] = None,
    client_id: Annotated[str, typer.Option(help="Consumer key of the connected app.")] = DEFAULT_CLIENT_ID,
    client_secret: Annotated[str, typer.Option(help="Its secret.")] = DEFAULT_CLIENT_SECRET,
    redirect_uri: Annotated[
        list[str] | None, typer.Option(help="A registered callback; none given: any on this machine.")
    ] = None,
    rotate: Annotated[bool | None, typer.Option("--rotate/--no-rotate", help="Rotate refresh tokens.")] = None,
    session_minutes: Annotated[float | None, typer.Option(help="Idle time-out of sessions.")] = None,
    instance_url: Annotated[
        str | None, typer.Option(help="instance_url in token answers, where it is not ours.")
    ] = None,
    ca_dir: Annotated[Path | None, typer.Option(help="Where the CA lies (default: the data folder).")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="JSON file written once it answers.")] = None,
    proxy: Annotated[
        int | None, typer.Option(help="Also an HTTPS proxy at this port (0: any) for clients with fixed hosts.")
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Log every request.")] = False,
) -> None:
    """Start a small Salesforce on localhost."""
    if http and proxy is not None:
        console.print("[red]local org:[/red] the proxy leads to HTTPS; leave --http out", highlight=False)
        raise typer.Exit(2)
    os.environ.setdefault("SQLITE_TMPDIR", str(_temporary(data.resolve())))
    org = Org(data.resolve())
    try:
        prepare(org, import_, seed_, define_)
    except ValueError as error:
        org.close()
        console.print(f"[red]local org:[/red] {error}", highlight=False)
        raise typer.Exit(2) from None
    org.tokens.put_client(Client(client_id, client_secret, tuple(redirect_uri or ()), run_as=org.admin_id))
    changed = {"rotate": rotate, "session_minutes": session_minutes, "instance_url": instance_url}
    org.change_settings({name: value for name, value in changed.items() if value is not None})
    listener = listen(host, port)
    proxy_port = None if proxy is None else _proxy(listener, host, proxy)
    try:
        serve(
            org,
            listener,
            host,
            proxy=proxy_port,
            http=http,
            ca_dir=ca_dir,
            log=log,
            ready_file=ready_file,
            client=(client_id, client_secret),
        )
    finally:
        org.close()


def _temporary(data: Path) -> Path:
    """Where sorts spill to: beside the data, since a system's own place may be small or in memory."""
    folder = data / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that the port is known before anything else starts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        console.print(f"[red]local org:[/red] cannot listen at {host}:{port}: {error.strerror}", highlight=False)
        raise typer.Exit(2) from None
    return listener


def _proxy(org_listener: socket.socket, host: str, port: int) -> ProxyPort:
    target_host, target_port = org_listener.getsockname()[:2]
    return ProxyPort(Proxy(target_host, target_port), listen(host, port))


def prepare(org: Org, import_folder: Path | None, seed_text: str | None, definition: Path | None = None) -> None:
    """Fill a new org; an old one keeps what it has, and gets what is missing up to the seed's counts."""
    seed.seed_basics(org, users=0 if import_folder and (import_folder / "User.csv").exists() else made.USERS)
    if definition is not None:
        define.apply_file(org, definition)
    with progress() as tell:
        if import_folder is not None and not org.store.setting("imported", False):
            exchange.import_folder(org, import_folder, tell)
            org.store.keep_setting("imported", True)
        if seed_text is not None or import_folder is None:
            seed.seed(org, seed.parse_counts(seed_text or DEFAULT_SEED), tell)


@contextmanager
def progress() -> Iterator[Any]:
    """A line per object while records are made."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def tell(name: str, done: int, total: int | None = None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(f"records of {name}", total=total)
            bars.update(tasks[name], completed=done)

        yield tell


def serve(
    org: Org,
    listener: socket.socket,
    host: str,
    *,
    proxy: ProxyPort | None,
    http: bool,
    ca_dir: Path | None,
    log: bool,
    ready_file: Path | None,
    client: tuple[str, str],
) -> None:
    """Answer requests until told to stop."""
    folder = org.store.folder
    ca_folder = (ca_dir or folder).resolve()
    name = "localhost" if host in ("127.0.0.1", "::1", "0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    url = f"{'http' if http else 'https'}://{name}:{listener.getsockname()[1]}"
    ca_file = None if http else tls.ensure_ca(ca_folder)
    config = uvicorn.Config(
        OrgServer(org),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="info" if log else "warning",
        access_log=log,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
        ssl_certfile=None,
    )
    if not http:
        certificate, key = tls.server_certificate(ca_folder, folder, (host, *(PROXIED_HOSTS if proxy else ())))
        config.ssl_certfile, config.ssl_keyfile = str(certificate), str(key)
        config.ssl_version = ssl.PROTOCOL_TLS_SERVER
    known = {
        "url": url,
        "ca_file": str(ca_file) if ca_file else None,
        "client_id": client[0],
        "client_secret": client[1],
        **login(org),
        "organization_id": org.organization_id,
        "pid": os.getpid(),
        **({"proxy_url": proxy.url} if proxy else {}),
    }
    gc.freeze()  # what lives now lives for ever: Python's collector need not go through it again and again
    Server(config, lambda: tell_ready(known, ready_file), proxy).run(sockets=[listener])


def login(org: Org) -> dict[str, str]:
    """The administrator's user name, password and id."""
    with org.store.read() as conn:
        row = conn.execute('SELECT "Username" FROM "User" WHERE "Id" = ?', (org.admin_id,)).fetchone()
    return {"username": row[0], "password": DEFAULT_PASSWORD, "user_id": org.admin_id}


def tell_ready(known: dict[str, Any], ready_file: Path | None) -> None:
    """Print where it is, and write the ready file whole or not at all."""
    shown = f"The local org answers at {known['url']}"
    console.print(f"{shown}  (CA: {known['ca_file']})" if known["ca_file"] else shown, highlight=False, soft_wrap=True)
    console.print(
        f"log in as {known['username']} / {known['password']}; app {known['client_id']} / {known['client_secret']}",
        highlight=False,
        soft_wrap=True,
    )
    if "proxy_url" in known:
        console.print(f"proxy for clients with fixed hosts: HTTPS_PROXY={known['proxy_url']}", highlight=False)
    sys.stderr.flush()
    if ready_file is not None:
        part = ready_file.with_suffix(".part")
        part.write_text(json.dumps(known))
        part.replace(ready_file)


if __name__ == "__main__":
    typer.run(main)
