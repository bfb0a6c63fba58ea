"""Authorization code with PKCE: begun for a user, finished with what the org sends back. A state opens something once.

Nothing here returns or logs a token.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select, update

from models.connection import OAuthState
from worker.db import Database
from worker.errors import SettingsError
from worker.salesforce import oauth
from worker.salesforce.client import http_options
from worker.salesforce.metering import MeterOf, unmetered
from worker.settings import Settings
from worker.tokens.connect import Connected, Target, check_app, login_url_of, store_grant
from worker.tokens.grants import app, check_target
from worker.tokens.vault import Vault

STATE_LIFETIME = timedelta(minutes=10)
STATE_BYTES = 32
VERIFIER_BYTES = 64  # 86 characters, of the 43 to 128 that PKCE allows


class UnknownStateError(SettingsError):
    """The state is unknown, was used before, or is older than ten minutes."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """Where to send the user's browser, and the state that comes back with it."""

    url: str
    state: str = field(repr=False)


def begin_authorization(
    database: Database, vault: Vault, settings: Settings, target: Target, redirect_uri: str
) -> Authorization:
    """Begin an authorization: single use, bound to the user, good for ten minutes."""
    check_app(settings)
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
    return store_grant(database, vault, settings, target, begun.login_url, grant, "authorization_code", meter)


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


def _hash(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()
