"""Settings: wrong values stop the start with one line that says which and how to mend it."""

import base64
from pathlib import Path

import pytest

from worker.errors import SettingsError
from worker.settings import load_settings

KEY = base64.urlsafe_b64encode(bytes(32)).decode()
GOOD = {"DATABASE_URL": "postgresql://u:p@localhost/db", "ENCRYPTION_KEY": KEY}


def test_the_two_that_have_no_default_are_enough() -> None:
    settings = load_settings(GOOD)
    assert settings.objects == ("Account", "Contact", "Opportunity")
    assert settings.keys == (bytes(32),)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": "mysql://x"}, "must begin with postgresql://"),
        ({"ENCRYPTION_KEY": ""}, "sfsync keys generate"),
        ({"ENCRYPTION_KEY": "short"}, "key 1 is not 32 bytes"),
        ({"ENCRYPTION_KEY": f"{KEY},short"}, "key 2 is not 32 bytes"),
        ({"SALESFORCE_LOGIN_URL": "login.salesforce.com"}, "give scheme and host"),
        ({"SALESFORCE_API_VERSION": "sixty"}, "give it as 62.0"),
        ({"SALESFORCE_CA_FILE": "/no/such/file"}, "there is no file"),
        ({"SFSYNC_POLL_SECOND": "1"}, "did you mean SFSYNC_POLL_SECONDS?"),
        ({"SFSYNC_POLL_SECONDS": "0"}, "SFSYNC_POLL_SECONDS is wrong"),
        ({"SFSYNC_WORKER_THREADS": "many"}, "SFSYNC_WORKER_THREADS is wrong"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({**GOOD, **change})
    assert says in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"SFSYNC_POLL_SECONDS": "-1"})
    assert len(str(caught.value).splitlines()) == 3


def test_a_secret_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    environ = {"DATABASE_URL": GOOD["DATABASE_URL"], "ENCRYPTION_KEY_FILE": str(file)}
    assert load_settings(environ).keys == (bytes(32),)


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="both set"):
        load_settings({**GOOD, "ENCRYPTION_KEY_FILE": str(tmp_path)})


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        load_settings({"DATABASE_URL": GOOD["DATABASE_URL"], "ENCRYPTION_KEY_FILE": str(tmp_path / "none")})


def test_secrets_do_not_print() -> None:
    assert KEY not in repr(load_settings(GOOD))
    assert "u:p" not in repr(load_settings(GOOD))
