"""Ending a connection: its grant is revoked in the org and forgotten here, its mirrors are dropped, its actions wait."""

from dataclasses import dataclass

from psycopg import sql
from sqlalchemy import delete

from models.connection import Connection
from models.mirror import Mirror
from worker.db import Database, raw
from worker.errors import DisconnectedError, SyncError
from worker.log import get_logger
from worker.salesforce import oauth
from worker.salesforce.client import http_options
from worker.settings import Settings
from worker.tokens.grants import TABLE, find_connection, lock, unfinished_actions
from worker.tokens.vault import Vault

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Disconnected:
    """What disconnecting did. `revoked`: the org confirmed; `problem`: why it did not."""

    user_id: str
    revoked: bool
    problem: str | None
    dropped_schema: str | None
    unfinished_actions: int


def end_connection(
    database: Database, vault: Vault, settings: Settings, user_id: str, *, revoke: bool = True, keep_data: bool = False
) -> Disconnected:
    """End a connection: the grant is revoked in the org and forgotten here; mirrors are dropped unless `keep_data`.

    Actions stay: those that wait go on when the user connects again. An org that cannot be reached does not hinder
    forgetting; `Disconnected.problem` tells of it. Raises DisconnectedError when there is no such connection.
    """
    with database.transaction() as session:
        found = find_connection(session, user_id)
        row = lock(session, found.id) if found is not None else None
        if row is None:
            raise DisconnectedError(f"there is no connection of {user_id}")
        revoked, problem = _revoke(vault, settings, row) if revoke else (False, None)
        row.state, row.state_reason = "disconnected", "on request"
        row.access_token = row.refresh_token = row.jwt_key = row.expires_at = row.renew_at = None
        row.token_version = row.token_version + 1
        waiting = unfinished_actions(session, row.id)
    if not keep_data:
        _drop_mirrors(database, row)
    log.info("connection.ended", user=user_id, revoked=revoked)
    return Disconnected(user_id, revoked, problem, None if keep_data else row.schema_name, waiting)


def _revoke(vault: Vault, settings: Settings, row: Connection) -> tuple[bool, str | None]:
    column = "refresh_token" if row.refresh_token else "access_token"
    sealed = getattr(row, column)
    if sealed is None:
        return False, "there was no token to revoke"
    try:
        token = vault.decrypt(sealed, table=TABLE, column=column, row=row.id)
        known = oauth.revoke(http_options(settings), row.login_url, token)
    except SyncError as error:
        return False, str(error)
    return known, None if known else "the org no longer knew the token"


def _drop_mirrors(database: Database, row: Connection) -> None:
    """The rows first, so that steps under way lose their claims; then the tables, with the schema that holds nothing else."""
    with database.transaction() as session:
        session.execute(delete(Mirror).where(Mirror.connection_id == row.id))
        raw(session).execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(row.schema_name)))
