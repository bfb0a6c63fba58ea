"""Bulk API 2.0 query jobs. Source: Bulk API 2.0 and Bulk API Developer Guide, "Query Jobs"."""

import csv
import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from local_org import bulk_query
from local_org.errors import ApiError
from local_org.org import Org


def create(caller, soql: str, **more: Any) -> dict[str, Any]:
    return bulk_query.create(caller.posted({"operation": "query", "query": soql, **more}))


def wait(caller, job_id: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while (job := bulk_query.get(caller.context(), job_id))["state"] not in (states or ("JobComplete", "Failed")):
        assert time.monotonic() < deadline, job
        threading.Event().wait(0.005)
    return job


def finished(caller, soql: str, **more: Any) -> str:
    job = wait(caller, create(caller, soql, **more)["id"])
    assert job["state"] == "JobComplete", job
    return str(job["id"])


@pytest.fixture
def page(caller, read_body):
    def get(job_id: str, headers: dict[str, str] | None = None, **parameters: str) -> tuple[dict[str, str], bytes]:
        return read_body(bulk_query.results(caller.context(query=parameters, headers=headers or {}), job_id))

    return get


def test_a_created_job_is_answered_without_counters(caller) -> None:
    job = create(caller, "SELECT Id FROM Account")
    assert list(job) == [
        "id",
        "operation",
        "object",
        "createdById",
        "createdDate",
        "systemModstamp",
        "state",
        "concurrencyMode",
        "contentType",
        "apiVersion",
        "lineEnding",
        "columnDelimiter",
    ]
    assert (job["state"], job["apiVersion"], job["columnDelimiter"]) == ("UploadComplete", 68.0, "COMMA")
    assert job["id"].startswith("750")
    done = wait(caller, job["id"])
    assert (done["state"], done["jobType"], done["numberRecordsProcessed"]) == ("JobComplete", "V2Query", 0)


def test_csv_follows_the_platforms_conventions(caller, page) -> None:
    account = caller.add("Account", Name='A "quoted", name', Description="two\nlines", AnnualRevenue=950_000_000)
    caller.add("Opportunity", Name="x", Amount=-0.25, Probability=10, CloseDate="2026-01-02", AccountId=account)
    job = finished(
        caller,
        "SELECT Id, account.name, Account.Description, Account.AnnualRevenue, Amount, Probability, CloseDate, "
        "CreatedDate, IsWon, NextStep FROM Opportunity",
    )
    headers, body = page(job)
    header, row = body.split(b"\n", 1)
    assert header == (
        b'"Id","Account.Name","Account.Description","Account.AnnualRevenue","Amount","Probability","CloseDate",'
        b'"CreatedDate","IsWon","NextStep"'
    )
    assert row.split(b",", 1)[1] == (
        b'"A ""quoted"", name","two\nlines","950000000.0","-0.25","10.0","2026-01-02",'
        b'"2026-11-22T12:00:00.000Z","false",""\n'
    )
    assert headers["content-type"] == "text/csv"


def test_every_page_has_the_header_and_a_locator_until_null(caller, page) -> None:
    for n in range(5):
        caller.add("Account", Name=f"A{n}")
    job = finished(caller, "SELECT Name FROM Account ORDER BY Name")
    locator, names, pages = None, [], 0
    while locator != "null":
        more = {} if locator is None else {"locator": locator}
        headers, body = page(job, maxRecords="2", **more)
        rows = list(csv.reader(io.StringIO(body.decode())))
        assert rows[0] == ["Name"]
        assert int(headers["sforce-numberofrecords"]) == len(rows) - 1
        names += [row[0] for row in rows[1:]]
        locator, pages = headers["sforce-locator"], pages + 1
    assert (names, pages) == ([f"A{n}" for n in range(5)], 3)


def test_a_page_can_be_read_again_and_all_are_listed(caller, page) -> None:
    for n in range(12):
        caller.add("Account", Name=f"A{n}")
    job = finished(caller, "SELECT Name FROM Account")
    headers, _ = page(job, maxRecords="5")
    assert page(job, maxRecords="5", locator=headers["sforce-locator"]) == page(
        job, maxRecords="5", locator=headers["sforce-locator"]
    )
    listed = bulk_query.result_pages(caller.context(query={"maxRecords": "2"}), job)
    assert (len(listed["resultPages"]), listed["done"]) == (5, False)
    assert "locator=" in listed["nextRecordsUrl"]
    rest = dict(part.split("=") for part in listed["nextRecordsUrl"].split("?")[1].split("&"))
    last = bulk_query.result_pages(caller.context(query=rest), job)
    assert (len(last["resultPages"]), last["done"], last["nextRecordsUrl"]) == (1, True, None)


def test_a_job_without_rows_has_a_header_and_a_null_locator(caller, page) -> None:
    headers, body = page(finished(caller, "SELECT Id FROM Account"))
    assert body == b'"Id"\n'
    assert (headers["sforce-numberofrecords"], headers["sforce-locator"]) == ("0", "null")


def test_delimiter_and_line_ending_can_be_chosen(caller, page) -> None:
    caller.add("Account", Name="a,b")
    job = finished(caller, "SELECT Name, Phone FROM Account", columnDelimiter="PIPE", lineEnding="CRLF")
    assert page(job)[1] == b'"Name"|"Phone"\r\n"a,b"|""\r\n'


def test_gzip_is_used_where_the_client_takes_it(caller, page) -> None:
    caller.add("Account", Name="Acme")
    job = finished(caller, "SELECT Name FROM Account")
    headers, body = page(job, {"accept-encoding": "gzip, deflate"})
    assert headers["content-encoding"] == "gzip"
    assert body == page(job)[1]


def test_nul_bytes_that_a_record_holds_are_kept(caller, page) -> None:
    record = caller.add("Account", Name="x")
    caller.change("Account", record, Name='N\x00U"L')
    assert page(finished(caller, "SELECT Name, Phone FROM Account"))[1] == b'"Name","Phone"\n"N\x00U""L",""\n'


def test_more_columns_than_one_sql_function_takes(caller, page) -> None:
    caller.add("Contact", LastName="Lee")
    names = [f.name for f in caller.org.store.catalogue.object("Contact").stored]
    parents = [f"Account.{f.name}" for f in caller.org.store.catalogue.object("Account").stored]
    _, body = page(finished(caller, f"SELECT {', '.join(names + parents)} FROM Contact"))
    header, row = csv.reader(io.StringIO(body.decode()))
    assert len(header) == len(row) == len(names) + len(parents) > 100
    assert row[header.index("LastName")] == "Lee"
    assert row[header.index("Account.IsDeleted")] == ""


def test_query_all_has_deleted_rows(caller) -> None:
    caller.add("Account", Name="gone", IsDeleted=True)
    job = create(caller, "SELECT Id FROM Account", operation="queryAll")
    assert wait(caller, job["id"])["numberRecordsProcessed"] == 1


@pytest.mark.parametrize(
    ("soql", "text"),
    [
        ("SELECT COUNT() FROM Account", "Aggregate functions are not supported in Bulk Query"),
        ("SELECT MAX(Name) FROM Account", "Aggregate functions are not supported in Bulk Query"),
        ("SELECT BillingAddress FROM Account", "Selecting compound data not supported in Bulk Query"),
        ("SELECT Id, (SELECT Id FROM Contacts) FROM Account", "Aggregate Relationships not supported in Bulk Query"),
        ("SELECT Id FROM Account OFFSET 5", "OFFSET is not supported in Bulk Query"),
    ],
)
def test_what_query_jobs_do_not_support_is_refused_at_creation(caller, soql, text) -> None:
    with pytest.raises(ApiError) as caught:
        create(caller, soql)
    assert (caught.value.status, caught.value.code, caught.value.message) == (400, "API_ERROR", text)


def test_a_wrong_query_is_refused_at_creation(caller) -> None:
    with pytest.raises(ApiError) as caught:
        create(caller, "SELECT Foo FROM Account")
    assert caught.value.code == "INVALID_FIELD"


def test_states_follow_the_settable_pace(caller) -> None:
    caller.org.change_settings({"bulk_pace_ms": 60_000})
    job = create(caller, "SELECT Id FROM Account")
    assert wait(caller, job["id"], "UploadComplete")["state"] == "UploadComplete"
    with pytest.raises(ApiError) as caught:
        bulk_query.results(caller.context(), job["id"])
    assert caught.value.code == "INVALIDJOBSTATE"
    with pytest.raises(ApiError):
        bulk_query.delete(caller.context(), job["id"])
    aborted = bulk_query.change(caller.posted({"state": "Aborted"}), job["id"])
    assert aborted["state"] == "Aborted"
    with pytest.raises(ApiError):
        bulk_query.change(caller.posted({"state": "Aborted"}), job["id"])


def test_a_deleted_job_is_gone_with_its_files(caller) -> None:
    job = finished(caller, "SELECT Id FROM Account")
    folder = caller.org.jobs.folder(job)
    assert folder.exists()
    assert bulk_query.delete(caller.context(), job).status == 204
    assert not folder.exists()
    with pytest.raises(ApiError) as caught:
        bulk_query.get(caller.context(), job)
    assert (caught.value.status, caught.value.code) == (404, "NOT_FOUND")


def test_a_job_cut_by_a_stop_of_the_org_is_done_after_its_start(caller, tmp_path: Path, page) -> None:
    caller.add("Account", Name="Acme")
    caller.org.change_settings({"bulk_pace_ms": 60_000})
    job = create(caller, "SELECT Name FROM Account")
    caller.org.change_settings({"bulk_pace_ms": 0})
    caller.org.close()
    caller.org = Org(tmp_path / "org", caller.org.store.clock)
    assert wait(caller, job["id"])["state"] == "JobComplete"
    assert page(job["id"])[1] == b'"Name"\n"Acme"\n'


def test_the_calls_of_a_job_keep_its_version(caller) -> None:
    job = finished(caller, "SELECT Id FROM Account")
    with pytest.raises(ApiError) as caught:
        bulk_query.results(caller.context(version="67.0"), job)
    assert caught.value.status == 409


def test_jobs_are_listed_newest_first_and_kept_for_seven_days(caller) -> None:
    first = finished(caller, "SELECT Id FROM Account")
    caller.org.store.clock.advance(1000)
    second = finished(caller, "SELECT Id FROM Contact")
    listed = bulk_query.listing(caller.context())
    assert [job["id"] for job in listed["records"]] == [second, first]
    assert (listed["done"], listed["nextRecordsUrl"]) == (True, None)
    caller.org.store.clock.advance(7 * 86_400_000)
    assert [job["id"] for job in bulk_query.listing(caller.context())["records"]] == [second]


@pytest.mark.parametrize("locator", ["nonsense!", "OTk5", "LTE"])
def test_an_unknown_locator_is_refused(caller, page, locator) -> None:
    job = finished(caller, "SELECT Id FROM Account")
    with pytest.raises(ApiError):
        page(job, locator=locator)
