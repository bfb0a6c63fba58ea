"""What an org keeps and lets go: snapshots, the recycle bin, late commits in the journal."""

from tests.local_org.calling import Api
from tests.org import Org

DAY_SECONDS = 86_400


def ids_of(api: Api, soql: str, *, deleted: bool = False) -> set[str]:
    answer = api("GET", "queryAll" if deleted else "query", params={"q": soql})
    assert answer.status_code == 200, answer.text
    return {record["Id"] for record in answer.json()["records"]}


def test_restores_follow_each_other_and_readers_see_each(org: Org, api: Api) -> None:
    first = api.create("Account", Name="kept")
    org.control.snapshot("one")
    later = api.create("Account", Name="not kept")
    org.control.snapshot("two")
    for _ in range(3):
        org.control.restore("one")
        assert api("GET", f"sobjects/Account/{first}").status_code == 200
        assert api("GET", f"sobjects/Account/{later}").status_code == 404
        api.create("Account", Name="again")
        org.control.restore("two")
        assert api("GET", f"sobjects/Account/{later}").status_code == 200


def test_a_pages_cursor_outlives_a_restore(org: Org, api: Api) -> None:
    org.control.create_rows("Lead", count=300)
    org.control.snapshot("pages")
    page = api("GET", "query", params={"q": "SELECT Id FROM Lead"}, headers={"Sforce-Query-Options": "batchSize=200"})
    org.control.restore("pages")
    more = api.http.get(org.url + page.json()["nextRecordsUrl"], timeout=30).json()
    assert more["done"]
    assert len(more["records"]) == more["totalSize"] - 200


def test_the_recycle_bin_empties_itself_after_fifteen_days(org: Org, api: Api) -> None:
    account = api.create("Account", Name="old")
    contact = api.create("Contact", LastName="below", AccountId=account)
    api("DELETE", f"sobjects/Account/{account}")
    org.control.advance_clock(14 * DAY_SECONDS)
    api.http.headers["Authorization"] = f"Bearer {org.token()}"
    young = api.create("Account", Name="young")
    api("DELETE", f"sobjects/Account/{young}")
    assert {account, young} <= ids_of(api, "SELECT Id FROM Account WHERE IsDeleted = TRUE", deleted=True)
    org.control.advance_clock(2 * DAY_SECONDS)
    api.http.headers["Authorization"] = f"Bearer {org.token()}"
    left = ids_of(api, "SELECT Id FROM Account WHERE IsDeleted = TRUE", deleted=True)
    assert young in left
    assert account not in left
    assert contact not in ids_of(api, "SELECT Id FROM Contact", deleted=True)
    removed = {entry["id"] for entry in org.control.journal() if entry["operation"] == "remove"}
    assert {account, contact} <= removed


def test_the_journal_has_late_commits_once_they_are_visible(org: Org, api: Api) -> None:
    org.control.late_commits(seconds=60)
    account = api.create("Account", Name="late")
    assert api("GET", f"sobjects/Account/{account}").status_code == 404
    assert account not in {entry["id"] for entry in org.control.journal()}
    org.control.advance_clock(61)
    assert api("GET", f"sobjects/Account/{account}").status_code == 200
    assert [entry["operation"] for entry in org.control.journal() if entry["id"] == account] == ["insert"]


def test_bulk_rows_obey_rules_locks_and_late_commits(org: Org, api: Api) -> None:
    def ingest(operation: str, csv: str) -> tuple[str, str]:
        job = api("POST", "jobs/ingest", {"object": "Account", "operation": operation}).json()["id"]
        api("PUT", f"jobs/ingest/{job}/batches", data=csv.encode(), headers={"Content-Type": "text/csv"})
        api("PATCH", f"jobs/ingest/{job}", {"state": "UploadComplete"})
        while api("GET", f"jobs/ingest/{job}").json()["state"] not in ("JobComplete", "Failed"):
            pass
        failed = api("GET", f"jobs/ingest/{job}/failedResults").text
        return api("GET", f"jobs/ingest/{job}/successfulResults").text, failed

    rule = {"object": "Account", "condition": "Name = 'forbidden'", "message": "not this name"}
    org.control.set_rules(validation=[rule])
    _, failed = ingest("insert", "Name\nforbidden\n")
    assert "FIELD_CUSTOM_VALIDATION_EXCEPTION:not this name" in failed
    org.control.set_rules()
    account = api.create("Account", Name="locked")
    org.control.change_settings(lock_wait_ms=100)
    org.control.hold_rows([account], 600)
    _, failed = ingest("update", f"Id,Site\n{account},x\n")
    assert "UNABLE_TO_LOCK_ROW:" in failed
    org.control.hold_rows([account], 0)
    org.control.late_commits(seconds=60)
    done, _ = ingest("insert", "Name\nbulk late\n")
    record = done.splitlines()[1].split(",")[0].strip('"')
    assert api("GET", f"sobjects/Account/{record}").status_code == 404
    org.control.advance_clock(61)
    assert api("GET", f"sobjects/Account/{record}").status_code == 200
