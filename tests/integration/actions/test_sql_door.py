"""Enqueueing by SQL: in the caller's own transaction, by a role that may do nothing else, checked before it is sent."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors, sql
from psycopg.types.json import Jsonb

from worker import exact
from worker.actions import decide, enqueueing, queues, store
from worker.actions.accept import Accepted, KeyReusedError, accept
from worker.actions.deps import ActionDeps
from worker.actions.enqueueing import RefusedDocumentError
from worker.actions.intent import Intent, content_hash, line_of
from worker.actions.queues import Queue
from worker.actions.upkeep import upkeep
from worker.actions.vetting import vet

Rows = Callable[..., list[tuple[Any, ...]]]
RECORD = "003000000000001AAA"
GRANTS = """
GRANT USAGE ON SCHEMA sfsync TO {role};
GRANT EXECUTE ON FUNCTION sfsync.enqueue_action, sfsync.enqueue_actions, sfsync.read_action(uuid),
                          sfsync.read_action(text, text) TO {role}
"""


@pytest.fixture
def caller(database_url: str, connection_id: int) -> Iterator[psycopg.Connection[Any]]:
    """A connection of a role that may enqueue and read outcomes, and nothing else."""
    role = f"caller_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(role)))
        owner.execute(sql.SQL(GRANTS).format(role=sql.Identifier(role)))
    with psycopg.connect(database_url, user=role, password="x", autocommit=True) as connection:
        yield connection
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def enqueue(caller: psycopg.Connection[Any], *documents: dict[str, Any]) -> list[uuid.UUID]:
    listed = Jsonb(list(documents), dumps=exact.dumps)
    found = caller.execute("SELECT action_id FROM sfsync.enqueue_actions('u', %s) ORDER BY place", [listed])
    return [row[0] for row in found]


def change(email: str, **more: Any) -> dict[str, Any]:
    return {"object": "contact", "operation": "update", "record_id": RECORD[:15], "fields": {"email": email}, **more}


def queue_of(rows: Rows, connection_id: int, name: str = "Contact") -> Queue:
    ((queue_id,),) = rows("SELECT id FROM sfsync.action_queues WHERE object = %s", name)
    return Queue(queue_id, connection_id, name)


def test_an_action_is_there_when_the_callers_transaction_is_over_and_not_before(
    caller: psycopg.Connection[Any], rows: Rows
) -> None:
    call = "SELECT sfsync.enqueue_action('u', 'contact', 'update', '{\"Email\": \"a@b.example\"}', record_id => %s)"
    with caller.transaction(force_rollback=True):
        caller.execute(call, [RECORD])
    assert rows("SELECT count(*) FROM sfsync.actions") == [(0,)]
    with caller.transaction():
        caller.execute(call, [RECORD])
        assert rows("SELECT count(*) FROM sfsync.actions") == [(0,)]
    assert rows("SELECT object, operation, record_id, ticket, state, checked, source FROM sfsync.actions") == [
        ("Contact", "update", RECORD, 1, "waiting", False, "sql")
    ]
    assert rows("SELECT object, next_due_at <= clock_timestamp() FROM sfsync.action_queues") == [("Contact", True)]
    assert rows("SELECT count(*) FROM sfsync.action_arrivals") == [(0,)]


def test_the_role_may_enqueue_and_ask_for_outcomes_and_nothing_else(
    caller: psycopg.Connection[Any], rows: Rows, database_url: str
) -> None:
    (action_id,) = enqueue(caller, change("a@b.example", idempotency_key="k"))
    for query, values in (("SELECT sfsync.read_action(%s)", [action_id]), ("SELECT sfsync.read_action('u', 'k')", [])):
        ((told,),) = caller.execute(query, values)
        assert (told["id"], told["state"], told["outcome"]) == (str(action_id), "waiting", None)
    for statement in (
        "SELECT * FROM sfsync.actions",
        "SELECT * FROM salesforce_oauth_tokens",
        "INSERT INTO sfsync.action_arrivals (xact, action_ids) VALUES (1, '{}')",
        "SELECT sfsync.content_hash('{}')",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            caller.execute(statement)
    rows("CREATE ROLE nobody_special LOGIN PASSWORD 'x'")
    rows("GRANT USAGE ON SCHEMA sfsync TO nobody_special")
    try:
        with (
            psycopg.connect(database_url, user="nobody_special", password="x") as other,
            pytest.raises(errors.InsufficientPrivilege),
        ):
            enqueue(other, change("a@b.example"))
    finally:
        rows("DROP OWNED BY nobody_special")
        rows("DROP ROLE nobody_special")


def test_a_callers_own_functions_cannot_stand_in_for_ours(caller: psycopg.Connection[Any], rows: Rows) -> None:
    """A definer's function with an open search path would run them with the owner's rights."""
    name = caller.info.user
    rows(f'CREATE SCHEMA trap AUTHORIZATION "{name}"')
    caller.execute("CREATE FUNCTION trap.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'Account' $$")
    caller.execute("SET search_path = trap, pg_catalog")
    enqueue(caller, change("a@b.example"))
    assert rows("SELECT object FROM sfsync.actions") == [("Contact",)]


def test_a_key_is_one_action_through_every_door(
    deps: ActionDeps, connection_id: int, caller: psycopg.Connection[Any], rows: Rows
) -> None:
    asked = Intent(
        "Contact",
        "update",
        {"Email": 'é\t"\\\u2028\U0001f600', "LastName": Decimal("1.50")},
        record_id=RECORD,
        idempotency_key="k",
        after_failure="wait",
        if_unmodified_since=datetime(2026, 1, 1, 12, tzinfo=UTC),
        priority=-3,
        callback_url="https://caller.example/done",
    )
    same = {name: value for name, value in asdict(asked).items() if value} | {
        "object": "CONTACT",
        "if_unmodified_since": "2026-01-01 14:00+02",
        "fields": {"LastName": Decimal("1.5"), "Email": asked.fields["Email"]},
    }
    (action_id,) = enqueue(caller, same)
    assert enqueue(caller, same) == [action_id]
    assert accept(deps, connection_id, [asked], source="http") == [Accepted(action_id, repeated=True)]
    other = {**same, "priority": 4}
    with pytest.raises(errors.UniqueViolation, match="used before with other content"):
        enqueue(caller, change("new@b.example"), other)
    assert rows("SELECT count(*) FROM sfsync.actions") == [(1,)]
    with pytest.raises(KeyReusedError):
        accept(
            deps, connection_id, [Intent("Contact", "create", {"LastName": "x"}, idempotency_key="k")], source="http"
        )


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20) | st.integers()
VALUES = st.recursive(st.none() | st.booleans() | NUMBERS | TEXT, lambda part: st.dictionaries(TEXT, part, max_size=3))


def test_sql_makes_the_same_hash_and_the_same_line(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:

        @given(st.dictionaries(TEXT, VALUES, max_size=5), TEXT.filter(bool), st.sampled_from([None, "k", "É"]))
        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        def compare(fields: dict[str, Any], external_id: str, order_key: str | None) -> None:
            one = Intent("Thing__c", "upsert", fields, None, "Ext__c", external_id, None, order_key)
            given_members = {name: value for name, value in asdict(one).items() if value}
            action_id = uuid.uuid4()
            row = connection.execute(
                "SELECT sfsync.content_hash(a), sfsync.line_of(%s, a) FROM (SELECT %s AS a) AS asked",
                [action_id, Jsonb(given_members, dumps=exact.dumps)],
            ).fetchone()
            assert row == (content_hash(one), line_of(action_id, one))

        compare()


@pytest.mark.parametrize(
    ("odd", "sentence"),
    [
        ({"if_unmodified_since": "infinity"}, "if_unmodified_since is a time of the years 1 to 9999"),
        ({"if_unmodified_since": "0044-03-15 BC"}, "if_unmodified_since is a time of the years 1 to 9999"),
        ({"fields": {"Email": Decimal("1e5000")}}, "a number is beyond what an org can hold"),
        ({"fields": {"Email": [Decimal("-1e-5000")]}}, "a number is beyond what an org can hold"),
        ({"fields": {"Email": [[[[[[[[[[1]]]]]]]]]]}}, "the fields are nested more than 10 levels deep"),
        ({"priority": Decimal("1.0")}, "a priority is a whole number from -32767 to 32767"),
        (
            {"callback_url": f"https://caller.example/{'é' * 1000}"},
            "callback_url is an absolute http or https URL without user name or fragment",
        ),
        (
            {"operation": "upsert", "record_id": None, "external_id_field": "Ext__c", "external_id": "é" * 256},
            "an external_id has at most 255 characters",
        ),
        ({"object": "C" * 256}, "object is no API name"),
    ],
)
def test_what_no_worker_could_read_again_or_no_index_hold_is_refused(
    deps: ActionDeps, caller: psycopg.Connection[Any], odd: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(errors.InvalidParameterValue) as caught:
        enqueue(caller, change("x@b.example", **odd))
    assert caught.value.diag.message_detail == f"action 1: {sentence}"
    asked = {name: value for name, value in change("x@b.example", **odd).items() if value is not None}
    with pytest.raises(RefusedDocumentError):  # which Celery hands out no second time
        enqueueing.enqueue(deps, {**asked, "user_id": "u", "idempotency_key": "k"})


@pytest.mark.parametrize("odd", [{"user_id": "\ud800"}, {"fields": {"Email": "\ud800"}}, {"colour": "x" * 10**6}])
def test_a_message_that_can_never_be_accepted_is_refused_for_good(
    deps: ActionDeps, connection_id: int, odd: dict[str, Any]
) -> None:
    assert connection_id
    with pytest.raises(RefusedDocumentError):
        enqueueing.enqueue(deps, change("x@b.example", user_id="u", idempotency_key="k") | odd)


def test_a_message_that_goes_beyond_a_limit_of_postgres_is_refused_for_good(
    deps: ActionDeps, connection_id: int
) -> None:
    assert connection_id
    deep: Any = "x"
    for _ in range(600):
        deep = {"a": [deep]}
    with pytest.raises(RefusedDocumentError):
        enqueueing.enqueue(deps, change("x@b.example", user_id="u", idempotency_key="k", fields=deep))
    with pytest.raises(RefusedDocumentError):
        enqueueing.enqueue(deps, change("x@b.example", user_id="u", idempotency_key="k", colour=deep))


@pytest.mark.parametrize(
    "given", ["003000000000001", "003000000000001AAA", "003aBcDeFgHiJkL", "003Ab0000004LDwQAM", "003AB0000004LDWQAM"]
)
def test_sql_makes_the_same_record_id(rows: Rows, given: str) -> None:
    from worker.salesforce.ids import to_18

    assert rows("SELECT sfsync.record_id_18(%s)", given) == [(to_18(given),)]


def test_all_faults_are_told_together(caller: psycopg.Connection[Any], rows: Rows) -> None:
    wrong = [
        change("good@b.example", idempotency_key="k"),
        {"object": "Contact", "operation": "rename"},
        change("x@b.example", callback_url="https://u:p@caller.example/", priority=1.5),
        change("x@b.example", idempotency_key="k", colour="red"),
        {"object": "Contact", "operation": "delete", "record_id": "nonsense", "after_failure": None},
    ]
    with pytest.raises(errors.InvalidParameterValue) as caught:
        enqueue(caller, *wrong)
    assert (caught.value.diag.message_detail or "").splitlines() == [
        "action 2: operation is create, update, upsert or delete",
        "action 3: a priority is a whole number from -32767 to 32767; "
        "callback_url is an absolute http or https URL without user name or fragment",
        "action 4: colour is no member of an action; its idempotency key is given twice",
        "action 5: nonsense is no record id",
    ]
    with pytest.raises(errors.InvalidParameterValue, match="stranger is not connected"):
        caller.execute("SELECT sfsync.enqueue_actions('stranger', '[]')")
    assert rows("SELECT count(*) FROM sfsync.actions") == [(0,)]


def test_the_order_of_a_record_is_the_order_of_commit(
    deps: ActionDeps, connection_id: int, caller: psycopg.Connection[Any], rows: Rows
) -> None:
    """An open transaction keeps nobody waiting: what commits first is first."""
    with caller.transaction():
        enqueue(caller, change("late-1@b.example"), change("late-2@b.example"))
        with ThreadPoolExecutor(1) as pool:
            asked = Intent("Contact", "update", {"Email": "first@b.example"}, record_id=RECORD)
            pool.submit(accept, deps, connection_id, [asked], source="http").result(30)
        enqueue(caller, change("late-3@b.example"))
        with deps.database.transaction() as session:
            assert queues.look(session, queue_of(rows, connection_id).id)
    assert vet(deps, queue_of(rows, connection_id))
    found = rows("SELECT ticket, fields ->> 'Email', state FROM sfsync.actions ORDER BY ticket")
    emails = ("first@b.example", "late-1@b.example", "late-2@b.example", "late-3@b.example")
    assert found == [(place + 1, email, "waiting" if place else "ready") for place, email in enumerate(emails)]


def test_what_is_right_gets_the_orgs_names_and_what_is_wrong_is_rejected_with_a_reason(
    deps: ActionDeps, connection_id: int, caller: psycopg.Connection[Any], rows: Rows
) -> None:
    rows("UPDATE sfsync.object_describes SET fetched_at = clock_timestamp()")
    documents = [
        {"object": "opportunity", "operation": "create", "fields": {"name": "x", "AMOUNT": Decimal("1.10")}},
        {"object": "opportunity", "operation": "create", "fields": {"Nmae": "x"}},
    ]
    right, wrong = enqueue(caller, *documents)
    queue = queue_of(rows, connection_id, "Opportunity")
    assert vet(deps, queue)
    assert not vet(deps, queue)
    kept = rows("SELECT state, fields, external_id_field, external_id FROM sfsync.actions WHERE id = %s", right)
    assert kept == [("ready", {"Name": "x", "Amount": 1.1}, "External_Key__c", right.hex)]
    ((state, error),) = rows("SELECT state, error FROM sfsync.actions WHERE id = %s", wrong)
    assert (state, error["code"], error["fields"], error["by"]) == (
        "rejected",
        "INVALID_FIELD",
        ["Nmae", "Name"],
        "sfsync",
    )
    assert "No such column 'Nmae'" in error["message"]
    assert rows("SELECT way, state, code FROM sfsync.action_attempts") == [("check", "rejected", "INVALID_FIELD")]
    decide.retry(deps, wrong)
    assert rows("SELECT state, checked FROM sfsync.actions WHERE id = %s", wrong) == [("waiting", False)]


def test_a_rejected_action_lets_the_next_of_its_record_go_on(
    deps: ActionDeps, connection_id: int, caller: psycopg.Connection[Any], rows: Rows
) -> None:
    rows("UPDATE sfsync.object_describes SET fetched_at = clock_timestamp()")
    enqueue(caller, change("a@b.example", fields={"Nmae": "x"}), change("b@b.example"))
    vet(deps, queue_of(rows, connection_id))
    assert rows("SELECT ticket, state FROM sfsync.actions ORDER BY ticket") == [(1, "rejected"), (2, "ready")]


def test_a_child_may_name_a_parent_beside_it_or_before_it(
    deps: ActionDeps, connection_id: int, caller: psycopg.Connection[Any], rows: Rows
) -> None:
    account = {"object": "Account", "operation": "create", "fields": {"Name": "Acme"}, "idempotency_key": "acme"}
    child = {
        "object": "Contact",
        "operation": "create",
        "fields": {"LastName": "Ito"},
        "parents": {"accountid": "acme"},
    }
    parent, _ = enqueue(caller, account, child)
    enqueue(caller, child)
    enqueue(caller, {**child, "parents": {"AccountId": str(parent)}})
    assert vet(deps, queue_of(rows, connection_id))
    assert rows("SELECT DISTINCT field, parent_id FROM sfsync.action_parents") == [("AccountId", parent)]
    assert rows("SELECT checked, state, count(*) FROM sfsync.actions WHERE object = 'Contact' GROUP BY 1, 2") == [
        (True, "waiting", 3)
    ]
    with pytest.raises(errors.InvalidParameterValue, match="action 'nobody' was not accepted before"):
        enqueue(caller, {**child, "parents": {"AccountId": "nobody"}})


def test_an_object_that_nobody_knew_gets_its_name_from_the_org(
    deps: ActionDeps, connection_id: int, caller: psycopg.Connection[Any], rows: Rows
) -> None:
    rows("UPDATE sfsync.object_describes SET object = 'hidden' WHERE object = 'contact'")
    enqueue(caller, change("1@b.example"), change("2@b.example"))
    rows("UPDATE sfsync.object_describes SET object = 'contact' WHERE object = 'hidden'")
    assert vet(deps, queue_of(rows, connection_id, "contact"))
    found = rows("SELECT object, ticket, state, fields ->> 'Email' FROM sfsync.actions ORDER BY ticket")
    assert found == [("Contact", 1, "ready", "1@b.example"), ("Contact", 2, "waiting", "2@b.example")]
    assert rows("SELECT count(*) FROM sfsync.action_queues WHERE object = 'Contact' AND next_due_at IS NOT NULL") == [
        (1,)
    ]


def test_a_queue_does_not_rest_while_something_is_to_be_checked(
    deps: ActionDeps, connection_id: int, caller: psycopg.Connection[Any], rows: Rows, woken: list[int]
) -> None:
    enqueue(caller, change("1@b.example"))
    queue = queue_of(rows, connection_id)
    with deps.database.transaction() as session:
        assert queues.rest_queue(session, queue, recheck=deps.settings.claim_ttl)
    assert rows("SELECT next_due_at <= clock_timestamp() FROM sfsync.action_queues") == [(True,)]
    rows("UPDATE sfsync.action_queues SET next_due_at = NULL")
    upkeep(deps)
    assert woken == [queue.id]


def test_thousands_go_in_one_call_and_keep_their_order(
    deps: ActionDeps, connection_id: int, caller: psycopg.Connection[Any], rows: Rows
) -> None:
    names = [f"n{number}" for number in range(3000)]
    enqueue(caller, *({"object": "Contact", "operation": "create", "fields": {"LastName": one}} for one in names))
    queue = queue_of(rows, connection_id)
    while vet(deps, queue):
        pass
    assert [name for (name,) in rows("SELECT fields ->> 'LastName' FROM sfsync.actions ORDER BY created_at")] == names
    assert rows("SELECT DISTINCT state FROM sfsync.actions") == [("ready",)]


def test_a_cancelled_action_is_not_checked(
    deps: ActionDeps, connection_id: int, caller: psycopg.Connection[Any], rows: Rows
) -> None:
    (action_id,) = enqueue(caller, change("1@b.example"))
    decide.cancel(deps, action_id)
    assert not vet(deps, queue_of(rows, connection_id))
    with deps.database.transaction() as session:
        shown = store.read(session, action_id)
    assert shown is not None
    assert shown["state"] == "cancelled"
