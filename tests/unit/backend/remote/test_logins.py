"""The logins that a machine keeps: one for each hub, whole, and for the user alone."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import CorruptError, FormatError, NotFoundError, UsageError
from backend.remote import HubLogin, HubRoute, Logins, hub_url
from backend.remote.logins import decode_login, encode_login
from backend.system import plain_hash

LOGIN = HubLogin("https://hub.example", "me@example.org", b"t" * 32, b"r" * 32, 7, "/etc/ca.pem", "http://p")


def test_a_login_is_kept_replaced_and_forgotten(tmp_path: Path) -> None:
    logins = Logins(tmp_path / "hubs")
    assert logins.all() == []
    with pytest.raises(NotFoundError, match=r"drivefs login https://hub\.example"):
        logins.load("https://hub.example/")
    logins.save(LOGIN)
    other = replace(LOGIN, url="https://hub.example:8443", device=1 << 40)
    logins.save(other)
    assert logins.load("https://HUB.example:443/") == LOGIN
    assert Logins(tmp_path / "hubs").all() == [LOGIN, other]
    changed = replace(LOGIN, token=b"u" * 32)
    logins.save(changed)
    assert logins.load(LOGIN.url) == changed
    for _ in range(2):
        logins.remove(LOGIN.url)
    assert logins.all() == [other]


def test_it_is_for_the_user_alone(tmp_path: Path) -> None:
    Logins(tmp_path / "hubs").save(LOGIN)
    for path in (tmp_path / "hubs").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_way_to_the_hub_is_as_the_login_says() -> None:
    assert LOGIN.route == HubRoute("/etc/ca.pem", "http://p")
    assert replace(LOGIN, ca_file="", proxy="").route == HubRoute()


def test_nothing_of_it_is_shown() -> None:
    shown = repr(replace(LOGIN, proxy="http://user:password@proxy"))
    assert "ttt" not in shown
    assert "rrr" not in shown
    assert "password" not in shown


@given(position=st.integers(0), bit=st.integers(0, 7), cut=st.booleans())
def test_no_damage_goes_unnoticed(position: int, bit: int, cut: bool) -> None:
    data = bytearray(encode_login(LOGIN))
    at = position % len(data)
    if cut:
        del data[at:]
    else:
        data[at] ^= 1 << bit
    with pytest.raises(CorruptError):
        decode_login(bytes(data))


def test_a_damaged_one_says_what_to_do(tmp_path: Path) -> None:
    logins = Logins(tmp_path)
    logins.save(LOGIN)
    (path,) = tmp_path.glob("*/login")
    path.write_bytes(b"rot")
    for call in (lambda: logins.load(LOGIN.url), logins.all):
        with pytest.raises(CorruptError, match="log in anew"):
            call()
    path.write_bytes(encode_login(replace(LOGIN, url="https://other.example")))
    with pytest.raises(CorruptError, match=r"is of https://other\.example"):
        logins.load(LOGIN.url)


def test_another_version_is_refused() -> None:
    body = encode_login(LOGIN)[:-32].replace(b"DFLOGIN\0\x98\x01", b"DFLOGIN\0\x98\x02")
    with pytest.raises(FormatError, match="version 2"):
        decode_login(body + plain_hash(body))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://hub.example", "https://hub.example"),
        ("https://Hub.Example.:443/", "https://hub.example"),
        ("https://hub.example:8443", "https://hub.example:8443"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("http://localhost:80", "http://localhost"),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
    ],
)
def test_one_hub_has_one_address(text: str, url: str) -> None:
    assert hub_url(text) == hub_url(url) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hub.example",
        "ftp://hub.example",
        "https://",
        "https://user:secret@hub.example",
        "https://hub.example/photos",
        "https://hub.example?x",
        "https://hub.example#x",
        "https://hub.example:99999",
        "https://hub.example:x",
        "https://[::1",
        "https://[fe80::1%25eth0]",
        "http://hub.example",
        "http://10.0.0.1",
        "http://localhost.example",
    ],
)
def test_what_is_no_address_of_a_hub(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        hub_url(text)
    assert "secret" not in str(caught.value)
