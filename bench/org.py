"""What the local org bears: `python -m bench.org [--rows 1000000] [--rounds 5]`.

A first start with so many contacts and a second one, GETs of a row from wrk on 16 connections that stay open, and a finished Bulk
result from the disk and from the page cache, all over plain HTTP on loopback.
"""

import argparse
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import requests
from rich.console import Console
from rich.table import Table

from tests.org import Org, start_org

CONNECTIONS = 16
VERSION = "62.0"
PICKED = 10_000  # different records that the GETs ask for
_RECEIVE_BYTES = 1 << 20
_WRK = """
local ids = {}
for id in io.lines("%s") do ids[#ids + 1] = id end
local at = 0
request = function()
  at = at %% #ids + 1
  return wrk.format("GET", "/services/data/v%s/sobjects/Contact/" .. ids[at])
end
"""


def main() -> None:
    """Start the org twice, put it under load, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.org", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="length of a round of GETs")
    options = parser.parse_args()
    table = Table(title=f"{options.rows:,} contacts, medians of {options.rounds} rounds, {os.cpu_count()} cores")
    table.add_column("what")
    table.add_column("figure", justify="right")
    with tempfile.TemporaryDirectory(prefix="sfsync-bench-") as name:
        folder = Path(name) / "org"
        seed = f"Contact={options.rows},Account={max(1, options.rows // 10)}"
        with started(folder, seed) as (_, seconds):
            table.add_row("first start, until it answers", f"{seconds:.1f} s")
        with started(folder, seed) as (org, seconds):
            table.add_row("second start", f"{seconds:.2f} s")
            org.control.change_settings(api_limit=1_000_000_000)
            table.add_row(f"GETs of a row, wrk, {CONNECTIONS} connections", gets(org, options.seconds, options.rounds))
            for what, figure in bulk(org, options.rounds):
                table.add_row(what, figure)
            table.add_row("peak memory of the org", f"{peak_mib(org.pid):,.0f} MiB")
    Console(width=100).print(table)


@contextmanager
def started(folder: Path, seed: str) -> Iterator[tuple[Org, float]]:
    """An org, and how long it took to answer."""
    began = time.perf_counter()
    with start_org(folder, seed=seed, patience_seconds=3600) as org:
        requests.get(f"{org.url}/services/data", timeout=60).raise_for_status()
        yield org, time.perf_counter() - began


def gets(org: Org, seconds: int, rounds: int) -> str:
    """GETs a second as wrk counts them."""
    if shutil.which("wrk") is None:
        return "wrk is not installed"
    headers = {"Authorization": f"Bearer {org.token()}"}
    query = {"q": f"SELECT Id FROM Contact ORDER BY Id DESC LIMIT {PICKED}"}
    answer = requests.get(f"{org.url}/services/data/v{VERSION}/query", params=query, headers=headers, timeout=60).json()
    ids = [record["Id"] for record in answer["records"]]
    random.Random(1).shuffle(ids)
    found = []
    with tempfile.TemporaryDirectory() as name:
        listed, script = Path(name) / "ids", Path(name) / "gets.lua"
        listed.write_text("\n".join(ids))
        script.write_text(_WRK % (listed, VERSION))
        load = ["-t1", f"-c{CONNECTIONS}", "-s", str(script), "-H", f"Authorization: {headers['Authorization']}"]
        for _ in range(rounds):
            command = ["wrk", *load, f"-d{seconds}s", org.url]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            assert "Non-2xx" not in told, told
            rate = re.search(r"Requests/sec:\s*([\d.]+)", told)
            assert rate, told
            found.append(float(rate[1]))
            print(f"GETs of a row: {found[-1]:,.0f} a second", file=sys.stderr)
    return f"{median(found):,.0f} a second"


def bulk(org: Org, rounds: int) -> Iterator[tuple[str, str]]:
    """A result of all columns: how long its job took, and how fast it comes, cold and warm."""
    base = f"{org.url}/services/data/v{VERSION}"
    token = org.token()
    headers = {"Authorization": f"Bearer {token}"}
    fields = requests.get(f"{base}/sobjects/Contact/describe", headers=headers, timeout=60).json()["fields"]
    names = [field["name"] for field in fields if field["type"] != "address"]
    body = {"operation": "query", "query": f"SELECT {', '.join(names)} FROM Contact"}
    began = time.perf_counter()
    job = requests.post(f"{base}/jobs/query", json=body, headers=headers, timeout=60).json()["id"]
    while requests.get(f"{base}/jobs/query/{job}", headers=headers, timeout=60).json()["state"] != "JobComplete":
        time.sleep(0.1)
    rendering = time.perf_counter() - began
    file = org.folder / "jobs" / job / "rows.csv"
    megabytes = file.stat().st_size / 1e6
    yield "job of all columns, until JobComplete", f"{rendering:.1f} s ({megabytes:,.0f} MB)"
    path = f"/services/data/v{VERSION}/jobs/query/{job}/results"
    cold, warm = [], []
    for _ in range(rounds):
        drop_from_cache(file)
        cold.append(speed(org.url, path, token))
        warm.append(speed(org.url, path, token))
        print(f"result: {cold[-1]:,.0f} MB/s from the disk, {warm[-1]:,.0f} MB/s from the cache", file=sys.stderr)
    yield "result from the disk", f"{median(cold):,.0f} MB/s"
    yield "result from the page cache", f"{median(warm):,.0f} MB/s"


def drop_from_cache(file: Path) -> None:
    """Let the system forget the file's pages."""
    handle = os.open(file, os.O_RDWR)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def speed(url: str, path: str, token: str) -> float:
    """Megabytes a second of one answer, taken off the wire and thrown away."""
    place = urlsplit(url)
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    )
    taken, buffer = 0, memoryview(bytearray(_RECEIVE_BYTES))
    with socket.create_connection((str(place.hostname), int(place.port or 80))) as wire:
        began = time.perf_counter()
        wire.sendall(request.encode())
        while count := wire.recv_into(buffer):
            taken += count
        return taken / 1e6 / (time.perf_counter() - began)


def peak_mib(pid: int) -> float:
    """The most memory that a process has held."""
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else float("nan")


if __name__ == "__main__":
    main()
