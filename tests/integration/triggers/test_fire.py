"""Firing on a real Postgres: each due time once, each firing's work once, whoever asks and whoever dies."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.conftest import Rows
from tests.integration.triggers.conftest import START, Add
from worker import exact
from worker.errors import TransientError
from worker.runtime import Runtime
from worker.steps import Again, Busy, Done
from worker.triggers import fire, store
from worker.triggers.deps import TriggerDeps
from worker.triggers.fire import KeyReusedError, NotEnabledError, due_firings, fire_due, settle, step
from worker.triggers.store import FaultyTriggerError

HISTORY = "SELECT to_char(due_at, 'DD HH24:MI'), state, missed FROM sfsync.firings ORDER BY id"


def at(hour: int, minute: int = 0, second: int = 1, day: int = 28) -> datetime:
    return datetime(2026, 3, day, hour, minute, second, tzinfo=UTC)


def work_off(rt: Runtime) -> list[int]:
    """Start everything that can be started; ids of the firings."""
    with rt.database.transaction() as session:
        due = due_firings(session, 100)
    for firing_id in due:
        step(rt.triggers, firing_id)
    return due


def deliver_all(rows: Rows) -> None:
    rows(
        "UPDATE sfsync.actions SET state = 'delivered', outcome = '{}', finished_at = clock_timestamp(),"
        " record_id = '003000000000001AAA' WHERE state = 'ready'"
    )


def look_again(rows: Rows) -> None:
    rows("UPDATE sfsync.firings SET look_at = clock_timestamp()")


def test_a_due_time_fires_once_however_often_one_asks(rt: Runtime, add: Add, rows: Rows) -> None:
    add()
    assert fire_due(rt.triggers, at(12, 59)) == 0
    assert fire_due(rt.triggers, at(13)) == 1
    assert fire_due(rt.triggers, at(13)) == 0
    assert rows(HISTORY) == [("28 13:00", "ready", 0)]
    assert work_off(rt) == [1]
    assert work_off(rt) == []
    assert rows("SELECT source, operation, object, fields FROM sfsync.actions") == [
        ("trigger", "create", "Contact", {"LastName": "Ito"})
    ]
    assert rows("SELECT f.action_ids = ARRAY[a.id] FROM sfsync.firings f, sfsync.actions a") == [(True,)]


def test_many_that_ask_at_once_fire_it_once(rt: Runtime, add: Add, rows: Rows) -> None:
    for number in range(5):
        add(name=f"t{number}", missed="all", overlap="allow")
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        fire_due(rt.triggers, at(16))
        with rt.database.transaction() as session:
            due = due_firings(session, 100)
        for firing_id in due:
            step(rt.triggers, firing_id)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work_off(rt)
    assert rows("SELECT count(*), count(DISTINCT (trigger_id, due_at)) FROM sfsync.firings") == [(20, 20)]
    assert rows("SELECT count(*) FROM sfsync.actions") == [(20,)]


def test_what_was_missed_goes_by_the_policy(rt: Runtime, add: Add, rows: Rows) -> None:
    add(name="skip", missed="skip")
    add(name="once", missed="once")
    add(name="all", missed="all", missed_limit=2)
    fire_due(rt.triggers, at(17, 30))
    found = rows(
        "SELECT t.name, to_char(f.due_at, 'HH24:MI'), f.state, f.missed"
        " FROM sfsync.firings f JOIN sfsync.triggers t ON t.id = f.trigger_id ORDER BY t.id, f.due_at"
    )
    assert found == [
        ("skip", "17:00", "skipped", 4),
        ("once", "17:00", "ready", 4),
        ("all", "15:00", "skipped", 2),
        ("all", "16:00", "ready", 0),
        ("all", "17:00", "waiting", 0),
    ]
    assert rows("SELECT DISTINCT next_due_at FROM sfsync.triggers") == [(at(18, 0, 0),)]


@pytest.mark.parametrize(("overlap", "second"), [("skip", "skipped"), ("queue", "waiting"), ("allow", "ready")])
def test_overlapping_work_goes_by_the_policy(rt: Runtime, add: Add, rows: Rows, overlap: str, second: str) -> None:
    add(overlap=overlap)
    fire_due(rt.triggers, at(13))
    work_off(rt)
    settle(rt.triggers)
    fire_due(rt.triggers, at(14))
    assert rows(HISTORY) == [("28 13:00", "running", 0), ("28 14:00", second, 0)]
    settle(rt.triggers)
    assert rows("SELECT state FROM sfsync.firings ORDER BY id") == [("running",), (second,)]
    deliver_all(rows)
    look_again(rows)
    settle(rt.triggers)
    after = {"skip": "skipped", "queue": "ready", "allow": "ready"}[overlap]
    assert rows("SELECT state FROM sfsync.firings ORDER BY id") == [("done",), (after,)]
    fire_due(rt.triggers, at(15))
    assert rows(HISTORY)[2] == ("28 15:00", {"skip": "ready", "queue": "waiting", "allow": "ready"}[overlap], 0)


def test_a_refresh_is_linked_to_its_runs_and_fails_with_them(rt: Runtime, add: Add, rows: Rows) -> None:
    add(workflow_action="process_data", objects=["Contact", "Lead"])
    fire_due(rt.triggers, at(13))
    work_off(rt)
    runs = rows("SELECT r.id, m.object, r.kind, r.cause FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = mirror_id")
    assert [run[1:] for run in runs] == [("Contact", "refresh", "trigger"), ("Lead", "load", "trigger")]
    assert rows("SELECT state, run_ids FROM sfsync.firings") == [("running", [run[0] for run in runs])]
    rows("UPDATE sfsync.runs SET state = 'done', finished_at = clock_timestamp() WHERE kind = 'refresh'")
    settle(rt.triggers)
    assert rows("SELECT state FROM sfsync.firings") == [("running",)]
    rows("UPDATE sfsync.runs SET state = 'failed', finished_at = clock_timestamp() WHERE kind = 'load'")
    look_again(rows)
    settle(rt.triggers)
    assert rows("SELECT state, reason FROM sfsync.firings") == [("failed", "1 run did not succeed")]


def test_a_refresh_of_everything_means_all_that_is_mirrored(rt: Runtime, add: Add, rows: Rows) -> None:
    add(workflow_action="process_data", objects=[])
    fire_due(rt.triggers, at(13))
    work_off(rt)
    assert rows("SELECT m.object FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = r.mirror_id") == [("Contact",)]


def test_a_list_of_actions_with_exact_numbers_and_the_due_date(rt: Runtime, add: Add, rows: Rows) -> None:
    fields = {"Name": "Week of {{due_date}}", "Amount": "{{amount}}"}
    trigger_id = add(
        type="manual_trigger",
        capability=None,
        parameters=None,
        actions=[
            {"object": "Opportunity", "operation": "create", "fields": fields},
            {"object": "Contact", "operation": "update", "record_id": "003000000000001", "fields": {"LastName": "x"}},
        ],
    )
    given = exact.loads('{"amount": 1234567890123456.78}')
    fired = fire.fire(rt.triggers, trigger_id, given, "k", at(23, 30))
    assert fired is not None
    work_off(rt)
    found = rows("SELECT operation, fields::text FROM sfsync.actions ORDER BY operation")
    assert found[0] == ("create", '{"Name": "Week of 2026-03-28", "Amount": 1234567890123456.78}')
    assert len(rows("SELECT unnest(action_ids) FROM sfsync.firings")) == 2


def test_a_manual_trigger_fires_once_per_key(rt: Runtime, add: Add, rows: Rows) -> None:
    trigger_id = add(type="manual_trigger")
    first = fire.fire(rt.triggers, trigger_id, {"LastName": "Abe"}, "k", START)
    again = fire.fire(rt.triggers, trigger_id, {"LastName": "Abe"}, "k", START)
    assert first is not None
    assert again is not None
    assert (again.id, first.repeated, again.repeated) == (first.id, False, True)
    with pytest.raises(KeyReusedError):
        fire.fire(rt.triggers, trigger_id, {"LastName": "Zorn"}, "k", START)
    assert fire.fire(rt.triggers, trigger_id, {}, None, START) is not None
    assert fire.fire(rt.triggers, 4711, {}, None, START) is None
    with pytest.raises(FaultyTriggerError, match="255"):
        fire.fire(rt.triggers, trigger_id, {}, "x" * 256, START)
    work_off(rt)
    assert rows("SELECT fields ->> 'LastName' FROM sfsync.actions ORDER BY created_at") == [("Abe",), ("Ito",)]


def test_one_key_asked_by_many_at_once_fires_once(rt: Runtime, add: Add, rows: Rows) -> None:
    trigger_id = add(type="manual_trigger")
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(fire.fire(rt.triggers, trigger_id, {}, "k", START)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.id for one in found}) == 1
    assert sum(not one.repeated for one in found) == 1


def test_a_disabled_trigger_rests_and_makes_up_for_nothing(rt: Runtime, add: Add, rows: Rows) -> None:
    trigger_id = add(missed="all")
    with rt.database.transaction() as session:
        found = store.find(session, trigger_id, lock=True)
        assert found is not None
        store.enable(found[0], at(12, 30), enabled=False)
    assert fire_due(rt.triggers, at(15)) == 0
    with pytest.raises(NotEnabledError):
        fire.fire(rt.triggers, trigger_id, {}, None, at(15))
    with rt.database.transaction() as session:
        found = store.find(session, trigger_id, lock=True)
        assert found is not None
        store.enable(found[0], at(15, 30), enabled=True)
    fire_due(rt.triggers, at(16))
    assert rows(HISTORY) == [("28 16:00", "ready", 0)]


def test_while_the_connection_is_revoked_triggers_rest_and_then_follow_their_policy(
    rt: Runtime, add: Add, rows: Rows
) -> None:
    add(missed="once")
    fire_due(rt.triggers, at(13))
    rows("UPDATE salesforce_oauth_tokens SET state = 'revoked'")
    assert work_off(rt) == []
    assert step(rt.triggers, 1) == Again()  # a message that came before: it is put off, not failed
    assert fire_due(rt.triggers, at(16)) == 0
    rows("UPDATE salesforce_oauth_tokens SET state = 'active'")
    look_again(rows)
    assert work_off(rt) == [1]
    deliver_all(rows)
    settle(rt.triggers)
    fire_due(rt.triggers, at(17))
    assert rows(HISTORY) == [("28 13:00", "done", 0), ("28 17:00", "ready", 3)]


def test_killed_between_work_and_note_the_work_is_not_doubled(
    rt: Runtime, add: Add, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    add()
    fire_due(rt.triggers, at(13))
    with monkeypatch.context() as patch:
        patch.setattr(fire, "_note_started", die)
        with pytest.raises(Killed):
            step(rt.triggers, 1)
    assert rows("SELECT state, attempts FROM sfsync.firings") == [("ready", 1)]
    assert step(rt.triggers, 1) == Busy()  # the dead one's claim still holds
    rows("UPDATE sfsync.firings SET claim_until = clock_timestamp() - interval '1 second'")
    assert work_off(rt) == [1]
    assert rows("SELECT count(*) FROM sfsync.actions") == [(1,)]
    assert rows("SELECT state, cardinality(action_ids) FROM sfsync.firings") == [("running", 1)]


def test_a_later_change_of_the_trigger_does_not_change_what_has_fired(rt: Runtime, add: Add, rows: Rows) -> None:
    trigger_id = add()
    fire_due(rt.triggers, at(13))
    with rt.database.transaction() as session:
        found = store.find(session, trigger_id, lock=True)
        assert found is not None
        before = store.shown(session, trigger_id=trigger_id)[0]
        asked = store.asked_of(before, {"parameters": {"LastName": "Zorn"}})
        store.change(session, found[0], store.checked(asked, at(13), rt.triggers.capabilities), at(13))
    fire_due(rt.triggers, at(14))
    rows("UPDATE sfsync.firings SET state = 'ready', finished_at = NULL")
    work_off(rt)
    assert rows("SELECT fields ->> 'LastName' FROM sfsync.actions ORDER BY created_at") == [("Ito",), ("Zorn",)]


def test_a_new_schedule_counts_from_now(rt: Runtime, add: Add, rows: Rows) -> None:
    trigger_id = add(missed="all")
    with rt.database.transaction() as session:
        found = store.find(session, trigger_id, lock=True)
        assert found is not None
        before = store.shown(session, trigger_id=trigger_id)[0]
        asked = store.asked_of(before, {"every_seconds": 600})
        store.change(session, found[0], store.checked(asked, at(15, 5), rt.triggers.capabilities), at(15, 5))
    assert rows("SELECT cron, every_seconds, next_due_at FROM sfsync.triggers") == [(None, 600.0, at(15, 15))]


class Scripted:
    """A capability that answers as a test says."""

    def __init__(self, *answers: Exception) -> None:
        self.answers = list(answers)
        self.keys: list[str] = []

    def __call__(self, _connection: int, _capability: str, _parameters: Any, *, key: str) -> Any:
        self.keys.append(key)
        raise self.answers.pop(0)


def scripted(rt: Runtime, *answers: Exception) -> TriggerDeps:
    return replace(rt.triggers, execute=Scripted(*answers))


def test_what_may_pass_is_put_off_and_never_fails(rt: Runtime, add: Add, rows: Rows) -> None:
    add()
    fire_due(rt.triggers, at(13))
    deps = scripted(rt, *[TransientError("the org is away", retry_after=timedelta(seconds=30))] * 12)
    for _ in range(12):
        assert step(deps, 1) == Again()
    assert rows("SELECT state, reason, look_at > clock_timestamp() + interval '20 seconds' FROM sfsync.firings") == [
        ("ready", "the org is away", True)
    ]
    assert work_off(rt) == []
    look_again(rows)
    assert work_off(rt) == [1]


def test_what_is_refused_fails_with_the_reason(rt: Runtime, add: Add, rows: Rows) -> None:
    add(parameters={"LastName": "Ito", "Nope": 1})
    fire_due(rt.triggers, at(13))
    assert step(rt.triggers, 1) == Done()
    state, reason = rows("SELECT state, reason FROM sfsync.firings")[0]
    assert state == "failed"
    assert "Nope" in reason


def test_a_bug_is_tried_again_and_ends_after_eight_attempts(rt: Runtime, add: Add, rows: Rows) -> None:
    add()
    fire_due(rt.triggers, at(13))
    deps = scripted(rt, *[RuntimeError("bug")] * 8)
    for _ in range(8):
        with pytest.raises(RuntimeError):
            step(deps, 1)
        rows("UPDATE sfsync.firings SET claim_until = NULL")
    assert rows("SELECT state, reason FROM sfsync.firings") == [("failed", "gave up after 8 attempts (RuntimeError)")]


def test_work_that_kills_its_workers_ends_too(rt: Runtime, add: Add, rows: Rows) -> None:
    add()
    fire_due(rt.triggers, at(13))
    rows("UPDATE sfsync.firings SET attempts = 8")
    assert step(rt.triggers, 1) == Done()
    assert rows("SELECT state, reason FROM sfsync.firings") == [("failed", "gave up: 8 workers died of it")]
    assert rows("SELECT count(*) FROM sfsync.actions") == [(0,)]


def test_a_bad_trigger_does_not_stop_the_others(rt: Runtime, add: Add, rows: Rows) -> None:
    add(name="bad")
    add(name="good")
    rows("UPDATE sfsync.triggers SET time_zone = 'Nowhere/Land' WHERE name = 'bad'")
    fire_due(rt.triggers, at(13))
    assert rows("SELECT t.name FROM sfsync.firings f JOIN sfsync.triggers t ON t.id = f.trigger_id") == [("good",)]


def test_old_history_is_forgotten(rt: Runtime, add: Add, rows: Rows) -> None:
    add(missed="skip")
    fire_due(rt.triggers, at(13, 30))
    fire_due(rt.triggers, at(14))
    rows("UPDATE sfsync.firings SET finished_at = clock_timestamp() - interval '91 days' WHERE state = 'skipped'")
    with rt.database.transaction() as session:
        store.forget_old(session, timedelta(days=90))
    assert rows(HISTORY) == [("28 14:00", "ready", 0)]
