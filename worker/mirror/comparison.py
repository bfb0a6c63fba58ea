"""The statements that compare a mirror with what was read, and judge where the two differ. Pure; see `names`."""

from collections.abc import Sequence

from psycopg import sql

from worker.mirror.names import Names, alive, differs


def to_look_at(names: Names, columns: Sequence[str]) -> sql.Composed:
    """Records that `fill` leaves out though their columns are not what was read: they are to be read again whole."""
    return names.fill(
        """
        SELECT m.id, 'different'::text AS kind FROM {whole} m JOIN {staging} s ON s.id = m.id
         WHERE m._read < %(read)s AND ({mirror_stamp} > {stamp} OR {stamp} >= %(young)s) AND {differs}
        """,
        mirror_stamp=names.stamp_of("m"),
        differs=differs(names, "m", "s", columns),
    )


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
        alive=alive(names),
        mirror_stamp=names.stamp_of("m"),
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
        differs=differs(names, "m", "s"),
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
        alive=alive(names),
        differs=differs(names, "m", "s"),
        plainly=differs(names, "m", "s", plain or ["id"]),
        suspects=suspects_table,
    )
