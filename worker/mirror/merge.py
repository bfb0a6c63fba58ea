"""The statements that bring what was read into a mirror, and those that compare the two. Pure.

Two versions of a record are ordered by (stamp, read number). Stamps have whole seconds, so a stamp alone would let old
data win; a read takes its number before its request is sent, so among equal stamps the higher number saw later values.
The same rule decides between a row and its tombstone. Running a merge twice changes nothing.

Parameters of the statements: `object`, `read` (number of the read), `young` (an instant; see cursor.young_since).
All statements of one merge run in one transaction, alone on their mirror (store.merge takes a lock), in this order.
Records that leave or come back are noted in the temporary table `_moved`: their children may have changed with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from worker.mirror.ddl import TOMBSTONES
from worker.mirror.parts import part_of
from worker.mirror.schema import TableSpec

OLDEST = sql.SQL("'-infinity'::timestamptz")
MOVED = sql.Identifier("pg_temp", "_moved")
KEEP_MOVED = sql.SQL(
    'CREATE TEMPORARY TABLE IF NOT EXISTS _moved (id text COLLATE "C" NOT NULL, restored boolean NOT NULL) ON COMMIT DROP'
)


@dataclass(frozen=True, slots=True)
class Names:
    """What one merge touches: mirror, its tombstones, the staged rows, and the columns that were read.

    Of a table in parts `mirror` is the first part, which holds what decides, and `others` the columns read of each other
    part; `whole` has every column. `staged` are the rows of `staging` that can be deleted.
    """

    mirror: sql.Identifier
    tombstones: sql.Identifier
    staging: sql.Identifier
    columns: tuple[str, ...]
    stamp: str | None
    whole: sql.Identifier
    staged: sql.Identifier
    others: tuple[tuple[sql.Identifier, tuple[str, ...]], ...] = ()

    @classmethod
    def of(cls, spec: TableSpec, schema: str, staging: sql.Identifier, columns: Sequence[str]) -> "Names":
        """The names for one spec; `columns` are those that `staging` was filled with."""
        stamp = spec.stamp.lower() if spec.stamp else None
        whole, tombstones = sql.Identifier(schema, spec.table), sql.Identifier(schema, TOMBSTONES)
        if spec.parts == 1:
            return cls(whole, tombstones, staging, tuple(columns), stamp, whole, staging)
        others = tuple((part_of(whole, n), spec.part(n, columns)) for n in range(2, spec.parts + 1))
        return cls(part_of(whole, 1), tombstones, staging, tuple(columns), stamp, whole, part_of(staging, 1), others)

    @property
    def first(self) -> tuple[str, ...]:
        """The columns that were read of the mirror's first part."""
        elsewhere = {name for _, names in self.others for name in names}
        return tuple(name for name in self.columns if name not in elsewhere)

    @property
    def knows_deleted(self) -> bool:
        """Whether the staged rows say which records are deleted."""
        return "isdeleted" in self.columns

    def fill(self, statement: str, **parts: sql.Composable) -> sql.Composed:
        """`statement` with our names in it; `{mirror_v}`, `{staged_v}`, `{tombstone_v}` are versions to compare."""
        return sql.SQL(statement).format(  # only statements of this module come here
            mirror=self.mirror,
            tombstones=self.tombstones,
            staging=self.staging,
            staged=self.staged,
            whole=self.whole,
            mirror_v=self._version("m"),
            staged_v=sql.SQL("({}, %(read)s)").format(self._stamp("s")),
            tombstone_v=sql.SQL("(coalesce(t.systemmodstamp, {}), t._read)").format(OLDEST),
            stamp=self._stamp("s"),
            moved=MOVED,
            **parts,
        )

    def _stamp(self, alias: str) -> sql.Composable:
        if self.stamp is None or self.stamp not in self.columns:
            return OLDEST
        return sql.SQL("coalesce({}, {})").format(sql.Identifier(alias, self.stamp), OLDEST)

    def _version(self, alias: str) -> sql.Composable:
        return sql.SQL("({}, {})").format(self._stamp(alias), sql.Identifier(alias, "_read"))

    def listed(self, alias: str | None = None, *, without: tuple[str, ...] = ()) -> sql.Composable:
        """The columns, comma separated, each behind `alias`."""
        names = [name for name in self.columns if name not in without]
        return sql.SQL(", ").join(sql.Identifier(alias, name) if alias else sql.Identifier(name) for name in names)


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
            alive=_alive(names),
        ),
    }
    return statements


def _alive(names: Names) -> sql.Composable:
    return sql.SQL("s.isdeleted IS NOT TRUE" if names.knows_deleted else "true")


def drop_repeated(names: Names) -> sql.Composed:
    """Of a record that was read twice keep the newest version: the parts of a Bulk result are read at different times."""
    return names.fill(
        """
        DELETE FROM {staged} s USING {staged} later
         WHERE later.id = s.id AND ({stamp}, s.ctid) < ({later}, later.ctid)
        """,
        later=names._stamp("later"),
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
        alive=_alive(names),
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
        columns=names.listed(),
        selected=names.listed("s"),
        alive=_alive(names),
        assignments=_assignments([*names.columns, "_read"]),
        excluded=names._stamp("excluded"),
        differs=_differs(names, "m", "excluded"),
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
            columns=_listed(columns),
            selected=_listed(columns, "s"),
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
        alive=_alive(names),
        differs=_differs(names, "m", "s"),
        writes=sql.SQL("").join(sql.SQL(", ") + write for write in writes),
        columns=_listed(names.first),
        selected=_listed(names.first, "s"),
        assignments=_assignments([*names.first, "_read"]),
    )


def _listed(columns: Sequence[str], alias: str | None = None) -> sql.Composable:
    return sql.SQL(", ").join(sql.Identifier(alias, name) if alias else sql.Identifier(name) for name in columns)


def _differs(names: Names, one: str, other: str, columns: Sequence[str] | None = None) -> sql.Composable:
    """Whether `columns` (default: all that were read) are not the same behind the two aliases. The stamp comes first: where it
    differs, which is nearly always, Postgres looks no further."""
    compared = sorted((name for name in columns or names.columns if name != "id"), key=lambda name: name != names.stamp)
    if not compared:
        return sql.SQL("false")
    sides = [sql.SQL(", ").join(sql.Identifier(alias, name) for name in compared) for alias in (one, other)]
    return sql.SQL("ROW({}) IS DISTINCT FROM ROW({})").format(*sides)


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
        alive=_alive(names),
        mirror_stamp=names._stamp("m"),
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
                    columns=_listed(some),
                    selected=_listed(some, "s"),
                    assignments=_assignments(some),
                    wanted=_unfilled(names, some),
                )
            )
    return statements


def _unfilled(names: Names, columns: Sequence[str]) -> sql.Composable:
    return names.fill(
        "m._read < %(read)s AND {mirror_stamp} <= {stamp} AND {stamp} < %(young)s AND {differs}",
        mirror_stamp=names._stamp("m"),
        differs=_differs(names, "m", "s", columns),
    )


def to_look_at(names: Names, columns: Sequence[str]) -> sql.Composed:
    """Records that `fill` leaves out though their columns are not what was read: they are to be read again whole."""
    return names.fill(
        """
        SELECT m.id, 'different'::text AS kind FROM {whole} m JOIN {staging} s ON s.id = m.id
         WHERE m._read < %(read)s AND ({mirror_stamp} > {stamp} OR {stamp} >= %(young)s) AND {differs}
        """,
        mirror_stamp=names._stamp("m"),
        differs=_differs(names, "m", "s", columns),
    )


def living(names: Names) -> sql.Composed:
    """How many staged records are not deleted."""
    return names.fill("SELECT count(*) FROM {staging} s WHERE {alive}", alive=_alive(names))


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
        mirror_stamp=names._stamp("m"),
    )


def held(names: Names) -> sql.Composed:
    """Which of `ids` are here, as an earlier read brought them."""
    return names.fill("SELECT m.id FROM {mirror} m WHERE m.id = ANY(%(ids)s) AND m._read < %(read)s ORDER BY m.id")


def behind(names: Names) -> sql.Composed:
    """Staged records (id, stamp, perhaps isdeleted) of which we hold an older version or none: `id`, `kind`.

    What is equal in stamp is taken for equal: a staged deletion of a record that is here is not.
    """
    return names.fill(
        """
        SELECT s.id, CASE WHEN m.id IS NULL THEN 'missing' ELSE 'older' END AS kind
          FROM {staging} s
          LEFT JOIN {mirror} m ON m.id = s.id
          LEFT JOIN {tombstones} t ON t.object = %(object)s AND t.id = s.id
         WHERE CASE WHEN {alive} THEN (m.id IS NULL OR {mirror_stamp} < {stamp}) AND (t.id IS NULL OR {tombstone_v} < {staged_v})
                    ELSE (m.id IS NOT NULL AND {mirror_v} < {staged_v}) OR (m.id IS NULL AND t.id IS NULL) END
        """,
        alive=_alive(names),
        mirror_stamp=names._stamp("m"),
    )


def drop_buried(names: Names) -> sql.Composed:
    """After a first load: rows whose tombstone, written meanwhile, is the newer version."""
    return names.fill(
        """
        DELETE FROM {mirror} m USING {tombstones} t
         WHERE t.object = %(object)s AND t.id = m.id AND {mirror_v} < {tombstone_v}
        """
    )


def suspects(names: Names) -> sql.Composed:
    """Every record that is not the same on both sides: `id`, `kind` (different, missing, surplus)."""
    return names.fill(
        """
        SELECT coalesce(s.id, m.id) AS id,
               CASE WHEN s.id IS NULL THEN 'surplus' WHEN m.id IS NULL THEN 'missing' ELSE 'different' END AS kind
          FROM {staging} s FULL JOIN {whole} m ON m.id = s.id
         WHERE s.id IS NULL OR m.id IS NULL OR {differs}
        """,
        differs=_differs(names, "m", "s"),
    )


def unseen(names: Names) -> sql.Composed:
    """Mirror rows that a read of everything (number `read`) did not bring and nobody wrote since."""
    return names.fill(
        """
        SELECT m.id, 'surplus'::text AS kind FROM {mirror} m
         WHERE m._read < %(read)s AND NOT EXISTS (SELECT FROM {staging} s WHERE s.id = m.id)
        """
    )


def verdicts(names: Names, suspects_table: sql.Identifier, *, calculated: Sequence[str] = ()) -> sql.Composed:
    """Judge the suspects `ids` against a second look at them (the staged rows) and the mirror as it stands now.

    What is equal by now, or was changed in the org since `since`, has moved (a sampled record that is equal is just that);
    the rest are differences. Those in columns of `calculated` alone are told apart: such fields move without a stamp.
    """
    plain = [name for name in names.columns if name not in calculated]
    return names.fill(
        """
        WITH looked AS (
          SELECT u.id, s.id IS NOT NULL AND {alive} AS there, m.id IS NOT NULL AS here,
                 s.id IS NOT NULL AND {stamp} >= %(since)s AS fresh, {differs} AS differs, {plainly} AS plainly
            FROM {suspects} u LEFT JOIN {staging} s ON s.id = u.id LEFT JOIN {whole} m ON m.id = u.id
           WHERE u.id = ANY(%(ids)s))
        UPDATE {suspects} u
           SET verdict = CASE WHEN there AND here AND NOT differs AND u.kind = 'sampled' THEN 'equal'
                              WHEN NOT there AND NOT here OR there AND here AND NOT differs OR fresh THEN 'moved'
                              WHEN NOT here THEN 'missing' WHEN NOT there THEN 'surplus'
                              WHEN NOT plainly THEN 'calculated' ELSE 'different' END
          FROM looked WHERE looked.id = u.id
        """,
        alive=_alive(names),
        differs=_differs(names, "m", "s"),
        plainly=_differs(names, "m", "s", plain or ["id"]),
        suspects=suspects_table,
    )


def forget(names: Names) -> list[sql.Composed]:
    """Before a repair: let go of what we hold on the records `ids`, unless a later read wrote it."""
    return [
        names.fill("DELETE FROM {mirror} m WHERE m.id = ANY(%(ids)s) AND m._read < %(read)s"),
        names.fill(
            "DELETE FROM {tombstones} t WHERE t.object = %(object)s AND t.id = ANY(%(ids)s) AND t._read < %(read)s"
        ),
    ]
