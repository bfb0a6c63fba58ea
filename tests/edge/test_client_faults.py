"""The client against answers that no well-behaved server gives."""

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import requests

from tests.edge.scripted import Cut, FakeTokens, Hang, Seen, answer, client_of, script_of, serve
from worker.errors import (
    CrowdedError,
    DisconnectedError,
    NotFoundError,
    OverBudgetError,
    RejectedError,
    SchemaChangedError,
    SettingsError,
    TransientError,
    UnknownOutcomeError,
)
from worker.salesforce import client as client_module
from worker.salesforce import ingest, rest, retrying, transport
from worker.salesforce.client import OrgClient
from worker.salesforce.exchange import AccessToken
from worker.salesforce.transport import Call, Deadline, HttpOptions

EXPIRED = answer(401, [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}])
FINE_DATE = {"Date": "Mon, 23 Nov 2026 10:00:00 GMT"}
FINE = answer(200, {"fine": True}, FINE_DATE)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_PAUSE_SECONDS", 0.001)


def read(client: OrgClient, **options: Any) -> Any:
    return client.call("GET", "limits", idempotent=True, **options).body


def write(client: OrgClient, **options: Any) -> Any:
    return client.call("POST", "composite/sobjects", json={"records": []}, idempotent=False, **options).body


def slowly(data: bytes, size: int = 1) -> Iterator[bytes]:
    """Drips: each read of the other side succeeds at once, the whole never ends in time."""
    pause = threading.Event()
    for start in range(0, len(data), size):
        yield data[start : start + size]
        pause.wait(0.05)


def test_headers_that_drip_end_at_the_deadline() -> None:
    def script(_seen: Seen) -> Iterator[bytes]:
        yield from slowly(b"HTTP/1.1 200 X\r\n" + b"X-A: b\r\n" * 1000)

    with serve(script) as server:
        begin = time.monotonic()
        with pytest.raises(TransientError, match="did not answer in time"):
            read(client_of(server), deadline=Deadline.after(0.5))
        assert time.monotonic() - begin < 5


def test_a_body_that_drips_ends_at_the_deadline() -> None:
    def script(_seen: Seen) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 X\r\nContent-Length: 1000\r\n\r\n"
        yield from slowly(b"x" * 1000)

    with serve(script) as server:
        begin = time.monotonic()
        with pytest.raises(TransientError, match="did not answer in time"):
            read(client_of(server), deadline=Deadline.after(0.5))
        assert time.monotonic() - begin < 5


def test_a_body_without_length_that_is_cut_at_the_deadline_is_not_taken_for_whole() -> None:
    def script(_seen: Seen) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n{}"
        raise Hang

    with serve(script) as server, pytest.raises(TransientError, match="in time"):
        read(client_of(server), deadline=Deadline.after(0.3))


def test_a_write_without_an_answer_is_of_unknown_outcome_and_sent_once() -> None:
    def script(_seen: Seen) -> Iterator[bytes]:
        raise Hang
        yield b""

    with serve(script) as server:
        with pytest.raises(UnknownOutcomeError):
            write(client_of(server), deadline=Deadline.after(0.3))
        assert len(server.seen) == 1


def test_a_write_whose_connection_is_reset_is_of_unknown_outcome_and_sent_once() -> None:
    def script(_seen: Seen) -> Iterator[bytes]:
        raise Cut
        yield b""

    with serve(script) as server:
        with pytest.raises(UnknownOutcomeError):
            write(client_of(server))
        assert len(server.seen) == 1


def test_a_write_that_cannot_connect_was_certainly_not_sent() -> None:
    with serve(script_of(FINE)) as server:
        client = client_of(server)
    with pytest.raises(TransientError) as caught:
        write(client)
    assert not isinstance(caught.value, UnknownOutcomeError)
    assert client.calls == 0


def test_a_write_with_half_an_answer_is_of_unknown_outcome() -> None:
    def script(_seen: Seen) -> Iterator[bytes]:
        yield answer(200, [{"id": "001000000000001AAA", "success": True}])[:-20]
        raise Cut

    with serve(script) as server, pytest.raises(UnknownOutcomeError):
        write(client_of(server))


def test_a_write_with_truncated_json_is_of_unknown_outcome() -> None:
    with serve(script_of(answer(200, b'[{"id": "001'))) as server, pytest.raises(UnknownOutcomeError):
        write(client_of(server))


def test_a_write_that_meets_a_5xx_is_of_unknown_outcome() -> None:
    with serve(script_of(answer(503, b"<html>busy</html>", {"Content-Type": "text/html"}))) as server:
        with pytest.raises(UnknownOutcomeError):
            write(client_of(server))
        assert len(server.seen) == 1


def test_a_row_lock_is_not_applied_whatever_the_status() -> None:
    locked = [{"errorCode": "UNABLE_TO_LOCK_ROW", "message": "unable to obtain exclusive access", "fields": []}]
    with serve(script_of(answer(500, locked))) as server:
        with pytest.raises(TransientError) as caught:
            write(client_of(server))
        assert not isinstance(caught.value, UnknownOutcomeError)
        assert caught.value.code == "UNABLE_TO_LOCK_ROW"


@pytest.mark.parametrize(
    "fault",
    [
        answer(503, b"<html><body>Service Unavailable</body></html>", {"Content-Type": "text/html"}),
        answer(502, b""),
        answer(420, b"no routing information"),
        answer(406, [{"errorCode": "CustomNotAcceptable", "message": "Not acceptable"}]),
        answer(429, b"", {"Retry-After": "0"}),
        answer(200, b'{"totalSize": 1, "rec'),
        answer(200, b"<html>login</html>", {"Content-Type": "text/html"}),
    ],
)
def test_a_read_is_repeated_after_a_passing_fault(fault: bytes) -> None:
    with serve(script_of(fault, fault, FINE)) as server:
        assert read(client_of(server)) == {"fine": True}
        assert len(server.seen) == 3


def test_a_read_is_repeated_after_a_reset() -> None:
    def script(seen: Seen) -> Iterator[bytes]:
        if seen.number < 3:
            raise Cut
        yield FINE

    with serve(script) as server:
        assert read(client_of(server)) == {"fine": True}


def test_a_read_gives_up_after_a_few_repetitions() -> None:
    with serve(script_of(answer(503, b""))) as server:
        with pytest.raises(TransientError) as caught:
            read(client_of(server))
        assert len(server.seen) == client_module.RETRIES + 1
        assert caught.value.code == "HTTP_503"


def test_a_long_retry_after_is_left_to_the_caller() -> None:
    with serve(script_of(answer(429, b"", {"Retry-After": "3600"}))) as server:
        with pytest.raises(TransientError) as caught:
            read(client_of(server))
        assert len(server.seen) == 1
        assert caught.value.retry_after is not None
        assert caught.value.retry_after.total_seconds() == 3600


def test_an_expired_token_is_renewed_once_and_the_call_repeated() -> None:
    with serve(script_of(EXPIRED, FINE)) as server:
        client = client_of(server)
        assert write(client) == {"fine": True}
        assert [seen.headers["authorization"] for seen in server.seen] == ["Bearer token-1", "Bearer token-2"]


def test_a_second_401_is_the_end() -> None:
    with serve(script_of(EXPIRED)) as server:
        tokens = FakeTokens(server.url)
        client = OrgClient(tokens, HttpOptions("62.0", (server.url,)))
        with pytest.raises(TransientError):
            read(client)
        assert tokens.renewals == 1
        assert tokens.refusals == ["Session expired or invalid"]
        assert len(server.seen) == 2


@pytest.mark.parametrize(
    "body", [b"", b"<html>login</html>", b'{"errorCode": "INVALID_SESSION_ID", "message": "x"}', b'"x"', b"[]", b"[1]"]
)
def test_a_401_of_any_shape_is_taken_for_an_expired_session(body: bytes) -> None:
    with serve(script_of(answer(401, body), FINE)) as server:
        assert read(client_of(server)) == {"fine": True}


@pytest.mark.parametrize(
    "complaint",
    [
        {"errorCode": "INVALID_AUTH_HEADER", "message": "INVALID_HEADER_TYPE"},
        {"errorCode": "INVALID_SESSION_ID", "message": "This session is not valid for use with the REST API"},
    ],
)
def test_a_401_that_no_renewal_cures_is_not_renewed(complaint: dict[str, str]) -> None:
    with serve(script_of(answer(401, [complaint]))) as server:
        with pytest.raises(DisconnectedError):
            read(client_of(server))
        assert len(server.seen) == 1


def test_a_redirect_is_not_followed_and_the_token_stays_here() -> None:
    with serve(script_of(FINE)) as elsewhere:
        moved = answer(302, b"", {"Location": f"{elsewhere.url}/login"})
        with serve(script_of(moved)) as server, pytest.raises(TransientError) as caught:
            read(client_of(server))
        assert caught.value.code == "REDIRECTED"
        assert elsewhere.seen == []


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.", OverBudgetError),
        (403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentPerOrgLongTxn Limit exceeded.", CrowdedError),
        (400, "UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access", TransientError),
        (400, "INVALID_FIELD", "No such column 'Foo' on entity 'Account'.", SchemaChangedError),
        (400, "INVALID_TYPE", "sObject type 'X' is not supported.", SchemaChangedError),
        (404, "NOT_FOUND", "The requested resource does not exist", NotFoundError),
        (404, "ENTITY_IS_DELETED", "entity is deleted", NotFoundError),
        (400, "MALFORMED_QUERY", "unexpected token: 'FORM'", RejectedError),
        (403, "INSUFFICIENT_ACCESS", "insufficient access rights", RejectedError),
        (403, "API_DISABLED_FOR_ORG", "The REST API is not enabled", DisconnectedError),
    ],
)
def test_status_and_code_together_decide(status: int, code: str, message: str, kind: type[Exception]) -> None:
    with serve(script_of(answer(status, [{"errorCode": code, "message": message}]))) as server:
        with pytest.raises(kind) as caught:
            read(client_of(server))
        assert type(caught.value) is kind
        assert message in str(caught.value)
        assert len([seen for seen in server.seen if seen.target != "/services/data"]) == 1


def test_close_from_another_thread_cuts_the_open_call() -> None:
    arrived = threading.Event()

    def script(_seen: Seen) -> Iterator[bytes]:
        arrived.set()
        raise Hang
        yield b""

    with serve(script) as server:
        client = client_of(server)

        def cut() -> None:
            arrived.wait()
            client.close()

        threading.Thread(target=cut).start()
        with pytest.raises(TransientError, match="cut off"):
            read(client)
        with pytest.raises(TransientError):
            read(client)
        assert len(server.seen) == 1


def test_numbers_are_exact() -> None:
    body = b'{"totalSize":1,"done":true,"records":[{"A":1234567890123456.78,"B":9007199254740993,"C":10.0}]}'
    with serve(script_of(answer(200, body, {"Date": "Mon, 23 Nov 2026 10:00:00 GMT"}))) as server:
        record = rest.query(client_of(server), "SELECT A FROM B").records[0]
    assert record == {"A": Decimal("1234567890123456.78"), "B": 9007199254740993, "C": Decimal("10.0")}


def test_usage_and_time_come_from_the_headers() -> None:
    headers = {
        "Sforce-Limit-Info": "api-usage=25/5000; per-app-api-usage=17/250(appName=x)",
        "Date": "Mon, 23 Nov 2026 10:00:00 GMT",
    }
    with serve(script_of(answer(200, {}, headers), answer(200, {}, {}))) as server:
        client = client_of(server)
        read(client)
        assert client.usage is not None
        assert (client.usage.used, client.usage.max) == (25, 5000)
        assert client.org_time is not None
        assert client.org_time.isoformat() == "2026-11-23T10:00:00+00:00"
        read(client)  # an answer without the headers takes nothing away
        assert client.usage.used == 25
        assert client.calls == 2


def test_gzip_is_undone_and_a_cut_gzip_is_noticed() -> None:
    packed = gzip.compress(b'{"fine": true}' + b" " * 100_000)
    whole = answer(200, packed, {"Content-Encoding": "gzip"})
    cut = answer(200, packed[:-6], {"Content-Encoding": "gzip"})
    with serve(script_of(cut, whole)) as server:
        assert read(client_of(server)) == {"fine": True}
        assert len(server.seen) == 2


def test_an_answer_of_204_has_no_body() -> None:
    with serve(script_of(b"HTTP/1.1 204 X\r\n\r\n", FINE)) as server:
        client = client_of(server)
        answered = client.call("DELETE", "jobs/query/750000000000001AAA", idempotent=True)
        assert (answered.status, answered.body) == (204, None)
        assert read(client) == {"fine": True}
        assert server.connections == 1  # and the connection serves again


def test_a_slash_at_the_end_of_the_instance_url_is_harmless() -> None:
    with serve(script_of(FINE)) as server:
        client = OrgClient(FakeTokens(server.url + "/"), HttpOptions("62.0", (server.url + "/",)))
        read(client)
        assert server.seen[0].target == "/services/data/v62.0/limits"


def test_the_library_on_top_speaks_through_the_same_door() -> None:
    body = {"totalSize": 1, "done": True, "records": [{"Id": "x"}]}
    with serve(script_of(EXPIRED, answer(200, body))) as server:
        client = client_of(server)
        assert client.query("SELECT Id FROM Account")["records"] == [{"Id": "x"}]
        assert client.restful("limits") == body
        assert client.calls == 3


def test_sftype_objects_and_bulk_handlers_are_not_to_be_had() -> None:
    with serve(script_of(FINE)) as server, pytest.raises(AttributeError):
        _ = client_of(server).Account


def test_an_instance_that_is_not_listed_gets_no_token() -> None:
    with serve(script_of(FINE)) as server:
        with pytest.raises(DisconnectedError, match="SALESFORCE_ALLOWED_HOSTS"):
            OrgClient(FakeTokens(server.url), HttpOptions("62.0", ()))
        assert server.connections == 0


def test_a_handshake_that_hangs_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # connections wait in its queue and hear nothing
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        client = OrgClient(FakeTokens(url), HttpOptions("62.0", (url,)))
        begin = time.monotonic()
        with pytest.raises(TransientError, match="in time"):
            read(client, deadline=Deadline.after(0.5))
        assert time.monotonic() - begin < 4


def test_a_host_that_is_not_listed_may_not_be_a_private_address() -> None:
    with serve(script_of(FINE)) as server:
        call = Call(Deadline.after(10), private_ok=False)
        session = transport.new_session(HttpOptions("62.0"))
        with transport.watched(call), pytest.raises(transport.BROKEN) as caught:
            transport.send(session, requests.Request("GET", server.url), call)
        assert "SALESFORCE_ALLOWED_HOSTS" in transport.trouble(caught.value, call, "host")
        assert not call.sent
        assert server.seen == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("fe80::1%eth0", False),
        ("::1", False),
    ],
)
def test_private_addresses_are_known(address: str, public: bool) -> None:
    assert transport.is_public(address) is public


def test_two_calls_at_once_use_two_connections_and_both_are_kept() -> None:
    with serve(script_of(FINE)) as server:
        clients = [client_of(server) for _ in range(4)]
        threads = [threading.Thread(target=lambda c=one: [read(c) for _ in range(20)]) for one in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.seen) == 80
        assert server.connections <= 4


def test_a_write_after_a_long_pause_opens_a_connection_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "STALE_SECONDS", 0.0)
    with serve(script_of(FINE)) as server:
        client = client_of(server)
        read(client)
        read(client)
        assert server.connections == 1
        write(client)
        assert server.connections == 2


def test_a_token_shows_in_no_repr_error_or_log(caplog: pytest.LogCaptureFixture) -> None:
    secret = "00D000000000001!AQEAQSECRETSECRET"

    class Tokens(FakeTokens):
        def current(self) -> AccessToken:
            return AccessToken(secret, self.url, self.renewals + 1)

    caplog.set_level("DEBUG")
    echo = [{"errorCode": "INVALID_FIELD", "message": f"you sent {secret}"}]
    with serve(script_of(answer(400, echo))) as server:
        client = OrgClient(Tokens(server.url), HttpOptions("62.0", (server.url,)))
        with pytest.raises(RejectedError) as caught:
            read(client)
    seen = f"{client!r} {caught.value!r} {caught.value} {Tokens(server.url).current()!r} {caplog.text}"
    assert "SECRETSECRET" not in seen


# -- an org that has moved, or does not serve our version


class _Moved(FakeTokens):
    """Its renewed tokens name the instance to which the org has moved."""

    def renew(self, stale: AccessToken) -> AccessToken:
        self.renewals += 1
        return AccessToken(f"token-{self.renewals + 1}", self.elsewhere, self.renewals + 1)

    elsewhere: str = ""


@pytest.mark.parametrize("call", [read, write])
def test_an_org_that_has_moved_is_found_by_a_renewed_token(call: Any) -> None:
    with serve(script_of(FINE)) as there:
        with serve(script_of(answer(301, b"", {"Location": f"{there.url}/services/data/v62.0/limits"}))) as left:
            tokens = _Moved(left.url)
            tokens.elsewhere = there.url
            client = OrgClient(tokens, HttpOptions("62.0", (left.url, there.url)))
            assert call(client) == {"fine": True}
            assert call(client) == {"fine": True}
        assert [len(left.seen), len(there.seen), tokens.renewals] == [1, 2, 1]
        assert {seen.headers["authorization"] for seen in there.seen} == {"Bearer token-2"}


def test_a_host_that_redirects_for_another_reason_costs_no_log_in_each_time() -> None:
    with serve(script_of(answer(302, b"", {"Location": "https://elsewhere.example/login"}))) as server:
        tokens = FakeTokens(server.url)
        client = OrgClient(tokens, HttpOptions("62.0", (server.url,)))
        for _ in range(3):
            with pytest.raises(TransientError, match="redirect"):
                read(client)
        assert tokens.renewals == 1


def versions_of(*listed: str) -> bytes:
    return answer(200, [{"label": "", "url": f"/services/data/v{one}", "version": one} for one in listed])


GONE = answer(404, [{"errorCode": "NOT_FOUND", "message": "The requested resource does not exist"}])


@pytest.mark.parametrize("body", [GONE, answer(404, b"<html>URL No Longer Exists</html>")])
@pytest.mark.parametrize("call", [read, write])
def test_a_version_that_the_org_does_not_serve_is_a_setting_to_mend(call: Any, body: bytes) -> None:
    with serve(script_of(body, versions_of("50.0", "61.0"))) as server:
        with pytest.raises(SettingsError, match=r"SALESFORCE_API_VERSION: .* serves 50.0 to 61.0, not 62.0"):
            call(client_of(server))
        assert server.seen[-1].target == "/services/data"


@pytest.mark.parametrize("listed", [versions_of("31.0", "62.0"), answer(403, b"no"), answer(200, b"[]")])
def test_what_is_not_found_in_a_version_that_is_served_is_not_found(listed: bytes) -> None:
    with serve(script_of(GONE, listed, GONE)) as server, pytest.raises(NotFoundError):
        read(client_of(server))


def test_a_retry_after_may_be_a_date_and_is_bounded() -> None:
    headers = {"Date": "Mon, 23 Nov 2026 10:00:00 GMT", "Retry-After": "Mon, 23 Nov 2026 10:10:00 GMT"}
    for told, seconds in ((headers, 600), ({"Retry-After": "99999"}, 3600), ({"Retry-After": "soon"}, None)):
        with serve(script_of(answer(429, b"", told))) as server, pytest.raises(TransientError) as caught:
            read(client_of(server))
        advice = caught.value.retry_after
        assert (advice and advice.total_seconds()) == seconds


def test_a_next_page_is_asked_of_our_instance_whatever_host_it_names() -> None:
    first = {"totalSize": 2, "done": False, "records": [{"Id": "a"}]}
    second = answer(200, {"totalSize": 2, "done": True, "records": [{"Id": "b"}]}, FINE_DATE)
    for host in ("", "https://acme.my.salesforce.com"):
        body = {**first, "nextRecordsUrl": f"{host}/services/data/v55.0/query/01gC0-1"}
        with serve(script_of(answer(200, body, FINE_DATE), second)) as server:
            client = client_of(server)
            page = rest.query(client, "SELECT Id FROM A")
            assert page.next_url is not None
            assert rest.more(client, page.next_url).records == [{"Id": "b"}]
            assert server.seen[1].target == "/services/data/v55.0/query/01gC0-1"


# -- what a Bulk job did


def csv_of(*lines: str) -> bytes:
    return answer(200, "\r\n".join(lines).encode(), {"Content-Type": "text/csv"})


@pytest.mark.parametrize("counts", [{}, {"numberRecordsProcessed": 0, "numberRecordsFailed": 0}])
def test_every_row_of_a_job_is_told_of_though_the_job_does_not_count(counts: dict[str, int]) -> None:
    job = {"id": "750000000000001AAA", "state": "Failed", "errorMessage": "TooManyLockFailure", **counts}
    good = csv_of('"sf__Id","sf__Created","LastName"', '"003000000000001AAA","true","a"', "")
    bad = csv_of('"sf__Id","sf__Error","LastName"', '"","REQUIRED_FIELD_MISSING:no name:Name --","b"', "")
    left = csv_of('"LastName"', '"c"', '"d"')
    with serve(script_of(answer(200, job), good, bad, left)) as server:
        client = client_of(server)
        found = ingest.results(client, ingest.get(client, job["id"]), 4)
    assert found.whole
    assert [(row.success, row.cells["LastName"]) for row in found.tried] == [(True, "a"), (False, "b")]
    assert [row["LastName"] for row in found.untried] == ["c", "d"]


def test_an_org_tells_its_time_though_it_refuses_to_list_its_versions() -> None:
    with serve(script_of(answer(403, b"no", FINE_DATE), answer(403, b"no"))) as server:
        assert rest.org_time(client_of(server)).isoformat() == "2026-11-23T10:00:00+00:00"
        with pytest.raises(TransientError):
            rest.org_time(client_of(server))
