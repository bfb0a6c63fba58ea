"""Calls of the SOAP API (partner and enterprise form) on records: what only it can do, undelete, merge and emptying the
recycle bin, and what old clients do with it. Source: SOAP API Developer Guide, "Core Calls", "Utility Calls".
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any
from xml.etree import ElementTree

from local_org import collections, deletion, dml, metadata, query, replication, users
from local_org.context import Answer, Context
from local_org.errors import ApiError, unknown_type
from local_org.ids import to_18
from local_org.values import datetime_text
from local_org.words import whole_number

Record = dict[str, Any]
Element = ElementTree.Element
_NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"
_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
_MAX_RECORDS = 200


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the caller's context, the call's element, and the headers of the envelope by name."""

    ctx: Context
    element: Element
    headers: dict[str, Element]

    def texts(self, name: str) -> list[str]:
        return [(child.text or "").strip() for child in self.element if local(child) == name]

    def text(self, name: str) -> str:
        return next(iter(self.texts(name)), "")

    def records(self, name: str = "sObjects") -> list[Record]:
        return [_record(child) for child in self.element if local(child) == name]

    def all_or_none(self) -> bool:
        header = self.headers.get("AllOrNoneHeader")
        return header is not None and "".join(header.itertext()).strip() == "true"

    def with_body(self, body: Record) -> Context:
        return replace(self.ctx, body=json.dumps(body).encode(), inner=True)


def local(element: Element) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def _record(element: Element) -> Record:
    """An sObject as the JSON of REST has it: type, values, `fieldsToNull`, parents by their keys."""
    kind = element.get(_TYPE, "").rpartition(":")[2]
    values: Record = {}
    for child in element:
        name, text = local(child), (child.text or "").strip()
        if name == "type":
            kind = text
        elif name == "fieldsToNull":
            values[text] = None
        elif len(child):
            values[name] = _record(child)
        else:
            values[name] = None if child.get(_NIL) == "true" else child.text
    return {"attributes": {"type": kind}, **values}


# -- answers


def tag(name: str, value: Any) -> str:
    """A value as an element; lists repeat it, null is nil."""
    if isinstance(value, list | tuple):
        return "".join(tag(name, item) for item in value)
    if value is None:
        return f'<{name} xsi:nil="true"/>'
    if isinstance(value, dict):
        return f"<{name}>{''.join(tag(key, item) for key, item in value.items())}</{name}>"
    return f"<{name}>{_text(value)}</{name}>"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return escape(text[:-5] + "Z" if text[-5:] == "+0000" and text[10:11] == "T" else text)


def _sobject(name: str, record: Record | None) -> str:
    if record is None:
        return f'<{name} xsi:nil="true"/>'
    values = {key: value for key, value in record.items() if key not in ("attributes", "Id")}
    inner = tag("sf:type", record["attributes"]["type"]) + tag("sf:Id", record.get("Id"))
    inner += "".join(_value(f"sf:{key}", value) for key, value in values.items())
    return f'<{name} xsi:type="sf:sObject">{inner}</{name}>'


def _value(name: str, value: Any) -> str:
    if isinstance(value, dict) and "attributes" in value:
        return _sobject(name, value)
    if isinstance(value, dict) and "records" in value:
        return f'<{name} xsi:type="QueryResult">{_page(value)}</{name}>'
    return tag(name, value)


def _page(result: Record) -> str:
    locator = result["nextRecordsUrl"].rpartition("/")[2] if "nextRecordsUrl" in result else None
    records = "".join(_sobject("records", record) for record in result["records"])
    size = tag("size", result["totalSize"])
    return tag("done", result["done"]) + tag("queryLocator", locator) + records + size


def _results(outcomes: Any) -> str:
    """Save results, from those of Collections."""
    entries = outcomes.body if isinstance(outcomes, Answer) else outcomes
    found = []
    for entry in entries:
        created = {"created": entry["created"]} if "created" in entry else {}
        errors = [{key: error[key] for key in ("fields", "message", "statusCode")} for error in entry["errors"]]
        found.append({**created, "errors": errors, "id": entry.get("id"), "success": entry["success"]})
    return tag("result", found)


# -- calls


def _create(call: Call) -> str:
    return _results(collections.create(_envelope(call)))


def _update(call: Call) -> str:
    return _results(collections.update(_envelope(call)))


def _envelope(call: Call) -> Context:
    return call.with_body({"records": call.records(), "allOrNone": call.all_or_none()})


def _upsert(call: Call) -> str:
    """All records are of one object, that of the first."""
    records = call.records()
    kind = records[0]["attributes"]["type"] if records else ""
    return _results(collections.upsert(_envelope(call), kind, call.text("externalIDFieldName")))


def _ids(call: Call) -> list[str]:
    ids = call.texts("ids")
    if len(ids) > _MAX_RECORDS:
        raise ApiError(
            400, "EXCEEDED_ID_LIMIT", f"record limit reached. cannot submit more than {_MAX_RECORDS} records"
        )
    return ids


def _delete(call: Call) -> str:
    wanted = {"ids": ",".join(_ids(call)), "allOrNone": str(call.all_or_none())}
    return _results(collections.delete(replace(call.ctx, query=wanted)))


def _one_by_one(call: Call, work: Callable[[dml.Change, Any, str], None]) -> str:
    """Carry out one thing for each id, each with its own outcome."""
    outcomes = []
    with call.ctx.writing(assigns=False) as change:
        for given in _ids(call):
            id18 = to_18(given) or given
            item = call.ctx.catalogue.of_id(id18)
            try:
                if item is None:
                    raise ApiError(400, "MALFORMED_ID", f"malformed id {given}", [])
                with dml.savepoint(change):
                    work(change, item, id18)
                outcomes.append(collections.success(id18))
            except ApiError as error:
                outcomes.append(collections.failure(collections.as_row_error(error), id18))
    return _results(outcomes)


def _undelete(call: Call) -> str:
    return _one_by_one(call, deletion.undelete)


def _empty_bin(call: Call) -> str:
    def purge(change: dml.Change, item: Any, id18: str) -> None:
        row = dml.load(change.conn, dml.whole(change, item), id18)
        if row is None or not row.get("IsDeleted"):
            raise ApiError(400, "INVALID_CROSS_REFERENCE_KEY", "record is not in the recycle bin", [])
        deletion.purge(change, item, id18)

    return _one_by_one(call, purge)


def _merge(call: Call) -> str:
    """The WSDL says `request`; jsforce sends `mergeRequests`, and is answered."""
    requests = [child for child in call.element if local(child) in ("request", "mergeRequests")]
    return "".join(_merged(call.ctx, request) for request in requests)


def _merged(ctx: Context, request: Element) -> str:
    """One merge, with its own outcome; the winner takes the values that the request has for it."""
    master = next((_record(child) for child in request if local(child) == "masterRecord"), {"attributes": {"type": ""}})
    losers = [to_18((c.text or "").strip()) or "" for c in request if local(c) == "recordToMergeIds"]
    winner = to_18(str(master.get("Id", ""))) or ""
    values = {key: value for key, value in master.items() if key not in ("attributes", "Id")}
    outcome: Record = {"errors": [], "id": winner, "mergedRecordIds": losers, "success": True, "updatedRelatedIds": []}
    try:
        item = ctx.object(master["attributes"]["type"])
        with ctx.writing(assigns=False) as change:
            deletion.merge(change, item, winner, losers)
            if values:
                dml.update(change, item, winner, values)
    except ApiError as error:
        outcome |= {"errors": [collections.as_row_error(error).row_error()], "success": False, "mergedRecordIds": []}
    return tag("result", outcome)


def _retrieve(call: Call) -> str:
    names = [name.strip() for name in call.text("fieldList").split(",")]
    wanted = {"ids": call.texts("ids"), "fields": names}
    found = collections.retrieve_post(call.with_body(wanted), call.text("sObjectType"))
    return "".join(_sobject("result", record) for record in found.body)


def _query(call: Call, *, all_rows: bool = False) -> str:
    options = call.headers.get("QueryOptions")
    size = "" if options is None else "".join(options.itertext()).strip()
    result = query.query(call.ctx, call.text("queryString"), all_rows=all_rows, batch_size=whole_number(size))
    return f'<result xsi:type="QueryResult">{_page(result)}</result>'


def _query_more(call: Call) -> str:
    result = query.more(call.ctx, call.text("queryLocator"))
    return f'<result xsi:type="QueryResult">{_page(result)}</result>'


def _describe_global(call: Call) -> str:
    return tag("result", metadata.global_describe(call.ctx).body)


def _describe(call: Call) -> str:
    return "".join(_described(call.ctx, name) for name in call.texts("sObjectType"))


def _described(ctx: Context, name: str) -> str:
    if ctx.catalogue.object(name) is None:
        raise unknown_type(name)
    described = dict(metadata.object_describe(ctx, name).body)
    described["fields"] = [_without_nulls(field) for field in described["fields"]]
    return tag("result", _without_nulls(described))


def _without_nulls(values: Record) -> Record:
    return {key: value for key, value in values.items() if value is not None}


def _updated(call: Call) -> str:
    found = replication.updated(_window(call), call.text("sObjectType"))
    return tag("result", {"ids": found["ids"], "latestDateCovered": found["latestDateCovered"]})


def _deleted(call: Call) -> str:
    return tag("result", replication.deleted(_window(call), call.text("sObjectType")))


def _window(call: Call) -> Context:
    return replace(call.ctx, query={"start": call.text("startDate"), "end": call.text("endDate")})


def _timestamp(call: Call) -> str:
    return tag("result", {"timestamp": datetime_text(call.ctx.store.clock.exact_ms())})


def _user_info(call: Call) -> str:
    user = users.by_id(call.ctx.org, call.ctx.user)
    return tag("result", user_info(call.ctx.org, user)) if user else tag("result", None)


def _logout(call: Call) -> str:
    if call.ctx.session is not None:
        call.ctx.org.tokens.end_session(call.ctx.session.token)
    return ""


def user_info(org: Any, user: users.User) -> Record:
    """userInfo, of log-in and of getUserInfo."""
    return {
        "organizationId": org.organization_id,
        "organizationName": "Local Org",
        "sessionSecondsValid": int(org.settings.session_minutes * 60),
        "userEmail": user.email or "",
        "userFullName": user.name or "",
        "userId": user.id,
        "userLanguage": user.language or "en_US",
        "userLocale": user.locale or "en_US",
        "userName": user.username,
        "userTimeZone": user.zone or "GMT",
        "userType": user.type or "Standard",
    }


CALLS: dict[str, Callable[[Call], str]] = {
    "create": _create,
    "update": _update,
    "upsert": _upsert,
    "delete": _delete,
    "undelete": _undelete,
    "emptyRecycleBin": _empty_bin,
    "merge": _merge,
    "retrieve": _retrieve,
    "query": _query,
    "queryAll": lambda call: _query(call, all_rows=True),
    "queryMore": _query_more,
    "describeGlobal": _describe_global,
    "describeSObject": _describe,
    "describeSObjects": _describe,
    "getUpdated": _updated,
    "getDeleted": _deleted,
    "getServerTimestamp": _timestamp,
    "getUserInfo": _user_info,
    "logout": _logout,
}


def elements(root: Element, name: str) -> Iterator[Element]:
    """The children of the envelope's part of this name."""
    for part in root:
        if local(part) == name:
            yield from part


def parse(body: bytes) -> tuple[Element | None, dict[str, Element]]:
    """The call's element and the headers by name; no call if the body is no envelope."""
    if b"<!DOCTYPE" in body:
        return None, {}  # the vendor takes none, and entities could be made to explode
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - without DOCTYPE there are no entities
    except ElementTree.ParseError:
        return None, {}
    headers = {local(header): header for header in elements(root, "Header")}
    return next(elements(root, "Body"), None), headers
