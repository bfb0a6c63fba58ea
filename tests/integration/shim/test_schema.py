"""The OpenAPI document against what the application does: random requests, also wrong ones, get documented answers and no 500."""

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from tests.integration.shim.conftest import USER, Shim

EXAMPLES = int(os.environ.get("SFSYNC_TEST_EXAMPLES", "6"))  # of each method of each path
ENDLESS = "/api/salesforce/events"
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    database=None,
)


def failures(operation: Any, headers: dict[str, str]) -> set[str]:
    """What is wrong with the answers to random requests of one operation."""
    found: set[str] = set()

    @SETTINGS
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        for part in (case.query, case.body):
            if isinstance(part, dict) and "user_id" in part:
                part["user_id"] = USER  # behind the first refusal, too
        answer = case.call(headers=headers)
        checks = [one for one in CHECKS if one is not not_a_server_error] if answer.status_code == 503 else CHECKS
        try:
            case.validate_response(answer, checks=checks)
        except FailureGroup as group:
            found.update(
                f"{case.method} {case.path} {answer.status_code}: {one!r} {answer.text[:200]}"
                for one in group.exceptions
            )

    ask()
    return found


@pytest.mark.timeout(50 * EXAMPLES)
def test_every_answer_is_documented_and_none_is_an_internal_error(shared: Shim) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", shared.client.app)
    headers = {**shared.as_key("admin"), "Prefer": "wait=0"}
    found: set[str] = set()
    count = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path != ENDLESS:
            count += 1
            found |= failures(operation, headers)
    assert count > 60
    assert not found, "\n".join(sorted(found))
