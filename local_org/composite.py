"""Composite, Composite Graph, Batch and Tree: several calls in one.

Source: REST API Developer Guide, "Composite", "Composite Graph", "Composite Batch", "sObject Tree".
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any, TypeGuard, cast
from urllib.parse import parse_qsl

from local_org.bulk_results import FileSlices
from local_org.context import Answer, Context
from local_org.dml import Change
from local_org.errors import ApiError
from local_org.metadata import check_version
from local_org.store import Store
from local_org.values import dumps

MAX_SUBREQUESTS = 25
MAX_QUERIES = 5
MAX_GRAPHS, MAX_NODES, MAX_FAILED_GRAPHS = 75, 500, 14

Record = dict[str, Any]
_REFERENCE = re.compile(r"@\{([A-Za-z0-9_]+)((?:\.[A-Za-z0-9_]+|\[\d+\])+)\}")
_REFERENCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
_VERSIONED = re.compile(r"/?(?:services/data/)?v(\d+\.\d)/(.*)", re.DOTALL)
_NODE = re.compile(r"/services/data/v\d+\.\d/sobjects/[^/]+(?:/[^/]+){0,2}/?")  # what a graph may hold
_FORBIDDEN_HEADERS = frozenset({"accept", "authorization", "content-type"})
_HALTED = ApiError(
    400,
    "PROCESSING_HALTED",
    "The transaction was rolled back since another operation in the same transaction failed.",
)


class _RollbackError(Exception):
    def __init__(self, responses: list[Record]) -> None:
        super().__init__()
        self.responses = responses


class _InTransaction:
    """A store whose reads see what the open transaction has written."""

    def __init__(self, store: Store, change: Change) -> None:
        self._store = store
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextmanager
    def read(self) -> Iterator[Any]:
        yield self._change.conn

    write = read


def _within(ctx: Context, change: Change) -> Context:
    store = cast("Store", _InTransaction(ctx.store, change))
    return replace(ctx, store=store, change=change, all_or_none=True)


# -- one call inside another


def subrequest(ctx: Context, method: str, url: str, headers: Mapping[str, str], body: Any, outcome: str) -> Answer:
    """Carry out one call; `outcome` names the envelope for error texts. Its errors become answers."""
    match = _VERSIONED.fullmatch(url)
    if match is None or (outcome != "batch" and not url.startswith("/services/")):
        form = "vXX.X/" if outcome == "batch" else "/services/data/vXX.X/"
        text = f"The url '{url}' of this {outcome} must start with {form}"
        return Answer(400, ApiError(400, "INVALID_INPUT", text).body())
    path, _, query_string = match[2].partition("?")
    inner = replace(
        ctx,
        version=match[1],
        method=method.upper(),
        path=url,
        query=dict(parse_qsl(query_string, keep_blank_values=True)),
        headers={name.lower(): value for name, value in headers.items()},
        body=b"" if body is None else dumps(body),
        request=None,
        upload=None,
        inner=True,
    )
    try:
        check_version(inner.version)
        answer = ctx.dispatch(inner, path)
    except ApiError as error:
        return Answer(error.status, error.body())
    return _as_answer(answer)


def _as_answer(answer: Any) -> Answer:
    if isinstance(answer, Answer):
        return answer
    if isinstance(answer, FileSlices):
        return Answer(400, ApiError(400, "INVALID_INPUT", "This resource cannot be a subrequest").body())
    return Answer(answer.status_code, json.loads(answer.body) if answer.body else None)


# -- composite


def composite(ctx: Context) -> Record:
    """POST composite."""
    body = ctx.json_object()
    requests = _requests(body.get("compositeRequest"))
    all_or_none = bool(body.get("allOrNone", False))
    return {"compositeResponse": _carry_out(ctx, requests, all_or_none=all_or_none)}


def _objects(value: Any) -> TypeGuard[list[Record]]:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _requests(requests: Any, most: int = MAX_SUBREQUESTS) -> list[Record]:
    """The subrequests of an envelope. Raises ApiError for one that is malformed."""
    if not _objects(requests):
        raise ApiError(400, "JSON_PARSER_ERROR", "The compositeRequest list is missing")
    if len(requests) > most:
        text = f"The number of subrequests, {len(requests)}, is over the limit of {most}"
        raise ApiError(400, "LIMIT_EXCEEDED", text)
    ids = [str(item.get("referenceId", "")) for item in requests]
    if len(set(ids)) < len(ids) or not all(_REFERENCE_ID.fullmatch(name) for name in ids):
        text = "Each referenceId must be unique and match [A-Za-z0-9][A-Za-z0-9_]*"
        raise ApiError(400, "INVALID_INPUT", text)
    for item in requests:
        if _FORBIDDEN_HEADERS & {name.lower() for name in item.get("httpHeaders") or {}}:
            raise ApiError(400, "INVALID_INPUT", "httpHeaders may not name Accept, Authorization, Content-Type")
    heavy = sum("/query" in str(item.get("url")) or "/composite/sobjects" in str(item.get("url")) for item in requests)
    if most == MAX_SUBREQUESTS and heavy > MAX_QUERIES:
        text = f"At most {MAX_QUERIES} subrequests may be queries or sObject Collections calls"
        raise ApiError(400, "LIMIT_EXCEEDED", text)
    return requests


def _carry_out(ctx: Context, requests: list[Record], *, all_or_none: bool) -> list[Record]:
    if not all_or_none:
        return _run(ctx, requests)
    try:
        with ctx.writing() as change:
            responses = _run(_within(ctx, change), requests, stop=True)
            if any(response["httpStatusCode"] >= 400 for response in responses):
                raise _RollbackError(responses)
            return responses
    except _RollbackError as rollback:
        return _halted(requests, rollback.responses)


def _halted(requests: list[Record], responses: list[Record]) -> list[Record]:
    """All but the culprit say that they were rolled back."""
    culprit = responses[-1]
    return [
        culprit
        if item["referenceId"] == culprit["referenceId"]
        else _response(item["referenceId"], Answer(400, _HALTED.body()))
        for item in requests
    ]


def _run(ctx: Context, requests: list[Record], *, stop: bool = False) -> list[Record]:
    results: dict[str, Any] = {}
    responses: list[Record] = []
    for item in requests:
        answer = _one(ctx, item, results)
        results[item["referenceId"]] = answer.body if answer.status < 300 else None
        responses.append(_response(item["referenceId"], answer))
        if stop and answer.status >= 400:
            break
    return responses


def _one(ctx: Context, item: Record, results: Mapping[str, Any]) -> Answer:
    try:
        url, body = _filled(str(item.get("url", "")), results), _filled(item.get("body"), results)
    except ApiError as error:
        return Answer(error.status, error.body())
    return subrequest(ctx, str(item.get("method", "GET")), url, item.get("httpHeaders") or {}, body, "subrequest")


def _response(reference_id: str, answer: Answer) -> Record:
    return {
        "body": answer.body,
        "httpHeaders": dict(answer.headers),
        "httpStatusCode": answer.status,
        "referenceId": reference_id,
    }


def _filled(value: Any, results: Mapping[str, Any]) -> Any:
    """A url or body with each @{reference.path} replaced. Raises ApiError for one that leads nowhere."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: str(_referenced(match, results)), value)
    if isinstance(value, dict):
        return {key: _filled(item, results) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, results) for item in value]
    return value


def _referenced(match: re.Match[str], results: Mapping[str, Any]) -> Any:
    found = results.get(match[1])
    try:
        for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", match[2]):
            found = found[name] if name else found[int(index)]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        text = f"Invalid reference specified. No value for {match[0][2:-1]} found in {match[1]}"
        raise ApiError(400, "PROCESSING_HALTED", text) from None
    return found


def graph(ctx: Context) -> Record:
    """POST composite/graph: each graph is all or none."""
    graphs = ctx.json_object().get("graphs")
    if not _objects(graphs) or len(graphs) > MAX_GRAPHS:
        raise ApiError(400, "INVALID_INPUT", f"graphs must be a list of at most {MAX_GRAPHS}")
    names = [item.get("graphId") for item in graphs]
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ApiError(400, "INVALID_INPUT", "Each graph needs a graphId of its own")
    nodes = [_requests(item.get("compositeRequest"), MAX_NODES) for item in graphs]
    for request in chain.from_iterable(nodes):
        if not _NODE.fullmatch(str(request.get("url", "")).partition("?")[0]):
            raise ApiError(400, "INVALID_INPUT", f"A graph takes calls of sObject rows only: {request.get('url')}")
    if sum(map(len, nodes)) > MAX_NODES:
        raise ApiError(400, "LIMIT_EXCEEDED", f"The graphs have more than {MAX_NODES} nodes together")
    answers: list[Record] = []
    failed = 0
    for item, requests in zip(graphs, nodes, strict=True):
        halt = failed >= MAX_FAILED_GRAPHS
        responses = _halt_all(requests) if halt else _carry_out(ctx, requests, all_or_none=True)
        good = all(response["httpStatusCode"] < 400 for response in responses)
        failed += not good
        answers.append(
            {
                "graphId": item.get("graphId"),
                "graphResponse": {"compositeResponse": responses},
                "isSuccessful": good,
            }
        )
    return {"graphs": answers}


def _halt_all(requests: list[Record]) -> list[Record]:
    return [_response(item["referenceId"], Answer(400, _HALTED.body())) for item in requests]


# -- batch


def batch(ctx: Context) -> Record:
    """POST composite/batch: calls in order, each on its own, each counted."""
    body = ctx.json_object()
    requests = body.get("batchRequests")
    if not _objects(requests) or len(requests) > MAX_SUBREQUESTS:
        raise ApiError(400, "INVALID_INPUT", f"batchRequests must be a list of at most {MAX_SUBREQUESTS}")
    results: list[Record] = []
    for item in requests:
        failed = any(result["statusCode"] >= 400 for result in results)
        results.append(_skipped() if failed and body.get("haltOnError") else _batched(ctx, item))
    return {"hasErrors": any(result["statusCode"] >= 400 for result in results), "results": results}


def _batched(ctx: Context, item: Record) -> Record:
    ctx.org.usage.count()
    answer = subrequest(
        ctx, str(item.get("method", "GET")), str(item.get("url", "")), {}, item.get("richInput"), "batch"
    )
    return {"statusCode": answer.status, "result": answer.body}


def _skipped() -> Record:
    error = ApiError(412, "BATCH_PROCESSING_HALTED", "Batch processing halted per request")
    return {"statusCode": 412, "result": error.body()}
