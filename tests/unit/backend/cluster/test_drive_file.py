"""`drive.toml`: round trips, and one clear line for everything that is wrong with it."""

from __future__ import annotations

import base64
import datetime
import os
import stat
import tomllib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from backend.cluster import drive_file
from backend.cluster.drive_file import DriveFile
from backend.errors import FormatError, NotFoundError, TransientError, UsageError
from backend.keys.key_slots import Argon2Cost, Secret, Slot, create_slot, open_slots
from backend.nodes import NodeEntry
from backend.nodes.directory_place import DirectoryPlace

CREATED = datetime.datetime(2026, 11, 21, 22, 0, tzinfo=datetime.UTC)
PASSPHRASE_SLOT = Slot("passphrase", bytes(32), bytes(60), Argon2Cost(65536, 3, 4))
DRIVE = DriveFile(
    id=bytes(range(16)),
    name="pictures",
    profile="4+2",
    nodes=(NodeEntry("node0", "node0", "z0"), NodeEntry("node1", "/mnt/disk", "z1", 2.5)),
    epoch=1,
    slots=(PASSPHRASE_SLOT, Slot("recovery", bytes(32), bytes(60))),
    created=CREATED,
)
TEXT = drive_file.encode(DRIVE).decode()

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
paths = texts.filter(lambda text: "://" not in text)
entries = st.builds(
    NodeEntry,
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
    paths,
    st.just("z"),
    st.floats(0, 1e15),
)


@given(
    texts, st.lists(entries, min_size=1, max_size=8, unique_by=lambda node: node.name), st.integers(1, 2**40)
)
def test_round_trip(name: str, nodes: list[NodeEntry], epoch: int) -> None:
    drive = replace(DRIVE, name=name, nodes=tuple(nodes), epoch=epoch)
    assert drive_file.decode(drive_file.encode(drive), "x") == drive


@given(texts)
def test_a_drive_that_has_moved_says_where(address: str) -> None:
    moved = replace(DRIVE, moved=address)
    assert drive_file.decode(drive_file.encode(moved), "x") == moved
    with pytest.raises(UsageError, match="has moved to"):
        drive_file.require_here("/drive", moved)
    drive_file.require_here("/drive", DRIVE)


def test_what_a_store_needs_is_kept_without_secrets() -> None:
    settings: dict[str, str | int] = {"credentials": "profile:b", "region": "eu-central-1", "max_requests": 8}
    drive = replace(DRIVE, nodes=(NodeEntry("node0", "s3://bucket/p", "z0", settings=settings),))
    text = drive_file.encode(drive).decode()
    node = tomllib.loads(text)["nodes"][0]
    assert node["credentials"] == "profile:b"
    assert node["store"] == {"region": "eu-central-1", "max_requests": 8}
    assert drive_file.decode(text.encode(), "x") == drive
    assert drive.nodes[0].place("/").settings == settings
    for secret in ("secret", "token", "sas", "signature", "password", "access_key_id"):
        with pytest.raises(FormatError, match=f"{secret} is no setting of a node"):
            drive_file.decode(text.replace("region =", f"{secret} =").encode(), "x")


def test_a_hand_made_file_is_read() -> None:
    slot = create_slot(Secret.key_file(bytes(32)), bytes(32), DRIVE.id)
    text = f"""
format = 3
id = "000102030405060708090a0b0c0d0e0f"
name = "by hand"
profile = "copies:3"
created = 2026-11-21T23:00:00+01:00

[cluster]
epoch = 7

[[nodes]]
name = "a"
url = "../disk a"
zone = "cellar"
weight = 1
votes = true

[[key_slots]]
kind = "key-file"
salt = "{base64.b64encode(slot.salt).decode()}"
wrapped = "{base64.b64encode(slot.wrapped).decode()}"
"""
    drive = drive_file.decode(text.encode(), "x")
    assert drive.created == CREATED
    assert drive.nodes[0].place("/srv/drive") == DirectoryPlace("/srv/disk a")
    assert open_slots(drive.slots, Secret.key_file(bytes(32)), drive.id) == bytes(32)


def test_the_id_of_the_nodes_is_that_of_the_specification_and_outlives_changes_of_them() -> None:
    """A hub keeps it for as long as the drive is elsewhere (docs/format/hub_api.md)."""
    made = datetime.datetime(2026, 11, 21, 23, 0, 0, 120, datetime.timezone(datetime.timedelta(hours=1)))
    drive = replace(DRIVE, created=made)
    expected = blake3(DRIVE.id + b"2026-11-21T22:00:00.000120+00:00").digest()[:16]
    assert drive.nodes_id == expected
    changed = replace(
        drive, nodes=drive.nodes[:1], epoch=7, slots=drive.slots[:1], moved="https://hub/pictures"
    )
    assert drive_file.decode(drive_file.encode(changed), "x").nodes_id == expected
    assert replace(drive, created=made + datetime.timedelta(microseconds=1)).nodes_id != expected
    assert replace(drive, id=bytes(16)).nodes_id != expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 3", "format = 2", "x: has format 2, this drivefs knows only format 3"),
        ("format = 3", "", "x: format is missing"),
        ("format = 3", "format = true", "x: format must be a whole number"),
        ("format = 3", "format = 3\nextra = 1", "x: unknown entry 'extra'"),
        ('id = "0001', 'id = "000', "x: id must have 32"),
        ('name = "pictures"', "name = 5", "x: name has the wrong type"),
        ('name = "pictures"', 'name = ""', "x: name must have 1 to 255"),
        ('"4+2"', '"4-2"', "x: profile must be like"),
        ("created = 2026-11-21 22:00:00+00:00", "created = 2026-11-21 22:00:00", "x: created must be"),
        ("epoch = 1", "epoch = 0", "x: cluster: epoch must be"),
        ('name = "node1"', 'name = "node0"', "x: nodes must be at least one, each with a name of its own"),
        ('name = "node1"', 'name = "../n"', "x: nodes 2: name and zone start with"),
        ('url = "/mnt/disk"', 'url = "a\\u0000b"', "x: nodes 2: the path of a node holds a zero byte"),
        (
            'url = "/mnt/disk"',
            'url = "ftp://b/p"',
            "x: nodes 2: ftp://b/p: this drivefs knows no nodes at ftp://",
        ),
        (
            'url = "/mnt/disk"',
            'url = "s3://bucket/p"',
            "x: nodes 2: s3://bucket/p: where are its credentials?",
        ),
        (
            "weight = 2.5",
            'credentials = "instance", weight = 1',
            "x: nodes 2: /mnt/disk: a folder has no cred",
        ),
        ("weight = 2.5", 'weight = 1, store.region = "eu"', "x: nodes 2: /mnt/disk: a folder has no region"),
        ("weight = 2.5", "weight = 1, store.region = 1.5", "x: nodes 2: store must have texts"),
        ("weight = 2.5", 'weight = 1, store.credentials = "x"', "x: nodes 2: store must have texts"),
        ("weight = 2.5", "weight = 1, store = 3", "x: nodes 2: store has the wrong type"),
        ("weight = 2.5", "weight = 1, credentials = 3", "x: nodes 2: credentials has the wrong type"),
        ('url = "/mnt/disk"', 'url = "s3://u:p@b/p"', "x: nodes 2: s3://b/p: a node's URL holds no user"),
        ('url = "/mnt/disk"', 'path = "/mnt/disk"', "x: nodes 2: unknown entry 'path'"),
        ("votes = true", "votes = 1", "x: nodes 1: votes has the wrong type"),
        ("weight = 2.5", "weight = nan", "x: nodes 2: weight must be a number"),
        ("weight = 2.5", "weight = true", "x: nodes 2: weight must be a number"),
        ("weight = 2.5", "weight = -1", "x: nodes 2: weight must be a number"),
        ('kind = "recovery"', 'kind = "magic"', "x: key_slots 2: kind 'magic' is unknown"),
        ("memory_kib = 65536", "memory_kib = 8", "x: key_slots 1: the passphrase key slot's Argon2id cost"),
        ("iterations = 3\n", "", "x: key_slots 1: iterations is missing"),
        ('salt = "AAAA', 'salt = "?AAA', "x: key_slots 1: salt is not base 64"),
        ('salt = "AAAA', 'salt = "', "x: key_slots 1: the passphrase key slot has a salt"),
        ("[cluster]", "[cluster", "x: not valid TOML"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(FormatError) as caught:
        drive_file.decode(TEXT.replace(old, new, 1).encode(), "x")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=300))
def test_noise_is_refused_cleanly(noise: bytes) -> None:
    with pytest.raises(FormatError):
        drive_file.decode(noise, "x")


@given(st.integers(0, len(TEXT)), st.characters())
def test_a_changed_character_is_refused_cleanly_or_harmless(position: int, character: str) -> None:
    changed = (TEXT[:position] + character + TEXT[position + 1 :]).encode(errors="surrogatepass")
    with suppress(FormatError):
        drive = drive_file.decode(changed, "x")
        assert drive_file.decode(drive_file.encode(drive), "x") == drive


def test_save_and_load(tmp_path: Path) -> None:
    path = str(tmp_path / "drive.toml")
    drive_file.save(path, DRIVE, exclusive=True)
    assert drive_file.load(path) == DRIVE
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(FileExistsError):
        drive_file.save(path, DRIVE, exclusive=True)
    drive_file.save(path, replace(DRIVE, epoch=2))
    assert drive_file.load(path).epoch == 2
    assert os.listdir(tmp_path) == ["drive.toml"]


def test_load_names_what_is_not_there_or_too_big(tmp_path: Path) -> None:
    path = tmp_path / "drive.toml"
    with pytest.raises(NotFoundError, match=f"{path}: there is no drive here"):
        drive_file.load(str(path))
    path.write_bytes(b"#" * (drive_file.MAX_SIZE + 1))
    with pytest.raises(FormatError, match=f"{path}: over"):
        drive_file.load(str(path))
    path.unlink()
    path.mkdir()
    with pytest.raises(TransientError, match="cannot be read"):
        drive_file.load(str(path))


def test_a_path_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        drive_file.encode(replace(DRIVE, nodes=(NodeEntry("a", "disk\udcff", "z"),)))
