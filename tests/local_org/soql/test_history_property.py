"""Whatever was written through any API reads back the same through every API that reads.

`SFSYNC_TEST_HISTORIES=300` plays so many histories (`make test-full`) instead of a few.
"""

import csv
import io
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_org import (
    bulk1,
    bulk_ingest,
    bulk_query,
    collections,
    composite,
    data_api,
    query,
    replication,
    rows,
    soap,
    tree,
    ui_records,
)
from local_org.clock import Clock
from local_org.context import Context
from local_org.ids import numbered
from local_org.org import Org
from local_org.values import datetime_text, dumps

START_MS = 1_795_348_800_000
MINUTE = 60_000
USER = numbered("005", 1)
FIELDS = ("Name", "Phone", "AnnualRevenue", "NumberOfEmployees", "Industry")

words = st.text("ab,\"'\n;üß日 x", min_size=1, max_size=8).map(lambda t: f"x{t}x")
values = st.fixed_dictionaries(
    {},
    optional={
        "Phone": st.one_of(st.none(), words),
        "AnnualRevenue": st.one_of(st.none(), st.integers(-(10**9), 10**9).map(float)),
        "NumberOfEmployees": st.one_of(st.none(), st.integers(0, 99_999_999)),
        "Industry": st.one_of(st.none(), st.sampled_from(["Energy", "Banking"])),
    },
)
named = st.builds(lambda name, more: {"Name": name, **more}, words, values)
KEYED = ("rest", "collections", "bulk2", "composite", "batch", "graph", "soap")
MOST = (*KEYED, "bulk1", "ui")
nothing: st.SearchStrategy[dict[str, Any]] = st.just({})
steps = st.one_of(
    st.tuples(st.sampled_from((*MOST, "tree")), st.just("create"), named),
    st.tuples(st.sampled_from(MOST), st.just("update"), values),
    st.tuples(st.sampled_from(KEYED), st.just("upsert"), named),
    st.tuples(st.sampled_from(MOST), st.just("delete"), nothing),
    st.tuples(st.just("soap"), st.just("undelete"), nothing),
)


@dataclass
class Scene:
    """The org, and what it should hold: the living and the deleted records by id."""

    org: Org
    living: dict[str, dict[str, Any]] = field(default_factory=dict)
    gone: dict[str, dict[str, Any]] = field(default_factory=dict)
    keyed: set[str] = field(default_factory=set)

    def context(self, method: str = "GET", body: Any = None, **more: Any) -> Context:
        headers = {"content-type": "application/json"} | more.pop("headers", {})
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        catalogue = self.org.access.catalogue(USER)
        return Context(
            self.org, self.org.store, catalogue, "68.0", USER, method, "", more.pop("query", {}), headers, data,
            dispatch=data_api.dispatch,
        )  # fmt: skip

    def finished(self, read: Any) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while (job := read())["state"] not in ("JobComplete", "Failed", "Completed"):
            assert time.monotonic() < deadline
            threading.Event().wait(0.002)
        return job

    # -- the ways to write

    def write(self, way: str, verb: str, record: dict[str, Any]) -> None:
        target = min(self.gone if verb == "undelete" else self.living, default=None)
        if verb in ("update", "delete", "undelete") and target is None:
            return
        if verb == "undelete" and target in self.keyed and self.keyed & self.living.keys():
            assert "DUPLICATE_VALUE" in self._soap_text(verb, target, record)
            return
        done = getattr(self, f"_{way}")(verb, target, record)
        if verb == "delete":
            self.gone[str(target)] = self.living.pop(str(target))
        elif verb == "undelete":
            self.living[str(target)] = self.gone.pop(str(target))
        elif verb == "update":
            self.living[str(target)] |= record
        elif verb == "upsert" and done in self.living:
            self.living[done] |= record
        else:
            self.living[done] = dict.fromkeys(FIELDS) | record
        if verb == "upsert":
            self.keyed.add(done)

    def _rest(self, verb: str, target: str, record: dict[str, Any]) -> str:
        if verb == "create":
            return str(rows.create(self.context("POST", record), "Account").body["id"])
        if verb == "update":
            rows.change_row(self.context("PATCH", record), "Account", target)
            return target
        if verb == "upsert":
            answer = rows.upsert_by_key(self.context("PATCH", record), "Account", "External_Key__c", "k")
            return str(answer.body["id"])
        rows.remove(self.context("DELETE"), "Account", target)
        return target

    def _collections(self, verb: str, target: str, record: dict[str, Any]) -> str:
        if verb == "delete":
            done = collections.delete(self.context("DELETE", query={"ids": target}))
        else:
            more = {"update": {"id": target}, "upsert": {"External_Key__c": "k"}}.get(verb, {})
            body = {"records": [{"attributes": {"type": "Account"}, **more, **record}]}
            match verb:
                case "create":
                    done = collections.create(self.context("POST", body))
                case "update":
                    done = collections.update(self.context("PATCH", body))
                case _:
                    done = collections.upsert(self.context("PATCH", body), "Account", "External_Key__c")
        assert done[0]["success"], done
        return str(done[0]["id"])

    def _bulk2(self, verb: str, target: str, record: dict[str, Any]) -> str:
        key = {"update": {"Id": target}, "delete": {"Id": target}, "upsert": {"External_Key__c": "k"}}.get(verb, {})
        row = key | record
        operation = {"create": "insert"}.get(verb, verb)
        extra = {"externalIdFieldName": "External_Key__c"} if verb == "upsert" else {}
        job = bulk_ingest.create(self.context("POST", {"operation": operation, "object": "Account", **extra}))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([list(row), ["#N/A" if value is None else value for value in row.values()]])
        bulk_ingest.upload(
            self.context("PUT", text.getvalue().encode(), headers={"content-type": "text/csv"}), job["id"]
        )
        bulk_ingest.change(self.context("PATCH", {"state": "UploadComplete"}), job["id"])
        done = self.finished(lambda: bulk_ingest.get(self.context(), job["id"]))
        assert (done["state"], done["numberRecordsFailed"]) == ("JobComplete", 0), done
        return self._outcome(job["id"])

    def _bulk1(self, verb: str, target: str, record: dict[str, Any]) -> str:
        operation = {"create": "insert"}.get(verb, verb)
        row = record if verb == "create" else {"Id": target, **record}
        info = {"operation": operation, "object": "Account", "contentType": "JSON"}
        job = json.loads(bulk1.handle(self.context("POST", info), "job").body)
        path = f"job/{job['id']}/batch"
        batch = json.loads(bulk1.handle(self.context("POST", [row]), path).body)
        path += f"/{batch['id']}"
        done = self.finished(lambda: json.loads(bulk1.handle(self.context(), path).body))
        assert done["numberRecordsFailed"] == 0, bulk1.handle(self.context(), f"{path}/result").body
        return self._outcome(batch["id"])

    def _composite(self, verb: str, target: str, record: dict[str, Any]) -> str:
        call = self._call(verb, target, record) | {"referenceId": "r"}
        body = {"allOrNone": True, "compositeRequest": [call]}
        (done,) = composite.composite(self.context("POST", body))["compositeResponse"]
        return self._id_of(done["httpStatusCode"], done["body"], target)

    def _graph(self, verb: str, target: str, record: dict[str, Any]) -> str:
        call = self._call(verb, target, record) | {"referenceId": "r"}
        body = {"graphs": [{"graphId": "g", "compositeRequest": [call]}]}
        (done,) = composite.graph(self.context("POST", body))["graphs"][0]["graphResponse"]["compositeResponse"]
        return self._id_of(done["httpStatusCode"], done["body"], target)

    def _batch(self, verb: str, target: str, record: dict[str, Any]) -> str:
        call = self._call(verb, target, record)
        body = {"batchRequests": [{"method": call["method"], "url": call["url"], "richInput": call["body"]}]}
        (done,) = composite.batch(self.context("POST", body))["results"]
        return self._id_of(done["statusCode"], done["result"], target)

    def _call(self, verb: str, target: str, record: dict[str, Any]) -> dict[str, Any]:
        """One call of REST, for the envelopes that hold such calls."""
        method = {"create": "POST", "delete": "DELETE"}.get(verb, "PATCH")
        end = {"create": "", "upsert": "/External_Key__c/k"}.get(verb, f"/{target}")
        url = f"/services/data/v68.0/sobjects/Account{end}"
        return {"method": method, "url": url, "body": None if verb == "delete" else record}

    def _id_of(self, status: int, body: Any, target: str) -> str:
        assert status < 300, body
        return str(body["id"]) if body else target

    def _tree(self, _verb: str, _target: str, record: dict[str, Any]) -> str:
        body = {"records": [{"attributes": {"type": "Account", "referenceId": "r"}, **record}]}
        answer = tree.create(self.context("POST", body), "Account")
        assert answer.status == 201, answer.body
        return str(answer.body["results"][0]["id"])

    def _ui(self, verb: str, target: str, record: dict[str, Any]) -> str:
        if verb == "create":
            return str(ui_records.create(self.context("POST", {"apiName": "Account", "fields": record})).body["id"])
        if verb == "update":
            ui_records.change(self.context("PATCH", {"fields": record}), target)
        else:
            ui_records.remove(self.context("DELETE"), target)
        return target

    def _soap(self, verb: str, target: str, record: dict[str, Any]) -> str:
        done = self._soap_text(verb, target, record)
        assert "<success>true</success>" in done, done
        found = re.search("<id>([^<]+)</id>", done)
        assert found, done
        return found[1]

    def _soap_text(self, verb: str, target: str, record: dict[str, Any]) -> str:
        """The answer of a call in the partner form, where `fieldsToNull` names what is null."""
        parts = "".join(
            f"<fieldsToNull>{name}</fieldsToNull>" if value is None else f"<{name}>{escape(str(value))}</{name}>"
            for name, value in record.items()
        )
        key = {"update": f"<Id>{target}</Id>", "upsert": "<External_Key__c>k</External_Key__c>"}.get(verb, "")
        named = "<externalIDFieldName>External_Key__c</externalIDFieldName>" if verb == "upsert" else ""
        what = f"{named}<sObjects><type>Account</type>{key}{parts}</sObjects>"
        body = f"<ids>{target}</ids>" if verb in ("delete", "undelete") else what
        session = self.org.tokens.add_session(self.org.organization_id, None, USER, "test", "api", 60_000)
        text = f"<e><Header><SessionHeader>{session.token}</SessionHeader></Header><Body><{verb}>{body}</{verb}></Body></e>"
        call = data_api.Call("POST", f"{soap.PREFIX}u/60.0", "", {}, "http://org.example", text.encode())
        answer, _ = soap.answer(self.org, call)
        return bytes(answer.body).decode()

    def _outcome(self, job_id: str) -> str:
        with self.org.store.read() as conn:
            row = conn.execute("SELECT record FROM _bulk_rows WHERE job = ?", (job_id,)).fetchone()
        return str(row[0])

    # -- the ways to read

    def by_query(self, *, all_rows: bool) -> dict[str, dict[str, Any]]:
        soql = f"SELECT Id, IsDeleted, {', '.join(FIELDS)} FROM Account"
        found = json.loads(dumps(query.query(self.context(), soql, all_rows=all_rows)))
        return {r["Id"]: {name: r[name] for name in FIELDS} for r in found["records"]}

    def by_rows(self) -> dict[str, dict[str, Any]]:
        found = (json.loads(dumps(rows.get(self.context(), "Account", key).body)) for key in self.living)
        return {r["Id"]: {name: r[name] for name in FIELDS} for r in found}

    def by_bulk(self) -> dict[str, list[str]]:
        soql = f"SELECT Id, {', '.join(FIELDS)} FROM Account"
        job = bulk_query.create(self.context("POST", {"operation": "query", "query": soql}))
        self.finished(lambda: bulk_query.get(self.context(), job["id"]))
        text = (self.org.jobs.folder(job["id"]) / "rows.csv").read_text()
        return {line[0]: line[1:] for line in list(csv.reader(io.StringIO(text)))[1:]}

    def in_window(self) -> tuple[set[str], set[str]]:
        texts = {
            "start": datetime_text(START_MS - MINUTE),
            "end": datetime_text(self.org.store.clock.now_ms() + MINUTE),
        }
        updated = replication.updated(self.context(query=texts), "Account")["ids"]
        deleted = replication.deleted(self.context(query=texts), "Account")["deletedRecords"]
        return set(updated), {record["id"] for record in deleted}


def csv_text(value: Any) -> str:
    return "" if value is None else str(value)


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """The folder of an org with one user, to be copied: quicker than making one anew."""
    with tempfile.TemporaryDirectory() as folder:
        org = Org(Path(folder), Clock(frozen_ms=START_MS))
        with org.store.write() as conn:
            conn.execute('INSERT INTO "User" ("Id", "IsActive") VALUES (?, 1)', (USER,))
        org.close()
        yield Path(folder)


@settings(
    max_examples=int(os.environ.get("SFSYNC_TEST_HISTORIES", "15")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=st.lists(steps, max_size=10))
def test_whatever_was_written_reads_back_the_same_everywhere(template: Path, history: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(template, folder, dirs_exist_ok=True)
        org = Org(Path(folder), Clock(frozen_ms=START_MS))
        try:
            _play(Scene(org), history)
        finally:
            org.close()


def _play(scene: Scene, history: list[Any]) -> None:
    for way, verb, record in history:
        scene.org.store.clock.advance(1000)
        scene.write(way, verb, record)
    assert scene.by_query(all_rows=False) == scene.living
    assert scene.by_query(all_rows=True).keys() == {*scene.living, *scene.gone}
    assert scene.by_rows() == scene.living
    expected = {key: [csv_text(row[name]) for name in FIELDS] for key, row in scene.living.items()}
    assert scene.by_bulk() == expected
    assert scene.in_window() == (set(scene.living), set(scene.gone))
