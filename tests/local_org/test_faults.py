"""Trouble on request, and the ledger that tells what became of each call."""

from typing import Any

import pytest
import requests

from tests.local_org.calling import Api
from tests.waiting import until


@pytest.fixture(autouse=True)
def _clean(api: Api) -> Any:
    yield
    api.org.control.clear_faults()


def spoil(api: Api, path: str, *, method: str = "GET", times: int | None = 1, skip: int = 0, **action: Any) -> None:
    match = {"path_regex": path, "method": method, "times": times, "skip": skip}
    api.org.control.add_fault(match=match, action=action)


def test_an_answer_can_be_replaced_for_some_calls(api: Api) -> None:
    body = [{"errorCode": "SERVER_UNAVAILABLE", "message": "Server too busy"}]
    spoil(api, "/limits", skip=1, times=2, status=503, body=body, headers={"Retry-After": "1"})
    assert [api("GET", "limits").status_code for _ in range(4)] == [200, 503, 503, 200]
    spoil(api, "/limits", status=502, body="<html>Bad gateway</html>")
    answer = api("GET", "limits")
    assert (answer.status_code, answer.text) == (502, "<html>Bad gateway</html>")
    assert answer.headers["Content-Type"].startswith("text/html")


def test_a_cut_before_leaves_nothing_and_a_cut_after_leaves_the_record(api: Api) -> None:
    def names() -> list[str]:
        soql = "SELECT LastName FROM Contact WHERE LastName LIKE 'Cut%'"
        return [record["LastName"] for record in api("GET", "query", params={"q": soql}).json()["records"]]

    spoil(api, "/sobjects/Contact", method="POST", cut="before")
    with pytest.raises(requests.ConnectionError):
        api("POST", "sobjects/Contact", {"LastName": "Cut before"})
    assert names() == []
    spoil(api, "/sobjects/Contact", method="POST", cut="after")
    with pytest.raises(requests.ConnectionError):
        api("POST", "sobjects/Contact", {"LastName": "Cut after"})
    assert names() == ["Cut after"]


def test_an_answer_can_end_too_early(api: Api) -> None:
    spoil(api, "/sobjects$", truncate_bytes=500)
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        api("GET", "sobjects")
    assert api("GET", "sobjects").status_code == 200


def test_a_hanging_call_ends_when_the_client_gives_up(api: Api) -> None:
    spoil(api, "/limits", hang=True)
    with pytest.raises(requests.Timeout):
        api.http.get(api.base + "limits", timeout=0.3)
    until(lambda: any(entry["fault"] == "hang" and not entry["delivered"] for entry in api.org.control.ledger()))


def test_a_dripping_answer_arrives_whole(api: Api) -> None:
    spoil(api, "/sobjects/Lead$", drip_bytes=200, drip_ms=1)
    assert api("GET", "sobjects/Lead").json()["objectDescribe"]["name"] == "Lead"


def test_the_ledger_has_every_call_with_its_user(api: Api) -> None:
    api.org.control.clear_ledger()
    api("GET", "limits")
    api("POST", "sobjects/Contact", {})
    calls = api.org.control.ledger()
    assert [(c["method"], c["path"].rpartition("/")[2], c["status"]) for c in calls] == [
        ("GET", "limits", 200), ("POST", "Contact", 400)]  # fmt: skip
    assert {call["user"] for call in calls} == {api.org.user_id}
    assert all(call["delivered"] and call["bytes_out"] for call in calls)


def test_expired_sessions_and_revoked_grants_are_refused(api: Api) -> None:
    api.org.control.expire_tokens()
    assert api.error("GET", "limits") == (401, "INVALID_SESSION_ID", "Session expired or invalid")


def test_an_unknown_word_in_a_fault_is_refused(api: Api) -> None:
    with pytest.raises(RuntimeError, match="unknown words"):
        api.org.control.add_fault(match={"path": "x"}, action={"status": 500})


def test_a_call_that_takes_too_long_is_given_up_but_may_still_be_done(api: Api) -> None:
    api.org.control.change_settings(request_seconds=0.3, write_ms=1500)
    try:
        assert api("POST", "sobjects/Lead", {"LastName": "Slow", "Company": "C"}).status_code == 504
    finally:
        api.org.control.change_settings(request_seconds=600, write_ms=0)
    found = api("GET", "query?q=SELECT Id FROM Lead WHERE LastName = 'Slow'").json()
    assert found["totalSize"] == 1
