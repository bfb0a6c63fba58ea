"""The main job: connect, mirror, changes, writes, proof."""

import re
import subprocess
import sys
import time

from worker.cli.demo.browser import sign_in
from worker.cli.demo.story import USER, Demo, Shim, counts_here, counts_there, wait_until
from worker.cli.output import number
from worker.local_servers import SFSYNC


def show_parts(demo: Demo, seconds: float) -> None:
    """what runs where."""
    demo.begin("Everything runs")
    for name, url in [*demo.stack.brought.items(), *((child.name, child.url) for child in demo.stack.children)]:
        shown = re.sub(r"://[^@/]*@", "://…@", url) or "in the background"
        demo.say(f"   {name:<16} {shown}")
    demo.say(f"   started in {seconds:.1f} s; logs in {demo.stack.folder / 'logs'}")


def connect(demo: Demo) -> None:
    """the real OAuth flow, with a browser's part played by a few lines."""
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


def mirror(demo: Demo) -> None:
    """the first load, by Bulk 2.0 into COPY."""
    demo.begin("Mirror the org")
    begin = time.monotonic()
    code = demo.sfsync("mirror", "--user-id", USER, "--wait")
    seconds = time.monotonic() - begin
    here, there = counts_here(demo), counts_there(demo)
    total = sum(here.values())
    demo.report["first_load"] = {"records": total, "seconds": round(seconds, 2)}
    demo.check(code == 0 and here == there, f"{number(total)} records here, as many as in the org, in {seconds:.1f} s")


def changes(demo: Demo) -> None:
    """the org changes by itself; the timetable brings the changes here."""
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


def writes(demo: Demo) -> None:
    """writes over HTTP, with their outcome in the answer."""
    demo.begin("Write over HTTP: create a contact, update an opportunity")
    shim = Shim.of(demo)
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


def prove(demo: Demo) -> None:
    """every field of every record."""
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
