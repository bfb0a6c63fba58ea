"""What is mirrored, as a user chooses it: objects, columns, intervals; changed while it is live, and taken away."""

from collections.abc import Iterator

import pytest

from tests.acceptance.stack import Stack, start_stack
from tests.conftest import new_database
from worker.local_servers import EmbeddedPostgres, free_port

pytestmark = pytest.mark.acceptance

USER = ("--user-id", "tester")
CONTACT = (*USER, "--object", "Contact")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres) -> Iterator[Stack]:
    """One for all: each test leaves no more than mirrors."""
    no_redis = f"redis://127.0.0.1:{free_port()}/0"
    folder = tmp_path_factory.mktemp("choice")
    with (
        new_database(postgres) as url,
        start_stack(folder, url, no_redis, seed="Account=20,Contact=50") as made,
    ):
        made.connect()
        yield made


def columns(stack: Stack) -> set[str]:
    rows = stack.rows(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'salesforce.contact'::regclass AND attnum > 0"
    )
    return {row[0] for row in rows}


def test_what_the_org_does_not_have_is_answered_at_once(stack: Stack) -> None:
    assert stack.sfsync("mirror", *USER, "--object", "Contcat", code=3) == ""
    assert stack.rows("SELECT count(*) FROM sfsync.mirrors") == [(0,)]
    stack.sfsync("mirror", *CONTACT, "--field", "LastNam", code=3)
    stack.sfsync("mirror", *CONTACT, "--where", "Nonsense__c = 1", code=3)
    stack.sfsync("mirror", *USER, "--field", "LastName", code=2)


def test_columns_and_intervals_are_chosen_and_changed_while_a_mirror_is_live(stack: Stack) -> None:
    stack.sfsync("mirror", *CONTACT, "--field", "lastname", "--field", "Email", "--every", "30", "--wait")
    assert {"id", "lastname", "email", "systemmodstamp", "isdeleted"} <= columns(stack)
    assert not {"phone", "firstname"} & columns(stack)
    (listed,) = stack.sfsync_json("mirror", *USER, "--list")
    assert (listed["object"], listed["refresh_seconds"]) == ("Contact", 30)
    assert listed["chosen_fields"] == ["LastName", "Email"]
    assert stack.sfsync_json("verify", *USER)[0]["differences"] == 0

    stack.sfsync("mirror", *CONTACT, "--field", "LastName", "--field", "Phone", "--audit-every", "0", "--wait")
    assert stack.rows("SELECT count(phone) > 0, count(*) FROM salesforce.contact") == [(True, 50)]
    drift = {(entry["field"], entry["change"]) for entry in stack.sfsync_json("drift", *USER)}
    assert drift == {("Phone", "chosen"), ("Email", "left out")}
    stack.sfsync("mirror", *CONTACT, "--all-fields", "--wait")
    assert stack.rows("SELECT count(*) FROM sfsync.runs WHERE kind = 'load'") == [(1,)]  # only what came was read
    assert stack.sfsync_json("verify", *USER, "--sample", "10")[0]["depth"] == "sample"
    assert stack.sfsync_json("verify", *USER)[0]["differences"] == 0
    assert [one["depth"] for one in stack.sfsync_json("verify", *USER, "--history")] == ["full", "sample", "full"]


def test_a_mirror_is_taken_away_with_or_without_its_table(stack: Stack) -> None:
    stack.sfsync("mirror", *USER, "--object", "Contact", "--object", "Account", "--wait")
    stack.sfsync("mirror", *CONTACT, "--remove", code=2)
    stack.sfsync("mirror", *CONTACT, "--remove", "--keep-tables")
    stack.sfsync("mirror", *USER, "--object", "Account", "--remove", "--drop-tables")
    assert stack.rows("SELECT to_regclass('salesforce.account') IS NULL, count(*) FROM salesforce.contact") == [
        (True, 50)
    ]
    assert stack.rows("SELECT count(*) FROM sfsync.mirrors") == [(0,)]
