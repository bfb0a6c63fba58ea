"""What every chapter of the demo uses: the stack, its org asked past sfsync, SQL as anyone sees it, and a list of what held."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import psycopg
import requests

from worker.cli.output import console
from worker.local_servers import SFSYNC
from worker.supervisor import Stack

USER = "demo"
PATIENCE_SECONDS = 90.0
COUNTED = ("Account", "Contact", "Opportunity")


@dataclass
class Demo:
    """The stack, and what the demo found so far."""

    stack: Stack
    quiet: bool
    report: dict[str, Any] = field(default_factory=lambda: {"ok": True})
    step: int = 0

    @property
    def org(self) -> dict[str, Any]:
        """How to reach the local org."""
        assert self.stack.org is not None
        return self.stack.org

    def address(self, name: str) -> str:
        """Where a part of the stack is."""
        return next(child.url for child in self.stack.children if child.name == name)

    def say(self, text: str) -> None:
        """One line of the story."""
        if not self.quiet:
            console.print(text, highlight=False, soft_wrap=True)

    def begin(self, title: str) -> None:
        """A new step of the story."""
        self.step += 1
        self.say(f"\n[bold cyan]{self.step}  {title}[/bold cyan]")

    def sfsync(self, *arguments: str) -> int:
        """Run a command as a user would, its output shown."""
        self.say(f"   [dim]$ sfsync {' '.join(arguments)}[/dim]")
        output = subprocess.DEVNULL if self.quiet else None
        return subprocess.run([*SFSYNC, *arguments], env=self.stack.env, stdout=output, check=False).returncode

    def sfsync_json(self, *arguments: str) -> Any:
        """Run a command with --json; its answer."""
        done = subprocess.run([*SFSYNC, *arguments, "--json"], env=self.stack.env, stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)

    def check(self, holds: bool, text: str) -> None:
        """Say whether something holds; the demo fails when it does not."""
        self.say(f"   {'[green]✓[/green]' if holds else '[red]✗[/red]'} {text}")
        self.report["ok"] = self.report["ok"] and holds

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What anyone sees with SQL."""
        with psycopg.connect(self.stack.env["DATABASE_URL"]) as connection:
            return connection.execute(statement.encode()).fetchall()

    def ask_org(self, soql: str) -> dict[str, Any]:
        """Ask the org itself, past sfsync: a plain REST query with a token of its own."""
        form = {"grant_type": "client_credentials"}
        auth = (self.org["client_id"], self.org["client_secret"])
        token = self.http("POST", f"{self.org['url']}/services/oauth2/token", data=form, auth=auth).json()
        headers = {"Authorization": f"Bearer {token['access_token']}"}
        url = f"{self.org['url']}/services/data/v62.0/query"
        return cast("dict[str, Any]", self.http("GET", url, params={"q": soql}, headers=headers).json())

    def control(self, path: str, body: dict[str, Any]) -> None:
        """Change the org's data behind everybody's back."""
        self.http("POST", f"{self.org['url']}/__org__/{path}", json=body)

    def http(self, method: str, url: str, **options: Any) -> requests.Response:
        """One call to the local org, its certificate checked."""
        answer = requests.request(method, url, verify=self.org["ca_file"] or True, timeout=60, **options)
        answer.raise_for_status()
        return answer


@dataclass(frozen=True, slots=True)
class Shim:
    """A caller's view of the HTTP door."""

    url: str
    key: str

    @classmethod
    def of(cls, demo: Demo) -> "Shim":
        """With a key of its own, as `sfsync api-keys create` makes one."""
        scopes = ("--scope", "read", "--scope", "write")
        made = demo.sfsync_json("api-keys", "create", "--name", f"demo {demo.step}", *scopes, "--user", USER)
        return cls(demo.address("shim"), made["key"])

    def send(self, method: str, path: str, body: dict[str, Any], key: str) -> tuple[dict[str, Any], float]:
        """One write; its answer and the seconds it took."""
        headers = {"Authorization": f"Bearer {self.key}", "Idempotency-Key": key}
        begin = time.monotonic()
        answer = requests.request(method, f"{self.url}/api/salesforce/{path}", json=body, headers=headers, timeout=60)
        answer.raise_for_status()
        return answer.json(), time.monotonic() - begin


def counts_here(demo: Demo) -> dict[str, int]:
    """Rows of each mirror table."""
    return {name: demo.rows(f"SELECT count(*) FROM salesforce.{name.lower()}")[0][0] for name in COUNTED}  # noqa: S608


def counts_there(demo: Demo) -> dict[str, int]:
    """Records of each object in the org."""
    return {name: demo.ask_org(f"SELECT COUNT() FROM {name}")["totalSize"] for name in COUNTED}  # noqa: S608


def wait_until(condition: Callable[[], Any], meanwhile: Callable[[], None] | None = None) -> bool:
    """Wait for a condition, as long as a person would; whether it came."""
    limit = time.monotonic() + PATIENCE_SECONDS
    while not (holds := condition()) and time.monotonic() < limit:
        if meanwhile is not None:
            meanwhile()
        time.sleep(0.2)
    return bool(holds)
