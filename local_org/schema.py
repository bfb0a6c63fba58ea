"""The store's tables, derived from the catalogue."""

from collections.abc import Iterator

from local_org.catalogue import STRINGS, TEXT_LIKE, Catalogue, Field, ObjectType
from local_org.formula import formula_sql

SYSTEM_TABLES = """
CREATE TABLE IF NOT EXISTS _settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _objects (name TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _counters (prefix TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _journal (
    seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, object TEXT NOT NULL, id TEXT NOT NULL,
    operation TEXT NOT NULL, user_id TEXT NOT NULL, changed TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS _deletions (
    object TEXT NOT NULL, id TEXT NOT NULL, at_ms INTEGER NOT NULL, root TEXT NOT NULL,
    PRIMARY KEY (object, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS _deletions_at ON _deletions (object, at_ms);
CREATE INDEX IF NOT EXISTS _deletions_root ON _deletions (root);
CREATE TABLE IF NOT EXISTS _cleared (
    root TEXT NOT NULL, object TEXT NOT NULL, id TEXT NOT NULL, field TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (root, object, id, field)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _late (
    seq INTEGER PRIMARY KEY, commit_ms INTEGER NOT NULL, stamp_ms INTEGER NOT NULL, object TEXT NOT NULL,
    id TEXT NOT NULL, changed TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS _idempotent (
    user_id TEXT NOT NULL, key TEXT NOT NULL, at_ms INTEGER NOT NULL, object TEXT NOT NULL,
    record_id TEXT NOT NULL, PRIMARY KEY (user_id, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _hidden_rows (
    user_id TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (user_id, id)) WITHOUT ROWID;
"""

_INDEXED = frozenset({"CreatedDate", "LastModifiedDate"})


def quoted(name: str) -> str:
    """A name as an SQL identifier. Names come from the catalogue only."""
    return '"' + name.replace('"', '""') + '"'


def column_type(field: Field) -> str:
    if field.type == "id":
        return "TEXT NOT NULL PRIMARY KEY"
    if field.type == "boolean":
        return "INTEGER NOT NULL DEFAULT 0"
    if field.type in STRINGS | TEXT_LIKE:
        return "TEXT" if field.case_sensitive else "TEXT COLLATE NOCASE"
    if field.type in ("reference", "date", "base64"):
        return "TEXT"
    return "INTEGER"


def create_table(item: ObjectType) -> str:
    columns = ", ".join(f"{quoted(field.name)} {column_type(field)}" for field in item.stored)
    return f"CREATE TABLE IF NOT EXISTS {quoted(item.name)} ({columns})"


def add_column(item: ObjectType, field: Field) -> str:
    return f"ALTER TABLE {quoted(item.name)} ADD COLUMN {quoted(field.name)} {column_type(field)}"


def needs_index(field: Field) -> bool:
    """References, keys and stamps are searched; CreatedById and the like never are."""
    if field.name in ("CreatedById", "LastModifiedById", "MasterRecordId"):
        return False
    return field.external_id or field.unique or field.id_lookup or field.type == "reference"


def create_indexes(item: ObjectType) -> Iterator[str]:
    """Statements for the indexes of an object: the stamp with the id, then references and keys."""
    table = quoted(item.name)
    for field in item.stored:
        name = quoted(f"{item.name}.{field.name}")
        column = quoted(field.name)
        if field.name == "SystemModstamp":
            yield f'CREATE INDEX IF NOT EXISTS {name} ON {table} ({column}, "Id")'
        elif field.type != "id" and needs_index(field):
            yield f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({column}) WHERE {column} IS NOT NULL"
        elif field.name in _INDEXED:
            yield f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({column})"


def column_sql(catalogue: Catalogue, item: ObjectType, field: Field, alias: str) -> str:
    """The SQL expression of a field of the row called `alias`; formula fields have no column."""
    if field.formula is not None:
        return formula_sql(catalogue, item.name, field, alias)
    return f"{alias}.{quoted(field.name)}"
