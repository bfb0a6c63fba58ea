"""Pages of a query's result. Source: REST API Developer Guide, "Query", "Query More Results"."""

from pathlib import Path

import pytest

from local_org import query
from local_org.clock import Clock
from local_org.errors import ApiError
from local_org.org import Org


def fill(caller, count: int, **values) -> list[str]:
    return [caller.add("Account", Name=f"A{n:04d}", **values) for n in range(count)]


def locator(answer) -> str:
    return answer["nextRecordsUrl"].rpartition("/")[2]


def test_pages_follow_each_other_until_done(caller) -> None:
    ids = fill(caller, 450)
    first = caller.ask("SELECT Id FROM Account ORDER BY Name", batch_size=200)
    assert (first["totalSize"], first["done"], len(first["records"])) == (450, False, 200)
    assert first["nextRecordsUrl"].startswith("/services/data/v68.0/query/0r8")
    assert first["nextRecordsUrl"].endswith("-200")
    second = query.more(caller.context(query={"q": "ignored"}), locator(first))
    third = query.more(caller.context(), locator(second))
    assert third["done"]
    assert "nextRecordsUrl" not in third
    assert [r["Id"] for page in (first, second, third) for r in page["records"]] == ids


def test_a_batch_size_is_brought_between_200_and_2000(caller) -> None:
    fill(caller, 201)
    assert len(caller.ask("SELECT Id FROM Account", batch_size=1)["records"]) == 200
    assert caller.ask("SELECT Id FROM Account", batch_size=9999)["done"]
    ctx = caller.context(query={"q": "SELECT Id FROM Account"}, headers={"sforce-query-options": "batchSize=200"})
    assert not query.run_query(ctx)["done"]


def test_a_later_page_has_the_ids_of_then_and_the_values_of_now(caller) -> None:
    ids = fill(caller, 205)
    first = caller.ask("SELECT Id, Name FROM Account WHERE Name LIKE 'A%' ORDER BY Name", batch_size=200)
    caller.change("Account", ids[201], Name="changed")
    caller.change("Account", ids[202], IsDeleted=1)
    caller.add("Account", Name="A9999")
    later = query.more(caller.context(), locator(first))
    assert [r["Id"] for r in later["records"]] == [ids[200], ids[201], ids[203], ids[204]]
    assert later["records"][1]["Name"] == "changed"
    assert (later["totalSize"], later["done"]) == (205, True)


def test_a_cursor_survives_a_restart_of_the_org(caller, tmp_path: Path) -> None:
    fill(caller, 201)
    first = caller.ask("SELECT Id FROM Account", batch_size=200)
    caller.org.close()
    caller.org = Org(tmp_path / "org", caller.org.store.clock)
    assert len(query.more(caller.context(), locator(first))["records"]) == 1


@pytest.mark.parametrize("bad", ["nonsense", "0r8Lo0000000099AAA-200", "01gLo0000000001IAA-2000", "../x-1"])
def test_an_unknown_locator_is_refused(caller, bad) -> None:
    with pytest.raises(ApiError) as caught:
        query.more(caller.context(), bad)
    assert (caught.value.code, caught.value.message) == ("INVALID_QUERY_LOCATOR", "invalid query locator")


def test_a_cursor_ends_after_two_days_and_belongs_to_its_user(caller) -> None:
    fill(caller, 201)
    first = caller.ask("SELECT Id FROM Account", batch_size=200)
    with pytest.raises(ApiError):
        query.more(caller.context(user="005Lo0000000002AAA"), locator(first))
    clock: Clock = caller.org.store.clock
    clock.advance(2 * 86_400_000)
    assert query.more(caller.context(), locator(first))["done"]
    clock.advance(1000)
    with pytest.raises(ApiError) as caught:
        query.more(caller.context(), locator(first))
    assert caught.value.code == "INVALID_QUERY_LOCATOR"


def test_many_children_come_in_pages_of_their_own(caller) -> None:
    account = caller.add("Account", Name="Acme")
    for n in range(203):
        caller.add("Contact", LastName=f"C{n}", AccountId=account)
    children = caller.ask("SELECT (SELECT LastName FROM Contacts) FROM Account", batch_size=200)["records"][0][
        "Contacts"
    ]
    assert (children["totalSize"], children["done"], len(children["records"])) == (203, False, 200)
    rest = query.more(caller.context(), locator(children))
    assert [r["LastName"] for r in rest["records"]] == ["C200", "C201", "C202"]


def test_explain_tells_how_many_rows_a_query_finds(caller) -> None:
    ids = fill(caller, 4)
    ctx = caller.context(query={"explain": f"SELECT Id FROM Account WHERE Id = '{ids[0]}'"})
    plan = query.run_query(ctx)["plans"][0]
    assert (plan["cardinality"], plan["sobjectCardinality"], plan["leadingOperationType"]) == (1, 4, "Index")


def test_columns_tells_what_a_query_selects(caller) -> None:
    def columns(soql: str):
        return query.run_query(caller.context(query={"q": soql, "columns": "true"}))

    told = columns("SELECT Id, Owner.Name, (SELECT LastName FROM Contacts) FROM Account")
    assert (told["entityName"], told["idSelected"], told["groupBy"]) == ("Account", True, False)
    names = [
        (c["columnName"], c["aggregate"], [j["columnName"] for j in c["joinColumns"]]) for c in told["columnMetadata"]
    ]
    assert names == [("Id", False, []), ("Owner", False, ["Name"]), ("Contacts", True, ["LastName"])]
    grouped = columns("SELECT Industry, COUNT(Id) FROM Account GROUP BY Industry")["columnMetadata"]
    assert [(c["columnName"], c["displayName"], c["aggregate"]) for c in grouped] == [
        ("Industry", "Industry", False),
        ("expr0", "count", True),
    ]
