"""The names that the statements on a mirror share: its tables, the staged rows, the columns read; and how versions compare. Pure.

Two versions of a record are ordered by (stamp, read number). Stamps have whole seconds, so a stamp alone would let old
data win; a read takes its number before its request is sent, so among equal stamps the higher number saw later values.
The same rule decides between a row and its tombstone.

Parameters of the statements: `object`, `read` (number of the read), `young` (an instant; see cursor.young_since).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from worker.mirror.ddl import TOMBSTONES
from worker.mirror.parts import part_of
from worker.mirror.schema import TableSpec

OLDEST = sql.SQL("'-infinity'::timestamptz")
MOVED = sql.Identifier("pg_temp", "_moved")


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
        return sql.SQL(statement).format(  # only statements of merge and comparison come here
            mirror=self.mirror,
            tombstones=self.tombstones,
            staging=self.staging,
            staged=self.staged,
            whole=self.whole,
            mirror_v=self._version("m"),
            staged_v=sql.SQL("({}, %(read)s)").format(self.stamp_of("s")),
            tombstone_v=sql.SQL("(coalesce(t.systemmodstamp, {}), t._read)").format(OLDEST),
            stamp=self.stamp_of("s"),
            moved=MOVED,
            **parts,
        )

    def stamp_of(self, alias: str) -> sql.Composable:
        """The stamp behind `alias`; the oldest of all where none was read."""
        if self.stamp is None or self.stamp not in self.columns:
            return OLDEST
        return sql.SQL("coalesce({}, {})").format(sql.Identifier(alias, self.stamp), OLDEST)

    def _version(self, alias: str) -> sql.Composable:
        return sql.SQL("({}, {})").format(self.stamp_of(alias), sql.Identifier(alias, "_read"))


def alive(names: Names) -> sql.Composable:
    """Whether a staged row `s` is not deleted."""
    return sql.SQL("s.isdeleted IS NOT TRUE" if names.knows_deleted else "true")


def listed(columns: Sequence[str], alias: str | None = None) -> sql.Composable:
    """The columns, comma separated, each behind `alias`."""
    return sql.SQL(", ").join(sql.Identifier(alias, name) if alias else sql.Identifier(name) for name in columns)


def differs(names: Names, one: str, other: str, columns: Sequence[str] | None = None) -> sql.Composable:
    """Whether `columns` (default: all that were read) are not the same behind the two aliases. The stamp comes first: where it
    differs, which is nearly always, Postgres looks no further."""
    compared = sorted((name for name in columns or names.columns if name != "id"), key=lambda name: name != names.stamp)
    if not compared:
        return sql.SQL("false")
    sides = [sql.SQL(", ").join(sql.Identifier(alias, name) for name in compared) for alias in (one, other)]
    return sql.SQL("ROW({}) IS DISTINCT FROM ROW({})").format(*sides)
