"""`sfsync connect` and `sfsync disconnect`."""

import sys
import time
import webbrowser
from dataclasses import asdict
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer

from worker.budget.ledger import Ledger
from worker.cli.callback import CallbackServer
from worker.cli.opening import open_database
from worker.cli.output import Exit, Json, UserId, console, errors, fail, show_json
from worker.db import Database
from worker.errors import SyncError
from worker.log import blank, setup_logging
from worker.salesforce.hosts import is_salesforce
from worker.salesforce.metering import MeterOf
from worker.settings import Settings, load_settings
from worker.tokens.authorize import STATE_LIFETIME, begin_authorization, finish_authorization
from worker.tokens.connect import (
    Connected,
    Target,
    connect_with_client_credentials,
    connect_with_jwt,
    connect_with_refresh_token,
    login_url_of,
)
from worker.tokens.disconnect import end_connection
from worker.tokens.vault import Vault

Stdin = Annotated[bool, typer.Option("--refresh-token-stdin", help="Read a refresh token from standard input.")]
ByApp = Annotated[bool, typer.Option("--client-credentials", help="Connect as the app's own user: best for servers.")]
JwtKey = Annotated[
    Path | None, typer.Option("--jwt-key", help="Sign in by this RSA private key (PEM file; - for stdin): for servers.")
]
Username = Annotated[str | None, typer.Option("--username", help="With --jwt-key: the org's user to act as.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Print the address and open no browser.")]
Schema = Annotated[str | None, typer.Option("--schema", help="Postgres schema for the mirrors (default: salesforce).")]
Environment = Annotated[str, typer.Option("--environment", help="production or sandbox.")]
LoginUrl = Annotated[str | None, typer.Option("--login-url", help="Instead of SALESFORCE_LOGIN_URL, for this user.")]
KeepData = Annotated[bool, typer.Option("--keep-data", help="Keep the mirror tables as they are.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(connect)
    app.command()(disconnect)


def connect(
    user_id: UserId,
    refresh_token_stdin: Stdin = False,
    client_credentials: ByApp = False,
    jwt_key: JwtKey = None,
    username: Username = None,
    no_browser: NoBrowser = False,
    schema: Schema = None,
    environment: Environment = "production",
    login_url: LoginUrl = None,
    as_json: Json = False,
) -> None:
    """Connect a user to a Salesforce org: by the browser, a refresh token, a key, or as the app itself."""
    if refresh_token_stdin + client_credentials + (jwt_key is not None) > 1:
        raise fail("choose one of --refresh-token-stdin, --client-credentials and --jwt-key", Exit.USAGE)
    if (jwt_key is None) != (username is None):
        raise fail("--jwt-key and --username go together: whose key, and as whom", Exit.USAGE)
    settings, database, vault = _open()
    target = Target(user_id, environment, login_url, schema)
    if client_credentials:
        done = connect_with_client_credentials(database, vault, settings, target, meter=_meter(database, settings))
    elif jwt_key is not None and username is not None:
        key = _read_key(jwt_key)
        done = connect_with_jwt(database, vault, settings, target, username, key, meter=_meter(database, settings))
    elif refresh_token_stdin:
        token = _read_token()
        done = connect_with_refresh_token(database, vault, settings, target, token, meter=_meter(database, settings))
    else:
        done = _by_browser(settings, database, vault, target, open_browser=not no_browser, as_json=as_json)
    _show(done, as_json)


def disconnect(user_id: UserId, keep_data: KeepData = False, as_json: Json = False) -> None:
    """Revoke a user's grant in the org, forget it here, and drop the mirrors' schema with all that is in it."""
    settings, database, vault = _open()
    done = end_connection(database, vault, settings, user_id, keep_data=keep_data)
    if as_json:
        show_json(asdict(done))
        return
    console.print(f"{user_id} is disconnected; the tokens are forgotten.", highlight=False)
    console.print("The org has revoked the grant." if done.revoked else f"Not revoked in the org: {done.problem}")
    if done.dropped_schema:
        console.print(f"The schema {done.dropped_schema} is dropped.", highlight=False)
    if done.unfinished_actions:
        console.print(f"{done.unfinished_actions} actions wait until {user_id} connects again.", highlight=False)


def _open() -> tuple[Settings, Database, Vault]:
    settings = load_settings()
    setup_logging(level="WARNING", as_json=settings.log_json)
    return settings, open_database(settings), Vault(settings.keys)


def _meter(database: Database, settings: Settings) -> MeterOf:
    """Who counts the calls of this command."""
    return Ledger(database, settings, lane="cli").meter


def _read_token() -> str:
    token = (getpass("Refresh token: ") if sys.stdin.isatty() else sys.stdin.read()).strip()
    if not token or any(char.isspace() for char in token):
        raise fail("standard input holds no refresh token (one line, nothing else)", Exit.USAGE)
    return token


def _read_key(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise fail(f"--jwt-key: cannot read {file} ({error})", Exit.USAGE) from None


def _by_browser(
    settings: Settings, database: Database, vault: Vault, target: Target, *, open_browser: bool, as_json: bool
) -> Connected:
    """The authorization code flow, with the org's answer caught by a small server on this machine."""
    any_port = not is_salesforce(login_url_of(settings, target))  # Salesforce compares the redirect URI exactly

    def finish(state: str, code: str) -> Connected:
        return finish_authorization(database, vault, settings, state, code, meter=_meter(database, settings))

    with CallbackServer(settings.salesforce_redirect_uri, finish, any_port=any_port) as server:
        begun = begin_authorization(database, vault, settings, target, server.redirect_uri)
        server.expect(begun.state)
        errors.print("Open this address in a browser, sign in and approve:", highlight=False)
        typer.echo(begun.url, err=as_json)
        if open_browser and sys.stdout.isatty():
            webbrowser.open(begun.url)
        result = server.wait(time.monotonic() + STATE_LIFETIME.total_seconds())
    if isinstance(result, SyncError):
        raise result
    if result is None:
        raise fail("nobody approved within ten minutes: begin again", Exit.REFUSED)
    return result


def _show(done: Connected, as_json: bool) -> None:
    if as_json:
        show_json(asdict(done))
        return
    who = blank(done.username or done.user_id)
    console.print(f"[green]✓[/green] {done.user_id} is connected to {done.instance_url} as {who}", highlight=False)
    console.print(
        f"  organization {done.organization_id}, mirrors go to the schema {done.schema_name}", highlight=False
    )
    console.print(f"  next: sfsync mirror --user-id {done.user_id} --wait", highlight=False)
