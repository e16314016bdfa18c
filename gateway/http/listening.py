"""Where a server listens: addresses as people write them, sockets, TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

import trio

from backend.errors import UsageError

BACKLOG: Final = 1024


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port; port 0 is one that the kernel chooses."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """HOST:PORT, [IPv6]:PORT, or :PORT for this machine alone. `UsageError`."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise UsageError(f"'{text}' is no address: write HOST:PORT, for example 127.0.0.1:9000")
        return cls(host.strip("[]") or "127.0.0.1", int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


async def listeners_at(address: Address) -> list[trio.SocketListener]:
    """Listening sockets of all addresses that the host has. OSError. Trio has set TCP_NODELAY on what they
    accept, so that no answer waits for a delayed acknowledgement."""
    return await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)


def tls_context(certificate: str, key: str | None) -> ssl.SSLContext:
    """For a server, from PEM files; `key` may be in the certificate's. `UsageError`. Blocks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{certificate}: no certificate with its key: {error}") from None
    return context
