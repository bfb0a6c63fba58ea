"""Envelopes, headers and parameters: what a call is refused for before anybody looks at records."""

import requests

from tests.local_org.calling import Api, grant
from tests.org import Org


def test_a_long_uri_is_414_and_long_headers_431(api: Api) -> None:
    assert api("GET", "query?q=" + "x" * 17_000).status_code == 414
    assert api("GET", "limits", headers={"X-Filler": "y" * 17_000}).status_code == 431


def test_bodies_are_json(api: Api) -> None:
    answer = api(
        "POST", "sobjects/Account", data="Name=x", headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert (answer.status_code, answer.json()[0]["errorCode"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    answer = api("POST", "sobjects/Account", data='{"Name":\n bad}', headers={"Content-Type": "application/json"})
    assert answer.json()[0]["message"] == "Unexpected character ('b' (code 98)) at [line:2, column:2]"


def test_a_wrong_method_names_the_right_ones(api: Api) -> None:
    answer = api("PATCH", "sobjects/Account", {})
    assert answer.status_code == 405
    assert answer.json()[0]["message"] == "HTTP Method 'PATCH' not allowed. Allowed are HEAD,GET,POST"
    assert answer.headers["Allow"] == "HEAD,GET,POST"


def test_conditions_of_writes(api: Api) -> None:
    account = api.create("Account", Name="conditional", Description="long " * 500)
    path = f"sobjects/Account/{account}"
    read = api("GET", path, headers={"Accept-Encoding": "gzip"})
    assert read.headers["ETag"].endswith('-gzip"')
    assert api("GET", path, headers={"If-None-Match": read.headers["ETag"]}).status_code == 304
    assert api("PATCH", path, {"Site": "a"}, headers={"If-Match": read.headers["ETag"]}).status_code == 204
    assert api("PATCH", path, {"Site": "a"}, headers={"If-None-Match": "*"}).status_code == 412
    future = {"If-Modified-Since": "Tue, 01 Jan 2999 00:00:00 GMT"}
    assert api("PATCH", path, {"Site": "b"}, headers=future).status_code == 304
    assert api("PATCH", path, {"Site": "b"}, headers={"If-Modified-Since": "soon"}).status_code == 400
    assert api.read("Account", account)["Site"] == "a"


def test_unknown_scopes_and_missing_parameters(org: Org) -> None:
    form = {"response_type": "code", "client_id": org.client_id, "redirect_uri": "http://localhost:1/", "scope": "apo"}
    answer = requests.get(f"{org.url}/services/oauth2/authorize", params=form, timeout=30, allow_redirects=False)
    assert "error=invalid_scope" in answer.headers["Location"]
    assert grant(org, grant_type="refresh_token").json()["error"] == "invalid_request"
    assert grant(org, grant_type="authorization_code").json()["error"] == "invalid_request"


def test_composite_all_or_none_holds_inside_collections(api: Api) -> None:
    records = [{"attributes": {"type": "Account"}, "Name": "inner"}, {"attributes": {"type": "Account"}}]
    base = f"/services/data/v{api.version}/"
    requests_ = [
        {"method": "POST", "url": base + "sobjects/Account", "referenceId": "a", "body": {"Name": "outer"}},
        {"method": "POST", "url": base + "composite/sobjects", "referenceId": "b", "body": {"records": records}},
    ]
    answer = api("POST", "composite", {"allOrNone": True, "compositeRequest": requests_}).json()["compositeResponse"]
    assert [entry["httpStatusCode"] for entry in answer] == [400, 400]
    assert answer[0]["body"][0]["errorCode"] == "PROCESSING_HALTED"
    codes = [entry["errors"][0]["statusCode"] for entry in answer[1]["body"]]
    assert codes == ["ALL_OR_NONE_OPERATION_ROLLED_BACK", "REQUIRED_FIELD_MISSING"]
    found = api("GET", "query", params={"q": "SELECT COUNT() FROM Account WHERE Name IN ('inner', 'outer')"})
    assert found.json()["totalSize"] == 0
    assert api.error("DELETE", "composite/sobjects")[:2] == (400, "MISSING_ARGUMENT")


def test_bulk_rows_say_what_their_fields_want(api: Api) -> None:
    job = api("POST", "jobs/ingest", {"object": "Account", "operation": "insert"}).json()
    csv = "Name,NumberOfEmployees\na,many\nb,5\n"
    api("PUT", f"jobs/ingest/{job['id']}/batches", data=csv, headers={"Content-Type": "text/csv"})
    api("PATCH", f"jobs/ingest/{job['id'][:15]}", {"state": "uploadcomplete"})
    while api("GET", f"jobs/ingest/{job['id']}").json()["state"] != "JobComplete":
        pass
    failed = api("GET", f"jobs/ingest/{job['id']}/failedResults").text
    assert "INVALID_TYPE_ON_FIELD_IN_RECORD:Employees: value not of required type: many:NumberOfEmployees --" in failed


def test_results_of_a_job_whose_data_is_no_csv(api: Api) -> None:
    for csv in ('Name\n "quoted"\n', "Name\r\na\r\n", "Name,Name\na,b\n", 'Name\n"open\n'):
        job = api("POST", "jobs/ingest", {"object": "Account", "operation": "insert"}).json()["id"]
        api("PUT", f"jobs/ingest/{job}/batches", data=csv, headers={"Content-Type": "text/csv"})
        api("PATCH", f"jobs/ingest/{job}", {"state": "UploadComplete"})
        while api("GET", f"jobs/ingest/{job}").json()["state"] not in ("JobComplete", "Failed"):
            pass
        assert api("GET", f"jobs/ingest/{job}").json()["state"] == "Failed", csv
        assert api("GET", f"jobs/ingest/{job}/successfulResults").text.count("\n") == 1
        assert api("GET", f"jobs/ingest/{job}/unprocessedrecords").text.startswith(("Name", '"Name"'))
