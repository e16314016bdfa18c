"""drivefs on six buckets beside JuiceFS, S3QL, rclone and SeaweedFS's own mount, all on one SeaweedFS.

    python -m bench.peers FOLDER --fsbench PATH [--peers A,B] [--delays 0,20] [--files N] [--mib N]
                          [--tree DIR]

For root. FOLDER keeps the results: what is there is not measured again, so a run that was ended goes on.
Peers whose programs are not in PATH are left out, and named. Each peer and delay (milliseconds that each
request waits, by `bench.delaying_proxy`) gets a new server. `fsbench.py` is the project's workload. Then:

- stored: MiB of random data written and stored, the processor time of the peer and of the server for a GiB;
- cache gone: unmounted, what the machine kept of it removed, mounted: that mount, files of 4 KiB
  and the large file read; the processor time of both for a GiB read.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Final

from bench.peer_systems import PEERS, MissingError, Peer, processor_seconds, started_for
from tests.seaweedfs import ACCESS_KEY, SECRET_KEY, seaweedfs

MIB: Final = 1 << 20
SMALL: Final = 200
DIRECT_ONLY: Final = "seaweedfs"
Rows = dict[str, tuple[float, str]]


def measure(peer: Peer, data: Path, options: argparse.Namespace) -> Rows:
    """All rows of one peer, which is made here. The server has its data in `data`."""
    server = started_for(data)
    peer.make()
    peer.mount()
    rows = fsbench(peer, data, options)
    rows |= stored(peer, server, options.mib)
    peer.umount()
    peer.forget()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    return rows | cache_gone(peer, server, options.mib)


def fsbench(peer: Peer, data: Path, options: argparse.Namespace) -> Rows:
    """The project's workload."""
    found = peer.folder / "fsbench.json"
    sizes = ["--files", str(options.files), "--mib", str(options.mib), "--tree", str(options.tree)]
    where = ["--store", str(data), "--settle", peer.settle, "--json", str(found)]
    command = [sys.executable, str(options.fsbench), str(peer.mountpoint), *sizes, *where]
    subprocess.run([*command, "--only", "metadata,data,tree"], check=True)
    return {name: (value, unit) for name, (value, unit) in json.loads(found.read_text()).items()}


class Processor:
    """The processor time of a peer and of its server since this was made."""

    def __init__(self, peer: Peer, server: int) -> None:
        self._processes = (peer.process(), server)
        self._before = self._now()

    def rows(self, what: str, mib: int) -> Rows:
        """For each GiB, of `mib` MiB."""
        used = [now - before for now, before in zip(self._now(), self._before, strict=True)]
        names = (f"{what}: its processor", f"{what}: the server's")
        return {name: (seconds * 1024 / mib, "s/GiB") for name, seconds in zip(names, used, strict=True)}

    def _now(self) -> list[float]:
        return [processor_seconds(each) for each in self._processes]


def stored(peer: Peer, server: int, mib: int) -> Rows:
    """A large file and small ones."""
    draw = Random(1)
    (peer.mountpoint / "small").mkdir()
    for number in range(SMALL):
        (peer.mountpoint / "small" / str(number)).write_bytes(draw.randbytes(4096))
    subprocess.run(peer.settle, shell=True, check=True, stdout=subprocess.DEVNULL)
    processor, begun = Processor(peer, server), time.perf_counter()
    with open(peer.mountpoint / "large", "wb", buffering=0) as file:
        for _ in range(mib):
            file.write(draw.randbytes(MIB))
        os.fsync(file.fileno())
    subprocess.run(peer.settle, shell=True, check=True, stdout=subprocess.DEVNULL)
    rate = mib / (time.perf_counter() - begun)
    return {"stored": (rate, "MiB/s")} | processor.rows("stored", mib)


def cache_gone(peer: Peer, server: int, mib: int) -> Rows:
    """Read what `stored` wrote, and compare."""
    draw = Random(1)
    begun = time.perf_counter()
    peer.mount()
    mounted = time.perf_counter()
    for number in range(SMALL):
        if (peer.mountpoint / "small" / str(number)).read_bytes() != draw.randbytes(4096):
            raise AssertionError(f"small file {number} is another one")
    small = time.perf_counter()
    processor = Processor(peer, server)
    with open(peer.mountpoint / "large", "rb", buffering=0) as file:
        parts = [file.read(MIB) for _ in range(mib)]
    large = time.perf_counter()
    rows = processor.rows("read, cache gone", mib)
    if parts != [draw.randbytes(MIB) for _ in range(mib)]:
        raise AssertionError("the large file is another one")
    rates: Rows = {
        "mount, cache gone": (1 / (mounted - begun), "1/s"),
        "open+read 4 KiB, cache gone": (SMALL / (small - mounted), "files/s"),
        "read seq, cache gone": (mib / (large - small), "MiB/s"),
    }
    return rates | rows


@contextmanager
def delayed(host: str, milliseconds: float) -> Iterator[str]:
    """Where `host` is reached with that delay."""
    if not milliseconds:
        yield host
        return
    command = [sys.executable, "-m", "bench.delaying_proxy", host, str(milliseconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        if proxy.stdout is None:
            raise AssertionError("its output is a pipe")
        try:
            yield f"127.0.0.1:{proxy.stdout.readline().strip()}"
        finally:
            proxy.kill()


def run(name: str, delay: float, options: argparse.Namespace) -> Rows:
    """One column. `MissingError`."""
    folder = options.folder / f"{name} {delay:g} ms {time.time_ns()}".replace(" ", "-")
    data = folder / "server"
    data.mkdir(parents=True)
    with (
        seaweedfs(data) as server,
        delayed(server.host, delay) as host,
        closing(PEERS[name](folder / "peer", server, host)) as peer,
    ):
        return measure(peer, data, options)


class Results:
    """What was measured so far, in a file: columns of rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.columns: dict[str, Rows] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, column: str, rows: Rows) -> None:
        self.columns[column] = rows
        self._path.write_text(json.dumps(self.columns, indent=1))

    def table(self) -> str:
        """Markdown."""
        names = list(dict.fromkeys(name for rows in self.columns.values() for name in rows))
        lines = [
            "| figure | unit | " + " | ".join(self.columns) + " |",
            "|---" * (len(self.columns) + 2) + "|",
        ]
        for name in names:
            units = [rows[name][1] for rows in self.columns.values() if name in rows]
            cells = [_cell(rows.get(name)) for rows in self.columns.values()]
            lines.append(f"| {name} | {units[0]} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def _cell(figure: tuple[float, str] | None) -> str:
    if figure is None:
        return ""
    return f"{figure[0]:,.0f}" if figure[0] >= 100 else f"{figure[0]:.3g}"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fsbench", type=Path, required=True)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--delays", default="0,20", help="milliseconds")
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--tree", type=Path, default=Path(json.__file__).parents[1] / "lib2to3")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each command compiles drivefs anew
    os.environ |= {"WEED_ACCESS_KEY_ID": ACCESS_KEY, "WEED_SECRET_ACCESS_KEY": SECRET_KEY}
    results = Results(options.folder / "results.json")
    for delay in map(float, options.delays.split(",")):
        for name in options.peers.split(","):
            column = f"{name}, {delay:g} ms"
            if column in results.columns or (delay and name == DIRECT_ONLY):
                continue
            print(f"== {column}", flush=True)
            try:
                results.add(column, run(name, delay, options))
            except MissingError as error:
                print(f"{name} is left out: {error}")
    print(results.table())


if __name__ == "__main__":
    main()
