"""Several calls in one: Composite, Graph, Batch, Tree, and idempotent creates of the UI API."""

import uuid
from typing import Any

from tests.local_org.calling import Api

BASE = "/services/data/v68.0"


def calls(*requests: tuple[str, str, str, Any]) -> list[dict[str, Any]]:
    return [{"method": m, "url": BASE + u, "referenceId": r, **({"body": b} if b else {})} for m, u, r, b in requests]


def count(api: Api, soql: str) -> int:
    return int(api("GET", "query", params={"q": soql}).json()["totalSize"])


def test_later_calls_use_the_results_of_earlier_ones(api: Api) -> None:
    requests = calls(
        ("POST", "/sobjects/Account", "acc", {"Name": "Composite"}),
        ("POST", "/sobjects/Contact", "con", {"LastName": "C", "AccountId": "@{acc.id}"}),
        ("GET", "/query?q=SELECT Name FROM Account WHERE Id = '@{acc.id}'", "q", None),
        ("GET", "/sobjects/Account/@{q.records[0].attributes.type}", "bad", None),
    )
    responses = api("POST", "composite", {"compositeRequest": requests}).json()["compositeResponse"]
    assert [response["httpStatusCode"] for response in responses] == [201, 201, 200, 404]
    account = responses[0]["body"]["id"]
    assert responses[0]["httpHeaders"]["Location"] == f"{BASE}/sobjects/Account/{account}"
    assert api.read("Contact", responses[1]["body"]["id"])["AccountId"] == account
    assert responses[3]["body"][0]["errorCode"] == "NOT_FOUND"


def test_all_or_none_leaves_nothing_and_shows_the_culprit(api: Api) -> None:
    requests = calls(
        ("POST", "/sobjects/Account", "a", {"Name": "Rolled back"}),
        ("GET", "/query?q=SELECT Name FROM Account WHERE Name = 'Rolled back'", "seen", None),
        ("POST", "/sobjects/Contact", "b", {"FirstName": "No last name"}),
        ("POST", "/sobjects/Account", "c", {"Name": "Rolled back"}),
    )
    answer = api("POST", "composite", {"allOrNone": True, "compositeRequest": requests})
    codes = [r["body"][0]["errorCode"] for r in answer.json()["compositeResponse"]]
    halted = "PROCESSING_HALTED"
    assert codes == [halted, halted, "REQUIRED_FIELD_MISSING", halted]
    assert count(api, "SELECT COUNT() FROM Account WHERE Name = 'Rolled back'") == 0


def test_an_envelope_has_its_limits(api: Api) -> None:
    many = calls(*[("GET", "/limits", f"r{n}", None) for n in range(26)])
    assert api.error("POST", "composite", {"compositeRequest": many})[1] == "LIMIT_EXCEEDED"
    queries = calls(*[("GET", "/query?q=SELECT Id FROM User", f"r{n}", None) for n in range(6)])
    assert api.error("POST", "composite", {"compositeRequest": queries})[1] == "LIMIT_EXCEEDED"


def test_each_graph_stands_alone(api: Api) -> None:
    good = calls(("POST", "/sobjects/Account", "a", {"Name": "Graph"}))
    bad = calls(("POST", "/sobjects/Account", "a", {"Name": "Graph"}), ("POST", "/sobjects/Lead", "b", {"Title": "x"}))
    graphs = [{"graphId": "g", "compositeRequest": good}, {"graphId": "h", "compositeRequest": bad}]
    answer = api("POST", "composite/graph", {"graphs": graphs}).json()["graphs"]
    assert [graph["isSuccessful"] for graph in answer] == [True, False]
    assert count(api, "SELECT COUNT() FROM Account WHERE Name = 'Graph'") == 1


def test_a_batch_goes_on_after_an_error_unless_told_to_halt(api: Api) -> None:
    requests = [
        {"method": "POST", "url": "v68.0/sobjects/Lead", "richInput": {"LastName": "x"}},
        {"method": "GET", "url": f"{BASE}/sobjects/Lead/describe"},
    ]
    answer = api("POST", "composite/batch", {"batchRequests": requests}).json()
    assert (answer["hasErrors"], [r["statusCode"] for r in answer["results"]]) == (True, [400, 200])
    assert answer["results"][1]["result"]["name"] == "Lead"
    halted = api("POST", "composite/batch", {"batchRequests": requests, "haltOnError": True}).json()
    assert halted["results"][1]["result"][0]["errorCode"] == "BATCH_PROCESSING_HALTED"


def test_a_tree_is_made_whole_or_not_at_all(api: Api) -> None:
    def tree(last_name: str | None) -> dict[str, Any]:
        contact = {"attributes": {"type": "Contact", "referenceId": "c"}, "LastName": last_name}
        account = {"attributes": {"type": "Account", "referenceId": "a"}, "Name": "Tree"}
        return {"records": [account | {"Contacts": {"records": [contact]}}]}

    made = api("POST", "composite/tree/Account", tree("Leaf"))
    ids = {result["referenceId"]: result["id"] for result in made.json()["results"]}
    assert made.status_code == 201
    assert api.read("Contact", ids["c"])["AccountId"] == ids["a"]
    failed = api("POST", "composite/tree/Account", tree(None))
    assert (failed.status_code, failed.json()["results"][0]["referenceId"]) == (400, "c")
    assert count(api, "SELECT COUNT() FROM Account WHERE Name = 'Tree'") == 1


def test_a_create_with_the_same_key_happens_once(api: Api) -> None:
    body = {"apiName": "Account", "fields": {"Name": "Once"}}
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first = api("POST", "ui-api/records", body, headers=key)
    again = api("POST", "ui-api/records", body, headers=key)
    assert first.status_code == again.status_code == 201
    assert first.json()["id"] == again.json()["id"]
    assert first.json()["fields"]["Name"]["value"] == "Once"
    assert count(api, "SELECT COUNT() FROM Account WHERE Name = 'Once'") == 1
    assert api("POST", "ui-api/records", body, headers={"Idempotency-Key": "no"}).status_code == 400


def test_a_graph_holds_rows_and_has_a_name_of_its_own(api: Api) -> None:
    row = calls(("POST", "/sobjects/Account", "a", {"Name": "In no graph"}))
    wrong = [
        [{"graphId": "g", "compositeRequest": calls(("GET", "/limits", "a", None))}],
        [{"graphId": "g", "compositeRequest": calls(("GET", "/query?q=SELECT Id FROM Account", "a", None))}],
        [{"graphId": "g", "compositeRequest": row}, {"graphId": "g", "compositeRequest": row}],
        [{"compositeRequest": row}],
    ]
    for graphs in wrong:
        assert api.error("POST", "composite/graph", {"graphs": graphs})[:2] == (400, "INVALID_INPUT")
    assert count(api, "SELECT COUNT() FROM Account WHERE Name = 'In no graph'") == 0
