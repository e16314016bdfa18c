"""The polling loop: alone on a socket pair, then under a real mount of bench/nullfs.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyfuse3
import pytest
import trio
import trio.testing

from bench import nullfs
from mountfs import fuse_loop
from mountfs.fuse_loop import ALARM_SECONDS, MAX_TASKS, PollingLoop, has_known_seam, installed
from tests.mount.memory_drive import FAIL_BACKGROUND
from tools.control_client import ControlClient

pytestmark = [pytest.mark.mount, pytest.mark.alone]

PATIENCE = 20.0


class _Device:
    """Stands for /dev/fuse: a datagram is a request, its first byte says what the handler does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, spin_ns: int = fuse_loop.SPIN_NS) -> None:
        self.kernel, self.server = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.server.setblocking(False)
        self.now = 0
        self.loop = PollingLoop(self.server.fileno(), spin_ns, clock=lambda: self.now)
        self.received = 0
        self.handled: list[bytes] = []
        self.release = trio.Event()
        self.call: Callable[[], None] = self.release.set
        self.ended = 0
        monkeypatch.setattr(pyfuse3, "terminate", lambda: trio.lowlevel.notify_closing(self.server.fileno()))

    def send(self, *requests: bytes) -> None:
        for request in requests:
            self.kernel.send(request)

    async def worker(self) -> None:
        """What pyfuse3's workers do."""
        while await self.loop.wait():
            request = self.server.recv(100)  # BlockingIOError if another worker took it
            self.received += 1
            if request.startswith(b"slow"):
                await self.release.wait()
            if request.startswith(b"write"):
                await self.loop.turn()
            if request.startswith(b"call"):
                self.call()
            self.handled.append(request)
        self.ended += 1

    def close(self) -> None:
        self.kernel.close()
        self.server.close()


@pytest.fixture(params=[fuse_loop.SPIN_NS, 0], ids=["polling", "sleeping"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Device]:
    device = _Device(monkeypatch, request.param)
    yield device
    device.close()


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.001)


async def _start(device: _Device, nursery: trio.Nursery, count: int) -> None:
    for _ in range(count):
        nursery.start_soon(device.worker)
    await trio.testing.wait_all_tasks_blocked()


async def test_every_request_is_taken_once(device: _Device, nursery: trio.Nursery) -> None:
    await _start(device, nursery, 5)
    requests = [b"%d" % number for number in range(60)]
    device.send(*requests)
    await _until(lambda: len(device.handled) == 60)
    assert device.handled == requests
    device.loop.stop()


async def test_waiting_handlers_delay_no_other_request(device: _Device, nursery: trio.Nursery) -> None:
    await _start(device, nursery, 5)
    device.send(b"slow1", b"slow2", b"fast1", b"slow3", b"slow4", b"fast2")
    await _until(lambda: len(device.handled) == 2)
    assert device.handled == [b"fast1", b"fast2"]
    device.release.set()
    await _until(lambda: len(device.handled) == 6)
    device.loop.stop()


async def test_the_first_free_worker_goes_on_when_all_were_busy(
    device: _Device, nursery: trio.Nursery
) -> None:
    await _start(device, nursery, 2)
    device.send(b"slow1", b"slow2", b"fast")
    await trio.testing.wait_all_tasks_blocked()
    assert device.handled == []
    device.release.set()
    await _until(lambda: len(device.handled) == 3)
    device.send(b"later")
    await _until(lambda: b"later" in device.handled)
    device.loop.stop()


async def test_large_writes_let_others_go_first(device: _Device, nursery: trio.Nursery) -> None:
    await _start(device, nursery, 5)
    device.send(b"fast0", b"write1", b"write2", b"fast1", b"write3", b"fast2")
    await _until(lambda: len(device.handled) == 6)
    assert device.handled == [b"fast0", b"fast1", b"fast2", b"write1", b"write2", b"write3"]
    device.send(b"write4")
    await _until(lambda: device.handled[-1] == b"write4")
    device.loop.stop()


async def test_what_came_before_does_not_count_as_overtaking(device: _Device, nursery: trio.Nursery) -> None:
    await _start(device, nursery, 5)
    device.send(*(b"%d" % number for number in range(40)))
    await _until(lambda: len(device.handled) == 40)
    device.send(b"fast0", b"write1", b"write2", b"fast1", b"fast2")
    await _until(lambda: len(device.handled) == 45)
    assert device.handled[40:] == [b"fast0", b"fast1", b"fast2", b"write1", b"write2"]
    device.loop.stop()


async def test_a_writer_that_is_alone_waits_for_nobody(device: _Device, nursery: trio.Nursery) -> None:
    await _start(device, nursery, 5)
    device.send(b"fast0", b"write0")
    await _until(lambda: len(device.handled) == 2)
    device.now += fuse_loop.ALONE_NS + 1
    device.send(b"write1", b"write2", b"fast1", b"write3", b"fast2")
    await _until(lambda: len(device.handled) == 7)
    assert device.handled[2:] == [b"write1", b"write2", b"fast1", b"fast2", b"write3"]
    device.loop.stop()


async def test_large_writes_go_on_under_any_load(device: _Device, nursery: trio.Nursery) -> None:
    await _start(device, nursery, 5)
    device.send(b"fast", b"write1", b"write2", *(b"%d" % number for number in range(100)))
    await _until(lambda: len(device.handled) == 103)
    assert device.handled.index(b"write1") <= 19
    assert device.handled.index(b"write2") <= 37
    device.loop.stop()


async def test_large_writes_go_on_when_nobody_is_left_to_poll(device: _Device, nursery: trio.Nursery) -> None:
    await _start(device, nursery, 3)
    device.send(b"fast", b"write1", b"slow1", b"slow2", b"write2")
    await _until(lambda: device.handled == [b"fast", b"write1", b"write2"])
    device.send(b"slow3")
    await trio.testing.wait_all_tasks_blocked()
    device.send(b"write3", b"fast")
    await trio.testing.wait_all_tasks_blocked()
    assert device.handled == [b"fast", b"write1", b"write2"]
    device.release.set()
    await _until(lambda: len(device.handled) == 8)
    device.loop.stop()


@pytest.mark.parametrize("end", ["stop", "cancel"])
async def test_writes_that_were_put_off_end_with_the_rest(device: _Device, end: str) -> None:
    put_off: list[int] = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            def call() -> None:
                put_off.append(device.loop.put_off)
                (device.loop.stop if end == "stop" else nursery.cancel_scope.cancel)()

            device.call = call
            for _ in range(4):
                nursery.start_soon(device.worker)
            await trio.testing.wait_all_tasks_blocked()
            device.send(b"fast", b"write1", b"write2", b"call")
    assert put_off == [2]
    assert not device.loop.put_off
    assert device.ended == (4 if end == "stop" else 0)


async def test_it_is_idle_when_no_request_is_handled_or_awaited(
    device: _Device, nursery: trio.Nursery
) -> None:
    assert device.loop.idle_seconds() == 0
    await _start(device, nursery, 2)
    await _until(lambda: device.loop.idle_seconds() > 0.02)
    device.send(b"slow")
    await _until(lambda: device.loop.idle_seconds() == 0)
    for _ in range(100):  # any time that passes would be told
        await trio.lowlevel.checkpoint()
        assert device.loop.idle_seconds() == 0
    device.release.set()
    await _until(lambda: 0 < device.loop.idle_seconds() < 0.02)
    device.loop.stop()


async def test_other_tasks_run_under_any_load(device: _Device, nursery: trio.Nursery) -> None:
    await _start(device, nursery, 3)
    flooding = True

    def flood() -> None:
        while flooding:
            device.kernel.send(b"x")

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        await _until(lambda: len(device.handled) > 100)
        started, rounds, longest = len(device.handled), 0, 0.0
        with trio.fail_after(PATIENCE):
            while rounds < 50 or len(device.handled) < started + 50:
                before = trio.current_time()
                await trio.lowlevel.checkpoint()
                longest = max(longest, trio.current_time() - before)
                rounds += 1
        assert longest < 1.0
    finally:
        flooding = False
        await _until(lambda: not thread.is_alive())
        device.loop.stop()


async def test_stop_ends_sleeping_parked_and_busy_workers(device: _Device) -> None:
    async with trio.open_nursery() as nursery:
        await _start(device, nursery, 4)
        device.send(b"slow")
        await trio.testing.wait_all_tasks_blocked()
        device.loop.stop()
        device.loop.stop()
        await _until(lambda: device.ended == 3)
        device.release.set()
        await _until(lambda: device.ended == 4)
    assert not await device.loop.wait()


async def test_stop_ends_a_worker_that_polls_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    device = _Device(monkeypatch, spin_ns=50_000_000)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(device.worker)
            await trio.testing.wait_all_tasks_blocked()
            device.send(b"slow")
            await _until(lambda: device.received == 1)
            device.loop.stop()
            await _until(lambda: device.ended == 3)  # also the one that polled while "slow" is handled
            device.release.set()
    assert device.ended == 4
    device.close()


async def test_cancelled_workers_leave_nothing_behind(device: _Device) -> None:
    async with trio.open_nursery() as nursery:
        await _start(device, nursery, 4)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        await _start(device, nursery, 2)
        device.send(b"slow", b"after")
        await _until(lambda: device.handled == [b"after"])
        device.loop.stop()
        device.release.set()


def test_an_unknown_pyfuse3_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyfuse3, "__version__", "4.0.0")
    assert not has_known_seam()
    monkeypatch.setattr(pyfuse3, "__version__", "3.5.0")
    assert has_known_seam()
    monkeypatch.delattr(pyfuse3, "_wait_fuse_readable")
    assert not has_known_seam()


def test_the_seam_is_there_and_is_given_back() -> None:
    """Fails when a new pyfuse3 has moved it: then look at what its workers wait with now."""
    assert has_known_seam()
    stock = vars(pyfuse3)["_wait_fuse_readable"]
    reading, writing = os.pipe()
    loop = PollingLoop(reading)
    with installed(loop):
        assert vars(pyfuse3)["_wait_fuse_readable"] == loop.wait
    assert vars(pyfuse3)["_wait_fuse_readable"] is stock
    os.close(reading)
    os.close(writing)


class _Mounted:
    def __init__(self, process: subprocess.Popen[bytes], folder: Path, socket_path: Path, log: Path) -> None:
        self.process, self.folder, self.socket, self.log = process, folder, socket_path, log

    def end(self) -> int:
        return self.process.wait(PATIENCE)

    def processor_ticks_when_idle(self) -> int:
        """When the file system's own after-work is done: releases of the last files."""
        deadline, before = time.monotonic() + PATIENCE, -1
        while (ticks := self.processor_ticks()) != before:
            assert time.monotonic() < deadline, "it is never idle"
            before = ticks
            time.sleep(0.05)  # five ticks
        return ticks

    def processor_ticks(self) -> int:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])


@contextmanager
def _mounted(tmp_path: Path, *options: str, module: str = "bench.nullfs") -> Iterator[_Mounted]:
    folder, log = tmp_path / "mount", tmp_path / "log"
    folder.mkdir()
    control = tmp_path / "c" / "s"
    command = [sys.executable, "-m", module, str(folder), "--socket", str(control), *options]
    with open(log, "wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
    mounted = _Mounted(process, folder, control, log)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", log.read_text()
        yield mounted
    finally:
        if process.poll() is None:
            subprocess.run(["fusermount3", "-u", "-z", folder], check=False)
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _ask(mounted: _Mounted, request: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(mounted.socket))
        client.sendall(f"{request} HTTP/1.1\r\nHost: drivefs\r\n\r\n".encode())
        answer = b""
        while part := client.recv(65536):
            answer += part
    return answer


def _read_all(path: Path) -> None:
    # O_DIRECT: each reader is to reach the drive, not the page cache.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    os.read(descriptor, 4096)
    os.close(descriptor)


@pytest.mark.parametrize("options", [[], ["--stock"]], ids=["polling", "stock"])
def test_an_outside_umount_ends_the_process_well(tmp_path: Path, options: list[str]) -> None:
    with _mounted(tmp_path, *options) as mounted:
        (mounted.folder / "a").write_text("hello")
        assert (mounted.folder / "a").read_text() == "hello"
        subprocess.run(["fusermount3", "-u", mounted.folder], check=True)
        assert mounted.end() == 0
        assert not mounted.socket.exists()


def test_slow_reads_starve_nobody(tmp_path: Path) -> None:
    delay = 1.5
    with _mounted(tmp_path, "--read-delay", str(delay)) as mounted:
        file = mounted.folder / "file"
        file.write_bytes(b"x" * 4096)
        # The kernel sends all of them at once, as each waits for its end (docs/semantics.md).
        readers = [threading.Thread(target=_read_all, args=[file]) for _ in range(MAX_TASKS - 8)]
        start = time.perf_counter()
        for reader in readers:
            reader.start()
        answered = 0
        while time.perf_counter() - start < delay / 2:
            assert not (mounted.folder / f"missing{answered}").exists()
            answered += 1
        assert all(reader.is_alive() for reader in readers), "the reads did not wait"
        assert answered > 10
        for reader in readers:
            reader.join(PATIENCE)
        assert not any(reader.is_alive() for reader in readers)
        assert time.perf_counter() - start < delay * len(readers) / 3, "the reads went one by one"


def test_a_request_that_was_withdrawn_stalls_the_mount_for_a_moment_only(tmp_path: Path) -> None:
    """Its process was killed after the device was seen to be readable: the receiving read finds nothing."""
    with _mounted(tmp_path, module="tests.mount.withdrawing") as mounted:
        mounted.process.send_signal(signal.SIGUSR1)
        assert not (mounted.folder / "missing").exists()
        before = time.monotonic()
        assert b" 200 " in _ask(mounted, "GET /status")
        assert time.monotonic() - before > ALARM_SECONDS / 4, "the read did not block"
        assert not (mounted.folder / "missing too").exists()


def test_an_idle_mount_uses_no_processor(tmp_path: Path) -> None:
    with _mounted(tmp_path) as mounted:
        for number in range(200):
            (mounted.folder / str(number)).touch()
        before = mounted.processor_ticks_when_idle()
        time.sleep(1.0)  # the measured interval
        assert mounted.processor_ticks() - before <= 1


def test_writes_ask_for_privileges_once(tmp_path: Path) -> None:
    """Without FUSE_HANDLE_KILLPRIV_V2 the kernel would ask for `security.capability` before each of them."""
    with _mounted(tmp_path) as mounted:
        with open(mounted.folder / "file", "wb", buffering=0) as file:
            for _ in range(50):
                file.write(b"some bytes")
        asked = ControlClient(str(mounted.socket)).call(nullfs.ASKED, nullfs.Attribute("security.capability"))
    assert asked.times <= 2


def test_the_control_socket_answers_under_load(tmp_path: Path) -> None:
    with _mounted(tmp_path) as mounted:
        loading = True
        count = 0

        def load() -> None:
            nonlocal count
            while loading:
                (mounted.folder / f"missing{count}").exists()
                count += 1

        thread = threading.Thread(target=load)
        thread.start()
        try:
            before = count
            for _ in range(20):
                assert b" 200 " in _ask(mounted, "GET /status").partition(b"\r\n")[0]
            assert count > before
        finally:
            loading = False
            thread.join()


def test_sigterm_takes_everything_over_and_unmounts(tmp_path: Path) -> None:
    with _mounted(tmp_path) as mounted:
        (mounted.folder / "a").write_bytes(b"dirty" * 100_000)
        mounted.process.send_signal(signal.SIGHUP)
        assert b" 200 " in _ask(mounted, "GET /status")
        mounted.process.send_signal(signal.SIGTERM)
        assert mounted.end() == 0
        assert not os.path.ismount(mounted.folder)
        assert "in use" not in mounted.log.read_text()


def test_the_control_socket_can_unmount(tmp_path: Path) -> None:
    with _mounted(tmp_path) as mounted:
        assert b" 202 " in _ask(mounted, "POST /unmount")
        assert mounted.end() == 0
        assert not os.path.ismount(mounted.folder)


def test_sigterm_with_a_file_open_detaches(tmp_path: Path) -> None:
    with _mounted(tmp_path) as mounted:
        descriptor = os.open(mounted.folder / "a", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"dirty")
        mounted.process.send_signal(signal.SIGTERM)
        assert mounted.end() == 0
        assert not os.path.ismount(mounted.folder)
        assert "in use" in mounted.log.read_text()
        with pytest.raises(OSError, match=r"not connected|aborted"):
            os.fsync(descriptor)
        with suppress(OSError):
            os.close(descriptor)


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with _mounted(tmp_path, "--read-delay", "3600") as mounted:
        file = mounted.folder / "a"
        file.write_bytes(b"x" * 4096)

        def read() -> None:
            with pytest.raises(OSError, match=r".*"):
                _read_all(file)

        reader = threading.Thread(target=read)
        reader.start()
        mounted.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while "in use" not in mounted.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        mounted.process.send_signal(signal.SIGTERM)
        mounted.end()
        reader.join(PATIENCE)
        assert not reader.is_alive()
        assert not os.path.ismount(mounted.folder)


def test_a_drive_whose_background_fails_is_unmounted_in_good_order(tmp_path: Path) -> None:
    with _mounted(tmp_path) as mounted:
        (mounted.folder / "a").write_bytes(b"dirty" * 1000)
        os.setxattr(mounted.folder, FAIL_BACKGROUND, b"1")
        assert mounted.end() == 1
        assert not os.path.ismount(mounted.folder)
        assert "the background failed" in mounted.log.read_text()
