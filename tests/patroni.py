"""PostgreSQL with a standby for tests, as docs/hub/patroni.yml has it: Patroni and etcd, both from Debian.

A machine of it that dies takes its Patroni and all processes of its server with it, at once.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
import psycopg

from tests.postgres import as_owner, programs
from tests.servers import free_ports, program
from tests.services import Service, example
from tests.waiting import wait_until

_LOST: Final = (
    "connect_timeout=3 tcp_user_timeout=20000 keepalives_idle=10 keepalives_interval=5 keepalives_count=3"
)
"""What docs/hub.md says of a machine that lost its power."""
_UP: Final = ("running", "streaming")
_PATIENCE: Final = 180
"""Seconds: a standby comes back by what the other has written meanwhile, and the machine may be busy."""


class PostgresPair:
    """One server that takes writes, and one that takes its place. `NoServerError`."""

    def __init__(self) -> None:
        patroni, etcd = program("patroni", "Debian"), program("etcd", "Debian")
        self._folder = Path(tempfile.mkdtemp(prefix="drivefs-patroni-"))
        self._folder.chmod(0o755)
        client, peer, *ports = free_ports(6)
        self._etcd = Service(_etcd(etcd, self._folder, client, peer), self._folder / "etcd.log")
        self._members = {
            name: _Member(name, patroni, self._folder / name, f"127.0.0.1:{client}", pair)
            for name, pair in (("p1", ports[:2]), ("p2", ports[2:]))
        }
        servers = ",".join(str(member.port) for member in self._members.values())
        self._servers = f"host=127.0.0.1,127.0.0.1 port={servers} user=postgres"

    def start(self) -> None:
        """Both run when it returns, and the standby has all that the other has."""
        self._etcd.start()
        for member in self._members.values():
            member.service.start()
        self.wait()

    def new_database(self, name: str) -> str:
        """The connection string of a new, empty database, as docs/hub.md has it."""
        servers = f"{self._servers} target_session_attrs=read-write"
        with psycopg.connect(f"{servers} dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"{servers} dbname={name} {_LOST}"

    def primary(self) -> str | None:
        """The name of the server that takes writes; None: there is none now."""
        return next((name for name, member in self._members.items() if member.is_primary), None)

    def kill(self, name: str) -> None:
        """That machine dies."""
        self._members[name].kill()

    def revive(self, name: str) -> None:
        """The machine comes back, with what its disk has."""
        self._members[name].service.start()

    def wait(self) -> None:
        """Return when one of them takes writes, and the other has all that is acknowledged."""
        wait_until(lambda: all(member.sees_both for member in self._members.values()), _PATIENCE)

    def close(self) -> None:
        """All of it is gone. Idempotent."""
        for member in self._members.values():
            member.kill()
        self._etcd.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Member:
    """One machine: a Patroni and its server. `ports`: of the two."""

    def __init__(self, name: str, patroni: str, folder: Path, etcd: str, ports: list[int]) -> None:
        folder.mkdir()
        owner = as_owner(str(folder))
        rest, self.port = ports
        self._url = f"http://127.0.0.1:{rest}"
        self._pid_file = folder / "data" / "postmaster.pid"
        file = folder / "patroni.yml"
        file.write_text(_configured(name, folder, etcd, rest, self.port))
        self.service = Service([*owner, patroni, str(file)], folder / "log")

    @property
    def is_primary(self) -> bool:
        """Whether it takes writes, as it says itself."""
        try:
            return httpx.get(f"{self._url}/primary", timeout=10).is_success
        except httpx.TransportError:
            return False

    @property
    def sees_both(self) -> bool:
        """Whether it knows a server that takes writes, and one that has all of them."""
        try:
            members = httpx.get(f"{self._url}/cluster", timeout=10).json()["members"]
        except httpx.TransportError:
            return False
        return {each["role"] for each in members if each["state"] in _UP} == {"leader", "sync_standby"}

    def kill(self) -> None:
        """SIGKILL to all of it; nothing is left."""
        self.service.kill()
        processes = self._server()
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))

    def _server(self) -> list[int]:
        """The processes of the server that runs. The first one is stopped, so that it starts none."""
        try:
            main = int(self._pid_file.read_text().splitlines()[0])
            os.kill(main, signal.SIGSTOP)
            children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return []
        return [main, *map(int, children)]


def _etcd(program_: str, folder: Path, client: int, peer: int) -> list[str]:
    clients, peers = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    listening = ["--listen-client-urls", clients, "--listen-peer-urls", peers]
    told = ["--advertise-client-urls", clients, "--initial-advertise-peer-urls", peers]
    alone = ["--initial-cluster", f"default={peers}"]
    return [program_, "--data-dir", str(folder / "etcd"), *listening, *told, *alone]


def _configured(name: str, folder: Path, etcd: str, rest: int, port: int) -> str:
    ours = {
        "name: p1": f"name: {name}",
        "127.0.0.1:8001": f"127.0.0.1:{rest}",
        "127.0.0.1:12379": etcd,
        "127.0.0.1:5521": f"127.0.0.1:{port}",
        "/var/lib/postgresql/hub": f"{folder}/data",
        "/usr/lib/postgresql/15/bin": str(programs()),
        "/var/lib/postgresql/.pgpass-hub": f"{folder}/pgpass",
        "/var/run/postgresql": str(folder),
    }
    return example("patroni.yml", ours)
