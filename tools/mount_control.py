"""The control socket of a mount, put together: the calls that it makes of the drive and of the session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

from cache.drive import Drive
from cache.messages import MountStatus, Watched, to_plain
from cache.services import Watch, services_of
from gateway.control import Commands, Send
from mountfs.session import Session


def commands_of(
    drive: Drive,
    session: Session,
    *,
    versions_name: bytes = b"",
    folders: Mapping[str, str],
    hub: str = "",
    problem: Callable[[], str] = str,
) -> Commands:
    """The answers of a control server of `session`. The status also has `versions_name` (the hidden
    directory's, empty: there is none), `folders`, those that the drive has on this machine, by what they
    are for, and `hub`, the address of the one that has the drive (empty: none). `problem`: what is wrong
    with the mount where nothing is with the drive, in one line; empty: nothing."""

    async def status() -> MountStatus:
        name = quote(versions_name)
        status = MountStatus.of(await drive.status(), versions_dir=name, folders=folders, hub=hub)
        return replace(status, problem=status.problem or problem())

    def watch(inode: int) -> Callable[[Send], Awaitable[None]]:
        watching = Watch(drive, inode)

        async def run(send: Send) -> None:
            async def tell(lines: Sequence[Watched]) -> None:
                for line in lines:
                    await send(to_plain(line))

            await watching.run(tell)

        return run

    return Commands(
        status=status,
        sync=drive.sync,
        write_back=session.write_back,
        unmount=session.ask_to_end,
        notice=lambda: drive.lost_journal,
        redundancy=drive.redundancy,
        calls=services_of(drive),
        watch=watch,
    )
