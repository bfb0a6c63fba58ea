"""Calls to an org as a client of its APIs makes them."""

from typing import Any

import requests

from tests.org import Org


def grant(org: Org, **form: str) -> requests.Response:
    """The token endpoint's answer to the org's connected app; `form` wins."""
    known = {"client_id": org.client_id, "client_secret": org.client_secret}
    return requests.post(f"{org.url}/services/oauth2/token", data=known | form, timeout=30)


class Api:
    """The data API of one version as one user: api("GET", "sobjects/Account") is the response."""

    def __init__(self, org: Org, version: str = "68.0", token: str | None = None) -> None:
        self.org = org
        self.version = version
        self.base = f"{org.url}/services/data/v{version}/"
        self.http = requests.Session()
        self.http.headers["Authorization"] = f"Bearer {token or org.token()}"

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        return self.http.request(method, self.base + path, json=body, timeout=30, **more)

    def create(self, object_name: str, **values: Any) -> str:
        """The id of a new record."""
        answer = self("POST", f"sobjects/{object_name}", values)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def read(self, object_name: str, record_id: str) -> dict[str, Any]:
        answer = self("GET", f"sobjects/{object_name}/{record_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def error(self, method: str, path: str, body: Any = None) -> tuple[int, str, str]:
        """Status, code and message of a call that must fail."""
        answer = self(method, path, body)
        assert answer.status_code >= 400, answer.text
        entry = answer.json()[0]
        return answer.status_code, entry["errorCode"], entry["message"]
