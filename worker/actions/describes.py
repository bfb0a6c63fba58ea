"""The describe that actions are checked against: the mirror's, else one kept for writing, else the org is asked once."""

import threading
import time
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker import exact
from worker.actions.deps import ActionDeps
from worker.attribution import attributed
from worker.errors import NotFoundError, OrgComplaint, RejectedError
from worker.salesforce import rest
from worker.salesforce.describe import ObjectDescribe, parse
from worker.salesforce.soql import name

IN_MEMORY_SECONDS = 30.0  # parsing a describe costs milliseconds; its changes may take this long to be noticed
ASK_AGAIN = timedelta(seconds=60)  # a refusal by a kept describe asks the org again, at most this often

KEPT = """
SELECT describe FROM sfsync.mirrors WHERE connection_id = :connection AND lower(object) = :object AND describe IS NOT NULL
 UNION ALL
SELECT describe FROM sfsync.object_describes WHERE connection_id = :connection AND object = :object
"""

KEEP = """
INSERT INTO sfsync.object_describes AS d (connection_id, object, describe) VALUES (:connection, :object, CAST(:describe AS jsonb))
ON CONFLICT (connection_id, object) DO UPDATE SET describe = EXCLUDED.describe, fetched_at = clock_timestamp()
"""

RECENT = """
SELECT describe FROM sfsync.object_describes
 WHERE connection_id = :connection AND object = :object AND fetched_at > statement_timestamp() - :age
"""


class _Memory:
    """Parsed describes of this process, each for a short time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int, str], tuple[float, ObjectDescribe]] = {}

    def get(self, key: tuple[str, int, str]) -> ObjectDescribe | None:
        with self._lock:
            held = self._held.get(key)
        return held[1] if held and time.monotonic() - held[0] < IN_MEMORY_SECONDS else None

    def put(self, key: tuple[str, int, str], describe: ObjectDescribe) -> ObjectDescribe:
        with self._lock:
            if len(self._held) > 1_000:
                self._held.clear()
            self._held[key] = (time.monotonic(), describe)
        return describe


_memory = _Memory()


def describe_of(deps: ActionDeps, connection_id: int, object_name: str) -> ObjectDescribe:
    """The describe of an object (any case). RejectedError with INVALID_TYPE when there is no such object for this connection.

    Raises TransientError or DisconnectedError when it was never asked for and the org cannot be asked now.
    """
    key = _key(deps, connection_id, object_name)
    held = _memory.get(key)
    if held is not None:
        return held
    with deps.database.transaction() as session:
        kept = session.scalar(text(KEPT), {"connection": connection_id, "object": object_name.lower()})
    return _memory.put(key, parse(kept)) if kept else _ask(deps, connection_id, object_name)


def describe_again(deps: ActionDeps, connection_id: int, object_name: str) -> ObjectDescribe:
    """The org's present describe, a minute old at most: before a refusal that a kept one gave is believed."""
    with deps.database.transaction() as session:
        recent = _recent(session, connection_id, object_name)
    return parse(recent) if recent else _ask(deps, connection_id, object_name)


def _recent(session: Session, connection_id: int, object_name: str) -> dict[str, Any] | None:
    values = {"connection": connection_id, "object": object_name.lower(), "age": ASK_AGAIN}
    found: dict[str, Any] | None = session.scalar(text(RECENT), values)
    return found


def _ask(deps: ActionDeps, connection_id: int, object_name: str) -> ObjectDescribe:
    try:
        with attributed(object=object_name, cause="describe"):
            answer = rest.describe(deps.client(connection_id), name(object_name))
    except NotFoundError:
        complaint = OrgComplaint("INVALID_TYPE", f"sObject type '{object_name}' is not supported.")
        raise RejectedError(404, (complaint,)) from None
    assert answer is not None, "nothing was asked conditionally"
    with deps.database.transaction() as session:
        values = {"connection": connection_id, "object": object_name.lower(), "describe": exact.dumps(answer.json)}
        session.execute(text(KEEP), values)
    return _memory.put(_key(deps, connection_id, object_name), parse(answer.json))


def _key(deps: ActionDeps, connection_id: int, object_name: str) -> tuple[str, int, str]:
    return deps.database.url, connection_id, object_name.lower()
