"""Records one by one: shapes, statuses and the rules of the platform."""

import json
from typing import Any

import pytest

from tests.local_org.calling import Api

OPPORTUNITY = {"Name": "Deal", "StageName": "Prospecting", "CloseDate": "2026-11-22"}


def test_a_new_record_has_a_location_and_the_platforms_own_values(api: Api) -> None:
    answer = api("POST", "sobjects/opportunity/", OPPORTUNITY | {"Amount": 1000.5})
    record_id = answer.json()["id"]
    assert answer.status_code == 201
    assert answer.json() == {"id": record_id, "success": True, "errors": []}
    assert answer.headers["Location"] == f"/services/data/v68.0/sobjects/Opportunity/{record_id}"
    row = api.read("Opportunity", record_id)
    assert (row["Probability"], row["ForecastCategory"], row["IsClosed"]) == (10.0, "Pipeline", False)
    assert (row["ExpectedRevenue"], row["Fiscal"], row["FiscalQuarter"]) == (100.05, "2026 4", 4)
    assert row["OwnerId"] == row["CreatedById"] == api.org.user_id
    assert row["SystemModstamp"] == row["CreatedDate"] == row["LastModifiedDate"]
    assert row["SystemModstamp"].endswith(".000+0000")


def test_a_stage_that_closes_a_deal_moves_what_hangs_on_it(api: Api) -> None:
    record_id = api.create("Opportunity", **OPPORTUNITY, Amount=200)
    assert api("PATCH", f"sobjects/Opportunity/{record_id}", {"StageName": "Closed Won"}).status_code == 204
    row = api.read("Opportunity", record_id)
    assert (row["IsClosed"], row["IsWon"], row["Probability"]) == (True, True, 100.0)
    assert (row["ForecastCategoryName"], row["ExpectedRevenue"]) == ("Closed", 200.0)


def test_a_row_takes_both_id_forms_and_any_case_of_names(api: Api) -> None:
    record_id = api.create("Contact", LastName="Case", MailingCity="Oslo")
    answer = api("GET", f"sobjects/CONTACT/{record_id[:15]}?fields=name,MAILINGADDRESS,Id")
    assert answer.json() == {
        "attributes": {"type": "Contact", "url": f"/services/data/v68.0/sobjects/Contact/{record_id}"},
        "Name": "Case",
        "MailingAddress": {"city": "Oslo", "country": None, "geocodeAccuracy": None, "latitude": None,
                           "longitude": None, "postalCode": None, "state": None, "street": None},
        "Id": record_id,
    }  # fmt: skip


def test_empty_text_is_null_and_null_clears(api: Api) -> None:
    record_id = api.create("Contact", LastName="N", Title="", Phone="1", FirstName="F")
    assert api.read("Contact", record_id)["Title"] is None
    api("PATCH", f"sobjects/Contact/{record_id}", {"Phone": None})
    row = api.read("Contact", record_id)
    assert (row["Phone"], row["Name"]) == (None, "F N")


@pytest.mark.parametrize(
    ("object_name", "values", "code", "message"),
    [
        ("Contact", {}, "REQUIRED_FIELD_MISSING", "Required fields are missing: [LastName]"),
        ("Contact", {"LastName": "x" * 81}, "STRING_TOO_LONG", f"Last Name: data value too large: {'x' * 81} (max length=80)"),
        ("Contact", {"LastName": "x", "Foo": 1}, "INVALID_FIELD", "No such column 'Foo' on sobject of type Contact"),
        ("Contact", {"LastName": "x", "Email": "a@b"}, "INVALID_EMAIL_ADDRESS", "Email: invalid email address: a@b"),
        ("Contact", {"LastName": "x", "CleanStatus": "?"}, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
         "Clean Status: bad value for restricted picklist field: ?"),
        ("Contact", {"LastName": "x", "AccountId": "001Lo0zzzzzzzzz"}, "INVALID_CROSS_REFERENCE_KEY",
         "invalid cross reference id"),
        ("Contact", {"LastName": "x", "Id": "003000000000000"}, "INVALID_FIELD",
         "The Id field should not be specified in the sobject data."),
        ("Opportunity", OPPORTUNITY | {"Amount": "abc"}, "JSON_PARSER_ERROR",
         "Cannot deserialize instance of currency from VALUE_STRING value abc or request may be missing a required "
         f"field at [line:1, column:{len(json.dumps(OPPORTUNITY)) + 1}]"),
    ],
)  # fmt: skip
def test_a_row_that_breaks_a_rule_is_refused(
    api: Api, object_name: str, values: dict[str, Any], code: str, message: str
) -> None:
    assert api.error("POST", f"sobjects/{object_name}", values) == (400, code, message)


def test_a_read_only_field_is_named(api: Api) -> None:
    answer = api("POST", "sobjects/Contact", {"LastName": "x", "CreatedDate": "2026-01-01T00:00:00Z"})
    assert answer.status_code == 400
    assert answer.json()[0]["errorCode"] == "INVALID_FIELD_FOR_INSERT_UPDATE"
    assert answer.json()[0]["fields"] == ["CreatedDate"]


def test_upsert_by_external_id_creates_then_updates(api: Api) -> None:
    path = "sobjects/Contact/External_Key__c/a%2Fb%20c"
    first = api("PATCH", path, {"LastName": "One"})
    second = api("PATCH", path, {"LastName": "Two"})
    assert (first.status_code, first.json()["created"]) == (201, True)
    assert (second.status_code, second.json()["created"]) == (200, False)
    old = Api(api.org, "45.0")("PATCH", path, {"LastName": "Three"})
    assert (old.status_code, old.text) == (204, "")
    row = api("GET", path).json()
    assert (row["External_Key__c"], row["LastName"]) == ("a/b c", "Three")
    assert api("PATCH", "sobjects/Contact/External_Key__c/none?updateOnly=true", {"LastName": "x"}).status_code == 404
    assert api("DELETE", path).status_code == 204
    assert api("GET", path).status_code == 404


def test_an_external_id_is_unique_whatever_its_case(api: Api) -> None:
    record_id = api.create("Contact", LastName="U", External_Key__c="Key-1")
    status, code, message = api.error("POST", "sobjects/Contact", {"LastName": "V", "External_Key__c": "KEY-1"})
    assert (status, code) == (400, "DUPLICATE_VALUE")
    assert message.endswith(f"duplicates value on record with id: {record_id}")


def test_a_key_that_several_rows_have_answers_with_their_addresses(api: Api) -> None:
    ids = sorted(api.create("Contact", LastName=f"E{n}", Email="same@example.com") for n in range(2))
    answer = api("PATCH", "sobjects/Contact/Email/same@example.com", {"Title": "x"})
    assert answer.status_code == 300
    assert answer.json() == [f"/services/data/v68.0/sobjects/Contact/{record_id}" for record_id in ids]


def test_a_parent_can_be_named_by_its_key(api: Api) -> None:
    account = api.create("Account", Name="Parent", External_Key__c="P-1")
    contact = api.create("Contact", LastName="Child", Account={"External_Key__c": "P-1"})
    assert api.read("Contact", contact)["AccountId"] == account
    assert api("GET", f"sobjects/Contact/{contact}/Account").json()["Id"] == account
    children = api("GET", f"sobjects/Account/{account}/Contacts").json()
    assert [record["Id"] for record in children["records"]] == [contact]
    status, code, _ = api.error("POST", "sobjects/Contact", {"LastName": "x", "Account": {"External_Key__c": "none"}})
    assert (status, code) == (400, "INVALID_FIELD")


def test_deletion_takes_details_along_and_leaves_a_tombstone(api: Api) -> None:
    account = api.create("Account", Name="Gone")
    contact = api.create("Contact", LastName="Gone too", AccountId=account)
    assert api("DELETE", f"sobjects/Account/{account}").status_code == 204
    assert api.error("GET", f"sobjects/Contact/{contact}") == (404, "ENTITY_IS_DELETED", "entity is deleted")
    assert api.error("PATCH", f"sobjects/Account/{account}", {"Name": "x"})[1] == "ENTITY_IS_DELETED"
    found = api("GET", f"queryAll?q=SELECT IsDeleted FROM Contact WHERE Id = '{contact}'").json()
    assert found["records"][0]["IsDeleted"] is True
    api.org.control.undelete_rows("Account", ids=[account])
    assert api.read("Contact", contact)["AccountId"] == account


def test_a_row_in_use_is_not_deleted(api: Api) -> None:
    account = api.create("Account", Name="Busy")
    api.create("Case", Subject="Help", AccountId=account)
    assert api.error("DELETE", f"sobjects/Account/{account}")[:2] == (400, "DELETE_FAILED")


def test_conditional_reads_spare_the_body(api: Api) -> None:
    account = api.create("Account", Name="Cached")
    first = api("GET", f"sobjects/Account/{account}")
    same = {"If-Modified-Since": first.headers["Last-Modified"]}
    assert api("GET", f"sobjects/Account/{account}", headers=same).status_code == 304
    tag = {"If-None-Match": first.headers["ETag"]}
    assert api("GET", f"sobjects/Account/{account}", headers=tag).status_code == 304
    old = {"If-Unmodified-Since": "Thu, 01 Jan 2026 00:00:00 GMT"}
    assert api("PATCH", f"sobjects/Account/{account}", {"Name": "x"}, headers=old).status_code == 412


def test_unknown_paths_methods_and_versions_have_their_own_errors(api: Api) -> None:
    assert api.error("GET", "sobjects/Nope/describe")[:2] == (404, "NOT_FOUND")
    assert api.error("PUT", "sobjects/Contact")[:2] == (405, "METHOD_NOT_ALLOWED")
    assert Api(api.org, "99.0")("GET", "limits").status_code == 404
    assert Api(api.org, "29.0")("GET", "limits").status_code == 410


def test_a_patch_may_come_as_a_post(api: Api) -> None:
    contact = api.create("Contact", LastName="Old")
    answer = api("POST", f"sobjects/Contact/{contact}?_HttpMethod=PATCH", {"LastName": "New"})
    assert answer.status_code == 204
    assert api.read("Contact", contact)["LastName"] == "New"


def test_every_call_is_counted_and_the_allowance_ends(api: Api) -> None:
    def used() -> tuple[int, int]:
        left, right = api("GET", "limits").headers["Sforce-Limit-Info"].removeprefix("api-usage=").split("/")
        return int(left), int(right)

    first, second = used(), used()
    assert second[0] == first[0] + 1
    api.org.control.change_settings(api_limit=second[0])
    try:
        error = api.error("GET", "limits")
        assert error == (403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
    finally:
        api.org.control.change_settings(api_limit=100_000)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("sobjects/Contact", b"{bad"),
        ("sobjects/Contact", b""),
        ("sobjects/Contact", b"[]"),
        ("sobjects/Contact", b"\xff\xfe"),
        ("composite/sobjects", b'{"records": 5}'),
        ("composite", b'{"compositeRequest": [5]}'),
        ("composite/batch", b'{"batchRequests": [5]}'),
        ("composite/graph", b'{"graphs": [5]}'),
        ("composite/tree/Contact", b'{"records": [5]}'),
    ],
)
def test_a_malformed_body_is_the_callers_mistake(api: Api, path: str, body: bytes) -> None:
    assert api("POST", path, data=body).status_code == 400
    assert api("POST", path, data=body, headers={"Content-Encoding": "gzip"}).status_code == 400


def test_text_that_utf8_cannot_carry_is_replaced(api: Api) -> None:
    answer = api("POST", "sobjects/Contact", data=b'{"LastName": "a\\ud800b\\u0000c"}')
    assert api.read("Contact", answer.json()["id"])["LastName"] == "a\ufffdbc"
    odd = api("POST", "composite/sobjects", {"records": [{"attributes": 5}]}).json()
    assert odd[0]["errors"][0]["statusCode"] == "INVALID_TYPE"
