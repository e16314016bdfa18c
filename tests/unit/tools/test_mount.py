"""Each mount option comes to what a mount is made of. Nothing is mounted, and nothing of the drive opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from backend.errors import UsageError
from backend.keys import DriveKeys
from backend.remote import HubLogin, HubRoute, Logins
from tests.small_drive import SmallDrive, make_empty_drive
from tools import mount
from tools.host import places
from tools.hub.opening import DriveAtHub
from tools.mount_options import MountOptions
from tools.secret_source import SecretSource

CHANGES: Final[dict[str, list[tuple[str, str, str]]]] = {
    "read_only": [("", "ro", "drive served")],
    "allow_other": [("", "allow_other", "allowed served")],
    "noatime": [("", "noatime", "served")],
    "access_lists": [("", "noacl", "served")],
    "verbose": [("", "verbose", "log")],
    "passphrase_file": [("", "passphrase_file=/secret", "secret")],
    "key_file": [("", "key_file=/secret", "secret")],
    "passphrase_command": [("", "passphrase_command=ask", "secret")],
    "cache_dir": [("", "cache_dir=FOLDER/other", "drive served")],
    "state_dir": [("", "state_dir=FOLDER/other", "drive log served")],
    "log_file": [("", "log_file=/log", "log")],
    "cache_size": [("", "cache_size=99M", "drive")],
    "cache_disk": [("", "cache_disk=999M", "drive")],
    "journal_size": [("", "journal_size=999M", "drive")],
    "commit_interval": [("", "commit_interval=77s", "drive")],
    "scrub_interval": [("", "scrub_interval=77s", "drive")],
    "version_interval": [("", "version_interval=77s", "drive")],
    "versions_dir": [("", "versions_dir=.past", "served"), ("", "versions_dir=off", "served")],
    "asof": [("ro", "asof=2026-01-01", "drive log served"), ("asof=2026-01-01", "asof=2026-02-02", "served")],
    "s3": [("", "s3=127.0.0.1:1", "served"), ("s3=127.0.0.1:1", "s3=127.0.0.1:2", "served")],
    "s3_root": [("s3=127.0.0.1:1", "s3=127.0.0.1:1,s3_root=/buckets", "served")],
    "kernel_flags": [("", "nosuid", "served"), ("", "nodev", "served"), ("", "noexec", "served")],
}
"""Of each field of the options: a mount without it, the same with it, and the parts that differ."""
CHANGES_AT_HUBS: Final[dict[str, list[tuple[str, str, str]]]] = {
    "upload_limit": [("", "upload_limit=99K", "drive")],
    "download_limit": [("", "download_limit=99K", "drive")],
    "ca_file": [("", "ca_file=/ca.pem", "drive found")],
    "proxy": [("", "proxy=http://proxy:3128", "drive found")],
    "coherence": [("", "coherence=open", "served")],
}
"""The same of those that are of drives at hubs."""
LOGIN: Final = HubLogin("https://hub.example", "me@example.org", bytes(32), bytes(32), 1)
AT_HUB: Final = f"{LOGIN.url}/photos"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_empty_drive(tmp_path_factory.mktemp("drive"))


def _logins() -> Logins:
    return Logins(places.hubs_folder(os.environ))


class Told:
    """What a mount is made of, noted instead of used."""

    def __init__(self) -> None:
        self.parts: dict[str, Any] = {}

    def note(self, name: str) -> Callable[..., None]:
        def noted(*given: object, **named: object) -> None:
            self.parts[name] = ([each for each in given if not callable(each)], named)

        return noted

    def chosen(self, environment: Mapping[str, str], *given: str | None) -> object:
        """As `SecretSource.chosen`; the secret is that of the drive."""
        self.parts["secret"] = given
        return SecretSource(None, environment["KEY"], None)

    def found(self, route: HubRoute, _tell: object) -> DriveAtHub:
        """As `HubDrives.found`."""
        self.parts["found"] = (route.ca_file, route.proxy)
        return DriveAtHub(AT_HUB, LOGIN, bytes(16), DriveKeys(bytes(32), bytes(16)), _logins())


@pytest.fixture
def told(made: SmallDrive, monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    monkeypatch.setenv("KEY", str(made.folder / "key"))
    monkeypatch.setenv("DRIVEFS_CACHE_DIR", str(made.cache))
    monkeypatch.setenv("DRIVEFS_STATE_DIR", str(made.state))
    _logins().save(LOGIN)
    monkeypatch.setattr(SecretSource, "chosen", told.chosen)
    for target, name in (
        ("tools.drive_opening.opened_drive", "drive"),
        ("tools.mount.opened_drive_at_hub", "drive"),
        ("tools.mount.log_to_file", "log"),
        ("tools.host.places.check_allow_other", "allowed"),
    ):
        monkeypatch.setattr(target, told.note(name))
    monkeypatch.setattr("tools.hub.drives.HubDrives.found", lambda _, *given, **_said: told.found(*given))
    monkeypatch.setattr(mount, "trio", SimpleNamespace(run=told.note("served")))
    monkeypatch.setattr("tools.host.daemon.start", lambda work, _codes: work(lambda: None))
    for target in (
        "tools.mount.share_one_heap",
        "tools.mount._open_many_files",
        "backend.file_limit.raise_as_far_as_allowed",
        "mountfs.process_tuning.prepare_process",
        "tools.host.places.check_fuse",
    ):
        monkeypatch.setattr(target, lambda: None)
    return told


def handed_on(told: Told, made: SmallDrive, drive: str, mountpoint: Path, options: str) -> dict[str, str]:
    """To the drive, the session, the log and the rest."""
    told.parts.clear()
    options = options.replace("FOLDER", str(made.folder))
    assert mount.mount([drive, str(mountpoint), *(["-o", options] if options else [])]) == 0
    assert told.parts.keys() >= {"drive", "served", "log", "found" if drive == AT_HUB else "secret"}
    return {name: repr(part) for name, part in told.parts.items()}


@pytest.mark.parametrize("field", [each.name for each in fields(MountOptions)])
def test_an_option_is_handed_on(told: Told, made: SmallDrive, tmp_path: Path, field: str) -> None:
    is_at_hub = field in CHANGES_AT_HUBS
    drive = AT_HUB if is_at_hub else str(made.drive)
    for without, with_it, parts in (CHANGES_AT_HUBS if is_at_hub else CHANGES)[field]:
        before = handed_on(told, made, drive, tmp_path, without)
        after = handed_on(told, made, drive, tmp_path, with_it)
        assert sorted(name for name in after if after[name] != before.get(name)) == parts.split()


@pytest.mark.parametrize(
    ("drive", "option"),
    [(AT_HUB, "key_file=/k"), (AT_HUB, "scrub_interval=1h"), ("", "upload_limit=1M"), ("", "ca_file=/ca")],
)
def test_an_option_that_would_be_without_effect_is_refused(
    told: Told, made: SmallDrive, tmp_path: Path, drive: str, option: str
) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        mount.mount([drive or str(made.drive), str(tmp_path), "-o", option])
    assert told.parts == {}
