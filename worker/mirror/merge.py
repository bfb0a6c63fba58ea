"""The statements that bring what was read into a mirror. Pure.

Which version of a record wins: see `names`. Running a merge twice changes nothing.

All statements of one merge run in one transaction, alone on their mirror (store.merge takes a lock), in this order.
Records that leave or come back are noted in the temporary table `_moved`: their children may have changed with them.
"""

from collections.abc import Sequence

from psycopg import sql

from worker.mirror.names import Names, alive, differs, listed

KEEP_MOVED = sql.SQL(
    'CREATE TEMPORARY TABLE IF NOT EXISTS _moved (id text COLLATE "C" NOT NULL, restored boolean NOT NULL) ON COMMIT DROP'
)


def merge(names: Names) -> dict[str, sql.Composed]:
    """The statements of a merge, in order, by what their row counts mean."""
    statements = {"repeated": drop_repeated(names)}
    if names.knows_deleted:
        statements |= {
            "buried": _bury(names),
            "deleted": names.fill(
                """
                WITH gone AS (DELETE FROM {mirror} m USING {staging} s
                               WHERE s.isdeleted AND m.id = s.id AND {mirror_v} < {staged_v} RETURNING m.id)
                INSERT INTO {moved} SELECT id, false FROM gone
                """
            ),
        }
    statements |= {
        "outdated": _drop_outdated(names),
        "changed": _upsert(names),
        "confirmed": _confirm(names),
        "revived": names.fill(
            """
            WITH back AS (DELETE FROM {tombstones} t USING {staging} s
                           WHERE {alive} AND t.object = %(object)s AND t.id = s.id AND {tombstone_v} < {staged_v}
                          RETURNING t.id)
            INSERT INTO {moved} SELECT id, true FROM back
            """,
            alive=alive(names),
        ),
    }
    return statements


def drop_repeated(names: Names) -> sql.Composed:
    """Of a record that was read twice keep the newest version: the parts of a Bulk result are read at different times."""
    return names.fill(
        """
        DELETE FROM {staged} s USING {staged} later
         WHERE later.id = s.id AND ({stamp}, s.ctid) < ({later}, later.ctid)
        """,
        later=names.stamp_of("later"),
    )


def _bury(names: Names) -> sql.Composed:
    winner = sql.SQL("s.masterrecordid" if "masterrecordid" in names.columns else "NULL::text")
    return names.fill(
        """
        WITH buried AS (
        INSERT INTO {tombstones} AS t (object, id, deleted_at, cause, winner_id, systemmodstamp, _read)
        SELECT %(object)s, s.id, {stamp}, CASE WHEN {winner} IS NULL THEN 'deleted' ELSE 'merged' END, {winner}, {stamp},
               %(read)s
          FROM {staging} s
         WHERE s.isdeleted AND NOT EXISTS (SELECT FROM {mirror} m WHERE m.id = s.id AND {mirror_v} >= {staged_v})
        ON CONFLICT (object, id) DO UPDATE
           SET deleted_at = EXCLUDED.deleted_at, cause = EXCLUDED.cause, winner_id = EXCLUDED.winner_id,
               systemmodstamp = EXCLUDED.systemmodstamp, _read = EXCLUDED._read
         WHERE {tombstone_v} < (EXCLUDED.systemmodstamp, EXCLUDED._read)
        RETURNING t.id, t.xmax = 0 AS is_new)
        INSERT INTO {moved} SELECT b.id, false FROM buried b
         WHERE is_new AND NOT EXISTS (SELECT FROM {mirror} m WHERE m.id = b.id)  -- never here; else "deleted" notes it
        """,
        winner=winner,
    )


def _drop_outdated(names: Names) -> sql.Composed:
    """Staged records whose tombstone is the newer version. Not a condition of the upsert: a join there would carry whole rows
    through a hash, which takes half as long again as the upsert itself."""
    return names.fill(
        """
        DELETE FROM {staged} s USING {tombstones} t
         WHERE {alive} AND t.object = %(object)s AND t.id = s.id AND {tombstone_v} >= {staged_v}
        """,
        alive=alive(names),
    )


def _upsert(names: Names) -> sql.Composed:
    """Older news never wins; a row whose values did not change is not written."""
    if names.others:
        return _upsert_parts(names)
    return names.fill(
        """
        INSERT INTO {mirror} AS m ({columns}, _read)
        SELECT {selected}, %(read)s FROM {staging} s WHERE {alive}
        ON CONFLICT (id) DO UPDATE SET {assignments}
         WHERE {mirror_v} < ({excluded}, EXCLUDED._read) AND {differs}
        """,
        columns=listed(names.columns),
        selected=listed(names.columns, "s"),
        alive=alive(names),
        assignments=_assignments([*names.columns, "_read"]),
        excluded=names.stamp_of("excluded"),
        differs=differs(names, "m", "excluded"),
    )


def _assignments(columns: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(
        sql.SQL("{c} = EXCLUDED.{c}").format(c=sql.Identifier(name)) for name in columns if name != "id"
    )


def _upsert_parts(names: Names) -> sql.Composed:
    """The same for a table in parts: first which rows win, then these rows of every part, in one statement."""
    writes = [
        names.fill(
            "written_{n} AS (INSERT INTO {part} (id, {columns}) SELECT s.id, {selected} FROM {staging} s JOIN won USING (id)"
            " ON CONFLICT (id) DO UPDATE SET {assignments})",
            n=sql.SQL(str(number)),
            part=part,
            columns=listed(columns),
            selected=listed(columns, "s"),
            assignments=_assignments(columns),
        )
        for number, (part, columns) in enumerate(names.others)
        if columns
    ]
    return names.fill(
        """
        WITH won AS MATERIALIZED (
          SELECT s.id FROM {staging} s LEFT JOIN {whole} m ON m.id = s.id
           WHERE {alive} AND (m.id IS NULL OR {mirror_v} < {staged_v} AND {differs}))
        {writes}
        INSERT INTO {mirror} ({columns}, _read) SELECT {selected}, %(read)s FROM {staging} s JOIN won USING (id)
        ON CONFLICT (id) DO UPDATE SET {assignments}
        """,
        alive=alive(names),
        differs=differs(names, "m", "s"),
        writes=sql.SQL("").join(sql.SQL(", ") + write for write in writes),
        columns=listed(names.first),
        selected=listed(names.first, "s"),
        assignments=_assignments([*names.first, "_read"]),
    )


def _confirm(names: Names) -> sql.Composed:
    """Unchanged rows that are young keep the number of this read.

    Otherwise an earlier read, still on its way, could bring another value under the same stamp and win. For older rows
    that cannot happen, so they are left alone.
    """
    return names.fill(
        """
        UPDATE {mirror} m SET _read = %(read)s FROM {staging} s
         WHERE {alive} AND m.id = s.id AND m._read < %(read)s AND {mirror_stamp} = {stamp} AND {stamp} >= %(young)s
        """,
        alive=alive(names),
        mirror_stamp=names.stamp_of("m"),
    )


def fill(names: Names, columns: Sequence[str]) -> list[sql.Composed]:
    """Fill `columns` of the rows that no read (number `read` or later) has written, from a read of these columns alone.

    Rows stamped since `young` are left out (see to_look_at): they may get another value under the same stamp.
    """
    first = [name for name in columns if name in names.first]
    statements = []
    if first:
        pairs = [sql.SQL("{c} = s.{c}").format(c=sql.Identifier(name)) for name in first]
        statements.append(
            names.fill(
                "UPDATE {mirror} m SET {assignments} FROM {staging} s WHERE m.id = s.id AND {wanted}",
                assignments=sql.SQL(", ").join(pairs),
                wanted=_unfilled(names, first),
            )
        )
    for part, held in names.others:
        some = [name for name in columns if name in held]
        if some:
            statements.append(
                names.fill(
                    """
                    INSERT INTO {part} (id, {columns}) SELECT m.id, {selected} FROM {staging} s JOIN {whole} m ON m.id = s.id
                     WHERE {wanted} ON CONFLICT (id) DO UPDATE SET {assignments}
                    """,
                    part=part,
                    columns=listed(some),
                    selected=listed(some, "s"),
                    assignments=_assignments(some),
                    wanted=_unfilled(names, some),
                )
            )
    return statements


def _unfilled(names: Names, columns: Sequence[str]) -> sql.Composable:
    return names.fill(
        "m._read < %(read)s AND {mirror_stamp} <= {stamp} AND {stamp} < %(young)s AND {differs}",
        mirror_stamp=names.stamp_of("m"),
        differs=differs(names, "m", "s", columns),
    )


def living(names: Names) -> sql.Composed:
    """How many staged records are not deleted."""
    return names.fill("SELECT count(*) FROM {staging} s WHERE {alive}", alive=alive(names))


def leave(names: Names) -> sql.Composed:
    """Take out records that a read at the org's time `began` did not show among `ids`, with tombstones of this `cause`; how
    many were here."""
    return names.fill(
        """
        WITH gone AS (DELETE FROM {mirror} m WHERE m.id = ANY(%(ids)s) AND m._read < %(read)s
                      RETURNING m.id, {mirror_stamp} AS stamp),
        buried AS (
        INSERT INTO {tombstones} AS t (object, id, deleted_at, cause, systemmodstamp, _read)
        SELECT %(object)s, id, %(began)s, %(cause)s, stamp, %(read)s FROM gone
        ON CONFLICT (object, id) DO UPDATE SET systemmodstamp = EXCLUDED.systemmodstamp, _read = EXCLUDED._read,
               deleted_at = EXCLUDED.deleted_at, cause = EXCLUDED.cause, winner_id = NULL
         WHERE {tombstone_v} < (EXCLUDED.systemmodstamp, EXCLUDED._read)),
        noted AS (
        INSERT INTO {moved} SELECT id, false FROM gone WHERE %(cause)s <> 'filtered')  -- such a parent is still there
        SELECT count(*) FROM gone
        """,
        mirror_stamp=names.stamp_of("m"),
    )


def held(names: Names) -> sql.Composed:
    """Which of `ids` are here, as an earlier read brought them."""
    return names.fill("SELECT m.id FROM {mirror} m WHERE m.id = ANY(%(ids)s) AND m._read < %(read)s ORDER BY m.id")


def drop_buried(names: Names) -> sql.Composed:
    """After a first load: rows whose tombstone, written meanwhile, is the newer version."""
    return names.fill(
        """
        DELETE FROM {mirror} m USING {tombstones} t
         WHERE t.object = %(object)s AND t.id = m.id AND {mirror_v} < {tombstone_v}
        """
    )


def forget(names: Names) -> list[sql.Composed]:
    """Before a repair: let go of what we hold on the records `ids`, unless a later read wrote it."""
    return [
        names.fill("DELETE FROM {mirror} m WHERE m.id = ANY(%(ids)s) AND m._read < %(read)s"),
        names.fill(
            "DELETE FROM {tombstones} t WHERE t.object = %(object)s AND t.id = ANY(%(ids)s) AND t._read < %(read)s"
        ),
    ]
