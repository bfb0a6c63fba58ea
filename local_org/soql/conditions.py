"""WHERE and HAVING as SQL.

SOQL has two truth values where SQL has three: `Name != 'x'` and `NOT Name = 'x'` hold for a row without a name.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal

from local_org.catalogue import STRINGS, Field
from local_org.ids import to_18
from local_org.soql import ast, functions, literals
from local_org.soql.scope import Reference, Scope
from local_org.soql.sql import Sql, joined

MAX_SEMI_JOINS = 2

_TEXT_TYPES = STRINGS | {"anyType", "complexvalue"}
_TYPE_WORDS = {
    "datetime": "dateTime",
    "currency": "double",
    "percent": "double",
    "long": "int",
    "double": "double",
    "int": "int",
    functions.FLOAT: "double",
    "boolean": "boolean",
    "date": "date",
    "time": "time",
}
_INT64 = 2**63 - 1
Inner = Callable[[ast.InQuery, Reference], Sql]


class Conditions:
    """Translates the conditions of one scope. `inner` translates the query of a semi-join."""

    def __init__(self, scope: Scope, inner: Inner, *, having: bool = False) -> None:
        self.scope = scope
        self.inner = inner
        self.having = having
        self.semi_joins = 0

    def sql(self, condition: ast.Condition) -> Sql:
        match condition:
            case ast.AllOf(conditions=parts):
                return joined(" AND ", [self.sql(part) for part in parts]).in_parentheses()
            case ast.AnyOf(conditions=parts):
                self._no_semi_join_in(condition)
                return joined(" OR ", [self.sql(part) for part in parts]).in_parentheses()
            case ast.Not(condition=part):
                self._no_semi_join_in(part)
                return self.sql(part).in_parentheses() + " IS NOT TRUE"
            case ast.Comparison():
                return self._comparison(condition)
            case ast.InList():
                return self._in_list(condition)
            case ast.Includes():
                return self._includes(condition)
            case ast.InQuery():
                return self._in_query(condition)

    def _no_semi_join_in(self, condition: ast.Condition) -> None:
        """Neither OR nor NOT may stand over a semi-join, however deep it is."""
        match condition:
            case ast.InQuery():
                text = "Semi join sub-selects are only allowed at the top level WHERE expressions and not in nested"
                raise self.scope.error(condition.at, "MALFORMED_QUERY", f"{text} WHERE expressions.")
            case ast.AllOf(conditions=parts) | ast.AnyOf(conditions=parts):
                for part in parts:
                    self._no_semi_join_in(part)
            case ast.Not(condition=part):
                self._no_semi_join_in(part)

    # -- the left side

    def _left(self, expression: ast.Expression) -> Reference:
        if isinstance(expression, ast.Call) and functions.function_name(expression) in functions.WRAPPERS:
            inner = expression.arguments[0] if expression.arguments else None
            expression = inner if isinstance(inner, ast.Path) else expression
        if isinstance(expression, ast.Call):
            if functions.is_aggregate(expression) and not self.having:
                text = f"Aggregate functions are not allowed in WHERE: {expression.text}"
                raise self.scope.error(expression.at, "MALFORMED_QUERY", text)
            return functions.computed(self.scope, expression)
        reference = self.scope.resolve(expression)
        if not reference.sql or not reference.field.filterable:
            text = f"field '{reference.field.name}' can not be filtered in a query call"
            raise self.scope.error(expression.at, "INVALID_FIELD", text)
        return reference

    def _operator_error(self, left: Reference, text: str | None = None) -> Exception:
        kind = _TYPE_WORDS.get(left.field.type, left.field.type).lower()
        return self.scope.error(left.at, "INVALID_QUERY_FILTER_OPERATOR", text or f"invalid operator on {kind} field")

    def _type_error(self, left: Reference) -> Exception:
        word = _TYPE_WORDS.get(left.field.type)
        rule = f"{word} and should not be enclosed" if word else "string and should be enclosed"
        text = f"value of filter criterion for field '{left.field.name}' must be of type {rule} in quotes"
        return self.scope.error(left.at, "INVALID_FIELD", text)

    # -- comparisons

    def _comparison(self, condition: ast.Comparison) -> Sql:
        left = self._left(condition.left)
        operator, value = condition.operator, condition.value
        kind = left.field.type
        if operator == "LIKE":
            return self._like(left, value)
        if operator not in ("=", "!=") and kind in ("boolean", "multipicklist"):
            raise self._operator_error(left)
        if isinstance(value, ast.Null) or _is_empty(value):
            return self._null(left, operator)
        if isinstance(value, ast.NamedDate):
            return self._named_date(left, operator, value)
        if isinstance(value, ast.Number) and kind != functions.FLOAT:
            return self._number(left, operator, value)
        return self._compared(left, operator, self._bound(left, value))

    def _null(self, left: Reference, operator: str) -> Sql:
        if operator not in ("=", "!="):
            return Sql("0")
        if left.field.type == "boolean":
            return Sql(f"coalesce({left.sql}, 0) {operator} 0")
        return Sql(f"{left.sql} IS {'NOT ' if operator == '!=' else ''}NULL")

    def _compared(self, left: Reference, operator: str, value: object) -> Sql:
        sql, mark = left.sql, "?"
        if left.field.type == "boolean":
            sql = f"coalesce({sql}, 0)" if left.parent else sql
        elif isinstance(value, str) and not value.isascii() and not left.field.case_sensitive:
            sql, mark = f"lower_text({sql})", "lower_text(?)"  # the store's own collation knows ASCII only
        word = {"!=": "IS NOT"}.get(operator, operator)
        return Sql(f"{sql} {word} {mark}", (value,))

    def _like(self, left: Reference, value: ast.Value) -> Sql:
        if left.field.type not in _TEXT_TYPES:
            raise self._operator_error(left)
        if isinstance(value, ast.Null):
            return self._null(left, "=")
        if not isinstance(value, ast.Text):
            raise self._type_error(left)
        if left.field.case_sensitive:
            return Sql(f"soql_like(?, {left.sql})", (value.pattern,))
        if value.pattern.isascii():
            return Sql(f"{left.sql} LIKE ? ESCAPE '\\'", (value.pattern,))
        return Sql(f"lower_text({left.sql}) LIKE lower_text(?) ESCAPE '\\'", (value.pattern,))

    def _number(self, left: Reference, operator: str, value: ast.Number) -> Sql:
        """Compare scaled integers exactly; a literal with more digits than the field lies between two of them."""
        if left.field.type not in ("int", "long", "double", "currency", "percent"):
            raise self._type_error(left)
        scaled = value.value.scaleb(left.field.scale)
        floor = int(scaled.to_integral_value("ROUND_FLOOR"))
        if abs(floor) >= _INT64:
            return self._compared(left, operator, float(floor))
        if scaled == floor:
            return self._compared(left, operator, floor)
        if operator in ("=", "!="):
            return Sql("0" if operator == "=" else "1")
        return self._compared(left, "<=" if operator in ("<", "<=") else ">", floor)

    def _named_date(self, left: Reference, operator: str, value: ast.NamedDate) -> Sql:
        start, end = self._span(left, value)
        sql = left.sql
        match operator:
            case "=":
                return Sql(f"({sql} >= ? AND {sql} < ?)", (start, end))
            case "!=":
                return Sql(f"({sql} >= ? AND {sql} < ?) IS NOT TRUE", (start, end))
            case "<" | ">=":
                return Sql(f"{sql} {operator} ?", (start,))
        return Sql(f"{sql} {'<' if operator == '<=' else '>='} ?", (end,))

    def _span(self, left: Reference, value: ast.NamedDate) -> tuple[str | int, str | int]:
        world = self.scope.world
        today = datetime.fromtimestamp(world.now_ms / 1000, UTC).astimezone(world.zone).date()
        days = literals.days(value.name, value.n, today)
        if left.field.type == "datetime":
            return days.as_ms(world.zone)
        if left.field.type != "date":
            raise self._type_error(left)
        return days.start.isoformat(), days.end.isoformat()

    def _bound(self, left: Reference, value: ast.Value) -> object:
        """The stored form of a literal, which must be of the field's type."""
        match left.field.type, value:
            case (("id" | "reference"), ast.Text(value=text)):
                record_id = to_18(text)
                if record_id is None:
                    raise self._operator_error(left, f"invalid ID field: {text}")
                return record_id
            case "boolean", ast.Boolean(value=flag):
                return int(flag)
            case "date", ast.Date(value=day):
                return day.isoformat()
            case "datetime", ast.DateTime(ms=ms):
                return ms
            case "time", ast.Time(ms=ms):
                return ms
            case (("int" | "long"), ast.Number(value=number)):
                return float(number) if number % 1 or abs(number) > _INT64 else int(number)
            case functions.FLOAT, ast.Number(value=number):
                return float(number)
            case (("double" | "currency" | "percent"), ast.Number(value=number)):
                return _scaled(left.field, number)
            case kind, ast.Text(value=text) if kind in _TEXT_TYPES:
                return text
        raise self._type_error(left)

    # -- lists

    def _in_list(self, condition: ast.InList) -> Sql:
        left = self._left(condition.left)
        sql = joined(" OR ", self._in_parts(left, condition.values)).in_parentheses()
        return sql + " IS NOT TRUE" if condition.negated else sql

    def _in_parts(self, left: Reference, values: tuple[ast.Value, ...]) -> Iterator[Sql]:
        plain: list[object] = []
        for value in values:
            if isinstance(value, ast.Null) or _is_empty(value):
                yield self._null(left, "=")
            elif isinstance(value, ast.NamedDate):
                yield self._named_date(left, "=", value)
            else:
                bound = self._bound(left, value)
                if isinstance(bound, str) and not bound.isascii():
                    yield self._compared(left, "=", bound)
                else:
                    plain.append(bound)
        if plain:
            sql = f"coalesce({left.sql}, 0)" if left.field.type == "boolean" else left.sql
            yield Sql(f"{sql} IN ({', '.join('?' * len(plain))})", tuple(plain))

    def _includes(self, condition: ast.Includes) -> Sql:
        left = self._left(condition.left)
        if left.field.type != "multipicklist":
            raise self._operator_error(left, "includes or excludes operator only valid on multipicklist field")
        sql = joined(" OR ", [self._has_all(left, v) for v in condition.values]).in_parentheses()
        return sql + " IS NOT TRUE" if condition.negated else sql

    def _has_all(self, left: Reference, value: ast.Value) -> Sql:
        if isinstance(value, ast.Null):
            return self._null(left, "=")
        if not isinstance(value, ast.Text):
            raise self._type_error(left)
        has = f"instr(lower_text(';' || {left.sql} || ';'), lower_text(?)) > 0"
        chosen = [Sql(has, (f";{part.strip()};",)) for part in value.value.split(";")]
        return joined(" AND ", chosen).in_parentheses()

    def _in_query(self, condition: ast.InQuery) -> Sql:
        left = self._left(condition.left)
        self.semi_joins += 1
        if self.semi_joins > MAX_SEMI_JOINS:
            text = f"Maximum of {MAX_SEMI_JOINS} semi join sub-selects are allowed"
            raise self.scope.error(condition.at, "MALFORMED_QUERY", text)
        if left.field.type not in ("id", "reference"):
            text = "Semi join sub-selects can only be used with ID or reference fields"
            raise self.scope.error(left.at, "INVALID_FIELD", text)
        sql = f"{left.sql} IN (" + self.inner(condition, left) + ")"
        return sql.in_parentheses() + " IS NOT TRUE" if condition.negated else sql


def _is_empty(value: ast.Value) -> bool:
    """An empty string means null: the platform stores none."""
    return isinstance(value, ast.Text) and value.value == ""


def _scaled(field: Field, number: Decimal) -> object:
    scaled = number.scaleb(field.scale)
    return int(scaled) if scaled % 1 == 0 and abs(scaled) < _INT64 else float(scaled)
