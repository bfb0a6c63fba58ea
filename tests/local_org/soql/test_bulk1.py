"""Bulk API 1.0. Source: Bulk API 2.0 and Bulk API Developer Guide, "Bulk API"."""

import json
import re
import threading
import time
from typing import Any

import pytest

from local_org import bulk1
from local_org.bulk_results import FileSlices

JSON = {"content-type": "application/json"}


@pytest.fixture
def call(caller, read_body):
    def one(method: str, path: str, body: Any = None, headers: dict[str, str] = JSON) -> tuple[int, Any]:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        answer = bulk1.handle(caller.context(method=method, body=data, headers=headers), path)
        if isinstance(answer, FileSlices):
            return 200, read_body(answer)[1].decode()
        text = bytes(answer.body).decode()
        return answer.status_code, json.loads(text) if "json" in str(answer.media_type) else text

    return one


def job(call, **values: Any) -> str:
    status, info = call("POST", "job", {"contentType": "JSON", **values})
    assert (status, info["state"], info["numberBatchesTotal"]) == (201, "Open", 0)
    return str(info["id"])


def batch(call, job_id: str, body: Any, headers: dict[str, str] = JSON) -> Any:
    status, info = call("POST", f"job/{job_id}/batch", body, headers)
    assert status == 201
    return info


def wait(call, job_id: str, batch_id: str) -> Any:
    deadline = time.monotonic() + 20
    while (info := call("GET", f"job/{job_id}/batch/{batch_id}")[1])["state"] in ("Queued", "InProgress"):
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)
    return info


def test_json_query_batches_have_records_with_numeric_datetimes(caller, call) -> None:
    record = caller.add("Account", Name="Acme")
    job_id = job(call, operation="query", object="Account")
    info = batch(call, job_id, "SELECT Id, Name, CreatedDate FROM Account")
    assert info["id"].startswith("751")
    assert wait(call, job_id, info["id"])["state"] == "Completed"
    _, results = call("GET", f"job/{job_id}/batch/{info['id']}/result")
    _, text = call("GET", f"job/{job_id}/batch/{info['id']}/result/{results[0]}")
    assert json.loads(text) == [
        {
            "attributes": {"type": "Account", "url": f"/services/data/v68.0/sobjects/Account/{record}"},
            "Id": record,
            "Name": "Acme",
            "CreatedDate": caller.org.store.clock.now_ms(),
        }
    ]
    assert call("POST", f"job/{job_id}", {"state": "Closed"})[1]["state"] == "Closed"


def test_batches_of_csv_jobs_are_told_in_xml(caller, call) -> None:
    caller.add("Account", Name="Acme")
    job_id = job(call, operation="queryAll", object="Account", contentType="CSV")
    text = batch(call, job_id, "SELECT Name FROM Account", {"content-type": "text/csv"})
    batch_id = re.findall("<id>(.*?)</id>", text)[0]
    deadline = time.monotonic() + 20
    while "<state>Completed</state>" not in call("GET", f"job/{job_id}/batch/{batch_id}")[1]:
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)
    listed = call("GET", f"job/{job_id}/batch/{batch_id}/result")[1]
    result = re.findall("<result>(.*?)</result>", listed)[0]
    assert call("GET", f"job/{job_id}/batch/{batch_id}/result/{result}")[1] == '"Name"\n"Acme"\n'


def test_a_query_without_rows_says_so(call) -> None:
    job_id = job(call, operation="query", object="Account", contentType="CSV")
    text = batch(call, job_id, "SELECT Name FROM Account", {"content-type": "text/csv"})
    batch_id = re.findall("<id>(.*?)</id>", text)[0]
    deadline = time.monotonic() + 20
    while "<state>Completed</state>" not in call("GET", f"job/{job_id}/batch/{batch_id}")[1]:
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)
    result = "752" + batch_id[3:]
    text = call("GET", f"job/{job_id}/batch/{batch_id}/result/{result}")[1]
    assert text == "Records not found for this query"


def test_rows_are_written_and_their_outcomes_told(caller, call) -> None:
    job_id = job(call, operation="insert", object="Account")
    info = batch(call, job_id, [{"Name": "Acme"}, {"Phone": "1"}])
    done = wait(call, job_id, info["id"])
    assert (done["numberRecordsProcessed"], done["numberRecordsFailed"]) == (2, 1)
    good, bad = call("GET", f"job/{job_id}/batch/{info['id']}/result")[1]
    assert (good["success"], good["created"], good["errors"]) == (True, True, [])
    assert good["id"] == caller.column("SELECT Id FROM Account")[0]
    assert (bad["success"], bad["id"]) == (False, None)
    assert bad["errors"][0]["statusCode"] == "REQUIRED_FIELD_MISSING"
    assert json.loads(call("GET", f"job/{job_id}/batch/{info['id']}/request")[1])[1] == {"Phone": "1"}


def test_pk_chunks_make_a_batch_each_and_leave_the_first_unprocessed(caller, call) -> None:
    for n in range(5):
        caller.add("Account", Name=f"A{n}")
    headers = {**JSON, "sforce-enable-pkchunking": "true; chunkSize=2"}
    _, info = call("POST", "job", {"operation": "query", "object": "Account", "contentType": "JSON"}, headers)
    first = batch(call, info["id"], "SELECT Name FROM Account")
    assert first["state"] == "NotProcessed"
    batches = call("GET", f"job/{info['id']}/batch")[1]["batchInfo"]
    names = []
    for chunk in batches[1:]:
        wait(call, info["id"], chunk["id"])
        rows = call("GET", f"job/{info['id']}/batch/{chunk['id']}/result/752{chunk['id'][3:]}")[1]
        names.append([row["Name"] for row in json.loads(rows)])
    assert names == [["A0", "A1"], ["A2", "A3"], ["A4"]]


def test_errors_have_the_shape_of_this_api(call) -> None:
    status, error = call("GET", "job/750000000000000AAA")
    assert (status, error["exceptionCode"]) == (400, "InvalidJob")
    status, text = call("GET", "job/750000000000000AAA", headers={"content-type": "text/xml"})
    assert "<exceptionCode>InvalidJob</exceptionCode>" in text
    job_id = job(call, operation="query", object="Account")
    call("POST", f"job/{job_id}", {"state": "Closed"})
    status, error = call("POST", f"job/{job_id}/batch", "SELECT Id FROM Account")
    assert (status, error["exceptionCode"]) == (400, "InvalidJobState")
