"""The ways in which actions travel, against a whole org: Bulk jobs, idempotency keys, conditions, merging, families."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.edge.actions.world import LATER, World, rest_create
from tests.edge.test_local_org import client_of
from tests.org import Org, start_org
from tests.waiting import until
from worker.actions import decide, deliver, sending
from worker.actions.intent import Intent
from worker.actions.lifecycle import ATTEMPTS
from worker.db import Database
from worker.salesforce import ingest as edge
from worker.salesforce import rest, ui_records
from worker.salesforce.limits import COLLECTION_RECORDS
from worker.steps import PAUSE_EVERY

FEW = 6  # rows that make a job in these tests


class KilledError(BaseException):
    """The worker dies here."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Org]:
    with start_org(tmp_path_factory.mktemp("ways") / "org", seed="Account=3,Contact=3,Opportunity=3") as org:
        yield org


@pytest.fixture
def org(shared: Org) -> Iterator[Org]:
    shared.control.clear_faults()
    shared.control.clear_bulk_faults()
    shared.control.clear_ledger()
    yield shared
    shared.control.clear_faults()
    shared.control.clear_bulk_faults()


@pytest.fixture
def world(org: Org, database: Database, database_url: str) -> World:
    return World(org, database, database_url, bulk_create_rows=FEW, bulk_ingest_rows=FEW)


@pytest.fixture
def keyed(org: Org, database: Database, database_url: str) -> World:
    return World(org, database, database_url, idempotency_keys=True)


@pytest.fixture
def name() -> str:
    return f"w {uuid.uuid4().hex[:12]}"


def plain(name: str, **fields: Any) -> Intent:
    return Intent("Campaign", "create", {"Name": name, **fields})


def finish(world: World) -> None:
    """Steps until nothing is left to do, with time passing as fast as the org allows."""

    def over() -> bool:
        world.step()
        return all(state in ("delivered", "rejected", "held", "conflict") for state in world.states())

    until(over)


def jobs_made(world: World) -> int:
    return sum(
        entry["method"] == "POST" and entry["path"].endswith("/jobs/ingest") for entry in world.org.control.ledger()
    )


def job_states(world: World) -> list[tuple[Any, ...]]:
    return world.rows("SELECT stage, state FROM sfsync.ingest_jobs ORDER BY id")


# -- Bulk jobs


def test_many_creates_without_a_key_go_by_one_job_and_each_row_has_its_outcome(world: World, name: str) -> None:
    world.accept(*[plain(name, BudgetedCost="12.345") for _ in range(FEW)], plain(name, ParentId="001000000000001AAA"))
    finish(world)
    assert sorted(world.states()) == ["delivered"] * FEW + ["rejected"]
    assert world.error()["code"] in ("FIELD_INTEGRITY_EXCEPTION", "INVALID_CROSS_REFERENCE_KEY", "MALFORMED_ID")
    ids = {row[0] for row in world.rows("SELECT record_id FROM sfsync.actions WHERE record_id IS NOT NULL")}
    assert ids == {row["Id"] for row in world.find("Campaign", name)}
    assert len(ids) == FEW
    assert world.rows("SELECT DISTINCT way FROM sfsync.actions") == [("bulk",)]
    assert jobs_made(world) == 1
    assert world.writes() == 0
    assert sorted(one for _, one in world.remembered) == sorted(ids)


def test_a_job_of_many_rows_gives_way_again_and_again_while_it_computes(world: World, name: str) -> None:
    rows, gave_way = 2 * COLLECTION_RECORDS + 1, []
    world.deps = replace(world.deps, give_way=lambda: gave_way.append(1))
    world.accept(*[plain(f"{name} {number}") for number in range(rows)])
    finish(world)
    ids = {row[0] for row in world.rows("SELECT record_id FROM sfsync.actions WHERE state = 'delivered'")}
    assert len(ids) == rows
    assert jobs_made(world) == 1
    at_each = ("read", "rows", "lines", "data", "read again", "results", "by action", "by result", "outcomes")
    assert len(gave_way) >= len(at_each) * (rows // PAUSE_EVERY)


def test_what_a_job_cannot_carry_goes_by_calls(world: World, name: str) -> None:
    world.accept(*[plain(name, Description="#N/A") for _ in range(FEW)])
    finish(world)
    assert world.states() == ["delivered"] * FEW
    assert jobs_made(world) == 0
    assert {row["Description"] for row in world.find("Campaign", name, "Description")} == {"#N/A"}


def test_thousands_of_updates_and_deletes_go_by_jobs_and_keep_each_records_order(world: World, name: str) -> None:
    ids = [rest_create(world.org, "Contact", {"LastName": name}) for _ in range(FEW + 1)]
    for title in ("one", "", "three"):
        world.accept(*[Intent("Contact", "update", {"Title": title or None}, record_id=one) for one in ids])
    finish(world)
    assert {row["Title"] for row in world.find("Contact", name, "Title")} == {"three"}
    assert jobs_made(world) == 3
    world.accept(*[Intent("Contact", "delete", record_id=one) for one in ids])
    finish(world)
    assert world.find("Contact", name) == []
    assert jobs_made(world) == 4
    assert world.writes() == 0


def test_keyed_creates_in_a_job_are_upserts(world: World, name: str) -> None:
    world.accept(*[Intent("Contact", "create", {"LastName": name}) for _ in range(FEW + 1)])
    finish(world)
    assert len(world.find("Contact", name)) == FEW + 1
    assert world.rows("SELECT DISTINCT outcome -> 'created' FROM sfsync.actions") == [(True,)]


DEATHS: dict[str, tuple[Any, str, bool]] = {
    "before the org has the job": (edge, "create", False),
    "after the org has the job": (edge, "create", True),
    "before the upload": (edge, "upload", False),
    "after the upload": (edge, "upload", True),
    "before closing": (edge, "close", False),
    "after closing": (edge, "close", True),
    "while looking": (edge, "get", True),
    "before the results": (edge, "results", False),
    "after the results": (edge, "results", True),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_worker_killed_anywhere_leaves_one_job_that_goes_on(
    world: World, name: str, death: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.accept(*[plain(name) for _ in range(FEW)])
    _kill_at(monkeypatch, *DEATHS[death], lambda: world.step())
    finish_after_death(world)
    assert world.states() == ["delivered"] * FEW
    assert len(world.find("Campaign", name)) == FEW
    made = jobs_made(world)
    assert made == (2 if death == "after the org has the job" else 1)
    if made == 2:  # the first is open, without data and nobody's; it is aborted once it is old
        world.rows("UPDATE sfsync.ingest_jobs SET due_at = clock_timestamp() WHERE stage = 'lost'")
        world.step()
        states = sorted(one.state for one in edge.listed(client_of(world.org)) if one.object == "Campaign")
        assert "Open" not in states
        assert "Aborted" in states
    assert {state for _, state in job_states(world)} <= {"done"} if made == 2 else {"done", "ready"}


def finish_after_death(world: World) -> None:
    world.rows("UPDATE sfsync.ingest_jobs SET claim_until = clock_timestamp() - interval '1 second'")
    world.rows(
        "UPDATE sfsync.actions SET claim_until = clock_timestamp() - interval '1 second' WHERE claim_until IS NOT NULL"
    )
    finish(world)


def _kill_at(
    monkeypatch: pytest.MonkeyPatch, module: Any, function: str, after: bool, work: Callable[[], object]
) -> None:
    """Let the worker die at a call, before the org gets it or before we hear of it."""
    original = getattr(module, function)

    def die(*arguments: Any, **options: Any) -> None:
        if after:
            original(*arguments, **options)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(module, function, die)

        def killed() -> bool:
            try:
                work()
            except KilledError:
                return True
            return False

        until(killed)


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize("call", ["jobs/ingest$", "batches", "jobs/ingest/\\w+$", "successfulResults"])
def test_a_lost_answer_at_any_call_of_a_job_doubles_nothing(world: World, name: str, call: str, cut: str) -> None:
    world.accept(*[plain(name) for _ in range(FEW)])
    world.org.control.add_fault(match={"path_regex": call}, action={"cut": cut})

    def over() -> bool:
        world.step()
        world.rows("UPDATE sfsync.ingest_jobs SET due_at = clock_timestamp() WHERE state = 'ready' AND stage <> 'lost'")
        return world.states() == ["delivered"] * FEW

    until(over)
    assert len(world.find("Campaign", name)) == FEW


def test_a_job_that_the_org_never_lets_begin_is_given_up_after_a_day(world: World, name: str) -> None:
    refusal = {"status": 400, "body": [{"errorCode": "INVALIDJOB", "message": "not now"}]}
    world.spoil(refusal, path_regex="jobs/ingest", body_regex="UploadComplete", times=None)
    world.accept(*[plain(name) for _ in range(FEW)])
    until(lambda: world.step() is not None and job_states(world) == [("wait", "ready")])
    world.rows("UPDATE sfsync.ingest_jobs SET created_at = created_at - interval '25 hours'")
    finish(world)
    assert world.states() == ["delivered"] * FEW
    assert len(world.find("Campaign", name)) == FEW


def test_a_job_that_fails_sends_its_rows_by_calls(world: World, name: str) -> None:
    world.org.control.add_bulk_fault("fail", object="Campaign")
    world.accept(*[plain(name) for _ in range(FEW)])
    finish(world)
    assert world.states() == ["delivered"] * FEW
    assert len(world.find("Campaign", name)) == FEW
    assert world.rows("SELECT DISTINCT way FROM sfsync.actions") == [("collection",)]


@pytest.mark.parametrize("death", [None, "before the results", "after the results"])
def test_a_job_that_fails_halfway_keeps_what_it_did_and_the_rest_goes_by_calls(
    world: World, name: str, death: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.org.control.add_bulk_fault("fail_halfway", object="Campaign", rows=FEW // 2)
    world.accept(*[plain(name) for _ in range(FEW)])
    if death is not None:
        _kill_at(monkeypatch, *DEATHS[death], lambda: world.step())
    finish_after_death(world)
    assert world.states() == ["delivered"] * FEW
    assert len({row[0] for row in world.rows("SELECT record_id FROM sfsync.actions")}) == FEW
    assert len(world.find("Campaign", name)) == FEW
    ways = world.rows("SELECT way, count(*) FROM sfsync.actions GROUP BY 1 ORDER BY 1")
    assert ways == [("bulk", FEW // 2), ("collection", FEW - FEW // 2)]


@pytest.mark.parametrize("cut", ["before", "after"])
def test_updates_in_a_job_that_fails_halfway_are_applied_in_order(world: World, name: str, cut: str) -> None:
    ids = [rest_create(world.org, "Contact", {"LastName": name}) for _ in range(FEW + 1)]
    for title in ("one", "two"):
        world.accept(*[Intent("Contact", "update", {"Title": title}, record_id=one) for one in ids])
    world.org.control.add_bulk_fault("fail_halfway", object="Contact", rows=2)
    world.org.control.add_fault(match={"path_regex": "unprocessedrecords"}, action={"cut": cut})

    def over() -> bool:
        world.step()
        world.rows("UPDATE sfsync.ingest_jobs SET due_at = clock_timestamp() WHERE state = 'ready' AND stage <> 'lost'")
        return set(world.states()) == {"delivered"}

    until(over)
    assert [row["Title"] for row in world.find("Contact", name, "Title")] == ["two"] * (FEW + 1)


def _mixed(world: World, name: str, operation: str) -> list[Intent]:
    """More actions of one operation than a job needs: upserts that find a record and such that make one, updates, deletes."""
    ids = [rest_create(world.org, "Contact", {"LastName": name, "External_Key__c": f"{name} {n}"}) for n in range(FEW)]
    match operation:
        case "upsert":
            keys = [f"{name} {n}" for n in range(FEW // 2, 2 * FEW)]
            fields = {"LastName": name, "Title": "new"}
            return [
                Intent("Contact", "upsert", fields, external_id_field="External_Key__c", external_id=key)
                for key in keys
            ]
        case "create":  # which the object's key field makes an upsert
            return [Intent("Contact", "create", {"LastName": name, "Title": "new"}) for _ in range(FEW + 1)]
        case "update":
            more = rest_create(world.org, "Contact", {"LastName": name})
            return [Intent("Contact", "update", {"Title": "new"}, record_id=one) for one in (*ids, more)]
    more = rest_create(world.org, "Contact", {"LastName": name})
    return [Intent("Contact", "delete", record_id=one) for one in (*ids, more)]


@pytest.mark.parametrize(
    ("operation", "death"),
    [
        ("upsert", None),
        ("upsert", "before the results"),
        ("upsert", "after the results"),
        ("create", None),
        ("update", "before the results"),
        ("delete", "after the results"),
    ],
)
def test_each_row_of_a_job_that_fails_halfway_is_carried_out_once(
    world: World, name: str, operation: str, death: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    intents = _mixed(world, name, operation)
    begin = max(entry["seq"] for entry in world.org.control.journal())
    world.org.control.add_bulk_fault("fail_halfway", object="Contact", rows=3)
    world.accept(*intents)
    if death is not None:
        _kill_at(monkeypatch, *DEATHS[death], lambda: world.step())
    finish_after_death(world)
    assert world.states() == ["delivered"] * len(intents)
    done = [one["id"] for one in world.org.control.journal(begin) if one["object"] == "Contact"]
    assert len(done) == len(set(done)) == len(intents)  # each record was written once, and nothing else was
    assert {row[0] for row in world.rows("SELECT record_id FROM sfsync.actions")} == set(done)
    ways = world.rows("SELECT way, count(*) FROM sfsync.actions GROUP BY 1 ORDER BY 1")
    assert sum(count for way, count in ways if way == "bulk") == 3
    finals = "SELECT count(*) FROM sfsync.action_attempts WHERE state = 'delivered' GROUP BY action_id"
    assert world.rows(finals) == [(1,)] * len(intents)
    changed = [row["Title"] for row in world.find("Contact", name, "Title")].count("new")
    assert changed == (0 if operation == "delete" else len(intents))


def test_a_job_whose_results_the_org_does_not_give_leaves_nothing_doubled_and_nothing_waiting(
    world: World, name: str
) -> None:
    gone = [{"errorCode": "NOT_FOUND", "message": "The requested resource does not exist"}]
    world.org.control.add_fault(
        match={"path_regex": "jobs/ingest/\\w+/", "method": "GET", "times": None}, action={"status": 404, "body": gone}
    )
    world.accept(*[Intent("Contact", "create", {"LastName": name}) for _ in range(FEW + 1)])

    def over() -> bool:
        world.step()
        world.rows("UPDATE sfsync.ingest_jobs SET due_at = clock_timestamp() WHERE state = 'ready'")
        return world.states() == ["delivered"] * (FEW + 1)

    until(over)
    assert len(world.find("Contact", name)) == FEW + 1
    assert jobs_made(world) == 1


def test_while_the_org_takes_no_jobs_calls_are_made(world: World, name: str) -> None:
    spent = [{"errorCode": "LIMIT_EXCEEDED", "message": "ExceededQuota : ApiBatchItems Limit exceeded."}]
    world.org.control.add_fault(match={"path_regex": "jobs/ingest$"}, action={"status": 400, "body": spent})
    world.accept(*[plain(name) for _ in range(FEW)])
    finish(world)
    assert len(world.find("Campaign", name)) == FEW
    assert world.rows("SELECT DISTINCT attempts, way FROM sfsync.actions") == [(1, "collection")]


# -- idempotency keys


def test_a_single_create_goes_under_its_key_where_the_org_heeds_it(keyed: World, name: str) -> None:
    keyed.accept(plain(name))
    finish(keyed)
    assert keyed.rows("SELECT state, way FROM sfsync.actions") == [("delivered", "idempotency_key")]
    assert len(keyed.find("Campaign", name)) == 1
    assert keyed.rows("SELECT takes_keys FROM sfsync.action_queues") == [(True,)]


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_create_under_a_key_whose_answer_is_lost_is_there_once_and_at_once(keyed: World, name: str, cut: str) -> None:
    keyed.accept(plain(f"{name} first"))
    finish(keyed)
    keyed.org.control.add_fault(match={"path_regex": "ui-api/records"}, action={"cut": cut})
    keyed.accept(plain(name))
    for _ in range(3):
        keyed.step()
    assert keyed.states() == ["delivered", "delivered"]
    assert [row["Id"] for row in keyed.find("Campaign", name)] == [
        row[0] for row in keyed.rows("SELECT record_id FROM sfsync.actions WHERE fields ->> 'Name' = %s", name)
    ]


@pytest.mark.parametrize("state", ["ready", "in_doubt"])
def test_a_record_whose_action_waits_to_be_sent_again_under_its_key_is_not_taken_for_anothers(
    keyed: World, name: str, state: str
) -> None:
    keyed.accept(plain(f"{name} first"))
    finish(keyed)
    keyed.org.control.add_fault(match={"path_regex": "ui-api/records"}, action={"cut": "after"})
    (again,) = keyed.accept(plain(f"{name} under its key"))
    keyed.step()
    keyed.step()
    if state == "in_doubt":  # sent a second time, long after the record was made, and in doubt once more
        keyed.org.control.advance_clock(60)
        keyed.org.control.add_fault(match={"path_regex": "ui-api/records"}, action={"cut": "before"})
        keyed.step()
    due = "UPDATE sfsync.actions SET due_at = clock_timestamp() + make_interval(secs => %s) WHERE id = %s"
    keyed.rows(due, 3600, again.id)
    assert keyed.rows("SELECT state FROM sfsync.actions WHERE id = %s", again.id) == [(state,)]
    keyed.spoil({"cut": "before"})
    keyed.accept(plain(f"{name} one"), plain(f"{name} two"))
    keyed.step()
    keyed.step(later=LATER)
    assert keyed.states() == ["delivered", state, "in_doubt", "in_doubt"]
    keyed.rows(due, 0, again.id)
    for _ in range(6):
        keyed.step(later=LATER)
    assert set(keyed.states()) == {"delivered"}
    assert [len(keyed.find("Campaign", f"{name} {one}")) for one in ("under its key", "one", "two")] == [1, 1, 1]


def test_an_org_that_does_not_heed_keys_is_asked_nothing_by_them(keyed: World, name: str) -> None:
    body = [{"errorCode": "NOT_FOUND", "message": "The requested resource does not exist"}]
    keyed.org.control.add_fault(
        match={"path_regex": "ui-api/records", "times": None}, action={"status": 404, "body": body}
    )
    keyed.accept(plain(name))
    finish(keyed)
    assert keyed.rows("SELECT state, way FROM sfsync.actions") == [("delivered", "collection")]
    assert keyed.rows("SELECT takes_keys FROM sfsync.action_queues") == [(False,)]


def test_an_org_that_cannot_say_whether_it_heeds_keys_holds_nothing_up(keyed: World, name: str) -> None:
    keyed.org.control.add_fault(match={"path_regex": "ui-api/records", "times": None}, action={"status": 503})
    keyed.accept(plain(name))
    finish(keyed)
    assert keyed.rows("SELECT state, way FROM sfsync.actions") == [("delivered", "collection")]


def test_what_a_key_made_is_found_though_a_later_sending_under_it_was_refused(keyed: World, name: str) -> None:
    keyed.org.control.add_fault(match={"path_regex": "ui-api/records", "skip": 2}, action={"cut": "after"})
    keyed.accept(plain(name))
    finish_asking(keyed)
    assert keyed.states() == ["in_doubt"]
    keyed.org.control.advance_clock(60)
    client = keyed.deps.client(keyed.connection_id)
    rest.org_time(client)
    keyed.deps.clocks.note(keyed.connection_id, client)
    refusal = [{"errorCode": "INSUFFICIENT_ACCESS_OR_READONLY", "message": "no more"}]
    keyed.org.control.add_fault(match={"path_regex": "ui-api/records"}, action={"status": 403, "body": refusal})
    for _ in range(3):
        keyed.step()
    assert keyed.states() == ["delivered"]
    assert len(keyed.find("Campaign", name)) == 1


def finish_asking(world: World) -> None:
    """Steps until something was sent and nobody answered."""

    def doubtful() -> bool:
        world.step()
        return world.states() == ["in_doubt"]

    until(doubtful)


def test_asking_whether_the_org_heeds_keys_creates_nothing(org: Org) -> None:
    before = org.control.status()["records"]
    assert ui_records.takes_keys(client_of(org), "Campaign", uuid.uuid4())
    assert not ui_records.takes_keys(client_of(org), "No_Such_Object__c", uuid.uuid4())
    assert org.control.status()["records"] == before


def test_what_the_ui_api_refuses_goes_the_common_way_and_keeps_the_orgs_words(keyed: World, name: str) -> None:
    keyed.accept(plain(name, ParentId="001000000000001AAA"))
    finish(keyed)
    assert keyed.rows("SELECT state, way, attempts FROM sfsync.actions") == [("rejected", "collection", 2)]


# -- conditions


def stamp_of(world: World, record_id: str) -> Any:
    page = rest.query(client_of(world.org), f"SELECT SystemModstamp FROM Contact WHERE Id = '{record_id}'")
    return rest.parse_instant(page.records[0]["SystemModstamp"])


def test_an_update_on_a_condition_is_applied_or_in_conflict(world: World, name: str) -> None:
    fresh, stale = (rest_create(world.org, "Contact", {"LastName": name}) for _ in range(2))
    moment = stamp_of(world, fresh)
    world.org.control.advance_clock(5)
    world.org.control.change_rows("Contact", ids=[stale], fields={"Title": "theirs"})
    for one in (fresh, stale):
        world.accept(Intent("Contact", "update", {"Title": "ours"}, record_id=one, if_unmodified_since=moment))
    finish(world)
    assert world.states() == ["delivered", "conflict"]
    assert world.error()["code"] == "PRECONDITION_FAILED"
    assert {row["Id"]: row["Title"] for row in world.find("Contact", name, "Title")} == {fresh: "ours", stale: "theirs"}
    assert sum(entry["path"].endswith("/composite") for entry in world.org.control.ledger()) == 1


def test_a_delete_on_a_condition_spares_a_record_that_was_changed(world: World, name: str) -> None:
    fresh, stale = (rest_create(world.org, "Contact", {"LastName": name}) for _ in range(2))
    moment = stamp_of(world, fresh)
    world.org.control.advance_clock(5)
    world.org.control.change_rows("Contact", ids=[stale], fields={"Title": "theirs"})
    for one in (fresh, stale):
        world.accept(Intent("Contact", "delete", record_id=one, if_unmodified_since=moment))
    finish(world)
    assert world.states() == ["delivered", "conflict"]
    assert [row["Id"] for row in world.find("Contact", name)] == [stale]


@pytest.mark.parametrize("cut", ["before", "after"])
def test_an_update_on_a_condition_whose_answer_is_lost_is_no_conflict_with_itself(
    world: World, name: str, cut: str
) -> None:
    record_id = rest_create(world.org, "Contact", {"LastName": name})
    moment = stamp_of(world, record_id)
    world.org.control.advance_clock(5)
    world.org.control.add_fault(match={"path_regex": "/composite$"}, action={"cut": cut})
    world.accept(Intent("Contact", "update", {"Title": " ours "}, record_id=record_id, if_unmodified_since=moment))
    finish(world)
    assert world.states() == ["delivered"]
    assert world.find("Contact", name, "Title")[0]["Title"] == "ours"


# -- merging


def merging(record_id: str, **fields: Any) -> Intent:
    return Intent("Contact", "update", fields, record_id=record_id, mergeable=True)


def test_waiting_updates_of_a_record_are_sent_as_one_and_each_has_its_outcome(world: World, name: str) -> None:
    record_id = rest_create(world.org, "Contact", {"LastName": name})
    world.accept(
        *[merging(record_id, Title=str(number), Phone="1") for number in range(4)], merging(record_id, Fax="2")
    )
    world.step()
    assert world.states() == ["delivered"] * 5
    assert world.writes() == 1
    (row,) = world.find("Contact", name, "Title", "Phone", "Fax")
    assert (row["Title"], row["Phone"], row["Fax"]) == ("3", "1", "2")
    assert world.rows("SELECT DISTINCT outcome ->> 'merged' FROM sfsync.actions") == [("5",)]


def test_merging_ends_at_the_first_that_may_not(world: World, name: str) -> None:
    record_id = rest_create(world.org, "Contact", {"LastName": name})
    world.accept(
        merging(record_id, Title="1"),
        merging(record_id, Title="2"),
        Intent("Contact", "update", {"Title": "3"}, record_id=record_id),
        merging(record_id, Title="4"),
    )
    world.step()
    assert world.states() == ["delivered", "delivered", "ready", "waiting"]
    finish(world)
    assert world.find("Contact", name, "Title")[0]["Title"] == "4"
    assert world.writes() == 3


def test_what_is_refused_together_is_sent_one_by_one(world: World, name: str) -> None:
    record_id = rest_create(world.org, "Contact", {"LastName": name})
    world.accept(merging(record_id, Title="1"), merging(record_id, Email="nonsense"), merging(record_id, Fax="3"))
    finish(world)
    assert world.states() == ["delivered", "rejected", "delivered"]
    (row,) = world.find("Contact", name, "Title", "Fax")
    assert (row["Title"], row["Fax"]) == ("1", "3")


def test_merged_updates_whose_answer_is_lost_are_sent_again_in_order(world: World, name: str) -> None:
    record_id = rest_create(world.org, "Contact", {"LastName": name})
    world.accept(*[merging(record_id, Title=str(number)) for number in range(3)])
    world.spoil({"cut": "after"})
    world.step()
    assert world.states() == ["in_doubt"] * 3
    world.step()
    assert world.states() == ["ready", "waiting", "waiting"]
    finish(world)
    assert world.find("Contact", name, "Title")[0]["Title"] == "2"


# -- what follows a failure


@pytest.mark.parametrize(("after_failure", "goes_on"), [("go_on", True), ("wait", False)])
def test_a_rejected_action_lets_the_next_of_its_record_go_on_or_wait(
    world: World, name: str, after_failure: Any, goes_on: bool
) -> None:
    record_id = rest_create(world.org, "Contact", {"LastName": name})
    (bad, _) = world.accept(
        Intent("Contact", "update", {"Email": "nonsense"}, record_id=record_id, after_failure=after_failure),
        Intent("Contact", "update", {"Title": "next"}, record_id=record_id),
    )
    world.step()
    assert world.states() == ["rejected", "ready" if goes_on else "waiting"]
    if goes_on:
        return
    world.accept(Intent("Contact", "update", {"Fax": "later"}, record_id=record_id))
    world.step()
    assert world.states() == ["rejected", "waiting", "waiting"]
    assert decide.retry(world.deps, bad.id)  # it keeps its place
    world.step()
    assert world.states() == ["rejected", "waiting", "waiting"]
    assert decide.cancel(world.deps, bad.id)
    world.step()
    world.step()
    assert world.states() == ["cancelled", "delivered", "delivered"]


# -- families


def family(name: str, *, after_failure: Any = "go_on") -> list[Intent]:
    account = {"Name": name}
    return [
        Intent("Account", "create", account, idempotency_key=f"{name} p", after_failure=after_failure),
        Intent(
            "Contact", "create", {"LastName": name}, idempotency_key=f"{name} c", parents={"AccountId": f"{name} p"}
        ),
        Intent("Contact", "create", {"LastName": name}, parents={"AccountId": f"{name} p", "ReportsToId": f"{name} c"}),
    ]


def states_of(world: World, object_name: str) -> list[str]:
    query = "SELECT state FROM sfsync.actions WHERE object = %s ORDER BY created_at"
    return [row[0] for row in world.rows(query, object_name)]


def test_children_wait_for_their_parent_and_get_its_id(world: World, name: str) -> None:
    world.accept(*family(name))
    assert states_of(world, "Contact") == ["waiting", "waiting"]
    world.step(queue="Contact")
    assert states_of(world, "Contact") == ["waiting", "waiting"]
    world.step(queue="Account")
    assert states_of(world, "Contact") == ["ready", "waiting"]
    world.step(queue="Contact")
    world.step(queue="Contact")
    assert states_of(world, "Contact") == ["delivered", "delivered"]
    (account,) = world.find("Account", name)
    rows = world.find("Contact", name, "AccountId", "ReportsToId")
    assert {row["AccountId"] for row in rows} == {account["Id"]}
    assert {row["ReportsToId"] for row in rows} == {None, *[row["Id"] for row in rows if row["ReportsToId"] is None]}


def test_a_child_accepted_after_its_parent_was_delivered_goes_at_once(world: World, name: str) -> None:
    parent, child, _ = family(name)
    world.accept(parent)
    world.step(queue="Account")
    world.accept(child)
    world.step(queue="Contact")
    assert states_of(world, "Contact") == ["delivered"]


def test_children_of_a_rejected_parent_are_rejected_and_say_why(world: World, name: str) -> None:
    world.org.control.set_rules(
        validation=[{"object": "Account", "condition": f"Name = '{name}'", "message": "Not this one"}]
    )
    world.accept(*family(name))
    world.rows("UPDATE sfsync.actions SET callback_url = 'https://caller.example/told'")
    world.step(queue="Account")
    world.org.control.set_rules()
    assert world.rows("SELECT kind, payload ->> 'state' FROM sfsync.callbacks") == [("action.finished", "rejected")] * 3
    assert states_of(world, "Account") == ["rejected"]
    assert states_of(world, "Contact") == ["rejected", "rejected"]
    errors = [
        row[0] for row in world.rows("SELECT error FROM sfsync.actions WHERE object = 'Contact' ORDER BY created_at")
    ]
    assert [error["code"] for error in errors] == ["PARENT_FAILED"] * 2
    assert "Not this one" in errors[0]["message"]


def test_children_of_a_rejected_parent_wait_where_it_was_asked(world: World, name: str) -> None:
    world.org.control.set_rules(
        validation=[{"object": "Account", "condition": f"Name = '{name}'", "message": "Not this one"}]
    )
    parent, *_ = world.accept(*family(name, after_failure="wait"))
    world.step(queue="Account")
    world.org.control.set_rules()
    assert (states_of(world, "Account"), states_of(world, "Contact")) == (["rejected"], ["waiting", "waiting"])
    decide.retry(world.deps, parent.id)
    world.step(queue="Account")
    world.step(queue="Contact")
    world.step(queue="Contact")
    assert states_of(world, "Contact") == ["delivered", "delivered"]


def test_children_of_a_held_parent_are_held_until_a_person_retries_each(world: World, name: str) -> None:
    busy = {"status": 503, "body": [{"errorCode": "UNABLE_TO_LOCK_ROW", "message": "busy"}]}
    world.spoil(busy, times=None)
    parent, child, grandchild = world.accept(*family(name))
    world.rows("UPDATE sfsync.actions SET callback_url = 'https://caller.example/told'")
    for _ in range(ATTEMPTS):
        world.step(later=LATER, queue="Account")
    world.org.control.clear_faults()
    assert (states_of(world, "Account"), states_of(world, "Contact")) == (["held"], ["held", "held"])
    errors = world.rows(
        "SELECT error ->> 'code', error ->> 'message' FROM sfsync.actions WHERE object = 'Contact' ORDER BY created_at"
    )
    assert [code for code, _ in errors] == ["PARENT_FAILED"] * 2
    assert all("which is held: " in message for _, message in errors)
    assert f"{parent.id}, which is held: UNABLE_TO_LOCK_ROW: busy" in errors[0][1]
    told = world.rows("SELECT kind, payload ->> 'id' FROM sfsync.callbacks")
    assert set(told) == {("action.held", str(one.id)) for one in (parent, child, grandchild)}
    assert len(told) == 3
    decide.retry(world.deps, child.id)  # nothing has changed for it: it is held again
    assert states_of(world, "Contact") == ["held", "held"]
    decide.retry(world.deps, parent.id)
    world.step(queue="Account")
    for one in (child, grandchild):
        decide.retry(world.deps, one.id)
        world.step(queue="Contact")
    assert (states_of(world, "Account"), states_of(world, "Contact")) == (["delivered"], ["delivered", "delivered"])
    assert len(world.find("Account", name)) == 1
    assert {row["AccountId"] for row in world.find("Contact", name, "AccountId")} == {
        world.find("Account", name)[0]["Id"]
    }


def test_children_of_a_held_parent_wait_where_it_was_asked(world: World, name: str) -> None:
    world.spoil({"status": 503, "body": [{"errorCode": "UNABLE_TO_LOCK_ROW", "message": "busy"}]}, times=None)
    parent, *_ = world.accept(*family(name, after_failure="wait"))
    for _ in range(ATTEMPTS):
        world.step(later=LATER, queue="Account")
    world.org.control.clear_faults()
    assert (states_of(world, "Account"), states_of(world, "Contact")) == (["held"], ["waiting", "waiting"])
    decide.cancel(world.deps, parent.id)
    assert (states_of(world, "Account"), states_of(world, "Contact")) == (["cancelled"], ["rejected", "rejected"])


# -- order of the calls


def test_what_comes_while_a_call_is_under_way_fills_the_next(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.accept(Intent("Contact", "create", {"LastName": name}))
    original = sending.send

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(deliver, "send", original)
        for _ in range(3):
            world.accept(Intent("Contact", "create", {"LastName": name}))
            world.step()
        return original(*arguments, **options)

    monkeypatch.setattr(deliver, "send", meanwhile)
    world.step()
    assert world.states() == ["delivered", "ready", "ready", "ready"]
    world.step()
    assert world.writes() == 2


def test_children_of_one_parent_are_not_in_two_calls_at_once(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = rest_create(world.org, "Account", {"Name": name})
    world.accept(Intent("Contact", "create", {"LastName": name, "AccountId": account}))
    original = sending.send

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(deliver, "send", original)
        world.rows("UPDATE sfsync.actions SET claim_until = claim_until - interval '2 seconds'")
        world.accept(Intent("Contact", "create", {"LastName": name, "AccountId": account}))
        world.accept(Intent("Contact", "create", {"LastName": name}))
        world.step()
        assert sorted(world.states()) == ["delivered", "ready", "sending"]
        world.rows("UPDATE sfsync.actions SET claim_until = claim_until + interval '2 seconds' WHERE state = 'sending'")
        return original(*arguments, **options)

    monkeypatch.setattr(deliver, "send", meanwhile)
    world.step()
    world.step()
    assert world.states() == ["delivered"] * 3


def test_throttling_pauses_the_queue_and_counts_no_attempt(world: World, name: str) -> None:
    world.spoil({"status": 429, "headers": {"Retry-After": "7"}})
    world.accept(Intent("Contact", "create", {"LastName": name}))
    world.step()
    wait = "SELECT a.attempts, a.due_at > clock_timestamp(), q.next_due_at > clock_timestamp() FROM sfsync.actions a, sfsync.action_queues q"
    assert world.rows(wait) == [(0, True, True)]
    world.step(later=timedelta(seconds=10))
    assert world.states() == ["delivered"]


def test_an_overloaded_org_is_looked_at_before_anything_is_sent_again(world: World, name: str) -> None:
    world.spoil({"status": 503, "body": [{"errorCode": "SERVER_UNAVAILABLE", "message": "busy"}]})
    world.accept(plain(name))
    world.step()
    assert world.rows("SELECT state, attempts FROM sfsync.actions") == [("in_doubt", 0)]
    world.step()
    world.step(later=LATER)
    world.step(later=LATER)
    assert world.states() == ["delivered"]
    assert len(world.find("Campaign", name)) == 1
