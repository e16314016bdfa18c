"""A TCP proxy that holds back what it passes on, as a long line does.

    python -m bench.delaying_proxy HOST:PORT MILLISECONDS

Prints the port of this machine that it listens on, and serves until it is ended. Each direction takes half of
the milliseconds; making a connection takes all of them, as the answer to its first packet would. What follows
one another in a connection is held back at once: the line is long, and not narrow.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Final

import trio

CHUNK: Final = 256 * 1024
UNDER_WAY: Final = 1024
"""so many chunks of one direction at most; then its sender waits"""


async def serve(host: str, port: int, seconds: float) -> None:
    """Until it is cancelled."""
    async with trio.open_nursery() as nursery:
        pass_on = partial(_pass_on, host, port, seconds)
        listeners = await nursery.start(partial(trio.serve_tcp, pass_on, 0, host="127.0.0.1"))
        print(listeners[0].socket.getsockname()[1], flush=True)


async def _pass_on(host: str, port: int, seconds: float, client: trio.SocketStream) -> None:
    await trio.sleep(seconds)
    try:
        server = await trio.open_tcp_stream(host, port)
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(_one_way, client, server, seconds / 2)
            nursery.start_soon(_one_way, server, client, seconds / 2)
    except* OSError:
        pass  # the server is not there: the client sees its connection end


async def _one_way(source: trio.SocketStream, sink: trio.SocketStream, seconds: float) -> None:
    """All bytes and the end, each so many seconds late."""
    send, receive = trio.open_memory_channel[tuple[float, bytes | bytearray]](UNDER_WAY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_deliver, receive, sink)
        try:
            async with send:
                while data := await source.receive_some(CHUNK):
                    await send.send((trio.current_time() + seconds, data))
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
    options = parser.parse_args()
    host, _, port = options.to.rpartition(":")
    trio.run(serve, host, int(port), options.delay / 1000)


if __name__ == "__main__":
    main()
