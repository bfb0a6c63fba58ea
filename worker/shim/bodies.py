"""Request bodies: JSON with exact numbers, checked against a model, described in the OpenAPI document."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.concurrency import run_in_threadpool

from worker import exact
from worker.shim.envelope import Refusal, faults_of

M = TypeVar("M", bound=BaseModel)

LARGE_BYTES = 65_536  # a larger body is parsed beside the event loop
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")


class Body(BaseModel):
    """A body whose every name is known: a misspelt one is refused rather than ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def media_type(request: Request) -> str:
    """The body's type, without its parameters; empty when the caller does not say."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request) -> dict[str, Any]:
    """The body, a JSON object with exact numbers."""
    kind = media_type(request)
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise Refusal.of("UNSUPPORTED_MEDIA_TYPE", f"The body is {kind[:80]}; this path reads application/json.")
    body = await parse(await request.body())
    if not isinstance(body, dict):
        raise Refusal.of("VALIDATION_ERROR", "The body must be a JSON object.")
    return body


async def parse(raw: bytes) -> Any:
    """JSON → values; a refusal for anything else."""
    try:
        return await run_in_threadpool(exact.loads, raw) if len(raw) > LARGE_BYTES else exact.loads(raw)
    except (ValueError, RecursionError):
        raise Refusal.of("VALIDATION_ERROR", "The body is not valid JSON.") from None


def check(model: type[M], body: Any) -> M:
    """The body as the model; a refusal with every fault."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        faults = faults_of(error.errors())
        first = faults[0]
        message = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
        if first["field"] == "user_id":
            message = "user_id is required."
        raise Refusal.of("VALIDATION_ERROR", message, faults) from None


def body_of(model: type[M]) -> Any:
    """A dependency that reads the body as `model`."""

    async def read(request: Request) -> M:
        return check(model, await json_body(request))

    dependency: Callable[[Request], Coroutine[Any, Any, M]] = read
    return Depends(dependency)


def described(schema: type[BaseModel] | dict[str, Any], example: Any, *types: str) -> dict[str, Any]:
    """`openapi_extra` of a route that reads such a body."""
    plain = schema if isinstance(schema, dict) else inlined(schema.model_json_schema())
    kinds = types or ("application/json",)
    return {
        "requestBody": {"required": True, "content": {kind: {"schema": plain, "example": example} for kind in kinds}}
    }


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema whose references into its own `$defs` are written out."""
    known = schema.get("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return resolve(known[part["$ref"].rpartition("/")[2]])
            return {name: resolve(value) for name, value in part.items() if name != "$defs"}
        return [resolve(one) for one in part] if isinstance(part, list) else part

    found: dict[str, Any] = resolve(schema)
    return found
