"""API keys: who may come in by HTTP, with which scopes, for which users. Only a hash of a key is kept."""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from models.access import SCOPES, ApiKey
from worker.errors import SettingsError

KEY_PREFIX = "sfsk_"  # so that logs can blank it and people can tell what it is
USED_EVERY = timedelta(minutes=1)  # last_used_at is written at most this often
REMEMBERED_SECONDS = 1.0  # how long a key that was valid is taken to be: a revoked one dies within this
MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking, by which key. `user_ids` None: may act for every user."""

    key_id: int
    name: str
    scopes: frozenset[str]
    user_ids: frozenset[str] | None

    def may(self, scope: str) -> bool:
        """Whether the key has `scope`; admin has all."""
        return scope in self.scopes or "admin" in self.scopes

    def may_act_for(self, user_id: str) -> bool:
        """Whether the key may act for `user_id`."""
        return self.user_ids is None or user_id in self.user_ids


class KnownCallers:
    """Callers whose key was valid a moment ago, in this process's memory. Used from many threads.

    Only who was let in is remembered, by the hash of the whole key; who was refused is looked up each time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Caller]] = {}

    def find(self, text: str) -> Caller | None:
        """Whose key `text` was when it was last looked up, if that was within REMEMBERED_SECONDS."""
        known = self._known.get(_hash(text))
        return known[1] if known is not None and self._clock() < known[0] else None

    def authenticate(self, session: Session, text: str) -> Caller | None:
        """As `authenticate`, and remembered. Counted from before the look-up."""
        until = self._clock() + REMEMBERED_SECONDS
        caller = authenticate(session, text)
        if caller is not None:
            with self._lock:
                if len(self._known) >= MOST_REMEMBERED:
                    self._known.clear()
                self._known[_hash(text)] = (until, caller)
        return caller


def create_key(
    session: Session, name: str, scopes: list[str], user_ids: list[str] | None, expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """A new key and its secret text, which is shown once and never stored. Raises SettingsError for a wrong scope."""
    wrong = sorted(set(scopes) - set(SCOPES))
    if wrong or not scopes:
        raise SettingsError(f"scope {', '.join(wrong) or 'missing'}: choose from {', '.join(SCOPES)}")
    prefix = secrets.token_hex(4)
    text = f"{KEY_PREFIX}{prefix}_{secrets.token_urlsafe(32)}"
    row = ApiKey(
        prefix=prefix,
        secret_hash=_hash(text),
        name=name,
        scopes=sorted(set(scopes)),
        user_ids=sorted(set(user_ids)) if user_ids else None,
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return row, text


def list_keys(session: Session) -> list[ApiKey]:
    """All keys, newest last, revoked ones too."""
    return list(session.scalars(select(ApiKey).order_by(ApiKey.id)))


def revoke_key(session: Session, prefix: str) -> bool:
    """Revoke the key with this public prefix; False when there is none that is still valid."""
    done = session.execute(
        update(ApiKey)
        .where(ApiKey.prefix == prefix.removeprefix(KEY_PREFIX).split("_")[0], ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
        .returning(ApiKey.id)
    )
    return done.first() is not None


def authenticate(session: Session, text: str) -> Caller | None:
    """Whose key `text` is; None for one that is unknown, revoked or expired. Compares in constant time."""
    parts = text.removeprefix(KEY_PREFIX).split("_", 1)
    if not text.startswith(KEY_PREFIX) or len(parts) != 2:
        return None
    found = _valid(session, ApiKey.prefix == parts[0])
    expected = found[0].secret_hash if found else _hash("nobody")
    if not hmac.compare_digest(expected, _hash(text)) or found is None:
        return None
    return _used(*found)


def caller_by_id(session: Session, key_id: int) -> Caller | None:
    """Who holds the key of this id, for who has proven before to hold it; None when it is revoked or expired by now."""
    found = _valid(session, ApiKey.id == key_id)
    return None if found is None else _used(*found)


def _valid(session: Session, which: ColumnElement[bool]) -> tuple[ApiKey, datetime] | None:
    """The key, unless it is revoked or expired, and the time."""
    alive = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.clock_timestamp())
    found = session.execute(
        select(ApiKey, func.clock_timestamp()).where(which, ApiKey.revoked_at.is_(None), alive)
    ).first()
    return None if found is None else (found[0], found[1])


def _used(row: ApiKey, now: datetime) -> Caller:
    if row.last_used_at is None or now - row.last_used_at > USED_EVERY:
        row.last_used_at = now
    return Caller(row.id, row.name, frozenset(row.scopes), None if row.user_ids is None else frozenset(row.user_ids))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
