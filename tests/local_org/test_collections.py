"""sObject Collections: many records a call, each with its own outcome."""

from typing import Any

from tests.local_org.calling import Api


def contacts(*names: str | None) -> list[dict[str, Any]]:
    return [{"attributes": {"type": "Contact"}, "LastName": name} for name in names]


def test_a_failed_row_leaves_the_others_unless_all_or_none_is_asked(api: Api) -> None:
    body = {"allOrNone": False, "records": contacts("A", None, "B")}
    outcomes = api("POST", "composite/sobjects", body).json()
    assert [outcome["success"] for outcome in outcomes] == [True, False, True]
    assert outcomes[1]["errors"][0] == {
        "statusCode": "REQUIRED_FIELD_MISSING",
        "message": "Required fields are missing: [LastName]",
        "fields": ["LastName"],
    }
    before = api("GET", "query?q=SELECT COUNT() FROM Contact").json()["totalSize"]
    undone = api("POST", "composite/sobjects", body | {"allOrNone": True}).json()
    codes = [outcome["errors"][0]["statusCode"] for outcome in undone]
    rolled_back = "ALL_OR_NONE_OPERATION_ROLLED_BACK"
    assert codes == [rolled_back, "REQUIRED_FIELD_MISSING", rolled_back]
    assert api("GET", "query?q=SELECT COUNT() FROM Contact").json()["totalSize"] == before


def test_updates_name_the_id_of_a_failed_row_and_refuse_one_twice(api: Api) -> None:
    contact = api.create("Contact", LastName="C")
    rows = [{"attributes": {"type": "Contact"}, "id": contact, "Title": "T"}] * 2
    rows.append({"attributes": {"type": "Contact"}, "id": "003Lo0zzzzzzzzz", "Title": "T"})
    outcomes = api("PATCH", "composite/sobjects", {"records": rows}).json()
    assert outcomes[0] == {"id": contact, "success": True, "errors": []}
    assert outcomes[1]["errors"][0]["statusCode"] == "DUPLICATE_VALUE"
    assert outcomes[2]["errors"][0]["statusCode"] == "INVALID_CROSS_REFERENCE_KEY"


def test_upsert_says_what_was_created(api: Api) -> None:
    rows = [
        {"attributes": {"type": "Lead"}, "External_Key__c": f"L{n}", "LastName": "x", "Company": "c"} for n in "121"
    ]
    outcomes = api("PATCH", "composite/sobjects/Lead/External_Key__c", {"records": rows}).json()
    assert [outcome.get("created") for outcome in outcomes] == [True, True, None]
    again = api("PATCH", "composite/sobjects/Lead/External_Key__c", {"records": rows[:2]}).json()
    assert [outcome["created"] for outcome in again] == [False, False]
    by_id = [{"attributes": {"type": "Lead"}, "Id": outcomes[0]["id"], "Title": "T"}]
    assert api("PATCH", "composite/sobjects/Lead/Id", {"records": by_id}).json()[0]["created"] is False


def test_retrieval_keeps_the_order_and_puts_null_for_what_is_gone(api: Api) -> None:
    ids = [api.create("Contact", LastName=name) for name in ("X", "Y", "Z")]
    outcomes = api("DELETE", f"composite/sobjects?ids={ids[1]}&allOrNone=true").json()
    assert outcomes == [{"id": ids[1], "success": True, "errors": []}]
    body = {"ids": [ids[2], ids[1], ids[0]], "fields": ["LastName"]}
    for answer in (
        api("POST", "composite/sobjects/Contact", body),
        api("GET", f"composite/sobjects/Contact?ids={ids[2]},{ids[1]},{ids[0]}&fields=LastName"),
    ):
        assert [record and record["LastName"] for record in answer.json()] == ["Z", None, "X"]


def test_more_than_two_hundred_records_are_refused(api: Api) -> None:
    error = api.error("POST", "composite/sobjects", {"records": contacts(*["x"] * 201)})
    assert error[:2] == (400, "EXCEEDED_ID_LIMIT")
    assert error[2] == "record limit reached. cannot submit more than 200 records in this request"


def test_types_may_change_nine_times_in_a_call(api: Api) -> None:
    mixed = [{"attributes": {"type": name}, "LastName": "x", "Company": "c"} for name in ["Lead", "Contact"] * 6]
    assert api.error("POST", "composite/sobjects", {"records": mixed})[1] == "EXCEEDED_ID_LIMIT"


def test_a_record_twice_or_of_another_type_fails_alone(api: Api) -> None:
    contact = api.create("Contact", LastName="C")
    gone = api("DELETE", f"composite/sobjects?ids={contact},{contact[:15]}").json()
    assert (gone[0]["success"], gone[1]["errors"][0]["statusCode"]) == (True, "DUPLICATE_VALUE")
    body = {"records": [{"attributes": {"type": "Lead"}, "External_Key__c": "t-1", "LastName": "x"}]}
    (outcome,) = api("PATCH", "composite/sobjects/Contact/External_Key__c", body).json()
    assert outcome["errors"][0]["statusCode"] == "INVALID_TYPE"
    body = {"records": [{"attributes": {"type": "Contact"}, "Id": "003000000000000AAA", "Title": "x"}]}
    (outcome,) = api("PATCH", "composite/sobjects/Contact/Id", body).json()
    assert outcome["errors"][0]["statusCode"] == "INVALID_CROSS_REFERENCE_KEY"
