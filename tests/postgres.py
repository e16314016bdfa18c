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
    always = ("listen_addresses=", "max_connections=200", f"unix_socket_directories={folder}")
    chosen = [part for each in (*settings, *always) for part in ("-c", each)]
    with open(f"{folder}/log", "wb") as log:
        process = subprocess.Popen(
            [*user, folder_of_programs / "postgres", "-D", data, *chosen], stdout=log, stderr=log
        )
    atexit.register(_end, folder, process)
    wait_until(lambda: _ready(folder), Path(folder, "log"))
    return folder


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
