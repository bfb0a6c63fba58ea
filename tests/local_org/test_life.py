"""A data folder over time: import, export, restart, the same bytes for the same seed, HTTPS with a CA of its own."""

import csv
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import requests
from simple_salesforce import Salesforce

from local_org import dml, seed
from local_org.org import Org
from tests.local_org.calling import Api
from tests.org import start_org

SEED = "Account=5,Contact=25,Opportunity=10"
MADE = "2016-10-01T09:00:00.000Z"
OWNER = "0055g0000000001AAA"
EXPORT = {
    "User": [
        ["Id", "Username", "FirstName", "LastName", "Email", "IsActive", "CreatedDate", "SystemModstamp"],
        [OWNER, "ada@crm.example", "Ada", "Abel", "ada@crm.example", "true", MADE, MADE],
    ],
    "Account": [
        ["Id", "IsDeleted", "Name", "Industry", "AnnualRevenue", "Region__c", "OwnerId", "CreatedDate",
         "SystemModstamp"],
        ["0015g00000000G8AAI", "false", 'Acme, "Corp"', "technolgy", "1100040000.00", "EMEA", OWNER, MADE,
         "2017-01-01T09:00:00.000Z"],
        ["0015g00000000GFAAY", "true", "Gone", "", "", "", OWNER, MADE, "2017-01-02T09:00:00.000Z"],
    ],
    "Opportunity": [
        ["Id", "Name", "AccountId", "StageName", "Probability", "Amount", "CloseDate", "IsClosed", "SystemModstamp"],
        ["0065g0000000D0SAAU", "Deal", "0015g00000000G8AAI", "Closed Won", "100", "1054.00", "2017-03-01", "true",
         "2017-03-01T17:00:00.000Z"],
    ],
}  # fmt: skip


def write_export(folder: Path) -> Path:
    folder.mkdir()
    for name, rows in EXPORT.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return folder


def counts(api: Api, *names: str) -> list[int]:
    return [api("GET", f"query?q=SELECT COUNT() FROM {name}").json()["totalSize"] for name in names]


def test_an_export_folder_becomes_an_org_and_comes_out_again(tmp_path: Path) -> None:
    with start_org(tmp_path / "org", import_dir=write_export(tmp_path / "export")) as org:
        api = Api(org)
        assert org.user_id == "0055g0000000001AAA"
        assert counts(api, "User", "Account", "Opportunity") == [1, 1, 1]
        account = api.read("Account", "0015g00000000G8AAI")
        assert (account["Name"], account["AnnualRevenue"], account["Region__c"]) == (
            'Acme, "Corp"',
            1100040000.0,
            "EMEA",
        )
        assert account["SystemModstamp"] == "2017-01-01T09:00:00.000+0000"
        deal = api.read("Opportunity", "0065g0000000D0SAAU")
        assert (deal["ExpectedRevenue"], deal["FiscalYear"], deal["IsWon"]) == (1054.0, 2017, True)
        assert api.error("GET", "sobjects/Account/0015g00000000GFAAY")[1] == "ENTITY_IS_DELETED"
        exported = tmp_path / "out"
        org.control.export(str(exported))
        with (exported / "Account.csv").open(encoding="utf-8", newline="") as file:
            rows = {row["Id"]: row for row in csv.DictReader(file)}
        assert rows["0015g00000000G8AAI"]["Name"] == 'Acme, "Corp"'
        assert rows["0015g00000000GFAAY"]["IsDeleted"] == "true"


def test_an_org_opens_again_as_it_was(tmp_path: Path) -> None:
    with start_org(tmp_path / "org", seed=SEED) as org:
        api = Api(org)
        contact = api.create("Contact", LastName="Kept", External_Key__c="k")
        org.control.add_field("Contact", "Score__c", type="double", precision=6, scale=2)
        token = org.token()
        used = org.control.status()["records"]
    with start_org(tmp_path / "org", seed=SEED) as org:
        api = Api(org, token=token)
        assert api.read("Contact", contact)["Score__c"] is None
        assert org.control.status()["records"] == used


def contacts(folder: Path, seed_text: str, *, between: int = 0) -> list[Any]:
    """The first rows of an org that was seeded; with `between`, so many more were made by callers."""
    org = Org(folder)
    try:
        seed.seed_basics(org)
        seed.seed(org, seed.parse_counts(seed_text))
        item = org.store.catalogue.object("Contact")
        assert item is not None
        with org.writing(org.admin_id) as change:
            for number in range(between):
                dml.insert(change, item, {"LastName": f"between {number}"})
        with org.store.read() as conn:
            return list(conn.execute('SELECT * FROM "Contact" ORDER BY "Id"'))
    finally:
        org.close()


def test_the_same_seed_gives_the_same_records_in_any_size(tmp_path: Path) -> None:
    small = contacts(tmp_path / "a", "Account=5,Contact=20")
    assert len(small) == 20
    assert small == contacts(tmp_path / "b", "Account=5,Contact=50")[:20]


def test_a_seed_grows_around_what_callers_made(tmp_path: Path) -> None:
    first = contacts(tmp_path / "a", "Account=5,Contact=20", between=3)
    assert len({row[0] for row in first}) == 23
    grown = contacts(tmp_path / "a", "Account=5,Contact=30", between=1)
    assert grown[:23] == first
    assert len({row[0] for row in grown}) == 31


def test_a_large_seed_is_made_aside_and_keeps_its_indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = contacts(tmp_path / "a", "Account=5,Contact=60")
    monkeypatch.setattr(seed, "LARGE", 10)
    assert contacts(tmp_path / "b", "Account=5,Contact=60") == usual
    for name in ("a", "b"):
        with sqlite3.connect(tmp_path / name / "org.sqlite3") as conn:
            (count,) = conn.execute("SELECT count(*) FROM sqlite_master WHERE type = 'index' AND tbl_name = 'Contact'")
            assert count[0] > 8


def test_simple_salesforce_works_over_https_with_the_orgs_ca(tmp_path: Path) -> None:
    with start_org(tmp_path / "org", seed=SEED, http=False) as org:
        session = requests.Session()
        session.verify = str(org.ca_file)
        session.trust_env = False
        sf = Salesforce(instance_url=org.url, session_id=org.token(), session=session, version="68.0")
        made = sf.Contact.create({"LastName": "Simple", "Email": "s@example.com"})
        assert sf.Contact.get(made["id"])["LastName"] == "Simple"
        assert sf.Contact.upsert("External_Key__c/S-1", {"LastName": "Up"}) == 201
        assert sf.Contact.update(made["id"], {"Title": "T"}) == 204
        assert sf.Contact.delete(made["id"]) == 204
        assert sf.query("SELECT COUNT() FROM Contact")["totalSize"] == 26
        assert len(list(sf.query_all_iter("SELECT Id FROM Contact"))) == 26
        assert {item["name"] for item in sf.describe()["sobjects"]} >= {"Account", "Contact", "User"}
        assert sf.limits()["DailyApiRequests"]["Max"] == 100_000
        pages = list(sf.bulk2.Contact.query("SELECT Id, LastName FROM Contact", max_records=10, wait=0.2))
        assert sum(page.count("\n") - 1 for page in pages) == 26
        assert sf.api_usage["api-usage"].total == 100_000
