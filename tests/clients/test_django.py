"""django-salesforce, unchanged: models on REST, SOQL and Collections, after a log-in with user name and password."""

import json
from pathlib import Path

import pytest

from tests.clients.conftest import pip

pytestmark = pytest.mark.timeout(900)  # the first run installs the client
CHECK = Path(__file__).with_name("django_check.py")


def test_models(secure_org, command) -> None:
    folder = pip("python-django", "django-salesforce==6.0", "django<5")
    env = {
        "ORG_URL": secure_org.url,
        "REQUESTS_CA_BUNDLE": secure_org.ca_file,
        "CLIENT_ID": secure_org.client_id,
        "CLIENT_SECRET": secure_org.client_secret,
        "ORG_USERNAME": secure_org.username,
        "ORG_PASSWORD": secure_org.password,
    }
    done = json.loads(command([str(folder / "venv/bin/python"), "-W", "ignore", str(CHECK)], env))
    assert done == {
        "count": 5000,
        "saved": "55",
        "updated": 5,
        "parents": [["d4", "django"]],
        "either": 2,
        "semi_join": 1,
        "newest": "d4",
        "all": 5005,
        "deleted": [5, 1],
        "inspected": True,
    }
