"""PostgreSQL for tests: one cluster for a process, which ends with it, and a database for whoever asks."""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
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
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not places:
        raise NoServerError("PostgreSQL is not installed")
    programs = places[-1].parent
    folder = tempfile.mkdtemp(prefix="drivefs-postgres-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    user = _user(folder)
    data = f"{folder}/data"
    options = ["-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--no-instructions", "-E", "UTF8"]
    subprocess.run([*user, programs / "initdb", *options], check=True, stdout=subprocess.DEVNULL)
    always = ("listen_addresses=", "max_connections=200", f"unix_socket_directories={folder}")
    chosen = [part for each in (*settings, *always) for part in ("-c", each)]
    with open(f"{folder}/log", "wb") as log:
        process = subprocess.Popen(
            [*user, programs / "postgres", "-D", data, *chosen], stdout=log, stderr=log
        )
    atexit.register(_end, process)
    wait_until(lambda: _ready(folder), Path(folder, "log"))
    return folder


def new_database(folder: str | None = None) -> str:
    """The connection string of a new, empty database, of the server of that folder."""
    folder, name = folder or cluster(), f"test{next(_NUMBERS)}"
    with psycopg.connect(f"host={folder} user=postgres dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"host={folder} user=postgres dbname={name}"


def _user(folder: str) -> list[str]:
    """In front of a command that must not run as root, and may use the folder."""
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


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # fast: it waits for no client
    process.wait()
