"""A local org for tests: a process of its own, reached over the wire only."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from tests import processes
from tests.waiting import LIMIT_SECONDS, until

if TYPE_CHECKING:
    from local_org.client import OrgControl

ROOT = Path(__file__).parents[1]


@dataclass
class Org:
    """A running local org, as its ready file describes it. `control` changes its data and scripts its faults."""

    url: str
    ca_file: Path | None
    client_id: str
    client_secret: str
    username: str
    password: str
    user_id: str
    organization_id: str
    pid: int
    folder: Path

    @cached_property
    def control(self) -> "OrgControl":
        """The control path's client."""
        from local_org.client import OrgControl

        return OrgControl(self.url, str(self.ca_file) if self.ca_file else None)

    def token(self) -> str:
        """An access token of the admin user, by client credentials."""
        form = {"grant_type": "client_credentials", "client_id": self.client_id, "client_secret": self.client_secret}
        verify = str(self.ca_file) if self.ca_file else True
        answer = requests.post(f"{self.url}/services/oauth2/token", data=form, timeout=30, verify=verify)
        answer.raise_for_status()
        return str(answer.json()["access_token"])


@contextmanager
def start_org(
    folder: Path,
    *,
    seed: str | None = None,
    import_dir: Path | None = None,
    http: bool = True,
    port: int = 0,
    options: tuple[str, ...] = (),
    patience_seconds: float = LIMIT_SECONDS,
) -> Iterator[Org]:
    """A local org with its data in `folder`; the same folder again opens the same org. `options` go to its command line.

    `patience_seconds`: how long its seeding may take (a million records: a minute or two).
    """
    folder.mkdir(parents=True, exist_ok=True)
    ready, log = folder.with_suffix(".ready.json"), folder.with_suffix(".log")
    ready.unlink(missing_ok=True)
    arguments = ["--port", str(port), "--data", str(folder), "--ready-file", str(ready)]
    arguments += ["--http"] if http else []
    arguments += ["--seed", seed] if seed else []
    arguments += ["--import", str(import_dir)] if import_dir else []
    with log.open("ab") as output:
        process = processes.start("local_org", [*arguments, *options], output=output, dies_with_us=True)
    try:
        until(lambda: process.poll() is not None or _read(ready), limit=patience_seconds)
        assert process.poll() is None, f"the local org did not start: {log.read_text()[-3000:]}"
        known = _read(ready)
        yield Org(
            url=known["url"],
            ca_file=Path(known["ca_file"]) if known["ca_file"] else None,
            client_id=known["client_id"],
            client_secret=known["client_secret"],
            username=known["username"],
            password=known["password"],
            user_id=known["user_id"],
            organization_id=known["organization_id"],
            pid=known["pid"],
            folder=folder,
        )
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class SharedOrgs:
    """Local orgs by their seed, each started once: a restore takes a hundredth of a start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, Org] = {}
        self._stack = ExitStack()

    def like_new(self, seed: str) -> Org:
        """An org with this data, as it was when it began: clock, objects and settings too; no faults, an empty ledger."""
        org = self._running.get(seed)
        if org is None:
            folder = self._folder / f"org-{len(self._running)}"
            org = self._running[seed] = self._stack.enter_context(start_org(folder, seed=seed))
            org.control.snapshot("start")
            return org
        org.control.clear_faults()
        org.control.clear_bulk_faults()
        org.control.late_commits(0, times=0)
        org.control.restore("start")
        org.control.clear_ledger()
        return org

    def close(self) -> None:
        """Stop them all."""
        self._stack.close()


def _read(ready: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(ready.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return known
