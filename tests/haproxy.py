"""HAProxy for tests, as docs/hub/haproxy.cfg has it: TLS in front of two processes of a hub."""

from __future__ import annotations

from pathlib import Path

from tests.certificates import certificate_in
from tests.servers import free_ports, program
from tests.services import Service, example


class Balancer:
    """`url`: where devices reach it, who believe `certificate`. `NoServerError`: it is not installed."""

    def __init__(self, folder: Path, servers: tuple[int, int]) -> None:
        haproxy = program("haproxy", "Debian")
        (port,) = free_ports(1)
        self.url = f"https://127.0.0.1:{port}"
        self.certificate, key = certificate_in(folder)
        both = folder / "hub.pem"
        both.write_bytes(Path(self.certificate).read_bytes() + Path(key).read_bytes())
        file = folder / "haproxy.cfg"
        file.write_text(_configured(folder, port, servers))
        self.service = Service([haproxy, "-db", "-f", str(file)], folder / "haproxy.log")


def _configured(folder: Path, port: int, servers: tuple[int, int]) -> str:
    ours = {
        "bind :8443": f"bind 127.0.0.1:{port}",
        "/run/haproxy/admin.sock": f"{folder}/admin.sock",
        "/etc/haproxy/hub.pem": f"{folder}/hub.pem",
        "127.0.0.1:8081": f"127.0.0.1:{servers[0]}",
        "127.0.0.1:8082": f"127.0.0.1:{servers[1]}",
    }
    return example("haproxy.cfg", ours)
