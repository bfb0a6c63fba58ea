"""A SOQL syntax tree as a plan: SQL of the store with bound values, and the shape of the records."""

from dataclasses import dataclass, field, replace
from itertools import combinations

from local_org.catalogue import Field, ObjectType
from local_org.errors import ApiError
from local_org.schema import quoted
from local_org.soql import ast, errors, functions
from local_org.soql.conditions import Conditions
from local_org.soql.plan import ChildRecords, Column, Compound, Leaf, Output, ParentRecord, Plan, TypedParent
from local_org.soql.scope import Parent, Reference, Scope, World
from local_org.soql.sql import NOTHING, Sql, joined

MAX_OFFSET = 2_000  # SOQL and SOSL Reference, "OFFSET"
MAX_FIELDS_ROWS = 200  # SOQL and SOSL Reference, "FIELDS()"
MAX_CHILD_QUERIES = 20
MAX_CHILD_LEVELS = 5
MAX_SETS_FIELDS = 3  # SOQL and SOSL Reference, "GROUP BY ROLLUP"


def translate(world: World, query: ast.Query) -> Plan:
    """The plan of a whole query. Raises ApiError with the platform's codes."""
    name = query.source.path.text
    item = world.catalogue.object(name)
    if item is None:
        raise errors.no_such_object(world.text, query.source.path.at, name)
    if not item.queryable:
        text = f"entity type {item.name} does not support query"
        raise ApiError(400, "INVALID_TYPE_FOR_OPERATION", text)
    return _Translation(world, query, _scope(world, query, item, "q0")).plan()


def _scope(world: World, query: ast.Query, item: ObjectType, row: str) -> Scope:
    scope = Scope(world, item, row, query.source.alias)
    for path, alias in query.source.parents:
        relationships = scope._without_alias(path.parts) if len(path.parts) > 1 else path.parts
        scope.aliases[alias.lower()] = tuple(relationships)
    return scope


@dataclass(slots=True)
class _Record:
    """The outputs of one record while they are collected; parents are records inside it."""

    parent: Parent | None = None
    outputs: "dict[str, _Record | Output]" = field(default_factory=dict)


class _Translation:
    """One query level: collects columns, then assembles the plan."""

    def __init__(self, world: World, query: ast.Query, scope: Scope, level: int = 0) -> None:
        self.world = world
        self.query = query
        self.scope = scope
        self.level = level
        self.columns: list[str] = []
        self.flat: list[Column] = []

    def plan(self) -> Plan:
        self._check_whole()
        if self._counts_rows():
            return self._assemble("count", ())
        if self.query.group or any(_is_aggregate(item) for item in self.query.select):
            return self._assemble("groups", self._groups())
        self._column(f'{self.scope.row}."Id"')
        return self._assemble("records", self._records())

    def _error(self, at: int, text: str, code: str = "MALFORMED_QUERY") -> ApiError:
        return errors.at(self.world.text, at, code, text)

    def _check_whole(self) -> None:
        query = self.query
        if query.all_rows_at is not None:
            raise self._error(query.all_rows_at, "ALL ROWS not allowed in this context")
        if query.offset is not None and query.offset > MAX_OFFSET:
            text = f"Maximum SOQL offset allowed is {MAX_OFFSET}"
            raise self._error(query.offset_at, text, "NUMBER_OUTSIDE_VALID_RANGE")
        children = [item for item in query.select if isinstance(item, ast.ChildQuery)]
        if len(children) > MAX_CHILD_QUERIES or (children and self.level >= MAX_CHILD_LEVELS):
            raise self._error(query.at, f"SOQL queries are limited to {MAX_CHILD_QUERIES} child queries")

    def _counts_rows(self) -> bool:
        select = self.query.select
        return (
            len(select) == 1
            and isinstance(select[0], ast.FieldItem)
            and functions.is_count_of_rows(select[0].expression)
        )

    def _assemble(self, kind: str, outputs: tuple[Output, ...]) -> Plan:
        conditions = Conditions(self.scope, self._inner)
        where = NOTHING if self.query.where is None else conditions.sql(self.query.where)
        order = joined(", ", [self._order(item, kind) for item in self.query.order])
        group, having = self._group_sql(), self._having_sql()
        visible = self.scope.visible()
        return Plan(
            kind=kind,  # type: ignore[arg-type]
            item=self.scope.item,
            row=self.scope.row,
            columns=tuple(self.columns),
            outputs=outputs,
            from_sql=self.scope.from_sql(),
            where=joined(" AND ", [where, self._filter_scope(), visible]),
            visible=visible,
            order=order,
            group=group,
            having=having,
            sets=self._sets(),
            limit=self.query.limit,
            offset=self.query.offset,
            flat=tuple(self.flat),
        )

    def _filter_scope(self) -> Sql:
        """USING SCOPE. Source: SOQL and SOSL Reference, "USING SCOPE"; teams and delegation are not kept here."""
        scope = (self.query.scope or "everything").lower()
        if scope == "everything":
            return NOTHING
        owner = self.scope.item.field("OwnerId")
        if scope != "mine" or owner is None:
            text = f"Using scope '{self.query.scope}' is not supported for {self.scope.item.name}"
            raise self._error(self.query.source.path.at, text)
        return Sql(f"{self.scope.row}.{quoted(owner.name)} = ?", (self.world.user,))

    def _column(self, sql: str) -> int:
        if sql not in self.columns:
            self.columns.append(sql)
        return self.columns.index(sql)

    # -- records

    def _records(self) -> tuple[Output, ...]:
        root = _Record()
        for item in self.query.select:
            match item:
                case ast.ChildQuery(query=query):
                    self._add_children(root, query)
                case ast.TypeOf():
                    self._add_typeof(root, item)
                case ast.FieldItem(expression=ast.Path() as path, alias=alias):
                    self._no_alias(path.at, alias)
                    self._add_field(root, self.scope.resolve(path))
                case ast.FieldItem(expression=ast.Call() as call, alias=alias):
                    self._add_call(root, call, alias)
        return self._finished(root)

    def _no_alias(self, at: int, alias: str | None) -> None:
        if alias is not None:
            raise self._error(at, "only aggregate expressions use field aliasing")

    def _add_call(self, root: _Record, call: ast.Call, alias: str | None) -> None:
        name = functions.function_name(call)
        if name == "fields":
            self._no_alias(call.at, alias)
            for reference in self._all_fields(call):
                self._add_field(root, reference)
        elif name in functions.WRAPPERS and len(call.arguments) == 1:
            self._add_wrapped(root, call, alias)
        elif name == "distance":
            unnamed = sum(key.startswith("expr") for key in root.outputs)
            reference = functions.computed(self.scope, call)
            self._add_field(root, replace(reference, names=(alias or f"expr{unnamed}",)))
        else:
            text = f"Function not allowed here without GROUP BY: {call.text}"
            raise self._error(call.at, text)

    def _add_wrapped(self, root: _Record, call: ast.Call, alias: str | None) -> None:
        """toLabel(), FORMAT() and convertCurrency(); labels are the values, and the org has one currency."""
        formatted = functions.function_name(call) == "format"
        inner = call.arguments[0]
        if isinstance(inner, ast.Call) and functions.function_name(inner) == "convertcurrency":
            inner = inner.arguments[0]
        if not isinstance(inner, ast.Path):
            raise self._error(call.at, f"invalid argument of function {call.name}")
        reference = self.scope.resolve(inner)
        names = (*reference.names[:-1], alias or reference.names[-1])
        self._add_field(root, replace(reference, names=names), formatted=formatted)

    def _all_fields(self, call: ast.Call) -> list[Reference]:
        which = call.arguments[0].text.upper() if len(call.arguments) == 1 else ""
        if which not in ("ALL", "STANDARD", "CUSTOM"):
            raise self._error(call.at, f"invalid argument of function {call.name}")
        limit = self.query.limit
        if which != "STANDARD" and (limit is None or limit > MAX_FIELDS_ROWS):
            text = f"The SOQL FIELDS function must have a LIMIT of at most {MAX_FIELDS_ROWS}"
            raise self._error(call.at, text)
        return [
            self.scope.resolve(ast.Path((item.name,), call.at))
            for item in self.scope.item.fields.values()
            if which == "ALL" or item.custom == (which == "CUSTOM")
        ]

    def _add_field(self, root: _Record, reference: Reference, *, formatted: bool = False) -> None:
        record = root
        for depth, name in enumerate(reference.names[:-1]):
            parent = self.scope.parent(reference.names[: depth + 1], reference.at)
            inner = record.outputs.setdefault(name, _Record(parent))
            if not isinstance(inner, _Record):
                raise self._duplicate(reference)
            record = inner
        if reference.names[-1] in record.outputs:
            raise self._duplicate(reference)
        record.outputs[reference.names[-1]] = self._leaf(reference, formatted)

    def _duplicate(self, reference: Reference) -> ApiError:
        return self._error(reference.at, f"duplicate field selected: {reference.text}", "INVALID_FIELD")

    def _leaf(self, reference: Reference, formatted: bool = False) -> Output:
        key = reference.names[-1]
        self.flat.append(Column(reference.text, reference.field, reference.sql))
        if reference.sql:
            return Leaf(key, reference.field, self._column(reference.sql), formatted)
        parts = [Leaf(p.field.name, p.field, self._column(p.sql)) for p in self.scope.parts(reference)]
        return Compound(key, reference.field, tuple(parts))

    def _finished(self, record: _Record) -> tuple[Output, ...]:
        return tuple(
            self._parent_record(key, output) if isinstance(output, _Record) else output
            for key, output in record.outputs.items()
        )

    def _parent_record(self, key: str, record: _Record) -> Output:
        parent = record.parent
        assert parent is not None
        return ParentRecord(
            key=key,
            id_index=self._column(parent.id_sql()),
            kind=parent.targets[0].item.name,
            outputs=self._finished(record),
            type_index=self._column(parent.type_sql()) if parent.polymorphic else None,
        )

    def _add_typeof(self, root: _Record, item: ast.TypeOf) -> None:
        parent = self.scope.parent(item.path.parts, item.path.at)
        if parent.names[-1] in root.outputs:
            raise self._error(item.path.at, f"a relationship of TYPEOF is selected otherwise, too: {item.path.text}")
        if not parent.polymorphic:
            text = f"TYPEOF needs a polymorphic relationship: {item.path.text}"
            raise self._error(item.path.at, text)
        branches = {}
        for when in item.whens:
            target = next((t for t in parent.targets if t.item.name.lower() == when.object.lower()), None)
            if target is None:
                raise errors.no_such_object(self.world.text, item.path.at, when.object)
            branches[target.item.name] = self._target_fields(parent, target.alias, target.item, when.fields)
        by_name = tuple(ast.Path((*item.path.parts, *p.parts), p.at) for p in item.otherwise)
        otherwise = tuple(self._leaf(self.scope.resolve(path)) for path in by_name)
        root.outputs[parent.names[-1]] = TypedParent(
            key=parent.names[-1],
            id_index=self._column(parent.id_sql()),
            type_index=self._column(parent.type_sql()),
            branches=branches,
            otherwise=otherwise,
        )

    def _target_fields(
        self, parent: Parent, alias: str, item: ObjectType, paths: tuple[ast.Path, ...]
    ) -> tuple[Output, ...]:
        outputs = []
        for path in paths:
            found = item.field(path.text)
            if found is None:
                raise errors.no_such_column(self.world.text, path.at, path.text, item.name)
            sql = self.world.column_sql(item, found, alias)
            outputs.append(self._leaf(Reference((*parent.names, found.name), found, sql, None, item, path.at)))
        return tuple(outputs)

    # -- children and semi-joins

    def _add_children(self, root: _Record, query: ast.Query) -> None:
        path = query.source.path
        name = path.parts[-1].lower()
        found = self.world.catalogue.children(self.scope.item.name)
        relation = next((c for c in found if (c.name or "").lower() == name), None)
        item = None if relation is None else self.world.catalogue.object(relation.child_object)
        link = None if relation is None or item is None else item.field(relation.field)
        if relation is None or item is None or link is None:
            raise errors.no_such_child(self.world.text, path.at, path.parts[-1])
        scope = _scope(self.world, query, item, "q0")
        inner = _Translation(self.world, query, scope, self.level + 1).plan()
        if inner.kind != "records":
            raise self._error(query.at, "Aggregate functions are not supported in a child query")
        linked = replace(inner, where=joined(" AND ", [Sql(f"q0.{quoted(link.name)} = ?", ("",)), inner.where]))
        key = str(relation.name)
        if key in root.outputs:
            raise self._error(path.at, f"duplicate relationship selected: {key}")
        root.outputs[key] = ChildRecords(key, linked)

    def _inner(self, condition: ast.InQuery, left: Reference) -> Sql:
        """The query of a semi-join: one id or reference field of another object."""
        query, name = condition.query, condition.query.source.path.text
        item = self.world.catalogue.object(name)
        if item is None:
            raise errors.no_such_object(self.world.text, query.source.path.at, name)
        if item is self.scope.item and left.parent is None:
            raise self._error(query.at, "The inner and outer selects should not be on the same object type")
        if query.order or query.limit is not None or query.offset is not None or query.group:
            raise self._error(query.at, "ORDER BY, GROUP BY and LIMIT are not supported in semi join sub-selects")
        if self.level < 0:
            raise self._error(query.at, "Nesting of semi join sub-selects is not supported")
        scope = _scope(self.world, query, item, f"{self.scope.row}s{condition.at}")
        return _Translation(self.world, query, scope, level=-1)._one_column()

    def _one_column(self) -> Sql:
        select = self.query.select
        expression = select[0].expression if isinstance(select[0], ast.FieldItem) else None
        reference = self.scope.resolve(expression) if isinstance(expression, ast.Path) else None
        if len(select) != 1 or reference is None or reference.field.type not in ("id", "reference"):
            text = "A semi join sub-select can only query one ID or reference field"
            raise self._error(self.query.at, text)
        plan = self._assemble("records", ())
        not_null = Sql(f"{reference.sql} IS NOT NULL")
        return replace(plan, where=joined(" AND ", [plan.where, not_null])).of(reference.sql)

    # -- groups

    def _groups(self) -> tuple[Output, ...]:
        outputs: list[Output] = []
        unnamed = 0
        for item in self.query.select:
            if not isinstance(item, ast.FieldItem):
                raise self._error(self.query.at, "Child queries and TYPEOF are not supported with GROUP BY")
            reference = self._grouped(item.expression)
            key = item.alias
            if key is None and isinstance(item.expression, ast.Call):
                key, unnamed = f"expr{unnamed}", unnamed + 1
            key = key or reference.names[-1]
            if any(output.key == key for output in outputs):
                raise self._error(reference.at, f"duplicate alias: {key}")
            call = item.expression
            function = functions.function_name(call) if isinstance(call, ast.Call) else None
            outputs.append(Leaf(key, reference.field, self._column(reference.sql), function=function))
        return tuple(outputs)

    def _grouped(self, expression: ast.Expression) -> Reference:
        """A selected or sorted expression of a grouped query: an aggregate, or what is grouped by."""
        reference = self._any(expression)
        if functions.is_aggregate(expression):
            return reference
        if self.sets and isinstance(expression, ast.Call) and functions.function_name(expression) == "grouping":
            return reference
        if not any(self._any(group).sql == reference.sql for group in self._group_by()):
            text = f"Field must be grouped or aggregated: {reference.text}"
            raise self._error(reference.at, text)
        return reference

    def _any(self, expression: ast.Expression) -> Reference:
        if isinstance(expression, ast.Path):
            return self.scope.resolve(expression)
        return functions.computed(self.scope, expression)

    def _group_sql(self) -> Sql:
        if not self.query.group:
            return NOTHING
        by = []
        for expression in self._group_by():
            reference = self._any(expression)
            if not reference.sql or not reference.field.groupable:
                text = f"field '{reference.field.name}' can not be grouped in a query call"
                raise self._error(reference.at, text, "INVALID_FIELD")
            by.append(reference.sql)
        return Sql(f" GROUP BY {', '.join(by)}")

    def _having_sql(self) -> Sql:
        if self.query.having is None:
            return NOTHING
        return " HAVING " + Conditions(self.scope, self._inner, having=True).sql(self.query.having)

    @property
    def sets(self) -> str | None:
        """ "rollup" or "cube", where the query groups by one of them."""
        group = self.query.group
        name = functions.function_name(group[0]) if len(group) == 1 and isinstance(group[0], ast.Call) else None
        return name if name in ("rollup", "cube") else None

    def _group_by(self) -> tuple[ast.Expression, ...]:
        """What is grouped by; the arguments of ROLLUP and CUBE. Raises ApiError."""
        if self.sets is None:
            return self.query.group
        call = self.query.group[0]
        assert isinstance(call, ast.Call)
        found = tuple(argument for argument in call.arguments if isinstance(argument, ast.Path | ast.Call))
        if not 1 <= len(call.arguments) <= MAX_SETS_FIELDS or len(found) != len(call.arguments):
            raise self._error(call.at, f"{call.name} takes one to {MAX_SETS_FIELDS} fields")
        return found

    def _sets(self) -> tuple[tuple[str, ...], ...]:
        """Source: SOQL and SOSL Reference, "GROUP BY ROLLUP", "GROUP BY CUBE"."""
        if self.sets is None:
            return ()
        by = tuple(self._any(expression).sql for expression in self._group_by())
        if self.sets == "rollup":
            return tuple(by[:count] for count in range(len(by), -1, -1))
        return tuple(kept for count in range(len(by), -1, -1) for kept in combinations(by, count))

    def _order(self, item: ast.OrderItem, kind: str) -> Sql:
        reference = self._grouped(item.expression) if kind == "groups" else self._any(item.expression)
        if not reference.sql or not reference.field.sortable:
            field_: Field = reference.field
            text = f"field '{field_.name}' can not be sorted in a query call"
            raise self._error(reference.at, text, "INVALID_FIELD")
        direction = "DESC" if item.descending else "ASC"
        sql = f"c{self._column(reference.sql)}" if kind == "groups" and self.sets else reference.sql
        return Sql(f"{sql} {direction} NULLS {'LAST' if item.nulls_last else 'FIRST'}")


def _is_aggregate(item: ast.SelectItem) -> bool:
    return isinstance(item, ast.FieldItem) and functions.is_aggregate(item.expression)
