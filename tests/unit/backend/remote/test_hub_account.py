"""What a hub answers about an account may be anything: each answer has the form, or is an error of ours."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import CorruptError
from backend.remote import HubAccount, HubClient, Proof
from backend.remote.account_drives import MAX_DRIVES

PROOF = Proof("passphrase", bytes(32))
CALLS: dict[str, Callable[[HubAccount], Awaitable[Any]]] = {
    "start": lambda account: account.start("a@b", "passphrase"),
    "finish": lambda account: account.finish("a@b", PROOF),
    "summary": lambda account: account.summary(),
    "begin_factor": lambda account: account.begin_factor(PROOF),
    "devices": lambda account: account.devices(),
    "rotate": lambda account: account.rotate(1),
    "drives": lambda account: account.drives(),
}
DEVICE = {"number": 1, "name": "ab", "created": 1, "seen": 2, "expires": 9, "revoked": None}
DRIVE = {"uuid": "ab" * 16, "sealed": "ab", "bytes": 5, "head": 7, "nodes": ""}
GOOD: dict[str, dict[str, Any]] = {
    "start": {"salt": "ab" * 32, "memory_kib": 65536, "iterations": 3, "lanes": 4},
    "finish": {"token": "ab" * 32, "device": 5, "wrapped": "ab"},
    "summary": {
        "email": "a@b",
        "created": 1,
        "has_factor": False,
        "device": 1,
        "token_is_due": False,
        "quota": 10,
        "used": 2,
        "kept": 0,
        "left": 8,
    },
    "begin_factor": {"secret": "ABC", "uri": "otpauth://totp/x"},
    "devices": {"devices": [DEVICE, DEVICE | {"revoked": 3}]},
    "rotate": {"token": "ab" * 32},
    "drives": {"drives": [DRIVE]},
}
NO_VALUES: list[Any] = [None, True, -1, 1.5, 2**63, "zz", "ab" * 5000, [], {}, [1], "\ud800"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("ab" * 16),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def account(said: object) -> HubAccount:
    """At a hub that always answers so."""
    answer = json.dumps(said).encode()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=httpx.ByteStream(answer)))
    return HubAccount(HubClient("http://hub.example", bytes(32), transport=transport))


@pytest.mark.parametrize("name", CALLS)
async def test_what_has_the_form_is_taken(name: str) -> None:
    assert await CALLS[name](account(GOOD[name]))


@pytest.mark.parametrize("name", CALLS)
async def test_nothing_may_be_left_out_or_be_another_thing(name: str) -> None:
    """`has_factor` and `token_is_due` are false unless they are true; a device that is not said to be revoked
    is not."""
    for field in GOOD[name].keys() - {"has_factor", "token_is_due"}:
        good = GOOD[name]
        for said in ({}, *({field: value} for value in NO_VALUES)):
            if field in ("devices", "drives") and said == {field: []}:
                continue
            rest = {key: value for key, value in good.items() if key != field}
            if field in ("wrapped", "email", "secret", "uri") and isinstance(said.get(field), str):
                continue
            with pytest.raises(CorruptError):
                await CALLS[name](account(rest | said))


@pytest.mark.parametrize(("name", "row"), [("devices", DEVICE), ("drives", DRIVE)])
async def test_a_row_is_whole_or_refused(name: str, row: dict[str, Any]) -> None:
    """A hub of before moves to nodes says no `nodes`: it has heard of none."""
    for field in row.keys() - {"revoked", "nodes"}:
        rest = {key: value for key, value in row.items() if key != field}
        with pytest.raises(CorruptError):
            await CALLS[name](account({name: [row, rest]}))


async def test_nodes_that_are_none_are_refused() -> None:
    (drive,) = await account({"drives": [DRIVE]}).drives()
    assert drive.nodes == b""
    for value in (None, 5, "zz", "ab" * 5000):
        with pytest.raises(CorruptError):
            await account({"drives": [DRIVE | {"nodes": value}]}).drives()


async def test_no_list_is_without_an_end() -> None:
    with pytest.raises(CorruptError):
        await account({"drives": [DRIVE] * (MAX_DRIVES + 1)}).drives()


@pytest.mark.parametrize("name", CALLS)
@given(noise=JSON, at=st.integers(0))
async def test_noise_is_refused_cleanly(name: str, noise: object, at: int) -> None:
    fields = sorted(GOOD[name])
    for said in (noise, GOOD[name] | {fields[at % len(fields)]: noise}):
        try:
            await CALLS[name](account(said))
        except CorruptError:
            continue
