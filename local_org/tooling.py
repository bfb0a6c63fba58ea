"""The part of the Tooling API that reads what the org is made of. Source: Tooling API, "REST Resources".

It answers queries on EntityDefinition, FieldDefinition, RecordType, Profile, User, UserRole and Group; there is no
code in this org, so that every other object of the Tooling API is unknown here.
"""

import re
from typing import Any

from local_org import describe, metadata, query
from local_org.context import Answer, Context
from local_org.errors import not_found
from local_org.objects.setup import ENTITY, FIELD

OBJECTS = (ENTITY, FIELD, "Group", "Profile", "RecordType", "User", "UserRole")
_DATA_URL = re.compile(r"(/services/data/v[\d.]+)/(sobjects|query)/")


def run(ctx: Context) -> dict[str, Any]:
    """GET tooling/query?q=."""
    seen = ctx.catalogue
    names = [item.name for item in seen.objects() if item.name not in OBJECTS]
    narrowed = ctx.narrowed(names)
    return _shaped(query.query(narrowed, ctx.query.get("q", ""), all_rows=False))


def more(ctx: Context, locator: str) -> dict[str, Any]:
    """GET tooling/query/{locator}."""
    return _shaped(query.more(ctx, locator))


def _shaped(result: dict[str, Any]) -> dict[str, Any]:
    """A result as this API has it: its size twice, the object's name, and URLs of its own."""
    records = [_moved(record) for record in result["records"]]
    kinds = {record["attributes"]["type"] for record in records}
    extra = {"nextRecordsUrl": _moved(result["nextRecordsUrl"])} if "nextRecordsUrl" in result else {}
    return {
        "size": len(records),
        "totalSize": result["totalSize"],
        "done": result["done"],
        **extra,
        "queryLocator": None,
        "entityTypeName": kinds.pop() if len(kinds) == 1 else None,
        "records": records,
    }


def _moved(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _moved(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_moved(part) for part in value]
    return _DATA_URL.sub(r"\1/tooling/\2/", value) if isinstance(value, str) else value


def resources(ctx: Context) -> dict[str, str]:
    """GET tooling."""
    return {name: ctx.url(f"tooling/{name}") for name in ("query", "sobjects")}


def sobjects(ctx: Context) -> dict[str, Any]:
    """GET tooling/sobjects."""
    base = ctx.url("tooling")
    found = [item for name in OBJECTS if (item := ctx.catalogue.object(name)) is not None]
    entries = [describe.describe_entry(item, base) for item in found]
    return {"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": entries}


def object_describe(ctx: Context, object_name: str) -> Answer:
    """GET tooling/sobjects/{object}/describe."""
    if ctx.object(object_name).name not in OBJECTS:
        raise not_found()
    answer = metadata.object_describe(ctx, object_name)
    return Answer(answer.status, _moved(answer.body), answer.headers)
