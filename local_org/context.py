"""What a handler of the data API gets and gives: one call, and one answer."""

import base64
import email.parser
import email.policy
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from local_org.bulk_results import FileSlices
from local_org.catalogue import Catalogue, ObjectType
from local_org.dml import Change, savepoint
from local_org.errors import ApiError, not_found, unreadable_json
from local_org.store import Store

if TYPE_CHECKING:
    from local_org.org import Org
    from local_org.tokens import Session


@dataclass(slots=True)
class Answer:
    """A status, a JSON-able body (None: empty) and headers."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


Reply = Answer | Response | FileSlices
Result = dict[str, Any] | list[Any] | Answer | Response | FileSlices | None


def _nowhere(_ctx: "Context", _path: str) -> Reply:
    raise not_found()


def an_object(value: Any, name: str) -> dict[str, Any]:
    """A part of a body that is an object, empty if it is not there. Raises ApiError JSON_PARSER_ERROR."""
    if value is not None and not isinstance(value, dict):
        raise unreadable_json(f"{name} must be an object at [line:1, column:1]")
    return value or {}


def texts(value: Any, name: str) -> list[str]:
    """A part of a body that is a list of texts, empty if it is not there. Raises ApiError JSON_PARSER_ERROR."""
    if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise unreadable_json(f"{name} must be a list of texts at [line:1, column:1]")
    return value or []


def _number(text: str) -> int:
    """A JSON number without a fraction; no field takes one as long as this."""
    return int(text[:400])


def _no_number(text: str) -> None:
    raise unreadable_json(f"Non-standard token '{text}': it is no number in JSON at [line:1, column:1]")


def _json_fault(error: json.JSONDecodeError) -> str:
    """What the platform's parser says where ours stopped."""
    char = error.doc[error.pos : error.pos + 1]
    what = f"Unexpected character ('{char}' (code {ord(char)}))" if char else "Unexpected end-of-input"
    return f"{what} at [line:{error.lineno}, column:{error.colno}]"


@dataclass(slots=True)
class Context:
    """One authenticated call, from the wire or from inside a Composite request (then without `request`).

    `version` is the path's, such as "68.0"; `headers` have lower-case names; `query` has the last value of
    each parameter; `host_url` is the org's address as the caller reached it; `upload` is the file that holds
    the body of calls that send data; `change` is set inside a transaction of several calls; `dispatch` answers a call
    that this one contains; `lock_deadline` (monotonic seconds) ends the waiting for locked rows; `all_or_none`: it is part
    of a Composite request that fails as a whole; `inner`: another call contains it, whose answer takes its own apart.
    """

    org: "Org"
    store: Store
    catalogue: Catalogue
    version: str
    user: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    host_url: str = ""
    session: "Session | None" = None
    request: Request | None = None
    upload: Path | None = None
    change: Change | None = None
    lock_deadline: float = 0.0
    all_or_none: bool = False
    inner: bool = False
    dispatch: "Callable[[Context, str], Reply]" = field(default=_nowhere)

    @contextmanager
    def writing(self, *, assigns: bool = True) -> Iterator[Change]:
        """The frame of a write: a transaction of its own, or a part of the one that this call belongs to.

        `assigns`: assignment rules apply, unless the caller's header says no. Source: REST API Developer Guide,
        "Assignment Rule Header".
        """
        if self.change is not None:
            with savepoint(self.change):
                yield self.change
            return
        allow = "allowsave=true" in self.header("sforce-duplicate-rule-header")
        assigns = assigns and self.header("sforce-auto-assign") != "false"
        patient = time.monotonic() < self.lock_deadline
        with self.org.writing(self.user, allow_duplicates=allow, assigns=assigns, patient=patient) as change:
            yield change

    def header(self, name: str) -> str:
        """A header's value in lower case without blanks, "" if it is absent."""
        return self.headers.get(name, "").lower().replace(" ", "")

    def json(self) -> Any:
        """The body. Raises ApiError JSON_PARSER_ERROR."""
        try:
            return json.loads(self.body, parse_int=_number, parse_constant=_no_number)
        except json.JSONDecodeError as error:
            raise unreadable_json(_json_fault(error)) from None
        except RecursionError:
            raise unreadable_json("The JSON is nested too deeply at [line:1, column:1]") from None
        except ValueError:
            raise unreadable_json("Invalid UTF-8 at [line:1, column:1]") from None

    def json_object(self) -> dict[str, Any]:
        value = self.json()
        if not isinstance(value, dict):
            raise unreadable_json("The HTTP entity body is required, but this request has no entity body.")
        return value

    def is_multipart(self) -> bool:
        return self.headers.get("content-type", "").startswith("multipart/form-data")

    def parts(self) -> dict[str, bytes]:
        """The parts of a multipart body by name."""
        raw = self.upload.read_bytes() if self.upload else self.body
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + raw)
        found: dict[str, bytes] = {}
        for part in message.iter_parts():
            payload = part.get_payload(decode=True)
            name = part.get_param("name", header="content-disposition")
            found[str(name)] = payload if isinstance(payload, bytes) else b""
        return found

    def multipart_object(self, item: ObjectType) -> dict[str, Any]:
        """A record whose blobs come as parts of their own, beside one part of JSON. Raises ApiError."""
        blobs = {field.name: "" for field in item.fields.values() if field.type == "base64"}
        parts = self.parts()
        texts = [body for name, body in parts.items() if name not in blobs]
        if len(texts) != 1:
            text = "Multipart requests need one part of JSON and a part for each blob field"
            raise ApiError(400, "INVALID_MULTIPART_REQUEST", text)
        given = {name: base64.b64encode(parts[name]).decode() for name in blobs if name in parts}
        return {**replace(self, body=texts[0]).json_object(), **given}

    def object(self, name: str) -> ObjectType:
        """An object that the path names. Raises ApiError NOT_FOUND."""
        item = self.catalogue.object(name)
        if item is None:
            raise not_found()
        return item

    def url(self, path: str) -> str:
        """A path of this version: url("sobjects/Account") is /services/data/v68.0/sobjects/Account."""
        return f"/services/data/v{self.version}/{path}"

    def narrowed(self, object_names: Iterable[str]) -> "Context":
        """The same call, for which these objects do not exist."""
        return replace(self, catalogue=self.catalogue.hidden(object_names, {}))

    def row_filter(self, object_name: str, alias: str) -> str:
        """An SQL condition that hides the rows which the user may not see, or "" if there are none."""
        return self.org.access.row_filter(self.user, object_name, alias)
