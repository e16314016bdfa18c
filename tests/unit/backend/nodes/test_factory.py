"""backend.nodes.factory and address: which URLs name a node, and how those that do not are refused."""

from __future__ import annotations

import subprocess
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import given

from backend.errors import UsageError
from backend.nodes import address
from backend.nodes.directory_place import DirectoryPlace
from backend.nodes.factory import SCHEMES, place_at

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("node0", "/srv/drive/node0"),
        ("../disk a", "/srv/disk a"),
        ("/mnt/disk", "/mnt/disk"),
        ("file:///mnt/disk%20a", "/mnt/disk a"),
        ("FILE://localhost/mnt/disk", "/mnt/disk"),
        ("weird:name", "/srv/drive/weird:name"),
        ("a%20b", "/srv/drive/a%20b"),
        ("s3:/bucket", "/srv/drive/s3:/bucket"),
    ],
)
def test_folders(url: str, folder: str) -> None:
    assert place_at(url, "/srv/drive") == DirectoryPlace(folder)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/x", "knows no nodes at ftp://"),
        ("file://server/x", "file URL has no host"),
        ("file://x", "file URL has no host"),
        ("s3://[bucket", "cannot be understood"),
        ("a\0b", "zero byte"),
        ("file:///a%00b", "zero byte"),
        ("s3://me:pass@host/bucket", "no user, password or key"),
        ("https://host/b?sas_token=1", "no user, password or key"),
        ("az://account/c?x=1&Signature=", "no user, password or key"),
    ],
)
def test_what_is_no_node_is_refused_in_words(url: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        place_at(url, "/srv/drive")
    assert words in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("pass@", "sas_token", "Signature"))


@given(names=st.lists(NAMES, min_size=1, max_size=4), inside=st.booleans())
def test_a_stored_url_leads_to_the_same_place(names: list[str], inside: bool) -> None:
    """From the drive's folder; one inside it also when the drive's folder has moved."""
    path = "/".join(["/srv/drive" if inside else "/mnt", *names])
    stored = address.stored(path, "/srv/drive")
    assert place_at(stored, "/srv/drive") == DirectoryPlace(path)
    if inside:
        assert place_at(stored, "/moved") == DirectoryPlace("/".join(["/moved", *names]))


def test_every_scheme_of_the_table_is_reached() -> None:
    stores = {f"{service}{way}" for service in ("s3", "gs", "az") for way in ("", "+https", "+http")}
    assert set(SCHEMES) == {"file", *stores}, "a new kind of node: see tests/contract/test_node_place.py"


def test_a_folder_has_no_settings() -> None:
    with pytest.raises(UsageError, match="/mnt/disk: a folder has no credentials"):
        place_at("/mnt/disk", "/", {"credentials": "instance"})


def test_a_drive_of_folders_loads_nothing_that_speaks_to_stores() -> None:
    program = "import sys, backend.nodes; print('obstore' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"False\n"
    )
