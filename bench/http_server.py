"""`python -m bench.http_server [own|hypercorn]`: the processor time of a server for small requests.

One application takes 4 KiB by PUT and gives 4 KiB by GET, without doing anything; so the figure is what a
server costs by itself. Requests come on sixteen connections that stay open, from a process that sends bytes
it made before.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, cast

import trio

from gateway.http import Address, HttpServer, listeners_at

BODY = os.urandom(4096)
CONNECTIONS = 16
REQUESTS = 400
HEADERS = (
    b"Host: 127.0.0.1:9000\r\nUser-Agent: Boto3/1.44 md/Botocore#1.44 ua/2.1 os/linux lang/python\r\n"
    b"X-Amz-Date: 20261128T141633Z\r\nX-Amz-Content-SHA256: UNSIGNED-PAYLOAD\r\n"
    b"Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261128/us-east-1/s3/aws4_request, "
    b"SignedHeaders=host;x-amz-content-sha256;x-amz-date, "
    b"Signature=0000000000000000000000000000000000000000000000000000000000000000\r\n"
    b"Accept-Encoding: identity\r\n"
)
REQUEST = {
    "PUT": b"PUT /bucket/key HTTP/1.1\r\n" + HEADERS + b"Content-Length: 4096\r\n\r\n" + BODY,
    "GET": b"GET /bucket/key HTTP/1.1\r\n" + HEADERS + b"\r\n",
}
ANSWER = [(b"etag", b'"0123456789abcdef0123456789abcdef"'), (b"x-amz-request-id", b"0123456789ABCDEF")]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Takes a body, or gives one."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        return
    body = BODY
    if scope["method"] == "PUT":
        while (await receive())["more_body"]:
            pass
        body = b""
    length = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": ANSWER + length})
    await send({"type": "http.response.body", "body": body})


async def own(port: Connection) -> None:
    """`gateway.http`."""
    listeners = await listeners_at(Address("127.0.0.1", 0))
    port.send(listeners[0].socket.getsockname()[1])
    await HttpServer(app, "bench").serve(listeners)


async def hypercorn(port: Connection) -> None:
    """The peer, where it is installed."""
    from hypercorn.config import Config
    from hypercorn.trio import serve

    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.keep_alive_max_requests = 1 << 30
    binding = partial(cast(Any, serve), app, config)
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(binding)
        port.send(int(address.rpartition(":")[2]))


SERVERS = {"own": own, "hypercorn": hypercorn}


def run(name: str, port: Connection) -> None:
    """The server's process."""
    trio.run(SERVERS[name], port)


def processor_ms(process: int) -> float:
    """User and system time of a process so far."""
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def ask(connections: list[socket.socket], request: bytes, rounds: int) -> None:
    """So many rounds of one request on each connection."""
    for _ in range(rounds):
        for connection in connections:
            connection.sendall(request)
        for connection in connections:
            answer = connection.recv(65536)
            want = answer.index(b"\r\n\r\n") + 4 + (4096 if request[:3] == b"GET" else 0)
            while len(answer) < want:
                answer += connection.recv(65536)


def main() -> None:
    """Prints a line for each server and method."""
    for name in sys.argv[1:] or SERVERS:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=run, args=(name, theirs))
        process.start()
        port = ours.recv()
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
        for method, request in REQUEST.items():
            ask(connections, request, 20)
            before, began = processor_ms(process.pid or 0), time.perf_counter()
            ask(connections, request, REQUESTS)
            count = REQUESTS * CONNECTIONS
            cost = (processor_ms(process.pid or 0) - before) / count
            rate = count / (time.perf_counter() - began)
            print(f"{name:10s} {method} 4 KiB {cost:8.3f} ms of processor time each, {rate:8,.0f} a second")
        process.terminate()
        process.join()


if __name__ == "__main__":
    main()
