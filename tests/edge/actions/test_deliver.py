"""Delivery against a whole org, over the wire: once, in order, whatever happens in between."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.edge.actions.world import LATER, World, rest_create
from tests.edge.test_local_org import client_of
from tests.org import Org, start_org
from worker.actions import decide, deliver
from worker.actions.intent import Intent
from worker.actions.lifecycle import ATTEMPTS
from worker.db import Database
from worker.errors import DisconnectedError, FencedError
from worker.salesforce import rest, versions
from worker.steps import Again, Busy, Done

# A number that was taken stays taken, also where its transaction is undone.
DEADLOCK_ONCE = """
CREATE SEQUENCE public.failures;
CREATE FUNCTION public.fail_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('public.failures') = 1 THEN
        RAISE EXCEPTION 'deadlock detected' USING ERRCODE = 'deadlock_detected';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER fail_once AFTER INSERT ON sfsync.action_attempts FOR EACH ROW EXECUTE FUNCTION public.fail_once();
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Org]:
    with start_org(tmp_path_factory.mktemp("deliver") / "org", seed="Account=3,Contact=3,Opportunity=3") as org:
        yield org


@pytest.fixture
def world(shared: Org, database: Database, database_url: str) -> Iterator[World]:
    shared.control.clear_faults()
    shared.control.clear_ledger()
    yield World(shared, database, database_url)
    shared.control.clear_faults()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A record name of this test alone."""
    return f"t {abs(hash(request.node.nodeid)) % 10**9}"


def contact(name: str, **fields: Any) -> Intent:
    return Intent("Contact", "create", {"LastName": name, **fields})


def plain(name: str) -> Intent:
    """A create of an object without a key field."""
    return Intent("Campaign", "create", {"Name": name})


def test_creates_go_in_one_call_and_are_remembered(world: World, name: str) -> None:
    world.accept(*[contact(name) for _ in range(5)])
    assert isinstance(world.step(), Again)
    found = world.find("Contact", name)
    outcomes = world.rows("SELECT outcome ->> 'id', record_id, remembered_at IS NOT NULL FROM sfsync.actions")
    assert len(found) == 5
    assert {row[0] for row in outcomes} == {row["Id"] for row in found}
    assert all(row == (row[0], row[0], True) for row in outcomes)
    assert sorted(world.remembered) == sorted(("Contact", row["Id"]) for row in found)
    assert world.writes() == 1
    assert isinstance(world.step(), Done)
    assert world.rows("SELECT next_due_at FROM sfsync.action_queues") == [(None,)]


def test_an_update_is_exact_and_the_next_one_of_the_record_follows(world: World, name: str) -> None:
    ((record_id,), *_) = [
        (row["Id"],) for row in rest.query(client_of(world.org), "SELECT Id FROM Opportunity").records
    ]
    for amount in (Decimal("1234567890123456.78"), Decimal("2.50")):
        world.accept(Intent("Opportunity", "update", {"Name": name, "Amount": amount}, record_id=record_id))
    world.step()
    assert world.find("Opportunity", name, "Amount")[0]["Amount"] == Decimal("1234567890123456.78")
    world.step()
    assert world.find("Opportunity", name, "Amount")[0]["Amount"] == Decimal("2.5")
    assert world.states() == ["delivered", "delivered"]


def test_one_refused_record_blocks_no_other_and_keeps_the_orgs_words(world: World, name: str) -> None:
    world.accept(contact(name, Email="nonsense"), contact(name))
    world.step()
    assert sorted(world.states()) == ["delivered", "rejected"]
    assert world.error()["code"] == "INVALID_EMAIL_ADDRESS"
    assert world.error()["fields"] == ["Email"]


def test_a_batch_that_is_refused_as_a_whole_is_halved_until_the_culprit_is_alone(world: World, name: str) -> None:
    bad = {"status": 400, "body": [{"errorCode": "INVALID_FIELD", "message": "No such column", "fields": []}]}
    world.spoil(bad, body_regex=f"{name} bad", times=None)
    world.accept(*[contact(f"{name} bad" if place == 3 else name) for place in range(8)])
    world.step()
    assert sorted(world.states()) == ["delivered"] * 7 + ["rejected"]
    assert len(world.find("Contact", name)) == 7


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_keyed_create_whose_answer_is_lost_is_there_once(world: World, name: str, cut: str) -> None:
    world.spoil({"cut": cut})
    world.accept(contact(name))
    world.step()
    assert world.states() == ["in_doubt"]
    world.step()
    world.step()
    assert world.states() == ["delivered"]
    assert len(world.find("Contact", name)) == 1


def test_a_keyed_create_whose_worker_died_after_sending_is_there_once(world: World, name: str) -> None:
    world.accept(contact(name))
    _die_before_the_outcome(world)
    assert len(world.find("Contact", name)) == 1
    world.rows("UPDATE sfsync.actions SET claim_until = clock_timestamp() - interval '1 second'")
    world.step()
    world.step()
    assert world.states() == ["delivered"]
    assert len(world.find("Contact", name)) == 1


@pytest.mark.parametrize("cut", ["before", "after"])
def test_an_unkeyed_create_whose_answer_is_lost_is_there_once(world: World, name: str, cut: str) -> None:
    world.spoil({"cut": cut})
    world.accept(plain(name))
    world.step()
    world.step()
    assert world.states() == ["delivered" if cut == "after" else "in_doubt"]
    world.step(later=LATER)
    world.step(later=LATER)
    assert world.states() == ["delivered"]
    assert len(world.find("Campaign", name)) == 1
    assert world.rows("SELECT outcome -> 'adopted' FROM sfsync.actions") == [(True if cut == "after" else None,)]


def test_equal_unkeyed_creates_in_doubt_are_paired_one_to_one(world: World, name: str) -> None:
    world.accept(*[plain(name) for _ in range(4)])
    world.spoil({"cut": "after"})
    world.step()
    world.step()
    assert world.states() == ["delivered"] * 4
    assert len({row[0] for row in world.rows("SELECT record_id FROM sfsync.actions")}) == 4
    assert len(world.find("Campaign", name)) == 4


def test_the_record_of_another_connection_of_the_same_user_is_not_adopted(world: World, name: str) -> None:
    world.accept(plain(name))
    world.step()
    world.rows(
        """
        WITH other AS (
            INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token, salesforce_user_id)
            SELECT 'other', grant_type, login_url, 'other', access_token, salesforce_user_id FROM salesforce_oauth_tokens
            RETURNING id)
        UPDATE sfsync.actions SET connection_id = other.id FROM other
        """
    )
    world.spoil({"cut": "before"})
    world.accept(plain(name))
    for later in (0, 0, 700, 700):
        world.step(later=timedelta(seconds=later))
    assert world.states() == ["delivered", "delivered"]
    assert len(world.find("Campaign", name)) == 2


@pytest.fixture
def somebody(world: World) -> Iterator[str]:
    """A user to whom the org's active assignment rule gives leads."""
    user = world.org.control.add_user(f"rules.{abs(hash(world.url)) % 10**9}.{id(world)}@acme.example")
    world.org.control.set_rules(assignment=[{"object": "Lead", "owner": user}])
    yield user
    world.org.control.set_rules()


def test_an_assignment_rule_gives_away_what_names_no_owner_and_nothing_else(
    world: World, name: str, somebody: str
) -> None:
    lead = {"LastName": name, "Company": "Acme"}
    mine = {**lead, "OwnerId": world.org.user_id}
    world.accept(*[Intent("Lead", "create", fields) for fields in (lead, mine, lead, mine)])
    world.step()
    assert world.states() == ["delivered"] * 4
    owners = {row["Id"]: row["OwnerId"] for row in world.find("Lead", name, "OwnerId")}
    assert sorted(owners.values()) == sorted([somebody, world.org.user_id] * 2)
    assert world.writes() == 2
    kept = [one for one, owner in owners.items() if owner != somebody]
    world.accept(*[Intent("Lead", "update", {"Title": "CEO"}, record_id=one) for one in kept])
    since = datetime.now(UTC) + timedelta(days=1)
    world.accept(Intent("Lead", "update", {"Title": "CTO"}, record_id=kept[0], if_unmodified_since=since))
    for _ in range(3):
        world.step()
    assert world.states() == ["delivered"] * 7
    titles = {row["Id"]: (row["OwnerId"], row["Title"]) for row in world.find("Lead", name, "OwnerId", "Title")}
    assert [titles[one] for one in kept] == [(world.org.user_id, "CTO"), (world.org.user_id, "CEO")]


def test_what_was_not_sent_because_the_org_is_to_be_left_alone_is_not_in_doubt(
    world: World, name: str, somebody: str
) -> None:
    lead = {"LastName": name, "Company": "Acme"}
    world.accept(Intent("Lead", "create", {**lead, "OwnerId": somebody}), Intent("Lead", "create", lead))
    throttled = [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded."}]
    world.spoil({"status": 403, "body": throttled})
    world.step()
    assert world.rows("SELECT DISTINCT state, attempts FROM sfsync.actions") == [("ready", 0)]
    world.step(later=timedelta(hours=1))
    world.step(later=timedelta(hours=1))
    assert world.states() == ["delivered"] * 2
    assert len(world.find("Lead", name)) == 2


def test_what_a_former_user_of_the_connection_sent_is_looked_for_among_his_records(world: World, name: str) -> None:
    world.accept(plain(name))
    world.spoil({"cut": "after"})
    world.step()
    world.rows(
        "UPDATE salesforce_oauth_tokens SET salesforce_user_id = '005000000000009AAA',"
        " former_salesforce_user_id = salesforce_user_id, user_changed_at = clock_timestamp() WHERE user_id = 'u'"
    )
    for _ in range(3):
        world.step(later=LATER)
    assert (world.states(), len(world.find("Campaign", name))) == (["delivered"], 1)


def test_what_cannot_be_looked_for_is_held_and_blocks_no_other(world: World, name: str) -> None:
    world.spoil({"cut": "after"})
    world.accept(contact(name))
    world.step()
    refusal = [{"errorCode": "INVALID_FIELD", "message": "No such column 'External_Key__c' on entity 'Contact'."}]
    world.org.control.add_fault(
        match={"path_regex": "query.*External_Key__c", "times": None}, action={"status": 400, "body": refusal}
    )
    world.accept(contact(f"{name} other"))
    world.step()
    assert sorted(world.states()) == ["delivered", "held"]
    assert "External_Key__c" in world.error()["message"]
    assert len(world.find("Contact", f"{name} other")) == 1


def test_a_keyed_create_in_doubt_that_somebody_deleted_is_not_made_again(world: World, name: str) -> None:
    world.spoil({"cut": "after"})
    world.accept(contact(name))
    world.step()
    ((record_id,),) = [(row["Id"],) for row in world.find("Contact", name)]
    world.org.control.delete_rows("Contact", ids=[record_id])
    world.step()
    world.step()
    assert world.states() == ["delivered"]
    assert world.rows("SELECT record_id FROM sfsync.actions") == [(record_id,)]
    assert world.find("Contact", name) == []


def test_an_unkeyed_create_is_not_sent_again_while_a_record_of_ours_is_unexplained(world: World, name: str) -> None:
    world.spoil({"cut": "before"})
    world.accept(plain(name))
    world.step()
    unexplained = rest_create(world.org, "Campaign", {"Name": f"{name} changed by the org"})
    world.step(later=LATER)
    assert world.states() == ["held"]
    assert world.error()["code"] == "IN_DOUBT"
    assert unexplained in world.error()["candidates"]
    assert world.find("Campaign", name) == []


def test_what_is_ready_goes_though_there_is_always_something_in_doubt_to_be_looked_for(world: World, name: str) -> None:
    world.spoil({"cut": "before"})
    world.accept(plain(name))
    world.step()
    for number in range(3):
        world.rows("UPDATE sfsync.actions SET due_at = clock_timestamp() WHERE state = 'in_doubt'")
        world.accept(plain(f"{name} {number}"))
        world.step()
    assert world.states() == ["in_doubt", "delivered", "delivered", "delivered"]
    assert sum("/queryAll" in entry["path"] for entry in world.org.control.ledger()) == 3


def test_an_update_whose_answer_is_lost_is_sent_again_and_the_next_one_waits(world: World, name: str) -> None:
    record_id = rest_create(world.org, "Contact", {"LastName": name})
    for phone in ("1", "2"):
        world.accept(Intent("Contact", "update", {"Phone": phone}, record_id=record_id))
    world.spoil({"cut": "after"})
    world.step()
    world.step()
    world.step()
    assert world.states() == ["delivered", "ready"]
    assert isinstance(world.step(), Done)  # the first sending could still land
    world.step(later=LATER)
    assert world.states() == ["delivered", "delivered"]
    assert world.find("Contact", name, "Phone")[0]["Phone"] == "2"


def test_an_update_that_is_given_up_after_a_lost_answer_keeps_the_next_one_waiting(world: World, name: str) -> None:
    record_id = rest_create(world.org, "Contact", {"LastName": name})
    first, _ = world.accept(*(Intent("Contact", "update", {"Phone": one}, record_id=record_id) for one in ("1", "2")))
    world.spoil({"cut": "after"})
    world.step()
    world.step()
    assert world.states() == ["ready", "waiting"]  # it is to be sent again
    assert decide.cancel(world.deps, first.id)
    assert world.states() == ["cancelled", "ready"]
    assert isinstance(world.step(), Done)  # the first sending could still land
    world.step(later=LATER)
    assert world.states() == ["cancelled", "delivered"]


def test_outcomes_that_meet_a_deadlock_are_written_again(world: World, name: str) -> None:
    world.rows(DEADLOCK_ONCE)
    try:
        world.accept(contact(name))
        world.step()
    finally:
        world.rows("DROP FUNCTION public.fail_once CASCADE; DROP SEQUENCE public.failures")
    assert (world.states(), world.writes()) == (["delivered"], 1)


def test_a_delete_whose_answer_is_lost_counts_as_done(world: World, name: str) -> None:
    record_id = rest_create(world.org, "Contact", {"LastName": name})
    world.accept(Intent("Contact", "delete", record_id=record_id))
    world.spoil({"cut": "after"})
    for _ in range(3):
        world.step()
    assert world.states() == ["delivered"]
    assert world.find("Contact", name) == []


def test_row_locks_are_tried_again_with_a_pause(world: World, name: str) -> None:
    lock = {"errors": [{"statusCode": "UNABLE_TO_LOCK_ROW", "message": "busy", "fields": []}], "success": False}
    world.spoil({"status": 200, "body": [lock]})
    world.accept(contact(name))
    world.step()
    assert world.rows("SELECT state, attempts, due_at > clock_timestamp() FROM sfsync.actions") == [("ready", 1, True)]
    world.step(later=timedelta(seconds=5))
    assert world.states() == ["delivered"]


def test_what_never_succeeds_is_held_for_a_person(world: World, name: str) -> None:
    world.spoil({"status": 503, "body": [{"errorCode": "UNABLE_TO_LOCK_ROW", "message": "busy"}]}, times=None)
    world.accept(contact(name))
    for _ in range(ATTEMPTS):
        world.step(later=LATER)
    assert world.states() == ["held"]
    assert world.error()["code"] == "UNABLE_TO_LOCK_ROW"


def test_a_spent_allowance_waits_without_counting_attempts(world: World, name: str) -> None:
    spent = [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded."}]
    world.spoil({"status": 403, "body": spent})
    world.accept(contact(name))
    world.step()
    wait = "SELECT state, attempts, due_at > clock_timestamp() + interval '10 minutes' FROM sfsync.actions"
    assert world.rows(wait) == [("ready", 0, True)]


@pytest.mark.parametrize("status", [404, 410])
def test_a_version_that_the_org_does_not_serve_rejects_nothing(
    world: World, name: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "_served_at", {})
    code = "NOT_FOUND" if status == 404 else "UNSUPPORTED_API_VERSION"
    world.spoil({"status": status, "body": [{"errorCode": code, "message": "no"}]})
    older = [{"label": "Old", "url": "/services/data/v50.0", "version": "50.0"}]
    listing = {"path_regex": "/services/data$", "times": None}
    world.org.control.add_fault(match=listing, action={"status": 200, "body": older})
    world.accept(contact(name))
    world.step()
    assert world.rows("SELECT state, attempts FROM sfsync.actions") == [("ready", 0)]
    assert "SALESFORCE_API_VERSION" in world.error()["message"]
    world.step(later=LATER)
    assert world.states() == ["delivered"]


def test_a_disconnected_connection_parks_its_actions(world: World, name: str) -> None:
    world.spoil({"status": 403, "body": [{"errorCode": "API_DISABLED_FOR_ORG", "message": "no"}]})
    world.accept(contact(name))
    with pytest.raises(DisconnectedError):
        world.step()
    assert world.rows("SELECT state, attempts FROM sfsync.actions") == [("ready", 0)]
    world.rows("UPDATE salesforce_oauth_tokens SET state = 'revoked'")
    assert isinstance(world.step(), Busy)
    world.rows("UPDATE salesforce_oauth_tokens SET state = 'active'")
    world.step(later=LATER)
    assert world.states() == ["delivered"]


@pytest.mark.parametrize("frozen", ["before", "after"])
def test_a_first_owner_who_is_slow_is_fenced_and_its_record_is_found(
    world: World, name: str, frozen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim runs out while it is frozen before it sends, or after the org has applied it; another takes over."""
    world.accept(plain(name))
    original = deliver.send

    def slow(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(deliver, "send", original)
        answer = original(*arguments, **options) if frozen == "after" else None
        world.rows("UPDATE sfsync.actions SET claim_until = clock_timestamp() - interval '1 second'")
        world.step()
        world.step()
        assert world.states() == ["delivered" if frozen == "after" else "in_doubt"]
        return answer or original(*arguments, **options)

    monkeypatch.setattr(deliver, "send", slow)
    with pytest.raises(FencedError):
        world.step()
    world.step(later=LATER)
    assert world.rows("SELECT state, outcome -> 'adopted' FROM sfsync.actions") == [("delivered", True)]
    assert len(world.find("Campaign", name)) == 1


def _die_before_the_outcome(world: World) -> None:
    """As a worker that is killed between the org's answer and our commit: the sending is in the org, our row says sending."""

    class KilledError(BaseException):
        pass

    def die(*_: object) -> None:
        raise KilledError

    original = deliver._write
    deliver._write = die  # type: ignore[assignment]
    try:
        with pytest.raises(KilledError):
            world.step()
    finally:
        deliver._write = original
