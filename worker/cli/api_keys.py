"""`sfsync api-keys`: keys of callers of the HTTP shim."""

from datetime import timedelta
from typing import Annotated

import typer

from worker import access
from worker.cli.opening import open_database
from worker.cli.output import Exit, Json, console, fail, show_json, show_table
from worker.settings import load_settings

keys = typer.Typer(no_args_is_help=True, help="Keys of callers of the HTTP shim.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(keys, name="api-keys")


@keys.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scope: Annotated[list[str], typer.Option(help="read, write, trigger or admin; may be given several times.")],
    user: Annotated[list[str] | None, typer.Option(help="A user_id it may act for; none given: all users.")] = None,
    days: Annotated[int | None, typer.Option(help="Days until it expires; none given: never.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown once: only a hash of it is stored."""
    database = open_database(load_settings())
    expires_at = database.now() + timedelta(days=days) if days else None
    with database.transaction() as session:
        row, text = access.create_key(session, name, scope, user, expires_at)
    if as_json:
        show_json({"prefix": row.prefix, "key": text, "name": name, "scopes": row.scopes, "user_ids": row.user_ids})
        return
    console.print(text, highlight=False, soft_wrap=True)
    console.print("Keep it now: it is not shown again. Callers send it as Authorization: Bearer …", style="dim")


@keys.command("list")
def list_(as_json: Json = False) -> None:
    """List all keys: what they may do, when they were used last."""
    with open_database(load_settings()).transaction() as session:
        rows = access.list_keys(session)
    shown = [
        {
            "prefix": row.prefix,
            "name": row.name,
            "scopes": row.scopes,
            "user_ids": row.user_ids,
            "created_at": row.created_at,
            "expires_at": row.expires_at,
            "revoked_at": row.revoked_at,
            "last_used_at": row.last_used_at,
        }
        for row in rows
    ]
    if as_json:
        show_json(shown)
        return
    columns = ("prefix", "name", "scopes", "users", "created", "expires", "revoked", "last used")
    show_table("API keys", columns, [[_cell(value) for value in row.values()] for row in shown])


def _cell(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "strftime") else value


@keys.command()
def revoke(
    prefix: Annotated[str, typer.Argument(help="The key's prefix, as `list` shows it.")], as_json: Json = False
) -> None:
    """Revoke a key at once."""
    with open_database(load_settings()).transaction() as session:
        revoked = access.revoke_key(session, prefix)
    if not revoked:
        raise fail(f"there is no valid key with the prefix {prefix}; `sfsync api-keys list` shows them", Exit.REFUSED)
    if as_json:
        show_json({"prefix": prefix, "revoked": True})
    else:
        console.print(f"Revoked {prefix}.")
