"""What a query gives back: parents, children, groups, order. Source: SOQL and SOSL Reference."""

import pytest


def test_names_have_any_case_in_the_query_and_their_own_in_the_answer(caller) -> None:
    account = caller.add("Account", Name="Acme")
    caller.add("Contact", LastName="Lee", AccountId=account)
    answer = caller.ask("select ID, account.NAME from CONTACT")
    record = answer["records"][0]
    assert list(record) == ["attributes", "Id", "Account"]
    assert record["attributes"]["url"] == f"/services/data/v68.0/sobjects/Contact/{record['Id']}"
    assert record["Account"] == {
        "attributes": {"type": "Account", "url": f"/services/data/v68.0/sobjects/Account/{account}"},
        "Name": "Acme",
    }


def test_a_missing_parent_is_null_and_an_empty_child_list_too(caller) -> None:
    caller.add("Account", Name="Alone")
    caller.add("Contact", LastName="Alone")
    assert caller.records("SELECT Account.Name FROM Contact") == [{"Account": None}]
    assert caller.records("SELECT (SELECT Id FROM Contacts) FROM Account") == [{"Contacts": None}]


def test_parents_reach_five_levels_and_not_six(caller) -> None:
    above = None
    for level in range(6):
        above = caller.add("Account", Name=f"L{level}", ParentId=above)
    names = caller.records(f"SELECT Parent.Parent.Parent.Parent.Parent.Name FROM Account WHERE Id = '{above}'")
    for _ in range(5):
        names = [names[0]["Parent"]]
    assert names == [{"Name": "L0"}]
    assert caller.error("SELECT " + "Parent." * 6 + "Name FROM Account").code == "MALFORMED_QUERY"


def test_children_have_their_own_order_limit_and_filter(caller) -> None:
    account = caller.add("Account", Name="Acme")
    for name in ("C", "A", "B", "hidden"):
        caller.add("Contact", LastName=name, AccountId=account)
    soql = (
        "SELECT Name, (SELECT LastName FROM Contacts WHERE LastName != 'hidden' ORDER BY LastName LIMIT 2) FROM Account"
    )
    children = caller.records(soql)[0]["Contacts"]
    assert [r["LastName"] for r in children["records"]] == ["A", "B"]
    assert (children["totalSize"], children["done"]) == (2, True)


def test_a_polymorphic_parent_has_the_fields_that_every_owner_has(caller) -> None:
    user = caller.add("User", Username="u@example.com", Name="Uma", IsActive=True)
    caller.add("Lead", LastName="Lee", Company="C", OwnerId=user)
    record = caller.ask("SELECT Owner.Name, Owner.Type FROM Lead")["records"][0]["Owner"]
    assert record["attributes"] == {"type": "Name", "url": f"/services/data/v68.0/sobjects/User/{user}"}
    assert (record["Name"], record["Type"]) == ("Uma", "User")
    assert "No such column 'Fax' on entity 'Name'" in caller.error("SELECT Owner.Fax FROM Lead").message


def test_typeof_chooses_the_fields_by_the_kind_of_the_parent(caller) -> None:
    account = caller.add("Account", Name="Acme", Phone="1")
    opportunity = caller.add("Opportunity", Name="Deal", StageName="Prospecting")
    for what in (account, opportunity, None):
        caller.add("Task", WhatId=what)
    soql = "SELECT TYPEOF What WHEN Account THEN Phone WHEN Opportunity THEN StageName END FROM Task"
    records = caller.ask(soql)["records"]
    assert [r["What"] and r["What"]["attributes"]["type"] for r in records] == ["Account", "Opportunity", None]
    assert records[0]["What"]["Phone"] == "1"
    assert records[1]["What"]["StageName"] == "Prospecting"


def test_a_compound_address_is_an_object_or_null(caller) -> None:
    caller.add("Account", Name="With", BillingCity="Oslo", BillingLatitude=59.9)
    caller.add("Account", Name="Without")
    with_, without = caller.records("SELECT BillingAddress FROM Account ORDER BY Name")
    assert with_["BillingAddress"] == {
        "city": "Oslo",
        "country": None,
        "geocodeAccuracy": None,
        "latitude": 59.9,
        "longitude": None,
        "postalCode": None,
        "state": None,
        "street": None,
    }
    assert without["BillingAddress"] is None


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("AnnualRevenue", [None, 1.0, 2.0]),
        ("AnnualRevenue ASC NULLS LAST", [1.0, 2.0, None]),
        ("AnnualRevenue DESC NULLS LAST", [2.0, 1.0, None]),
        ("AnnualRevenue DESC NULLS FIRST", [None, 2.0, 1.0]),
    ],
)
def test_nulls_come_first_unless_said_otherwise(caller, order, expected) -> None:
    for value in (2, None, 1):
        caller.add("Account", Name="x", AnnualRevenue=value)
    assert caller.column(f"SELECT AnnualRevenue FROM Account ORDER BY {order}") == expected


def test_text_is_sorted_without_regard_to_case(caller) -> None:
    for name in ("b", "A", "C"):
        caller.add("Account", Name=name)
    assert caller.column("SELECT Name FROM Account ORDER BY Name") == ["A", "b", "C"]


def test_count_gives_no_records_and_obeys_limit(caller) -> None:
    for _ in range(3):
        caller.add("Account", Name="x")
    assert caller.ask("SELECT COUNT() FROM Account") == {"totalSize": 3, "done": True, "records": []}
    assert caller.count("SELECT COUNT() FROM Account LIMIT 2") == 2


def test_groups_are_named_by_field_alias_or_number(caller) -> None:
    for industry, revenue in (("Energy", 1), ("Energy", 2), (None, None), ("Banking", 5)):
        caller.add("Account", Name="x", Industry=industry, AnnualRevenue=revenue)
    soql = (
        "SELECT Industry, COUNT(Id), SUM(AnnualRevenue) total, AVG(AnnualRevenue), COUNT_DISTINCT(Name) n "
        "FROM Account GROUP BY Industry HAVING COUNT(Id) >= 1 ORDER BY COUNT(Id) DESC, Industry NULLS LAST"
    )
    answer = caller.ask(soql)
    assert answer["records"][0] == {
        "attributes": {"type": "AggregateResult"},
        "Industry": "Energy",
        "expr0": 2,
        "total": 3.0,
        "expr1": 1.5,
        "n": 1,
    }
    assert [r["Industry"] for r in answer["records"]] == ["Energy", "Banking", None]
    assert answer["totalSize"] == 3


def test_groups_by_parts_of_dates_and_by_parents_fields(caller) -> None:
    account = caller.add("Account", Name="Acme")
    for day in ("2025-12-31", "2026-01-01", "2026-04-01"):
        caller.add("Opportunity", Name="x", CloseDate=day, AccountId=account)
    by_year = "SELECT CALENDAR_YEAR(CloseDate), COUNT(Id) n FROM Opportunity GROUP BY CALENDAR_YEAR(CloseDate)"
    assert caller.records(by_year) == [{"expr0": 2025, "n": 1}, {"expr0": 2026, "n": 2}]
    assert caller.records("SELECT Account.Name, COUNT(Id) FROM Opportunity GROUP BY Account.Name") == [
        {"Name": "Acme", "expr0": 3}
    ]
    assert caller.count("SELECT COUNT() FROM Opportunity WHERE CALENDAR_QUARTER(CloseDate) = 1") == 1
    assert caller.count("SELECT COUNT() FROM Opportunity WHERE DAY_ONLY(CreatedDate) = 2026-11-22") == 3


def test_an_ungrouped_field_beside_an_aggregate_is_refused(caller) -> None:
    found = caller.error("SELECT Name, COUNT(Id) FROM Account")
    assert found.code == "MALFORMED_QUERY"
    assert found.message.endswith("Column:8\nField must be grouped or aggregated: Name")
    assert "only aggregate expressions" in caller.error("SELECT Name n FROM Account").message


def test_deleted_and_archived_rows_are_for_query_all(caller) -> None:
    account = caller.add("Account", Name="Acme")
    for deleted in (True, False):
        caller.add("Contact", LastName="x", AccountId=account, IsDeleted=deleted)
    caller.add("Task", IsArchived=True)
    assert caller.count("SELECT Id FROM Contact") == 1
    assert caller.count("SELECT Id FROM Contact", all_rows=True) == 2
    assert caller.count("SELECT COUNT() FROM Contact WHERE IsDeleted = true", all_rows=True) == 1
    assert caller.count("SELECT COUNT() FROM Contact WHERE IsDeleted = true") == 0
    nested = "SELECT (SELECT Id FROM Contacts) FROM Account"
    assert caller.records(nested, all_rows=True)[0]["Contacts"]["totalSize"] == 2
    assert (caller.count("SELECT Id FROM Task"), caller.count("SELECT Id FROM Task", all_rows=True)) == (0, 1)
    assert "ALL ROWS" in caller.error("SELECT Id FROM Contact ALL ROWS").message


def test_fields_needs_a_limit_of_200_for_all_and_custom(caller) -> None:
    caller.add("Account", Name="Acme")
    item = caller.org.store.catalogue.object("Account")
    assert set(caller.records("SELECT FIELDS(ALL) FROM Account LIMIT 200")[0]) == {f.name for f in item.fields.values()}
    standard = caller.records("SELECT FIELDS(STANDARD) FROM Account")[0]
    assert not any(name.endswith("__c") for name in standard)
    for soql in ("SELECT FIELDS(ALL) FROM Account", "SELECT FIELDS(CUSTOM) FROM Account LIMIT 201"):
        assert "must have a LIMIT of at most 200" in caller.error(soql).message


@pytest.mark.parametrize(
    ("soql", "code", "text"),
    [
        ("SELECT Foo FROM Account", "INVALID_FIELD", "Column:8\nNo such column 'Foo' on entity 'Account'."),
        ("SELECT Id FROM Nope__c", "INVALID_TYPE", "Column:16\nsObject type 'Nope__c' is not supported."),
        ("SELECT Boss.Name FROM Account", "INVALID_FIELD", "Didn't understand relationship 'Boss' in field path."),
        (
            "SELECT (SELECT Id FROM Foos) FROM Account",
            "INVALID_TYPE",
            "Didn't understand relationship 'Foos' in FROM part of query call.",
        ),
        ("SELECT Id, Id FROM Account", "INVALID_FIELD", "duplicate field selected: Id"),
        ("SELECT Id FROM Account OFFSET 2001", "NUMBER_OUTSIDE_VALID_RANGE", "Maximum SOQL offset allowed is 2000"),
    ],
)
def test_errors_name_the_place(caller, soql, code, text) -> None:
    found = caller.error(soql)
    assert (found.status, found.code) == (400, code)
    assert text in found.message


def test_a_hidden_field_is_as_unknown_as_a_missing_one(caller) -> None:
    caller.org.access.hide(caller.user, ["Lead"], {"Account": ["Phone"]})
    assert "No such column 'Phone' on entity 'Account'" in caller.error("SELECT Phone FROM Account").message
    assert caller.error("SELECT Id FROM Lead").code == "INVALID_TYPE"


def test_a_row_hidden_by_sharing_is_absent_also_as_a_parent(caller) -> None:
    account = caller.add("Account", Name="Secret")
    caller.add("Contact", LastName="x", AccountId=account)
    caller.org.access.hide_rows(caller.user, [account])
    assert caller.count("SELECT Id FROM Account", all_rows=True) == 0
    assert caller.records("SELECT Account.Name FROM Contact") == [{"Account": None}]


def test_format_gives_text_for_people(caller) -> None:
    caller.add("Opportunity", Name="x", Amount=1234.5, CloseDate="2026-11-02")
    soql = (
        "SELECT FORMAT(Amount), FORMAT(CloseDate) day, toLabel(StageName), convertCurrency(Amount) raw FROM Opportunity"
    )
    assert caller.records(soql) == [{"Amount": "$1,234.50", "day": "11/2/2026", "StageName": None, "raw": 1234.5}]


def test_using_scope_mine_is_what_the_user_owns(caller) -> None:
    caller.add("Account", Name="mine", OwnerId=caller.user)
    caller.add("Account", Name="other")
    assert caller.column("SELECT Name FROM Account USING SCOPE mine") == ["mine"]
    assert caller.count("SELECT COUNT() FROM Account USING SCOPE everything WHERE Name != null") == 2
    assert "not supported" in caller.error("SELECT Name FROM Account USING SCOPE team").message


def test_rollup_and_cube_add_subtotals(caller) -> None:
    for industry, rating, count in (("A", "Hot", 2), ("A", "Cold", 1), ("B", "Hot", 1)):
        for _ in range(count):
            caller.add("Account", Name="x", Industry=industry, Rating=rating)

    def rows(by: str, end: str = "") -> list[tuple]:
        soql = f"SELECT Industry, Rating, GROUPING(Rating) g, COUNT(Id) c FROM Account GROUP BY {by} {end}"
        return [tuple(record.values()) for record in caller.records(soql)]

    assert rows("ROLLUP(Industry, Rating)", "ORDER BY Industry NULLS LAST, GROUPING(Rating), Rating") == [
        ("A", "Cold", 0, 1),
        ("A", "Hot", 0, 2),
        ("A", None, 1, 3),
        ("B", "Hot", 0, 1),
        ("B", None, 1, 1),
        (None, None, 1, 4),
    ]
    cube = rows("CUBE(Industry, Rating)", "HAVING COUNT(Id) > 1")
    assert sorted(cube, key=str) == sorted(
        [("A", "Hot", 0, 2), ("A", None, 1, 3), (None, "Hot", 0, 3), (None, None, 1, 4)], key=str
    )
    assert (
        "takes one to 3 fields"
        in caller.error("SELECT COUNT(Id) FROM Account GROUP BY CUBE(Name, Site, Fax, Type)").message
    )


def test_distances_are_found_and_sorted(caller) -> None:
    for name, north, east in (("Oslo", 59.91, 10.75), ("Bergen", 60.39, 5.32), ("Nowhere", None, None)):
        caller.add("Account", Name=name, BillingLatitude=north, BillingLongitude=east)
    place = "DISTANCE(BillingAddress, GEOLOCATION(60.39, 5.32), 'km')"
    found = caller.records(f"SELECT Name, {place} far FROM Account WHERE {place} < 400 ORDER BY {place} DESC")
    assert [record["Name"] for record in found] == ["Oslo", "Bergen"]
    assert round(found[0]["far"]) == 305
    miles = place.replace("'km'", "'mi'")
    assert round(caller.records(f"SELECT {miles} FROM Account WHERE Name = 'Oslo'")[0]["expr0"]) == 190
    assert (
        "is not a location"
        in caller.error("SELECT Id FROM Account ORDER BY " + place.replace("BillingAddress", "Name")).message
    )


def test_averages_can_be_compared(caller) -> None:
    for amount in (1, 2):
        caller.add("Account", Name="x", Industry="A", AnnualRevenue=amount)
    soql = "SELECT Industry FROM Account GROUP BY Industry HAVING AVG(AnnualRevenue) {} 1.4"
    assert len(caller.records(soql.format(">"))) == 1
    assert caller.records(soql.format("<")) == []
