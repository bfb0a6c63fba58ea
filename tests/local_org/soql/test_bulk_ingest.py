"""Bulk API 2.0 ingest jobs. Source: Bulk API 2.0 and Bulk API Developer Guide, "Bulk API 2.0 Ingest"."""

import csv
import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from local_org import bulk_ingest, bulk_rows
from local_org.bulk_jobs import StoppedError
from local_org.errors import ApiError
from local_org.org import Org


def create(caller, operation: str, object_name: str = "Account", **more: Any) -> dict[str, Any]:
    return bulk_ingest.create(caller.posted({"operation": operation, "object": object_name, **more}))


def upload(caller, job_id: str, text: str | bytes) -> None:
    body = text if isinstance(text, bytes) else text.encode()
    ctx = caller.context(method="PUT", body=body, headers={"content-type": "text/csv"})
    answer = bulk_ingest.upload(ctx, job_id)
    assert (answer.status, answer.body) == (201, None)


def close(caller, job_id: str) -> dict[str, Any]:
    return bulk_ingest.change(caller.posted({"state": "UploadComplete"}), job_id)


def wait(caller, job_id: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while (job := bulk_ingest.get(caller.context(), job_id))["state"] not in (states or ("JobComplete", "Failed")):
        assert time.monotonic() < deadline, job
        threading.Event().wait(0.005)
    return job


def carried_out(caller, operation: str, text: str, object_name: str = "Account", **more: Any) -> dict[str, Any]:
    job = create(caller, operation, object_name, **more)
    upload(caller, job["id"], text)
    close(caller, job["id"])
    return wait(caller, job["id"])


@pytest.fixture
def lines(caller, read_body):
    def get(which: str, job: dict[str, Any]) -> list[list[str]]:
        _, body = read_body(getattr(bulk_ingest, which)(caller.context(), job["id"]))
        return list(csv.reader(io.StringIO(body.decode())))

    return get


def test_a_created_job_is_open_and_tells_where_to_upload(caller) -> None:
    job = create(caller, "upsert", externalIdFieldName="external_key__c")
    assert (job["state"], job["externalIdFieldName"]) == ("Open", "External_Key__c")
    assert job["contentUrl"] == f"services/data/v68.0/jobs/ingest/{job['id']}/batches"


def test_rows_are_inserted_and_failures_told_row_by_row(caller, lines) -> None:
    job = carried_out(caller, "insert", 'Name,Phone\nAcme,1\n,2\n"Quote ""d",3\n')
    assert (job["state"], job["numberRecordsProcessed"], job["numberRecordsFailed"]) == ("JobComplete", 3, 1)
    assert caller.column("SELECT Name FROM Account ORDER BY Phone") == ["Acme", 'Quote "d']
    header, first, second = lines("successful", job)
    assert header == ["sf__Id", "sf__Created", "Name", "Phone"]
    assert first[1:] == ["true", "Acme", "1"]
    assert second[1:] == ["true", 'Quote "d', "3"]
    header, failure = lines("failed", job)
    assert header == ["sf__Id", "sf__Error", "Name", "Phone"]
    assert failure == ["", "REQUIRED_FIELD_MISSING:Required fields are missing: [Name]:Name --", "", "2"]
    assert lines("unprocessed", job) == [["Name", "Phone"]]


def test_an_empty_cell_changes_nothing_and_na_clears(caller, lines) -> None:
    record = caller.add("Account", Name="Acme", Phone="1", Fax="2")
    job = carried_out(caller, "update", f"Id,Phone,Fax\n{record[:15]},,#N/A\n")
    assert lines("successful", job)[1] == [record, "false", record[:15], "", "#N/A"]
    assert caller.records("SELECT Phone, Fax FROM Account") == [{"Phone": "1", "Fax": None}]


def test_upsert_creates_and_updates_by_the_key(caller, lines) -> None:
    caller.add("Account", Name="old", External_Key__c="A-1")
    text = "External_Key__c,Name\nA-1,changed\nA-2,new\n,none\n"
    job = carried_out(caller, "upsert", text, externalIdFieldName="External_Key__c")
    assert [line[1] for line in lines("successful", job)[1:]] == ["false", "true"]
    assert lines("failed", job)[1][1] == "MISSING_ARGUMENT:External_Key__c not specified:--"
    assert caller.records("SELECT External_Key__c, Name FROM Account ORDER BY External_Key__c") == [
        {"External_Key__c": "A-1", "Name": "changed"},
        {"External_Key__c": "A-2", "Name": "new"},
    ]


def test_a_parent_can_be_named_by_its_key(caller, lines) -> None:
    account = caller.add("Account", Name="Acme", External_Key__c="A-1")
    job = carried_out(caller, "insert", "LastName,Account.External_Key__c\nLee,A-1\nLost,A-9\n", "Contact")
    assert caller.records("SELECT LastName, AccountId FROM Contact") == [{"LastName": "Lee", "AccountId": account}]
    assert lines("failed", job)[1][1].startswith("INVALID_FIELD:Foreign key external ID: A-9 not found")


def test_delete_fills_the_recycle_bin_and_hard_delete_does_not(caller) -> None:
    soft, hard = caller.add("Account", Name="soft"), caller.add("Account", Name="hard")
    assert carried_out(caller, "delete", f"Id\n{soft}\n")["numberRecordsFailed"] == 0
    assert carried_out(caller, "hardDelete", f"Id\n{hard}\n")["numberRecordsFailed"] == 0
    assert caller.column("SELECT Name FROM Account", all_rows=True) == ["soft"]
    assert caller.count("SELECT Id FROM Account") == 0


def test_rows_that_name_a_record_twice_or_not_at_all_fail(caller, lines) -> None:
    record = caller.add("Account", Name="Acme")
    job = carried_out(caller, "update", f"Id,Phone\n{record},1\n{record},2\n,3\n")
    assert [line[1] for line in lines("failed", job)[1:]] == [
        "DUPLICATE_VALUE:duplicate id in list:--",
        "MISSING_ARGUMENT:Id not specified in an update call:--",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Name,Nope\na,b\n", "InvalidBatch : Field name not found : Nope"),
        ("Name,name\na,b\n", "InvalidBatch : Duplicate field name found : Name"),
        ('Name,Phone\n"a" ,b\n', "InvalidBatch : Failed to parse CSV data"),
        ("Name,Phone\na\n", "InvalidBatch : The number of columns"),
        (
            "Name\r\na\r\n",
            "ClientInputError : LineEnding is invalid on user data. Current LineEnding setting is LF",
        ),
    ],
)
def test_data_that_is_no_csv_of_the_object_fails_the_job(caller, text, message) -> None:
    job = carried_out(caller, "insert", text)
    assert job["state"] == "Failed"
    assert job["errorMessage"].startswith(message)


def test_delimiter_and_line_ending_hold_for_data_and_results(caller, read_body) -> None:
    job = carried_out(caller, "insert", "Name;Phone\r\na,b;1\r\n", columnDelimiter="SEMICOLON", lineEnding="CRLF")
    _, body = read_body(bulk_ingest.successful(caller.context(), job["id"]))
    record = caller.column("SELECT Id FROM Account")[0]
    assert body.decode() == f'"sf__Id";"sf__Created";"Name";"Phone"\r\n"{record}";"true";"a,b";"1"\r\n'


def test_data_comes_once_and_only_while_the_job_is_open(caller) -> None:
    job = create(caller, "insert")
    upload(caller, job["id"], "Name\nx\n")
    with pytest.raises(ApiError) as caught:
        upload(caller, job["id"], "Name\ny\n")
    assert caught.value.code == "INVALIDJOBSTATE"
    close(caller, job["id"])
    wait(caller, job["id"])
    with pytest.raises(ApiError):
        close(caller, job["id"])


def test_an_aborted_job_leaves_its_rows_unprocessed(caller, lines) -> None:
    job = create(caller, "insert")
    upload(caller, job["id"], "Name\nx\n")
    aborted = bulk_ingest.change(caller.posted({"state": "Aborted"}), job["id"])
    assert aborted["state"] == "Aborted"
    assert lines("unprocessed", aborted) == [["Name"], ["x"]]
    assert caller.count("SELECT Id FROM Account") == 0


def test_multipart_creates_and_closes_in_one_call(caller) -> None:
    parts = (
        '--B\r\nContent-Disposition: form-data; name="job"\r\nContent-Type: application/json\r\n\r\n'
        '{"operation":"insert","object":"Account","contentType":"CSV","lineEnding":"LF"}\r\n'
        '--B\r\nContent-Disposition: form-data; name="content"; filename="content"\r\nContent-Type: text/csv\r\n\r\n'
        "Name\nü1\nü2\n\r\n--B--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=B"}
    job = bulk_ingest.create(caller.context(method="POST", body=parts.encode(), headers=headers))
    assert job["state"] == "UploadComplete"
    assert wait(caller, job["id"])["numberRecordsProcessed"] == 2
    assert caller.column("SELECT Name FROM Account ORDER BY Name") == ["ü1", "ü2"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"operation": "insert", "object": "Nope"}, "InvalidJob : Unable to find object: Nope"),
        (
            {"operation": "upsert", "object": "Account", "externalIdFieldName": "Phone"},
            "InvalidJob : Field name provided",
        ),
        ({"operation": "insert", "object": "Account", "externalIdFieldName": "Id"}, "InvalidJob : External ID was"),
        ({"operation": "merge", "object": "Account"}, "Unsupported value for operation: merge"),
    ],
)
def test_impossible_jobs_are_refused(caller, body, text) -> None:
    with pytest.raises(ApiError) as caught:
        bulk_ingest.create(caller.posted(body))
    assert caught.value.status == 400
    assert caught.value.message.startswith(text)


def test_a_job_cut_between_chunks_goes_on_after_the_last_and_doubles_nothing(
    caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines
) -> None:
    """The second chunk dies inside its transaction; the org stops, and starts again."""
    real, calls = bulk_rows._carry_out, []

    def cut(org: Org, job: Any, *more: Any) -> Any:
        calls.append(job.processed)
        if len(calls) == 2:
            org.jobs.stop(job.id)
            raise StoppedError
        return real(org, job, *more)

    monkeypatch.setattr(bulk_rows, "_carry_out", cut)
    job = create(caller, "insert")
    upload(caller, job["id"], "Name\n" + "".join(f"A{n:03d}\n" for n in range(450)))
    close(caller, job["id"])
    deadline = time.monotonic() + 20
    while len(calls) < 2:
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)
    caller.org.close()
    assert calls == [0, 200]
    caller.org = Org(tmp_path / "org", caller.org.store.clock)
    done = wait(caller, job["id"])
    assert (done["state"], done["numberRecordsProcessed"], done["numberRecordsFailed"]) == ("JobComplete", 450, 0)
    assert caller.column("SELECT Name FROM Account ORDER BY Name") == [f"A{n:03d}" for n in range(450)]
    assert len(lines("successful", done)) == 451


def test_a_job_that_was_answered_can_be_listed_and_deleted(caller) -> None:
    job = carried_out(caller, "insert", "Name\nx\n")
    assert [j["id"] for j in bulk_ingest.listing(caller.context())["records"]] == [job["id"]]
    assert bulk_ingest.delete(caller.context(), job["id"]).status == 204
    with pytest.raises(ApiError):
        bulk_ingest.get(caller.context(), job["id"])
