"""backend.nodes.object_store.credentials: where they may be, and that no message holds any."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

import pytest

from backend.nodes import address
from backend.nodes.object_store import client, location, settings
from backend.nodes.object_store.credentials import CredentialsError, CredentialSource, Secrets
from tests.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3, fake_s3

PAIR = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}


def private(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        f'access_key_id = "{ACCESS_KEY}"\nsecret_access_key = "{SECRET_KEY}"\n',
        json.dumps(PAIR),
        json.dumps({"Version": 1, "AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY}),
    ],
)
def test_files(tmp_path: Path, text: str) -> None:
    path = private(tmp_path / "credentials", text)
    assert CredentialSource(f"file:{path}").read() == Secrets(PAIR)


def test_the_json_of_a_service_account_is_one_secret(tmp_path: Path) -> None:
    text = json.dumps({"type": "service_account", "private_key": "x"})
    path = private(tmp_path / "account.json", text)
    assert CredentialSource(f"file:{path}").read() == Secrets({"service_account_key": text})


def test_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = f"aws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n"
    text = f"[default]\naws_access_key_id = no\n[b]\n{pair}"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(private(tmp_path / "profiles", text)))
    assert CredentialSource("profile:b").read() == Secrets(PAIR)
    with pytest.raises(CredentialsError, match="has no profile c"):
        CredentialSource("profile:c").read()


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EU_ACCOUNT_KEY", "x")
    monkeypatch.setenv("EU_EXPIRES_AT", "2026-11-28T10:00:00Z")
    ends = datetime.datetime(2026, 11, 28, 10, tzinfo=datetime.UTC)
    assert CredentialSource("env:EU").read() == Secrets({"account_key": "x"}, ends)
    with pytest.raises(CredentialsError, match="no variable US_ACCESS_KEY_ID"):
        CredentialSource("env:US").read()


def test_commands_are_those_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(CredentialsError, match="has no command vault"):
        CredentialSource("command:vault").read()
    program = json.dumps([sys.executable, "-c", f"print({json.dumps(PAIR)!r})"])
    failing = json.dumps([sys.executable, "-c", f"print({SECRET_KEY!r}); raise SystemExit(1)"])
    private(tmp_path / "drivefs" / "credentials.toml", f"[commands]\nvault = {program}\nbad = {failing}\n")
    assert CredentialSource("command:vault").read() == Secrets(PAIR)
    with pytest.raises(CredentialsError, match="the command bad for credentials failed"):
        CredentialSource("command:bad").read()


@pytest.mark.parametrize("form", ["instance", "anonymous"])
def test_nothing_is_read_where_there_is_nothing(form: str) -> None:
    assert CredentialSource(form).read() is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SECRET_KEY, "neither TOML nor JSON"),
        (f'{{"a": "{SECRET_KEY}"', "neither TOML nor JSON"),
        (f'other = "{SECRET_KEY}"', "holds no credentials"),
        (f'access_key_id = "x"\nsecret_access_key = "{SECRET_KEY}"\nexpires_at = "soon"', "is no time"),
    ],
)
def test_no_message_and_no_repr_holds_a_secret(tmp_path: Path, text: str, words: str) -> None:
    path = private(tmp_path / "credentials", text)
    with pytest.raises(CredentialsError, match=words) as caught:
        CredentialSource(f"file:{path}").read()
    assert SECRET_KEY not in str(caught.value)
    assert SECRET_KEY not in repr(Secrets(PAIR))


def opened(server: FakeS3, form: str) -> client.StoreClient:
    where = location.parse(address.parse(server.node_url(), "/"))
    return client.StoreClient(where, settings.parse({"credentials": form}, "x"))


def test_what_a_store_needs_and_does_not_get_is_said(tmp_path: Path) -> None:
    path = private(tmp_path / "credentials", 'access_key_id = "x"')
    with fake_s3() as server, pytest.raises(CredentialsError, match="secret_access_key is missing"):
        opened(server, f"file:{path}").size("a")
