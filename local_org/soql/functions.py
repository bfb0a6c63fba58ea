"""SOQL functions as SQL: date functions and aggregates. Source: SOQL and SOSL Reference, "Date Functions",
"Aggregate Functions".
"""

from dataclasses import replace

from local_org.catalogue import COMPOUND_TYPES, Field
from local_org.soql import ast
from local_org.soql.plan import grouping_sql
from local_org.soql.scope import Reference, Scope

FLOAT = "float"  # the type of an average: no field has it
AGGREGATES = frozenset({"count", "count_distinct", "sum", "avg", "min", "max"})

# Each takes an SQL expression for a date (text YYYY-MM-DD, or YYYY-MM-DD HH:MM:SS) and gives an integer.
_DATE_PARTS = {
    "calendar_year": "CAST(strftime('%Y', {0}) AS INTEGER)",
    "calendar_quarter": "(CAST(strftime('%m', {0}) AS INTEGER) + 2) / 3",
    "calendar_month": "CAST(strftime('%m', {0}) AS INTEGER)",
    "day_in_month": "CAST(strftime('%d', {0}) AS INTEGER)",
    "day_in_week": "CAST(strftime('%w', {0}) AS INTEGER) + 1",
    "day_in_year": "CAST(strftime('%j', {0}) AS INTEGER)",
    "week_in_month": "(CAST(strftime('%d', {0}) AS INTEGER) - 1) / 7 + 1",
    "week_in_year": "(CAST(strftime('%j', {0}) AS INTEGER) - 1) / 7 + 1",
    "hour_in_day": "CAST(strftime('%H', {0}) AS INTEGER)",
}
# The org's fiscal year is the calendar year.
_DATE_PARTS |= {name.replace("calendar", "fiscal"): sql for name, sql in list(_DATE_PARTS.items())[:3]}

DATE_FUNCTIONS = frozenset(_DATE_PARTS) | {"day_only"}
WRAPPERS = frozenset({"tolabel", "format", "convertcurrency"})


def function_name(call: ast.Call) -> str:
    return call.name.lower()


def is_aggregate(expression: ast.Expression) -> bool:
    return isinstance(expression, ast.Call) and function_name(expression) in AGGREGATES


def is_count_of_rows(expression: ast.Expression) -> bool:
    """COUNT() without a field."""
    return isinstance(expression, ast.Call) and function_name(expression) == "count" and not expression.arguments


def computed(scope: Scope, call: ast.Call) -> Reference:
    """A date function or an aggregate, as a reference whose field tells the type of the result."""
    name = function_name(call)
    if name in AGGREGATES:
        return _aggregate(scope, call, name)
    if name in DATE_FUNCTIONS:
        return _date_function(scope, call, name)
    if name == "grouping":
        return _result(
            call, Field(call.text, "int", call.text), grouping_sql(scope.resolve(_only_path(scope, call)).sql)
        )
    if name == "distance":
        return _distance(scope, call)
    raise scope.error(call.at, "MALFORMED_QUERY", f"unknown function: {call.name}")


def _distance(scope: Scope, call: ast.Call) -> Reference:
    """DISTANCE(location, GEOLOCATION(latitude, longitude), 'km' or 'mi'), between a field and a fixed place."""
    match call.arguments:
        case (
            ast.Path() as path,
            ast.Call(name=name, arguments=(ast.Number(value=latitude), ast.Number(value=longitude))),
            ast.Text(value="km" | "mi" as unit),
        ) if name.lower() == "geolocation":
            of = scope.resolve(path)
        case _:
            raise scope.error(call.at, "MALFORMED_QUERY", f"invalid arguments of function {call.name}")
    places = [part for part in scope.parts(of) if part.field.name.lower().removesuffix("__s").endswith("tude")]
    if of.field.type not in COMPOUND_TYPES or len(places) != 2:
        text = f"field {of.field.name} is not a location: {call.name}"
        raise scope.error(call.at, "MALFORMED_QUERY", text)
    north, east = sorted(places, key=lambda part: "longitude" in part.field.name.lower())
    degrees = [f"{part.sql} / {10**part.field.scale}.0" for part in (north, east)]
    sql = f"soql_distance({', '.join(degrees)}, {latitude:f}, {longitude:f}, '{unit}')"
    return _result(call, Field(call.text, FLOAT, call.text), sql)


def _only_path(scope: Scope, call: ast.Call) -> ast.Path:
    if len(call.arguments) != 1 or not isinstance(call.arguments[0], ast.Path):
        raise scope.error(call.at, "MALFORMED_QUERY", f"invalid argument of function {call.name}")
    return call.arguments[0]


def _result(call: ast.Call, kind: Field, sql: str) -> Reference:
    return Reference((call.text,), kind, sql, None, None, call.at)


def _aggregate(scope: Scope, call: ast.Call, name: str) -> Reference:
    if is_count_of_rows(call):
        raise scope.error(call.at, "MALFORMED_QUERY", "Count() must be used alone")
    of = scope.resolve(_only_path(scope, call))
    number = of.field.type in ("int", "long", "double", "currency", "percent")
    if not of.sql or not of.field.aggregatable or (name in ("sum", "avg") and not number):
        text = f"field {of.field.name} does not support aggregate operator {name.upper()}"
        raise scope.error(call.at, "MALFORMED_QUERY", text)
    if name in ("count", "count_distinct"):
        distinct = "DISTINCT " if name == "count_distinct" else ""
        return _result(call, Field(call.text, "int", call.text), f"count({distinct}{of.sql})")
    if name == "avg":
        sql = f"avg({of.sql}) / {10**of.field.scale}.0"
        return _result(call, Field(call.text, FLOAT, call.text), sql)
    return _result(call, replace(of.field, filterable=True, sortable=True), f"{name}({of.sql})")


def _date_function(scope: Scope, call: ast.Call, name: str) -> Reference:
    of, sql = _date_argument(scope, call)
    if of.field.type not in ("date", "datetime"):
        text = f"field {of.field.name} is not a date or dateTime field: {call.name}"
        raise scope.error(call.at, "MALFORMED_QUERY", text)
    if name == "day_only":
        return _result(call, Field(call.text, "date", call.text), f"date({sql})")
    return _result(call, Field(call.text, "int", call.text), _DATE_PARTS[name].format(sql))


def _date_argument(scope: Scope, call: ast.Call) -> tuple[Reference, str]:
    """A date, or a datetime in UTC, or one moved to the user's zone by convertTimezone()."""
    argument = call.arguments[0] if len(call.arguments) == 1 else None
    if isinstance(argument, ast.Call) and function_name(argument) == "converttimezone":
        of = scope.resolve(_only_path(scope, argument))
        return of, f"soql_local({of.sql}, '{scope.world.zone.key}')"
    of = scope.resolve(_only_path(scope, call))
    return of, of.sql if of.field.type == "date" else f"datetime({of.sql} / 1000, 'unixepoch')"
