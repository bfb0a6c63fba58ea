"""Bulk jobs that fail or hang and pages that lie, on request."""

import threading
import time
from typing import Any

import pytest

from local_org import bulk_query
from local_org.errors import ApiError


def create(caller) -> str:
    body = {"operation": "query", "query": "SELECT Name FROM Account"}
    return str(bulk_query.create(caller.posted(body))["id"])


def wait(caller, job_id: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while (job := bulk_query.get(caller.context(), job_id))["state"] not in states:
        assert time.monotonic() < deadline, job
        threading.Event().wait(0.005)
    return job


@pytest.fixture
def page(caller, read_body):
    for n in range(6):
        caller.add("Account", Name=f"A{n}")

    def get(**parameters: str) -> tuple[dict[str, str], list[str]]:
        job_id = create(caller)
        wait(caller, job_id, "JobComplete")
        answer = bulk_query.results(caller.context(query={"maxRecords": "4", **parameters}), job_id)
        headers, body = read_body(answer)
        assert int(headers["content-length"]) == len(body)
        return headers, body.decode().splitlines()[1:]

    return get


def test_a_job_fails_with_the_message_asked_for_and_only_so_often(caller) -> None:
    caller.org.jobs.faults.add({"kind": "fail", "object": "account", "message": "Number of retries exceeded"})
    job = wait(caller, create(caller), "Failed", "JobComplete")
    assert (job["state"], job["errorMessage"]) == ("Failed", "Number of retries exceeded")
    with pytest.raises(ApiError):
        bulk_query.results(caller.context(), job["id"])
    assert wait(caller, create(caller), "Failed", "JobComplete")["state"] == "JobComplete"


def test_a_hanging_job_can_be_aborted_or_let_go(caller) -> None:
    caller.org.jobs.faults.add({"kind": "hang", "times": 2})
    first, second = create(caller), create(caller)
    wait(caller, first, "InProgress")
    wait(caller, second, "InProgress")
    assert bulk_query.change(caller.posted({"state": "Aborted"}), first)["state"] == "Aborted"
    caller.org.jobs.faults.clear()
    wait(caller, second, "JobComplete")


def test_a_page_can_lose_rows_that_its_headers_count(caller, page) -> None:
    caller.org.jobs.faults.add({"kind": "drop_rows", "rows": 2})
    headers, rows = page()
    assert (headers["sforce-numberofrecords"], rows) == ("4", ['"A0"', '"A1"'])
    assert headers["sforce-locator"] != "null"


def test_a_page_can_count_wrongly_or_end_too_early(caller, page) -> None:
    caller.org.jobs.faults.add({"kind": "wrong_count", "rows": 3})
    caller.org.jobs.faults.add({"kind": "early_end"})
    assert page()[0]["sforce-numberofrecords"] == "7"
    headers, rows = page()
    assert (headers["sforce-locator"], len(rows)) == ("null", 4)


def test_unknown_words_are_refused(caller) -> None:
    with pytest.raises(ValueError, match="unknown"):
        caller.org.jobs.faults.add({"kind": "explode"})
    with pytest.raises(ValueError, match="unknown"):
        caller.org.jobs.faults.add({"kind": "fail", "colour": "red"})
