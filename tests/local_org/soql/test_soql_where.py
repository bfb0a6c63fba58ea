"""Which rows a condition lets through. Source: SOQL and SOSL Reference, "WHERE"."""

from datetime import date, timedelta

import pytest

from local_org.soql.literals import days


@pytest.fixture
def accounts(caller):
    caller.add("Account", Name="Acme", Industry="Banking", AnnualRevenue=100, BillingCity="Köln")
    caller.add("Account", Name="acme two", Industry="Energy", AnnualRevenue=250)
    caller.add("Account", Name="100% pure_gold", AnnualRevenue=-7)
    caller.add("Account", Name="Bare")
    return caller


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("Name = 'ACME'", ["Acme"]),
        ("BillingCity = 'KÖLN'", ["Acme"]),
        ("BillingCity LIKE 'kÖ%'", ["Acme"]),
        ("Industry != 'Banking'", ["acme two", "100% pure_gold", "Bare"]),
        ("NOT Industry = 'Banking'", ["acme two", "100% pure_gold", "Bare"]),
        ("NOT (Industry = 'Banking' OR AnnualRevenue = null)", ["acme two", "100% pure_gold"]),
        ("Industry = null", ["100% pure_gold", "Bare"]),
        ("Industry = ''", ["100% pure_gold", "Bare"]),
        ("Industry != null", ["Acme", "acme two"]),
        ("Industry IN ('Banking', null)", ["Acme", "100% pure_gold", "Bare"]),
        ("Industry NOT IN ('Banking')", ["acme two", "100% pure_gold", "Bare"]),
        ("Name LIKE 'acme%'", ["Acme", "acme two"]),
        ("Name LIKE '____'", ["Acme", "Bare"]),
        (r"Name LIKE '100\% pure\_%'", ["100% pure_gold"]),
        (r"Name LIKE '%\%%'", ["100% pure_gold"]),
        ("(NOT Name LIKE 'a%')", ["100% pure_gold", "Bare"]),
        ("AnnualRevenue > 99.5 AND AnnualRevenue < 100.5", ["Acme"]),
        ("AnnualRevenue <= -7", ["100% pure_gold"]),
        ("AnnualRevenue = 100.5", []),
        ("AnnualRevenue != 100.5", ["Acme", "acme two", "100% pure_gold", "Bare"]),
        ("AnnualRevenue > 1e3", []),
        ("AnnualRevenue < 99999999999999999999", ["Acme", "acme two", "100% pure_gold"]),
        ("IsDeleted = null", ["Acme", "acme two", "100% pure_gold", "Bare"]),
    ],
)
def test_conditions_have_two_truth_values_and_ignore_case(accounts, condition, names) -> None:
    assert accounts.column(f"SELECT Name FROM Account WHERE {condition}") == names


def test_ids_are_found_in_both_forms_and_bad_ones_refused(accounts) -> None:
    record_id = accounts.column("SELECT Id FROM Account WHERE Name = 'Acme'")[0]
    assert accounts.count(f"SELECT COUNT() FROM Account WHERE Id = '{record_id[:15]}'") == 1
    assert accounts.count(f"SELECT COUNT() FROM Account WHERE Id IN ('{record_id}')") == 1
    found = accounts.error("SELECT Id FROM Account WHERE Id = 'abc'")
    assert found.code == "INVALID_QUERY_FILTER_OPERATOR"
    assert found.message.endswith("invalid ID field: abc")
    assert accounts.error("SELECT Id FROM Account WHERE Id LIKE '001%'").code == "INVALID_QUERY_FILTER_OPERATOR"


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ("Name = 5", "'Name' must be of type string and should be enclosed in quotes"),
        ("CreatedDate > 2026-01-01", "'CreatedDate' must be of type dateTime and should not be enclosed in quotes"),
        ("CreatedDate > '2026-01-01'", "'CreatedDate' must be of type dateTime and should not be enclosed in quotes"),
        ("AnnualRevenue = '5'", "'AnnualRevenue' must be of type double and should not be enclosed in quotes"),
        ("NumberOfEmployees = TODAY", "'NumberOfEmployees' must be of type int and should not be enclosed in quotes"),
        ("IsDeleted = 'true'", "'IsDeleted' must be of type boolean and should not be enclosed in quotes"),
    ],
)
def test_a_literal_of_another_type_is_an_invalid_field(caller, condition, text) -> None:
    found = caller.error(f"SELECT Id FROM Account WHERE {condition}")
    assert found.code == "INVALID_FIELD"
    assert found.message.endswith(text)


def test_long_text_is_neither_filtered_nor_sorted_nor_grouped(caller) -> None:
    assert "can not be filtered" in caller.error("SELECT Id FROM Account WHERE Description = 'x'").message
    assert "can not be sorted" in caller.error("SELECT Id FROM Account ORDER BY Description").message
    found = caller.error("SELECT COUNT(Id) FROM Account GROUP BY Description")
    assert (found.code, "can not be grouped" in found.message) == ("INVALID_FIELD", True)


def test_a_missing_parent_has_null_fields_and_false_booleans(caller) -> None:
    account = caller.add("Account", Name="Acme")
    caller.add("Contact", LastName="With", Name="With", AccountId=account)
    caller.add("Contact", LastName="Without", Name="Without")
    assert caller.column("SELECT Name FROM Contact WHERE Account.Name = null") == ["Without"]
    assert caller.column("SELECT Name FROM Contact WHERE Account.Name != 'Acme'") == ["Without"]
    both = caller.column("SELECT Name FROM Contact WHERE Account.IsDeleted = false")
    assert both == ["With", "Without"]


def test_semi_and_anti_joins(caller) -> None:
    first, second = caller.add("Account", Name="First"), caller.add("Account", Name="Second")
    caller.add("Contact", LastName="A", AccountId=first)
    caller.add("Contact", LastName="B")
    assert caller.column("SELECT Id FROM Account WHERE Id IN (SELECT AccountId FROM Contact)") == [first]
    anti = "SELECT Id FROM Account WHERE Id NOT IN (SELECT AccountId FROM Contact WHERE LastName LIKE '%')"
    assert caller.column(anti) == [second]
    join = "Id IN (SELECT AccountId FROM Contact)"
    for where in (
        f"Name = 'x' OR {join}",
        f"Name = 'x' OR (Site = 'y' AND {join})",
        f"NOT {join}",
        f"NOT (Site = 'y' AND {join})",
    ):
        message = caller.error(f"SELECT Id FROM Account WHERE {where}").message
        assert "only allowed at the top level WHERE expressions" in message
    same = "SELECT Id FROM Account WHERE Id IN (SELECT ParentId FROM Account)"
    assert "should not be on the same object type" in caller.error(same).message


def test_includes_means_all_of_one_of_the_values(caller) -> None:
    item = caller.org.store.catalogue.object("Account")
    from local_org.catalogue import Field

    caller.org.store.add_objects([item.with_fields([Field("Tags__c", "multipicklist", "Tags", length=4099)])])
    for tags in ("A;B", "A", "C;B", None):
        caller.add("Account", Name=str(tags), Tags__c=tags)

    def names(condition: str) -> list[str]:
        return caller.column(f"SELECT Name FROM Account WHERE Tags__c {condition}")

    assert names("INCLUDES ('A;B', 'C')") == ["A;B", "C;B"]
    assert names("INCLUDES ('a')") == ["A;B", "A"]
    assert names("EXCLUDES ('A')") == ["C;B", "None"]
    found = caller.error("SELECT Id FROM Account WHERE Name INCLUDES ('A')")
    assert found.code == "INVALID_QUERY_FILTER_OPERATOR"


def test_named_dates_work_on_dates_and_datetimes_in_the_users_zone(caller) -> None:
    caller.change("User", caller.user, TimeZoneSidKey="America/Los_Angeles")
    late = "2026-11-22T07:59:59Z"  # still the 21st in Los Angeles
    caller.add("Opportunity", Name="Late", CloseDate="2026-11-21", CreatedDate=late)
    caller.add("Opportunity", Name="Today", CloseDate="2026-11-22", CreatedDate="2026-11-22T08:00:00Z")
    for name in ("CloseDate", "CreatedDate"):
        assert caller.column(f"SELECT Name FROM Opportunity WHERE {name} = TODAY") == ["Today"]
        assert caller.column(f"SELECT Name FROM Opportunity WHERE {name} < TODAY") == ["Late"]
        assert caller.column(f"SELECT Name FROM Opportunity WHERE {name} <= YESTERDAY") == ["Late"]
        assert caller.column(f"SELECT Name FROM Opportunity WHERE {name} > YESTERDAY") == ["Today"]
        assert caller.count(f"SELECT COUNT() FROM Opportunity WHERE {name} IN (TODAY, YESTERDAY)") == 2


TODAY = date(2026, 11, 22)  # a Sunday


@pytest.mark.parametrize(
    ("name", "n", "start", "end"),
    [
        ("TODAY", None, "2026-11-22", "2026-11-23"),
        ("LAST_N_DAYS", 2, "2026-11-20", "2026-11-23"),
        ("NEXT_N_DAYS", 2, "2026-11-23", "2026-11-25"),
        ("N_DAYS_AGO", 2, "2026-11-20", "2026-11-21"),
        ("THIS_WEEK", None, "2026-11-22", "2026-11-29"),
        ("LAST_WEEK", None, "2026-11-15", "2026-11-22"),
        ("LAST_N_WEEKS", 2, "2026-11-08", "2026-11-22"),
        ("THIS_MONTH", None, "2026-11-01", "2026-12-01"),
        ("LAST_N_MONTHS", 11, "2025-12-01", "2026-11-01"),
        ("NEXT_MONTH", None, "2026-12-01", "2027-01-01"),
        ("THIS_QUARTER", None, "2026-10-01", "2027-01-01"),
        ("LAST_N_QUARTERS", 4, "2025-10-01", "2026-10-01"),
        ("N_FISCAL_QUARTERS_AGO", 1, "2026-07-01", "2026-10-01"),
        ("NEXT_N_YEARS", 2, "2027-01-01", "2029-01-01"),
        ("LAST_FISCAL_YEAR", None, "2025-01-01", "2026-01-01"),
        ("LAST_90_DAYS", None, str(TODAY - timedelta(days=90)), "2026-11-23"),
    ],
)
def test_named_dates_are_whole_days(name, n, start, end) -> None:
    span = days(name, n, TODAY)
    assert (span.start.isoformat(), span.end.isoformat()) == (start, end)
