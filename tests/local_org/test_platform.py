"""What makes an org awkward: locks, late commits, rules of its own, merges, hidden data, snapshots."""

import threading
from typing import Any

import pytest

from tests.local_org.calling import Api, grant
from tests.org import Org


def query(api: Api, soql: str) -> list[dict[str, Any]]:
    return list(api("GET", "query", params={"q": soql}).json()["records"])


def test_a_locked_row_refuses_a_writer_after_the_waiting_time(api: Api) -> None:
    contact = api.create("Contact", LastName="Locked")
    other = api.create("Contact", LastName="Free")
    api.org.control.change_settings(lock_wait_ms=50)
    api.org.control.hold_rows([contact], 1000)
    try:
        status, code, message = api.error("PATCH", f"sobjects/Contact/{contact}", {"Title": "x"})
        assert (status, code) == (400, "UNABLE_TO_LOCK_ROW")
        assert message == f"unable to obtain exclusive access to this record or 1 records: {contact}"
        rows = [{"attributes": {"type": "Contact"}, "id": i, "Title": "x"} for i in (contact, other)]
        outcomes = api("PATCH", "composite/sobjects", {"records": rows}).json()
        assert [outcome["success"] for outcome in outcomes] == [False, True]
        api.org.control.hold_rows([contact], 0)
        assert api("PATCH", f"sobjects/Contact/{contact}", {"Title": "x"}).status_code == 204
    finally:
        api.org.control.change_settings(lock_wait_ms=10_000)


def test_children_of_one_parent_wait_for_each_other(api: Api) -> None:
    account = api.create("Account", Name="Busy parent")
    api.org.control.change_settings(write_ms=400, lock_wait_ms=20)
    try:
        outcomes: list[int] = []

        def create() -> None:
            body = {"LastName": "Child", "AccountId": account}
            outcomes.append(Api(api.org)("POST", "sobjects/Contact", body).status_code)

        threads = [threading.Thread(target=create) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == [201, 400]
    finally:
        api.org.control.change_settings(write_ms=0, lock_wait_ms=10_000)


def test_a_late_commit_keeps_its_early_stamp(api: Api) -> None:
    contact = api.create("Contact", LastName="Before")
    stamp = api.read("Contact", contact)["SystemModstamp"]
    api.org.control.advance_clock(5)
    api.org.control.late_commits(60)
    assert api("PATCH", f"sobjects/Contact/{contact}", {"LastName": "After"}).status_code == 204
    assert api.read("Contact", contact)["LastName"] == "Before"
    api.org.control.advance_clock(61)
    row = api.read("Contact", contact)
    assert (row["LastName"], row["Name"]) == ("After", "After")
    assert row["SystemModstamp"] > stamp
    later = api.create("Contact", LastName="Later")
    assert api.read("Contact", later)["SystemModstamp"] > row["SystemModstamp"]


def test_who_writes_what_an_open_transaction_has_written_ends_it_first(api: Api) -> None:
    contact = api.create("Contact", LastName="Open")
    api.org.control.late_commits(60)
    assert api("PATCH", f"sobjects/Contact/{contact}", {"Title": "early"}).status_code == 204
    api.org.control.advance_clock(5)
    assert api("PATCH", f"sobjects/Contact/{contact}", {"Department": "later"}).status_code == 204
    row = api.read("Contact", contact)
    assert (row["Title"], row["Department"]) == ("early", "later")
    api.org.control.advance_clock(61)
    after = api.read("Contact", contact)
    assert {name for name in after if after[name] != row[name]} == set()
    done = [one["operation"] for one in api.org.control.journal() if one["id"] == contact]
    assert done == ["insert", "update", "update"]


def test_of_two_open_transactions_the_second_waits_for_the_first(api: Api) -> None:
    contact = api.create("Contact", LastName="Open")
    for seconds, title in ((300, "first"), (20, "second")):
        api.org.control.late_commits(seconds)
        assert api("PATCH", f"sobjects/Contact/{contact}", {"Title": title}).status_code == 204
    api.org.control.advance_clock(100)
    assert api.read("Contact", contact)["Title"] is None
    api.org.control.advance_clock(201)
    assert api.read("Contact", contact)["Title"] == "second"


def test_what_goes_and_comes_back_late_takes_its_children_along(api: Api) -> None:
    account = api.create("Account", Name="Late")
    contact = api.create("Contact", LastName="Child", AccountId=account)
    task = api.create("Task", Subject="of the contact", WhoId=contact)
    api.org.control.late_commits(30)
    assert api("DELETE", f"sobjects/Account/{account}").status_code == 204
    assert api("GET", f"sobjects/Contact/{contact}").status_code == 200
    api.org.control.advance_clock(31)
    assert api.error("GET", f"sobjects/Contact/{contact}")[1] == "ENTITY_IS_DELETED"
    api.org.control.undelete_rows("Account", ids=[account])
    assert api.read("Contact", contact)["AccountId"] == account
    assert api.read("Task", task)["WhoId"] == contact


def test_a_validation_rule_refuses_with_its_own_words(api: Api) -> None:
    rule = {"object": "Lead", "condition": "AnnualRevenue < 0", "message": "No debts", "field": "AnnualRevenue"}
    api.org.control.set_rules(validation=[rule])
    answer = api("POST", "sobjects/Lead", {"LastName": "x", "Company": "y", "AnnualRevenue": -1})
    assert answer.json() == [
        {"message": "No debts", "errorCode": "FIELD_CUSTOM_VALIDATION_EXCEPTION", "fields": ["AnnualRevenue"]}
    ]
    assert query(api, "SELECT Id FROM Lead WHERE AnnualRevenue < 0") == []
    api.org.control.set_rules()


def test_rest_applies_assignment_rules_to_creates_and_updates_unless_the_header_says_no(api: Api) -> None:
    somebody = api.org.control.add_user("rules.of.leads@acme.example")
    api.org.control.set_rules(assignment=[{"object": "Lead", "owner": somebody}])
    lead = {"LastName": "x", "Company": "y"}
    given = api("POST", "sobjects/Lead", lead).json()["id"]
    kept = api("POST", "sobjects/Lead", lead, headers={"Sforce-Auto-Assign": "FALSE"}).json()["id"]
    assert api.read("Lead", given)["OwnerId"] == somebody
    mine = api.read("Lead", kept)["OwnerId"]
    assert mine != somebody
    api("PATCH", f"sobjects/Lead/{kept}", {"Title": "CEO"}, headers={"sforce-auto-assign": "false"})
    assert api.read("Lead", kept)["OwnerId"] == mine
    api("PATCH", f"sobjects/Lead/{kept}", {"Title": "CTO"})
    assert api.read("Lead", kept)["OwnerId"] == somebody
    api.org.control.set_rules()


def test_a_duplicate_alert_gives_way_to_the_header(api: Api) -> None:
    api.org.control.set_rules(duplicate=[{"object": "Account", "name": "Same_Name", "fields": ["Name"]}])
    first = api.create("Account", Name="Twin")
    refused = api("POST", "sobjects/Account", {"Name": "TWIN"})
    error = refused.json()[0]
    assert (refused.status_code, error["errorCode"]) == (400, "DUPLICATES_DETECTED")
    found = error["duplicateResut"]["matchResults"][0]["matchRecords"][0]["record"]["Id"]
    assert found == first
    allowed = {"Sforce-Duplicate-Rule-Header": "allowSave=true; includeRecordDetails=true"}
    assert api("POST", "sobjects/Account", {"Name": "Twin"}, headers=allowed).status_code == 201
    api.org.control.set_rules()


def test_a_record_is_not_merged_with_itself(api: Api) -> None:
    winner, loser = api.create("Account", Name="Itself"), api.create("Account", Name="Twice")
    for losers in ([winner[:15]], [loser, loser[:15]], [loser, winner]):
        with pytest.raises(RuntimeError, match="INVALID_ID_FIELD"):
            api.org.control.merge_rows("Account", winner, losers)
    assert api.read("Account", winner)["IsDeleted"] is api.read("Account", loser)["IsDeleted"] is False


def test_a_merge_leaves_a_pointer_and_moves_the_children(api: Api) -> None:
    winner, loser = api.create("Account", Name="W"), api.create("Account", Name="L")
    contact = api.create("Contact", LastName="Moved", AccountId=loser)
    api.org.control.merge_rows("Account", winner, [loser])
    soql = f"SELECT IsDeleted, MasterRecordId FROM Account WHERE Id = '{loser}'"
    gone = api("GET", "queryAll", params={"q": soql}).json()["records"][0]
    assert (gone["IsDeleted"], gone["MasterRecordId"]) == (True, winner)
    assert api.read("Contact", contact)["AccountId"] == winner


@pytest.fixture
def clerk(org: Org) -> tuple[str, Api]:
    """Another user, with the data API as that user."""
    users = query(Api(org), "SELECT Id FROM User WHERE Username = 'user1@local-org.example'")
    user_id = users[0]["Id"]
    form = {"grant_type": "password", "username": "user1@local-org.example", "password": org.password}
    return user_id, Api(org, token=grant(org, **form).json()["access_token"])


def test_what_is_hidden_from_a_user_is_not_there(api: Api, clerk: tuple[str, Api]) -> None:
    user_id, as_clerk = clerk
    contact = api.create("Contact", LastName="Secret", Phone="1")
    api.org.control.hide(user_id[:15], objects=["Lead"], fields={"Contact": ["Phone"]}, rows=[contact[:15]])
    assert as_clerk("GET", "sobjects/Lead/describe").status_code == 404
    assert "Lead" not in {item["name"] for item in as_clerk("GET", "sobjects").json()["sobjects"]}
    fields = {field["name"] for field in as_clerk("GET", "sobjects/Contact/describe").json()["fields"]}
    assert "Phone" not in fields
    assert as_clerk.error("GET", "query?q=SELECT Phone FROM Contact")[1] == "INVALID_FIELD"
    assert as_clerk.error("GET", f"sobjects/Contact/{contact}")[:2] == (404, "NOT_FOUND")
    assert as_clerk.error("PATCH", f"sobjects/Contact/{contact}", {"Title": "x"})[:2] == (404, "NOT_FOUND")
    assert query(as_clerk, f"SELECT Id FROM Contact WHERE Id = '{contact}'") == []
    api.org.control.hide(user_id, objects=[], fields={}, show_rows=[contact])
    assert as_clerk.read("Contact", contact)["Phone"] == "1"


def test_a_snapshot_brings_everything_back(api: Api) -> None:
    kept = api.create("Account", Name="Kept")
    api.org.control.snapshot("before")
    api("DELETE", f"sobjects/Account/{kept}")
    lost = api.create("Account", Name="Lost")
    api.org.control.restore("before")
    assert api.read("Account", kept)["Name"] == "Kept"
    assert api("GET", f"sobjects/Account/{lost}").status_code == 404


def test_the_journal_has_every_change(api: Api) -> None:
    before = max((entry["seq"] for entry in api.org.control.journal()), default=0)
    lead = api.create("Lead", LastName="J", Company="C")
    api("PATCH", f"sobjects/Lead/{lead}", {"Title": "T"})
    api("DELETE", f"sobjects/Lead/{lead}")
    entries = api.org.control.journal(before)
    assert [(entry["operation"], entry["id"]) for entry in entries] == [
        ("insert", lead), ("update", lead), ("delete", lead)]  # fmt: skip
    assert entries[1]["changed"]["Title"] == "T"
