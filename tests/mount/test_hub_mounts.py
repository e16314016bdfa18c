"""Two machines that mount one drive at a real hub, through the kernel."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import pytest

from backend.remote import Logins
from tests.contents import KINDS, STORED_KINDS, content
from tests.mount.hub_mounts import Account, Away, HubMachine, soon
from tests.mount.mounted import differences, run, succeed
from tools.host import mounts

pytestmark = pytest.mark.mount
SECOND = 1.0


@pytest.fixture
def pair(account: Account) -> Iterator[tuple[HubMachine, HubMachine]]:
    """Two machines with the drive mounted."""
    with account.machine() as first, account.machine() as second:
        first.mount()
        second.mount()
        yield first, second


@pytest.mark.alone
def test_what_one_does_the_other_sees_within_a_second(pair: tuple[HubMachine, HubMachine]) -> None:
    first, second = pair
    one, other = first.mountpoint, second.mountpoint
    soon(other.is_dir)
    for number, kind in enumerate(KINDS):
        data = content(kind, 50_000 * (number + 1), number)
        for each in (data, data[::-1]):
            (one / kind).write_bytes(each)
            assert soon(partial(second.has, kind, each)) < SECOND
        (one / kind).rename(one / f"{kind}.moved")
        assert soon(partial(second.has, f"{kind}.moved", data[::-1])) < SECOND
        assert soon(partial(second.lacks, kind)) < SECOND
    for kind in KINDS:
        (one / f"{kind}.moved").unlink()
    assert soon(lambda: [*other.iterdir()] == []) < SECOND


def test_a_machine_that_comes_later_reads_it_all(account: Account) -> None:
    with account.machine() as first, account.machine() as second:
        first.mount()
        source = first.mountpoint
        (source / "folder").mkdir()
        for number, kind in enumerate(KINDS):
            (source / "folder" / kind).write_bytes(content(kind, 700_000, number))
        os.link(source / "folder" / "text", source / "second name")
        os.symlink("folder/text", source / "link")
        os.setxattr(source / "folder", "user.colour", b"green")
        succeed(first.tool("drivefs", "sync", source))
        second.mount()
        assert differences(source, second.mountpoint) == ""
        second.umount()
        first.umount()
        second.mount()
        assert second.has("folder/log", content("log", 700_000, KINDS.index("log")))


def journaled(machine: HubMachine) -> bytes:
    """All that its journals hold, of sizes that may be any."""
    files = sorted((machine.state).glob("*/journal/*"))
    return b"".join(file.read_bytes().rstrip(b"\0") for file in files if file.is_file())


def test_a_mount_that_only_reads_follows_and_writes_nothing(account: Account) -> None:
    """Whatever the kernel remembered; and it is no device of the drive."""
    with account.machine() as writer, account.machine() as reader:
        writer.mount()
        one, other = writer.mountpoint, reader.mountpoint
        contents = {kind: content(kind, 200_000, number) for number, kind in enumerate(KINDS)}
        for kind, data in contents.items():
            (one / kind).write_bytes(data)
        (one / "folder").mkdir()
        writer.sync()
        for _ in range(2):
            reader.mount("ro")
            assert all(reader.has(kind, data) for kind, data in contents.items())
            assert sorted(os.listdir(other)) == sorted([*KINDS, "folder"])
            before = journaled(reader)
            with (other / "text").open("rb") as opened:
                for kind, data in contents.items():
                    contents[kind] = data[::-1]
                    (one / f"{kind}.new").write_bytes(contents[kind])
                    (one / f"{kind}.new").rename(one / kind)
                os.rename(one / "folder", one / "moved")
                for kind, data in contents.items():
                    soon(partial(reader.has, kind, data))
                soon(partial(reader.lacks, "folder"))
                assert (other / "moved").is_dir()
                os.rename(one / "moved", one / "folder")
                soon(partial(reader.lacks, "moved"))
                assert opened.read() == contents["text"][::-1]
            with pytest.raises(OSError, match="Read-only"):
                (other / "h").mkdir()
            assert journaled(reader) == before
            assert differences(one, other) == ""
            reader.umount()
        listed = json.loads(succeed(writer.tool("drivefs", "device", "list", "--json", one)))
        assert len(listed["devices"]) == 1


def test_edits_that_conflict_give_one_copy_that_both_have(pair: tuple[HubMachine, HubMachine]) -> None:
    first, second = pair
    (first.mountpoint / "f").write_bytes(b"base")
    soon(lambda: second.has("f", b"base"))
    edits = [f"from {number}".encode() * 10 for number in (1, 2)]
    for machine, data in zip(pair, edits, strict=True):
        (machine.mountpoint / "f").write_bytes(data)

    def states() -> list[dict[str, bytes]]:
        return [{path.name: path.read_bytes() for path in each.mountpoint.iterdir()} for each in pair]

    def is_settled() -> bool:
        one, other = states()
        return one == other and len(one) == 2

    soon(is_settled)
    shown = states()[0]
    (copy,) = [name for name in shown if "(conflict 20" in name]
    assert sorted(shown) == sorted(["f", copy])
    assert sorted(shown.values()) == sorted(edits)


def test_a_machine_that_is_killed_loses_nothing_that_it_synced(
    pair: tuple[HubMachine, HubMachine],
) -> None:
    first, second = pair
    data = content("half-compressible", 300_000, 5)
    descriptor = os.open(first.mountpoint / "synced", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, data)
    os.fsync(descriptor)
    first.kill()
    with pytest.raises(OSError, match="not connected"):
        os.close(descriptor)
    (second.mountpoint / "meanwhile").write_bytes(b"by the other")
    first.remount()
    assert first.has("synced", data)
    soon(lambda: second.has("synced", data))
    soon(lambda: first.has("meanwhile", b"by the other"))


@pytest.mark.logs_warnings  # of the hub, whose polls are cut off
def test_while_the_hub_is_away_both_go_on_and_meet_when_it_is_back(
    hub: Away, pair: tuple[HubMachine, HubMachine]
) -> None:
    first, second = pair
    (first.mountpoint / "before").write_bytes(b"read before")
    soon(lambda: second.has("before", b"read before"))
    hub.stop()
    data = [content("text", 100_000, number) for number in (1, 2)]
    for machine, each, name in zip(pair, data, ("one", "two"), strict=True):
        machine.write_synced(name, each)
        assert machine.has(name, each)
        assert machine.has("before", b"read before")
        assert not machine.status().published
    refused = first.tool("drivefs", "sync", "--timeout", "2", first.mountpoint)
    assert refused.returncode == 1
    assert "hub" in refused.stderr or "no answer" in refused.stderr
    hub.start()
    for machine in pair:
        soon(partial(machine.has, "one", data[0]), 60)
        soon(partial(machine.has, "two", data[1]), 60)
        succeed(machine.tool("drivefs", "sync", machine.mountpoint))


@pytest.mark.logs_warnings  # of the hub, whose polls are cut off
def test_unmounting_while_the_hub_is_away_leaves_the_journal_and_says_so(
    hub: Away, pair: tuple[HubMachine, HubMachine]
) -> None:
    first, second = pair
    succeed(second.tool("drivefs", "sync", second.mountpoint))
    hub.stop()
    second.umount()  # nothing waits there
    (first.mountpoint / "f").write_bytes(b"in the journal")
    stays = first.tool("umount.drivefs", "--timeout", "2", first.mountpoint)
    assert (stays.returncode, "stays mounted" in stays.stderr) == (32, True)
    assert "the journal keeps what is not stored" in stays.stderr
    first.umount("-f")
    hub.start()
    first.mount()
    assert first.has("f", b"in the journal")
    second.mount()
    soon(lambda: second.has("f", b"in the journal"), 60)


@pytest.mark.logs_warnings  # of the hub, whose polls are cut off
def test_a_dead_mount_is_taken_away_and_its_journal_named(hub: Away, account: Account) -> None:
    """By what this machine knows of the drive: the hub is not asked."""
    with account.machine() as machine:
        machine.mount()
        (machine.mountpoint / "f").write_bytes(b"content")
        machine.kill()
        hub.stop()
        ended = machine.tool("umount.drivefs", machine.mountpoint)
        assert ended.returncode == 0, ended.stderr
        assert f"in the journal in {machine.state}" in ended.stderr
        hub.start()
        machine.mount()
        assert machine.has("f", b"content")


def test_a_dead_mount_whose_login_was_ended_is_taken_away_and_that_is_said(account: Account) -> None:
    with account.machine() as machine:
        machine.mount()
        machine.kill()
        (login,) = Logins(machine.state / "hubs").all()
        Logins(machine.state / "hubs").remove(login.url)
        ended = machine.tool("umount.drivefs", machine.mountpoint)
        assert ended.returncode == 32
        assert "unmounted, but nobody answered" in ended.stderr
        assert f"drivefs login {login.url}" in ended.stderr
        assert mounts.find(str(machine.mountpoint)) is None


def test_a_revoked_machine_writes_nothing_more_and_reads_on(
    account: Account, pair: tuple[HubMachine, HubMachine]
) -> None:
    first, second = pair
    (first.mountpoint / "f").write_bytes(b"content")
    soon(lambda: second.has("f", b"content"))
    account.revoke(second)
    (second.mountpoint / "g").write_bytes(b"too late")
    soon(lambda: second.status().fenced)
    with pytest.raises(OSError, match="Read-only"):
        (second.mountpoint / "h").mkdir()
    assert second.has("f", b"content")
    report = second.tool("drivefs", "status", second.mountpoint)
    assert (report.returncode, "does not know this device" in report.stdout) == (1, True)
    second.umount("-f")
    refused = second.try_mount()
    assert refused.returncode == 32
    assert "does not know this device" in refused.stderr
    assert first.has("f", b"content")
    assert first.lacks("g")


def test_fsck_tells_what_the_hub_has_lost_and_mends_what_is_here(hub: Away, account: Account) -> None:
    def fsck(*options: str) -> tuple[int, str]:
        ended = machine.tool("fsck.drivefs", *options, *machine.where(), machine.source)
        return ended.returncode, ended.stdout

    def change(statement: str) -> None:
        with psycopg.connect(hub.running.conninfo) as connection:
            found = "drive = (SELECT id FROM drive WHERE uuid = %(uuid)s)"
            connection.execute(statement.format(found).encode(), {"uuid": account.drive_id})

    def is_whole() -> None:
        code, said = fsck("-n", "--data")
        assert (code, said.endswith(" read: clean\n")) == (0, True)

    with account.machine() as machine:
        machine.mount()
        for number, kind in enumerate(STORED_KINDS):
            (machine.mountpoint / kind).write_bytes(content(kind, 300_000, number))
        machine.sync()
        machine.umount()
        is_whole()
        hub.stop()
        assert fsck("-n")[0] == 8
        hub.start()
        (namespace,) = machine.state.glob("*/namespace.db")
        namespace.write_bytes(namespace.read_bytes() + bytes(4096))
        assert fsck("-y")[0] == 1
        machine.mount()
        assert all(machine.has(kind, content(kind, 300_000, n)) for n, kind in enumerate(STORED_KINDS))
        machine.umount()
        change("UPDATE place SET position = position + 1 WHERE {}")
        code, said = fsck("-n", "--data")
        assert code == 4
        assert all(f"lost: /{kind}: 300000 bytes" in said for kind in STORED_KINDS)
        change("DELETE FROM place WHERE {}")
        code, said = fsck("-n")
        assert code == 4
        assert all(f"lost: /{kind}: 300000 bytes" in said for kind in STORED_KINDS)
        change("DELETE FROM commit WHERE {} AND number = 2")
        code, said = fsck("-n")
        assert code == 4
        assert "lost: the log cannot be read up to commit" in said


def test_a_logout_names_the_mounts_that_it_shuts_out_and_they_end_without_force(
    hub: Away, pair: tuple[HubMachine, HubMachine]
) -> None:
    first, second = pair
    (first.mountpoint / "f").write_bytes(b"content")
    soon(lambda: second.has("f", b"content"))
    logins = Logins(second.state / "hubs")
    (login,) = logins.all()
    device = hub.running.call(hub.running.hub.directory.device(login.token)).number
    logins.save(replace(login, device=device))
    said = second.tool("drivefs", "logout")
    assert said.returncode == 0
    assert f"{second.mountpoint}: this mount writes nothing more" in said.stderr
    soon(lambda: second.status().fenced)
    ended = second.tool("umount.drivefs", second.mountpoint)
    assert (ended.returncode, "nothing waits to be stored" in ended.stderr) == (0, True)


@pytest.mark.logs_warnings  # of the hub, whose polls are cut off
def test_what_cannot_be_mounted_is_said(hub: Away, account: Account) -> None:
    with account.machine() as machine:
        right = machine.source
        machine.source = f"{hub.url}/work"
        refused = machine.try_mount()
        assert refused.returncode == 32
        assert "no drive of this name; there is photos & more" in refused.stderr
        machine.source = "https://127.0.0.1:1/work"
        refused = machine.try_mount()
        assert refused.returncode == 32
        assert "drivefs login https://127.0.0.1:1" in refused.stderr
        machine.source = right
        assert machine.try_mount("key_file=/key").returncode == 1
        hub.stop()
        refused = machine.try_mount()
        assert refused.returncode == 32
        assert "does not answer" in refused.stderr
        hub.start()
        machine.mount()


def test_a_second_mount_is_another_place_or_another_device(account: Account) -> None:
    """With the same state folder it is one drive, shown twice; with another one a machine of its own."""
    with account.machine() as first, account.machine() as second:
        first.mount()
        beside = first.folder / "beside"
        beside.mkdir()
        if os.geteuid() == 0:
            succeed(first.try_mount(where=beside))
            (beside / "f").write_bytes(b"content")
            assert first.has("f", b"content")
            mounts.unmount(str(beside))
        refused = first.try_mount("verbose", where=beside)
        assert (refused.returncode, "already mounted" in refused.stderr) == (32, True)
        second.mount()


@pytest.mark.skipif(os.geteuid() != 0, reason="mount(8) is root's")
@pytest.mark.skipif(not Path("/sbin/mount.drivefs").exists(), reason="not in /sbin (make install-system)")
def test_a_line_of_fstab_is_mounted_by_mount(account: Account) -> None:
    with account.machine() as machine:
        table = machine.folder / "fstab"
        options = f"_netdev,nofail,upload_limit=100M,{machine.folder_options()}"
        table.write_text(f"{machine.source} {machine.mountpoint} drivefs {options} 0 0\n")
        for content_ in (b"first", b"second"):
            run("mount", "-a", "-T", table, env=machine.variables())
            run("mount", "-a", "-T", table, env=machine.variables())  # what is mounted is left alone
            (machine.mountpoint / "f").write_bytes(content_)
            run("umount", machine.mountpoint, env=machine.variables())
        run(
            "mount",
            "-t",
            "drivefs",
            machine.source,
            machine.mountpoint,
            "-o",
            machine.folder_options(),
            env=machine.variables(),
        )
        assert machine.has("f", b"second")
        machine.umount()


def test_nodes_are_the_hubs(pair: tuple[HubMachine, HubMachine]) -> None:
    first, _ = pair
    for command in (("scrub",), ("scrub", "--now"), ("repair",), ("node", "list"), ("node", "stop")):
        refused = first.tool("drivefs", *command, first.mountpoint)
        assert (refused.returncode in (1, 2), "hub" in refused.stderr) == (True, True), command
    refused = first.tool("fsck.drivefs", *first.where(), first.source)
    assert (refused.returncode, "in use" in refused.stderr) == (8, True)
    (first.mountpoint / "f").write_bytes(b"content")
    succeed(first.tool("drivefs", "sync", first.mountpoint))
    assert "clean" in succeed(first.tool("drivefs", "check", first.mountpoint))
    report = succeed(first.tool("drivefs", "status", first.mountpoint))
    assert "all is stored" in report
    assert first.source.rpartition("/")[0] in report
    succeed(first.tool("drivefs", "gc", first.mountpoint))


@pytest.mark.logs_warnings  # of the hub, whose polls are cut off
def test_a_machine_that_knows_the_drive_mounts_it_while_the_hub_is_away(
    hub: Away, pair: tuple[HubMachine, HubMachine]
) -> None:
    first, second = pair
    (first.mountpoint / "f").write_bytes(b"content")
    soon(lambda: second.has("f", b"content"))
    first.umount()
    hub.stop()
    told = first.try_mount()
    assert (told.returncode, "the drive is opened as this machine has it" in told.stderr) == (0, True)
    assert first.has("f", b"content")
    (first.mountpoint / "g").write_bytes(b"meanwhile")
    assert "hub" in first.tool("drivefs", "status", first.mountpoint).stdout
    hub.start()
    soon(lambda: second.has("g", b"meanwhile"), 60)
