"""`sfsync triggers` as people use it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.integration.conftest import Rows
from worker.cli.main import app
from worker.cli.output import Exit

Run = Callable[..., str]


@pytest.fixture
def run(database_url: str, connection_id: int, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `sfsync triggers …`; its output."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("ENCRYPTION_KEY", "A" * 43)

    def call(*arguments: str, code: int = Exit.OK, stdin: str | None = None) -> str:
        done = CliRunner().invoke(app, ["triggers", *arguments], input=stdin)
        assert done.exit_code == code or (done.exception and code), (done.output, done.exception)
        return done.output + (str(done.exception) if done.exception else "")

    return call


def test_a_life_of_a_trigger(run: Run, rows: Rows) -> None:
    text = run(
        "add", "--user-id", "u", "nightly", "--cron", "0 2 * * *", "--time-zone", "Europe/Berlin", "--object", "Contact"
    )
    assert "nightly, 0 2 * * * (Europe/Berlin): refresh Contact" in text
    assert text.count("UTC)") == 5
    trigger_id = str(rows("SELECT id FROM sfsync.triggers")[0][0])
    listed = json.loads(run("list", "--json"))
    assert [(one["name"], one["cron"], one["objects"]) for one in listed] == [("nightly", "0 2 * * *", ["Contact"])]
    assert "nightly" in run("list", "--user-id", "u")
    fired = json.loads(run("fire", trigger_id, "--idempotency-key", "k", "--json"))
    assert (fired["state"], fired["repeated"]) == ("ready", False)
    assert "fired before" in run("fire", trigger_id, "--idempotency-key", "k")
    shown = json.loads(run("show", trigger_id, "--json"))
    assert len(shown["upcoming"]) == 5
    assert [one["cause"] for one in shown["firings"]] == ["manual"]
    assert "Firings" in run("show", trigger_id)
    assert json.loads(run("disable", trigger_id, "--json"))["next_due_at"] is None
    assert "Enabled" in run("enable", trigger_id)
    assert "Removed" in run("remove", trigger_id)
    assert "no trigger" in run("show", trigger_id, code=Exit.REFUSED)


def test_the_kinds_of_work(run: Run) -> None:
    lines = '{"object": "Contact", "operation": "create", "fields": {"LastName": "{{who}}"}}\n\n'
    made: dict[str, Any] = json.loads(run("add", "--user-id", "u", "a", "--actions", "-", "--json", stdin=lines))
    assert (made["type"], made["overlap"], made["actions"][0]["object"]) == ("manual_trigger", "allow", "Contact")
    assert made["upcoming"] == []
    given = ("--capability", "create_contact", "--parameters", '{"LastName": "Ito"}', "--every", "15m")
    made = json.loads(run("add", "--user-id", "u", "b", *given, "--json"))
    assert (made["every_seconds"], made["parameters"]) == (900, {"LastName": "Ito"})
    assert "who" in run("fire", "1", code=Exit.REFUSED)


def test_a_trigger_is_changed_in_what_is_given_and_stays_in_the_rest(run: Run, rows: Rows) -> None:
    given = ("--cron", "0 2 * * *", "--time-zone", "Europe/Berlin", "--object", "Contact", "--missed", "all")
    run("add", "--user-id", "u", "nightly", *given)
    trigger_id = str(rows("SELECT id FROM sfsync.triggers")[0][0])

    def change(*arguments: str) -> dict[str, Any]:
        changed: dict[str, Any] = json.loads(run("change", trigger_id, *arguments, "--json"))
        return changed

    assert "Changed the trigger" in run("change", trigger_id, "--time-zone", "Asia/Tokyo")
    found = change("--missed-limit", "3", "--grace", "5m", "--name", "early")
    assert (found["cron"], found["time_zone"], found["objects"]) == ("0 2 * * *", "Asia/Tokyo", ["Contact"])
    assert (found["name"], found["missed"], found["missed_limit"], found["grace_seconds"]) == ("early", "all", 3, 300)
    found = change("--every", "15m")
    assert (found["type"], found["every_seconds"], "cron" in found) == ("scheduled_trigger", 900, False)
    assert found["next_due_at"] == found["upcoming"][0]
    found = change("--capability", "create_contact", "--parameters", '{"LastName": "Ito"}', "--overlap", "queue")
    assert (found["workflow_action"], found["parameters"], "objects" in found) == (
        "execute_service",
        {"LastName": "Ito"},
        False,
    )
    found = change("--parameters", '{"LastName": "Zorn"}')
    assert (found["capability"], found["parameters"]) == ("create_contact", {"LastName": "Zorn"})
    found = change("--by-hand")
    assert (found["type"], found["next_due_at"], found["upcoming"]) == ("manual_trigger", None, [])
    run("disable", trigger_id)
    assert "switched off" in run("change", trigger_id, "--cron", "5 * * * *")
    assert rows("SELECT type, enabled, next_due_at FROM sfsync.triggers") == [("scheduled_trigger", False, None)]


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        ((), "nothing to change", Exit.USAGE),
        (("--cron", "0 25 * * *"), "bad hour", Exit.USAGE),
        (("--time-zone", "Berlin"), "did you mean Europe/Berlin", Exit.USAGE),
        (("--cron", "0 2 * * *", "--every", "1h"), "and not both", Exit.USAGE),
        (("--by-hand", "--every", "1h"), "choose one of them", Exit.USAGE),
        (("--object", "Contact", "--capability", "create_contact"), "two kinds of work", Exit.USAGE),
        (("--parameters", '{"a": 1}'), "process_data refreshes objects", Exit.USAGE),
        (("--every", "0s"), "5 seconds", Exit.USAGE),
        (("--grace", "0"), "grace_seconds is 1", Exit.USAGE),
        (("--name", "other"), "there is a trigger 'other' already", Exit.REFUSED),
    ],
)
def test_a_wrong_change_changes_nothing(
    run: Run, rows: Rows, arguments: tuple[str, ...], words: str, code: Exit
) -> None:
    for name in ("nightly", "other"):
        run("add", "--user-id", "u", name, "--cron", "0 2 * * *", "--all-objects")
    before = rows("SELECT * FROM sfsync.triggers ORDER BY id")
    assert words in run("change", str(before[0][0]), *arguments, code=code).replace("\n", " ")
    assert rows("SELECT * FROM sfsync.triggers ORDER BY id") == before
    assert "no trigger" in run("change", "4711", "--grace", "5s", code=Exit.REFUSED)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cron", "0 2 * *", "--all-objects"), "five fields"),
        (("--cron", "0 2 * * *", "--time-zone", "Berlin", "--all-objects"), "did you mean Europe/Berlin"),
        (("--every", "often", "--all-objects"), "90s, 15m"),
        (("--every", "1s", "--all-objects"), "5 seconds"),
        (("--cron", "0 2 * * *"), "choose what it does"),
        (("--capability", "make_tea"), "create_contact"),
        (("--capability", "create_contact", "--parameters", "[1]"), "no JSON object"),
        (("--actions", "/nowhere.jsonl"), "cannot read"),
        (("--all-objects", "--missed", "never", "--every", "1h"), "skip, once, all"),
    ],
)
def test_what_is_wrong_is_said(run: Run, arguments: tuple[str, ...], words: str) -> None:
    assert words in run("add", "--user-id", "u", "x", *arguments, code=Exit.USAGE).replace("\n", " ")


def test_who_is_not_connected_is_told(run: Run) -> None:
    assert "sfsync connect" in run("add", "--user-id", "nobody", "x", "--all-objects", code=Exit.DISCONNECTED)


@pytest.mark.parametrize("width", [80, 120])
def test_tables_cut_no_id_time_or_state_in_two(
    run: Run, rows: Rows, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("worker.cli.output.console", Console(width=width))
    given = ("--cron", "0 2 * * 1-5", "--time-zone", "Europe/Berlin", "--capability", "create_contact")
    run("add", "--user-id", "u", "the nightly contacts of all", *given, "--parameters", '{"LastName": "Ito"}')
    ((trigger_id,),) = rows("SELECT id FROM sfsync.triggers")
    run("fire", str(trigger_id))
    rows(
        "UPDATE sfsync.firings SET state = 'failed', reason = 'no such field', finished_at = clock_timestamp(), missed = 3"
    )
    listed, shown = run("list"), run("show", str(trigger_id))
    ((due, fired),) = rows(
        "SELECT to_char(t.next_due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), to_char(f.fired_at AT TIME ZONE 'UTC', 'HH24:MI:SS')"
        " FROM sfsync.triggers t JOIN sfsync.firings f ON f.trigger_id = t.id"
    )
    for whole in (due, fired, "failed", "enabled", "(Europe/Berlin)" if width > 80 else "1-5"):
        assert whole in listed
    for whole in (fired, "failed", "no such field"):
        assert whole in shown
    assert max(len(line) for line in listed.splitlines()) <= width
