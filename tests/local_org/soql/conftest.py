"""An org without a server: handlers are called as the server calls them, on a real store in a temporary folder."""

import asyncio
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local_org import query
from local_org.bulk_results import FileSlices
from local_org.clock import Clock
from local_org.context import Context
from local_org.errors import ApiError
from local_org.ids import numbered
from local_org.org import Org
from local_org.schema import quoted
from local_org.values import dumps, from_json

NOW_MS = 1_795_348_800_000  # 2026-11-22T12:00:00Z, a Sunday
USER = numbered("005", 0)


@dataclass
class Caller:
    """Calls handlers as one user and puts rows into the store without any rule."""

    org: Org
    user: str = USER
    version: str = "68.0"

    def context(self, **more: Any) -> Context:
        values: dict[str, Any] = {
            "org": self.org,
            "store": self.org.store,
            "catalogue": self.org.access.catalogue(self.user),
            "version": self.version,
            "user": self.user,
            "method": "GET",
            "path": "",
            "query": {},
            "headers": {},
        }
        return Context(**(values | more))

    def posted(self, body: Any, **more: Any) -> Context:
        return self.context(method="POST", body=json.dumps(body).encode(), **more)

    def ask(self, soql: str, *, all_rows: bool = False, batch_size: int | None = None) -> Any:
        """The answer as a client reads it from the wire."""
        return json.loads(dumps(query.query(self.context(), soql, all_rows=all_rows, batch_size=batch_size)))

    def records(self, soql: str, *, all_rows: bool = False) -> list[dict[str, Any]]:
        """Records without their attributes."""
        return [_plain(record) for record in self.ask(soql, all_rows=all_rows)["records"]]

    def column(self, soql: str, *, all_rows: bool = False) -> list[Any]:
        """The single selected value of each record."""
        return [next(iter(record.values())) for record in self.records(soql, all_rows=all_rows)]

    def count(self, soql: str, *, all_rows: bool = False) -> int:
        return int(self.ask(soql, all_rows=all_rows)["totalSize"])

    def error(self, soql: str) -> ApiError:
        with pytest.raises(ApiError) as caught:
            self.ask(soql)
        return caught.value

    def add(self, name: str, **values: Any) -> str:
        """Insert one row; values in JSON form, stamps default to now. Its id."""
        item = self.org.store.catalogue.object(name)
        assert item is not None
        row: dict[str, Any] = {
            **{stamp: NOW_MS for stamp in ("CreatedDate", "LastModifiedDate", "SystemModstamp") if item.field(stamp)},
        }
        for key, value in values.items():
            found = item.field(key)
            assert found is not None, key
            row[found.name] = from_json(found, value)
        with self.org.store.write() as conn:
            row["Id"] = self.org.store.next_id(conn, item.key_prefix)
            columns, marks = ", ".join(map(quoted, row)), ", ".join("?" * len(row))
            conn.execute(f"INSERT INTO {quoted(item.name)} ({columns}) VALUES ({marks})", tuple(row.values()))
        return str(row["Id"])

    def change(self, name: str, record_id: str, **values: Any) -> None:
        """Set stored values of one row."""
        sets = ", ".join(f"{quoted(key)} = ?" for key in values)
        with self.org.store.write() as conn:
            conn.execute(f'UPDATE {quoted(name)} SET {sets} WHERE "Id" = ?', (*values.values(), record_id))


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _plain(value) if isinstance(value, dict) and "attributes" in value else value
        for key, value in record.items()
        if key != "attributes"
    }


def body_of(answer: FileSlices) -> tuple[dict[str, str], bytes]:
    """Headers and unpacked body of a streamed answer."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    asyncio.run(answer({"type": "http", "method": "GET"}, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return headers, gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    org = Org(tmp_path / "org", Clock(frozen_ms=NOW_MS))
    caller = Caller(org)
    assert caller.add("User", Username="caller@example.com", LastName="Caller", IsActive=True) == USER
    yield caller
    caller.org.close()


@pytest.fixture
def read_body() -> Any:
    return body_of
