"""Files that get their name when all of their content is there; names by seeking."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import StaleError
from cache.namespace import ROOT_INODE, Link, Namespace
from cache.namespace.operations import Create
from tests.contents import content as made_of
from tests.drives import content_of, make_file, opened
from tests.memory_upstream import MemoryUpstream


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("crash", [False, True])
async def test_a_nameless_file_is_there_once_it_has_a_name(tmp_path: Path, linked: bool, crash: bool) -> None:
    upstream, data = MemoryUpstream(), made_of("half-compressible", 100_000)
    async with opened(tmp_path, upstream, crash=crash) as drive:
        inode = await drive.make_nameless(ROOT_INODE, 0o644, 1, 2)
        assert drive.entries(ROOT_INODE, 0, 10) == []
        await drive.write(inode, 0, data)
        await drive.sync()
        if linked:
            await drive.settle(inode)
            await drive.accept_together(lambda: [Link(inode, ROOT_INODE, b"name", drive.now())])
        await drive.fsync(inode)
        drive.release(inode)
    async with opened(tmp_path, upstream) as drive:
        if linked:
            assert await content_of(drive, b"name") == data
            assert (drive.attributes(inode).uid, drive.attributes(inode).gid) == (1, 2)
        else:
            with pytest.raises(StaleError):
                drive.attributes(inode)
        assert drive.statistics().inodes - drive.statistics().free_inodes == 1 + linked


async def test_a_nameless_file_is_made_beside_any_name(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        inode = (await make_file(drive, b"file")).inode
        for number in range(inode, inode + 20):
            await drive.link(inode, ROOT_INODE, b".nameless-%d" % number)
        names = [entry.name for entry in drive.entries(ROOT_INODE, 0, 99)]
        nameless = await drive.make_nameless(ROOT_INODE, 0o644, 0, 0)
        assert b".nameless-%d" % nameless in names
        assert drive.attributes(nameless).nlink == 0
        assert [entry.name for entry in drive.entries(ROOT_INODE, 0, 99)] == names


@given(st.sets(st.binary(min_size=1, max_size=4).filter(lambda n: not {0, 47}.intersection(n))))
def test_names_come_in_the_order_of_bytes_from_anywhere(
    tmp_path_factory: pytest.TempPathFactory, names: set[bytes]
) -> None:
    names -= {b".", b".."}
    namespace = Namespace(str(tmp_path_factory.mktemp("names") / "db"))
    for number, name in enumerate(names, 2):
        namespace.apply(Create(ROOT_INODE, name, number, 0o100644, 0, 0, 0, b"", 1))
    for start in [b"", *names]:
        for end in [b"\xff" * 5, *names]:
            found = namespace.entries_by_name(ROOT_INODE, start, end, 3)
            assert [row.name for row in found] == sorted(name for name in names if start <= name < end)[:3]
    namespace.close()
