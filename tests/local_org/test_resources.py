"""Resources beside records: what is listed answers; search, tooling, layouts, blobs; an org defined by data."""

import base64
import json
from pathlib import Path

import pytest

from local_org.objects.setup import ENTITY
from tests.local_org.calling import Api
from tests.org import Org

NEEDS_MORE = {"composite": "POST", "jobs": "jobs/query", "ui-api": "ui-api/object-info", "search": "search?q=FIND {zz}",
              "query": "query?q=SELECT Id FROM Account LIMIT 1", "queryAll": "queryAll?q=SELECT Id FROM Account LIMIT 1",
              "parameterizedSearch": "parameterizedSearch?q=zz&sobject=Account"}  # fmt: skip


def test_every_listed_resource_answers(api: Api) -> None:
    listed = api("GET", "").json()
    assert set(NEEDS_MORE) < set(listed)
    for name in set(listed) - {"identity"}:
        path = NEEDS_MORE.get(name, name)
        expected = 405 if path == "POST" else 200
        assert api("GET", name if path == "POST" else path).status_code == expected, name


def test_every_url_of_a_describe_answers(api: Api) -> None:
    described = api("GET", "sobjects/Account/describe").json()
    account = api.create("Account", Name="urls")
    for name, url in described["urls"].items():
        if not name.startswith("ui"):
            path = url.removeprefix(f"/services/data/v{api.version}/").replace("{ID}", account)
            assert api("GET", path).status_code == 200, name
    master = described["recordTypeInfos"][-1]["urls"]["layout"].removeprefix(f"/services/data/v{api.version}/")
    layout = api("GET", master).json()
    shown = [row["layoutItems"][0]["label"] for row in layout["detailLayoutSections"][0]["layoutRows"]]
    assert "Account Name" in shown
    assert api.error("GET", "sobjects/Account/describe/layouts/012000000000001AAA")[0] == 404


def test_search_finds_words(api: Api) -> None:
    account = api.create("Account", Name="Quorvex (Holding) Ltd", Phone="+47 555 0199")
    contact = api.create("Contact", LastName="Quorvexson", Email="q@quorvex.example", AccountId=account)

    def found(sosl: str) -> list[str]:
        answer = api("GET", "search", params={"q": sosl})
        assert answer.status_code == 200, answer.text
        return [record["Id"] for record in answer.json()["searchRecords"]]

    assert found("FIND {quorvex} IN ALL FIELDS RETURNING Account(Id, Name), Contact(Id)") == [account, contact]
    assert found("FIND {quorvex AND holding} RETURNING Account(Id WHERE Phone != null LIMIT 5), Contact") == [account]
    assert found("FIND {nothing OR quorvexson} IN NAME FIELDS") == [contact]
    assert found("FIND {q@quorvex*} IN EMAIL FIELDS RETURNING Contact(Id ORDER BY Name) LIMIT 1") == [contact]
    status, code, _ = api.error("GET", "search?q=FIND quorvex")
    assert (status, code) == (400, "MALFORMED_SEARCH")
    body = {"q": "quorvex", "fields": ["Id"], "sobjects": [{"name": "Account", "fields": ["Id", "Name"]}]}
    assert api("POST", "parameterizedSearch", body).json()["searchRecords"][0]["Name"] == "Quorvex (Holding) Ltd"
    assert account in {item["Id"] for item in api("GET", "recent?limit=5").json()}
    assert api("GET", "sobjects/Account").json()["recentItems"][0]["Id"] == account


def test_the_org_tells_of_itself_in_records(org: Org, api: Api) -> None:
    org.control.add_field("Account", "Shoe__c", type="double", precision=5, scale=1)
    soql = (
        "SELECT QualifiedApiName, DataType, EntityDefinition.KeyPrefix FROM FieldDefinition"
        " WHERE EntityDefinition.QualifiedApiName = 'Account' AND QualifiedApiName = 'Shoe__c'"
    )
    for path in ("query", "tooling/query"):
        (record,) = api("GET", path, params={"q": soql}).json()["records"]
        assert (record["DataType"], record["EntityDefinition"]["KeyPrefix"]) == ("Number(4, 1)", "001")
    assert api.error("GET", "tooling/query?q=SELECT Id FROM Account")[1] == "INVALID_TYPE"
    assert api("GET", f"tooling/sobjects/{ENTITY}/describe").json()["name"] == ENTITY
    job = {"operation": "query", "query": f"SELECT DurableId FROM {ENTITY}"}
    assert api.error("POST", "jobs/query", job)[:2] == (400, "INVALIDENTITY")
    org.control.remove_field("Account", "Shoe__c")
    assert api("GET", "query", params={"q": soql}).json()["records"] == []


def test_blobs(api: Api) -> None:
    account = api.create("Account", Name="with a file")
    content = bytes(range(256))
    text = base64.b64encode(content).decode()
    by_json = api.create("Attachment", ParentId=account, Name="a.bin", Body=text, ContentType="image/png")
    parts = {
        "entity_document": (None, json.dumps({"ParentId": account, "Name": "b.bin"}), "application/json"),
        "Body": ("b.bin", content, "application/octet-stream"),
    }
    by_parts = api("POST", "sobjects/Attachment", files=parts).json()["id"]
    for record, kind in ((by_json, "image/png"), (by_parts, "application/octet-stream")):
        row = api.read("Attachment", record)
        assert row["BodyLength"] == 256
        blob = api.http.get(api.org.url + row["Body"], timeout=30)
        assert (blob.content, blob.headers["Content-Type"]) == (content, kind)
    found = api("GET", "query", params={"q": f"SELECT Body FROM Attachment WHERE Id = '{by_json}'"}).json()
    assert found["records"][0]["Body"].endswith(f"{by_json}/Body")
    assert api.error("POST", "sobjects/Attachment", {"ParentId": account, "Name": "c", "Body": "?"})[0] == 400
    job = {"operation": "query", "query": "SELECT Body FROM Attachment"}
    assert api.error("POST", "jobs/query", job)[1] == "API_ERROR"


def test_records_of_the_ui_api(api: Api) -> None:
    account = api.create("Account", Name="ui")
    changed = api("PATCH", f"ui-api/records/{account}", {"fields": {"Site": "here"}})
    assert (changed.status_code, changed.json()["fields"]["Site"]["value"]) == (200, "here")
    read = api("GET", f"ui-api/records/{account}?fields=Account.Name&optionalFields=Account.Nothing").json()
    assert read["fields"] == {"Name": {"displayValue": None, "value": "ui"}}
    late = {"If-Modified-Since": "Tue, 01 Jan 2019 00:00:00 GMT"}
    assert api("PATCH", f"ui-api/records/{account}", {"fields": {}}, headers=late).status_code == 412
    assert api("DELETE", f"ui-api/records/{account}").status_code == 204
    assert api("GET", f"ui-api/records/{account}").status_code == 404
    info = api("GET", "ui-api/object-info/Account").json()
    assert info["fields"]["Name"]["required"]


def test_an_org_defined_by_data(org: Org, api: Api, tmp_path: Path) -> None:
    theirs = api("GET", "sobjects/Lead/describe").json() | {"name": "Prospect__c", "keyPrefix": "a5P", "custom": True}
    theirs["childRelationships"] = [
        {"childSObject": "Note__c", "field": "Prospect__c", "relationshipName": "Notes__r", "cascadeDelete": True,
         "restrictedDelete": False}
    ]  # fmt: skip
    definition = {
        "describes": [theirs],
        "objects": [
            {"name": "Log__c", "fields": [{"name": "Line__c", "length": 80}], "bulk": False, "replicateable": False,
             "system_fields": ["CreatedDate", "Name"]},
            {"name": "Note__c", "fields": [{"name": "Prospect__c", "type": "reference",
                                            "reference_to": ["Prospect__c"]}]},
        ],
        "fields": {"Account": [{"name": "Big__c", "type": "boolean", "formula": "NumberOfEmployees > 100"}]},
        "users": [{"Username": "narrow@org.example"}],
        "hide": [{"user": "narrow@org.example", "objects": ["Log__c"]}],
        "rules": {"validation": [{"object": "Log__c", "condition": "Line__c = 'no'", "message": "not that"}]},
        "records": {"Log__c": [{"Name": "first", "Line__c": "yes"}]},
    }  # fmt: skip
    org.control.define(definition)
    org.control.define(definition)  # the second time changes nothing
    log = api("GET", "sobjects/Log__c/describe").json()
    assert [field["name"] for field in log["fields"]] == ["Id", "CreatedDate", "Name", "Line__c"]
    assert not log["replicateable"]
    assert api("GET", "query?q=SELECT COUNT() FROM Log__c").json()["totalSize"] == 1
    assert api.error("POST", "sobjects/Log__c", {"Line__c": "no"})[2] == "not that"
    made = api("GET", "sobjects/Prospect__c/describe").json()
    assert {field["name"] for field in made["fields"]} == {field["name"] for field in theirs["fields"]}
    prospect = api.create("Prospect__c", LastName="A", Company="B")
    assert prospect.startswith("a5P")
    api.create("Note__c", Prospect__c=prospect)
    children = api("GET", "query", params={"q": "SELECT Id, (SELECT Id FROM Notes__r) FROM Prospect__c"}).json()
    assert children["records"][0]["Notes__r"]["totalSize"] == 1
    form = {"grant_type": "password", "username": "narrow@org.example", "password": org.password}
    form |= {"client_id": org.client_id, "client_secret": org.client_secret}
    token = api.http.post(f"{org.url}/services/oauth2/token", data=form, timeout=30).json()["access_token"]
    narrow = Api(org, token=token)
    assert narrow("GET", "sobjects/Log__c/describe").status_code == 404
    assert (
        narrow("GET", "query?q=SELECT COUNT() FROM EntityDefinition WHERE QualifiedApiName = 'Log__c'").json()[
            "totalSize"
        ]
        == 0
    )
    with pytest.raises(RuntimeError, match="unknown words colour"):
        org.control.define({"objects": [{"name": "X__c", "colour": "red"}]})
    with pytest.raises(RuntimeError, match="unknown parts: tables"):
        org.control.define({"tables": []})
