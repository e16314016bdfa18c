"""The client of a running mount's control socket: HTTP over a UNIX socket in the cache directory.

The mount says where its socket is by the extended attribute `user.drivefs.control` of its
mountpoint, so no tool needs to know the cache directory. Synchronous: one question, one answer.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
from collections.abc import Mapping
from typing import Any, Final

import httpx

from tools import mounts
from tools.errors import ToolError

CONTROL_ATTRIBUTE: Final = "user.drivefs.control"
ANSWER_SECONDS: Final = 10.0


class NotMountedError(ToolError):
    """There is no drivefs mount at the path."""


class NoAnswerError(ToolError):
    """The mount is there, but the process behind it is gone or does not answer."""


class ControlClient:
    """Asks one mount. `ToolError` with one line for whatever goes wrong."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path

    @classmethod
    def of_mount(cls, mountpoint: str) -> ControlClient:
        """The client of the drive that is mounted at `mountpoint`. `NotMountedError`,
        `NoAnswerError`."""
        try:
            found = os.getxattr(mountpoint, CONTROL_ATTRIBUTE)
        except OSError as error:
            raise _why_no_socket(mountpoint, error) from None
        return cls(os.fsdecode(found))

    def status(self) -> dict[str, Any]:
        """What `GET /status` says: see docs/tools.md."""
        answer: dict[str, Any] = self._ask("GET", "/status", ANSWER_SECONDS).json()
        return answer

    def sync(self, mountpoint: str, timeout: float | None) -> None:
        """Return when all that programs wrote to the mount before is stored and published. `NoAnswerError`
        after `timeout` seconds (None: wait as long as it takes); the mount goes on storing then."""
        _write_back(mountpoint, timeout)
        self._ask("POST", "/sync", timeout)

    def call(self, name: str, arguments: Mapping[str, Any], timeout: float | None = None) -> dict[str, Any]:
        """What the call `name` (`cache.calls`) answers to `arguments`. `ToolError` with its refusal."""
        answer: dict[str, Any] = self._ask("POST", f"/calls/{name}", timeout, dict(arguments)).json()
        return answer

    def process_id(self) -> int:
        """The id of the process that serves the mount (SO_PEERCRED of its socket, unix(7))."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(self._socket_path)
            except OSError as error:
                raise self._no_answer(os.strerror(error.errno or 0)) from None
            size = struct.calcsize("3i")
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        process, _, _ = struct.unpack("3i", credentials)
        return int(process)

    def _ask(
        self, method: str, path: str, timeout: float | None, arguments: dict[str, Any] | None = None
    ) -> httpx.Response:
        self.process_id()  # httpx does not close a socket that could not be connected, so this finds out
        # No TLS here, so no certificates: to load them takes longer than most answers.
        transport = httpx.HTTPTransport(uds=self._socket_path, verify=False)
        with httpx.Client(transport=transport, base_url="http://drivefs", timeout=timeout) as client:
            try:
                answer = client.request(method, path, json=arguments)
            except httpx.TimeoutException:
                raise NoAnswerError(f"no answer within {timeout:g} s; the mount goes on storing") from None
            except httpx.TransportError as error:
                raise self._no_answer(str(error)) from None
        if answer.is_error:
            raise ToolError(_reason(answer))
        return answer

    def _no_answer(self, reason: str) -> NoAnswerError:
        return NoAnswerError(f"the mount does not answer on {self._socket_path}: {reason}")


def _write_back(mountpoint: str, timeout: float | None) -> None:
    """Have the kernel hand the mount what it holds itself, syncfs(2): by a process of its own, as the call
    cannot be given a time limit. A writer that was killed in the middle of a request leaves the kernel an
    EINTR, which it tells once, to the next who syncs: that is no reason to fail."""
    reason = _sync_file_system(mountpoint, timeout)
    if reason is not None and os.strerror(errno.EINTR) in reason:
        reason = _sync_file_system(mountpoint, timeout)
    if reason is not None:
        raise ToolError(f"{mountpoint}: not all could be written back: {reason}")


def _sync_file_system(mountpoint: str, timeout: float | None) -> str | None:
    """What sync(1) has to complain of, if anything."""
    try:
        result = subprocess.run(
            ["sync", "--file-system", mountpoint],
            env={**os.environ, "LC_ALL": "C"},
            timeout=timeout,
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"not all was written back within {timeout:g} s") from None
    return result.stderr.strip() if result.returncode else None


def _why_no_socket(mountpoint: str, error: OSError) -> ToolError:
    if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
        return NoAnswerError(f"{mountpoint}: the process behind this mount is gone; mount it again")
    if error.errno == errno.ENOENT:
        return NotMountedError(f"{mountpoint}: no such folder")
    if mounts.find(mountpoint) is None or error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
        return NotMountedError(f"{mountpoint}: no drivefs drive is mounted here")
    return ToolError(f"{mountpoint}: {error.strerror}")


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the mount answered with status {answer.status_code}"
