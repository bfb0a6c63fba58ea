"""Grants in their rows: a connection's row locked, found, made and filled. Ciphertext only."""

import random
import re
from datetime import datetime, timedelta

from sqlalchemy import exists, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from models.action import FINISHED, Action
from models.connection import Connection, Org
from models.mirror import Mirror
from worker.errors import SettingsError
from worker.salesforce.oauth import App, Grant, Identity
from worker.settings import Settings
from worker.tokens.timing import renew_after
from worker.tokens.vault import Vault

TABLE = Connection.__tablename__
LOCK_TIMEOUT = "25s"
HOLD_TIMEOUT = "60s"
DEFAULT_SCHEMA = "salesforce"
SCHEMA_CHARACTERS = 63  # of a Postgres name
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
_RESERVED = ("public", "sfsync", "information_schema")


def lock(session: Session, connection_id: int) -> Connection | None:
    """The connection's row, locked until the transaction ends; inserts that refer to it pass."""
    session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    session.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{HOLD_TIMEOUT}'"))
    found = select(Connection).where(Connection.id == connection_id).with_for_update(key_share=True)
    return session.scalar(found.execution_options(populate_existing=True))


def app(settings: Settings) -> App:
    """The app as which we ask, from the settings."""
    return App(settings.salesforce_client_id, settings.salesforce_client_secret.get_secret_value())


def put_grant(vault: Vault, row: Connection, grant: Grant) -> None:
    """Put a grant into its row, as the next version. A grant without a refresh token keeps the former one."""
    row.access_token = vault.encrypt(grant.access_token, table=TABLE, column="access_token", row=row.id)
    if grant.refresh_token is not None:
        row.refresh_token = vault.encrypt(grant.refresh_token, table=TABLE, column="refresh_token", row=row.id)
    row.instance_url = grant.instance_url
    row.scope = grant.scope or row.scope
    row.issued_at = grant.issued_at
    row.expires_at = grant.expires_at
    if (lifetime := _lifetime(row, grant.expires_at)) is not None:
        row.expires_at = func.clock_timestamp() + lifetime
    row.token_version = row.token_version + 1
    row.renewed_at = func.clock_timestamp()
    _set_renewal(row, grant.expires_at)


def _lifetime(row: Connection, expires_at: datetime | None) -> timedelta | None:
    """How long the row's token lasts: both ends are the org's time. We measure by Postgres's clock, which may be another."""
    return expires_at - row.issued_at if expires_at and row.issued_at else None


def _set_renewal(row: Connection, expires_at: datetime | None) -> None:
    """When this token is renewed by itself, spread so that connections that were made together do not come together."""
    after = renew_after(
        lifetime=_lifetime(row, expires_at),
        session=timedelta(seconds=row.session_seconds) if row.session_seconds else None,
        refreshable=row.refresh_token is not None,
        chance=random.random(),  # noqa: S311
    )
    row.renew_at = None if after is None else func.clock_timestamp() + after


def put_expiry(session: Session, connection_id: int, version: int, expires_at: datetime | None) -> None:
    """Note when a stored token ends, as long as it is the stored one."""
    row = session.get(Connection, connection_id, with_for_update={"key_share": True})
    if row is not None and row.token_version == version and expires_at is not None:
        lifetime = _lifetime(row, expires_at)
        row.expires_at = row.renewed_at + lifetime if lifetime and row.renewed_at else expires_at
        _set_renewal(row, expires_at)


def open_refresh_token(vault: Vault, row: Connection) -> str | None:
    """The refresh token in the clear; None when there is none."""
    if row.refresh_token is None:
        return None
    return vault.decrypt(row.refresh_token, table=TABLE, column="refresh_token", row=row.id)


def find_connection(session: Session, user_id: str) -> Connection | None:
    """A user's connection, whatever its state."""
    return session.scalar(select(Connection).where(Connection.user_id == user_id))


def check_schema_name(name: str) -> str:
    """`name` if it may hold mirrors; SettingsError otherwise."""
    if not _SCHEMA.fullmatch(name) or len(name) > SCHEMA_CHARACTERS or name.startswith("pg_") or name in _RESERVED:
        raise SettingsError(
            f"{name!r} cannot be the schema of mirrors: use a-z, 0-9 and _, and no name of Postgres or sfsync"
        )
    return name


def reduced(user_id: str) -> str:
    """The schema of a user's mirrors when `salesforce` is taken: salesforce_ and the id reduced to a-z, 0-9 and _."""
    plain = re.sub(r"[^a-z0-9]+", "_", user_id.lower()).strip("_")
    return f"{DEFAULT_SCHEMA}_{plain or 'user'}"[:SCHEMA_CHARACTERS]


def choose_schema(session: Session, user_id: str, wanted: str | None) -> str:
    """A free schema name for a new connection: the wanted one, else `salesforce`, else the user's own.

    A schema that exists is not free: what is in it is somebody's, and disconnecting drops a connection's schema.
    """
    if wanted is not None:
        if not _is_free(session, check_schema_name(wanted)):
            raise SettingsError(f"the schema {wanted} exists; mirrors need one of their own")
        return wanted
    base = reduced(user_id)
    numbered = (f"{base[: SCHEMA_CHARACTERS - 4]}_{number}" for number in range(2, 1000))
    for name in (DEFAULT_SCHEMA, base, *numbered):
        if _is_free(session, name):
            return name
    raise SettingsError("no schema name is free; choose one with --schema")


def _is_free(session: Session, name: str) -> bool:
    taken = session.scalar(select(exists().where(Connection.schema_name == name)))
    there = session.scalar(text("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = :name)"), {"name": name})
    return not taken and not there


def check_target(session: Session, user_id: str, schema_name: str | None) -> None:
    """Raise SettingsError for what would be refused after the grant, before a person consents or a token is spent."""
    found = find_connection(session, user_id)
    if found is None:
        choose_schema(session, user_id, schema_name)
    elif schema_name not in (None, found.schema_name):
        raise SettingsError(f"the mirrors of {user_id} are in the schema {found.schema_name}; it cannot be changed")


# What was put off because the grant was refused is due when there is another; what somebody is at just now is left to him.
WAITING = (
    """
    UPDATE sfsync.action_queues SET next_due_at = clock_timestamp()
     WHERE id IN (SELECT id FROM sfsync.action_queues
                   WHERE connection_id = :connection AND next_due_at > clock_timestamp() FOR UPDATE SKIP LOCKED)
    """,
    """
    UPDATE sfsync.runs SET due_at = clock_timestamp()
     WHERE id IN (SELECT r.id FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = r.mirror_id
                   WHERE m.connection_id = :connection AND r.state = 'ready' AND r.due_at > clock_timestamp()
                     FOR UPDATE OF r SKIP LOCKED)
    """,
)


def store_connection(
    session: Session,
    vault: Vault,
    *,
    user_id: str,
    grant: Grant,
    identity: Identity,
    grant_type: str,
    login_url: str,
    environment: str,
    schema_name: str | None = None,
    jwt_key: str | None = None,
) -> Connection:
    """Store a fresh grant as the user's connection: a new row, or the former one filled again, which resumes its work.

    SettingsError when the former one belongs to another org and still has mirrors or unfinished actions.
    """
    session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:place, 0))"), {"place": f"{TABLE} schemas"})
    found = find_connection(session, user_id)
    row = lock(session, found.id) if found is not None else None
    if row is None:
        row = _new_row(session, user_id, login_url, grant_type, choose_schema(session, user_id, schema_name))
    _check_same_org(session, row, identity)
    if grant.refresh_token is None:
        row.refresh_token = None  # the former one belongs to the former grant
    row.session_seconds = None
    row.jwt_key = vault.encrypt(jwt_key, table=TABLE, column="jwt_key", row=row.id) if jwt_key is not None else None
    put_grant(vault, row, grant)
    if row.salesforce_user_id not in (None, identity.user_id):
        row.former_salesforce_user_id = row.salesforce_user_id  # what he sent without an answer is his record
        row.user_changed_at = func.clock_timestamp()
    row.organization_id, row.salesforce_user_id, row.username = (
        identity.organization_id,
        identity.user_id,
        identity.username,
    )
    row.grant_type, row.login_url, row.environment = grant_type, login_url, environment
    resumed = row.state == "revoked"
    row.state, row.state_reason = "active", None
    if identity.organization_id is not None:
        session.execute(insert(Org).values(organization_id=identity.organization_id).on_conflict_do_nothing())
    session.flush()
    if resumed:
        for waiting in WAITING:
            session.execute(text(waiting), {"connection": row.id})
    return row


def _new_row(session: Session, user_id: str, login_url: str, grant_type: str, schema_name: str) -> Connection:
    """The row comes first: its id is part of what binds the ciphertext to it."""
    row = Connection(
        user_id=user_id,
        login_url=login_url,
        grant_type=grant_type,
        schema_name=schema_name,
        state="disconnected",
        token_version=0,
    )
    session.add(row)
    session.flush()
    return row


def _check_same_org(session: Session, row: Connection, identity: Identity) -> None:
    if row.organization_id in (None, identity.organization_id):
        return
    unfinished = exists().where(Action.connection_id == row.id, Action.state.not_in(FINISHED))
    if session.scalar(select(exists().where(Mirror.connection_id == row.id) | unfinished)):
        raise SettingsError(
            f"{row.user_id} is connected to the org {row.organization_id}, this grant is for {identity.organization_id}: "
            "use another user id for a second org, or disconnect first"
        )


def unfinished_actions(session: Session, connection_id: int) -> int:
    """How many of a connection's actions still wait."""
    found = select(func.count()).select_from(Action)
    return session.scalar(found.where(Action.connection_id == connection_id, Action.state.not_in(FINISHED))) or 0
