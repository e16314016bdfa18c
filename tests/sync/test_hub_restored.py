"""docs/hub.md: a dump of the database, the nodes and the secrets are a hub again, which is not served before
its database was checked; a lost node is rebuilt."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import psycopg
import pytest

from tests import contents, plain_http
from tests.contents import KINDS
from tests.drives import content_of, make_file, tree
from tests.hub_process import HubProcess, hub_process
from tests.postgres import (
    ARCHIVING,
    base_backup,
    cluster,
    dump,
    new_database,
    recover,
    restore_point,
    restored,
)
from tests.servers import NoServerError
from tests.sync.test_drives_on_a_hub import Devices, settle


@pytest.fixture
def hub(tmp_path: Path) -> HubProcess:
    return hub_process(tmp_path, "--profile", "2+1")


def put(hub: HubProcess, drive: tuple[bytes, bytes]) -> tuple[str, bytes]:
    """A new block: its URL and its bytes."""
    uuid, token = drive
    url, data = f"{hub.url}/v1/drives/{uuid.hex()}/blocks/{os.urandom(32).hex()}", os.urandom(9999)
    answer = plain_http.put(url, content=data, headers={"Authorization": f"Bearer {token.hex()}"})
    assert answer.status_code == 204
    return url, data


def serve_from(hub: HubProcess, conninfo: str) -> None:
    """`hub.toml` names another database."""
    path = hub.hub / "hub.toml"
    path.write_text(path.read_text().replace(hub.conninfo, conninfo))
    hub.conninfo = conninfo


def refuses(hub: HubProcess) -> bool:
    """Whether the hub is not served, and says what to do."""
    code, said = hub.run("serve", str(hub.hub))
    return code == 1 and "drivefs-hub check --after-restore" in said


def test_a_dump_and_the_nodes_are_a_hub_again(hub: HubProcess, tmp_path: Path) -> None:
    drive = hub.new_drive()
    header = {"Authorization": f"Bearer {drive[1].hex()}"}
    with hub.serving():
        before, data = put(hub, drive)
        path = dump(hub.conninfo, tmp_path / "dump")
        after, later = put(hub, drive)
    serve_from(hub, restored(path))
    for _ in range(2):
        assert refuses(hub)
    code, said = hub.run("check", str(hub.hub), "--after-restore", "--data", "--repair")
    assert (code, "1 blocks are in the database again" in said) == (0, True)
    with hub.serving():
        for url, expected in ((before, data), (after, later)):
            assert plain_http.get(url, headers=header).content == expected
        put(hub, drive)
    assert hub.run("check", str(hub.hub), "--data")[0] == 0


def test_the_same_database_without_what_came_last_is_not_served(hub: HubProcess) -> None:
    """As of a standby that was behind."""
    for _ in range(3):
        with hub.serving():
            pass
    with psycopg.connect(hub.conninfo) as connection:
        connection.execute("UPDATE database_mark SET number = number - 1")
    assert refuses(hub)
    assert hub.run("check", str(hub.hub))[0] == 0
    assert refuses(hub)
    code, said = hub.run("check", str(hub.hub), "--repair")
    assert (code, "drivefs-hub check --after-restore" in said) == (1, True)
    assert hub.run("check", str(hub.hub), "--after-restore")[0] == 0
    assert hub.run("check", str(hub.hub), "--repair")[0] == 0
    with hub.serving():
        pass


def test_a_device_that_was_revoked_since_gets_nothing_where_all_logins_are_ended(
    hub: HubProcess, tmp_path: Path
) -> None:
    uuid, token = hub.new_drive()
    path = dump(hub.conninfo, tmp_path / "dump")
    serve_from(hub, restored(path))
    folder = str(hub.hub)
    assert hub.run("check", folder, "--end-logins")[0] == 2
    code, said = hub.run("check", folder, "--after-restore", "--end-logins")
    assert code == 0, said
    with hub.serving():
        header = {"Authorization": f"Bearer {token.hex()}"}
        assert plain_http.get(f"{hub.url}/v1/drives/{uuid.hex()}/head", headers=header).status_code == 401


def test_a_base_backup_is_recovered_to_a_moment_and_served_after_a_check(tmp_path: Path) -> None:
    """PostgreSQL's own backup: the same database of the same server, older."""
    try:
        source = cluster(ARCHIVING)
    except NoServerError as error:
        pytest.skip(str(error))
    hub = hub_process(tmp_path, "--profile", "2+1", conninfo=new_database(source))
    header = {"Authorization": f"Bearer {(drive := hub.new_drive())[1].hex()}"}
    backup = base_backup(source)
    with hub.serving():
        before, data = put(hub, drive)
        restore_point(source, "then")
    with hub.serving():
        after, later = put(hub, drive)
    recover(backup, source, "then")
    serve_from(hub, hub.conninfo.replace(source, backup))
    assert refuses(hub)
    code, said = hub.run("check", str(hub.hub), "--after-restore", "--data", "--repair")
    assert (code, "1 blocks are in the database again" in said) == (0, True)
    with hub.serving():
        for url, expected in ((before, data), (after, later)):
            assert plain_http.get(url, headers=header).content == expected


@pytest.mark.logs_warnings
async def test_a_check_that_was_killed_is_run_again_and_devices_of_two_processes_converge(
    hub: HubProcess, tmp_path: Path
) -> None:
    devices = Devices(hub, tmp_path)
    files = {kind.encode(): contents.content(kind, 60_000, 1) for kind in KINDS}
    with hub.serving():
        async with devices.device(1) as one, devices.device(2) as two:
            await make_file(one, b"f", b"before")
            await settle(one, two)
            path = dump(hub.conninfo, tmp_path / "dump")
            for name, data in files.items():
                await make_file(two, name, data)
                await two.sync()
            await settle(one, two)
    serve_from(hub, restored(path))
    command = ("check", str(hub.hub), "--after-restore")
    assert hub.run(*command, DRIVEFS_FAILPOINTS="restore.brought=kill*1")[0] == -signal.SIGKILL
    assert refuses(hub)
    assert hub.run(*command)[0] == 0
    with hub.serving(), hub.serving_beside() as beside:
        async with devices.device(2) as two:
            devices.url = beside
            async with devices.device(1) as one, devices.device(3) as three:
                await settle(one, two, three)
                assert await tree(one) == await tree(two) == await tree(three)
                for name, data in files.items():
                    assert await content_of(three, name) == data


@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["there", "elsewhere"])
def test_a_node_whose_disk_is_lost_is_replaced(hub: HubProcess, tmp_path: Path, is_elsewhere: bool) -> None:
    drive = hub.new_drive()
    header = {"Authorization": f"Bearer {drive[1].hex()}"}
    with hub.serving():
        url, data = put(hub, drive)
    folder = str(hub.hub)
    assert hub.run("check", folder, "--repair")[0] == 0
    shutil.rmtree(hub.hub / "node1")
    code, said = hub.run("check", folder, "--repair")
    assert (code, "left: node1: does not answer" in said) == (1, True)
    elsewhere = [str(tmp_path / "new" / "node1")] if is_elsewhere else []
    assert hub.run("node", "replace", folder, "node1", *elsewhere)[0] == 0
    assert hub.run("check", folder)[0] == 1
    code, said = hub.run("check", folder, "--repair")
    assert (code, "mended: pack " in said) == (0, True)
    assert "clean" in hub.run("check", folder, "--data")[1]
    shutil.rmtree(hub.hub / "node0")
    (hub.hub / "node0").mkdir()
    with hub.serving():
        assert plain_http.get(url, headers=header).content == data


def test_a_node_is_not_replaced_by_what_is_something_else(hub: HubProcess, tmp_path: Path) -> None:
    folder, before = str(hub.hub), (hub.hub / "hub.toml").read_bytes()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").touch()
    for name, place, words in (
        ("node9", "x", "no node is named node9; there are node0, node1, node2"),
        ("node1", folder + "/node0", "another node is there"),
        ("node1", str(tmp_path / "full"), "is not empty"),
    ):
        code, said = hub.run("node", "replace", folder, name, place)
        assert (code in (1, 2), words in said) == (True, True), said
    assert (hub.hub / "hub.toml").read_bytes() == before
