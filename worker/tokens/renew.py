"""Renewal: one at a time per connection over all processes, and never a pair in use that is not stored.

The row lock is held across the call to the org (FOR NO KEY UPDATE, so that inserts which refer to the connection pass). It dies with
its connection and needs no expiry. Waiters wait longer than the call may take, and the server ends what hangs longer still:
15 s (call) < 25 s (lock_timeout) < 60 s (idle_in_transaction_session_timeout).

Killed before the request: nothing happened; the attempt that stays open costs the next renewer a short wait. Killed between request and
answer, or between answer and spool file: with rotation the stored token may be spent, which the next attempt finds out; no client
can do better. Killed after the spool file: the pair is found there by the next renewal on this machine, or at the next start.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models.connection import Connection, Renewal
from worker.db import Database
from worker.errors import DisconnectedError, SyncError, TransientError, UnknownOutcomeError
from worker.log import get_logger
from worker.salesforce import oauth
from worker.salesforce.client import http_options
from worker.salesforce.exchange import AccessToken
from worker.salesforce.oauth import AppRefusedError, BusyError, Grant, InactiveOrgError
from worker.settings import Settings
from worker.tokens.asking import ask_org
from worker.tokens.grants import TABLE, app, lock, open_refresh_token, put_expiry, put_grant
from worker.tokens.spool import Pair, Spool, fingerprint
from worker.tokens.timing import learnt
from worker.tokens.vault import Vault

log = get_logger(__name__)

OPEN_ATTEMPT = timedelta(seconds=30)  # a renewer that lost its lock may still store its pair for this long
STORE_SECONDS = 300.0  # how long a pair in hand is offered to a Postgres that is away
EXPIRES_SOON = timedelta(seconds=30)  # a token known to end within this is renewed before it is used
BUSY_PAUSES = (1.0, 2.0, None)  # seconds before the next attempt; None: leave it to the caller
APP_REFUSED_PAUSE = timedelta(minutes=5)
REFUSED_PAUSE = timedelta(seconds=30)
LOOK_AGAIN = timedelta(days=1)  # at an org that was inactive or locked
REFUSED_TIMES = 3  # renewals in a row whose fresh token the org refused at once: then a person must look
Announce = Callable[[Session, int, str], None]  # told, in its transaction, that a connection is revoked, and why


class StoredTokens:
    """The tokens of one connection, as worker.salesforce.exchange.TokenSource wants them."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        settings: Settings,
        connection_id: int,
        announce: Announce = lambda *_: None,
    ) -> None:
        self._database = database
        self._vault = vault
        self._settings = settings
        self._announce = announce
        self._spool = token_spool(settings, vault)
        self.database = database
        self.connection_id = connection_id

    def current(self) -> AccessToken:
        """The stored token; renewed first when it is known to have ended.

        Raises DisconnectedError for a connection that is revoked, disconnected or not there.
        """
        token, ended = self.stored()
        if not ended:
            return token
        try:
            return self.renew_early()
        except TransientError:  # the org will say whether the token still serves
            return token

    def stored(self) -> tuple[AccessToken, bool]:
        """The stored token as it is, and whether it is known to end now. Raises DisconnectedError like `current`."""
        soon = Connection.expires_at < func.clock_timestamp() + EXPIRES_SOON
        with self._database.alone() as session:
            found = session.execute(select(Connection, soon).where(Connection.id == self.connection_id)).one_or_none()
        row, ended = found if found is not None else (None, None)
        return self._token(_active(row, self.connection_id)), bool(ended)

    def renew(self, stale: AccessToken) -> AccessToken:
        """A newer token than `stale`, which the org refused: the stored one when somebody else has renewed it, else from the org.

        Raises DisconnectedError (the org refused the grant; the connection is marked), TransientError.
        """
        return self._renew_patiently(stale, refused=True)

    def renew_early(self) -> AccessToken:
        """A newer token than the stored one, which may still serve. Raises as `renew`."""
        return self._renew_patiently(self.stored()[0], refused=False)

    def _renew_patiently(self, stale: AccessToken, *, refused: bool) -> AccessToken:
        with _single_flight(self._database.url, self.connection_id):
            for patience in BUSY_PAUSES:
                try:
                    return self._renew(stale, refused=refused)
                except BusyError:
                    if patience is None:
                        raise
                    time.sleep(patience * random.uniform(0.7, 1.5))  # noqa: S311
        raise AssertionError("the last pause is None")

    def refused(self, token: AccessToken, reason: str) -> SyncError:
        """The org refused a token that was just renewed. Once may be a hiccup; several times in a row is for a person."""
        with self._database.transaction() as session:
            renewals = _renewals(session, self.connection_id)
            if renewals:
                renewals[0].detail = "refused"
            if len(renewals) == REFUSED_TIMES and all(one.detail == "refused" for one in renewals):
                why = f"the org refuses fresh tokens ({reason})"
                _mark_revoked(session, self.connection_id, token.version, why, self._announce)
                return DisconnectedError(why)
        return TransientError(
            f"the org refuses a fresh token ({reason})", code="INVALID_SESSION_ID", retry_after=REFUSED_PAUSE
        )

    def _renew(self, stale: AccessToken, *, refused: bool) -> AccessToken:
        """One attempt, on connections of its own: waiters must not starve the pool that claims and steps use."""
        own = Database(self._database.url, pool_size=2, application="sfsync-renew")
        try:
            renewal = _Attempt(self, own, stale, refused=refused)
            outcome = renewal.run()
        finally:
            own.close()
        if isinstance(outcome, SyncError):
            raise outcome
        if renewal.pair is not None:
            self._learn_expiry(outcome)
        return outcome

    def _learn_expiry(self, token: AccessToken) -> None:
        """Ask the org when the new token ends, where it tells. Best effort, after everything that matters is stored."""
        try:
            with self._database.transaction() as session:
                row = session.get_one(Connection, self.connection_id)
            if row.expires_at is None:
                expires_at = oauth.introspect(
                    http_options(self._settings), row.login_url, app(self._settings), token.value
                )
                with self._database.transaction() as session:
                    put_expiry(session, self.connection_id, token.version, expires_at)
        except (SyncError, DBAPIError) as error:
            log.debug("token.expiry_unknown", connection=self.connection_id, error=type(error).__name__)

    def _token(self, row: Connection) -> AccessToken:
        value = self._vault.decrypt(row.access_token or "", table=TABLE, column="access_token", row=row.id)
        return AccessToken(value, row.instance_url or row.login_url, row.token_version)


class _Attempt:
    """One renewal under the row lock. `pair` is set once the org has answered."""

    def __init__(self, tokens: StoredTokens, database: Database, stale: AccessToken, *, refused: bool) -> None:
        self.tokens = tokens
        self.database = database
        self.stale = stale
        self.refused = refused
        self.pair: Pair | None = None

    def run(self) -> AccessToken | SyncError:
        """The newer token, or what is to be raised (after the commit of what was learnt)."""
        try:
            with self.database.transaction() as session:
                return self._under_lock(session)
        except DBAPIError as error:
            if self.pair is None:
                return TransientError(f"a renewal waits for Postgres ({type(error.orig).__name__})", code="TOKEN_BUSY")
            log.warning("token.store_failed", connection=self.tokens.connection_id, error=type(error.orig).__name__)
            return self._store_patiently(self.pair)

    def _under_lock(self, session: Session) -> AccessToken | SyncError:
        row = _active(lock(session, self.tokens.connection_id), self.tokens.connection_id)
        if row.token_version != self.stale.version:
            return self.tokens._token(row)
        refresh_token = open_refresh_token(self.tokens._vault, row)
        if restored := self._restore(session, row, refresh_token):
            return restored
        if refresh_token and _is_attempt_open(session, row.id, fingerprint(refresh_token)):
            return BusyError(
                "another process may be storing a renewed token", code="TOKEN_BUSY", retry_after=OPEN_ATTEMPT
            )
        attempt_id = self._open_attempt(row.id, refresh_token)
        grant = self._ask(row, refresh_token)
        if isinstance(grant, SyncError):
            return self._give_up(session, row, attempt_id, grant)
        self.pair = Pair(row.id, fingerprint(refresh_token), row.token_version, attempt_id, grant)
        self._keep(self.pair)
        return self._store(session, row, self.pair)

    def _restore(self, session: Session, row: Connection, refresh_token: str | None) -> AccessToken | None:
        """A pair that a killed process left on this machine."""
        pair = useful_pair(self.tokens._spool.find(row.id), row, refresh_token)
        if pair is None:
            return None
        log.info("token.restored", connection=row.id)
        self.pair = pair
        return self._store(session, row, pair)

    def _open_attempt(self, connection_id: int, refresh_token: str | None) -> int:
        """Committed on another connection, before the request: an attempt that stays open tells of a death in between."""
        with self.database.transaction() as session:
            attempt = Renewal(connection_id=connection_id, fingerprint=fingerprint(refresh_token))
            session.add(attempt)
            session.flush()
            return attempt.id

    def _ask(self, row: Connection, refresh_token: str | None) -> Grant | SyncError:
        try:
            return ask_org(self.tokens._settings, self.tokens._vault, row, refresh_token)
        except SyncError as error:
            return error

    def _give_up(self, session: Session, row: Connection, attempt_id: int, error: SyncError) -> SyncError:
        outcome = outcome_of(error)
        end_attempt(session, attempt_id, outcome, str(error))
        log.warning("token.not_renewed", connection=row.id, outcome=outcome, reason=str(error))
        if isinstance(error, AppRefusedError):
            return TransientError(str(error), code="APP_REFUSED", retry_after=APP_REFUSED_PAUSE)
        if isinstance(error, DisconnectedError):
            again = LOOK_AGAIN if isinstance(error, InactiveOrgError) else None
            _mark_revoked(session, row.id, row.token_version, str(error), self.tokens._announce, again)
        return error

    def _keep(self, pair: Pair) -> None:
        try:
            self.tokens._spool.keep(pair)
        except OSError as error:  # a full disk must not cost the grant: Postgres is still there
            log.warning("spool.failed", connection=pair.connection_id, error=error.strerror)

    def _store(self, session: Session, row: Connection, pair: Pair) -> AccessToken:
        if self.refused:
            _learn_session(session, row)
        put_grant(self.tokens._vault, row, pair.grant)
        end_attempt(session, pair.attempt_id, "renewed", None)
        session.commit()  # before anyone uses it
        self.tokens._spool.drop(pair)
        log.info("token.renewed", connection=row.id, version=row.token_version)
        return self.tokens._token(row)

    def _store_patiently(self, pair: Pair) -> AccessToken | SyncError:
        """Postgres went away with the pair in our hands: offer it until it is taken."""
        end = time.monotonic() + STORE_SECONDS
        while time.monotonic() < end:
            try:
                with self.database.transaction() as session:
                    row = lock(session, pair.connection_id)
                    if (
                        row is None or row.token_version != pair.follows
                    ):  # our own commit had arrived, or a person reconnected
                        self.tokens._spool.drop(pair)
                        return self.tokens._token(_active(row, pair.connection_id))
                    return self._store(session, row, pair)
            except DBAPIError:
                time.sleep(random.uniform(0.2, 0.6))  # noqa: S311
            except SyncError as error:
                return error
        return TransientError("Postgres did not take the renewed token; it is kept on disk", code="TOKEN_BUSY")


def token_spool(settings: Settings, vault: Vault) -> Spool:
    """Where pairs are kept that Postgres has not confirmed."""
    return Spool(settings.data_folder / "tokens", vault)


def outcome_of(error: SyncError) -> str:
    """How an attempt that gave no token ended, as `renewals.outcome` words it."""
    if isinstance(error, BusyError):
        return "busy"
    if isinstance(error, DisconnectedError):
        return "revoked"
    return "unknown" if isinstance(error, UnknownOutcomeError) else "failed"


def _active(row: Connection | None, connection_id: int) -> Connection:
    if row is None:
        raise DisconnectedError(f"there is no connection {connection_id}")
    if row.state != "active":
        raise DisconnectedError(f"user {row.user_id} is {row.state}: {row.state_reason or 'connect again'}")
    return row


def useful_pair(pairs: Sequence[Pair], row: Connection, refresh_token: str | None) -> Pair | None:
    """The pair that follows what is stored, if there is one."""
    spent = fingerprint(refresh_token)
    return next((pair for pair in pairs if pair.follows == row.token_version and pair.spent == spent), None)


def _is_attempt_open(session: Session, connection_id: int, spent: str) -> bool:
    """Whether a process asked with this token a moment ago and has not said how it ended (it may have lost its lock)."""
    young = Renewal.started_at > func.clock_timestamp() - OPEN_ATTEMPT
    found = select(Renewal.id).where(
        Renewal.connection_id == connection_id, Renewal.fingerprint == spent, Renewal.outcome.is_(None), young
    )
    return session.scalar(found.limit(1)) is not None


def end_attempt(session: Session, attempt_id: int, outcome: str, detail: str | None) -> None:
    """Note how an attempt ended."""
    session.execute(
        update(Renewal)
        .where(Renewal.id == attempt_id)
        .values(outcome=outcome, detail=detail, ended_at=func.clock_timestamp())
    )


def _mark_revoked(
    session: Session, connection_id: int, version: int, reason: str, announce: Announce, again: timedelta | None = None
) -> None:
    """Once, and in the transaction that marks it, somebody is told. `again`: when to see by ourselves whether it still holds."""
    renew_at = None if again is None else func.clock_timestamp() + again * random.uniform(0.9, 1.1)  # noqa: S311
    marked = session.scalar(
        update(Connection)
        .where(Connection.id == connection_id, Connection.token_version == version, Connection.state == "active")
        .values(state="revoked", state_reason=reason, renew_at=renew_at)
        .returning(Connection.id)
    )
    if marked is not None:
        announce(session, connection_id, reason)


def _learn_session(session: Session, row: Connection) -> None:
    """The org refused a token whose end nobody knew: its age says something about how long sessions last."""
    if row.expires_at is None and row.renewed_at is not None:
        age = session.scalar(select(func.clock_timestamp() - row.renewed_at))
        before = timedelta(seconds=row.session_seconds) if row.session_seconds else None
        length = learnt(age, before) if age is not None else before
        row.session_seconds = length.total_seconds() if length else None


def _renewals(session: Session, connection_id: int) -> list[Renewal]:
    found = select(Renewal).where(Renewal.connection_id == connection_id, Renewal.outcome == "renewed")
    return list(session.scalars(found.order_by(Renewal.id.desc()).limit(REFUSED_TIMES)))


_flights: dict[tuple[str, int], threading.Lock] = {}
_flights_lock = threading.Lock()


@contextmanager
def _single_flight(url: str, connection_id: int) -> Iterator[None]:
    """One thread of this process renews a connection; the others wait here, without holding a connection to Postgres."""
    with _flights_lock:
        flight = _flights.setdefault((url, connection_id), threading.Lock())
    with flight:
        yield


def _forget_flights() -> None:
    global _flights_lock
    _flights_lock = threading.Lock()
    _flights.clear()


os.register_at_fork(after_in_child=_forget_flights)
