"""Query pages, Bulk jobs and getUpdated over the wire, as clients call them."""

import csv
import gzip
import io
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from local_org.client import OrgControl


@pytest.fixture
def control(org) -> Iterator[OrgControl]:
    control = OrgControl(org.url)
    yield control
    control.clear_bulk_faults()


def wait(api, path: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while (job := api("GET", path).json())["state"] not in states:
        assert time.monotonic() < deadline, job
        threading.Event().wait(0.01)
    return dict(job)


def create(api, soql: str) -> str:
    answer = api("POST", "jobs/query", {"operation": "query", "query": soql}, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("application/json")  # whatever Accept says
    return f"jobs/query/{answer.json()['id']}"


def test_query_pages_follow_their_urls(api) -> None:
    headers = {"Sforce-Query-Options": "batchSize=200"}
    made = [{"attributes": {"type": "Lead"}, "LastName": f"L{n}", "Company": "C"} for n in range(200)]
    assert all(row["success"] for row in api("POST", "composite/sobjects", {"records": made}).json())
    first = api("GET", "query/?q=SELECT+Id+FROM+Lead", headers=headers).json()
    assert (first["done"], len(first["records"])) == (False, 200)
    following = first["nextRecordsUrl"].removeprefix("/services/data/v68.0/")
    for path in (following, following.replace("query/", "queryAll/"), f"{following}?q=ignored"):
        page = api("GET", path).json()
        assert (page["done"], page["totalSize"]) == (True, first["totalSize"])
    assert api.error("GET", "query/0r8000000000000AAA-2000") == (400, "INVALID_QUERY_LOCATOR", "invalid query locator")


def test_a_job_from_creation_to_deletion(api) -> None:
    path = create(api, "SELECT Id, Name FROM Contact ORDER BY Name")
    job = wait(api, path, "JobComplete")
    first = api("GET", f"{path}/results?maxRecords=25", headers={"Accept-Encoding": "identity"})
    assert first.headers["content-type"] == "text/csv"
    assert first.headers["Sforce-NumberOfRecords"] == "25"
    rest = api("GET", f"{path}/results?locator={first.headers['Sforce-Locator']}")
    assert rest.headers["Sforce-Locator"] == "null"
    rows = [row for page in (first, rest) for row in list(csv.reader(io.StringIO(page.text)))[1:]]
    assert (
        len(rows)
        == job["numberRecordsProcessed"]
        == api("GET", "query?q=SELECT+COUNT()+FROM+Contact").json()["totalSize"]
    )
    assert api("DELETE", path).status_code == 204
    assert api("GET", path).status_code == 404


def test_results_are_packed_for_clients_that_take_gzip(api) -> None:
    path = create(api, "SELECT Id FROM Account")
    wait(api, path, "JobComplete")
    with api("GET", f"{path}/results", headers={"Accept-Encoding": "gzip"}, stream=True) as packed:
        assert packed.headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed.raw.read(decode_content=False)).startswith(b'"Id"\n')


def test_ingest_over_the_wire(api) -> None:
    job = api("POST", "jobs/ingest", {"operation": "insert", "object": "Account"}).json()
    url = f"{api.org.url}/{job['contentUrl']}"
    data = b"Name,Phone\nWired,1\n,2\n"
    sent = api.http.put(url, data=data, headers={"Content-Type": "text/csv; charset=UTF-8"}, timeout=30)
    assert (sent.status_code, sent.content) == (201, b"")
    path = f"jobs/ingest/{job['id']}"
    assert api("PATCH", path, {"state": "UploadComplete"}).json()["state"] == "UploadComplete"
    done = wait(api, path, "JobComplete")
    assert (done["numberRecordsProcessed"], done["numberRecordsFailed"]) == (2, 1)
    for name, word in (("successfulResults/", "Wired"), ("failedResults", "REQUIRED_FIELD_MISSING")):
        assert word in api("GET", f"{path}/{name}").text
    for name in ("unprocessedrecords", "unprocessedRecords/"):
        assert api("GET", f"{path}/{name}").text == '"Name","Phone"\n'


def test_what_changed_is_reported_and_what_was_deleted(api) -> None:
    record = api.create("Account", Name="Replicated")
    window = "start=2026-01-01T00:00:00%2B00:00&end=2026-01-01T00:00:00%2B00:00"
    assert api.error("GET", f"sobjects/Account/updated/?{window}")[1] == "INVALID_REPLICATION_DATE"
    date = parsedate_to_datetime(api("GET", "limits").headers["date"])
    times = ((date + step).strftime("%Y-%m-%dT%H:%M:%SZ") for step in (-timedelta(days=1), timedelta(minutes=5)))
    window = "start={}&end={}".format(*times)
    assert record in api("GET", f"sobjects/account/updated?{window}").json()["ids"]
    api("DELETE", f"sobjects/Account/{record}")
    assert record not in api("GET", f"sobjects/account/updated?{window}").json()["ids"]
    deleted = api("GET", f"sobjects/account/deleted/?{window}").json()["deletedRecords"]
    assert record in [entry["id"] for entry in deleted]


def test_bulk_trouble_on_request(api, control: OrgControl) -> None:
    control.add_bulk_fault("fail", message="Retried more than 15 times")
    control.add_bulk_fault("hang", object="Account", times=None)
    failed = wait(api, create(api, "SELECT Id FROM Contact"), "Failed")
    assert failed["errorMessage"] == "Retried more than 15 times"
    path = create(api, "SELECT Id FROM Account")
    wait(api, path, "InProgress")
    assert api.error("GET", f"{path}/results")[1] == "INVALIDJOBSTATE"
    control.clear_bulk_faults()
    wait(api, path, "JobComplete")
    control.add_bulk_fault("drop_rows", rows=1)
    page = api("GET", f"{path}/results")
    assert int(page.headers["Sforce-NumberOfRecords"]) == len(page.text.splitlines())


def test_a_large_result_arrives_whole_and_one_who_leaves_is_noted(org, api, control) -> None:
    made = [{"attributes": {"type": "Lead"}, "LastName": "large", "Company": "C", "Description": "ü" * 30_000}] * 200
    assert all(row["success"] for row in api("POST", "composite/sobjects", {"records": made}).json())
    path = create(api, "SELECT Id, Description FROM Lead WHERE LastName = 'large'")
    wait(api, path, "JobComplete")
    unpacked = api("GET", f"{path}/results").content  # compressed on the way
    assert len(unpacked) > 12_000_000
    with api("GET", f"{path}/results", headers={"Accept-Encoding": "identity"}, stream=True) as plain:
        first = plain.raw.read(100)
        threading.Event().wait(0.1)  # meanwhile everything between us is full
        assert first + plain.raw.read() == unpacked
        assert int(plain.headers["Content-Length"]) == len(unpacked)
    control.clear_ledger()
    with api("GET", f"{path}/results", headers={"Accept-Encoding": "identity"}, stream=True) as plain:
        plain.raw.read(100)
    deadline = time.monotonic() + 20
    while not (calls := control.ledger()):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    assert (calls[0]["status"], calls[0]["delivered"]) == (200, False)
    assert api("GET", "limits").status_code == 200
