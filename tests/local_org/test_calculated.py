"""Fields that the org works out: formulas on read, roll-ups on the parent."""

from typing import Any

import pytest

from local_org.catalogue import Catalogue
from local_org.formula import FormulaError, formula_sql
from local_org.objects import standard_objects
from local_org.objects.build import make
from tests.local_org.calling import Api


def test_a_formula_moves_with_its_parent_and_leaves_the_stamp(api: Api) -> None:
    api.org.control.add_field("Contact", "Place__c", formula='UPPER(Account.Name) & " / " & BLANKVALUE(Title, "?")')
    account = api.create("Account", Name="Acme")
    contact = api.create("Contact", LastName="F", AccountId=account)
    before = api.read("Contact", contact)
    api.org.control.advance_clock(5)
    api("PATCH", f"sobjects/Account/{account}", {"Name": "Zenith"})
    after = api.read("Contact", contact)
    assert (before["Place__c"], after["Place__c"]) == ("ACME / ?", "ZENITH / ?")
    assert before["SystemModstamp"] == after["SystemModstamp"]
    found = api("GET", "query?q=SELECT Id FROM Contact WHERE Place__c = 'zenith / ?'").json()["records"]
    assert [record["Id"] for record in found] == [contact]


def test_numbers_of_a_formula_have_the_scale_of_the_field(api: Api) -> None:
    formula = "IF(IsClosed, 0, ROUND(Amount * Probability / 100, 1))"
    api.org.control.add_field("Opportunity", "Weighted__c", type="currency", precision=18, scale=2, formula=formula)
    values = {"Name": "D", "StageName": "Needs Analysis", "CloseDate": "2026-11-22", "Amount": 10.26}
    deal = api.create("Opportunity", **values)
    assert api.read("Opportunity", deal)["Weighted__c"] == 2.1
    field = {f["name"]: f for f in api("GET", "sobjects/Opportunity/describe").json()["fields"]}["Weighted__c"]
    assert (field["calculated"], field["calculatedFormula"], field["createable"]) == (True, formula, False)
    assert (
        api.error("PATCH", f"sobjects/Opportunity/{deal}", {"Weighted__c": 1})[1] == "INVALID_FIELD_FOR_INSERT_UPDATE"
    )


def test_a_rollup_follows_its_children_and_stamps_the_parent(api: Api) -> None:
    rollup = ["Opportunity", "AccountId", "SUM", "Amount"]
    api.org.control.add_field("Account", "Total__c", type="currency", precision=18, scale=2, rollup=rollup)
    account = api.create("Account", Name="Sum")
    stamp = api.read("Account", account)["SystemModstamp"]
    values: dict[str, Any] = {"StageName": "Prospecting", "CloseDate": "2026-11-22", "AccountId": account}
    api.org.control.advance_clock(5)
    deals = [api.create("Opportunity", Name=f"D{n}", Amount=n, **values) for n in (1, 2.5)]
    row = api.read("Account", account)
    assert row["Total__c"] == 3.5
    assert row["SystemModstamp"] > stamp
    assert row["LastModifiedDate"] == stamp
    api("PATCH", f"sobjects/Opportunity/{deals[0]}", {"Amount": 10})
    api("DELETE", f"sobjects/Opportunity/{deals[1]}")
    assert api.read("Account", account)["Total__c"] == 10.0
    api.org.control.undelete_rows("Opportunity", ids=[deals[1]])
    assert api.read("Account", account)["Total__c"] == 12.5


@pytest.mark.parametrize("text", ["Nope", "Account.Nope", "IF(1", "1 +", "FOO(1)", "Name ? 1", "LEFT(Name)"])
def test_a_formula_that_cannot_be_read_is_refused(text: str) -> None:
    field = make("string", "X__c", "X", length=10, formula=text)
    catalogue = Catalogue(item.with_fields([field]) if item.name == "Contact" else item for item in standard_objects())
    with pytest.raises(FormulaError):
        formula_sql(catalogue, "Contact", field, "t")
