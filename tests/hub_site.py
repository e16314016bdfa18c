"""A hub without a single point of failure, all of it on this machine, with the files of docs/hub/.

Two processes behind HAProxy, PostgreSQL with a standby under Patroni, six nodes. Each part can die.
"""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import httpx

from tests.haproxy import Balancer
from tests.hub_process import HubProcess, command
from tests.patroni import PostgresPair
from tests.servers import free_ports
from tests.services import Service
from tests.waiting import wait_until

NODES: Final = 6
_PATIENCE: Final = 120
"""Seconds until a part answers: the machine may be busy."""


class HubSite:
    """See the module; `hub_site` makes one."""

    def __init__(self, folder: Path, database: PostgresPair) -> None:
        self.database = database
        self.hub = HubProcess(
            folder, "--profile", "4+2", "--open-sign-up", conninfo=database.new_database("hub")
        )
        first, second = free_ports(2)
        self.balancer = Balancer(folder, (first, second))
        self._tls = ssl.create_default_context(cafile=self.balancer.certificate)
        self.processes = {f"http://127.0.0.1:{port}": self._process(folder, port) for port in (first, second)}

    def _process(self, folder: Path, port: int) -> Service:
        arguments = ["serve", str(self.hub.hub), "--listen", f"127.0.0.1:{port}", "--metrics", ""]
        return Service(command(*arguments), folder / f"hub-{port}.log")

    @property
    def services(self) -> list[Service]:
        """What can be killed and started by itself: the processes of the hub, and the balancer."""
        return [*self.processes.values(), self.balancer.service]

    def wait(self) -> None:
        """Return when all parts answer."""
        self.database.wait()
        urls = [*self.processes, self.balancer.url]
        wait_until(lambda: all(map(self._is_ready, urls)), _PATIENCE)

    def _is_ready(self, url: str) -> bool:
        try:
            return httpx.get(f"{url}/ready", verify=self._tls, trust_env=False, timeout=10).is_success
        except httpx.TransportError:
            return False

    def node(self, number: int) -> Path:
        """The folder of that node."""
        return self.hub.hub / f"node{number}"

    def take_away(self, number: int) -> None:
        """The node's disk is gone."""
        shutil.move(self.node(number), self._aside(number))

    def bring_back(self, number: int) -> None:
        """And there again, as it was."""
        shutil.move(self._aside(number), self.node(number))

    def _aside(self, number: int) -> Path:
        return self.hub.hub.parent / f"gone{number}"


@contextmanager
def hub_site(folder: Path) -> Iterator[HubSite]:
    """A hub whose parts all run. `NoServerError`."""
    with closing(PostgresPair()) as database:
        database.start()
        site = HubSite(folder, database)
        try:
            for service in site.services:
                service.start()
            site.wait()
            yield site
        finally:
            for service in site.services:
                service.kill()
