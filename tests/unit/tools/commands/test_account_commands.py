"""`drivefs login`, `logout`, `account`, `devices` and `drives`, as people and programs type them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import psycopg
import pyotp
import pytest

from backend.errors import (
    ConflictError,
    CorruptError,
    ExpiredError,
    NotFoundError,
    ReadOnlyError,
    ThrottledError,
    TransientError,
    UsageError,
    WrongKeyError,
)
from tests.hub_machine import PASSPHRASE, Machine
from tests.hub_server import RunningHub, hub_for_test
from tests.terminal import converse
from tools.hub.drives import Address

_NUMBERS = count()


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@pytest.fixture
def machine(
    running: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Machine:
    """Without an account yet."""
    (tmp_path / "first").mkdir()
    email = f"somebody{next(_NUMBERS)}@example.org"
    return Machine(tmp_path / "first", running.url, email, monkeypatch, capsys)


@pytest.fixture
def mine(machine: Machine) -> Machine:
    """With one."""
    machine.create("--name", "laptop")
    return machine


def refused(error: type[Exception], machine: Machine, *words: str, match: str | None = None) -> None:
    with pytest.raises(error, match=match):
        machine.run(*words)


def test_an_account_is_made_and_used_by_two_machines(machine: Machine) -> None:
    said = machine.create("--name", "laptop")
    assert machine.recovery not in said
    assert "(laptop)" in said
    assert (machine.folder / "recovery").stat().st_mode & 0o077 == 0
    other = machine.another("second")
    other.log_in(PASSPHRASE, "--name", "desktop é")
    listed = machine.ask("devices", "list")["devices"]
    assert [(each["name"], each["is_this"]) for each in listed] == [("laptop", True), ("desktop é", False)]
    machine.run("drives", "create", "photos")
    (drive,) = other.ask("drives", "list")["drives"]
    assert (drive["name"], drive["bytes"], drive["commits"]) == ("photos", 0, 0)
    assert "photos" in other.run("drives", "list")
    assert machine.logins.load(machine.hub).account_root == other.logins.load(machine.hub).account_root


def test_the_recovery_key_logs_in_too(mine: Machine) -> None:
    other = mine.another("second")
    other.log_in(mine.recovery.lower())
    assert other.ask("account", "show")["email"] == mine.email


def test_what_is_wrong_is_told(mine: Machine) -> None:
    other = mine.another("second")
    words = ["login", mine.hub, "--email", mine.email]
    refused(WrongKeyError, other, *words, *other.secret("wrong"), match="no account has this address")
    for _ in range(4):
        refused(WrongKeyError, other, *words, *other.secret("wrong"))
    refused(ThrottledError, other, *words, *other.secret(), match="try again in 3600 s")
    refused(UsageError, other, "drives", "list", match="logged in at no hub")
    refused(NotFoundError, other, "drives", "list", "--hub", mine.hub, match="has no login")
    refused(UsageError, mine, *words, *mine.secret(), match=f"is logged in at {mine.hub} as {mine.email}")
    refused(UsageError, other, "login", "http://hub.example", "--email", "x", *other.secret(), match="TLS")
    assert other.logins.all() == []


def test_an_address_that_has_an_account_leaves_no_recovery_key_behind(mine: Machine) -> None:
    other = mine.another("second")
    with pytest.raises(ConflictError, match="has an account already"):
        other.create()
    assert not (other.folder / "recovery").exists()
    assert other.logins.all() == []


def test_no_account_is_made_where_its_recovery_key_has_no_place(machine: Machine) -> None:
    words = ["account", "create", machine.hub, "--email", machine.email, *machine.secret()]
    refused(UsageError, machine, *words, match="--recovery-file")
    (machine.folder / "recovery").write_text("there is something")
    with pytest.raises(FileExistsError):
        machine.create()
    with pytest.raises(WrongKeyError):
        machine.log_in()


def test_drives_are_created_renamed_and_deleted(mine: Machine) -> None:
    for name in ("photos", "notes"):
        mine.run("drives", "create", name)
    refused(UsageError, mine, "drives", "create", "photos", match="already")
    refused(UsageError, mine, "drives", "rename", "photos", "notes", match="already")
    refused(UsageError, mine, "drives", "create", "a/b", match="no slash")
    mine.run("drives", "rename", "photos", "pictures")
    found = {each["name"]: each["id"] for each in mine.ask("drives", "list")["drives"]}
    assert found.keys() == {"pictures", "notes"}
    mine.run("drives", "delete", found["pictures"])
    mine.run("drives", "delete", "notes")
    refused(NotFoundError, mine, "drives", "delete", "notes", match="no drive notes")
    assert mine.ask("drives", "list") == {"drives": []}


def test_a_device_is_renamed_revoked_and_shut_out(mine: Machine) -> None:
    other = mine.another("second")
    other.log_in()
    number = str(other.logins.load(mine.hub).device)
    mine.run("devices", "rename", number, "lost phone")
    assert "lost phone" in other.run("devices", "list")
    mine.run("devices", "revoke", number)
    assert [bool(each["revoked"]) for each in mine.ask("devices", "list")["devices"]] == [False, True]
    refused(ReadOnlyError, other, "drives", "list", match="does not know this device")
    other.log_in()
    assert len(other.ask("devices", "list")["devices"]) == 3
    refused(NotFoundError, mine, "devices", "revoke", "999999", match="no such device")


def test_a_machine_gets_another_token(mine: Machine) -> None:
    before = mine.logins.load(mine.hub)
    mine.run("devices", "rotate")
    after = mine.logins.load(mine.hub)
    assert (after.device, after.account_root) == (before.device, before.account_root)
    assert after.token != before.token
    mine.run("drives", "list")
    mine.logins.save(before)
    refused(ReadOnlyError, mine, "drives", "list")


def test_a_login_that_was_not_used_for_90_days_says_what_to_do(running: RunningHub, mine: Machine) -> None:
    with psycopg.connect(running.conninfo) as connection:
        moved = (
            "UPDATE device SET seen = now() - interval '91 days', heard = now() - interval '91 days'"
            " WHERE id = %s"
        )
        connection.execute(moved, (mine.logins.load(mine.hub).device,))
    refused(ExpiredError, mine, "drives", "list", match="not used for too long; drivefs login again")
    mine.log_in()
    assert mine.ask("drives", "list") == {"drives": []}
    old, this = mine.run("devices", "list").splitlines()
    assert ", expired " in old
    assert this.endswith("this machine")
    other = mine.another("second")
    other.log_in()
    assert ", expires " in mine.run("devices", "list").splitlines()[2]


def test_a_logout_ends_the_device(mine: Machine) -> None:
    other = mine.another("second")
    other.log_in()
    token = mine.logins.load(mine.hub)
    assert "logged out" in mine.run("logout")
    assert mine.logins.all() == []
    assert [bool(each["revoked"]) for each in other.ask("devices", "list")["devices"]] == [True, False]
    mine.logins.save(token)
    mine.run("logout", "--hub", mine.hub)
    assert mine.logins.all() == []


def test_a_hub_that_is_away_keeps_nobody_logged_in_here(mine: Machine) -> None:
    login = replace(mine.logins.load(mine.hub), url="http://127.0.0.1:1")
    mine.logins.save(login)
    refused(UsageError, mine, "drives", "list", match="--hub")
    refused(TransientError, mine, "logout", "--hub", login.url, match="--forget")
    mine.run("logout", "--hub", login.url, "--forget")
    assert [each.url for each in mine.logins.all()] == [mine.hub]


def test_another_passphrase_and_another_recovery_key(mine: Machine) -> None:
    old = mine.recovery
    mine.run("account", "passphrase", *mine.secret(old), *mine.secret("another one", "new-passphrase"))
    new = f"{mine.folder}/new-recovery"
    mine.run("account", "recovery", *mine.secret("another one"), "--recovery-file", new)
    for number, text in enumerate(("another one", Path(new).read_text().strip())):
        mine.another(f"good{number}").log_in(text)
    for number, text in enumerate((PASSPHRASE, old)):
        with pytest.raises(WrongKeyError):
            mine.another(f"bad{number}").log_in(text)
    assert mine.ask("account", "show")["email"] == mine.email, "devices stay"


def test_a_recovery_key_that_the_hub_did_not_take_is_not_left_behind(mine: Machine) -> None:
    """Somebody would print and keep it."""
    new = mine.folder / "new-recovery"
    words = ("account", "recovery", "--recovery-file", str(new))
    refused(WrongKeyError, mine, *words, *mine.secret("not it"))
    assert not new.exists()
    mine.run(*words, *mine.secret())
    mine.another("second").log_in(new.read_text().strip())


def test_the_address_of_a_new_drive_is_one_that_mount_takes(mine: Machine) -> None:
    said = mine.run("drives", "create", "what? 100% mine")
    (address,) = [word for word in said.split() if word.startswith("http")]
    assert Address.parse(address) == Address(mine.hub, "what? 100% mine")


def test_a_proxy_is_one_without_a_password(machine: Machine) -> None:
    """Everybody who lists processes would read it."""
    words = ("login", machine.hub, "--email", machine.email, *machine.secret(), "--proxy")
    for proxy in ("http://me:secret@proxy:3128", "proxy:3128", "socks5://proxy"):
        refused(UsageError, machine, *words, proxy, match="without a password")


def test_who_types_no_address_is_told_so(machine: Machine) -> None:
    machine.shell.setenv("DRIVEFS_STATE_DIR", str(machine.folder / "state"))
    code, said = converse("tools.drivefs", ["login", machine.hub], ["\x04"])
    assert (code, "no address was typed" in said, "Traceback" in said) == (2, True, False), said


def test_a_second_factor_is_asked_for(mine: Machine) -> None:
    said = mine.run("account", "totp", "on", *mine.secret()).split()
    codes = pyotp.TOTP(said[said.index("codes:") + 1])
    now = int(time.time())
    mine.run("account", "totp", "confirm", *mine.secret(codes.at(now - 30), "code"))
    assert mine.ask("account", "show")["has_factor"] is True
    other = mine.another("second")
    with pytest.raises(UsageError, match="no terminal to ask at"):
        other.log_in()
    other.log_in(PASSPHRASE, *other.secret(codes.at(now), "code"))
    refused(UsageError, mine, "account", "totp", "on", *mine.secret(), match="second factor already")
    mine.run("account", "totp", "off", *mine.secret(mine.recovery))
    mine.another("third").log_in()


def test_the_account_is_shown_exported_and_deleted(mine: Machine) -> None:
    mine.run("drives", "create", "photos")
    assert f"{mine.email} at {mine.hub}" in mine.run("account", "show")
    exported = json.loads(mine.run("account", "export"))
    assert exported["email"] == mine.email
    assert [each["name"] for each in exported["devices"]] == ["laptop"]
    assert [each["name"] for each in exported["drives"]] == ["photos"]
    refused(UsageError, mine, "account", "delete", "other@example.org", *mine.secret(), match=mine.email)
    refused(WrongKeyError, mine, "account", "delete", mine.email, *mine.secret("wrong"))
    mine.run("account", "delete", mine.email, *mine.secret())
    assert mine.logins.all() == []
    with pytest.raises(WrongKeyError):
        mine.log_in()


@pytest.mark.parametrize("call", ["devices", "drives"])
def test_a_hub_that_interchanges_names_is_found_out(running: RunningHub, mine: Machine, call: str) -> None:
    """Rows whose names were sealed for others have none."""
    mine.another("second").log_in(PASSPHRASE, "--name", "desktop")
    for name in ("photos", "notes"):
        mine.run("drives", "create", name)
    table, column = ("device", "sealed_name") if call == "devices" else ("drive", "sealed")
    swap = (
        f"UPDATE {table} a SET {column} = b.{column} FROM {table} b, account c"
        " WHERE c.email = %s AND a.account = c.id AND b.account = c.id AND a.id <> b.id"
    )
    with psycopg.connect(running.conninfo) as connection:
        connection.execute(swap.encode(), (mine.email,))
    assert [each["name"] for each in mine.ask(call, "list")[call]] == [None, None]
    assert mine.run(call, "list").count("(no name)") == 2


def test_a_login_that_is_damaged_is_made_anew(mine: Machine) -> None:
    (path,) = (mine.folder / "state" / "hubs").glob("*/login")
    path.write_bytes(b"rot")
    refused(CorruptError, mine, "drives", "list", match="log in anew: drivefs login")
    mine.log_in()
    assert mine.ask("drives", "list") == {"drives": []}


def test_a_person_at_a_terminal_is_asked(machine: Machine) -> None:
    """No answer is echoed but the address; the recovery key is shown once, and opens the account."""
    machine.shell.setenv("DRIVEFS_STATE_DIR", str(machine.folder / "state"))
    words = ["account", "create", machine.hub]
    code, said = converse("tools.drivefs", words, [machine.email, PASSPHRASE, PASSPHRASE])
    assert code == 0, said
    assert PASSPHRASE not in said
    (recovery,) = [line.strip() for line in said.splitlines() if line.strip().startswith("DRIVEFS-")]
    machine.another("second").log_in(recovery)
    machine.shell.setenv("DRIVEFS_STATE_DIR", str(machine.folder / "state"))
    code, said = converse("tools.drivefs", ["account", "totp", "on"], [PASSPHRASE, "000000"])
    assert (code, "the code is wrong" in said) == (1, True)
    third = machine.another("third")
    machine.shell.setenv("DRIVEFS_STATE_DIR", str(third.folder / "state"))
    code, said = converse("tools.drivefs", ["login", machine.hub], [machine.email, PASSPHRASE])
    assert code == 0, said
    assert third.logins.load(machine.hub).email == machine.email
