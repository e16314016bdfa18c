"""PostgreSQL for tests: one cluster for a process, which ends with it, and a database for whoever asks."""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import subprocess
import tempfile
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

import psycopg

from tests.servers import NoServerError, NotReadyError, wait_until

_NUMBERS = count()


_FAST: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
ARCHIVING: Final = (
    "fsync=off",
    "archive_mode=on",
    "archive_command=mkdir -p ../wal && cp %p ../wal/%f",
)
"""Settings of a server of which base backups are made: the write-ahead log is kept beside its data."""


@cache
def cluster(settings: tuple[str, ...] = _FAST) -> str:
    """The folder of the socket of a server that runs until this process ends; its data are in `data` there.
    `NoServerError`."""
    folder_of_programs = programs()
    folder = tempfile.mkdtemp(prefix="drivefs-postgres-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    user = as_owner(folder)
    data = f"{folder}/data"
    options = ["-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--no-instructions", "-E", "UTF8"]
    subprocess.run([*user, folder_of_programs / "initdb", *options], check=True, stdout=subprocess.DEVNULL)
    _serve(folder, user, settings)
    return folder


def _serve(folder: str, user: list[str], settings: tuple[str, ...]) -> None:
    """Run the server of that folder until this process ends."""
    always = ("listen_addresses=", "max_connections=200", f"unix_socket_directories={folder}")
    chosen = [part for each in (*settings, *always) for part in ("-c", each)]
    with open(f"{folder}/log", "wb") as log:
        command = [*user, str(programs() / "postgres"), "-D", f"{folder}/data", *chosen]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    atexit.register(_end, folder, process)
    wait_until(lambda: _ready(folder), Path(folder, "log"))


def new_database(folder: str | None = None) -> str:
    """The connection string of a new, empty database, of the server of that folder."""
    folder, name = folder or cluster(), f"test{next(_NUMBERS)}"
    with psycopg.connect(f"host={folder} user=postgres dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"host={folder} user=postgres dbname={name}"


def dump(conninfo: str, path: Path) -> Path:
    """Write a backup of the database to `path`, as docs/hub.md says; the path."""
    subprocess.run([programs() / "pg_dump", "-Fc", "-f", path, conninfo], check=True)
    return path


def restored(path: Path) -> str:
    """The connection string of a new database, made of a dump."""
    made = new_database()
    subprocess.run([programs() / "pg_restore", "--no-owner", "-d", made, path], check=True)
    return made


def base_backup(folder: str) -> str:
    """A backup of the server of that folder, which has the settings `ARCHIVING`: where it is."""
    made = tempfile.mkdtemp(prefix="drivefs-postgres-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    command = [*as_owner(made), str(programs() / "pg_basebackup"), "-h", folder, "-U", "postgres"]
    subprocess.run([*command, "-D", f"{made}/data", "-X", "none", "--no-sync", "-c", "fast"], check=True)
    return made


def restore_point(folder: str, name: str) -> None:
    """Name this moment, up to which `recover` goes."""
    with psycopg.connect(f"host={folder} user=postgres dbname=postgres", autocommit=True) as connection:
        connection.execute("SELECT pg_create_restore_point(%s)", (name,))


def recover(backup: str, folder: str, name: str) -> None:
    """Serve the backup as it was at that moment, by the log that the server of `folder` has kept."""
    with psycopg.connect(f"host={folder} user=postgres dbname=postgres", autocommit=True) as connection:
        row = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
        assert row is not None
        wait_until(lambda: _has_kept(connection, row[0]), Path(folder, "log"))
    user = as_owner(backup)
    subprocess.run([*user, "touch", f"{backup}/data/recovery.signal"], check=True)
    settings = (
        f"restore_command=cp {folder}/wal/%f %p",
        f"recovery_target_name={name}",
        "recovery_target_action=promote",
        "archive_mode=off",
    )
    _serve(backup, user, settings)


def _has_kept(connection: psycopg.Connection, file: str) -> None:
    row = connection.execute("SELECT last_archived_wal >= %s FROM pg_stat_archiver", (file,)).fetchone()
    if row is None or not row[0]:
        raise NotReadyError(f"{file} is not kept yet")


def programs() -> Path:
    """The folder of PostgreSQL's programs. `NoServerError`."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not places:
        raise NoServerError("PostgreSQL is not installed")
    return places[-1].parent


def as_owner(folder: str) -> list[str]:
    """In front of a command that must not run as root, and may use the folder. `NoServerError`."""
    if os.geteuid():
        return []
    try:
        found = pwd.getpwnam("postgres")
    except KeyError:
        raise NoServerError("PostgreSQL does not run as root, and there is no user postgres") from None
    os.chown(folder, found.pw_uid, found.pw_gid)
    return ["setpriv", f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--clear-groups"]


def _ready(folder: str) -> None:
    try:
        psycopg.connect(f"host={folder} user=postgres dbname=postgres").close()
    except psycopg.OperationalError as error:
        raise NotReadyError(str(error)) from error


def restart(folder: str) -> None:
    """The server of that folder crashes, and comes up again by its log; it answers when this returns. Of one
    that has `synchronous_commit=on`, what was acknowledged is in the log."""
    _control(folder, "restart", "-m", "immediate")


def _control(folder: str, *words: str) -> None:
    program = str(programs() / "pg_ctl")
    command = [*as_owner(folder), program, *words, "-D", f"{folder}/data", "-w"]
    # To a file, not a pipe: the server has it as well, and goes on.
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _end(folder: str, process: subprocess.Popen[bytes]) -> None:
    _control(folder, "stop", "-m", "fast")  # it waits for no client
    process.wait()
