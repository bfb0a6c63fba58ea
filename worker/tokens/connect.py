"""Connecting and disconnecting a user: authorization code with PKCE, an imported refresh token, client credentials.

Used by the command line and by the shim. Nothing here returns or logs a token.
"""

import hashlib
import secrets
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import sql
from sqlalchemy import delete, func, select, update

from models.connection import Connection, OAuthState
from models.mirror import Mirror
from worker.attribution import attributed
from worker.db import Database, raw
from worker.errors import DisconnectedError, SettingsError, SyncError
from worker.log import blank, get_logger
from worker.salesforce import assertion, oauth, rest, soql
from worker.salesforce.client import AccessToken, OrgClient, http_options
from worker.salesforce.hosts import check_login_url
from worker.salesforce.metering import Meter, MeterOf, unmetered
from worker.salesforce.oauth import Grant, Identity
from worker.settings import Settings
from worker.tokens.grants import (
    TABLE,
    app,
    check_target,
    find_connection,
    lock,
    put_expiry,
    store_connection,
    unfinished_actions,
)
from worker.tokens.vault import Vault

log = get_logger(__name__)

STATE_LIFETIME = timedelta(minutes=10)
STATE_BYTES = 32
VERIFIER_BYTES = 64  # 86 characters, of the 43 to 128 that PKCE allows
PRODUCTION = "https://login.salesforce.com"
SANDBOX = "https://test.salesforce.com"
ENVIRONMENTS = ("production", "sandbox")


class UnknownStateError(SettingsError):
    """The state is unknown, was used before, or is older than ten minutes."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to connect to what. `login_url` and `schema_name` None: as the settings and the environment say."""

    user_id: str
    environment: str = "production"
    login_url: str | None = None
    schema_name: str | None = None


@dataclass(frozen=True, slots=True)
class Authorization:
    """Where to send the user's browser, and the state that comes back with it."""

    url: str
    state: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Connected:
    """A stored connection, as it may be shown."""

    connection_id: int
    user_id: str
    organization_id: str | None
    username: str | None
    instance_url: str
    environment: str
    schema_name: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """What disconnecting did. `revoked`: the org confirmed; `problem`: why it did not."""

    user_id: str
    revoked: bool
    problem: str | None
    dropped_schema: str | None
    unfinished_actions: int


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs in by a key."""

    username: str
    key: str = field(repr=False)


def login_url_of(settings: Settings, target: Target) -> str:
    """The login host for a target; SettingsError when it is not allowed."""
    if target.environment not in ENVIRONMENTS:
        raise SettingsError(f"--environment is one of {', '.join(ENVIRONMENTS)}, not {target.environment!r}")
    if target.login_url is not None:
        return check_login_url(target.login_url, settings.salesforce_allowed_hosts, "--login-url")
    url = check_login_url(settings.salesforce_login_url, settings.salesforce_allowed_hosts)
    return SANDBOX if url == PRODUCTION and target.environment == "sandbox" else url


def begin_authorization(
    database: Database, vault: Vault, settings: Settings, target: Target, redirect_uri: str
) -> Authorization:
    """Begin an authorization: single use, bound to the user, good for ten minutes."""
    _check_app(settings)
    login_url = login_url_of(settings, target)
    state, verifier = secrets.token_urlsafe(STATE_BYTES), secrets.token_urlsafe(VERIFIER_BYTES)
    name = _hash(state)
    with database.transaction() as session:
        check_target(session, target.user_id, target.schema_name)
        old = OAuthState.created_at < func.clock_timestamp() - timedelta(days=1)
        session.execute(delete(OAuthState).where(old))
        session.add(
            OAuthState(
                state_hash=name,
                user_id=target.user_id,
                code_verifier=vault.encrypt(verifier, table="oauth_states", column="code_verifier", row=name),
                redirect_uri=redirect_uri,
                login_url=login_url,
                options={"environment": target.environment, "schema_name": target.schema_name},
            )
        )
    url = oauth.authorize_url(login_url, app(settings), redirect_uri=redirect_uri, state=state, verifier=verifier)
    return Authorization(url, state)


def finish_authorization(
    database: Database, vault: Vault, settings: Settings, state: str, code: str, *, meter: MeterOf = unmetered
) -> Connected:
    """Exchange the code that came back and store the grant.

    Raises UnknownStateError for a state that is unknown, used or older than ten minutes; it is used up by the attempt.
    """
    begun = _use_state(database, state)
    verifier = vault.decrypt(begun.code_verifier, table="oauth_states", column="code_verifier", row=begun.state_hash)
    grant = oauth.exchange_code(
        http_options(settings),
        begun.login_url,
        app(settings),
        code=code,
        redirect_uri=begun.redirect_uri,
        verifier=verifier,
    )
    options: dict[str, Any] = begun.options
    target = Target(begun.user_id, options["environment"], begun.login_url, options["schema_name"])
    return _store(database, vault, settings, target, begun.login_url, grant, "authorization_code", meter)


def state_user(database: Database, state: str) -> str | None:
    """Whose authorization a state belongs to, while it may still be finished."""
    with database.transaction() as session:
        return session.scalar(select(OAuthState.user_id).where(*_usable(state)))


def _usable(state: str) -> tuple[Any, ...]:
    young = OAuthState.created_at > func.clock_timestamp() - STATE_LIFETIME
    return OAuthState.state_hash == _hash(state), OAuthState.used_at.is_(None), young


def _use_state(database: Database, state: str) -> OAuthState:
    """Mark a state as used, in a transaction of its own: whatever follows, it opens nothing a second time."""
    marked = update(OAuthState).where(*_usable(state)).values(used_at=func.clock_timestamp()).returning(OAuthState)
    with database.transaction() as session:
        begun = session.scalar(marked)
    if begun is None:
        raise UnknownStateError("this authorization is unknown, already used or older than ten minutes: begin again")
    return begun


def give_up_authorization(database: Database, state: str) -> str:
    """The org said no: the state is used up. Whose it was; UnknownStateError as for `finish_authorization`."""
    return _use_state(database, state).user_id


def connect_with_refresh_token(
    database: Database,
    vault: Vault,
    settings: Settings,
    target: Target,
    refresh_token: str,
    *,
    meter: MeterOf = unmetered,
) -> Connected:
    """Store a refresh token that was granted elsewhere. It is used once, to learn whose it is; with rotation that spends it."""
    _check_app(settings)
    login_url = login_url_of(settings, target)
    with database.transaction() as session:
        check_target(session, target.user_id, target.schema_name)
    grant = oauth.refresh(http_options(settings), login_url, app(settings), refresh_token)
    if grant.refresh_token is None:
        grant = _with_refresh_token(grant, refresh_token)
    return _store(database, vault, settings, target, login_url, grant, "refresh_token", meter)


def connect_with_client_credentials(
    database: Database, vault: Vault, settings: Settings, target: Target, *, meter: MeterOf = unmetered
) -> Connected:
    """Connect as the app's own "Run As" user: nothing rotates and nothing expires but the session."""
    _check_app(settings)
    if not settings.salesforce_client_secret.get_secret_value():
        raise SettingsError("SALESFORCE_CLIENT_SECRET is not set: client credentials need it")
    login_url = login_url_of(settings, target)
    if login_url in (PRODUCTION, SANDBOX):
        raise SettingsError(
            "SALESFORCE_LOGIN_URL: client credentials work on the org's own host only, as https://acme.my.salesforce.com"
        )
    with database.transaction() as session:
        check_target(session, target.user_id, target.schema_name)
    grant = oauth.client_credentials(http_options(settings), login_url, app(settings))
    return _store(database, vault, settings, target, login_url, grant, "client_credentials", meter)


def connect_with_jwt(
    database: Database,
    vault: Vault,
    settings: Settings,
    target: Target,
    username: str,
    key: str,
    *,
    meter: MeterOf = unmetered,
) -> Connected:
    """Connect as `username` by a key whose certificate is in the app: no person consents, nothing rotates.

    `key` is an RSA private key in PEM form; it is stored encrypted.
    """
    _check_app(settings)
    assertion.check_key(key)
    login_url = login_url_of(settings, target)
    with database.transaction() as session:
        check_target(session, target.user_id, target.schema_name)
    signed = assertion.sign(
        key,
        client_id=settings.salesforce_client_id,
        username=username,
        audience=assertion.audience(login_url, target.environment),
        now=datetime.now(UTC),
    )
    grant = oauth.jwt_bearer(http_options(settings), login_url, signed)
    return _store(database, vault, settings, target, login_url, grant, "jwt_bearer", meter, Signer(username, key))


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


def _store(
    database: Database,
    vault: Vault,
    settings: Settings,
    target: Target,
    login_url: str,
    grant: Grant,
    grant_type: str,
    meter: MeterOf,
    signer: Signer | None = None,
) -> Connected:
    options = http_options(settings)
    who = oauth.identity(options, grant)
    if signer is not None:  # the name that is signed for is the one to keep
        who = replace(who, username=signer.username)
    with database.transaction() as session:
        row = store_connection(
            session,
            vault,
            user_id=target.user_id,
            grant=grant,
            identity=who,
            grant_type=grant_type,
            login_url=login_url,
            environment=target.environment,
            schema_name=target.schema_name,
            jwt_key=signer.key if signer is not None else None,
        )
    _complete(database, settings, row, grant, who, meter)
    log.info("connection.made", user=row.user_id, org=row.organization_id, grant=grant_type)
    return shown(row)


def shown(row: Connection) -> Connected:
    """A connection without its secrets."""
    return Connected(
        row.id,
        row.user_id,
        row.organization_id,
        row.username,
        row.instance_url or row.login_url,
        row.environment,
        row.schema_name,
    )


def _complete(
    database: Database, settings: Settings, row: Connection, grant: Grant, who: Identity, meter: MeterOf
) -> None:
    """What is good to know and may be refused: the user's profile, when the token ends."""
    profile_id = _profile(settings, grant, who, meter(row.id))
    expires_at = grant.expires_at or _expiry(settings, row, grant)
    with database.transaction() as session:
        same = (Connection.id == row.id, Connection.token_version == row.token_version)
        session.execute(update(Connection).where(*same).values(profile_id=profile_id))
        put_expiry(session, row.id, row.token_version, expires_at)


def _profile(settings: Settings, grant: Grant, who: Identity, meter: Meter) -> str | None:
    if who.user_id is None:
        return None
    try:
        client = OrgClient(_JustGranted(grant), http_options(settings), meter=meter)
        with attributed(object="User", cause="connect"):
            page = rest.query(client, soql.select("User", ["ProfileId"], where=f"Id = {soql.quote(who.user_id)}"))
    except SyncError:
        return None
    return str(page.records[0].get("ProfileId") or "") or None if page.records else None


def _expiry(settings: Settings, row: Connection, grant: Grant) -> Any:
    try:
        return oauth.introspect(http_options(settings), row.login_url, app(settings), grant.access_token)
    except SyncError:
        return None


class _JustGranted:
    """A token that is not stored yet, for one look at whose it is."""

    def __init__(self, grant: Grant) -> None:
        self._token = AccessToken(grant.access_token, grant.instance_url, 0)

    def current(self) -> AccessToken:
        return self._token

    def renew(self, stale: AccessToken) -> AccessToken:
        raise DisconnectedError(f"the org refuses the token that it gave for {blank(stale.instance_url)}")

    def refused(self, token: AccessToken, reason: str) -> SyncError:
        return DisconnectedError(f"{blank(token.instance_url)}: {reason}")


def _with_refresh_token(grant: Grant, refresh_token: str) -> Grant:
    """The org did not rotate: the token that was given stays the one to keep."""
    return Grant(
        grant.access_token,
        refresh_token,
        grant.instance_url,
        grant.scope,
        grant.identity_url,
        grant.issued_at,
        grant.expires_at,
    )


def _hash(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()


def _check_app(settings: Settings) -> None:
    if not settings.salesforce_client_id:
        raise SettingsError("SALESFORCE_CLIENT_ID is not set: it is the consumer key of your connected app")
