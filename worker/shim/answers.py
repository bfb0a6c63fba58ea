"""The shapes of answers, for the OpenAPI document. Answers themselves are written as they are, with exact numbers."""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from worker.shim.codes import CODES

T = TypeVar("T")


class Shape(BaseModel):
    """Part of an answer; more names may come, none go."""

    model_config = ConfigDict(extra="allow")


class Answer(BaseModel, Generic[T]):
    """A good answer."""

    ok: Literal[True]
    data: T


class Error(BaseModel):
    """What went wrong. `code` is stable: one of ours, or the org's own with status 422."""

    code: str
    message: str
    details: Any = Field(default=None, description="Every fault, or what else is known; not always there.")


class Refused(BaseModel):
    """A bad answer."""

    ok: Literal[False]
    error: Error


class Written(Shape):
    """What became of a write. `success` null: nothing is decided yet; false: it is held, a person must decide."""

    id: str | None = Field(description="The record's id; null while it is not known.")
    success: bool | None
    errors: list[Any]
    action_id: str
    state: str | None = Field(default=None, description="The action's state, while nothing is decided.")


class Attributes(Shape):
    """Which object a record is of, and its address in the org."""

    type: str
    url: str


class Record(Shape):
    """One record with Salesforce's field names, from the mirror."""

    attributes: Attributes
    Id: str


class Listed(Shape):
    """One page of a list. The records are under the collection's name."""

    next_cursor: str | None = Field(description="Send it as `cursor` for the next page; null after the last.")
    lag_seconds: float | None = Field(description="Seconds since the org's time up to which changes were read.")
    settled_lag_seconds: float | None = Field(
        description="Seconds since the time up to which the mirror is known complete."
    )


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: these refusals, and those that every route may give."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 502, 503, *statuses}):
        codes = [name for name, code in CODES.items() if code.status == status]
        found[status] = {"model": Refused, "description": ", ".join(codes) or "The org's own code"}
    return found


def answers(
    model: Any, example: Any = None, *, status: int = 200, description: str = ""
) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: this good answer."""
    found: dict[str, Any] = {"model": Answer[model], "description": description or "Done"}
    if example is not None:
        found["content"] = {"application/json": {"example": {"ok": True, "data": example}}}
    return {status: found}
