"""`sfsync actions`: files in, tables and files out, decisions of people; exit codes that mean something."""

import csv
import io
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli import Cli
from tests.integration.conftest import Rows
from worker import exact
from worker.cli import actions as command
from worker.cli import choosing

RECORD = "003000000000001AAA"
OTHER = "003000000000002AAA"
LONG = "FIELD_CUSTOM_VALIDATION_EXCEPTION"


def lines(*documents: dict[str, Any]) -> str:
    return "".join(exact.dumps(one) + "\n" for one in documents)


def contact(name: str, **members: Any) -> dict[str, Any]:
    return {"object": "Contact", "fields": {"LastName": name}, **members}


def add(cli: Cli, *documents: dict[str, Any]) -> list[str]:
    """The ids of actions that are added."""
    done = cli("actions", "add", "-", "--user-id", "u", "--json", stdin=lines(*documents))
    assert done.code == 0, done.err
    return [one["id"] for one in done.json["added"]]


def update(email: str, record_id: str = RECORD) -> dict[str, Any]:
    return {"object": "Contact", "operation": "update", "record_id": record_id, "fields": {"Email": email}}


# -- add


def test_json_lines_from_a_file_become_actions_with_exact_values(cli: Cli, rows: Rows, tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    opportunity = {"object": "opportunity", "fields": {"name": "Ito", "amount": Decimal("1234567890123456.70")}}
    file.write_text(
        lines(opportunity) + "\n" + lines(update("a@b.example"), {**update("x"), "fields": {"Email": None}})
    )
    done = cli("actions", "add", file, "--user-id", "u")
    assert (done.code, done.out.strip()) == (0, "Added 3 actions; 0 were there already.")
    found = rows("SELECT object, operation, fields::text, state, source FROM sfsync.actions ORDER BY created_at")
    assert found[0][0:2] == ("Opportunity", "create")
    assert exact.loads(found[0][2]) == {"Name": "Ito", "Amount": Decimal("1234567890123456.7")}
    assert [row[3:] for row in found] == [("ready", "cli"), ("ready", "cli"), ("waiting", "cli")]


def test_csv_from_standard_input_becomes_actions(cli: Cli, rows: Rows) -> None:
    text = "Id,Email,idempotency_key,priority\n003000000000001,a@b.example,k1,5\n003000000000002,,k2,\n"
    options = ("--format", "csv", "--object", "Contact", "--operation", "update")
    done = cli("actions", "add", "-", "--user-id", "u", *options, stdin="\ufeff" + text)
    assert done.code == 0, done.err
    found = rows("SELECT record_id, fields, idempotency_key, priority FROM sfsync.actions ORDER BY created_at")
    assert found == [
        ("003000000000001AAA", {"Email": "a@b.example"}, "k1", 5),
        ("003000000000002AAA", {"Email": None}, "k2", 0),
    ]


def test_a_csv_names_parents_that_stand_before(cli: Cli, rows: Rows) -> None:
    text = "object,Name,LastName,idempotency_key,parents.AccountId\nAccount,Ito,,p,\nContact,,Aiko,c,p\n"
    done = cli("actions", "add", "-", "--user-id", "u", "--format", "csv", stdin=text)
    # An empty cell is a null, which an object without that field cannot take: one kind of object a file.
    assert done.code == 5
    add(cli, {"object": "Account", "fields": {"Name": "Ito"}, "idempotency_key": "p"})
    text = "LastName,parents.AccountId\nAiko,p\n"
    done = cli("actions", "add", "-", "--user-id", "u", "--format", "csv", "--object", "Contact", stdin=text)
    assert done.code == 0, done.err
    assert rows("SELECT field FROM sfsync.action_parents") == [("AccountId",)]


def test_everything_that_is_wrong_is_told_by_line_and_nothing_is_added(cli: Cli, rows: Rows) -> None:
    text = "nonsense\n" + lines(contact("ok"), contact("x" * 81), {"object": "Contact", "fields": {"Nme": 1}}, {"a": 1})
    done = cli("actions", "add", "-", "--user-id", "u", stdin=text + "[1]\n")
    assert done.code == 5
    told = [line.split(":")[0] for line in done.err.splitlines() if line.startswith("line ")]
    assert set(told) == {"line 1", "line 3", "line 4", "line 5", "line 6"}
    assert told == sorted(told)
    assert "Nme" in done.err
    assert rows("SELECT count(*) FROM sfsync.actions") == [(0,)]
    as_json = cli("actions", "add", "-", "--user-id", "u", "--json", stdin=text)
    assert as_json.code == 5
    assert as_json.json["added"] == []
    assert {one["line"] for one in as_json.json["faults"]} == {1, 3, 4, 5}


def test_only_what_is_valid_is_added_when_that_is_asked_for(cli: Cli, rows: Rows) -> None:
    text = lines(contact("one"), contact("x" * 81), contact("two")) + "nonsense\n"
    done = cli("actions", "add", "-", "--user-id", "u", "--only-valid", "--json", stdin=text)
    assert done.code == 5  # something was wrong
    assert [one["line"] for one in done.json["added"]] == [1, 3]
    assert [one["line"] for one in done.json["faults"]] == [2, 4]
    assert rows("SELECT fields ->> 'LastName' FROM sfsync.actions ORDER BY created_at") == [("one",), ("two",)]


def test_a_file_with_keys_is_added_once_and_other_content_is_refused(cli: Cli, rows: Rows) -> None:
    text = lines(contact("one", idempotency_key="1"), contact("two", idempotency_key="2"))
    assert cli("actions", "add", "-", "--user-id", "u", stdin=text).code == 0
    again = cli("actions", "add", "-", "--user-id", "u", stdin=text)
    assert (again.code, again.out.strip()) == (0, "Added 0 actions; 2 were there already.")
    other = cli("actions", "add", "-", "--user-id", "u", stdin=lines(contact("three", idempotency_key="1")))
    assert other.code == 5
    assert "line 1: IDEMPOTENCY_KEY_REUSED" in other.err
    assert rows("SELECT count(*) FROM sfsync.actions") == [(2,)]


def test_a_long_file_is_added_in_parts_each_as_a_whole(cli: Cli, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "ACTIONS_AT_ONCE", 2)
    documents = [contact(str(number), idempotency_key=str(number)) for number in range(5)]
    wrong = [*documents[:3], contact("x" * 81), documents[4]]
    done = cli("actions", "add", "-", "--user-id", "u", stdin=lines(*wrong))
    assert done.code == 5
    assert "line 4: " in done.err
    assert rows("SELECT fields ->> 'LastName' FROM sfsync.actions ORDER BY 1") == [("0",), ("1",)]
    mended = cli("actions", "add", "-", "--user-id", "u", stdin=lines(*documents))
    assert (mended.code, mended.out.strip()) == (0, "Added 3 actions; 2 were there already.")


UNREADABLE: tuple[tuple[tuple[str, ...], bytes, int, str], ...] = (
    (("-", "--user-id", "nobody"), b"", 4, "nobody is not connected"),
    (("/no/such/file", "--user-id", "u"), b"", 3, "No such file"),
    (("-", "--user-id", "u"), b"\xff\xfe", 3, "not UTF-8"),
    (("-", "--user-id", "u", "--format", "csv"), b"object,LastName\nContact,a,b\n", 5, "more or fewer cells"),
    (("-", "--user-id", "u", "--format", "csv"), b'object,LastName\nContact,"a\n', 5, "it is not CSV"),
    (
        ("-", "--user-id", "u", "--format", "csv"),
        b"object,Email,email\nContact,a,b\n",
        5,
        "a column twice: Email, email",
    ),
    (("-", "--user-id", "u", "--format", "csv"), b"object;LastName\r\nContact;a\r\n", 5, "they must be by commas"),
    (("-", "--user-id", "u", "--format", "xml"), b"", 2, "xml"),
)


def test_what_cannot_be_read_is_said_in_one_line(cli: Cli) -> None:
    for arguments, stdin, code, words in UNREADABLE:
        done = cli("actions", "add", *arguments, stdin=stdin)
        assert (done.code, words in done.err) == (code, True), (arguments, done)
        assert "Traceback" not in done.err


# -- list and show


def refuse(
    rows: Rows, action_id: str, message: str = "Amount [amount] must [/b] be positive, and so must all that follows"
) -> None:
    error = json.dumps({"code": LONG, "message": message, "fields": ["Amount"]})
    rows(
        "UPDATE sfsync.actions SET state = 'rejected', finished_at = now(), attempts = 12, error = %s WHERE id = %s",
        error,
        action_id,
    )
    rows(
        "INSERT INTO sfsync.action_attempts (action_id, way, state, code, message)"
        " SELECT id, 'collection', 'rejected', error ->> 'code', error ->> 'message' FROM sfsync.actions WHERE id = %s",
        action_id,
    )


def test_the_list_shows_whole_ids_age_attempts_and_the_orgs_words(cli: Cli, rows: Rows) -> None:
    good, bad = add(cli, contact("one"), update("a@b.example"))
    refuse(rows, bad)
    for columns in (80, 120):
        done = cli("actions", "list", columns=columns)
        assert done.code == 0
        assert max(map(len, done.out.splitlines())) == columns
        for words in (good, bad, f"update Contact {RECORD}", "rejected", "12", " s", "[amount]", "[/b]"):
            assert words in done.out, words
        cells = [line.split("│")[-2].strip() for line in done.out.splitlines() if line.startswith("│")]
        assert LONG in "".join(cells)  # folded, not cut


def test_the_list_is_filtered_and_newest_first(cli: Cli, rows: Rows) -> None:
    first, second, third = add(cli, contact("one", idempotency_key="k"), update("a"), update("b"))
    refuse(rows, second)

    def found(*options: str) -> list[str]:
        return [one["id"] for one in cli("actions", "list", "--json", *options).json]

    assert found() == [third, second, first]
    assert found("--limit", "2") == [third, second]
    assert found("--state", "rejected", "--error", LONG) == [second]
    assert found("--state", "rejected", "--state", "waiting") == [third, second]
    assert found("--idempotency-key", "k", "--object", "contact") == [first]
    assert found("--user-id", "nobody") == []
    assert found("--older-than", "1") == []
    wrong = cli("actions", "list", "--state", "gone")
    assert (wrong.code, "choose from waiting" in wrong.err) == (3, True)


def test_one_action_is_shown_with_every_attempt(cli: Cli, rows: Rows) -> None:
    (action,) = add(cli, contact("one"))
    refuse(rows, action)
    done = cli("actions", "show", action)
    assert done.code == 0
    assert "[amount] must [/b]" in done.out.replace("\n", "")
    known = cli("actions", "show", action, "--json").json
    assert (known["state"], known["fields"]) == ("rejected", {"LastName": "one"})
    assert [(one["way"], one["code"]) for one in known["attempts_log"]] == [("collection", LONG)]
    assert cli("actions", "show", uuid.uuid4()).code == 5
    assert cli("actions", "show", "nonsense").code == 2


# -- retry and cancel


def test_one_action_is_retried_or_cancelled_by_its_id(cli: Cli, rows: Rows) -> None:
    first, second = add(cli, contact("one"), contact("two"))
    refuse(rows, first)
    assert cli("actions", "retry", first).out.strip() == f"Retried {first}."
    assert cli("actions", "retry", first).code == 5  # it is ready
    assert cli("actions", "cancel", second, "--json").json == {"cancelled": [second], "skipped": []}
    assert cli("actions", "cancel", second).code == 5
    assert cli("actions", "cancel", uuid.uuid4()).code == 5
    assert cli("actions", "retry").code == 3
    assert cli("actions", "retry", first, "--state", "held").code == 3  # one or the other
    assert rows("SELECT state FROM sfsync.actions ORDER BY created_at") == [("ready",), ("cancelled",)]


def test_many_are_chosen_by_what_is_wrong_with_them_after_a_question(cli: Cli, rows: Rows) -> None:
    made = add(cli, *[update(f"{number}@b.example") for number in range(3)], update("x", OTHER))
    for one in made[:3]:
        refuse(rows, one)
    asked = cli("actions", "retry", "--error", LONG, stdin="n\n")
    assert (asked.code, "3 actions will be retried" in asked.err) == (5, True)
    done = cli("actions", "retry", "--error", LONG, "--yes", "--json")
    assert done.json == {"retried": made[:3], "skipped": []}  # the oldest first
    found = rows("SELECT id::text, state FROM sfsync.actions WHERE record_id = %s ORDER BY ticket", RECORD)
    assert found == [(made[0], "ready"), (made[1], "waiting"), (made[2], "waiting")]
    some = cli("actions", "retry", made[0], made[1], "--yes", "--json")
    assert some.json == {"retried": [], "skipped": made[:2]}
    assert cli("actions", "cancel", "--object", "Contact", stdin="y\n").out.strip() == "Cancelled 4 actions."
    assert rows("SELECT DISTINCT state FROM sfsync.actions") == [("cancelled",)]


# -- export


def test_actions_are_exported_as_json_lines_and_csv(
    cli: Cli, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "PAGE", 2)
    made = add(cli, *[contact(f"Ito, {number} “€”") for number in range(5)])
    refuse(rows, made[0])
    written = cli("actions", "export")
    assert [json.loads(line)["id"] for line in written.out.splitlines()] == made[::-1]
    assert "Wrote 5 actions." in written.err
    file = tmp_path / "all.csv"
    assert cli("actions", "export", file, "--state", "rejected").code == 0
    (row,) = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")))
    assert (row["id"], json.loads(row["error"])["code"]) == (made[0], LONG)
    assert json.loads(row["fields"]) == {"LastName": "Ito, 0 “€”"}
    refused = cli("actions", "export", tmp_path / "no" / "folder.csv")
    assert (refused.code, "No such file" in refused.err) == (3, True)
