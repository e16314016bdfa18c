"""hub.toml: what is written is read, and each wrong entry is told in one line; secrets are their owner's."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.coding import Profile
from backend.errors import DriveError, FormatError, NotFoundError, UsageError
from backend.hub import HubFile, Limits, hub_file
from backend.nodes import NodeEntry

HUB = HubFile(
    id=bytes(range(16)),
    public_url="https://hub.example",
    database="host=/run/postgresql dbname=drivefs",
    profile=Profile.parse("copies:2"),
    nodes=(NodeEntry("node0", "node0", "disk0"), NodeEntry("node1", "/srv/node1", "disk1", 2.0)),
)
TEXT = hub_file.encode(HUB).decode()


@given(
    metrics=st.sampled_from(["", "[::1]:9100"]),
    is_sign_up_open=st.booleans(),
    epoch=st.integers(1, 2**63 - 1),
    numbers=st.tuples(*(st.integers(*bounds) for bounds in hub_file.RANGES.values())),
)
def test_what_is_written_is_read(
    metrics: str, is_sign_up_open: bool, epoch: int, numbers: tuple[int, ...]
) -> None:
    hub = replace(HUB, metrics=metrics, is_sign_up_open=is_sign_up_open, epoch=epoch, limits=Limits(*numbers))
    assert hub_file.decode(hub_file.encode(hub), "f") == hub


def test_the_defaults_are_within_their_ranges_and_may_be_left_out() -> None:
    names = "|".join(hub_file.RANGES)
    without = re.sub(rf"^({names}) = .*\n", "", TEXT, flags=re.MULTILINE)
    assert "body_rate" not in without
    assert hub_file.decode(without.encode(), "f") == HUB


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("format = 1", "format = 2", "knows only format 1"),
        ('id = "00', 'id = "', "id must have 32 hexadecimal digits"),
        ("https://", "ftp://", "must be like https://hub.example"),
        ("https://", "https://user@", "must be like https://hub.example"),
        ("hub.example", "hub.example/", "must be like https://hub.example"),
        ("127.0.0.1:8080", "127.0.0.1", "listen must be HOST:PORT"),
        ("127.0.0.1:8080", "a:70000", "listen must be HOST:PORT"),
        ('sign_up = "closed"', 'sign_up = "half"', "sign_up must be open or closed"),
        ("copies:2", "copies:99", "profile copies:99 is not possible"),
        ("epoch = 1", "epoch = 0", "cluster: epoch must be a whole number"),
        ("body_rate = 1024", "body_rate = 0", "limits: body_rate must be a whole number"),
        ("body_rate", "bodyrate", "limits: unknown entry 'bodyrate'"),
        ('name = "node1"', 'name = "node0"', "each with a name of its own"),
    ],
)
def test_a_wrong_entry_is_told_in_one_line(old: str, new: str, words: str) -> None:
    assert old in TEXT
    with pytest.raises(FormatError, match=r"^the file: ") as caught:
        hub_file.decode(TEXT.replace(old, new, 1).encode(), "the file")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DriveError):
        hub_file.decode(data, "f")


def test_a_secret_is_only_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "pepper"
    with pytest.raises(NotFoundError):
        hub_file.read_secret(str(path))
    path.touch(0o600)
    path.write_bytes(b"p" * 31)
    with pytest.raises(FormatError):
        hub_file.read_secret(str(path))
    path.write_bytes(b"p" * 32)
    assert hub_file.read_secret(str(path)) == b"p" * 32
    os.chmod(path, 0o640)
    with pytest.raises(UsageError, match="others may use it"):
        hub_file.read_secret(str(path))


@pytest.mark.parametrize("address", ["hub.example", ":80", "a:b", "[::1]", "a:65536", "a b:1"])
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        hub_file.host_and_port(address)


def test_addresses_of_both_families() -> None:
    assert hub_file.host_and_port("[::1]:80") == ("::1", 80)
    assert hub_file.host_and_port("localhost:8080") == ("localhost", 8080)
