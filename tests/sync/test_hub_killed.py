"""A real `drivefs-hub serve` that is killed, or ended, while devices write: nothing is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import trio

from backend.errors import TransientError
from cache.drive import Drive
from tests import contents, plain_http
from tests.contents import KINDS
from tests.drives import content_of, make_file
from tests.hub_process import HubProcess, hub_process
from tests.sync.test_drives_on_a_hub import Devices
from tests.waiting import wait_until

KILLS = 2
FILES = 6


@pytest.fixture
def hub(tmp_path: Path) -> HubProcess:
    return hub_process(tmp_path, "--profile", "2+1")


@pytest.fixture
def devices(hub: HubProcess, tmp_path: Path) -> Devices:
    return Devices(hub, tmp_path)


async def write_files(drive: Drive, first: int) -> dict[bytes, bytes]:
    """Some files of all kinds, of which others have the same blocks."""
    made = {}
    for number in range(first, first + FILES):
        kind = KINDS[number % len(KINDS)]
        data = contents.content(kind, 60_000, seed=number // 2)
        await make_file(drive, b"%d" % number, data)
        made[b"%d" % number] = data
    return made


async def sync(drive: Drive) -> None:
    """As a person does, who is told that the hub is away."""
    while True:
        try:
            await drive.sync()
            return
        except TransientError:
            await trio.sleep(0.1)


@pytest.mark.logs_warnings
async def test_a_hub_that_is_killed_while_a_device_writes_loses_nothing(
    hub: HubProcess, devices: Devices
) -> None:
    made: dict[bytes, bytes] = {}
    with ExitStack() as stack:
        process = await trio.to_thread.run_sync(stack.enter_context, hub.serving())
        async with devices.device(0) as writer:
            for kill in range(KILLS):
                made |= await write_files(writer, kill * FILES)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(sync, writer)
                    await trio.sleep(0.05 * kill)
                    process.kill()
                    process.wait()
                    process = await trio.to_thread.run_sync(stack.enter_context, hub.serving())
            await sync(writer)
        async with devices.device(1) as reader:
            found = {name: await content_of(reader, name) for name in made}
    assert found == made
    code, said = hub.run("check", str(hub.hub), "--data")
    assert code == 0, said


def wait_for(process: subprocess.Popen[bytes]) -> float:
    """Seconds until it has ended, well."""
    begun = time.monotonic()
    assert process.wait(20) == 0
    return time.monotonic() - begun


def set_limit(hub: HubProcess, line: str) -> None:
    """Another value in `hub.toml`."""
    path, name = hub.hub / "hub.toml", line.split(" ")[0]
    text, count = re.subn(rf"^{name} = .*$", line, path.read_text(), flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)


@contextmanager
def waiting_poll(hub: HubProcess) -> Iterator[Future[httpx.Response]]:
    """The answer to a poll of 60 s, which the hub has taken."""
    uuid, token = hub.new_drive()
    header = {"Authorization": f"Bearer {token.hex()}"}
    asked = {"drives": {uuid.hex(): 0}, "timeout": 60}
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(httpx.post, f"{hub.url}/v1/wait", json=asked, headers=header, timeout=60)
        wait_until(lambda: "drivefs_hub_open_requests 1.0" in plain_http.get(hub.metrics).text)
        assert not poll.done()
        yield poll


def is_ready(hub: HubProcess) -> bool:
    return plain_http.get(f"{hub.url}/ready").status_code == 200


def test_it_ends_when_told_and_lets_its_polls_go(hub: HubProcess) -> None:
    set_limit(hub, "drain_seconds = 1")
    with hub.serving() as process, waiting_poll(hub) as poll:
        process.send_signal(signal.SIGTERM)
        assert wait_for(process) < 10
        answer = poll.result(1)
        assert (answer.status_code, answer.headers["connection"]) == (204, "close")


def test_while_it_ends_it_is_not_ready_and_answers_all_the_same(hub: HubProcess) -> None:
    set_limit(hub, "drain_seconds = 3600")
    with hub.serving() as process, httpx.Client(verify=False) as client:
        assert "connection" not in client.get(f"{hub.url}/healthz").headers
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_ready(hub))
        answer = plain_http.get(f"{hub.url}/ready")
        assert (answer.status_code, answer.json()) == (503, {"faults": ["this process is ending"]})
        answer = client.get(f"{hub.url}/healthz")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        process.send_signal(signal.SIGTERM)
        wait_for(process)


def test_a_second_signal_cuts_the_end_off(hub: HubProcess) -> None:
    """The first lets a poll wait on, as it has all the time until the end."""
    set_limit(hub, "drain_seconds = 3600")
    with hub.serving() as process, waiting_poll(hub):
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_ready(hub))
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def until_it_answers(client: httpx.Client, hub: HubProcess) -> None:
    """The end of another connection may be on its way still."""

    def is_let_in() -> bool:
        status = client.get(f"{hub.url}/healthz").status_code
        assert status in (200, 503)
        return status == 200

    wait_until(is_let_in)


def test_more_connections_than_it_may_have_are_told_to_come_later(hub: HubProcess) -> None:
    set_limit(hub, "connections = 2")
    with hub.serving(), httpx.Client(verify=False) as first, httpx.Client(verify=False) as second:
        until_it_answers(first, hub)
        assert second.get(f"{hub.url}/healthz").status_code == 503
        first.close()
        until_it_answers(second, hub)


@pytest.mark.parametrize(("address", "told"), [("127.0.0.1", "192.0.2.7"), ("127.0.0.2", "127.0.0.2")])
def test_nobody_but_a_balancer_on_this_machine_says_who_asks(
    hub: HubProcess, address: str, told: str
) -> None:
    sent = {"X-Forwarded-For": "192.0.2.7"}
    with hub.serving() as process:
        transport = httpx.HTTPTransport(verify=False, local_address=address)
        with httpx.Client(transport=transport) as client:
            assert client.post(f"{hub.url}/v1/wait", headers=sent).status_code == 401
        process.send_signal(signal.SIGTERM)
        wait_for(process)
    lines = [json.loads(line) for line in hub.log.read_text().splitlines() if line.startswith("{")]
    assert [line["client"] for line in lines if line.get("status") == 401] == [told]


def test_its_metrics_are_those_of_the_page(hub: HubProcess) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    told = re.findall(r"^\| `(drivefs_hub_\w+)` \|", page, re.MULTILINE)
    with hub.serving():
        shown = re.findall(r"^# TYPE (\w+) ", plain_http.get(hub.metrics).text, re.MULTILINE)
    assert sorted(told) == sorted(shown)


def test_what_it_logs_is_json_without_secrets(hub: HubProcess) -> None:
    uuid, token = hub.new_drive()
    header = {"Authorization": f"Bearer {token.hex()}"}
    block = os.urandom(32)
    with hub.serving() as process:
        url = f"{hub.url}/v1/drives/{uuid.hex()}"
        assert (
            plain_http.put(f"{url}/blocks/{block.hex()}", content=os.urandom(999), headers=header).status_code
            == 204
        )
        assert plain_http.get(f"{url}/head", headers={"Authorization": "Bearer x"}).status_code == 401
        process.send_signal(signal.SIGTERM)
        wait_for(process)
    text = hub.log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    (put,) = [line for line in lines if line["message"].startswith("PUT ")]
    assert (put["logger"], put["drive"], put["status"], put["received"]) == (
        "drivefs.access",
        uuid.hex(),
        204,
        999,
    )
    assert [line["status"] for line in lines if line["logger"] == "drivefs.audit"] == [401]
    assert block.hex() not in text
    assert token.hex() not in text
