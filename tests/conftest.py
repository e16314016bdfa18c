"""What every test runs under: silent logs, no failpoint left armed, a clean environment.

The tests start commands some thousand times, and where the environment forbids to keep bytecode each would
compile drivefs anew, which takes longer than most of them; so it is kept.

A log record of level WARNING or above fails the test unless it is marked `logs_warnings`: a warning
is news for the person who runs a drive, so a test that provokes one says so.
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from backend.failpoints import OF_PROCESS
from tests import fake_google, fake_s3, servers

if TYPE_CHECKING:
    from tests.azurite import Azurite
    from tests.rgw import Rgw
    from tests.seaweedfs import Seaweedfs

Server = TypeVar("Server")

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

settings.register_profile(
    "ci",
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.register_profile("soak", parent=settings.get_profile("ci"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


ROOT: Final = Path(__file__).parents[1]
LONGEST: Final = tuple(
    ROOT / "tests" / "unit" / name
    for name in (
        "test_structure.py",
        "tools/test_fsck.py",
        "tools/test_terminal.py",
        "tools/commands/test_node_changes.py",
        "tools/commands/test_account_commands.py",
        "tools/test_pairing.py",
        "cache/test_full_drive.py",
        "tools/commands/test_recover.py",
        "cache/services/test_activity_calls.py",
    )
)
"""The files of tests/unit whose tests take longest. All of a file's tests run in one process: if such a file
began last, it would run alone. Other folders with long tests come before tests/unit by name."""


def turn(path: Path) -> int:
    """A file with a lower number begins earlier."""
    return LONGEST.index(path) if path in LONGEST else len(LONGEST)


_GIVEN, _MOST = resource.getrlimit(resource.RLIMIT_NOFILE)
"""The descriptors that a process of this user has to begin with, and may take."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The processes of a parallel run have to find the same tests, so a name that has an address in it (the
    text of a function) is none. A test that mounts without its mark would run where nothing can be mounted.
    Those that run alone are looked for among the mounted ones only."""
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unstable:
        raise pytest.UsageError(f"these tests are called differently in each process: {unstable[:3]}")
    mounts = config.rootpath / "tests" / "mount"
    unmarked = [item.nodeid for item in items if _mounts(item, mounts) and not _is_marked(item)]
    if unmarked:
        raise pytest.UsageError(f"these tests mount and are not marked so: {unmarked[:3]}")
    lost = [item.nodeid for item in items if _is_alone(item) and not item.path.is_relative_to(mounts)]
    if lost:
        raise pytest.UsageError(
            f"these tests are marked to run alone, and are not in tests/mount: {lost[:3]}"
        )
    items.sort(key=lambda item: turn(item.path))


def _mounts(item: pytest.Item, folder: Path) -> bool:
    return item.path.is_relative_to(folder) or "fuse" in getattr(item, "fixturenames", ())


def _is_marked(item: pytest.Item) -> bool:
    return item.get_closest_marker("mount") is not None


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A mount takes all the descriptors that its user may have. Tests of drives in one process stand for some
    hundred mounts and commands, so they do as well: a stock system gives 1,024 to begin with. What a test
    mounts begins with those that a person's has."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_GIVEN if _is_marked(item) else _MOST, _MOST))


class _Records(logging.Handler):
    """Keeps what was logged at WARNING or above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.levelname} {record.name}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def logged_warnings(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The WARNING records of this test so far; they fail it unless it is marked `logs_warnings`."""
    records = _Records()
    root = logging.getLogger()
    root.addHandler(records)
    yield records.messages
    root.removeHandler(records)
    if records.messages and request.node.get_closest_marker("logs_warnings") is None:
        pytest.fail("unexpected log records:\n" + "\n".join(records.messages), pytrace=False)


@pytest.fixture(autouse=True)
def disarmed_failpoints() -> Iterator[None]:
    """No failpoint outlives the test that armed it."""
    yield
    OF_PROCESS.disarm_all()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweedfs]:
    """A real S3 server, started once; skip where it cannot run."""
    from tests import seaweedfs as weed  # tests of folders load nothing that speaks to stores

    secrets = {"WEED_ACCESS_KEY_ID": weed.ACCESS_KEY, "WEED_SECRET_ACCESS_KEY": weed.SECRET_KEY}
    with ExitStack() as stack:
        stack.enter_context(_set(secrets))
        yield _started(stack, weed.seaweedfs(tmp_path_factory.mktemp("seaweedfs")))


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """A real server of Azure's protocol, started once; skip where it cannot run."""
    from tests import azurite as server

    with ExitStack() as stack:
        stack.enter_context(_set({"AZURITE_ACCOUNT_KEY": server.KEY}))
        yield _started(stack, server.azurite(tmp_path_factory.mktemp("azurite")))


@pytest.fixture(scope="session")
def rgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rgw]:
    """A real S3 server of another make, started once; skip where it cannot run."""
    from tests import rgw as server

    secrets = {"RGW_ACCESS_KEY_ID": server.ACCESS_KEY, "RGW_SECRET_ACCESS_KEY": server.SECRET_KEY}
    with ExitStack() as stack:
        stack.enter_context(_set(secrets))
        yield _started(stack, server.rgw(tmp_path_factory.mktemp("rgw")))


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a bucket of a real server that keeps no conditions; skip where it cannot run."""
    from tests import rclone as server

    secrets = {"FAKE_ACCESS_KEY_ID": fake_s3.ACCESS_KEY, "FAKE_SECRET_ACCESS_KEY": fake_s3.SECRET_KEY}
    with ExitStack() as stack:
        stack.enter_context(_set(secrets))
        yield _started(stack, server.rclone(tmp_path_factory.mktemp("rclone")))


def _started(stack: ExitStack, server: AbstractContextManager[Server]) -> Server:
    try:
        return stack.enter_context(server)
    except servers.NoServerError as error:
        pytest.skip(str(error))


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The person's own drivefs settings do not reach a test, and no test reaches the person's state."""
    for name in [name for name in os.environ if name.startswith("DRIVEFS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DRIVEFS_STATE_DIR", str(tmp_path_factory.getbasetemp() / "state"))
    monkeypatch.setenv("FAKE_ACCESS_KEY_ID", fake_s3.ACCESS_KEY)
    monkeypatch.setenv("FAKE_SECRET_ACCESS_KEY", fake_s3.SECRET_KEY)
    monkeypatch.setenv("FAKE_GOOGLE_TOKEN", fake_google.TOKEN)
