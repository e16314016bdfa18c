"""The `-o` options of a mount, as mount(8), fstab and people write them.

Three kinds: drivefs' own (below), those that the kernel is given (`ro`, `nosuid`, `nodev`, `noexec`,
`noatime`), and those that other programs read and a mount helper must let pass (`_netdev`,
`nofail`, `user`, `x-systemd.automount`, ...; see mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS",
and systemd.mount(5)). Anything else is refused: a misspelt option must not silently be without effect.
Where an option is given twice, the last one counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from backend.errors import UsageError
from cache import defaults, past_names
from tools.hub_address import proxy_url
from tools.quantities import parse_duration, parse_size

LET_PASS: Final = frozenset(
    (
        "defaults",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "noowner",
        "group",
        "nogroup",
        "_netdev",
        "nofail",
        "async",
        "suid",
        "dev",
        "exec",
        "atime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "diratime",
        "nodiratime",
        "silent",
        "default_permissions",  # of other FUSE file systems; here the kernel always checks them
        "loud",
    )
)
"""Options that other programs read, or that are always on here."""

_KERNEL_FLAGS: Final = frozenset({"nosuid", "nodev", "noexec"})
_OPPOSITES: Final = {"suid": "nosuid", "dev": "nodev", "exec": "noexec"}
_MAY_BE_EMPTY: Final = frozenset({"versions_dir"})
_SECRETS: Final = frozenset({"passphrase_file", "key_file", "passphrase_command"})
_OF_NODES: Final = _SECRETS | {"scrub_interval"}
_OF_HUBS: Final = frozenset({"upload_limit", "download_limit", "ca_file", "proxy", "coherence"})
WHEN_TOLD: Final = "told"
"""Others' changes are seen when the hub has told of them."""
AT_OPEN: Final = "open"
"""Each opening asks the hub first."""
_USER_MOUNTS: Final = frozenset({"user", "users", "owner", "group"})
"""mount(8): these imply nosuid and nodev; `user` and `users` noexec too."""

DEFAULT_SCRUB_INTERVAL: Final = 14 * 24 * 3600.0
_OFF: Final = ("off", "none")
MINIMUM_JOURNAL_SIZE: Final = 64 << 20
MINIMUM_CACHE_SIZE: Final = 16 << 20
MINIMUM_RATE: Final = 16 << 10
"""A second."""
MINIMUM_CACHE_DISK: Final = 128 << 20
"""Sixteen parts, each with some blocks of the largest size."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The given options. Sizes in bytes, times in seconds; at most one secret source is set."""

    read_only: bool = False
    allow_other: bool = False
    noatime: bool = False
    access_lists: bool = True
    verbose: bool = False
    passphrase_file: str | None = None
    key_file: str | None = None
    passphrase_command: str | None = None
    cache_dir: str | None = None
    state_dir: str | None = None
    log_file: str | None = None
    cache_size: int = defaults.CACHE_SIZE
    cache_disk: int | None = None
    """0: none; None: as the nodes are"""
    journal_size: int = defaults.JOURNAL_SIZE
    commit_interval: float | None = None
    """None: as the nodes are"""
    scrub_interval: float = DEFAULT_SCRUB_INTERVAL
    """0: only when `drivefs scrub` asks for it"""
    version_interval: float = defaults.VERSION_INTERVAL
    versions_dir: str = defaults.VERSIONS_NAME
    """empty: there is none"""
    asof: str = ""
    s3: str = ""
    """HOST:PORT; empty: there is no S3 door"""
    s3_root: str = ""
    upload_limit: int | None = None
    """bytes a second; None: there is none"""
    download_limit: int | None = None
    ca_file: str = ""
    """empty: as the login says"""
    proxy: str = ""
    coherence: str = WHEN_TOLD
    """or `AT_OPEN`"""
    kernel_flags: frozenset[str] = field(default_factory=frozenset)


def parse(option_lists: Iterable[str], *, sloppy: bool = False) -> MountOptions:
    """The options of all `-o` arguments. `UsageError` for an unknown option (unless `sloppy`, the
    `-s` of mount(8)), a value where none belongs, a missing or bad value, or two secret sources."""
    found: dict[str, Any] = {}
    flags: set[str] = set()
    for option in (option for text in option_lists for option in split(text)):
        name, equals, value = option.partition("=")
        if name in _VALUES:
            if not value and name not in _MAY_BE_EMPTY:
                raise UsageError(f"mount option {name} needs a value: {name}=...")
            found[name] = _VALUES[name](value)
        elif name in _SWITCHES and not equals:
            attribute, state = _SWITCHES[name]
            found[attribute] = state
        elif not _take_flag(name, flags) and not _belongs_to_others(name) and not sloppy:
            raise UsageError(f"unknown mount option '{name}'")
    _one_secret_source(found)
    if found.get("asof"):
        found["read_only"] = True
    if found.get("read_only") and found.get("coherence") == AT_OPEN:
        raise UsageError(
            "mount option coherence=open is for a mount that writes: another one shows the drive as it was "
            "when it was mounted"
        )
    return MountOptions(**found, kernel_flags=frozenset(flags))


def require_fit(options: MountOptions, *, at_hub: bool) -> None:
    """`UsageError` for options that would be without effect on such a drive."""
    others, whose = (_OF_NODES, "in folders") if at_hub else (_OF_HUBS, "at hubs")
    unset = MountOptions()
    for name in sorted(others):
        if getattr(options, name) != getattr(unset, name):
            raise UsageError(f"mount option {name} is for drives {whose}")


def is_of_drivefs(option: str) -> bool:
    """Whether it is one that drivefs itself looks at, and only when a drive is mounted."""
    name = option.partition("=")[0]
    return name in _VALUES or (name in _SWITCHES and name not in _OF_ALL_FILE_SYSTEMS)


def split(text: str) -> list[str]:
    """The options of one `-o` argument: separated by commas, except inside double quotes (which
    are taken off), as libmount reads them."""
    options, quoted = [""], False
    for character in text:
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            options.append("")
        else:
            options[-1] += character
    if quoted:
        raise UsageError("mount options end inside a double quote")
    return [option.strip() for option in options if option.strip()]


def _path(value: str) -> str:
    return value


def _at_least(name: str, minimum: int) -> Callable[[str], int]:
    def parse_value(value: str) -> int:
        size = parse_size(value)
        if size < minimum:
            least = f"{minimum >> 20}M" if minimum >> 20 else f"{minimum >> 10}K"
            raise UsageError(f"mount option {name} must be at least {least}")
        return size

    return parse_value


def _cache_disk(value: str) -> int:
    size = 0 if value in _OFF else parse_size(value)
    if 0 < size < MINIMUM_CACHE_DISK:
        raise UsageError(f"mount option cache_disk must be off, or at least {MINIMUM_CACHE_DISK >> 20}M")
    return size


def _interval(name: str, most: float, most_text: str) -> Callable[[str], float]:
    def parse_value(value: str) -> float:
        seconds = parse_duration(value)
        if not 0.1 <= seconds <= most:
            raise UsageError(f"mount option {name} must be between 100ms and {most_text}")
        return seconds

    return parse_value


def _coherence(value: str) -> str:
    if value not in (WHEN_TOLD, AT_OPEN):
        raise UsageError(f"mount option coherence must be {WHEN_TOLD} or {AT_OPEN}, not '{value}'")
    return value


def _moment(value: str) -> str:
    if past_names.parse(value, time.time_ns()) is None:
        raise UsageError(f"mount option asof: '{value}' is not a time; write for example {past_names.FORMS}")
    return value


def _versions_name(value: str) -> str:
    if value in _OFF:
        return ""
    if "/" in value or value in (".", "..") or len(value.encode("utf-8", "surrogateescape")) > 255:
        raise UsageError(f"mount option versions_dir must be one name, not '{value}'")
    return value


_SWITCHES: Final[dict[str, tuple[str, bool]]] = {
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "allow_other": ("allow_other", True),
    "acl": ("access_lists", True),
    "noacl": ("access_lists", False),
    "noatime": ("noatime", True),
    "atime": ("noatime", False),
    "relatime": ("noatime", False),
    "verbose": ("verbose", True),
}
_OF_ALL_FILE_SYSTEMS: Final = frozenset({"ro", "rw", "relatime"})
_VALUES: Final[dict[str, Callable[[str], str | int | float]]] = {
    "passphrase_file": _path,
    "key_file": _path,
    "passphrase_command": _path,
    "cache_dir": _path,
    "state_dir": _path,
    "log_file": _path,
    "cache_disk": _cache_disk,
    "cache_size": _at_least("cache_size", MINIMUM_CACHE_SIZE),
    "journal_size": _at_least("journal_size", MINIMUM_JOURNAL_SIZE),
    "scrub_interval": parse_duration,
    "commit_interval": _interval("commit_interval", 3600, "1h"),
    "version_interval": _interval("version_interval", 24 * 3600, "24h"),
    "asof": _moment,
    "s3": _path,
    "s3_root": _path,
    "upload_limit": _at_least("upload_limit", MINIMUM_RATE),
    "download_limit": _at_least("download_limit", MINIMUM_RATE),
    "ca_file": _path,
    "proxy": proxy_url,
    "coherence": _coherence,
    "versions_dir": _versions_name,
}


def _take_flag(name: str, flags: set[str]) -> bool:
    if name in _KERNEL_FLAGS:
        flags.add(name)
        return True
    flags.discard(_OPPOSITES.get(name, ""))
    if name in _USER_MOUNTS:
        flags |= {"nosuid", "nodev"} | ({"noexec"} if name in ("user", "users") else set())
    return name in LET_PASS


def _belongs_to_others(name: str) -> bool:
    return name.lower().startswith("x-") or name in ("comment", "uhelper", "helper")


def _one_secret_source(found: dict[str, Any]) -> None:
    given = sorted(_SECRETS & found.keys())
    if len(given) > 1:
        raise UsageError(f"mount options {' and '.join(given)} exclude each other")
