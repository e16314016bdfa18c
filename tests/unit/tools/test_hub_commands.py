"""`drivefs-hub`: what it makes, what it refuses, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from backend.errors import NotFoundError, UsageError
from backend.hub import hub_file
from tests.postgres import new_database
from tests.servers import NoServerError
from tools import errors
from tools.errors import COMMAND_CODES
from tools.hub_server import main
from tools.hub_server.main import hub

ROOT = Path(__file__).parents[3]


@pytest.fixture
def database() -> str:
    try:
        return new_database()
    except NoServerError as error:
        pytest.skip(str(error))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "hub"


def init(folder: Path, database: str, *more: str) -> int:
    return hub(["init", str(folder), "--url", "https://hub.example", "--database", database, *more])


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and the one line of a refusal."""
    code = errors.call("drivefs-hub", COMMAND_CODES, hub, arguments)
    (line,) = capsys.readouterr().err.splitlines()
    return code, line


def test_a_new_hub_has_its_file_secrets_nodes_and_schema(folder: Path, database: str) -> None:
    assert init(folder, database, "--profile", "2+1") == 0
    made = hub_file.load(str(folder / "hub.toml"))
    assert str(made.profile) == "2+1"
    assert [node.name for node in made.nodes] == ["node0", "node1", "node2"]
    assert not made.is_sign_up_open
    for name in ("hub.toml", "pack.key", "pepper"):
        assert stat.S_IMODE(os.stat(folder / name).st_mode) == 0o600
    keys = {hub_file.read_secret(str(folder / name)) for name in ("pack.key", "pepper")}
    assert len(keys) == 2
    for node in made.nodes:
        assert node.place(str(folder)).identity(node.name).drive_id == made.id
    assert hub(["migrate", str(folder)]) == 0
    assert hub(["check", str(folder)]) == hub(["check", str(folder), "--data", "--repair"]) == 0


def test_a_hub_is_made_once(folder: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert init(folder, database) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    with pytest.raises(UsageError, match="exists; a hub is made once"):
        init(folder, database)
    (folder / "hub.toml").rename(folder / "other.toml")
    with pytest.raises(UsageError, match="exists; a hub is made once"):
        init(folder, database)
    (folder / "other.toml").rename(folder / "hub.toml")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_database_that_another_hub_uses_is_refused(tmp_path: Path, database: str) -> None:
    assert init(tmp_path / "one", database) == 0
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO account (email) VALUES ('a@example.org')")
    with pytest.raises(UsageError, match="another hub's"):
        init(tmp_path / "two", database)
    assert not (tmp_path / "two" / "hub.toml").exists()
    assert not (tmp_path / "two" / "pack.key").exists()


def test_what_cannot_be_a_hub_is_refused_before_anything_is_written(
    tmp_path: Path, folder: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def tried(*more: str, url: str = "https://hub.example") -> tuple[int, str]:
        return refused(["init", str(folder), "--url", url, "--database", database, *more], capsys)

    code, line = tried(url="hub.example")
    assert (code, "must be like https://hub.example" in line) == (2, True)
    code, line = tried("--listen", "nowhere")
    assert (code, "listen must be HOST:PORT" in line) == (2, True)
    code, line = tried("--node", str(tmp_path / "n"), "--node", str(tmp_path / "n"))
    assert (code, "the same folder is given" in line) == (2, True)
    code, line = tried("--node", str(tmp_path / "n"))
    assert (code, "the profile needs 6 nodes" in line) == (2, True)
    full = tmp_path / "full"
    full.mkdir()
    (full / "thing").touch()
    code, line = tried("--profile", "copies:1", "--node", str(full))
    assert (code, "is not empty" in line) == (1, True)
    assert not (folder / "hub.toml").exists()
    assert not (folder / "pack.key").exists()


def test_a_database_that_is_away_is_told_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = refused(
        ["init", str(folder), "--url", "http://h", "--database", f"host={tmp_path}/none dbname=x"], capsys
    )
    assert (code, line.startswith("drivefs-hub: the database: ")) == (1, True)


def test_no_hub_and_a_database_without_schema_are_told(folder: Path, database: str) -> None:
    with pytest.raises(NotFoundError, match="there is no hub here"):
        hub(["check", str(folder)])
    assert init(folder, database) == 0
    with psycopg.connect(database) as connection:
        connection.execute("DELETE FROM schema_migration")
    code = errors.call("drivefs-hub", COMMAND_CODES, hub, ["account", "list", str(folder)])
    assert code == 1


@pytest.mark.logs_warnings
def test_lost_fragments_make_the_check_fail_until_they_are_repaired(folder: Path, database: str) -> None:
    assert init(folder, database, "--profile", "copies:3") == 0
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO account (email) VALUES ('a@example.org')")
        connection.execute("INSERT INTO drive (uuid, account) SELECT %s, id FROM account", (bytes(16),))
        connection.execute(
            "INSERT INTO pack (id, drive, size, nodes) SELECT %s, id, 999, %s FROM drive",
            (bytes(16), ["node0", "node1", "node2"]),
        )
    assert hub(["check", str(folder)]) == 1
    assert hub(["check", str(folder), "--repair"]) == 1


def test_accounts_are_invited_listed_locked_and_ended(
    folder: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(folder, database) == 0
    capsys.readouterr()

    def account(*arguments: str) -> str:
        """What the command says."""
        name, *rest = arguments
        assert hub(["account", name, str(folder), *rest]) == 0
        return capsys.readouterr().out

    said = account("add", "B@example.org")
    assert re.fullmatch(r"B@example.org may sign up with the invitation [0-9a-f]{32}\n", said)
    account("add", "a@example.org")
    assert [line.split()[0] for line in account("list").splitlines()] == ["a@example.org", "b@example.org"]
    assert account("list").count("  invited") == 2
    account("lock", "a@example.org")
    account("lock", "a@example.org")
    assert "  locked" in account("list")
    account("unlock", "a@example.org")
    assert "  locked" not in account("list")
    account("delete", "a@example.org")
    (left,) = json.loads(account("list", "--json"))["accounts"]
    assert (left["email"], left["is_invited"], left["bytes"]) == ("b@example.org", True, 0)
    for name in ("lock", "unlock", "delete"):
        with pytest.raises(NotFoundError, match="no such account"):
            hub(["account", name, str(folder), "a@example.org"])


def test_a_quota_is_shown_and_changed(
    folder: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(folder, database) == 0
    for email in ("0@example.org", "a@example.org", "z@example.org"):
        assert hub(["account", "add", str(folder), email]) == 0
    capsys.readouterr()
    assert hub(["quota", str(folder), "a@example.org"]) == 0
    assert capsys.readouterr().out == "a@example.org: 0 B of 9.3 GiB\n"
    assert hub(["quota", str(folder), "a@example.org", "50G"]) == 0
    assert capsys.readouterr().out == "a@example.org: 0 B of 50.0 GiB\n"
    with pytest.raises(NotFoundError):
        hub(["quota", str(folder), "b@example.org", "50G"])
    with pytest.raises(UsageError):
        hub(["quota", str(folder), "a@example.org", "much"])
    capsys.readouterr()
    assert hub(["quota", str(folder), "z@example.org"]) == 0
    assert capsys.readouterr().out == "z@example.org: 0 B of 9.3 GiB\n"


def test_the_packages_that_it_cannot_do_without_are_those_of_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[>=<]", each)[0] for each in project["optional-dependencies"]["hub"]}
    assert names - {"uvloop"} == main.EXTRA


def test_without_the_extra_it_is_said_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(_name: str) -> object:
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")

    monkeypatch.setattr(main, "import_module", absent)
    code, line = refused(["check", "x"], capsys)
    assert (code, line.endswith("pip install 'drivefs[hub]' brings what a hub needs")) == (1, True)
