"""The calls about notices of a running drive, as `cache.messages.notices` has them."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

from cache.drive import Drive
from cache.messages import NOTICES, UNDO, Nothing, NoticeShown, NoticesShown, Service, Undone, UndoWanted
from cache.presence import Present, sentence
from cache.services.undo import Undo


def notice_services(drive: Drive) -> list[Service[Any, Any]]:
    """See the module."""

    async def notices(_: Nothing) -> NoticesShown:
        kept = (
            NoticeShown(notice.time_ns, notice.kind.value, notice.path, notice.text, notice.commit)
            for notice in drive.kept_notices()
        )
        others = [] if drive.presence is None else drive.presence.now()
        return NoticesShown((*kept, *map(_of_presence, others)))

    async def undo(wanted: UndoWanted) -> Undone:
        await drive.sync()
        done = await Undo(drive).perform(None if wanted.pin is None else os.fsencode(wanted.pin))
        return Undone(os.fsdecode(done.pin), done.commit, done.made, done.in_the_way)

    return [Service(NOTICES, notices), Service(UNDO, undo)]


def _of_presence(present: Present) -> NoticeShown:
    """The notice of another device's activity, which is not kept."""
    kind = present.activity.name.lower()
    return NoticeShown(present.since_ns, kind, quote(present.path), sentence(present), 0)
