"""Asking the org for a new access token, each grant in its way."""

from datetime import UTC, datetime

from models.connection import Connection
from worker.errors import DisconnectedError
from worker.salesforce import assertion, oauth
from worker.salesforce.client import http_options
from worker.salesforce.oauth import Grant
from worker.settings import Settings
from worker.tokens.grants import TABLE, app
from worker.tokens.vault import Vault


def ask_org(settings: Settings, vault: Vault, row: Connection, refresh_token: str | None) -> Grant:
    """Ask the org for a new access token, in the way of this connection's grant. Sent once."""
    options = http_options(settings)
    if row.grant_type == "client_credentials":
        return oauth.client_credentials(options, row.login_url, app(settings))
    if row.grant_type == "jwt_bearer":
        key = vault.decrypt(row.jwt_key or "", table=TABLE, column="jwt_key", row=row.id)
        return oauth.jwt_bearer(options, row.login_url, assertion_of(settings, row, key))
    if refresh_token is None:
        raise DisconnectedError("the session has ended and there is no refresh token to renew it")
    return oauth.refresh(options, row.login_url, app(settings), refresh_token)


def assertion_of(settings: Settings, row: Connection, key: str) -> str:
    """What a JWT bearer connection shows the org."""
    return assertion.sign(
        key,
        client_id=settings.salesforce_client_id,
        username=row.username or "",
        audience=assertion.audience(row.login_url, row.environment),
        now=datetime.now(UTC),  # the assertion's own clock: the org allows minutes of skew
    )
