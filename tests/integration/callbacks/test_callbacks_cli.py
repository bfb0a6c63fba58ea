"""`sfsync callbacks`: secrets are shown once, what was told is listed, what failed is told again."""

from tests.integration.cli import Cli
from tests.integration.conftest import Rows
from worker.callbacks import store
from worker.db import Database
from worker.settings import load_settings
from worker.tokens.vault import Vault

URL = "https://caller.example/a/rather/long/path/of/a/hook?with=a&query=too"
SECRET = "whsec_" + "MDEy" * 11


def tell(database: Database, connection_id: int) -> int:
    with database.transaction() as session:
        return store.enqueue(session, connection_id=connection_id, url=URL, kind="run.finished", payload={"run": 1})


def test_a_secret_is_made_shown_once_and_retired(cli: Cli, rows: Rows, database_url: str) -> None:
    made = cli("callbacks", "add-secret", "--user-id", "u", "--json").json
    assert made["secret"].startswith("whsec_")
    ((sealed,),) = rows("SELECT secret FROM sfsync.callback_secrets WHERE id = %s", made["id"])
    assert made["secret"] not in sealed
    vault = Vault(load_settings({"DATABASE_URL": database_url, "ENCRYPTION_KEY": "A" * 43}).keys)
    assert vault.decrypt(sealed, table="callback_secrets", column="secret", row=made["id"]) == made["secret"]
    listed = cli("callbacks", "secrets")
    assert made["id"] in listed.out
    assert made["secret"] not in listed.out + cli("callbacks", "secrets", "--json").out
    assert cli("callbacks", "retire-secret", made["id"], "--after", "2").code == 0
    (row,) = cli("callbacks", "secrets", "--json").json
    assert (row["retired"], row["retires_at"] is not None) == (False, True)
    assert cli("callbacks", "retire-secret", "whk_none").code == 5


def test_a_secret_of_the_callers_is_read_from_standard_input_and_never_shown(cli: Cli) -> None:
    done = cli("callbacks", "add-secret", "--user-id", "u", "--stdin", stdin=f"{SECRET}\n")
    assert done.code == 0, done.err
    assert SECRET not in done.out + done.err
    assert cli("callbacks", "add-secret", "--user-id", "u", "--stdin", stdin="password\n").code == 3
    assert cli("callbacks", "add-secret", "--user-id", "nobody").code == 4


def test_what_was_told_is_listed_shown_and_told_again(
    cli: Cli, rows: Rows, database: Database, connection_id: int
) -> None:
    number = tell(database, connection_id)
    rows("UPDATE sfsync.callbacks SET state = 'failed', finished_at = now(), attempts = 9 WHERE id = %s", number)
    rows(
        "INSERT INTO sfsync.callback_attempts (callback_id, status, error, seconds) VALUES (%s, 500, 'it [says] no', 0.5)",
        number,
    )
    for columns in (80, 120):
        done = cli("callbacks", "list", columns=columns)
        assert done.code == 0
        for words in (f"│ {number}", "failed", "9", "500"):
            assert words in done.out, words
        assert max(map(len, done.out.splitlines())) == columns
    assert cli("callbacks", "list", "--state", "delivered", "--json").json == []
    assert cli("callbacks", "list", "--state", "gone").code == 3
    assert "it [says] no" in cli("callbacks", "show", number).out
    known = cli("callbacks", "show", number, "--json").json
    assert (known["payload"], known["calls"][0]["status"]) == ({"run": 1}, 500)
    assert cli("callbacks", "show", number + 1).code == 5
    assert cli("callbacks", "redo").code == 3
    assert cli("callbacks", "redo", number + 1).code == 5
    assert cli("callbacks", "redo", "--failed", "--json").json == {"redone": [number]}
    assert rows("SELECT state, attempts FROM sfsync.callbacks") == [("waiting", 0)]


def test_a_disabled_url_is_listed_and_enabled_again(
    cli: Cli, rows: Rows, database: Database, connection_id: int
) -> None:
    tell(database, connection_id)
    assert cli("callbacks", "enable", "1").code == 5  # it is not disabled
    rows("UPDATE sfsync.callback_endpoints SET disabled_at = now(), disabled_reason = '410 Gone', next_due_at = NULL")
    assert "410 Gone" in cli("callbacks", "endpoints").out
    (row,) = cli("callbacks", "endpoints", "--json").json
    assert (row["url"], row["waiting"]) == (URL, 1)
    assert cli("callbacks", "enable", row["id"]).code == 0
    (row,) = cli("callbacks", "endpoints", "--json").json
    assert (row["disabled_reason"], row["next_due_at"] is not None) == (None, True)
