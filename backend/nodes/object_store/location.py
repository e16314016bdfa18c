"""The place of a node in an object store: the URLs `s3://`, `s3+https://`, `gs://`, `az://` taken apart.
Pure.

`s3://bucket/prefix` is Amazon's; `s3+https://host:port/bucket/prefix` any other server that speaks S3;
`gs://bucket/prefix`; `az://account/container/prefix`, `az+https://host:port/account/container/prefix`. With
`+http` instead a server is spoken to in clear: only on this machine, for tests."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from backend.errors import UsageError
from backend.nodes.address import Address, shown

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}")
_PREFIX_PART: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Location:
    """`service` is `s3`, `gs` or `az`. `endpoint` is the server's URL; empty: the provider's own. `account`
    is Azure's only. `bucket` is also Azure's container. `prefix` has no `/` at its ends and may be empty."""

    service: str
    endpoint: str
    account: str
    bucket: str
    prefix: str
    url: str

    def path(self, key: str) -> str:
        """The name of an object in the bucket."""
        return f"{self.prefix}/{key}" if self.prefix else key


def parse(address: Address) -> Location:
    """`UsageError` in words if it names no place in an object store."""
    service, _, transport = address.scheme.partition("+")
    where = shown(address.url)
    names = address.path.strip("/").split("/")
    if transport:
        _require_host(address, transport, where)
    else:
        names = [address.host, *names]
    names = names[:-1] if names[-1] == "" else names
    endpoint = f"{transport}://{address.host}" if transport else ""
    account = names.pop(0) if service == "az" and names else ""
    if service == "az" and not _ACCOUNT.fullmatch(account):
        raise UsageError(f"{where}: an account at Azure has 3 to 24 small letters and digits")
    bucket, *prefix = names or [""]
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{where}: names no bucket: {_form(address.scheme)}")
    if not all(map(_PREFIX_PART.fullmatch, prefix)):
        raise UsageError(f"{where}: the prefix has letters, digits, . _ - in parts joined by /")
    return Location(service, endpoint, account, bucket, "/".join(prefix), where.rstrip("/"))


def _form(scheme: str) -> str:
    host = "host:port/" if "+" in scheme else ""
    account = "account/container" if scheme.startswith("az") else "bucket"
    return f"it is {scheme}://{host}{account}/prefix"


def _require_host(address: Address, transport: str, where: str) -> None:
    host = re.sub(r":\d+$", "", address.host).strip("[]")
    if not host:
        raise UsageError(f"{where}: names no server: {_form(address.scheme)}")
    if transport == "http" and not _is_this_machine(host):
        raise UsageError(f"{where}: only a server on this machine is spoken to in clear; use +https")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
