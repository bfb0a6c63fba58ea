"""Connected apps, grants, codes, refresh tokens and sessions, in a file of their own.

Source of the rules: Salesforce Help, "OAuth Tokens and Scopes", "OAuth 2.0 Refresh Token Flow".
"""

import json
import secrets
import sqlite3
import string
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from local_org.clock import Clock
from local_org.errors import OAuthError

FILE_NAME = "access.sqlite3"
CODE_MINUTES = 15
APPROVALS_PER_USER = 5
_TOKEN_CHARS = string.ascii_letters + string.digits + "._"

_TABLES = """
CREATE TABLE IF NOT EXISTS clients (id TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS grants (
    id INTEGER PRIMARY KEY, user_id TEXT NOT NULL, client_id TEXT NOT NULL, scope TEXT NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS codes (
    code TEXT PRIMARY KEY, client_id TEXT NOT NULL, user_id TEXT NOT NULL, scope TEXT NOT NULL,
    redirect_uri TEXT NOT NULL, challenge TEXT, nonce TEXT, expires_ms INTEGER NOT NULL,
    grant_id INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refresh_tokens (
    token TEXT PRIMARY KEY, grant_id INTEGER NOT NULL, current INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
    token TEXT PRIMARY KEY, grant_id INTEGER, user_id TEXT NOT NULL, client_id TEXT NOT NULL,
    scope TEXT NOT NULL, issued_ms INTEGER NOT NULL, idle_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Client:
    """A connected app. Without `secret` it is public; no `redirect_uris` means any on this machine."""

    id: str
    secret: str | None = None
    redirect_uris: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    require_pkce: bool = False
    run_as: str | None = None
    certificate: str | None = None


@dataclass(frozen=True, slots=True)
class Code:
    code: str
    client_id: str
    user_id: str
    scope: str
    redirect_uri: str
    challenge: str | None
    nonce: str | None
    expires_ms: int
    grant_id: int | None = None


@dataclass(slots=True)
class Session:
    """An access token. Activity in the later half of the idle time moves `expires_ms` on."""

    token: str
    grant_id: int | None
    user_id: str
    client_id: str
    scope: str
    issued_ms: int
    idle_ms: int
    expires_ms: int


def random_text(length: int) -> str:
    return "".join(secrets.choice(_TOKEN_CHARS) for _ in range(length))


class Tokens:
    """All token state. Every method is one transaction; safe to call from any thread."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._conn = sqlite3.connect(folder / FILE_NAME, isolation_level=None, check_same_thread=False)
        self._conn.execute("PRAGMA journal_mode=WAL")
        self._conn.execute("PRAGMA synchronous=NORMAL")
        self._conn.executescript(_TABLES)
        self._cache: dict[str, Session] = {}
        self._refreshing: set[str] = set()

    def close(self) -> None:
        with self._lock:
            self._conn.close()

    # -- clients

    def client(self, client_id: str) -> Client | None:
        with self._lock:
            row = self._conn.execute("SELECT data FROM clients WHERE id = ?", (client_id,)).fetchone()
        if row is None:
            return None
        data: dict[str, Any] = json.loads(row[0])
        data |= {"redirect_uris": tuple(data["redirect_uris"]), "scopes": tuple(data["scopes"])}
        return Client(**data)

    def put_client(self, client: Client) -> None:
        with self._lock:
            data = json.dumps(asdict(client))
            self._conn.execute("INSERT OR REPLACE INTO clients VALUES (?, ?)", (client.id, data))

    # -- codes and grants

    def add_code(self, client_id: str, user_id: str, scope: str, redirect_uri: str,
                 challenge: str | None, nonce: str | None) -> str:  # fmt: skip
        """A new authorization code: single use, valid 15 minutes."""
        code = "aPrx" + random_text(60) + "=="
        expires_ms = self._clock.exact_ms() + CODE_MINUTES * 60_000
        with self._lock:
            self._conn.execute(
                "INSERT INTO codes VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
                (code, client_id, user_id, scope, redirect_uri, challenge, nonce, expires_ms),
            )
        return code

    def code(self, code: str) -> Code | None:
        with self._lock:
            row = self._conn.execute("SELECT * FROM codes WHERE code = ?", (code,)).fetchone()
        return None if row is None else Code(*row)

    def use_code(self, code: Code) -> int:
        """Turn a code into a grant. Raises OAuthError if it was used: then its grant ends too."""
        with self._lock:
            kept = self.code(code.code)
            if kept is None or kept.grant_id is not None:
                if kept is not None and kept.grant_id is not None:
                    self.revoke_grant(kept.grant_id)
                raise OAuthError("invalid_grant", "invalid authorization code")
            grant_id = self.add_grant(code.user_id, code.client_id, code.scope)
            self._conn.execute("UPDATE codes SET grant_id = ? WHERE code = ?", (grant_id, code.code))
            return grant_id

    def add_grant(self, user_id: str, client_id: str, scope: str) -> int:
        """A new approval. A user has at most five per app: the oldest is revoked for a sixth."""
        with self._lock:
            cursor = self._conn.execute(
                "INSERT INTO grants (user_id, client_id, scope) VALUES (?, ?, ?)", (user_id, client_id, scope)
            )
            alive = self._conn.execute(
                "SELECT g.id FROM grants g WHERE user_id = ? AND client_id = ? AND NOT revoked AND (g.id = ? OR "
                "EXISTS (SELECT 1 FROM refresh_tokens r WHERE r.grant_id = g.id AND current)) ORDER BY id",
                (user_id, client_id, cursor.lastrowid),
            ).fetchall()
            for (old,) in alive[:-APPROVALS_PER_USER]:
                self.revoke_grant(old)
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def grant(self, grant_id: int) -> tuple[str, str, str, bool]:
        """User id, client id, scope and whether it is revoked."""
        with self._lock:
            row = self._conn.execute(
                "SELECT user_id, client_id, scope, revoked FROM grants WHERE id = ?", (grant_id,)
            ).fetchone()
        return row[0], row[1], row[2], bool(row[3])

    def revoke_grant(self, grant_id: int) -> None:
        """End a grant with its refresh token and all its sessions."""
        with self._lock:
            self._conn.execute("UPDATE grants SET revoked = 1 WHERE id = ?", (grant_id,))
            self._conn.execute("UPDATE refresh_tokens SET current = 0 WHERE grant_id = ?", (grant_id,))
            self._conn.execute("DELETE FROM sessions WHERE grant_id = ?", (grant_id,))
            self._cache.clear()

    # -- refresh tokens

    def add_refresh(self, grant_id: int) -> str:
        token = "5Aep861" + random_text(80)
        with self._lock:
            self._conn.execute("UPDATE refresh_tokens SET current = 0 WHERE grant_id = ?", (grant_id,))
            self._conn.execute("INSERT INTO refresh_tokens VALUES (?, ?, 1)", (token, grant_id))
        return token

    def refresh_token(self, token: str) -> tuple[int, bool] | None:
        """The grant of a refresh token and whether it is the current one; None if unknown."""
        with self._lock:
            row = self._conn.execute(
                "SELECT grant_id, current FROM refresh_tokens WHERE token = ?", (token,)
            ).fetchone()
        return None if row is None else (row[0], bool(row[1]))

    def begin_refresh(self, token: str) -> bool:
        """Whether nobody else is refreshing with this token right now."""
        with self._lock:
            if token in self._refreshing:
                return False
            self._refreshing.add(token)
            return True

    def end_refresh(self, token: str) -> None:
        with self._lock:
            self._refreshing.discard(token)

    # -- sessions

    def add_session(self, organization_id: str, grant_id: int | None, user_id: str, client_id: str,
                    scope: str, idle_ms: int) -> Session:  # fmt: skip
        now_ms = self._clock.exact_ms()
        token = f"{organization_id[:15]}!{random_text(96)}"
        session = Session(token, grant_id, user_id, client_id, scope, now_ms, idle_ms, now_ms + idle_ms)
        with self._lock:
            self._conn.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (token, grant_id, user_id, client_id, scope, now_ms, idle_ms, session.expires_ms),
            )
            self._cache[token] = session
        return session

    def session(self, token: str, *, touch: bool = True) -> Session | None:
        """The living session of an access token; a touch in the later half of its time prolongs it."""
        session = self._cache.get(token) or self._load(token)
        now_ms = self._clock.exact_ms()
        if session is None or session.expires_ms <= now_ms:
            return None
        if touch and session.expires_ms - now_ms < session.idle_ms // 2:
            self._prolong(session, now_ms + session.idle_ms)
        return session

    def _load(self, token: str) -> Session | None:
        with self._lock:
            row = self._conn.execute("SELECT * FROM sessions WHERE token = ?", (token,)).fetchone()
            if row is None:
                return None
            return self._cache.setdefault(token, Session(*row))

    def _prolong(self, session: Session, expires_ms: int) -> None:
        with self._lock:
            session.expires_ms = expires_ms
            self._conn.execute("UPDATE sessions SET expires_ms = ? WHERE token = ?", (expires_ms, session.token))

    def end_session(self, token: str) -> None:
        with self._lock:
            self._conn.execute("DELETE FROM sessions WHERE token = ?", (token,))
            self._cache.pop(token, None)

    def end_all_sessions(self) -> int:
        with self._lock:
            self._cache.clear()
            return self._conn.execute("DELETE FROM sessions").rowcount

    def revoke_all(self) -> None:
        """End every grant and session: all must log in again."""
        with self._lock:
            self._conn.execute("UPDATE grants SET revoked = 1")
            self._conn.execute("UPDATE refresh_tokens SET current = 0")
            self.end_all_sessions()
