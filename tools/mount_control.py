"""The control socket of a mount, put together: what it asks of the drive, and what of the session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cache.drive import Drive
from cache.services import calls_of
from gateway.control import Commands, ControlServer
from mountfs.session import Session


def control_server(
    path: Path, drive: Drive, session: Session, *, versions_name: bytes = b"", folders: Mapping[str, str]
) -> ControlServer:
    """To be given to `session`. The status also has `versions_name` (the hidden directory's, empty: there is
    none) and `folders`, those that the drive has on this machine, by what they are for."""

    async def status() -> Mapping[str, Any]:
        own = {"versions_dir": quote(versions_name), "folders": dict(folders)}
        found = await drive.status()
        if hidden := own.keys() & found.keys():
            raise AssertionError(f"two values of {', '.join(hidden)} in one status")
        return {**found, **own}

    commands = Commands(
        status=status,
        sync=drive.sync,
        write_back=session.write_back,
        unmount=session.ask_to_end,
        notice=lambda: drive.lost_journal,
        redundancy=drive.redundancy,
        calls=calls_of(drive),
    )
    return ControlServer(path, commands)
