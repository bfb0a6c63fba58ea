"""Read-your-writes: records that we know have changed are read by Id and merged, without waiting for a refresh."""

from collections.abc import Sequence

from psycopg.errors import OperationalError
from sqlalchemy import func, select

from models.connection import Connection
from models.mirror import Mirror, read_numbers
from worker.attribution import attributed
from worker.errors import SchemaChangedError, TransientError
from worker.mirror import by_id
from worker.mirror.deps import MirrorDeps
from worker.mirror.store import Target
from worker.mirror.work import keep_rejects, spec_of

MIRRORED = ("loading", "live")
TRIES = 3  # a merge that met another one (a deadlock, a lock held too long) is tried again


def remember(deps: MirrorDeps, connection_id: int, object_name: str, ids: Sequence[str]) -> None:
    """Bring these records (18-character ids) up to date in the mirror; nothing happens where the object has none.

    Raises TransientError when it did not succeed: the next refresh brings the records anyway.
    """
    with deps.database.transaction() as session:
        found = session.execute(
            select(Mirror, Connection.schema_name)
            .join(Connection, Connection.id == Mirror.connection_id)
            .where(Mirror.connection_id == connection_id, func.lower(Mirror.object) == object_name.lower())
        ).one_or_none()
        if found is None or found[0].state not in MIRRORED or found[0].describe is None or not ids:
            return
        number = session.scalar(select(read_numbers.next_value()))  # before the request is sent
    mirror, schema = found
    spec = spec_of(mirror)
    target = Target(spec, schema, None, spec.names, mirror.id, number or 0)
    client = deps.client(connection_id)
    try:
        with attributed(object=spec.object, cause="read_back"):
            answer = by_id.read(client, spec, list(dict.fromkeys(ids)), spec.fields)
    finally:
        client.close()
    for attempt in range(1, TRIES + 1):
        try:
            _merge(deps, target, answer)
            return
        except SchemaChangedError as error:
            raise TransientError(str(error), code=error.code) from None
        except OperationalError as error:
            if attempt == TRIES:
                raise TransientError(f"{spec.object}: {error}", code=error.sqlstate) from None


def _merge(deps: MirrorDeps, target: Target, found: by_id.Found) -> None:
    with deps.database.transaction() as session:
        _, taken = by_id.merge(session, target, found)
        keep_rejects(session, target.mirror_id, None, taken)
