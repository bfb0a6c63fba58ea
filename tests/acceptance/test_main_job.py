"""The main job, as a user runs it: connect, mirror, change, refresh, verify; with workers killed and Redis away."""

import csv
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests.acceptance.stack import Stack, start_stack
from worker.local_servers import EmbeddedValkey, free_port

pytestmark = pytest.mark.acceptance

USER = ("--user-id", "tester")
NO_REDIS = "redis://127.0.0.1:{port}/0"


def record_id(prefix: str, number: int) -> str:
    """An 18-character id: 15 digits, so that its checksum is AAA."""
    return f"{prefix}{number:012}AAA"


def write_export(folder: Path, accounts: int, opportunities: int) -> None:
    """A Salesforce Data Export: one CSV per object, every value quoted, ties in SystemModstamp, awkward values."""
    folder.mkdir()
    stamp = "2024-05-06T07:08:09.000Z"
    audit = {"CreatedDate": "2020-01-02T03:04:05.000Z", "LastModifiedDate": stamp, "SystemModstamp": stamp}
    names = ['say "hi", twice', "line\nbreak", "Ünïcödé 😀", "#N/A", "null", "tab\there"]
    with (folder / "Account.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["Id", "IsDeleted", "Name", "AnnualRevenue", *audit], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        for n in range(accounts):
            name = names[n % len(names)] + f" {n}"
            revenue = f"{n}999999999.00" if n % 3 else ""
            row = {"Id": record_id("001", n), "IsDeleted": "false", "Name": name, "AnnualRevenue": revenue}
            writer.writerow(row | audit)
    with (folder / "Opportunity.csv").open("w", newline="") as file:
        columns = ["Id", "IsDeleted", "Name", "AccountId", "StageName", "Amount", "CloseDate", *audit]
        writer = csv.DictWriter(file, columns, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        for n in range(opportunities):
            row = {"Id": record_id("006", n), "IsDeleted": "false", "Name": f"Deal {n}", "StageName": "Prospecting"}
            row |= {
                "AccountId": record_id("001", n % accounts),
                "CloseDate": "2024-02-29",
                "Amount": f"{n}.{n % 100:02}",
            }
            writer.writerow(row | audit)


@pytest.fixture
def imported(tmp_path: Path, database_url: str, valkey: EmbeddedValkey) -> Iterator[Stack]:
    write_export(tmp_path / "export", accounts=60, opportunities=3000)
    with start_stack(tmp_path, database_url, valkey.url, import_dir=tmp_path / "export") as stack:
        stack.connect()
        yield stack


def test_an_imported_org_is_mirrored_changed_refreshed_and_verified(imported: Stack) -> None:
    stack = imported
    stack.start("worker", "backfill")
    stack.start("worker", "refresh")
    stack.sfsync("mirror", *USER, "--object", "Account", "--object", "Opportunity", "--wait")
    assert stack.rows("SELECT count(*) FROM salesforce.account") == [(60,)]
    assert stack.rows("SELECT count(*), sum(amount) FROM salesforce.opportunity") == [
        (3000, sum(Decimal(f"{n}.{n % 100:02}") for n in range(3000)))
    ]
    assert stack.rows("SELECT name, annualrevenue FROM salesforce.account WHERE id = %s", record_id("001", 1)) == [
        ("line\nbreak 1", 1_999_999_999)
    ]
    stack.sfsync("verify", *USER)

    stack.org.control.change_rows("Opportunity", count=500, seed=1)
    stack.org.control.delete_rows("Opportunity", count=50, seed=2)
    stack.sfsync("verify", *USER, "--json")  # verifying refreshes first: what moved meanwhile is no difference
    stack.sfsync("mirror", *USER, "--wait")
    assert stack.rows("SELECT count(*) FROM salesforce.opportunity") == [(2950,)]
    assert stack.rows("SELECT count(*) FROM salesforce._tombstones WHERE object = 'Opportunity'") == [(50,)]
    stack.sfsync("verify", *USER)


def test_verify_finds_and_repairs_what_was_spoilt_here(imported: Stack) -> None:
    stack = imported
    stack.sfsync("mirror", *USER, "--object", "Account", "--wait")
    stack.rows("UPDATE salesforce.account SET name = 'spoilt' WHERE id = %s", record_id("001", 7))
    stack.rows("DELETE FROM salesforce.account WHERE id = %s", record_id("001", 8))
    stack.sfsync("verify", *USER, "--object", "Account", code=1)
    stack.sfsync("verify", *USER, "--object", "Account", "--repair", code=1)
    stack.sfsync("verify", *USER, "--object", "Account")


def test_a_worker_killed_five_times_during_a_load_loses_and_doubles_nothing(
    tmp_path: Path, database_url: str, valkey: EmbeddedValkey
) -> None:
    rows = 30_000
    with start_stack(tmp_path, database_url, valkey.url, seed=f"Contact={rows}") as stack:
        stack.connect()
        stack.sfsync("mirror", *USER, "--object", "Contact")
        loaded = 0
        for _ in range(5):
            worker = stack.start("worker", "backfill")
            stack.wait_for("SELECT count(*) > %s FROM sfsync.run_pages WHERE state = 'loaded'", loaded)
            stack.kill(worker)
            loaded = stack.rows("SELECT count(*) FROM sfsync.run_pages WHERE state = 'loaded'")[0][0]
        stack.start("worker", "backfill")
        stack.wait_for("SELECT state = 'live' FROM sfsync.mirrors")
        assert stack.rows("SELECT count(*) FROM salesforce.contact") == [(rows,)]
        assert stack.rows("SELECT count(DISTINCT job_id), count(*) FROM sfsync.runs WHERE kind = 'load'") == [(1, 1)]
        stack.sfsync("verify", *USER)


def test_everything_works_with_redis_absent_from_the_first_second(tmp_path: Path, database_url: str) -> None:
    with start_stack(
        tmp_path, database_url, NO_REDIS.format(port=free_port()), seed="Contact=3000,Account=200"
    ) as stack:
        stack.connect()
        stack.start("worker", "backfill")
        stack.start("worker", "refresh")
        stack.sfsync("mirror", *USER, "--object", "Contact", "--object", "Account", "--wait")
        stack.org.control.change_rows("Contact", count=100, seed=3)
        stack.sfsync("mirror", *USER, "--wait")
        stack.sfsync("verify", *USER)
