"""docs/hub.md, Backup: a dump of the database, the nodes and the two secrets are a hub again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.hub_process import HubProcess, hub_process
from tests.postgres import new_database


@pytest.fixture
def hub(tmp_path: Path) -> HubProcess:
    return hub_process(tmp_path, "--profile", "2+1")


def program(name: str) -> str:
    return str(sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))[-1])


def put(hub: HubProcess, drive: tuple[bytes, bytes]) -> tuple[str, bytes]:
    """A new block: its URL and its bytes."""
    uuid, token = drive
    url, data = f"{hub.url}/v1/drives/{uuid.hex()}/blocks/{os.urandom(32).hex()}", os.urandom(9999)
    answer = httpx.put(url, content=data, headers={"Authorization": f"Bearer {token.hex()}"})
    assert answer.status_code == 204
    return url, data


def test_a_dump_and_the_nodes_are_a_hub_again(hub: HubProcess, tmp_path: Path) -> None:
    drive = hub.new_drive()
    header = {"Authorization": f"Bearer {drive[1].hex()}"}
    with hub.serving():
        before, data = put(hub, drive)
        dump = tmp_path / "dump"
        subprocess.run([program("pg_dump"), "-Fc", "-f", dump, hub.conninfo], check=True)
        after, _ = put(hub, drive)
    restored = new_database()
    subprocess.run([program("pg_restore"), "--no-owner", "-d", restored, dump], check=True)
    path = hub.hub / "hub.toml"
    path.write_text(path.read_text().replace(hub.conninfo, restored))
    code, said = hub.run("check", str(hub.hub), "--data", "--repair")
    assert (code, "note: 1 packs on the nodes are not in the database" in said) == (0, True)
    with hub.serving():
        assert httpx.get(before, headers=header).content == data
        assert httpx.get(after, headers=header).status_code == 404
        put(hub, drive)
    assert hub.run("check", str(hub.hub), "--data")[0] == 0
