"""The control socket: its answers, and that no client can hurt it."""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from backend.errors import UnavailableError, UsageError
from cache.errors import InputOutputError, NotDirectoryError
from cache.messages import MountStatus, Watched
from gateway.control import Commands, ControlServer, Send, exchange, server
from gateway.control.server import listen
from gateway.control_address import addresses, device_text
from tests.statuses import mount_status
from tools.control_client import ControlClient, NoAnswerError
from tools.errors import ToolError


class _Mount:
    """Stands for a session."""

    def __init__(self) -> None:
        self.synced = 0
        self.unmounted = 0
        self.problem: Exception | None = None
        self.sync_waits: trio.Event | None = None

    async def status(self) -> MountStatus:
        return mount_status()

    async def sync(self) -> None:
        if self.sync_waits is not None:
            await self.sync_waits.wait()
        if self.problem is not None:
            raise self.problem
        self.synced += 1

    async def write_back(self) -> str:
        return "the disk is full"

    def unmount(self) -> None:
        self.unmounted += 1

    def commands(self) -> Commands:
        return Commands(self.status, self.sync, self.write_back, self.unmount)

    def server(self, path: Path) -> ControlServer:
        return ControlServer(path, self.commands())


@pytest.fixture
def mount() -> _Mount:
    return _Mount()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control" / "socket"


async def _everything(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([part async for part in stream])


async def _raw(path: Path, request: bytes) -> bytes:
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(request)
        return await _everything(stream)


async def _ask(path: Path, method: str, target: str) -> tuple[int, bytes]:
    answer = await _raw(path, f"{method} {target} HTTP/1.1\r\nHost: drivefs\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def test_a_sync_says_what_is_lacking(mount: _Mount, path: Path, nursery: trio.Nursery) -> None:
    async def redundancy() -> str:
        assert mount.synced == 1
        return "one fragment is away"

    await nursery.start(ControlServer(path, replace(mount.commands(), redundancy=redundancy)).serve)
    assert await _ask(path, "POST", "/sync") == (200, b'{"short": "one fragment is away"}')


async def test_answers(mount: _Mount, path: Path, nursery: trio.Nursery) -> None:
    await nursery.start(mount.server(path).serve)
    code, body = await _ask(path, "GET", "/status")
    assert code == 200
    assert json.loads(body)["commit"] == 7
    assert await _ask(path, "POST", "/sync") == (200, b"{}")
    assert mount.synced == 1
    assert await _ask(path, "POST", "/unmount") == (202, b"{}")
    assert mount.unmounted == 1
    code, body = await _ask(path, "GET", "/metrics")
    assert code == 200
    assert b"drivefs_store_capacity_free 6000.0\n" in body
    assert (await _ask(path, "GET", "/nope"))[0] == 404
    assert (await _ask(path, "GET", "/sync"))[0] == 405
    assert mount.synced == 1


@pytest.mark.parametrize(
    "problem", [UnavailableError("it is so", ["node1"]), InputOutputError("it is so"), OSError("it is so")]
)
async def test_a_sync_that_fails_says_why(
    mount: _Mount, path: Path, nursery: trio.Nursery, problem: Exception
) -> None:
    await nursery.start(mount.server(path).serve)
    mount.problem = problem
    code, body = await _ask(path, "POST", "/sync")
    assert code == 503
    assert json.loads(body) == {"error": "it is so"}


@pytest.mark.logs_warnings
async def test_a_bug_in_a_call_does_not_end_the_server(
    mount: _Mount, path: Path, nursery: trio.Nursery
) -> None:
    await nursery.start(mount.server(path).serve)
    mount.problem = ValueError("a bug")
    assert (await _ask(path, "POST", "/sync"))[0] == 500
    mount.problem = None
    assert (await _ask(path, "POST", "/sync"))[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"GET /status HTTP/1.1\r\n\r\n", 400),  # no Host: RFC 9112, 3.2
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 413),
        (b"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + b"b" * 90_000, 413),
        (b"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Length: nine\r\n\r\n", 400),
    ],
)
async def test_bad_requests(
    mount: _Mount, path: Path, nursery: trio.Nursery, request_bytes: bytes, code: int
) -> None:
    await nursery.start(mount.server(path).serve)
    answer = await _raw(path, request_bytes)
    assert answer.split()[1] == str(code).encode()
    assert mount.synced == 0


async def test_a_client_that_hangs_up_early_changes_nothing(
    mount: _Mount, path: Path, nursery: trio.Nursery
) -> None:
    await nursery.start(mount.server(path).serve)
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(b"POST /sync HT")
    assert (await _ask(path, "GET", "/status"))[0] == 200
    assert mount.synced == 0


async def test_a_slow_client_is_sent_away_and_delays_nobody(
    mount: _Mount, path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "CLIENT_SECONDS", 0.2)
    await nursery.start(mount.server(path).serve)
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(b"GET /status HTTP/1.1\r\n")
        assert (await _ask(path, "GET", "/status"))[0] == 200
        assert (await _everything(stream)).split()[1] == b"408"


async def test_who_waits_keeps_nobody_out_and_is_bounded(
    mount: _Mount, path: Path, nursery: trio.Nursery
) -> None:
    await nursery.start(mount.server(path).serve)
    mount.sync_waits = trio.Event()
    answers: list[int] = []

    async def ask() -> None:
        answers.append((await _ask(path, "POST", "/sync"))[0])

    async with trio.open_nursery() as clients:
        for _ in range(server.MAX_WAITING + 4):
            clients.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert answers == [503] * 4
        assert (await _ask(path, "GET", "/status"))[0] == 200
        assert (await _ask(path, "POST", "/unmount"))[0] == 202
        assert mount.unmounted == 1
        mount.sync_waits.set()
    assert answers == [503] * 4 + [200] * server.MAX_WAITING
    assert (await _ask(path, "POST", "/sync"))[0] == 200


async def test_idle_clients_are_bounded(
    mount: _Mount, path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beyond the limit are served when the others had their time."""
    monkeypatch.setattr(exchange, "CLIENT_SECONDS", 0.3)
    await nursery.start(mount.server(path).serve)
    idle = [await trio.open_unix_socket(str(path)) for _ in range(server.MAX_CLIENTS)]
    assert (await _ask(path, "GET", "/status"))[0] == 200
    for stream in idle:
        assert (await _everything(stream)).split()[1] == b"408"
        await stream.aclose()


@pytest.mark.logs_warnings
async def test_who_asks_while_descriptors_run_out_is_answered_later(
    mount: _Mount, path: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """As accept(2) meets it: EMFILE."""
    await nursery.start(mount.server(path).serve)
    asker = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        await asker.connect(str(path))
        with trio.fail_after(10):
            while "accept" not in caplog.text:
                await trio.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    async with trio.SocketStream(asker) as stream:
        await stream.send_all(b"GET /status HTTP/1.1\r\nHost: drivefs\r\n\r\n")
        assert (await _everything(stream)).split()[1] == b"200"


async def test_the_socket_is_the_users_own_and_goes_with_the_server(mount: _Mount, path: Path) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(mount.server(path).serve)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_one_left_by_a_killed_mount_is_replaced(
    mount: _Mount, path: Path, nursery: trio.Nursery
) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    await nursery.start(mount.server(path).serve)
    assert (await _ask(path, "GET", "/status"))[0] == 200


def test_what_is_no_socket_is_not_replaced(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(UsageError, match="in the way"):
        listen(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("length", [1, 50, 107, 108, 200, 255])
async def test_a_path_of_any_length_is_served(
    mount: _Mount, tmp_path: Path, nursery: trio.Nursery, length: int
) -> None:
    path = tmp_path / ("d" * length) / "socket"
    await nursery.start(mount.server(path).serve)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    client = ControlClient(str(path))
    assert (await trio.to_thread.run_sync(client.status)).commit == 7
    nursery.cancel_scope.cancel()


async def test_a_mount_is_found_by_its_device(mount: _Mount, path: Path, nursery: trio.Nursery) -> None:
    device = os.makedev(4000, 4711)
    assert addresses(device_text(device)) == []
    for _ in range(2):
        await nursery.start(mount.server(path).serve_device, device)
    await nursery.start(mount.server(path).serve_device, os.makedev(400, 4711))
    found = addresses(device_text(device))
    assert len(found) == 2
    assert found == sorted(found, reverse=True), "the newest is not the first"
    for address in found:
        assert (await trio.to_thread.run_sync(ControlClient(address).status)).commit == 7
        assert await trio.to_thread.run_sync(ControlClient(address).process_id) == os.getpid()


async def test_what_the_kernel_holds_is_asked_for(mount: _Mount, path: Path, nursery: trio.Nursery) -> None:
    await nursery.start(mount.server(path).serve)
    answer = await _raw(path, b"POST /write-back HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b'{"problem": "the disk is full"}' in answer


@pytest.mark.logs_warnings
async def test_another_user_is_hung_up_on(
    mount: _Mount, path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "peer", lambda _: (1, os.geteuid() + 4711))
    await nursery.start(mount.server(path).serve)
    with pytest.raises(trio.BrokenResourceError):
        await _raw(path, b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")


class _Watched:
    """A watch that tells of one change, and waits."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.last = trio.Event()

    def __call__(self, inode: int) -> Callable[[Send], Awaitable[None]]:
        if inode != 7:
            raise NotDirectoryError("is no folder")

        async def run(send: Send) -> None:
            try:
                await send({"change": "name", "path": "a%20b", "here": False, "device": 2})
                await self.last.wait()
            finally:
                self.ended.set()

        return run


def _watch_lines(path: Path, inode: int) -> list[Watched]:
    return [*ControlClient(str(path)).watch(inode)]


@pytest.mark.parametrize("by_the_server", [True, False])
async def test_a_watch_is_told_until_it_ends_and_ends_well(
    mount: _Mount, tmp_path: Path, by_the_server: bool
) -> None:
    """Also where the server is cancelled, as at the end of a mount."""
    watched, path, found = _Watched(), tmp_path / "control", list[Watched]()
    commands = replace(mount.commands(), watch=watched)
    arrived = threading.Event()

    def read() -> None:
        for line in ControlClient(str(path)).watch(7):
            found.append(line)
            arrived.set()

    async with trio.open_nursery() as reading, trio.open_nursery() as serving:
        await serving.start(ControlServer(path, commands).serve)
        reading.start_soon(trio.to_thread.run_sync, read)
        await trio.to_thread.run_sync(arrived.wait, 10)
        if by_the_server:
            serving.cancel_scope.cancel()
        else:
            watched.last.set()
            await watched.ended.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
            serving.cancel_scope.cancel()
    assert found == [Watched("name", "a%20b", here=False, device=2)]


async def test_who_hangs_up_ends_the_watch(mount: _Mount, tmp_path: Path) -> None:
    watched, path = _Watched(), tmp_path / "control"
    commands = replace(mount.commands(), watch=watched)
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(path, commands).serve)
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(
                b"POST /watch HTTP/1.1\r\nHost: d\r\nContent-Length: 12\r\n\r\n" + b'{"inode": 7}'
            )
            assert b"200" in await stream.receive_some()
        with trio.fail_after(5):
            await watched.ended.wait()
        nursery.cancel_scope.cancel()


async def test_a_watch_of_no_folder_is_refused_in_words(mount: _Mount, tmp_path: Path) -> None:
    path = tmp_path / "control"
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(path, replace(mount.commands(), watch=_Watched())).serve)
        with pytest.raises(ToolError, match="is no folder"):
            await trio.to_thread.run_sync(_watch_lines, path, 8)
        nursery.cancel_scope.cancel()


@pytest.mark.logs_warnings
async def test_a_watch_that_fails_does_not_end_well(mount: _Mount, tmp_path: Path) -> None:
    async def run(send: Send) -> None:
        await send({"change": "name", "path": "a", "here": False, "device": 2})
        raise InputOutputError("the namespace cannot be read")

    path = tmp_path / "control"
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(path, replace(mount.commands(), watch=lambda _: run)).serve)
        with pytest.raises(NoAnswerError):
            await trio.to_thread.run_sync(_watch_lines, path, 7)
        nursery.cancel_scope.cancel()


async def test_who_is_killed_ends_the_watch_and_is_no_fault(mount: _Mount, tmp_path: Path) -> None:
    """Its socket has bytes that it has not read: to send to it and to receive from it are errors."""
    watched, path = _Watched(), tmp_path / "control"
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(path, replace(mount.commands(), watch=watched)).serve)
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(
                b"POST /watch HTTP/1.1\r\nHost: d\r\nContent-Length: 12\r\n\r\n" + b'{"inode": 7}'
            )
            await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(5):
            await watched.ended.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()


async def test_who_hung_up_is_sent_nothing_and_is_no_fault(mount: _Mount, tmp_path: Path) -> None:
    async def run(send: Send) -> None:
        while True:
            await send({"change": "name", "path": "a" * 50_000, "here": False, "device": 2})

    path = tmp_path / "control"
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(path, replace(mount.commands(), watch=lambda _: run)).serve)
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(
                b"POST /watch HTTP/1.1\r\nHost: d\r\nContent-Length: 12\r\n\r\n" + b'{"inode": 7}'
            )
            assert b"200" in await stream.receive_some()
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()


async def test_who_watches_keeps_no_call_out_and_is_bounded(mount: _Mount, tmp_path: Path) -> None:
    watched, path = _Watched(), tmp_path / "control"
    commands = replace(mount.commands(), watch=watched)
    request = b"POST /watch HTTP/1.1\r\nHost: d\r\nContent-Length: 12\r\n\r\n" + b'{"inode": 7}'
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        await nursery.start(ControlServer(path, commands).serve)
        for _ in range(server.MAX_WATCHING):
            stream = await stack.enter_async_context(await trio.open_unix_socket(path))
            await stream.send_all(request)
            assert b"200" in await stream.receive_some()
        assert (await _ask(path, "POST", "/sync"))[0] == 200
        assert (await _raw(path, request)).split()[1] == b"503"
        nursery.cancel_scope.cancel()
