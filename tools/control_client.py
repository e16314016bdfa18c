"""The client of a running mount's control socket: HTTP over a UNIX socket.

The socket is found by the mount's device number (`gateway.control_address`), and believed if it belongs to
the user who mounted, as the kernel says. The mount itself is not asked: root may not look into that of a
user, and one that hangs would not answer. Only in another network namespace than the mount's the extended
attribute `user.drivefs.control` of the mountpoint must tell where the socket's file is.
Synchronous: one question, one answer.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple, TypeVar

import httpx

from cache.messages import Call, MessageError, MountStatus, Watched, WatchWanted, from_plain, to_plain
from gateway.control_address import addresses, peer, within_reach
from tools.deadline import Deadline
from tools.errors import ToolError
from tools.host import mounts
from tools.host.mounts import Mount

CONTROL_ATTRIBUTE: Final = "user.drivefs.control"
ANSWER_SECONDS: Final = 10.0

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class NotMountedError(ToolError):
    """There is no drivefs mount at the path."""


class NoAnswerError(ToolError):
    """The mount is there, but the process behind it is gone or does not answer."""


class NothingToStoreError(ToolError):
    """The mount stores nothing any more, as was said; and nothing waits for that."""


class Synced(NamedTuple):
    """All is stored. `notice`: what the mount has to say besides; `short`: how it is stored with less
    redundancy than promised. Empty: nothing."""

    notice: str
    short: str


class ControlClient:
    """Asks one mount. `ToolError` with one line for whatever goes wrong."""

    def __init__(self, address: str) -> None:
        """`address`: a path, or an abstract address (unix(7)), which begins with a NUL."""
        self._address = address

    @classmethod
    def of_mount(cls, mountpoint: str) -> ControlClient:
        """The client of the drive that is mounted at `mountpoint`. `NotMountedError`, `NoAnswerError`."""
        mount = mounts.find(mountpoint)
        if mount is None or mount.type != mounts.FILE_SYSTEM_TYPE:
            raise NotMountedError(f"{mountpoint}: {_why_not_mounted(mountpoint)}")
        for address in addresses(mount.device):
            client = cls(address)
            with suppress(NoAnswerError):  # it has ended meanwhile
                if client._peer()[1] == mount.owner:
                    return client
        try:
            client = cls(os.fsdecode(os.getxattr(mountpoint, CONTROL_ATTRIBUTE)))
        except OSError as error:
            raise _why_no_socket(mount, error) from None
        if client._peer()[1] != mount.owner:
            raise ToolError(
                f"{mountpoint}: names a control socket that is not of user {mount.owner}, who mounted"
            )
        return client

    def status(self) -> MountStatus:
        """The answer of `GET /status`: see docs/tools.md."""
        answer = self._ask("GET", "/status", Deadline(ANSWER_SECONDS)).json()
        return self._understood(MountStatus, answer)

    def sync(self, mountpoint: str, timeout: float | None) -> Synced:
        """Return when all that programs wrote to the mount before is stored and published, with all its
        redundancy or, as the answer says then, as much as can be had now. `NoAnswerError` after `timeout`
        seconds (None: wait as long as it takes); the mount goes on storing then. `NothingToStoreError`;
        `ToolError` if the kernel could not hand over everything; what the mount has is stored in any case."""
        deadline = Deadline(timeout)
        complaint = self._write_back(mountpoint, deadline)
        try:
            answer: dict[str, Any] = self._ask("POST", "/sync", deadline).json()
        except NoAnswerError:
            raise
        except ToolError as error:
            if complaint is None and self._has_nothing_to_store():
                raise NothingToStoreError(str(error)) from None
            raise
        if complaint is not None:
            raise ToolError(f"{mountpoint}: not all could be written back: {complaint}")
        return Synced(str(answer.get("notice", "")), str(answer.get("short", "")))

    def _has_nothing_to_store(self) -> bool:
        """Whether the mount stores nothing any more, and nothing waits for that."""
        status = self.status()
        return status.fenced and status.waiting is None and not status.journal_lost

    def call(self, call: Call[Question, Answer], question: Question, timeout: float | None = None) -> Answer:
        """The answer to `question`. `ToolError` with the mount's refusal."""
        asked = self._ask("POST", f"/calls/{call.name}", Deadline(timeout), to_plain(question))
        return self._understood(call.answer, asked.json())

    def watch(self, inode: int) -> Iterator[Watched]:
        """The changes below a folder, as they come, until the mount ends or the folder is gone. `ToolError`
        with the mount's refusal."""
        asked = json.dumps(to_plain(WatchWanted(inode))).encode()
        try:
            with self._stream("POST", "/watch", asked, None) as arriving:
                if arriving.is_error:
                    arriving.read()
                    raise ToolError(_reason(arriving))
                for line in arriving.iter_lines():
                    yield self._understood(Watched, json.loads(line))
        except httpx.TransportError as error:
            raise self._no_answer(str(error)) from None

    @contextmanager
    def _stream(
        self, method: str, path: str, body: bytes | None, timeout: float | None
    ) -> Iterator[httpx.Response]:
        """An answer that arrives. httpx's errors. `timeout`: seconds for each read."""
        self.process_id()  # httpx does not close a socket that could not be connected, so this finds out
        # No TLS here, so no certificates: to load them takes longer than most answers.
        with self._reach() as address:
            transport = httpx.HTTPTransport(uds=address, verify=False)
            with (
                httpx.Client(transport=transport, base_url="http://drivefs", timeout=timeout) as client,
                client.stream(method, path, content=body) as arriving,
            ):
                yield arriving

    def _understood(self, kind: type[Answer], value: object) -> Answer:
        try:
            return from_plain(kind, value, lenient=True)
        except MessageError as error:
            raise ToolError(f"the mount answers as another version of drivefs: {error}") from None

    def process_id(self) -> int:
        """The id of the process that serves the mount."""
        return self._peer()[0]

    def _peer(self) -> tuple[int, int]:
        with socket.socket(socket.AF_UNIX) as connection, self._reach() as address:
            connection.settimeout(ANSWER_SECONDS)
            try:
                connection.connect(address)
            except OSError as error:
                raise self._no_answer(error.strerror or str(error)) from None
            return peer(connection)

    @contextmanager
    def _reach(self) -> Iterator[str]:
        """The address, as short as a call needs it. `NoAnswerError` if its folder is gone."""
        try:
            with within_reach(self._address) as address:
                yield address
        except FileNotFoundError as error:
            raise self._no_answer(str(error.strerror)) from None

    def _write_back(self, mountpoint: str, deadline: Deadline) -> str | None:
        """Have the kernel hand the mount what it holds itself; what there is to complain of, if anything. A
        writer that was killed in the middle of a request leaves the kernel an EINTR, which it tells once, to
        the next who syncs: that is no reason to fail."""
        reason = self._sync_file_system(mountpoint, deadline)
        if reason is not None and os.strerror(errno.EINTR) in reason:
            reason = self._sync_file_system(mountpoint, deadline)
        return reason

    def _sync_file_system(self, mountpoint: str, deadline: Deadline) -> str | None:
        """syncfs(2): what there is to complain of, if anything. The mount does it where its owner alone may
        look into it, and we are not the owner."""
        reason = _sync_file_system(mountpoint, deadline)
        if reason is None or os.strerror(errno.EACCES) not in reason:
            return reason
        answer: dict[str, Any] = self._ask("POST", "/write-back", deadline).json()
        return str(answer["problem"]) or None

    def _ask(
        self, method: str, path: str, deadline: Deadline, arguments: dict[str, Any] | None = None
    ) -> httpx.Response:
        # httpx writes JSON in UTF-8, which bytes of names that are no text are not; this writes escapes.
        body = None if arguments is None else json.dumps(arguments).encode()
        try:
            with self._stream(method, path, body, deadline.left()) as arriving:
                answer = _whole(arriving, deadline)
        except httpx.TimeoutException:
            raise NoAnswerError(f"no answer within {deadline}; the mount goes on storing") from None
        except httpx.TransportError as error:
            raise self._no_answer(str(error)) from None
        if answer.is_error:
            raise ToolError(_reason(answer))
        return answer

    def _no_answer(self, reason: str) -> NoAnswerError:
        return NoAnswerError(f"the mount does not answer on {self._address!r}: {reason}")


abandoned: Final[list[subprocess.Popen[bytes]]] = []
"""Those that were killed and may not have ended: to wait for them is what must not be."""


def _sync_file_system(mountpoint: str, deadline: Deadline) -> str | None:
    """The complaint of sync(1), if it has any: a process of its own, as the call cannot be given a time
    limit, and cannot even be killed while the kernel waits for the mount."""
    process = subprocess.Popen(
        ["sync", "--file-system", mountpoint],
        env={**os.environ, "LC_ALL": "C"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _, said = process.communicate(timeout=deadline.left())
    except subprocess.TimeoutExpired:
        process.kill()
        abandoned.append(process)
        raise NoAnswerError(f"not all was written back within {deadline}") from None
    return os.fsdecode(said).strip() if process.returncode else None


def _whole(arriving: httpx.Response, deadline: Deadline) -> httpx.Response:
    """The answer with all that arrives. httpx limits each read of the socket, and not all together:
    `httpx.ReadTimeout` here if they take longer."""
    parts = []
    for part in arriving.iter_bytes():
        parts.append(part)
        if deadline.is_over:
            raise httpx.ReadTimeout("the answer arrives too slowly")
    return httpx.Response(arriving.status_code, content=b"".join(parts))


def _why_not_mounted(mountpoint: str) -> str:
    around = mounts.drive_around(mountpoint)
    if around is not None:
        return f"is in the drive that is mounted at {around.mountpoint}: name that"
    return "no drivefs drive is mounted here" if os.path.lexists(mountpoint) else "no such folder"


def _why_no_socket(mount: Mount, error: OSError) -> ToolError:
    if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
        return NoAnswerError(f"{mount.mountpoint}: the process behind this mount is gone; mount it again")
    if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
        return NotMountedError(f"{mount.mountpoint}: no drivefs drive is mounted here")
    reason = f"{mount.mountpoint}: {error.strerror}"
    if error.errno == errno.EACCES:
        reason += f"; user {mount.owner} mounted it, and its process is not in this network namespace"
    return ToolError(reason)


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the mount answered with status {answer.status_code}"
