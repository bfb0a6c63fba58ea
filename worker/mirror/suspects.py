"""Records that may differ from the org's, in a table of their own until each was looked at again.

In the caller's transaction.
"""

from collections.abc import Sequence
from datetime import datetime

from psycopg import sql
from sqlalchemy.orm import Session

from worker.db import raw
from worker.mirror import comparison
from worker.mirror.merge import drop_repeated
from worker.mirror.names import Names
from worker.mirror.store import Target, lock_mirror


def make(session: Session, target: Target, table: str, *, compared: Sequence[str] | None) -> int:
    """Fill a suspects table from a full read in staging; how many there are.

    `compared`: columns to compare on both sides; None: only look for mirror rows that the read did not bring.
    """
    names = _names(session, target, compared or target.columns)
    query = comparison.unseen(names) if compared is None else comparison.suspects(names)
    return _fill(session, target, table, query, {"read": target.read})


def make_unfilled(session: Session, target: Target, table: str, columns: Sequence[str], *, young: datetime) -> int:
    """Fill a suspects table with the records that a back-fill of `columns` must read again whole; how many there are."""
    query = comparison.to_look_at(_names(session, target, target.columns), columns)
    return _fill(session, target, table, query, {"read": target.read, "young": young})


def _names(session: Session, target: Target, columns: Sequence[str]) -> Names:
    assert target.staging is not None
    names = Names.of(target.spec, target.schema, target.staging, columns)
    raw(session).execute(drop_repeated(names), {"read": target.read})
    return names


def make_behind(session: Session, target: Target, table: str) -> int:
    """Fill a suspects table with what the staged ids and stamps show to be missing here or older; how many."""
    query = comparison.behind(_names(session, target, target.columns))
    return _fill(session, target, table, query, {"read": target.read, "object": target.spec.object})


def _fill(session: Session, target: Target, table: str, query: sql.Composed, values: dict[str, object]) -> int:
    connection, name = raw(session), sql.Identifier(target.schema, table)
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
    connection.execute(
        sql.SQL('CREATE UNLOGGED TABLE {} (id text COLLATE "C" PRIMARY KEY, kind text NOT NULL, verdict text)').format(
            name
        )
    )
    return connection.execute(sql.SQL("INSERT INTO {} (id, kind) {}").format(name, query), values).rowcount


def add_sample(session: Session, target: Target, table: str, size: int) -> int:
    """Add up to `size` records of the mirror, picked by chance, so that every field of them is compared."""
    query = sql.SQL(
        "INSERT INTO {} (id, kind) SELECT id, 'sampled' FROM {} ORDER BY random() LIMIT %s ON CONFLICT DO NOTHING"
    )
    first = Names.of(target.spec, target.schema, sql.Identifier("_none"), target.columns).mirror
    return raw(session).execute(query.format(sql.Identifier(target.schema, table), first), (size,)).rowcount


def unjudged(session: Session, schema: str, table: str, limit: int) -> list[str]:
    """Ids of suspects that were not judged yet."""
    query = sql.SQL("SELECT id FROM {} WHERE verdict IS NULL ORDER BY id LIMIT %s")
    return [row[0] for row in raw(session).execute(query.format(sql.Identifier(schema, table)), (limit,)).fetchall()]


def close(session: Session, schema: str, table: str, ids: Sequence[str], verdict: str) -> None:
    """Give these suspects one verdict."""
    query = sql.SQL("UPDATE {} SET verdict = %s WHERE id = ANY(%s)").format(sql.Identifier(schema, table))
    raw(session).execute(query, (verdict, list(ids)))


def judge(
    session: Session, staged: Target, table: str, ids: Sequence[str], *, compared: Sequence[str], since: datetime
) -> None:
    """Give these suspects their verdicts from a second look at them (see comparison.verdicts)."""
    assert staged.staging is not None
    lock_mirror(session, staged.mirror_id)
    columns = [*compared, *(["isdeleted"] if "isdeleted" in staged.columns and "isdeleted" not in compared else [])]
    names = Names.of(staged.spec, staged.schema, staged.staging, columns)
    calculated = staged.spec.columns_of(staged.spec.calculated)
    statement = comparison.verdicts(names, sql.Identifier(staged.schema, table), calculated=calculated)
    raw(session).execute(statement, {"ids": list(ids), "since": since, "read": staged.read})


def counts(session: Session, schema: str, table: str) -> dict[str, int]:
    """How many suspects got each verdict."""
    query = sql.SQL("SELECT verdict, count(*) FROM {} GROUP BY verdict").format(sql.Identifier(schema, table))
    return dict(raw(session).execute(query).fetchall())


def judged(session: Session, schema: str, table: str, ids: Sequence[str]) -> dict[str, str]:
    """The differences among `ids`: id → missing, surplus, different, calculated."""
    query = sql.SQL("SELECT id, verdict FROM {} WHERE id = ANY(%s) AND verdict NOT IN ('moved', 'equal')")
    return dict(raw(session).execute(query.format(sql.Identifier(schema, table)), (list(ids),)).fetchall())


def differing(session: Session, staged: Target, record_id: str, compared: Sequence[str]) -> list[dict[str, str | None]]:
    """The fields in which a record differs from a second look at it: {"field", "org", "mirror"}, values shortened."""
    assert staged.staging is not None
    query = sql.SQL(
        """
        SELECT o.key AS field, left(o.value, 80) AS org, left(h.value, 80) AS mirror
          FROM {staging} s JOIN {mirror} m USING (id), jsonb_each_text(to_jsonb(s)) o JOIN jsonb_each_text(to_jsonb(m)) h USING (key)
         WHERE s.id = %s AND o.value IS DISTINCT FROM h.value AND o.key = ANY(%s)
        """
    ).format(staging=staged.staging, mirror=staged.mirror)
    rows = raw(session).execute(query, (record_id, list(compared))).fetchall()
    return [{"field": row[0], "org": row[1], "mirror": row[2]} for row in rows]
