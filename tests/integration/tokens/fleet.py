"""A token endpoint with many grants, each with rotation: a spent refresh token presented again ends that grant."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from tests.edge.scripted import Cut, Seen, Server, answer, serve
from tests.integration.tokens.issuer import ORG, USER
from worker.db import Database
from worker.salesforce.oauth import Grant, Identity
from worker.settings import Settings
from worker.tokens.grants import store_connection
from worker.tokens.vault import Vault


@dataclass
class Grants:
    """Grant `g`'s refresh tokens are g-1, g-2, …; `current` is the one that is good. `seconds`: how long an answer takes.

    `lost`: numbers of grants whose next answer is cut off after the token has rotated.
    """

    server: Server
    seconds: float = 0.0
    current: Counter[str] = field(default_factory=Counter)
    renewals: Counter[str] = field(default_factory=Counter)
    revoked: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, seen: Seen) -> Iterator[bytes]:
        form = dict(parse_qsl(seen.body.decode()))
        if not seen.target.endswith("/token"):
            yield answer(200, {"active": False})
            return
        name, _, number = form["refresh_token"].rpartition("-")
        with self.lock:
            if int(number) != self.current[name]:
                self.revoked.add(name)
            if name in self.revoked:
                yield answer(400, {"error": "invalid_grant", "error_description": "expired access/refresh token"})
                return
            self.current[name] += 1
            self.renewals[name] += 1
            body = {
                "access_token": f"access-{name}-{self.current[name]}",
                "refresh_token": f"{name}-{self.current[name]}",
                "instance_url": self.server.url,
                "id": f"{self.server.url}/id/{ORG}/{USER}",
                "issued_at": "1795300000000",
            }
        time.sleep(self.seconds)
        yield answer(200, body)


@contextmanager
def granting() -> Iterator[Grants]:
    """A running endpoint."""
    holder: list[Grants] = []

    def script(seen: Seen) -> Iterator[bytes]:
        yield from holder[0].answer(seen)

    with serve(script) as server:
        holder.append(Grants(server))
        yield holder[0]


def granted(database: Database, settings: Settings, grants: Grants, name: str) -> int:
    """A stored connection with grant `name`; its id."""
    grants.current[name] = 1
    url = settings.salesforce_login_url
    grant = Grant(f"access-{name}-1", f"{name}-1", url, "api", f"{url}/id/{ORG}/{USER}", None, None)
    with database.transaction() as session:
        return store_connection(
            session,
            Vault(settings.keys),
            user_id=name,
            grant=grant,
            identity=Identity(ORG, USER, "sync@acme.example"),
            grant_type="refresh_token",
            login_url=url,
            environment="production",
        ).id


__all__ = ["Cut", "Grants", "granted", "granting"]
