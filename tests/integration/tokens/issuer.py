"""A token endpoint with rotation, as strict as the vendor's: a spent refresh token presented again ends the whole grant."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from tests.edge.scripted import Hang, Seen, Server, answer, serve
from worker.db import Database
from worker.salesforce.oauth import Grant, Identity
from worker.settings import Settings, load_settings
from worker.tokens.grants import store_connection
from worker.tokens.vault import Vault, generate_key

ORG, USER = "00D000000000001EAA", "005000000000001AAA"


@dataclass
class Issuer:
    """`requests`: token requests so far. `hook` runs before each answer: to wait, to break things."""

    server: Server
    rotate: bool = True
    revoked: bool = False
    number: int = 1
    requests: list[dict[str, str]] = field(default_factory=list)
    hook: Callable[[], None] = lambda: None
    reply: Callable[[], bytes | None] = lambda: None
    introspection: dict[str, object] = field(default_factory=lambda: {"active": False})
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, seen: Seen) -> Iterator[bytes]:
        form = dict(parse_qsl(seen.body.decode()))
        if seen.target.endswith("/introspect"):
            yield answer(200, self.introspection)
        elif seen.target.endswith("/revoke"):
            self.revoked = True
            yield answer(200)
        elif seen.target.endswith("/token"):
            yield self._token(form)
        else:
            yield answer(403, b"Bad_OAuth_Token")

    def _token(self, form: dict[str, str]) -> bytes:
        with self.lock:
            self.requests.append(form)
        self.hook()
        scripted = self.reply()
        if scripted is not None:
            return scripted
        with self.lock:
            if form["grant_type"] == "refresh_token" and self._is_refused(form):
                return answer(400, {"error": "invalid_grant", "error_description": "expired access/refresh token"})
            self.number += 1
            return answer(200, self._body(form))

    def _is_refused(self, form: dict[str, str]) -> bool:
        if self.rotate and form["refresh_token"] != f"refresh-{self.number}":
            self.revoked = True
        return self.revoked

    def _body(self, form: dict[str, str]) -> dict[str, str]:
        body = {
            "access_token": f"access-{self.number}",
            "instance_url": self.server.url,
            "id": f"{self.server.url}/id/{ORG}/{USER}",
            "issued_at": "1795300000000",
        }
        if self.rotate and form["grant_type"] != "client_credentials":
            body["refresh_token"] = f"refresh-{self.number}"
        return body


@contextmanager
def issuing() -> Iterator[Issuer]:
    """A running issuer whose present pair is access-1, refresh-1."""
    holder: list[Issuer] = []

    def script(seen: Seen) -> Iterator[bytes]:
        yield from holder[0].answer(seen)

    with serve(script) as server:
        holder.append(Issuer(server))
        yield holder[0]


def silence() -> None:
    """A hook: the answer never comes."""
    raise Hang


def settings_for(database: Database, issuer: Issuer, folder: Path) -> Settings:
    """Settings of a worker that knows this issuer."""
    return load_settings(
        {},
        database_url=database.url,
        encryption_key=generate_key(),
        salesforce_client_id="app",
        salesforce_client_secret="app-secret",
        salesforce_login_url=issuer.server.url,
        salesforce_allowed_hosts=(issuer.server.url,),
        data_folder=folder,
    )


def connected(database: Database, settings: Settings, *, grant_type: str = "refresh_token", user: str = "u") -> int:
    """A stored connection with the pair access-1, refresh-1; its id."""
    url = settings.salesforce_login_url
    refresh_token = None if grant_type == "client_credentials" else "refresh-1"
    grant = Grant("access-1", refresh_token, url, "api", f"{url}/id/{ORG}/{USER}", None, None)
    with database.transaction() as session:
        return store_connection(
            session,
            Vault(settings.keys),
            user_id=user,
            grant=grant,
            identity=Identity(ORG, USER, "sync@acme.example"),
            grant_type=grant_type,
            login_url=url,
            environment="production",
        ).id
