"""`sfsync keys`: make encryption keys, and encrypt again with a new one."""

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from worker.cli.output import Json, console, errors, show_json
from worker.db import Database
from worker.log import setup_logging
from worker.settings import decode_keys, load_settings
from worker.tokens import vault as vaults
from worker.tokens.replay import replay_spool

keys = typer.Typer(no_args_is_help=True, help="Make encryption keys, and encrypt again with a new one.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(keys, name="keys")


@keys.command()
def generate(as_json: Json = False) -> None:
    """Print a new key for ENCRYPTION_KEY. Needs no settings. Keep it: tokens cannot be read without it."""
    key = vaults.generate_key()
    if as_json:
        show_json({"key": key, "key_id": vaults.key_id(decode_keys(key)[0])})
    else:
        typer.echo(key)


@keys.command()
def rotate(as_json: Json = False) -> None:
    """Encrypt all tokens with the first key of ENCRYPTION_KEY; the others may be removed after it.

    Put the new key first (ENCRYPTION_KEY=new,old), restart everything, then run this. It may be stopped and run again.
    """
    settings = load_settings()
    setup_logging(level="WARNING", as_json=settings.log_json)
    database = Database(settings.database_url.get_secret_value(), pool_size=2, application="sfsync-cli")
    database.check_server()
    vault = vaults.Vault(settings.keys)
    replay_spool(database, vault, settings)
    columns = TextColumn("encrypting"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=errors, disable=as_json) as progress:
        task = progress.add_task("", total=vaults.outdated(database, vault))
        changed = vaults.rotate(database, vault, lambda count: progress.advance(task, count))
    if as_json:
        show_json({"changed": changed, "key_id": vault.key_id})
    else:
        console.print(f"{changed} values encrypted again; all are under key {vault.key_id} now.", highlight=False)
