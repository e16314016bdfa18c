"""A drive at a hub by its address: one of those that the hub lists, or that this machine remembers."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backend import wire
from backend.errors import CorruptError, DriveError, NotFoundError, ReadOnlyError, TransientError, UsageError
from backend.keys import AccountKeys, DriveKeys, HubDrive
from backend.remote import BegunMove, BegunMoves, HubLogin, HubRoute, KnownDrives, ListedDrive, Logins
from backend.remote.account_drives import decode_drives, encode_drives
from backend.system import THIS_MACHINE
from tools.errors import ReportedError
from tools.host import places
from tools.hub.drives import Address, HubDrives
from tools.hub_address import drive_on_nodes, is_at_hub

ROOT = bytes(range(32))
ROWS = [ListedDrive(bytes(16), b"sealed"), ListedDrive(bytes(range(16)), b"")]


class Listing:
    """A hub that lists drives, or answers with a status."""

    def __init__(self) -> None:
        self.rows: list[ListedDrive] = []
        self.is_importing = False
        self.departure = 0
        self.nodes: bytes | None = b""
        """None: a hub that is older than this does not say"""
        self.status = 200
        self.body: bytes | None = None
        self.speaks = threading.Event()
        """while it is not set, nothing is answered"""
        self.speaks.set()
        listing = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listing.speaks.wait()
                body = listing.answer()
                self.send_response(listing.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self) -> bytes:
        drives = [
            {"uuid": row.uuid.hex(), "sealed": row.sealed.hex(), "bytes": 0, "head": 0}
            | ({} if self.nodes is None else {"nodes": self.nodes.hex()})
            for row in self.rows
        ]
        if self.is_importing:
            drives[0] |= {"importing": True, "departure": self.departure}
        return json.dumps({"drives": drives}).encode() if self.body is None else self.body

    def add(self, *names: str) -> None:
        """Drives of the account, of these names."""
        for name in names:
            uuid = os.urandom(16)
            sealed = AccountKeys(ROOT).seal_drive(uuid, HubDrive(name, os.urandom(32)))
            self.rows.append(ListedDrive(uuid, sealed))


@pytest.fixture
def hub() -> Iterator[Listing]:
    listing = Listing()
    thread = threading.Thread(target=listing.server.serve_forever, args=(0.01,))
    thread.start()
    yield listing
    listing.server.shutdown()
    thread.join()
    listing.server.server_close()


@pytest.fixture
def variables(hub: Listing, tmp_path: Path) -> dict[str, str]:
    """Of a machine that is logged in."""
    found = {"DRIVEFS_STATE_DIR": str(tmp_path)}
    Logins(places.hubs_folder(found)).save(HubLogin(hub.url, "me@example.org", bytes(32), ROOT, 1))
    return found


def found(
    hub: Listing, variables: dict[str, str], name: str, told: list[str], *, read_only: bool = False
) -> bytes:
    """The id of the drive."""
    address = Address.parse(f"{hub.url}/{name}")
    drive = HubDrives(address, variables, THIS_MACHINE).found(HubRoute(), told.append, read_only=read_only)
    assert drive.source == f"{hub.url}/{name}"
    return drive.drive_id


def test_a_drive_that_is_not_open_there_is_not_opened(hub: Listing, variables: dict[str, str]) -> None:
    hub.add("photos", "work")
    hub.is_importing = True
    for departure, said in enumerate(("not all of it has come", "--undo", "has moved from there")):
        hub.departure = departure
        with pytest.raises(UsageError, match=said):
            found(hub, variables, "photos", [])
    assert found(hub, variables, "work", []) == hub.rows[1].uuid
    hub.is_importing = False
    assert found(hub, variables, "photos", []) == hub.rows[0].uuid


def test_who_has_begun_to_move_it_is_told_which_folder_settles_that(
    hub: Listing, variables: dict[str, str]
) -> None:
    hub.add("photos")
    hub.is_importing, hub.departure, hub.nodes = True, 1, bytes(16)
    with pytest.raises(UsageError, match="--undo FOLDER settles it"):
        found(hub, variables, "photos", [])
    state = Path(places.state_folder(hub.rows[0].uuid.hex(), None, variables))
    state.mkdir()
    move = BegunMove(f"{hub.url}/photos", "/srv/my drive", bytes(16), bytes(16))
    BegunMoves(state).keep(move)
    with pytest.raises(UsageError, match="--undo '/srv/my drive' settles it"):
        found(hub, variables, "photos", [])
    hub.nodes = b"of another move!"
    with pytest.raises(UsageError, match="--undo FOLDER settles it"):
        found(hub, variables, "photos", [])


@pytest.mark.logs_warnings
def test_a_damaged_note_of_a_move_does_not_hide_why_a_drive_is_closed(
    hub: Listing, variables: dict[str, str]
) -> None:
    hub.add("photos")
    hub.is_importing, hub.departure = True, 1
    state = Path(places.state_folder(hub.rows[0].uuid.hex(), None, variables))
    state.mkdir()
    (state / "begun-move").write_bytes(b"damaged")
    with pytest.raises(UsageError, match="--undo FOLDER settles it"):
        found(hub, variables, "photos", [])


def test_an_older_hub_that_names_no_nodes_lists_drives(hub: Listing, variables: dict[str, str]) -> None:
    hub.add("photos")
    hub.nodes = None
    assert found(hub, variables, "photos", []) == hub.rows[0].uuid


def test_a_drive_that_moves_away_can_be_read_there(hub: Listing, variables: dict[str, str]) -> None:
    """Its nodes may be lost. One that is still coming is not whole, and what is closed is not remembered."""
    hub.add("photos")
    hub.is_importing = True
    with pytest.raises(UsageError, match="not all of it has come"):
        found(hub, variables, "photos", [], read_only=True)
    for hub.departure in (1, 2):
        assert found(hub, variables, "photos", [], read_only=True) == hub.rows[0].uuid
    with pytest.raises(NotFoundError):
        HubDrives(Address.parse(f"{hub.url}/photos"), variables, THIS_MACHINE).known()


def test_a_drive_is_found_by_its_name(hub: Listing, variables: dict[str, str]) -> None:
    hub.add("photos", "work", "Fotos & Töne")
    told: list[str] = []
    assert found(hub, variables, "work", told) == hub.rows[1].uuid
    assert found(hub, variables, "Fotos%20%26%20T%C3%B6ne", told) == hub.rows[2].uuid
    assert told == []


def test_its_key_is_the_one_that_was_sealed(hub: Listing, variables: dict[str, str]) -> None:
    hub.add("photos")
    key = AccountKeys(ROOT).open_drive(*hub.rows[0]).key
    address = Address.parse(f"{hub.url}/photos")
    told: list[str] = []
    drive = HubDrives(address, variables, THIS_MACHINE).found(HubRoute(), told.append)
    assert drive.keys.epoch == DriveKeys(key, drive.drive_id).epoch
    assert key.hex() not in repr(drive)


def test_where_there_is_none_of_that_name_those_that_are_there_are_named(
    hub: Listing, variables: dict[str, str]
) -> None:
    with pytest.raises(NotFoundError, match="none yet"):
        found(hub, variables, "photos", [])
    hub.add("b", "a")
    hub.rows.append(ListedDrive(os.urandom(16), b"of another account"))
    hub.rows.append(ListedDrive(os.urandom(16), b""))
    with pytest.raises(NotFoundError, match=r"there is a, b; the names of 2 cannot be opened"):
        found(hub, variables, "photos", [])


def test_two_drives_of_one_name_are_not_guessed_between(hub: Listing, variables: dict[str, str]) -> None:
    hub.add("photos", "photos")
    with pytest.raises(UsageError, match="2 drives"):
        found(hub, variables, "photos", [])


def test_while_the_hub_is_away_the_machine_knows_its_drives(hub: Listing, variables: dict[str, str]) -> None:
    told: list[str] = []
    hub.status = 503
    with pytest.raises(TransientError):
        found(hub, variables, "photos", told)
    hub.status = 200
    hub.add("photos")
    uuid = found(hub, variables, "photos", told)
    hub.status = 503
    assert told == []
    assert found(hub, variables, "photos", told) == uuid
    assert len(told) == 1
    assert HubDrives(Address.parse(f"{hub.url}/photos"), variables, THIS_MACHINE).known().drive_id == uuid


def test_a_hub_that_answers_nothing_is_not_waited_for(
    hub: Listing, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drive is that of the list which this machine saw last."""
    told: list[str] = []
    hub.add("photos")
    uuid = found(hub, variables, "photos", told)
    monkeypatch.setattr("tools.hub.drives.PATIENCE", 0.1)
    hub.speaks.clear()
    try:
        assert found(hub, variables, "photos", told) == uuid
    finally:
        hub.speaks.set()
    assert len(told) == 1


def test_a_machine_that_was_revoked_is_told_and_does_not_go_on(
    hub: Listing, variables: dict[str, str]
) -> None:
    hub.add("photos")
    found(hub, variables, "photos", [])
    hub.status = 401
    with pytest.raises(ReadOnlyError, match="does not know this device"):
        found(hub, variables, "photos", [])


@pytest.mark.parametrize("kind", wire.PROBLEMS)
def test_whatever_a_hub_answers_is_no_fault_of_the_program(
    hub: Listing, variables: dict[str, str], kind: str
) -> None:
    """Also what no honest hub answers to this."""
    hub.status, _ = wire.PROBLEMS[kind]
    hub.body = json.dumps({"type": f"{wire.PROBLEM}{kind}", "detail": "said", "blocks": ["00" * 32]}).encode()
    with pytest.raises(DriveError, match="the hub says") as raised:
        found(hub, variables, "photos", [])
    assert not isinstance(raised.value, ReportedError)


def test_without_a_login_the_command_is_named(hub: Listing, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"drivefs login {hub.url}"):
        found(hub, {"DRIVEFS_STATE_DIR": str(tmp_path)}, "photos", [])


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"drives": 5}',
        b'{"drives": [5]}',
        b'{"drives": [{"uuid": "00"}]}',
        b'{"drives": [{"uuid": "00", "sealed": "00"}]}',
        b'{"drives": [{"uuid": "zz", "sealed": "00"}]}',
        b'{"drives": [{"uuid": "%s", "sealed": "%s"}]}' % (b"00" * 16, b"00" * 5000),
        b'{"drives": [%s]}' % b",".join([b"0"] * 1001),
    ],
)
def test_what_is_no_list_is_refused(hub: Listing, variables: dict[str, str], body: bytes) -> None:
    hub.body = body
    with pytest.raises(CorruptError):
        found(hub, variables, "photos", [])


def test_the_kept_list_is_what_was_kept(tmp_path: Path) -> None:
    known = KnownDrives(tmp_path)
    assert known.load() == []
    for rows in (ROWS, ROWS[:1], []):
        known.keep(rows)
        assert known.load() == rows
    known.keep(ROWS)
    before = (tmp_path / "drives").stat().st_ino
    known.keep(ROWS)
    assert (tmp_path / "drives").stat().st_ino == before, "the same was written again"


@pytest.mark.parametrize("at", range(0, len(encode_drives(ROWS)), 3))
def test_a_kept_list_that_is_damaged_is_refused_and_replaced(tmp_path: Path, at: int) -> None:
    data = bytearray(encode_drives(ROWS))
    data[at] ^= 1
    with pytest.raises(DriveError):
        decode_drives(bytes(data))
    (tmp_path / "drives").write_bytes(bytes(data[: at + 1]))
    known = KnownDrives(tmp_path)
    with pytest.raises(CorruptError, match="made anew"):
        known.load()
    known.keep(ROWS)
    assert known.load() == ROWS


@pytest.mark.parametrize(
    "text",
    [
        "https://hub.example",
        "https://hub.example/",
        "https://hub.example/a/b",
        "https://hub.example/a?b",
        "https://hub.example/a#b",
        "http://hub.example/a",
        "https://me:secret@hub.example/a",
        "https:///a",
        "https://[/a",
    ],
)
def test_what_is_no_address_of_a_drive(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        Address.parse(text)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("https://Hub.Example:443/photos/", "https://hub.example/photos"),
        ("http://127.0.0.1:8080/x%20y", "http://127.0.0.1:8080/x%20y"),
        ("https://hub.example/Töne,leise", "https://hub.example/T%C3%B6ne%2Cleise"),
    ],
)
def test_an_address_is_written_in_one_way(text: str, source: str) -> None:
    assert Address.parse(text).source == source
    assert Address.parse(source) == Address.parse(text)


def test_commands_for_nodes_do_not_take_a_hub_for_a_folder() -> None:
    assert [is_at_hub(text) for text in ("https://h/x", "http://[::1]/x")] == [True, True]
    assert [is_at_hub(text) for text in ("/https:/x", "httpsfolder")] == [False, False]
    assert drive_on_nodes("/drive") == "/drive"
    with pytest.raises(UsageError, match="at a hub"):
        drive_on_nodes("https://hub.example/photos")
