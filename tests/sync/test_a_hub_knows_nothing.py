"""What a hub keeps after a person has used it: neither names nor contents, and nothing that opens them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import trio

from backend.keys import AccountKeys, Argon2Cost, Secret, Stretching, login_keys
from tests import contents
from tests.contents import KINDS
from tests.drives import make_file
from tests.hub_machine import PASSPHRASE, Machine
from tests.hub_server import RunningHub, hub_for_test
from tests.sync.test_drives_on_a_hub import Devices

SAID = ("laptop", "desktop computer", "tax returns", "love letters", "accounting", "invoice-", PASSPHRASE)


@pytest.fixture
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@pytest.fixture
def mine(
    running: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Machine:
    (tmp_path / "first").mkdir()
    machine = Machine(tmp_path / "first", running.url, "somebody@example.org", monkeypatch, capsys)
    machine.create("--name", "laptop")
    return machine


def rows(running: RunningHub) -> bytes:
    """All of all tables, bytes in hexadecimal digits."""
    with psycopg.connect(running.conninfo) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert len(tables) >= 12
        return b"\n".join(
            row[0].encode()
            for (name,) in tables
            for row in connection.execute(f"SELECT t::text FROM {name} t".encode()).fetchall()
        )


def shown_key(running: RunningHub) -> bytes:
    """The key that the passphrase gives, and that the hub was shown."""
    with psycopg.connect(running.conninfo) as connection:
        found = connection.execute(
            "SELECT salt, memory_kib, iterations, lanes FROM credential WHERE kind = 'passphrase'"
        ).fetchone()
    assert found is not None
    salt, *cost = found
    stretching = Stretching(bytes(salt), Argon2Cost(*cost))
    return login_keys(Secret.passphrase(PASSPHRASE), stretching).auth_key


def write_files(running: RunningHub, mine: Machine, uuid: bytes) -> list[bytes]:
    """Files of all kinds in that drive; what they hold."""
    login = mine.logins.load(mine.hub)

    class Account:
        url = running.url

        def new_drive(self) -> tuple[bytes, bytes]:
            return uuid, login.token

    found = [contents.content(kind, 50_000, 7) for kind in KINDS if kind != "zeros"]

    async def write() -> None:
        async with Devices(Account(), mine.folder).device(1) as drive:
            for number, data in enumerate(found):
                await make_file(drive, b"invoice-%d" % number, data)
            await drive.sync()

    trio.run(write)
    return found


def test_neither_database_nor_nodes_tell_anything(running: RunningHub, mine: Machine) -> None:
    other = mine.another("second")
    other.log_in(PASSPHRASE, "--name", "desktop computer")
    for name in ("tax returns", "love letters"):
        mine.run("drives", "create", name)
    mine.run("drives", "rename", "love letters", "accounting")
    mine.run("devices", "rotate")
    said = mine.run("account", "totp", "on", *mine.secret()).split()
    factor = said[said.index("codes:") + 1]
    drives = {each["name"]: bytes.fromhex(each["id"]) for each in mine.ask("drives", "list")["drives"]}
    files = write_files(running, mine, drives["accounting"])
    with psycopg.connect(running.conninfo) as connection:
        sealed = connection.execute("SELECT uuid, sealed FROM drive").fetchall()
    logins = [each.logins.load(mine.hub) for each in (mine, other)]
    root = logins[0].account_root
    drive_keys = [AccountKeys(root).open_drive(bytes(uuid), bytes(each)).key for uuid, each in sealed]
    secrets = [root, shown_key(running), base64.b32decode(factor), *drive_keys]
    secrets += [each.token for each in logins]
    pieces = [data[at : at + 32] for data in files for at in range(0, len(data) - 32, 4999)]
    kept = rows(running)
    on_nodes = b"".join(data for node in running.nodes.values() for data in node.objects.values())
    assert mine.email.encode() in kept, "the rows are there"
    assert all(uuid.hex().encode() in kept for uuid in drives.values()), "bytes are seen in them"
    assert len(on_nodes) > 50_000, "the blocks are there"
    for each in (*secrets, *pieces, *(text.encode() for text in (*SAID, mine.recovery, factor))):
        assert each not in on_nodes
        assert each not in kept
        assert each.hex().encode() not in kept
        assert base64.b64encode(each).rstrip(b"=")[:-1] not in kept
