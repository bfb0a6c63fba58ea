"""What a trigger does: checked when stored, filled when fired."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from worker.triggers.work import WorkError, built_in, check_unattended, fill, placeholders, work_of

CAPABILITIES = ("create_lead", "create_contact")


def test_the_three_kinds_of_work() -> None:
    lead = {"capability": "create_lead", "parameters": {"LastName": "Ito"}}
    assert work_of("execute_service", lead, CAPABILITIES) == lead
    actions = {"actions": [{"object": "Contact", "operation": "update", "record_id": "003", "fields": {"Title": "x"}}]}
    assert work_of("execute_service", actions, CAPABILITIES) == actions
    assert work_of("process_data", {"objects": ["Contact", "contact", "X__c"]}, ()) == {"objects": ["contact", "X__c"]}
    assert work_of("process_data", {}, ()) == {"objects": []}


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("send_mail", {}, "execute_service or process_data"),
        ("process_data", {"capability": "create_lead"}, "no capability"),
        ("process_data", {"objects": "Contact"}, "list of API names"),
        ("process_data", {"objects": ["a b"]}, "list of API names"),
        ("execute_service", {}, "either a capability"),
        ("execute_service", {"capability": "create_lead", "actions": []}, "either a capability"),
        ("execute_service", {"capability": "make_tea"}, "choose from create_contact, create_lead"),
        ("execute_service", {"capability": "create_lead", "parameters": []}, "names and values"),
        ("execute_service", {"actions": []}, "1 to 1,000"),
        ("execute_service", {"actions": [{"object": "Contact"}]}, "operation is one of"),
        ("execute_service", {"actions": [{"operation": "create"}]}, "API name"),
        ("execute_service", {"actions": [{"object": "Contact", "operation": "create", "field": {}}]}, "'field' is not"),
        ("execute_service", {"actions": ["x"]}, "no object"),
    ],
)
def test_wrong_work_is_refused_with_a_way_out(kind: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(WorkError, match=words):
        work_of(kind, given, CAPABILITIES)


WORK = {
    "actions": [
        {
            "object": "Task",
            "operation": "create",
            "fields": {"Subject": "Call {{ who }}", "Amount": "{{amount}}", "N": 1},
        }
    ]
}


def test_placeholders_are_filled_and_keep_their_type() -> None:
    filled = fill(WORK, {"who": "Ada", "amount": Decimal("1.50")}, {})
    assert filled["actions"][0]["fields"] == {"Subject": "Call Ada", "Amount": Decimal("1.50"), "N": 1}
    assert placeholders(WORK) == {"who", "amount"}
    assert "{{amount}}" in str(WORK)  # the trigger's own work is unchanged


def test_a_placeholder_in_a_value_is_only_text() -> None:
    filled = fill(WORK, {"who": "{{amount}}", "amount": 1}, {})
    assert filled["actions"][0]["fields"]["Subject"] == "Call {{amount}}"


def test_parameters_lie_over_a_capability() -> None:
    work = {"capability": "create_lead", "parameters": {"LastName": "Ito", "Company": "{{c}}"}}
    filled = fill(work, {"c": "Acme", "LastName": "Abe"}, {})
    assert filled == {"capability": "create_lead", "parameters": {"LastName": "Abe", "Company": "Acme"}}


def test_objects_can_be_named_when_firing() -> None:
    assert fill({"objects": []}, {"objects": ["Lead"]}, {}) == {"objects": ["Lead"]}
    with pytest.raises(WorkError, match="API names"):
        fill({"objects": []}, {"objects": "Lead"}, {})


def test_what_is_missing_or_too_much_is_refused() -> None:
    with pytest.raises(WorkError, match=r"amount is missing.*amount, who"):
        fill(WORK, {"who": "Ada"}, {})
    with pytest.raises(WorkError, match="no place for the parameter when"):
        fill(WORK, {"who": "Ada", "amount": 1, "when": 2}, {})


def test_a_timetable_knows_its_due_time_and_nothing_else() -> None:
    known = built_in(datetime(2026, 6, 30, 22, 30, tzinfo=UTC), ZoneInfo("Europe/Berlin"))
    assert known == {"due_at": "2026-06-30T22:30:00Z", "due_date": "2026-07-01"}
    check_unattended({"capability": "x", "parameters": {"CloseDate": "{{due_date}}"}})
    with pytest.raises(WorkError, match=r"{{amount}}"):
        check_unattended(WORK)
