"""First load of one object, ours beside what others use for it: `python -m bench.others --rows 98000`.

orm  simple-salesforce's `query_all`, each record an object of SQLAlchemy's ORM, one commit
tap  PyPI's tap-salesforce (Bulk) piped into meltanolabs-target-postgres, where `--tap` and `--target` name their programs:
     python -m venv v; v/bin/pip install tap-salesforce; python -m venv w; w/bin/pip install meltanolabs-target-postgres

One org over HTTPS serves all; each way fills an empty table of its own, in turn, and its records are counted after it. Ours
is measured from the first byte asked for to the commit of the last page, and `whole`: from the question on, the org's work on
the job, the pauses between two looks at it, the indexes and ANALYZE included. The ORM is measured without its imports; the pipe
as it is run.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from rich.console import Console
from rich.table import Table

from bench.measure import Cost, end_in_order, in_own_process, report, timed
from bench.place import Place
from models.migrations import upgrade
from tests.org import Org, start_org
from worker.local_servers import EmbeddedPostgres

USER = "bench"
ORM_AT_LEAST, TAP_AT_LEAST = 25, 60  # times as fast


@dataclass
class Comparison(Place):
    """A place with an org for clients of fixed hosts, too, behind a proxy."""

    proxy_url: str

    def counted(self, table: str) -> None:
        """Nothing counts that did not bring every record."""
        found = self.sql(f"SELECT count(*) FROM {table}")
        if found != self.rows:
            raise RuntimeError(f"{table} holds {found} records, the org {self.rows}")


# -- ours


def ours(place: Comparison, *, whole: bool) -> float:
    """A load's steps, as a worker takes them."""
    place.sql("DELETE FROM sfsync.mirrors")
    place.sql("DROP SCHEMA IF EXISTS salesforce CASCADE")
    _sfsync(place, "mirror", "--user-id", USER, "--object", "Contact")
    run = place.sql("SELECT max(id) FROM sfsync.runs")
    cost = in_own_process("bench.ours", {"run_id": run, "whole": whole}, place.env)
    place.counted("salesforce.contact")
    return cost.seconds


def _sfsync(place: Comparison, *arguments: str) -> None:
    command = [sys.executable, "-m", "worker.cli", *arguments]
    subprocess.run(command, env={**os.environ, **place.env}, check=True, capture_output=True)


# -- the ORM


def orm(place: Comparison) -> float:
    """query_all and an ORM's session, in a process of its own."""
    place.sql("DROP SCHEMA IF EXISTS orm CASCADE")
    place.sql("CREATE SCHEMA orm")
    argument = {"url": place.url, "org": place.org.url, "token": place.org.token(), "ca": str(place.org.ca_file)}
    cost: Cost = in_own_process("bench.others", argument, place.env)
    place.counted("orm.contact")
    return cost.seconds


def _orm(argument: dict[str, str]) -> float:
    from simple_salesforce.api import Salesforce
    from sqlalchemy import Boolean, Column, Date, DateTime, Float, String, create_engine
    from sqlalchemy.orm import DeclarativeBase, Session

    session = requests.Session()
    session.trust_env, session.verify = False, argument["ca"]
    client = Salesforce(instance_url=argument["org"], session_id=argument["token"], session=session, version="62.0")
    client.base_url = f"{argument['org']}/services/data/v62.0/"  # the library leaves out the port
    kinds: dict[str, Any] = {"boolean": Boolean, "double": Float, "currency": Float, "percent": Float, "date": Date}
    kinds |= {"datetime": DateTime(timezone=True), "int": Float}
    fields = {
        field["name"]: kinds.get(field["type"], String)
        for field in (client.restful("sobjects/Contact/describe") or {})["fields"]
        if field["type"] not in ("address", "location", "base64")
    }

    class Base(DeclarativeBase):
        pass

    columns: dict[str, Column[Any]] = {name: Column(kind, primary_key=name == "Id") for name, kind in fields.items()}
    contact = type("Contact", (Base,), {"__tablename__": "contact", "__table_args__": {"schema": "orm"}, **columns})
    engine = create_engine(argument["url"].replace("postgresql://", "postgresql+psycopg://"))
    Base.metadata.create_all(engine)
    parsed = {name: _parser(kind) for name, kind in fields.items()}

    def load() -> None:
        rows = client.query_all(f"SELECT {', '.join(fields)} FROM Contact")["records"]
        with Session(engine) as into:
            into.add_all(
                contact(**{name: parse(row[name]) if row[name] is not None else None for name, parse in parsed.items()})
                for row in rows
            )
            into.commit()

    return timed(load)


def _parser(kind: Any) -> Callable[[Any], Any]:
    from datetime import date, datetime

    from sqlalchemy import Date, DateTime

    if isinstance(kind, DateTime):
        return datetime.fromisoformat
    return date.fromisoformat if kind is Date else lambda value: value


# -- tap and target


def tap(place: Comparison, program: str, target: str, token: str) -> float:
    """The pipe, as it is run from a shell."""
    folder, server = place.folder, urlsplit(place.url)
    app = {"client_id": place.org.client_id, "client_secret": place.org.client_secret, "refresh_token": token}
    words = {"start_date": "2000-01-01T00:00:00Z", "api_type": "BULK", "select_fields_by_default": True}
    (folder / "tap.json").write_text(json.dumps({**app, **words}))
    into = {"host": server.hostname, "port": server.port, "user": server.username, "database": server.path[1:]}
    into |= {"password": unquote(server.password or "x"), "default_target_schema": "tap", "use_copy": True}
    (folder / "target.json").write_text(json.dumps(into))
    env = {**os.environ, "HTTPS_PROXY": place.proxy_url, "REQUESTS_CA_BUNDLE": str(place.org.ca_file)}
    env |= {"NO_PROXY": "", "no_proxy": ""}
    place.sql("DROP SCHEMA IF EXISTS tap CASCADE")
    catalog = folder / "catalog.json"
    with (folder / "tap.log").open("w") as log:
        if not catalog.exists():
            discover = [program, "--config", "tap.json", "--discover"]
            found = json.loads(subprocess.run(discover, cwd=folder, env=env, check=True, stdout=-1, stderr=log).stdout)
            found["streams"] = [one for one in found["streams"] if one["tap_stream_id"] == "Contact"]
            whole = next(item for item in found["streams"][0]["metadata"] if item["breadcrumb"] == [])
            whole["metadata"]["selected"] = True
            catalog.write_text(json.dumps(found))
        read = [program, "--config", "tap.json", "--properties", str(catalog)]
        begin = time.perf_counter()
        reader = subprocess.Popen(read, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log)
        subprocess.run(
            [target, "--config", "target.json"], cwd=folder, stdin=reader.stdout, check=True, stdout=log, stderr=log
        )
        if reader.wait():
            raise RuntimeError(f"the tap failed: {(folder / 'tap.log').read_text()[-2000:]}")
        seconds = time.perf_counter() - begin
    place.counted('tap."Contact"')
    return seconds


def refresh_token(org: Org) -> str:
    """From the browser flow, its form posted as a person would."""
    query = {"response_type": "code", "client_id": org.client_id, "scope": "api refresh_token"}
    query |= {"redirect_uri": "http://localhost:1717/OauthRedirect"}
    form = {"username": org.username, "password": org.password, "approve": "1"}
    with requests.Session() as session:
        session.trust_env, session.verify = False, str(org.ca_file)
        page = f"{org.url}/services/oauth2/authorize"
        sent = session.post(page, params=query, data={**query, **form}, allow_redirects=False, timeout=30)
        code = unquote(sent.headers["location"].split("code=")[1].split("&")[0])
        exchange = {"grant_type": "authorization_code", "code": code, "redirect_uri": query["redirect_uri"]}
        exchange |= {"client_id": org.client_id, "client_secret": org.client_secret}
        return str(session.post(f"{org.url}/services/oauth2/token", data=exchange, timeout=30).json()["refresh_token"])


# -- all of it


def start(cleanup: ExitStack, rows: int) -> Comparison:
    """A PostgreSQL and an org with `rows` contacts, connected."""
    folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="sfsync-others-")))
    folder.chmod(0o755)  # PostgreSQL may run as another user
    postgres = cleanup.enter_context(EmbeddedPostgres(folder / "postgres", {"checkpoint_timeout": "30min"}))
    seed, options = f"Contact={rows}", ("--proxy", "0")
    org = cleanup.enter_context(
        start_org(folder / "org", seed=seed, http=False, options=options, patience_seconds=3600)
    )
    proxy_url = json.loads((folder / "org.ready.json").read_text())["proxy_url"]
    env = {
        "DATABASE_URL": postgres.url,
        "REDIS_URL": "redis://127.0.0.1:1/0",  # not needed: the bench drives the steps itself
        "ENCRYPTION_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "SALESFORCE_LOGIN_URL": org.url,
        "SALESFORCE_ALLOWED_HOSTS": org.url,
        "SALESFORCE_CA_FILE": str(org.ca_file),
        "SALESFORCE_CLIENT_ID": org.client_id,
        "SALESFORCE_CLIENT_SECRET": org.client_secret,
        "SFSYNC_DATA_FOLDER": str(folder / "data"),
        "SFSYNC_LOG_LEVEL": "WARNING",
    }
    upgrade(postgres.url)
    place = Comparison(org, postgres.url, env, folder, rows, proxy_url)
    _sfsync(place, "connect", "--user-id", USER, "--client-credentials")
    return place


def main() -> None:
    """Run the rounds, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.others", description=__doc__)
    parser.add_argument("--rows", type=int, default=98_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tap", help="the program tap-salesforce")
    parser.add_argument("--target", help="the program target-postgres")
    options = parser.parse_args()
    end_in_order()
    with ExitStack() as cleanup:
        place = start(cleanup, options.rows)
        ways: dict[str, Callable[[], float]] = {
            "ours": lambda: ours(place, whole=False),
            "ours, whole": lambda: ours(place, whole=True),
            "orm": lambda: orm(place),
        }
        if options.tap and options.target:
            token = refresh_token(place.org)
            ways["tap"] = lambda: tap(place, options.tap, options.target, token)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(1, options.rounds + 1):
            for name, way in ways.items():
                seconds[name].append(way())
                print(f"round {number}: {name} {seconds[name][-1]:.2f} s", file=sys.stderr)
    show(options.rows, seconds)


def show(rows: int, seconds: dict[str, list[float]]) -> None:
    """The table: medians over the rounds."""
    count = len(seconds["ours"])
    table = Table(title=f"first load of {rows:,} contacts, median of {count}, {os.cpu_count()} cores")
    for column in ("way", "s", "rows/s", "ours is faster", "at least"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, some in seconds.items():
        ratio = median(other / one for one, other in zip(seconds["ours"], some, strict=True))
        wanted = {"orm": f"{ORM_AT_LEAST} ×", "tap": f"{TAP_AT_LEAST} ×"}.get(name, "")
        table.add_row(name, f"{median(some):.2f}", f"{rows / median(some):,.0f}", f"{ratio:.1f} ×", wanted)
    Console(width=100).print(table)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):  # the ORM's process
        report(lambda: _orm(json.loads(sys.argv[1])))
    else:
        main()
