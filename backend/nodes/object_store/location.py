"""The place of a node in an object store: the URLs `s3://`, `s3+https://`, `gs://`, `az://` taken apart.
Pure.

`s3://bucket/prefix` is Amazon's; `s3+https://host:port/bucket/prefix` any other server that speaks S3;
`gs://bucket/prefix`; `az://account/container/prefix`; `gs+https://host:port/…` and `az+https://host:port/…`
other servers that speak as Google or Azure do. With `+http` instead a server is spoken to in clear: only on
this machine, for tests."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from backend.errors import UsageError
from backend.nodes.address import Address, shown

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}")
_USUAL_PORT: Final = {"https": 443, "http": 80}
_CLOUDFLARE: Final = ".r2.cloudflarestorage.com"
_PREFIX_PART: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Location:
    """`service` is `s3`, `gs` or `az`. `endpoint` is the server's URL; empty: the provider's own. `account`
    is Azure's only. `bucket` is also Azure's container. `prefix` has no `/` at its ends and may be empty.
    `endpoint` and `url` are the same for every way to write them."""

    service: str
    endpoint: str
    account: str
    bucket: str
    prefix: str
    url: str

    @property
    def takes_one_write_a_second(self) -> bool:
        """Whether the provider says so, of each object."""
        host = urlsplit(self.endpoint).hostname or ""
        return host.endswith(_CLOUDFLARE) or (self.service == "gs" and not self.endpoint)

    def path(self, key: str) -> str:
        """The name of an object in the bucket."""
        return f"{self.prefix}/{key}" if self.prefix else key


def parse(address: Address) -> Location:
    """`UsageError` in words if it names no place in an object store."""
    service, _, transport = address.scheme.partition("+")
    where = shown(address.url)
    names = address.path.strip("/").split("/")
    names = names if transport else [address.host, *names]
    names = names[:-1] if names[-1] == "" else names
    server = _server(address, transport, where) if transport else ""
    url = f"{address.scheme}://{'/'.join([server, *names] if server else names)}"
    account = names.pop(0) if service == "az" and names else ""
    if service == "az" and not _ACCOUNT.fullmatch(account):
        raise UsageError(f"{where}: an account at Azure has 3 to 24 small letters and digits")
    bucket, *prefix = names or [""]
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{where}: names no bucket: {_form(address.scheme)}")
    if not all(map(_PREFIX_PART.fullmatch, prefix)):
        raise UsageError(f"{where}: the prefix has letters, digits, . _ - in parts joined by /")
    endpoint = f"{transport}://{server}" if server else ""
    return Location(service, endpoint, account, bucket, "/".join(prefix), url)


def _form(scheme: str) -> str:
    host = "host:port/" if "+" in scheme else ""
    account = "account/container" if scheme.startswith("az") else "bucket"
    return f"it is {scheme}://{host}{account}/prefix"


def _server(address: Address, transport: str, where: str) -> str:
    """Its name in small letters, and its port unless that is the usual one."""
    try:
        parts = urlsplit(f"//{address.host}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"{where}: names no server: {error}") from None
    if not host:
        raise UsageError(f"{where}: names no server: {_form(address.scheme)}")
    ip = _ip_address(host)
    if transport == "http" and not (ip.is_loopback if ip else host == "localhost"):
        raise UsageError(f"{where}: only a server on this machine is spoken to in clear; use +https")
    name = f"[{ip}]" if ip and ip.version == 6 else host
    return name if port in (None, _USUAL_PORT[transport]) else f"{name}:{port}"


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
