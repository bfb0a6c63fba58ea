"""What doctor says of triggers."""

from tests.integration.conftest import Rows
from tests.integration.triggers.conftest import START, Add
from worker.checks import Check, look
from worker.runtime import Runtime
from worker.triggers import fire


def triggers(rt: Runtime) -> list[Check]:
    found = look(rt.database, rt.settings)
    return [check for check in found if check.name.startswith("trigger")]


def test_doctor_tells_of_triggers_that_nobody_fires_and_of_those_that_fail(rt: Runtime, add: Add, rows: Rows) -> None:
    assert triggers(rt) == []
    add(parameters={"LastName": "Ito", "Nope": 1})
    rows("UPDATE sfsync.triggers SET next_due_at = clock_timestamp() - interval '59 seconds'")
    assert triggers(rt) == [Check("triggers", "healthy", "1 enabled")]
    rows("UPDATE sfsync.triggers SET next_due_at = clock_timestamp() - interval '90 seconds'")
    (overdue,) = triggers(rt)
    assert "1 are overdue, one by 9" in overdue.message
    assert "sfsync worker refresh" in overdue.remedy
    rows("UPDATE salesforce_oauth_tokens SET state = 'revoked'")
    assert triggers(rt) == [Check("triggers", "healthy", "1 enabled")]  # it rests
    rows("UPDATE salesforce_oauth_tokens SET state = 'active'")
    fire.fire_due(rt.triggers, rt.now())
    fire.step(rt.triggers, 1)
    (failed,) = triggers(rt)
    assert failed.name == "trigger u/t"
    assert "Nope" in failed.message
    assert rt.now() > START
