"""Accepting: stored once per key, in order per record, checked as a whole."""

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from tests.waiting import until
from worker import exact
from worker.actions import store
from worker.actions.accept import Accepted, FaultyError, Intent, KeyReusedError, accept
from worker.actions.deps import ActionDeps

Rows = Callable[..., list[tuple[Any, ...]]]
RECORD = "003000000000001AAA"
OTHER = "003000000000002AAA"


def contact(key: str | None = None, **fields: Any) -> Intent:
    return Intent("contact", "create", {"LastName": "Ito", **fields}, idempotency_key=key)


def change(record_id: str = RECORD, **fields: Any) -> Intent:
    return Intent("Contact", "update", fields or {"Email": "a@b.example"}, record_id=record_id)


def test_an_accepted_action_is_a_ready_row_and_its_queue_is_woken(
    deps: ActionDeps, connection_id: int, woken: list[int], rows: Rows
) -> None:
    (accepted,) = accept(deps, connection_id, [contact(email="A@b.example")], source="http")
    assert not accepted.repeated
    assert rows("SELECT id, object, state, operation, fields, source FROM sfsync.actions") == [
        (accepted.id, "Contact", "ready", "create", {"LastName": "Ito", "Email": "A@b.example"}, "http")
    ]
    assert rows("SELECT id, next_due_at <= clock_timestamp() FROM sfsync.action_queues") == [(woken[0], True)]


def test_the_same_key_from_many_threads_gives_one_action(deps: ActionDeps, connection_id: int, rows: Rows) -> None:
    barrier = threading.Barrier(20)

    def one(_number: int) -> Accepted:
        barrier.wait()
        return accept(deps, connection_id, [contact("k")], source="http")[0]

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(one, range(20)))
    assert len({one.id for one in found}) == 1
    assert sum(not one.repeated for one in found) == 1
    assert rows("SELECT count(*) FROM sfsync.actions") == [(1,)]


def test_the_same_content_in_another_order_and_notation_is_the_same(deps: ActionDeps, connection_id: int) -> None:
    first = Intent("Opportunity", "create", {"Name": "x", "Amount": Decimal("1.50")}, idempotency_key="k")
    again = Intent("opportunity", "create", {"Amount": Decimal("1.5"), "Name": "x"}, idempotency_key="k")
    (one,) = accept(deps, connection_id, [first], source="http")
    assert accept(deps, connection_id, [again], source="http") == [Accepted(one.id, repeated=True)]


def test_the_same_key_with_other_content_is_refused_and_stores_nothing(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    accept(deps, connection_id, [contact("k")], source="http")
    with pytest.raises(KeyReusedError):
        accept(deps, connection_id, [contact("new"), contact("k", Email="x@y.example")], source="http")
    assert rows("SELECT count(*) FROM sfsync.actions") == [(1,)]


def test_a_key_that_was_stored_with_other_content_in_the_meantime_rolls_everything_back(
    deps: ActionDeps, connection_id: int, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(deps, connection_id, [contact("k")], source="http")
    known = store.known_keys
    first: Iterator[dict[str, store.Known]] = iter(
        [{}]
    )  # the first look sees nothing: the other one was not yet committed
    monkeypatch.setattr(store, "known_keys", lambda *given: next(first, known(*given)))
    with pytest.raises(KeyReusedError):
        accept(deps, connection_id, [contact("new"), contact("k", Email="x@y.example")], source="http")
    assert rows("SELECT count(*) FROM sfsync.actions") == [(1,)]


def test_only_the_first_unfinished_action_of_a_record_is_ready(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    accept(deps, connection_id, [change(), change(OTHER), change(Email="2@b.example")], source="http")
    accept(deps, connection_id, [change(Email="3@b.example")], source="http")
    found = rows("SELECT order_key, ticket, state FROM sfsync.actions ORDER BY order_key, ticket")
    assert found == [(RECORD, 1, "ready"), (RECORD, 2, "waiting"), (RECORD, 3, "waiting"), (OTHER, 1, "ready")]


def test_tickets_follow_the_order_of_commit(deps: ActionDeps, connection_id: int, rows: Rows) -> None:
    """Who takes a ticket keeps others from the line until it commits: no later ticket can be seen before an earlier one."""
    with deps.database.transaction() as session:
        store.insert(session, connection_id, [_row(change())])
        with ThreadPoolExecutor(1) as pool:
            later = pool.submit(accept, deps, connection_id, [change(Email="2@b.example")], source="http")
            _wait_for_a_lock(rows)
            assert not later.done()
            session.commit()
            later.result(30)
    assert rows("SELECT ticket, state, fields ->> 'Email' FROM sfsync.actions ORDER BY ticket") == [
        (1, "ready", "a@b.example"),
        (2, "waiting", "2@b.example"),
    ]


def test_many_threads_on_few_records_leave_one_ready_action_each(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    def some(number: int) -> None:
        one, two = (RECORD, OTHER) if number % 2 else (OTHER, RECORD)
        accept(deps, connection_id, [change(one), change(two), change(one)], source="http")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(some, range(24)))
    assert rows("SELECT count(*), count(DISTINCT (order_key, ticket)) FROM sfsync.actions") == [(72, 72)]
    heads = rows("SELECT order_key, ticket FROM sfsync.actions WHERE state = 'ready' ORDER BY 1")
    assert heads == [(RECORD, 1), (OTHER, 1)]


def test_all_faults_of_all_actions_are_told_together_and_nothing_is_stored(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    asked = [
        contact(Nickname="x", Email="e" * 81),
        contact(),
        Intent("Contact", "create", {"Email": "a@b.example", "Name": "x"}),
        Intent("Contact", "update", {"LastName": None}, record_id="006000000000001AAA"),
        Intent("Opportunity", "upsert", {"Name": "x"}, external_id_field="external_key__c", external_id="x" * 65),
    ]
    rows("UPDATE sfsync.object_describes SET fetched_at = clock_timestamp()")
    with pytest.raises(FaultyError) as caught:
        accept(deps, connection_id, asked, source="http")
    assert [(fault.position, fault.code) for fault in caught.value.faults] == [
        (0, "INVALID_FIELD"),
        (0, "STRING_TOO_LONG"),
        (2, "INVALID_FIELD_FOR_INSERT_UPDATE"),
        (2, "REQUIRED_FIELD_MISSING"),
        (3, "REQUIRED_FIELD_MISSING"),
        (3, "MALFORMED_ID"),
        (4, "STRING_TOO_LONG"),
    ]
    assert rows("SELECT count(*) FROM sfsync.actions") == [(0,)]


@pytest.mark.parametrize(
    "intent",
    [
        Intent("Contact", "rename", {}),
        Intent("Contact", "update", {"LastName": "x"}),
        Intent("Contact", "update", {"LastName": "x"}, record_id="nonsense"),
        Intent("Contact; DROP", "create", {"LastName": "x"}),
        Intent("Contact", "create", {"LastName": "x\x00"}),
        Intent("Contact", "create", {"LastName": "\ud800"}),
        Intent("Contact", "create", {"LastName": "x"}, idempotency_key=""),
        Intent("Contact", "upsert", {"LastName": "x"}),
    ],
)
def test_an_action_without_sense_is_refused(deps: ActionDeps, connection_id: int, intent: Intent) -> None:
    with pytest.raises(FaultyError):
        accept(deps, connection_id, [intent], source="http")


def test_a_create_carries_its_own_id_in_the_key_field_where_the_object_has_one(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    (keyed,) = accept(deps, connection_id, [Intent("Opportunity", "create", {"Name": "x"})], source="http")
    own = {"Name": "x", "External_Key__c": "mine"}
    (unkeyed,) = accept(deps, connection_id, [Intent("Opportunity", "create", own)], source="http")
    found: dict[uuid.UUID, list[str | None]] = dict(
        rows("SELECT id, ARRAY[external_id_field, external_id] FROM sfsync.actions")
    )
    assert found == {keyed.id: ["External_Key__c", keyed.id.hex], unkeyed.id: [None, None]}


def test_amounts_are_stored_exactly(deps: ActionDeps, connection_id: int) -> None:
    amount = Decimal("1234567890123456.78")
    (one,) = accept(
        deps, connection_id, [Intent("Opportunity", "create", {"Name": "x", "Amount": amount})], source="http"
    )
    with deps.database.transaction() as session:
        shown = store.read(session, one.id)
    assert shown is not None
    assert exact.dumps(shown["fields"]) == '{"Name":"x","Amount":1234567890123456.78}'


def test_a_sleeping_queue_is_woken_again(deps: ActionDeps, connection_id: int, rows: Rows) -> None:
    accept(deps, connection_id, [contact()], source="http")
    rows("UPDATE sfsync.action_queues SET next_due_at = NULL")
    accept(deps, connection_id, [contact()], source="http")
    assert rows("SELECT count(*) FROM sfsync.action_queues WHERE next_due_at <= clock_timestamp()") == [(1,)]


def _row(intent: Intent) -> store.New:
    return store.New(
        id=uuid.uuid4(),
        object=intent.object,
        operation=intent.operation,
        record_id=intent.record_id,
        external_id_field=None,
        external_id=None,
        fields=intent.fields,
        idempotency_key=None,
        content_hash=bytes(32),
        order_key=str(intent.record_id),
        alone=False,
        priority=0,
        source="http",
    )


def _wait_for_a_lock(rows: Rows) -> None:
    until(
        lambda: rows("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
    )


def test_the_database_refuses_unlawful_states(deps: ActionDeps, connection_id: int) -> None:
    accept(deps, connection_id, [contact()], source="http")
    for wrong in ("state = 'delivered'", "state = 'rejected'", "state = 'sending'", "state = 'odd'"):
        with pytest.raises(Exception, match="ck_actions"), deps.database.transaction() as session:
            session.execute(text(f"UPDATE sfsync.actions SET {wrong}"))


SINCE = datetime(2026, 1, 1, 12, tzinfo=UTC)
ACCOUNT = Intent("Account", "create", {"Name": "Acme"}, idempotency_key="acme")


def child(parent: Any, **fields: Any) -> Intent:
    return Intent("Contact", "create", {"LastName": "Ito", **fields}, parents={"accountid": parent})


def test_what_was_asked_for_is_kept_and_belongs_to_the_content_of_a_key(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    asked = Intent(
        "Contact",
        "update",
        {"Email": "a@b.example"},
        record_id=RECORD,
        idempotency_key="k",
        after_failure="wait",
        if_unmodified_since=SINCE,
        callback_url="https://caller.example/done",
    )
    (one,) = accept(deps, connection_id, [asked], source="http")
    kept = rows("SELECT after_failure, mergeable, if_unmodified_since, callback_url FROM sfsync.actions")
    assert kept == [("wait", False, SINCE, "https://caller.example/done")]
    assert accept(deps, connection_id, [asked], source="http") == [Accepted(one.id, repeated=True)]
    for other in ({"after_failure": "go_on"}, {"if_unmodified_since": None}, {"callback_url": None}, {"priority": 3}):
        with pytest.raises(KeyReusedError):
            accept(deps, connection_id, [replace(asked, **other)], source="http")


def test_a_child_waits_for_the_action_that_makes_its_parent(deps: ActionDeps, connection_id: int, rows: Rows) -> None:
    """Named by the key of one beside it, by the key of one that is there, by an id."""
    accept(deps, connection_id, [ACCOUNT, child("acme")], source="http")
    ((parent,),) = rows("SELECT id FROM sfsync.actions WHERE object = 'Account'")
    accept(deps, connection_id, [child("acme", Email="2@b.example"), child(parent), child(str(parent))], source="http")
    assert rows("SELECT state, count(*) FROM sfsync.actions WHERE object = 'Contact' GROUP BY state") == [
        ("waiting", 4)
    ]
    assert rows("SELECT DISTINCT field, parent_id FROM sfsync.action_parents") == [("AccountId", parent)]
    assert rows("SELECT count(*) FROM sfsync.action_parents") == [(4,)]


@pytest.mark.parametrize(
    ("parents", "word"),
    [
        ({"AccountId": "nobody"}, "no action 'nobody'"),
        ({"AccountId": uuid.uuid4()}, "no action"),
        ({"AccountId": "changed"}, "it is a update"),
        ({"AccountId": "given up"}, "is cancelled"),
        ({"Email": "acme"}, "no look-up field"),
        ({"Nickname": "acme"}, "No such column 'Nickname'"),
        ({"AccountId": "ito"}, "looks up Account, not Contact"),
    ],
)
def test_a_parent_that_cannot_be_one_is_refused(
    deps: ActionDeps, connection_id: int, rows: Rows, parents: dict[str, Any], word: str
) -> None:
    there = [ACCOUNT, contact("given up"), replace(change(), idempotency_key="changed"), contact("ito")]
    accept(deps, connection_id, there, source="http")
    rows(
        "UPDATE sfsync.actions SET state = 'cancelled', finished_at = now(), object = 'Account'"
        " WHERE idempotency_key = 'given up'"
    )
    rows("UPDATE sfsync.object_describes SET fetched_at = clock_timestamp()")
    with pytest.raises(FaultyError, match=word):
        accept(deps, connection_id, [Intent("Contact", "create", {"LastName": "x"}, parents=parents)], source="http")


def test_what_is_valid_is_stored_when_the_caller_asks_for_that(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    accept(deps, connection_id, [contact("old"), contact("reused")], source="http")
    rows("UPDATE sfsync.object_describes SET fetched_at = clock_timestamp()")
    asked = [
        contact("good"),
        Intent("Contact", "rename", {}),
        contact("old"),
        contact("reused", Email="x@y.example"),
        Intent("Account", "create", {"Nmae": "x"}, idempotency_key="wrong"),
        child("wrong"),
        contact("good"),
    ]
    found = accept(deps, connection_id, asked, source="http", only_valid=True)
    assert {place: one.repeated for place, one in found.accepted.items()} == {0: False, 2: True}
    assert [(fault.position, fault.code) for fault in found.faults] == [
        (1, "VALIDATION_ERROR"),
        (3, "IDEMPOTENCY_KEY_REUSED"),
        (4, "INVALID_FIELD"),
        (4, "REQUIRED_FIELD_MISSING"),
        (5, "INVALID_PARENT"),
        (6, "VALIDATION_ERROR"),
    ]
    assert rows("SELECT count(*) FROM sfsync.actions") == [(3,)]
    with pytest.raises(FaultyError):
        accept(deps, connection_id, asked, source="http")


def test_heads_of_one_request_are_sent_in_the_order_they_were_asked_for(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    keys = ["c", "a", None, "b"]
    accept(deps, connection_id, [contact(key) for key in keys], source="http")
    assert [key for (key,) in rows("SELECT idempotency_key FROM sfsync.actions ORDER BY created_at")] == keys


def test_numbers_that_no_field_can_hold_are_refused_at_the_door(deps: ActionDeps, connection_id: int) -> None:
    for wrong in (float("nan"), Decimal("Infinity"), Decimal("1e999999999"), SINCE):
        with pytest.raises(FaultyError):
            accept(deps, connection_id, [contact(Email=wrong)], source="celery")
