"""What has the wrong shape: the vendor's error to a client, a clear one on the control path, and the org goes on."""

import json
import re
from contextlib import closing
from pathlib import Path

import pytest
import requests

from local_org.exchange import ExchangeError, import_folder
from local_org.org import Org as Whole
from tests.local_org.calling import Api, grant
from tests.org import Org

UNREADABLE = {
    b"[" * 5_000: "nested too deeply",
    b'{"Name": "x", "AnnualRevenue": NaN}': "Non-standard token 'NaN'",
    b'{"Name": "x", "AnnualRevenue": 1' + b"0" * 5_000 + b"}": "too many digits",
}


@pytest.mark.parametrize(("body", "said"), UNREADABLE.items())
def test_bodies_that_no_parser_takes_are_refused(api: Api, body: bytes, said: str) -> None:
    answer = api.http.post(api.base + "sobjects/Account", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert said in answer.json()[0]["message"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "ui-api/records", {"apiName": "Account", "fields": "Name"}),
        ("POST", "composite/sobjects/Account", {"ids": 1, "fields": ["Id"]}),
        ("POST", "composite/sobjects/Account", {"ids": [], "fields": [1]}),
        ("POST", "parameterizedSearch", {"q": "Acme", "sobjects": "Account"}),
        ("POST", "parameterizedSearch", {"q": "Acme", "sobjects": [{"name": "Account", "limit": "x"}]}),
        ("GET", "parameterizedSearch?q=Acme&sobject=Account&Account.limit=x", None),
    ],
)
def test_parts_of_a_wrong_kind_are_unreadable(api: Api, method: str, path: str, body: object) -> None:
    assert api.error(method, path, body)[:2] == (400, "JSON_PARSER_ERROR")


def test_numbers_too_large_for_a_query_are_refused(api: Api) -> None:
    assert api.error("GET", f"query?q=SELECT Id FROM Account LIMIT {'9' * 30}")[:2] == (400, "MALFORMED_QUERY")
    asked = {"Sforce-Query-Options": f"batchSize={'9' * 5_000}"}
    assert api("GET", "query?q=SELECT Id FROM Account", headers=asked).status_code == 200
    body = {"operation": "query", "query": "SELECT Id FROM Account", "columnDelimiter": []}
    assert api.error("POST", "jobs/query", body)[:2] == (400, "API_ERROR")


@pytest.mark.parametrize(("version", "status"), [("30.0", 410), ("99.0", 404), ("068.0", 404)])
def test_a_version_is_checked_in_subrequests_too(api: Api, version: str, status: int) -> None:
    batch = {"batchRequests": [{"method": "GET", "url": f"v{version}/limits"}]}
    assert api("POST", "composite/batch", batch).json()["results"][0]["statusCode"] == status
    assert requests.get(f"{api.org.url}/services/data/v{version}/limits", timeout=10).status_code == status


def test_a_composite_subrequest_names_the_whole_path(api: Api) -> None:
    body = {"compositeRequest": [{"method": "GET", "url": "v68.0/limits", "referenceId": "a"}]}
    (response,) = api("POST", "composite", body).json()["compositeResponse"]
    assert "/services/data/vXX.X/" in response["body"][0]["message"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("settings", {"bulk_pace_ms": "fast"}, "bulk_pace_ms must be a whole number"),
        ("settings", {"session_minutes": -1}, "session_minutes must be from 0"),
        ("settings", {"colour": 1}, "unknown words colour"),
        ("clock", {"now_ms": 2**62}, "the clock goes from 1970 to 4000"),
        ("objects", {"name": "No name"}, "no API name"),
        ("objects/Account/fields", {"field": "X__c", "type": "strin"}, "unknown type strin"),
        ("objects/Account/fields", {"field": "X__c", "length": 2**70}, "length must be a whole number"),
        ("faults", {"action": {"status": 700}}, "status is from 200 to 599"),
        ("faults", {"match": {"path_regex": "("}, "action": {}}, "a pattern of the fault is wrong"),
        ("faults", {"action": {"status": 200, "headers": {"X": "a\nb"}}}, "one line of ASCII"),
        ("bulk-faults", {"kind": "fail", "times": "x"}, "times must be a whole number or null"),
        ("rules", {"validation": [{"object": 1, "condition": "", "message": ""}]}, "object must be a text"),
        ("rules", {"validation": [{"object": "Account", "condition": "Name =", "message": ""}]}, "is no SOQL"),
        ("rules", {"duplicate": [{"object": "Account", "name": "r", "fields": ["Nope"]}]}, "no field Nope"),
        ("rows/delete", {"object": "Account", "count": 2**70}, "too large"),
        ("rows/create", [], "KeyError"),
        ("rows/hold", {"ids": ["Acme"], "seconds": 1}, "no ids: Acme"),
        ("hide", {"user": "x"}, "there is no user x"),
        ("hide", {"user": "005000000000001", "rows": ["003"]}, "no ids: 003"),
        ("hide", {"user": "005000000000001", "objects": [], "fields": "Name"}, "'str' object"),
    ],
)
def test_the_control_path_says_what_is_wrong(org: Org, path: str, body: object, said: str) -> None:
    answer = requests.post(f"{org.url}/__org__/{path}", data=json.dumps(body), timeout=10)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert grant(org, grant_type="client_credentials").status_code == 200


@pytest.mark.parametrize("value", ["20260208", "2026-W05-1", "2026-2-8", "2026-02-30", "08.02.2026"])
def test_a_date_has_one_form(api: Api, value: str) -> None:
    assert api.error("POST", "sobjects/Contact", {"LastName": "d", "Birthdate": value})[1] == "JSON_PARSER_ERROR"


def exported(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.csv").write_bytes(text.encode())
    return folder


def test_an_object_that_came_in_keeps_its_ids_and_its_system_fields(tmp_path: Path) -> None:
    header, name = "\ufeffId,Name,IsDeleted,Note,Odd__c", "n" * 200
    rows = [f'a1X00000000000{n},{name},{int(n == 2)},"two\r\nlines, ""quoted""",é' for n in (1, 2)]
    folder = exported(tmp_path / "export", Widget__c="\r\n".join([header, *rows, ""]))
    with closing(Whole(tmp_path / "data")) as org:
        assert import_folder(org, folder) == {"Widget__c": 2}
        item = org.store.catalogue.of_id("a1X000000000001")
        assert item is not None
        assert item.name == "Widget__c"
        assert item.fields["name"].name_field
        assert item.fields["isdeleted"].type == "boolean"
        with org.store.read() as conn:
            found = conn.execute('SELECT "Id", "Name", "IsDeleted", "Note", "Odd__c" FROM "Widget__c"').fetchall()
        assert found[1] == ("a1X000000000002EAA", name, 1, 'two\r\nlines, "quoted"', "é")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("Account", "Id;Name\n", "the column 'Id;Name' is no API name"),
        ("Account", "Id,Legacy Code\n", "the column 'Legacy Code' is no API name"),
        ("Account", "Name,name\n", "the column Name is there twice"),
        ("Account", "", "there is no header line"),
        ("Account", "Id,Name\n001000000000001,x,y\n", "line 2: it has not as many values"),
        ("My Object", "Id\n", "the file is named as its object is"),
        ("Other__c", "Id\n001000000000001\n", "its ids begin with 001 as those of Account do"),
    ],
)
def test_an_import_says_what_it_cannot_read(tmp_path: Path, name: str, text: str, said: str) -> None:
    folder = exported(tmp_path / "export", **{name: text})
    with closing(Whole(tmp_path / "data")) as org, pytest.raises(ExchangeError, match=re.escape(said)):
        import_folder(org, folder)


def test_an_import_wants_utf_8(tmp_path: Path) -> None:
    folder = exported(tmp_path / "export")
    (folder / "Account.csv").write_bytes(b"Name\n\xe9\n")
    with closing(Whole(tmp_path / "data")) as org, pytest.raises(ExchangeError, match="it is not UTF-8"):
        import_folder(org, folder)


def test_an_auto_number_is_not_written(api: Api) -> None:
    field = {"name": "Number__c", "type": "string", "auto_number": "T-{000}"}
    api.org.control.define({"objects": [{"name": "Ticket__c", "fields": [field]}]})
    assert api.error("POST", "sobjects/Ticket__c", {"Number__c": "T-9"})[1] == "INVALID_FIELD_FOR_INSERT_UPDATE"
    assert api.read("Ticket__c", api.create("Ticket__c", Name="first"))["Number__c"] == "T-001"
    nameless = api.create("Ticket__c")
    assert api.read("Ticket__c", nameless)["Name"] == nameless[:15]


@pytest.mark.parametrize(
    "uri", ["", "http://[::1", "http://localhost:port/", "javascript://localhost/", "http://elsewhere/"]
)
def test_a_redirect_uri_leads_to_this_machine(org: Org, uri: str) -> None:
    asked = {"response_type": "code", "client_id": org.client_id, "redirect_uri": uri}
    answer = requests.get(f"{org.url}/services/oauth2/authorize", params=asked, allow_redirects=False, timeout=10)
    assert answer.status_code == 400
    assert "redirect_uri_mismatch" in answer.text
