"""PostgreSQL's data directory and SQLite's write-ahead log on a mount, with crashes and other processes."""

from __future__ import annotations

import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.mount.mounted import MountedDrive, run

pytestmark = pytest.mark.mount

CLIENTS, TRANSACTIONS = 4, 250
READER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=60)
seen = 0
while seen < int(sys.argv[2]):
    count, total, least = database.execute("select count(*), sum(n), min(n) from t").fetchone()
    assert count >= seen and (count == 0 or (least, total) == (0, count * (count - 1) // 2)), (seen, total)
    seen = count
"""


class PostgreSQL:
    """A server whose data directory is `data`; its socket is in `local`. Runs as `user`, never as root."""

    def __init__(self, programs: Path, data: Path, local: Path, user: str | None) -> None:
        self._programs = programs
        self._data = data
        self._local = local
        self._user = user

    def program(self, name: str, *arguments: str | Path, socket: bool = False) -> str:
        """Run one of PostgreSQL's programs to its end; what it says."""
        connect = ["-h", str(self._local), "-d", "postgres"] if socket else []
        return run(self._programs / name, *connect, *arguments, user=self._user, cwd=self._local)

    def initialise(self) -> None:
        options = ("--auth=trust", "--no-locale", "--encoding=UTF8", "--data-checksums", "--no-sync")
        self.program("initdb", *options, "-D", self._data)

    def start(self) -> None:
        options = f"-k {self._local} -c listen_addresses= -c full_page_writes=on -c shared_buffers=16MB"
        log = self._local / "server.log"
        self.program("pg_ctl", "-D", self._data, "-w", "-l", log, "-o", options, "start")

    def stop(self, mode: str) -> None:
        self.program("pg_ctl", "-D", self._data, "-w", "-m", mode, "stop")

    def query(self, sql: str) -> str:
        return self.program("psql", "-XAtq", "-c", sql, socket=True).strip()

    def end(self) -> None:
        """If it runs: at once."""
        if (self._data / "postmaster.pid").exists():
            self.stop("immediate")


def programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL's server (initdb) is not installed")
    return Path(initdb).resolve().parent


def user() -> str | None:
    """Who runs the server: it refuses root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")


OPTIONS = ("allow_other",) if os.geteuid() == 0 else ()
"""Root lets another user run the server; any other user runs it himself."""


@pytest.fixture
def server(drive: MountedDrive) -> Iterator[PostgreSQL]:
    found, owner = programs(), user()
    drive.mount(*OPTIONS)
    data, local = drive.mountpoint / "data", drive.folder / "server"
    for folder in (data, local):
        folder.mkdir(mode=0o700)
        if owner:
            shutil.chown(folder, owner)
    server = PostgreSQL(found, data, local, owner)
    try:
        yield server
    finally:
        server.end()


@pytest.mark.soak
def test_postgresql_recovers_after_an_immediate_shutdown(server: PostgreSQL, drive: MountedDrive) -> None:
    """What was committed is there after a crash of the server, and of the mount under it."""
    server.initialise()
    server.start()
    server.program("pgbench", "-i", "-q", socket=True)
    server.program("pgbench", "-c", str(CLIENTS), "-t", str(TRANSACTIONS), socket=True)
    server.query("create table mine (n integer primary key, payload text)")
    server.query("insert into mine select n, repeat(md5(n::text), 20) from generate_series(1, 5000) as n")
    server.stop("immediate")
    drive.kill()
    drive.remount(*OPTIONS)
    server.start()
    transactions = CLIENTS * TRANSACTIONS
    assert server.query("select count(*) from pgbench_history") == str(transactions)
    sums = {
        server.query(f"select sum({column}) from pgbench_{table}")
        for column, table in (
            ("abalance", "accounts"),
            ("tbalance", "tellers"),
            ("bbalance", "branches"),
            ("delta", "history"),
        )
    }
    assert len(sums) == 1
    assert server.query("select count(*), sum(n) from mine where payload = repeat(md5(n::text), 20)") == (
        f"5000|{5000 * 5001 // 2}"
    )
    server.program("pg_dump", "-f", os.devnull, socket=True)
    server.stop("fast")
    assert "shut down\n" in server.program("pg_controldata", "-D", drive.mountpoint / "data")


def mount_elsewhere(drive: MountedDrive) -> None:
    """As on another machine, which has read nothing yet."""
    drive.umount()
    drive.wipe_cache()
    drive.mount(*OPTIONS)


def test_postgresql_starts_again_on_another_machine(server: PostgreSQL, drive: MountedDrive) -> None:
    """It reads its files from the middle; every page has a checksum of its own."""
    server.initialise()
    server.start()
    server.program("pgbench", "-i", "-q", socket=True)
    server.stop("fast")
    for times in (1, 2):
        mount_elsewhere(drive)
        server.start()
        server.program("pgbench", "-c", "2", "-t", "50", "-n", socket=True)
        assert server.query("select count(*) from pgbench_history") == str(100 * times)
        sums = [
            server.query(f"select sum({column}) from pgbench_{table}")
            for column, table in (("abalance", "accounts"), ("tbalance", "tellers"), ("delta", "history"))
        ]
        assert len(set(sums)) == 1
        server.stop("fast")
    mount_elsewhere(drive)
    server.program("pg_checksums", "--check", "-D", drive.mountpoint / "data")


def test_sqlite_wal_with_readers_in_other_processes(shared: MountedDrive, place: Path) -> None:
    """Each reader sees whole transactions, never older than what it saw before, until it sees the last."""
    path, batches, size = place / "database", 60, 50
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma journal_mode=wal").fetchone() == ("wal",)
        database.execute("create table t (n integer primary key, payload blob)")
        readers = [
            subprocess.Popen([sys.executable, "-c", READER, path, str(batches * size)]) for _ in range(3)
        ]
        for batch in range(batches):
            with database:
                rows = [(batch * size + number, os.urandom(300)) for number in range(size)]
                database.executemany("insert into t values (?, ?)", rows)
            if batch % 20 == 10:
                database.execute("pragma wal_checkpoint(truncate)")
        assert [reader.wait(100) for reader in readers] == [0, 0, 0]
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
