"""What goes wrong in other products: the org changes its shape, a worker dies among writes, a timetable that doubles them."""

import json
import os
import signal
import time

import requests

from worker.cli.demo.story import USER, Demo, Shim, wait_until
from worker.cli.output import number

CREATES = 1000
UPDATES = 400


def drift(demo: Demo) -> None:
    """A field is added in the org and filled, and deleted records come back."""
    demo.begin("The org changes its shape; nobody does anything")
    field = {"name": "Score__c", "label": "Score", "type": "double", "precision": 18, "scale": 2}
    demo.control("objects/Account/fields", {"field": field["name"], **field})
    demo.control("rows/change", {"object": "Account", "count": 200, "seed": 3, "fields": {"Score__c": 12.5}})
    demo.control("rows/undelete", {"object": "Contact", "count": 10, "seed": 4})
    demo.say("   a field is added to Account and filled in 200 records; 10 deleted contacts are undeleted")
    column = "SELECT 1 FROM information_schema.columns WHERE table_name = 'account' AND column_name = 'score__c'"
    begin = time.monotonic()
    came = wait_until(lambda: demo.rows(column)) and wait_until(
        lambda: demo.rows("SELECT count(*) FROM salesforce.account WHERE score__c = 12.5")[0][0] == 200
    )
    demo.check(came, f"the column is there with its 200 values after {time.monotonic() - begin:.1f} s")
    left = "SELECT count(*) FROM salesforce._tombstones WHERE object = 'Contact'"
    demo.check(wait_until(lambda: demo.rows(left)[0][0] == 40), "the undeleted contacts are back in their table")


def crowd(demo: Demo) -> None:
    """Many writes in one request; the org cuts connections after applying, and a worker is killed."""
    demo.begin("Many writes while things break: an answer is lost, a worker is killed with -9")
    deals = demo.rows(f"SELECT id FROM salesforce.opportunity ORDER BY id DESC LIMIT {UPDATES}")  # noqa: S608
    creates = [
        {"object": "Contact", "operation": "create", "fields": {"LastName": f"Crowd {number}"}}
        for number in range(CREATES)
    ]
    updates = [
        {"object": "Opportunity", "operation": "update", "record_id": deal, "fields": {"NextStep": "Crowd"}}
        for (deal,) in deals
    ]
    cut = {"match": {"method": "PATCH", "path_regex": "composite/sobjects", "times": 1}, "action": {"cut": "after"}}
    demo.control("faults", cut)
    shim = Shim.of(demo)
    lines = "\n".join(json.dumps(action) for action in [*creates, *updates])
    headers = {
        "Authorization": f"Bearer {shim.key}",
        "Content-Type": "application/x-ndjson",
        "Idempotency-Key": "crowd",
    }
    begin = time.monotonic()
    for _ in range(2):
        url = f"{shim.url}/api/salesforce/actions"
        answer = requests.post(url, params={"user_id": USER}, data=lines, headers=headers, timeout=60)
        answer.raise_for_status()
    demo.say(f"   {number(len(creates) + len(updates))} writes in one request, and the same request once more")
    worker = next(child for child in demo.stack.children if child.name == "worker-actions")
    if worker.process is not None:
        os.kill(worker.process.pid, signal.SIGKILL)
    unfinished = (
        "SELECT count(*) FROM sfsync.actions WHERE state NOT IN ('delivered', 'rejected', 'conflict', 'cancelled')"
    )
    wait_until(lambda: demo.rows(unfinished)[0][0] == 0, meanwhile=demo.stack.revive)
    seconds = time.monotonic() - begin
    states = dict(demo.rows("SELECT state, count(*) FROM sfsync.actions GROUP BY state"))
    demo.check(set(states) == {"delivered"}, f"all of them delivered after {seconds:.1f} s: {states}")
    there = demo.ask_org("SELECT COUNT() FROM Contact WHERE LastName LIKE 'Crowd %'")["totalSize"]
    changed = demo.ask_org("SELECT COUNT() FROM Opportunity WHERE NextStep = 'Crowd'")["totalSize"]
    demo.check((there, changed) == (CREATES, UPDATES), f"the org has {there} new contacts and {changed} changed deals")
    demo.report["crowd"] = {"actions": CREATES + UPDATES, "seconds": round(seconds, 2)}


def timetable(demo: Demo) -> None:
    """A trigger, fired twice with the same key."""
    demo.begin("A trigger, fired twice by mistake")
    parameters = json.dumps({"LastName": "Trigger"})
    what = ("--capability", "create_contact", "--parameters", parameters)
    trigger = demo.sfsync_json("triggers", "add", "--user-id", USER, "welcome", *what)
    for _ in range(2):
        demo.sfsync("triggers", "fire", str(trigger["id"]), "--idempotency-key", "order-17")
    count = "SELECT COUNT() FROM Contact WHERE LastName = 'Trigger'"
    came = wait_until(lambda: demo.ask_org(count)["totalSize"] > 0)
    demo.check(came and demo.ask_org(count)["totalSize"] == 1, "one firing, one contact")


def manners(demo: Demo) -> None:
    """What the calls were spent on, and what the product says about itself."""
    demo.begin("What it cost the org, and how it all is")
    demo.sfsync("status", "--usage", "--hours", "1")
    demo.check(demo.sfsync("doctor") == 0, "nothing is unhealthy")
