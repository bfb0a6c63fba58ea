"""Connecting a user: a refresh token from elsewhere, client credentials, JWT; and storing what any way of connecting granted.

Used by the command line and by the shim. Nothing here returns or logs a token.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import update

from models.connection import Connection
from worker.attribution import attributed
from worker.db import Database
from worker.errors import DisconnectedError, SettingsError, SyncError
from worker.log import blank, get_logger
from worker.salesforce import assertion, oauth, rest, soql
from worker.salesforce.client import OrgClient, http_options
from worker.salesforce.exchange import AccessToken
from worker.salesforce.hosts import check_login_url
from worker.salesforce.metering import Meter, MeterOf, unmetered
from worker.salesforce.oauth import Grant, Identity
from worker.settings import Settings
from worker.tokens.grants import app, check_target, put_expiry, store_connection
from worker.tokens.vault import Vault

log = get_logger(__name__)

PRODUCTION = "https://login.salesforce.com"
SANDBOX = "https://test.salesforce.com"
ENVIRONMENTS = ("production", "sandbox")


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to connect to what. `login_url` and `schema_name` None: as the settings and the environment say."""

    user_id: str
    environment: str = "production"
    login_url: str | None = None
    schema_name: str | None = None


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
    check_app(settings)
    login_url = login_url_of(settings, target)
    with database.transaction() as session:
        check_target(session, target.user_id, target.schema_name)
    grant = oauth.refresh(http_options(settings), login_url, app(settings), refresh_token)
    if grant.refresh_token is None:
        grant = _with_refresh_token(grant, refresh_token)
    return store_grant(database, vault, settings, target, login_url, grant, "refresh_token", meter)


def connect_with_client_credentials(
    database: Database, vault: Vault, settings: Settings, target: Target, *, meter: MeterOf = unmetered
) -> Connected:
    """Connect as the app's own "Run As" user: nothing rotates and nothing expires but the session."""
    check_app(settings)
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
    return store_grant(database, vault, settings, target, login_url, grant, "client_credentials", meter)


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
    check_app(settings)
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
    return store_grant(database, vault, settings, target, login_url, grant, "jwt_bearer", meter, Signer(username, key))


def store_grant(
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
    """Store a grant as the user's connection, with whose it is by the org's word.

    Where the grant itself tells that, nothing is asked with it before it is stored: with rotation there is no second one.
    """
    who = Identity(grant.organization_id, grant.user_id, None)
    if who.organization_id is None or who.user_id is None:
        who = oauth.identity(http_options(settings), grant)
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
    username = _complete(database, settings, row, grant, who, meter)
    log.info("connection.made", user=row.user_id, org=row.organization_id, grant=grant_type)
    return replace(shown(row), username=username)


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
) -> str | None:
    """What is good to know and may be refused: the user's profile and name, when the token ends. The name."""
    user = _user(settings, grant, who, meter(row.id))
    username = who.username or str(user.get("Username") or "") or oauth.identity(http_options(settings), grant).username
    expires_at = grant.expires_at or _expiry(settings, row, grant)
    with database.transaction() as session:
        same = (Connection.id == row.id, Connection.token_version == row.token_version)
        profile_id = str(user.get("ProfileId") or "") or None
        session.execute(update(Connection).where(*same).values(profile_id=profile_id, username=username))
        put_expiry(session, row.id, row.token_version, expires_at)
    return username


def _user(settings: Settings, grant: Grant, who: Identity, meter: Meter) -> dict[str, Any]:
    """The user's own record, as far as it may be read: who may use the API need not be told who he is by OAuth."""
    if who.user_id is None:
        return {}
    try:
        client = OrgClient(_JustGranted(grant), http_options(settings), meter=meter)
        with attributed(object="User", cause="connect"):
            where = f"Id = {soql.quote(who.user_id)}"
            page = rest.query(client, soql.select("User", ["ProfileId", "Username"], where=where))
    except SyncError:
        return {}
    return page.records[0] if page.records else {}


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


def check_app(settings: Settings) -> None:
    """SettingsError while no app is named."""
    if not settings.salesforce_client_id:
        raise SettingsError("SALESFORCE_CLIENT_ID is not set: it is the consumer key of your connected app")
