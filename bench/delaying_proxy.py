"""A TCP proxy that holds back what it passes on, as a long line does, and a narrow one.

    python -m bench.delaying_proxy HOST:PORT MILLISECONDS [--megabits N]

Prints the port of this machine that it listens on, and serves until it is ended. Each direction takes half of
the milliseconds; making a connection takes all of them, as the answer to its first packet would. What follows
one another in a connection is held back at once. With `--megabits` all connections together pass so much a
second in each direction; without it the line is as wide as it needs to be.

At SIGUSR1 it prints the bytes that it has read from those who called and from whom they called, so far.
"""

from __future__ import annotations

import argparse
import math
import signal
import socket
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

CHUNK: Final = 256 * 1024
NARROW_CHUNK: Final = 16 * 1024
UNDER_WAY: Final = 1024
"""so many chunks of one direction at most; then its sender waits"""
WAITING: Final = 64 * 1024
"""bytes of a connection that the kernel takes while they wait for a narrow line, as a router would"""


@dataclass
class Direction:
    """One direction of the line. `rate`: bytes a second of all connections."""

    seconds: float
    rate: float
    turn: trio.StrictFIFOLock = field(default_factory=trio.StrictFIFOLock)
    free: float = 0.0
    passed: int = 0

    @property
    def chunk(self) -> int:
        """Bytes that are passed at once."""
        return CHUNK if self.rate == math.inf else NARROW_CHUNK

    async def pass_on(self, count: int) -> None:
        """Return when so many bytes have gone into the line."""
        self.passed += count
        if self.rate < math.inf:
            async with self.turn:
                self.free = max(self.free, trio.current_time()) + count / self.rate
                await trio.sleep_until(self.free)


async def serve(host: str, port: int, seconds: float, rate: float = math.inf) -> None:
    """Until it is cancelled."""
    lines = Direction(seconds / 2, rate), Direction(seconds / 2, rate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tell, *lines)
        pass_on = partial(_pass_on, host, port, *lines)
        listeners = await nursery.start(partial(trio.serve_tcp, pass_on, 0, host="127.0.0.1"))
        print(listeners[0].socket.getsockname()[1], flush=True)


async def _tell(there: Direction, back: Direction) -> None:
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        async for _ in signals:
            print(there.passed, back.passed, flush=True)


async def _pass_on(
    host: str, port: int, there: Direction, back: Direction, client: trio.SocketStream
) -> None:
    await trio.sleep(there.seconds + back.seconds)
    try:
        server = await trio.open_tcp_stream(host, port)
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(_one_way, client, server, there)
            nursery.start_soon(_one_way, server, client, back)
    except* OSError:
        pass  # the server is not there: the client sees its connection end


async def _one_way(source: trio.SocketStream, sink: trio.SocketStream, line: Direction) -> None:
    """All bytes and the end, late as the line is long."""
    if line.rate < math.inf:
        source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WAITING)
    send, receive = trio.open_memory_channel[tuple[float, bytes | bytearray]](UNDER_WAY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_deliver, receive, sink)
        try:
            async with send:
                while data := await source.receive_some(line.chunk):
                    await line.pass_on(len(data))
                    await send.send((trio.current_time() + line.seconds, data))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # one of both is gone


async def _deliver(
    receive: trio.MemoryReceiveChannel[tuple[float, bytes | bytearray]], sink: trio.SocketStream
) -> None:
    async with receive:
        try:
            async for due, data in receive:
                await trio.sleep_until(due)
                await sink.send_all(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.delaying_proxy", description=__doc__)
    parser.add_argument("to", metavar="HOST:PORT")
    parser.add_argument("delay", metavar="MILLISECONDS", type=float)
    parser.add_argument("--megabits", type=float, default=math.inf)
    options = parser.parse_args()
    host, _, port = options.to.rpartition(":")
    trio.run(serve, host, int(port), options.delay / 1000, options.megabits * 1e6 / 8)


if __name__ == "__main__":
    main()
