"""Names of one query level: which field a path means, and which parents must be joined for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from local_org.catalogue import COMPOUND_TYPES, Catalogue, Field, ObjectType
from local_org.errors import ApiError
from local_org.schema import quoted
from local_org.soql import ast, errors
from local_org.soql.sql import Sql, joined

MAX_PARENT_LEVELS = 5  # SOQL and SOSL Reference, "Relationship Query Limitations"
MAX_PARENTS = 55

# What any record that may own or be related to something has: the fields of the vendor's object "Name".
NAME_FIELDS = frozenset(
    {
        "id",
        "name",
        "type",
        "firstname",
        "lastname",
        "alias",
        "email",
        "phone",
        "title",
        "username",
        "isactive",
        "userroleid",
        "profileid",
    }
)


@dataclass(frozen=True, slots=True)
class World:
    """What a translation needs to know besides the query.

    `user` is the id of who asks; `catalogue` is that user's view; `column_sql` and `row_filter` are the store's and the access rules' (see
    Context); `now_ms` and `zone` give named dates their meaning; `all_rows` is queryAll.
    """

    text: str
    user: str
    catalogue: Catalogue
    column_sql: Callable[[ObjectType, Field, str], str]
    row_filter: Callable[[str, str], str]
    now_ms: int
    zone: ZoneInfo
    all_rows: bool


@dataclass(frozen=True, slots=True)
class Target:
    """One object that a reference may point to, joined under `alias`."""

    alias: str
    item: ObjectType


@dataclass(frozen=True, slots=True)
class Parent:
    """A joined parent. Several targets: a polymorphic reference, at most one of which has a row."""

    names: tuple[str, ...]
    targets: tuple[Target, ...]
    polymorphic: bool
    join: str

    def id_sql(self) -> str:
        return coalesced([f'{target.alias}."Id"' for target in self.targets])

    def type_sql(self) -> str:
        cases = "".join(f" WHEN {t.alias}.\"Id\" IS NOT NULL THEN '{t.item.name}'" for t in self.targets)
        return f"CASE{cases} END"


def coalesced(expressions: list[str]) -> str:
    return expressions[0] if len(expressions) == 1 else f"coalesce({', '.join(expressions)})"


@dataclass(frozen=True, slots=True)
class Reference:
    """A field that a path means. `names` in canonical case; `sql` is empty for compound fields."""

    names: tuple[str, ...]
    field: Field
    sql: str
    parent: Parent | None
    owner: ObjectType | None
    at: int

    @property
    def text(self) -> str:
        return ".".join(self.names)


@dataclass(slots=True)
class Scope:
    """One level of a query: its object, under the SQL alias `row`, and the parents joined so far."""

    world: World
    item: ObjectType
    row: str
    alias: str | None = None
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parents: dict[tuple[str, ...], Parent] = field(default_factory=dict)

    def resolve(self, path: ast.Path) -> Reference:
        """The field at the end of a path. Raises ApiError INVALID_FIELD as the platform does."""
        *relationships, name = self._without_alias(path.parts)
        parent = self.parent(tuple(relationships), path.at) if relationships else None
        if parent is not None and parent.polymorphic:
            return self._polymorphic(parent, name, path.at)
        item = self.item if parent is None else parent.targets[0].item
        row = self.row if parent is None else parent.targets[0].alias
        found = self._field(item, name, path)
        names = (*(parent.names if parent else ()), found.name)
        sql = "" if found.type in COMPOUND_TYPES else self.world.column_sql(item, found, row)
        return Reference(names, found, sql, parent, item, path.at)

    def _field(self, item: ObjectType, name: str, path: ast.Path) -> Field:
        found = item.field(name)
        if found is None:
            raise errors.no_such_column(self.world.text, path.at, name, item.name)
        return found

    def _without_alias(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """Drop what stands for the object itself: its alias or its name; an alias of a parent becomes a path."""
        if len(parts) == 1:
            return parts
        first = parts[0].lower()
        if first in self.aliases:
            return (*self.aliases[first], *parts[1:])
        own_name = first == self.item.name.lower() and _relationship(self.item, first) is None
        return parts[1:] if own_name or first == (self.alias or "").lower() else parts

    def parts(self, reference: Reference) -> list[Reference]:
        """The stored parts of a compound field, on the same row."""
        item = reference.owner or self.item
        row = self.row if reference.parent is None else reference.parent.targets[0].alias
        return [
            Reference(
                (*reference.names[:-1], part.name),
                part,
                self.world.column_sql(item, part, row),
                reference.parent,
                item,
                reference.at,
            )
            for part in item.parts_of(reference.field.name)
        ]

    def parent(self, relationships: tuple[str, ...], at: int) -> Parent:
        """The parent at the end of a path of relationship names, joined if it is not yet."""
        relationships = tuple(relationships)
        if len(relationships) > MAX_PARENT_LEVELS:
            text = f"SOQL statements cannot follow more than {MAX_PARENT_LEVELS} levels of parent relationships"
            raise errors.at(self.world.text, at, "MALFORMED_QUERY", text)
        key = tuple(name.lower() for name in relationships)
        known = self.parents.get(key)
        if known is None:
            known = self.parents[key] = self._join(relationships, at)
        return known

    def _join(self, relationships: tuple[str, ...], at: int) -> Parent:
        *before, name = relationships
        child = self.parent(tuple(before), at) if before else None
        if child is not None and child.polymorphic:
            raise errors.no_such_relationship(self.world.text, at, name)
        item = self.item if child is None else child.targets[0].item
        row = self.row if child is None else child.targets[0].alias
        via = _relationship(item, name)
        targets = [] if via is None else [t for n in via.reference_to if (t := self.world.catalogue.object(n))]
        if via is None or not targets:
            raise errors.no_such_relationship(self.world.text, at, name)
        if len(self.parents) >= MAX_PARENTS:
            text = f"SOQL statements cannot have more than {MAX_PARENTS} parent relationships"
            raise errors.at(self.world.text, at, "MALFORMED_QUERY", text)
        return self._joined_targets(child, via, row, targets)

    def _joined_targets(self, child: Parent | None, via: Field, row: str, targets: list[ObjectType]) -> Parent:
        names = (*(child.names if child else ()), str(via.relationship_name))
        number = len(self.parents)
        joins, found = [], []
        for index, target in enumerate(targets):
            alias = f"{self.row}p{number}x{index}"
            hidden = self.world.row_filter(target.name, alias)
            condition = f'{alias}."Id" = {row}.{quoted(via.name)}' + (f" AND {hidden}" if hidden else "")
            joins.append(f" LEFT JOIN {quoted(target.name)} AS {alias} ON {condition}")
            found.append(Target(alias, target))
        return Parent(names, tuple(found), len(via.reference_to) > 1, "".join(joins))

    def _polymorphic(self, parent: Parent, name: str, at: int) -> Reference:
        """A field of whatever the reference points to: those of the vendor's object "Name" only."""
        if name.lower() == "type":
            kind = Field("Type", "string", "Type")
            return Reference((*parent.names, "Type"), kind, parent.type_sql(), parent, None, at)
        owners = [(t, f) for t in parent.targets if (f := t.item.field(name)) is not None]
        if name.lower() not in NAME_FIELDS or not owners:
            raise errors.no_such_column(self.world.text, at, name, "Name")
        sql = coalesced([self.world.column_sql(t.item, f, t.alias) for t, f in owners])
        found = owners[0][1]
        return Reference((*parent.names, found.name), found, sql, parent, None, at)

    def from_sql(self) -> str:
        """The object's table and its joins, without FROM."""
        joins = "".join(parent.join for parent in self._in_join_order())
        return f"{quoted(self.item.name)} AS {self.row}{joins}"

    def _in_join_order(self) -> list[Parent]:
        return sorted(self.parents.values(), key=lambda parent: len(parent.names))

    def visible(self) -> Sql:
        """What hides deleted and archived rows, and rows that the user may not see."""
        conditions = [Sql(self.world.row_filter(self.item.name, self.row))]
        if not self.world.all_rows:
            has = [name for name in ("IsDeleted", "IsArchived") if self.item.field(name) is not None]
            conditions += [Sql(f"{self.row}.{quoted(name)} = 0") for name in has]
        return joined(" AND ", conditions)

    def error(self, at: int, code: str, text: str) -> ApiError:
        return errors.at(self.world.text, at, code, text)


def _relationship(item: ObjectType, name: str) -> Field | None:
    lower = name.lower()
    return next((f for f in item.fields.values() if (f.relationship_name or "").lower() == lower), None)
