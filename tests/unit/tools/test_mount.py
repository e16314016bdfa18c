"""Each mount option comes to what a mount is made of. Nothing is mounted, and nothing of the drive opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from tests.small_drive import SmallDrive, make_empty_drive
from tools import mount
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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_empty_drive(tmp_path_factory.mktemp("drive"))


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


@pytest.fixture
def told(made: SmallDrive, monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    monkeypatch.setenv("KEY", str(made.folder / "key"))
    monkeypatch.setenv("DRIVEFS_CACHE_DIR", str(made.cache))
    monkeypatch.setenv("DRIVEFS_STATE_DIR", str(made.state))
    monkeypatch.setattr(SecretSource, "chosen", told.chosen)
    for target, name in (
        ("tools.drive_opening.opened_drive", "drive"),
        ("tools.mount.log_to_file", "log"),
        ("tools.host.places.check_allow_other", "allowed"),
    ):
        monkeypatch.setattr(target, told.note(name))
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


def handed_on(told: Told, made: SmallDrive, mountpoint: Path, options: str) -> dict[str, str]:
    """To the drive, the session, the log and the rest."""
    told.parts.clear()
    options = options.replace("FOLDER", str(made.folder))
    assert mount.mount([str(made.drive), str(mountpoint), *(["-o", options] if options else [])]) == 0
    assert told.parts.keys() >= {"drive", "served", "log", "secret"}
    return {name: repr(part) for name, part in told.parts.items()}


@pytest.mark.parametrize("field", [each.name for each in fields(MountOptions)])
def test_an_option_is_handed_on(told: Told, made: SmallDrive, tmp_path: Path, field: str) -> None:
    for without, with_it, parts in CHANGES[field]:
        before = handed_on(told, made, tmp_path, without)
        after = handed_on(told, made, tmp_path, with_it)
        assert sorted(name for name in after if after[name] != before.get(name)) == parts.split()
