"""The demo: the main job as a user would do it, by the same commands and over the same wires, with proof at the end."""

import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin

import psycopg
import requests
from rich.panel import Panel

from worker.cli.output import console, number
from worker.supervisor import SFSYNC, Stack, full_stack

USER = "demo"
REFRESH_SECONDS = "3"
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


def run_demo(folder: Path, seed: str, *, quiet: bool) -> dict[str, Any]:
    """Tell the whole story; the report has "ok", figures and where to look."""
    begin = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SALESFORCE_", "SFSYNC_"))}
    environ = {**inherited, "SFSYNC_REFRESH_SECONDS": REFRESH_SECONDS}
    if not quiet:
        console.print(Panel("sfsync: the main job, from nothing, on a local org", style="bold", expand=False))
        console.print("Starting PostgreSQL, Valkey, the local org, three workers, beat, the shim and Flower ...")
    with full_stack(folder, environ, org_options=("--seed", seed)) as stack:
        demo = Demo(stack, quiet)
        show_parts(demo, time.monotonic() - begin)
        connect(demo)
        mirror(demo)
        changes(demo)
        writes(demo)
        prove(demo)
        end(demo, time.monotonic() - begin)
        return demo.report


def show_parts(demo: Demo, seconds: float) -> None:
    """Step 1: what runs where."""
    demo.begin("Everything runs")
    for name, url in [*demo.stack.brought.items(), *((child.name, child.url) for child in demo.stack.children)]:
        shown = re.sub(r"://[^@/]*@", "://…@", url) or "in the background"
        demo.say(f"   {name:<16} {shown}")
    demo.say(f"   started in {seconds:.1f} s; logs in {demo.stack.folder / 'logs'}")


def connect(demo: Demo) -> None:
    """Step 2: the real OAuth flow, with a browser's part played by a few lines."""
    demo.begin("Connect by OAuth: authorization code with PKCE")
    demo.say(f"   [dim]$ sfsync connect --user-id {USER} --no-browser[/dim]")
    command = [*SFSYNC, "connect", "--user-id", USER, "--no-browser"]
    env = {**demo.stack.env, "COLUMNS": "10000", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            approve(demo, process)
        except BaseException:
            process.kill()  # it waits for an approval that will not come
            raise
    demo.check(process.returncode == 0, "signed in and approved; the tokens are stored encrypted")


def approve(demo: Demo, process: subprocess.Popen[str]) -> None:
    """Take the address that `connect` prints to the browser, and read what else it says."""
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"https?://\S+/services/oauth2/authorize\?\S+", line)
        if found:
            sign_in(demo, found.group())
            break
    process.stdout.read()


def sign_in(demo: Demo, url: str) -> None:
    """What a person does: open the page, fill in the form, approve; as many pages as the org shows."""
    with requests.Session() as browser:
        browser.trust_env = False  # REQUESTS_CA_BUNDLE would win over the org's own certificate
        browser.verify = demo.org["ca_file"] or True
        page = browser.get(url, timeout=60)
        for _ in range(3):
            form = Form(page.text)
            if form.action is None:
                return
            form.values |= {"username": demo.org["username"], "password": demo.org["password"]}
            page = browser.post(urljoin(page.url, form.action), data=form.values, timeout=60)


class Form(html.parser.HTMLParser):
    """The first form of a page: where it goes, and its fields as they stand (of its buttons, the first)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.values: dict[str, str] = {}
        self._pressed = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect inputs and the first button that has a name."""
        known = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = known.get("action", "")
        elif tag == "input" and known.get("name") and known.get("type") != "submit":
            self.values[known["name"]] = known.get("value", "")
        elif tag in ("button", "input") and known.get("name") and not self._pressed:
            self.values[known["name"]] = known.get("value", "")
            self._pressed = True


def mirror(demo: Demo) -> None:
    """Step 3: the first load, by Bulk 2.0 into COPY."""
    demo.begin("Mirror the org")
    begin = time.monotonic()
    code = demo.sfsync("mirror", "--user-id", USER, "--wait")
    seconds = time.monotonic() - begin
    here, there = counts_here(demo), counts_there(demo)
    total = sum(here.values())
    demo.report["first_load"] = {"records": total, "seconds": round(seconds, 2)}
    demo.check(code == 0 and here == there, f"{number(total)} records here, as many as in the org, in {seconds:.1f} s")


def counts_here(demo: Demo) -> dict[str, int]:
    """Rows of each mirror table."""
    return {name: demo.rows(f"SELECT count(*) FROM salesforce.{name.lower()}")[0][0] for name in COUNTED}  # noqa: S608


def counts_there(demo: Demo) -> dict[str, int]:
    """Records of each object in the org."""
    return {name: demo.ask_org(f"SELECT COUNT() FROM {name}")["totalSize"] for name in COUNTED}  # noqa: S608


def changes(demo: Demo) -> None:
    """Step 4: the org changes by itself; the timetable brings the changes here."""
    demo.begin("The org changes; the timetable follows")
    demo.control("rows/change", {"object": "Contact", "count": 500, "seed": 1})
    demo.control("rows/delete", {"object": "Contact", "count": 50, "seed": 2})
    demo.control("rows/create", {"object": "Opportunity", "count": 20})
    demo.say("   500 contacts changed, 50 deleted, 20 opportunities created in the org; nobody tells sfsync")
    begin = time.monotonic()
    newest = demo.ask_org("SELECT SystemModstamp FROM Contact ORDER BY SystemModstamp DESC LIMIT 1")["records"][0]
    stamp = newest["SystemModstamp"]
    arrived = f"SELECT count(*) FROM salesforce.contact WHERE systemmodstamp >= '{stamp}'::timestamptz"  # noqa: S608
    wait_until(lambda: counts_here(demo) == counts_there(demo) and demo.rows(arrived)[0][0] >= 1)
    seconds = time.monotonic() - begin
    tombstones = demo.rows("SELECT count(*) FROM salesforce._tombstones WHERE object = 'Contact'")[0][0]
    demo.report["changes_arrived_seconds"] = round(seconds, 2)
    demo.check(counts_here(demo) == counts_there(demo), f"they are here after {seconds:.1f} s")
    demo.check(tombstones == 50, f"{tombstones} tombstones for the deleted ones")


def wait_until(condition: Any) -> None:
    """Wait for a condition, as long as a person would."""
    limit = time.monotonic() + PATIENCE_SECONDS
    while not condition() and time.monotonic() < limit:
        time.sleep(0.2)


def writes(demo: Demo) -> None:
    """Step 5: writes over HTTP, with their outcome in the answer."""
    demo.begin("Write over HTTP: create a contact, update an opportunity")
    scopes = ("--scope", "read", "--scope", "write")
    made = demo.sfsync_json("api-keys", "create", "--name", "demo", *scopes, "--user", USER)
    shim = Shim(next(child.url for child in demo.stack.children if child.name == "shim"), made["key"])
    contact = {"user_id": USER, "LastName": "Lovelace", "FirstName": "Ada", "Email": "ada@analytical.example"}
    first, took = shim.send("POST", "contacts", contact, "demo-contact-1")
    again, _ = shim.send("POST", "contacts", contact, "demo-contact-1")
    record = first["data"]["id"]
    demo.check(first["ok"] and bool(record), f"contact {record} created in {took:.2f} s")
    held = demo.ask_org(f"SELECT Id FROM Contact WHERE Email = '{contact['Email']}'")["totalSize"]  # noqa: S608
    demo.check(again["data"]["id"] == record and held == 1, "the same request again: the same answer, still one record")
    in_mirror = f"SELECT name, email FROM salesforce.contact WHERE id = '{record}'"  # noqa: S608
    wait_until(lambda: demo.rows(in_mirror))  # the outcome is told first, the mirror a moment later
    here = demo.rows(in_mirror)
    demo.check(here == [("Ada Lovelace", contact["Email"])], f"it is in the mirror: {here}")
    deal = demo.rows("SELECT id FROM salesforce.opportunity WHERE NOT isclosed ORDER BY id LIMIT 1")[0][0]
    change = {"user_id": USER, "StageName": "Closed Won", "Amount": 1234.56}
    updated, took = shim.send("PUT", f"opportunities/{deal}", change, "demo-deal-1")
    demo.check(bool(updated["data"]["success"]), f"opportunity {deal} updated in {took:.2f} s")
    there = demo.ask_org(f"SELECT Amount, IsWon FROM Opportunity WHERE Id = '{deal}'")["records"][0]  # noqa: S608
    asked = f"SELECT amount = {change['Amount']} AND iswon FROM salesforce.opportunity WHERE id = '{deal}'"  # noqa: S608
    wait_until(lambda: demo.rows(asked)[0][0])
    agree = demo.rows(asked)[0][0] and there["Amount"] == change["Amount"] and there["IsWon"] is True
    demo.check(agree, "org and mirror agree, down to what the org computed (IsWon)")


@dataclass(frozen=True, slots=True)
class Shim:
    """A caller's view of the HTTP door."""

    url: str
    key: str

    def send(self, method: str, path: str, body: dict[str, Any], key: str) -> tuple[dict[str, Any], float]:
        """One write; its answer and the seconds it took."""
        headers = {"Authorization": f"Bearer {self.key}", "Idempotency-Key": key}
        begin = time.monotonic()
        answer = requests.request(method, f"{self.url}/api/salesforce/{path}", json=body, headers=headers, timeout=60)
        answer.raise_for_status()
        return answer.json(), time.monotonic() - begin


def prove(demo: Demo) -> None:
    """Step 6: every field of every record."""
    demo.begin("Prove it: compare every field of every record with the org")
    begin = time.monotonic()
    code = demo.sfsync("verify", "--user-id", USER)
    demo.report["verify_seconds"] = round(time.monotonic() - begin, 2)
    found = demo.rows("SELECT coalesce(sum(records), 0), coalesce(sum(differences), 0) FROM sfsync.verifications")[0]
    demo.report["verified"] = {"records": int(found[0]), "differences": int(found[1])}
    demo.check(code == 0 and found[1] == 0, f"{number(int(found[0]))} records compared, {found[1]} differences")


def end(demo: Demo, seconds: float) -> None:
    """What to keep in mind."""
    restarts = {child.name: child.starts - 1 for child in demo.stack.children if child.starts > 1}
    demo.report |= {"seconds": round(seconds, 1), "restarts": restarts}
    flower = next(child.url for child in demo.stack.children if child.name == "flower")
    verdict = (
        "[green]Everything held.[/green]" if demo.report["ok"] else "[red]Something differed: see the ✗ above.[/red]"
    )
    demo.say(f"\n{verdict} The whole demo took {seconds:.0f} s.")
    demo.say("To look around, run `make up`: it leaves the same stack running and says where everything is")
    demo.say(f"(the shim's /docs, Flower: here it was {re.sub(r'://[^@/]*@', '://', flower)}, `sfsync status`).")
    if demo.quiet:
        sys.stdout.flush()
