"""Errors in the vendor's shapes. Source: REST API Developer Guide, "Status Codes and Error Responses"."""

import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class ApiError(Exception):
    """One REST error: rendered as an array with one entry, or inside a collection's result."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        fields: Sequence[str] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.fields = None if fields is None else list(fields)
        self.extra = extra or {}
        self.headers = headers or {}

    def body(self) -> list[dict[str, Any]]:
        """The JSON array of a plain REST answer; `fields` only where the error has them."""
        entry: dict[str, Any] = {**self.extra, "message": self.message, "errorCode": self.code}
        if self.fields is not None:
            entry["fields"] = self.fields
        return [entry]

    def row_error(self) -> dict[str, Any]:
        """The entry of a collection's `errors`: here the key is `statusCode`."""
        return {
            **self.extra,
            "statusCode": self.code,
            "message": self.message,
            "fields": self.fields or [],
        }


class WrongKindError(ApiError):
    """A value of the wrong kind for its field: REST says what it could not read, Bulk what the field wants."""

    def __init__(self, kind: str, token: str, value: Any, label: str, field: str) -> None:
        shown = str(value).lower() if isinstance(value, bool) else value
        text = f"Cannot deserialize instance of {kind} from {token} value {shown} or request may be missing a "
        super().__init__(400, "JSON_PARSER_ERROR", text + "required field at [line:1, column:1]")
        self.value = value
        self.label = label
        self.field = field

    def placed(self, text: str) -> "WrongKindError":
        """The same error with the place of the field in the JSON that was sent."""
        found = re.search(rf'"{re.escape(self.field)}"\s*:', text, re.IGNORECASE)
        if found is not None:
            at = found.start()
            line, column = text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1)
            self.message = self.message.replace("[line:1, column:1]", f"[line:{line}, column:{column}]")
        return self

    def in_row(self) -> ApiError:
        """The error of a row of a Bulk job."""
        text = f"{self.label}: value not of required type: {self.value}"
        return ApiError(400, "INVALID_TYPE_ON_FIELD_IN_RECORD", text, [self.field])


class OAuthError(Exception):
    """An error of the OAuth endpoints: a JSON object with `error` and `error_description`."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.status = status

    def body(self) -> dict[str, str]:
        return {"error": self.error, "error_description": self.description}


def where(error: BaseException) -> str:
    """An exception that nobody expected, in one line: what it is, and the last place of ours that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = next((frame for frame in reversed(frames) if "local_org" in frame.filename), None)
    place = f" ({Path(ours.filename).name}, line {ours.lineno})" if ours else ""
    return f"{type(error).__name__}: {str(error)[:200]}{place}"


def not_found(message: str = "The requested resource does not exist") -> ApiError:
    return ApiError(404, "NOT_FOUND", message)


def deleted() -> ApiError:
    return ApiError(404, "ENTITY_IS_DELETED", "entity is deleted", [])


def session_expired() -> ApiError:
    return ApiError(401, "INVALID_SESSION_ID", "Session expired or invalid")


def wrong_method(method: str, allowed: Sequence[str]) -> ApiError:
    named = ",".join(sorted(allowed, key="HEAD GET POST PUT PATCH DELETE".index))
    text = f"HTTP Method '{method}' not allowed. Allowed are {named}"
    return ApiError(405, "METHOD_NOT_ALLOWED", text, headers={"Allow": named})


def unknown_type(name: str) -> ApiError:
    """For bodies that name an object; a path that names an unknown object answers `not_found`."""
    text = (
        f"sObject type '{name}' is not supported. If you are attempting to use a custom object, be sure to "
        "append the '__c' after the entity name. Please reference your WSDL or the describe call for the "
        "appropriate names."
    )
    return ApiError(400, "INVALID_TYPE", text)


def unknown_field(field: str, object_name: str) -> ApiError:
    return ApiError(400, "INVALID_FIELD", f"No such column '{field}' on sobject of type {object_name}")


def unreadable_json(detail: str) -> ApiError:
    return ApiError(400, "JSON_PARSER_ERROR", detail)
