"""What a request to the S3 door costs, in this version and in another one.

    python -m bench.s3_door FOLDER [--other CHECKOUT] [--rounds N] [--count N]

FOLDER is empty, on the disk to be measured: each candidate gets a drive of six folders in it. CHECKOUT is
another version of this project, which runs on this interpreter. The candidates take turns, in the other order
each round. For each kind of request, on one connection and on sixteen, a row says the median of the
processor's microseconds that a request took of the door's process, the median rate, and the median of the
quotients within a round of the other's processor time and ours. Requests are signed before they are sent,
with the headers that obstore sends, so that the client takes little.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
BUCKET: Final = "bench"
BODY: Final = os.urandom(4096)
LISTED: Final = 1000
_KEY: Final = re.compile(r"(AKIA[A-Z0-9]{16})\W+.*?([A-Za-z0-9_-]{40})", re.DOTALL)


class Client:
    """Makes signed requests, and sends them on connections that stay open."""

    def __init__(self, port: int, key_id: str, secret: str, connections: int = 16) -> None:
        self.port = port
        self.key_id = key_id
        self.secret = secret
        self._host = f"127.0.0.1:{port}"
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]

    def request(self, method: str, target: str, body: bytes = b"") -> bytes:
        """The bytes of a request, good for a quarter of an hour."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path, _, query = target.partition("?")
        digest = hashlib.sha256(body).hexdigest()
        names = "host;x-amz-content-sha256;x-amz-date"
        signed = f"host:{self._host}\nx-amz-content-sha256:{digest}\nx-amz-date:{stamp}\n"
        canonical = f"{method}\n{path}\n{query}\n{signed}\n{names}\n{digest}"
        scope = f"{stamp[:8]}/us-east-1/s3/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = b"AWS4" + self.secret.encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        length = f"content-length: {len(body)}\r\n" if method == "PUT" else ""
        head = (
            f"{method} {target} HTTP/1.1\r\n{length}x-amz-date: {stamp}\r\nx-amz-content-sha256: {digest}\r\n"
            f"authorization: AWS4-HMAC-SHA256 Credential={self.key_id}/{scope}, SignedHeaders={names}, "
            f"Signature={signature}\r\naccept: */*\r\nuser-agent: object_store/0.14.2\r\n"
            f"host: {self._host}\r\n\r\n"
        )
        return head.encode() + body

    def send(self, requests: list[bytes], width: int) -> None:
        """All of them, `width` at a time. `SystemExit` for an answer that is none of success."""
        sockets = self._sockets[:width]
        for at in range(0, len(requests), width):
            some = requests[at : at + width]
            for connection, request in zip(sockets, some, strict=False):
                connection.sendall(request)
            for connection, _ in zip(sockets, some, strict=False):
                self._answer(connection)

    @staticmethod
    def _answer(connection: socket.socket) -> None:
        answer = connection.recv(1 << 18)
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += connection.recv(1 << 18)
        if answer[9:12] not in (b"200", b"204"):
            raise SystemExit(answer.decode(errors="replace"))
        found = re.search(rb"content-length: (\d+)", answer[:end].lower())
        left = end + 4 + int(found[1] if found else b"0") - len(answer)
        while left > 0:
            left -= len(connection.recv(1 << 18))


@dataclass(slots=True)
class Candidate:
    """A door that is served by `process`."""

    name: str
    client: Client
    process: int
    spent: dict[str, list[float]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)

    def processor_seconds(self) -> float:
        """Of the process so far: its clock has this number (clock_getcpuclockid(3))."""
        return time.clock_gettime(~self.process << 3 | 2)

    def measure(self, row: str, requests: list[bytes], width: int) -> None:
        """Send them; note what each took."""
        before, began = self.processor_seconds(), time.perf_counter()
        self.client.send(requests, width)
        seconds = time.perf_counter() - began
        spent = self.processor_seconds() - before
        self.spent.setdefault(row, []).append(spent / len(requests) * 1e6)
        self.rates.setdefault(row, []).append(len(requests) / seconds)


@contextmanager
def door(name: str, checkout: Path, folder: Path) -> Iterator[Candidate]:
    """A door of that version, on a new drive."""
    folder.mkdir(parents=True)
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(32))
    nodes = [part for number in range(6) for part in ("--node", str(folder / f"node{number}"))]
    _tool(checkout, "mkfs", "-q", "--key-file", str(key), str(folder / "drive"), *nodes)
    places = ("--cache-dir", str(folder / "cache"), "--state-dir", str(folder / "state"))
    where = (str(folder / "drive"), "--key-file", str(key), *places)
    shown = _tool(checkout, "drivefs", "s3", "key", "add", *where)
    found = _KEY.search(shown)
    assert found is not None, shown
    command = _command("drivefs", "s3", "serve", *where, "--listen", "127.0.0.1:0")
    with subprocess.Popen(
        command, cwd=checkout, env=_environment(checkout), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = re.search(r":(\d+)", process.stdout.readline())
            assert port is not None
            yield Candidate(name, Client(int(port[1]), found[1], found[2]), process.pid)
        finally:
            process.terminate()


def _command(tool: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; from tools.{tool} import main; sys.exit(main())", *arguments]


def _environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(checkout), "PYTHONUNBUFFERED": "1"}


def _tool(checkout: Path, tool: str, *arguments: str) -> str:
    return subprocess.run(
        _command(tool, *arguments),
        cwd=checkout,
        env=_environment(checkout),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def prepare(candidate: Candidate) -> None:
    """A bucket with as many objects as one listing has."""
    client = candidate.client
    client.send([client.request("PUT", f"/{BUCKET}")], 1)
    puts = [client.request("PUT", f"/{BUCKET}/listed/{number:04}", BODY) for number in range(LISTED)]
    client.send(puts, 16)


def measure_round(candidate: Candidate, count: int) -> None:
    """Every kind of request."""
    client = candidate.client
    for width in (1, 16):
        puts = [client.request("PUT", f"/{BUCKET}/c{width}/{number % 400}", BODY) for number in range(count)]
        candidate.measure(f"PUT 4 KiB c{width}", puts, width)
        gets = [client.request("GET", f"/{BUCKET}/c{width}/{number % 20}") for number in range(count)]
        candidate.measure(f"GET 4 KiB c{width}", gets, width)
    lists = [client.request("GET", f"/{BUCKET}?list-type=2&prefix=listed%2F")] * 10
    candidate.measure("list 1000", lists, 1)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1600)
    options = parser.parse_args()
    checkouts = {"this": ROOT} | ({"other": options.other.resolve()} if options.other else {})
    with ExitStack() as stack:
        candidates = [
            stack.enter_context(door(name, checkout, options.folder / name))
            for name, checkout in checkouts.items()
        ]
        for candidate in candidates:
            prepare(candidate)
        for number in range(options.rounds):
            for candidate in candidates[:: -1 if number % 2 else 1]:
                measure_round(candidate, options.count)
    _print(candidates)


def _print(candidates: list[Candidate]) -> None:
    ours, *others = candidates
    for row, spent in ours.spent.items():
        line = f"{row:15s} {statistics.median(spent):8.0f} us {statistics.median(ours.rates[row]):7.0f}/s"
        for other in others:
            quotients = [theirs / mine for theirs, mine in zip(other.spent[row], spent, strict=True)]
            line += f"  other {statistics.median(other.spent[row]):8.0f} us"
            line += f" {statistics.median(other.rates[row]):7.0f}/s"
            line += f", other/this {statistics.median(quotients):.2f}"
        print(line)


if __name__ == "__main__":
    main()
