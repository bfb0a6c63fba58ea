"""Every error code that answers can carry, each brought about for real: one case per code of `worker/shim/codes.py`."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from pydantic import SecretStr
from starlette.types import Message

from tests.conftest import new_database
from tests.integration.shim.conftest import USER, Shim, body_of, connect, start_shim
from tests.org import Org, SharedOrgs
from worker.local_servers import EmbeddedPostgres
from worker.mirror import read
from worker.poller import Poller
from worker.runtime import Runtime
from worker.shim.codes import CODES
from worker.shim.rate import Rates
from worker.shim.surround import Surround
from worker.tokens.connect import Target, connect_with_client_credentials

API = "/api/salesforce"
AUTH = "/api/auth/salesforce"
SERVICE = "/api/services/salesforce_service"
CONTACT = {"user_id": USER, "LastName": "Ito"}
TRIGGER = {"user_id": USER, "name": "x", "type": "manual_trigger", "workflow_action": "process_data"}
NOW = {"Prefer": "wait=0"}
RECORD = "003000000000001AAA"
INTERNAL = "psycopg", "sfsync.", "Traceback", "SELECT"  # what nobody outside is to read
HANDLERS = {
    f"{name}_HANDLING_FAILED": path
    for singular, plural in (
        ("CONTACT", "CONTACTS"),
        ("ACCOUNT", "ACCOUNTS"),
        ("OPPORTUNITY", "OPPORTUNITIES"),
        ("LEAD", "LEADS"),
    )
    for name, path in ((plural, f"/{plural.lower()}"), (singular, f"/{plural.lower()}/{RECORD}"))
}


@pytest.fixture
def database_url_of_org(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database for a shim that knows an org."""
    with new_database(postgres) as url:
        yield url


def sql(shim: Shim, statement: str) -> None:
    with psycopg.connect(shim.url, autocommit=True) as connection:
        connection.execute(statement.encode())


@contextmanager
def broken(shim: Shim) -> Iterator[None]:
    """Nothing of ours is where our statements look for it, but the keys: what follows is a fault of ours."""
    sql(shim, "ALTER SCHEMA sfsync RENAME TO away")
    sql(shim, "CREATE SCHEMA sfsync; CREATE VIEW sfsync.api_keys AS TABLE away.api_keys")
    try:
        yield
    finally:
        sql(shim, "DROP SCHEMA sfsync CASCADE; ALTER SCHEMA away RENAME TO sfsync")


def listed(shim: Shim, collection: str = "contacts", **query: Any) -> Any:
    return shim.client.get(f"{API}/{collection}", params={"user_id": USER, **query})


def create(shim: Shim, **headers: str) -> Any:
    return shim.client.post(f"{API}/contacts", json=CONTACT, headers=NOW | headers)


def signed_in(shim: Shim, **answer: str) -> Any:
    """What the org sends the browser back with."""
    begun = shim.client.get(f"{AUTH}/authorize", params={"user_id": USER}).json()["data"]
    query = {"state": begun["state"], **answer}
    return shim.client.get(f"{AUTH}/callback", params=query, headers={"Accept": "application/json"})


def too_slow(shim: Shim) -> Any:
    """A caller whose body does not come."""

    async def ask() -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            await asyncio.sleep(60)
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"authorization", shim.as_key("write")["Authorization"].encode()), (b"content-length", b"9")]
        scope = {"type": "http", "method": "POST", "path": f"{API}/contacts", "query_string": b"", "headers": headers}
        await Surround(shim.app, most_bytes=lambda _: 10, body_seconds=0.05)(scope, receive, send)
        return sent

    head, body = asyncio.run(ask())

    return httpx.Response(head["status"], headers=head["headers"], content=body["body"])


def named_twice(shim: Shim) -> Any:
    shim.client.post("/api/salesforce/triggers", json=TRIGGER)
    return shim.client.post("/api/salesforce/triggers", json=TRIGGER)


def cancelled(shim: Shim) -> Any:
    shim.client.post(create(shim, **{"Idempotency-Key": "k"}).headers["Location"] + "/cancel")
    return create(shim, **{"Idempotency-Key": "k"})


def cancelled_twice(shim: Shim) -> Any:
    path = create(shim).headers["Location"] + "/cancel"
    shim.client.post(path)
    return shim.client.post(path)


def other_content(shim: Shim) -> Any:
    create(shim, **{"Idempotency-Key": "k"})
    body = CONTACT | {"LastName": "Abe"}
    return shim.client.post(f"{API}/contacts", json=body, headers=NOW | {"Idempotency-Key": "k"})


def too_often(shim: Shim) -> Any:
    usual, shim.app.state.rates = shim.app.state.rates, Rates(10)
    try:
        assert listed(shim).status_code == 200
        refused = listed(shim)
        assert int(refused.headers["Retry-After"]) in range(1, 7)  # one in six seconds
        assert shim.client.get(f"{API}/actions", headers=shim.as_key("all")).status_code == 200  # nobody else is
        return refused
    finally:
        shim.app.state.rates = usual


def failed_load(shim: Shim) -> Any:
    listed(shim, "accounts")
    sql(shim, "UPDATE sfsync.runs SET state = 'parked', error = 'no permission'")
    return listed(shim, "accounts")


def over_budget(shim: Shim) -> Any:
    org = "00D000000000001EAA"
    sql(shim, f"UPDATE salesforce_oauth_tokens SET organization_id = '{org}'")
    sql(
        shim,
        "INSERT INTO sfsync.orgs (organization_id, api_used, api_max, blocked_until)"
        f" VALUES ('{org}', 1000, 1000, clock_timestamp() + interval '1 hour')",
    )
    return shim.client.post(f"{API}/objects/Case", json={"user_id": USER, "Subject": "x"}, headers=NOW)


def away(shim: Shim) -> Any:
    """An object that was never described: the org must be asked, and nobody is at its address."""
    return shim.client.post(f"{API}/objects/Case", json={"user_id": USER, "Subject": "x"}, headers=NOW)


def too_long(shim: Shim) -> Any:
    """A list that Postgres cannot answer, here because somebody holds the table."""
    with psycopg.connect(shim.url) as other, pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "READ_SECONDS", 0.2)
        other.execute("LOCK TABLE salesforce.contact")
        return listed(shim)


def all_at_work(shim: Shim) -> Any:
    engine = shim.runtime.database.engine
    pool: Any = engine.pool
    usual, pool._timeout = pool._timeout, 0.1
    with ExitStack() as held:
        for _ in range(pool.size() + pool._max_overflow):
            held.enter_context(engine.connect())
        refused = listed(shim)
    pool._timeout = usual
    return refused


def ask(shim: Shim, path: str, body: Any, **options: Any) -> Any:
    return shim.client.post(path, json=body, **options)


def app_refused(shim: Shim, org: Org) -> Any:
    """An org that does not know the connected app."""
    connect(shim.url)
    sql(shim, f"UPDATE salesforce_oauth_tokens SET login_url = '{org.url}'")
    return ask(shim, f"{AUTH}/refresh", {"user_id": USER})


def conflict(shim: Shim, org: Org) -> Any:
    """A record that was changed later than the caller thinks; a worker finds out."""
    record_id = org.control.create_rows("Account", count=1)[0]
    settings = shim.runtime.settings.model_copy(
        update={
            "salesforce_client_id": org.client_id,
            "salesforce_client_secret": SecretStr(org.client_secret),
            "poll_seconds": 0.05,
        }
    )
    worker = Runtime(settings)
    connect_with_client_credentials(worker.database, worker.vault, settings, Target(USER))
    poller = Poller(worker, "test", ("actions",), threads=2)
    poller.start()
    try:
        return shim.client.patch(
            f"{API}/accounts/{record_id}",
            json={"user_id": USER, "Name": "late"},
            headers={"If-Unmodified-Since": "Sat, 01 Jan 2000 00:00:00 GMT", "Prefer": "wait=20"},
        )
    finally:
        poller.join()
        worker.close()


Case = Callable[[Shim], Any]
CASES: dict[str, Case] = {
    "VALIDATION_ERROR": lambda shim: shim.client.get(f"{API}/contacts"),
    "INVALID_FIELD": lambda shim: listed(shim, fields="Nope"),
    "INVALID_CURSOR": lambda shim: listed(shim, cursor="x"),
    "INVALID_STATE": lambda shim: ask(shim, f"{AUTH}/callback", {"code": "x", "state": "guessed"}),
    "AUTH_DENIED": lambda shim: signed_in(shim, error="access_denied"),
    "UNKNOWN_CAPABILITY": lambda shim: ask(shim, f"{SERVICE}/execute", {"capability": "fly", "user_id": USER}),
    "UNKNOWN_COMMAND": lambda shim: ask(shim, f"{SERVICE}/chat", {"command": "sing", "user_id": USER}),
    "UNAUTHORIZED": lambda shim: shim.client.get(f"{API}/contacts", headers={"Authorization": "Bearer sfsk_x_y"}),
    "AUTH_ERROR": lambda shim: shim.client.get(f"{API}/contacts?user_id=u-2", headers=shim.as_key("other")),
    "FORBIDDEN": lambda shim: shim.client.get(f"{API}/contacts?user_id=u-2"),
    "NOT_FOUND": lambda shim: shim.client.get(f"{API}/nothing"),
    "METHOD_NOT_ALLOWED": lambda shim: shim.client.delete(f"{API}/contacts"),
    "REQUEST_TIMEOUT": too_slow,
    "WRONG_STATE": cancelled_twice,
    "NAME_TAKEN": named_twice,
    "CANCELLED": cancelled,
    "IDEMPOTENCY_KEY_REUSED": other_content,
    "PAYLOAD_TOO_LARGE": lambda shim: ask(shim, f"{API}/contacts", CONTACT | {"Email": "x" * 3000}),
    "UNSUPPORTED_MEDIA_TYPE": lambda shim: shim.client.post(
        f"{API}/contacts", content=b"<a/>", headers={"Content-Type": "text/xml"}
    ),
    "RATE_LIMITED": too_often,
    "MIRROR_NOT_READY": lambda shim: listed(shim, "accounts"),
    "MIRROR_FAILED": failed_load,
    "ALLOWANCE_SPENT": over_budget,
    "UNAVAILABLE": away,
    "TIMEOUT": too_long,
    "BUSY": all_at_work,
}
BY_AN_ORG: dict[str, Callable[[Shim, Org], Any]] = {"APP_REFUSED": app_refused, "CONFLICT": conflict}
OURS = {**{code: f"{API}{path}" for code, path in HANDLERS.items()}, "INTERNAL_ERROR": f"{API}/actions"}


@pytest.mark.parametrize("code", [code for code in CODES if code not in BY_AN_ORG])
def test_every_code_comes_with_its_status_in_an_envelope_that_tells_nothing_of_our_inside(
    shim: Shim, code: str
) -> None:
    connect(shim.url)
    if code in OURS:
        with broken(shim):
            answer = shim.client.get(OURS[code], params={"user_id": USER})
    else:
        answer = CASES[code](shim)
    check(shim, code, answer)


@pytest.mark.parametrize("code", BY_AN_ORG)
def test_what_an_org_brings_about_has_its_code_too(database_url_of_org: str, orgs: SharedOrgs, code: str) -> None:
    org = orgs.like_new("Account=5")
    with start_shim(database_url_of_org, SALESFORCE_LOGIN_URL=org.url, SALESFORCE_ALLOWED_HOSTS=org.url) as shim:
        check(shim, code, BY_AN_ORG[code](shim, org))


def check(shim: Shim, code: str, answer: Any) -> None:
    error = body_of(answer)["error"]
    assert (answer.status_code, error["code"]) == (CODES[code].status, code), answer.text
    assert error["message"]
    assert not [word for word in INTERNAL if word in json.dumps(error)]
    assert urlsplit(shim.url).password not in answer.text
    if answer.status_code in (429, 503):
        assert int(answer.headers["Retry-After"]) > 0
