"""The `-o` options of a mount: what is understood, let pass and refused."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import UsageError
from tools.mount_options import MountOptions, parse, split


def test_no_options_are_the_defaults() -> None:
    assert parse([]) == MountOptions()
    assert parse(["defaults", ""]) == MountOptions()


def test_drivefs_options() -> None:
    options = parse(["ro,allow_other,verbose,cache_dir=/c,log_file=/l,versions_dir=.snap", "key_file=/k"])
    assert (options.read_only, options.allow_other, options.verbose) == (True, True, True)
    assert (options.cache_dir, options.log_file, options.versions_dir, options.key_file) == (
        "/c",
        "/l",
        ".snap",
        "/k",
    )


def test_sizes_and_times_have_units() -> None:
    options = parse(["cache_size=64M,journal_size=1G,commit_interval=500ms"])
    assert (options.cache_size, options.journal_size, options.commit_interval) == (64 << 20, 1 << 30, 0.5)


@pytest.mark.parametrize(
    ("text", "size"),
    [("", None), ("off", 0), ("none", 0), ("0", 0), ("0M", 0), ("128M", 128 << 20), ("1T", 1 << 40)],
)
def test_the_disk_cache_is_off_or_has_a_size(text: str, size: int | None) -> None:
    """Without a word it is as the nodes are (`tools.compose.disk_cache`)."""
    assert parse([f"cache_disk={text}"] if text else []).cache_disk == size


def test_the_order_is_without_meaning() -> None:
    texts = ["ro", "noatime", "key_file=/k", "nosuid", "x-systemd.automount"]
    assert len({parse([",".join(order)]) for order in permutations(texts)}) == 1


def test_a_value_is_all_after_the_first_equals_sign() -> None:
    assert parse(["passphrase_command=pass show a=b"]).passphrase_command == "pass show a=b"


def test_a_quoted_value_may_hold_commas() -> None:
    assert parse(['ro,passphrase_command="echo a,b",nodev']).passphrase_command == "echo a,b"
    assert split('a,"b,c",,d') == ["a", "b,c", "d"]


def test_the_last_of_two_counts() -> None:
    assert parse(["ro,rw"]).read_only is False
    assert parse(["cache_size=64M", "cache_size=1G"]).cache_size == 1 << 30


@pytest.mark.parametrize(
    "option",
    [
        "_netdev",
        "strictatime",
        "uhelper=drivefs",
        "nofail",
        "noauto",
        "x-systemd.automount",
        "X-mount.mkdir=0755",
        "x-anything=1",
        "comment=mine",
        "relatime",
        "async",
        "group",
        "default_permissions",
    ],
)
def test_what_is_for_other_programs_passes(option: str) -> None:
    options = parse([option])
    assert (options.read_only, options.allow_other, options.cache_dir) == (False, False, None)


def test_kernel_flags_and_what_implies_them() -> None:
    assert parse(["nosuid,nodev"]).kernel_flags == {"nosuid", "nodev"}
    assert parse(["user"]).kernel_flags == {"nosuid", "nodev", "noexec"}
    assert parse(["user,exec"]).kernel_flags == {"nosuid", "nodev"}
    assert parse(["owner"]).kernel_flags == {"nosuid", "nodev"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("reed_only", "unknown mount option 'reed_only'"),
        ("ro=1", "unknown mount option 'ro'"),
        ("remount", "remount"),
        ("key_file", "needs a value"),
        ("cache_size=", "needs a value"),
        ("cache_size=big", "not a size"),
        ("cache_size=1K", "at least 16M"),
        ("journal_size=1", "at least 64M"),
        ("cache_disk=", "needs a value"),
        ("cache_disk=big", "not a size"),
        ("cache_disk=1", "off, or at least 128M"),
        ("cache_disk=131071K", "off, or at least 128M"),
        ("commit_interval=0", "between"),
        ("commit_interval=2 days", "not a time"),
        ("versions_dir=a/b", "one name"),
        ("versions_dir=..", "one name"),
        ("upload_limit=1K", "at least 16K"),
        ("download_limit=x", "not a size"),
        ("proxy=proxy:3128", "http://HOST:PORT"),
        ("proxy=http://me:secret@proxy", "without a password"),
        ("proxy=socks5://proxy", "http://HOST:PORT"),
        ("coherence=close", "told or open"),
        ("coherence=open,ro", "as it was when it was mounted"),
        ("coherence=open,asof=2026-01-01", "as it was when it was mounted"),
        ("key_file=/k,passphrase_file=/p", "exclude each other"),
        ('passphrase_command="a,b', "double quote"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse([text])


def test_sloppy_lets_the_unknown_pass_but_not_bad_values() -> None:
    assert parse(["reed_only,ro"], sloppy=True).read_only
    with pytest.raises(UsageError):
        parse(["cache_size=big"], sloppy=True)


@given(st.lists(st.text(st.characters(blacklist_characters=',"', blacklist_categories=["Cs"])), max_size=5))
def test_split_is_the_opposite_of_join(options: list[str]) -> None:
    assert split(",".join(options)) == [option.strip() for option in options if option.strip()]
