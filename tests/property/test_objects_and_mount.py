"""Random calls of the S3 door and of the mount on one tree, against a model: no key is lost, merged or out of
order, and the names are as the rule says, after crashes and remounts too."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from cache.drive import Drive
from cache.namespace import ROOT_INODE
from gateway.s3.key_paths import EMPTY, SELF, key_of, path_of
from gateway.s3.objects import Conditions, Metadata, ObjectLayer, PartToJoin, Source
from tests.contents import contents
from tests.drives import content, make_file
from tests.memory_upstream import MemoryUpstream
from tests.object_layers import BUCKET, accepting, body_of, code_of, get, keys, layer_on, put
from tests.s3_keys import KEYS as ANY_KEYS
from tests.s3_keys import NAMES as ANY_NAMES
from tests.s3_keys import is_allowed

Path = tuple[bytes, ...]
T = TypeVar("T")
S_IFDIR = 0o040755

LONG = b"n" * 260
SEGMENTS = st.sampled_from([b"a", b"a", b"b", b"a!", b"", b".", b".versions", b".s3~self", LONG, b".s3~bff"])


FEW_KEYS = st.lists(SEGMENTS, min_size=1, max_size=3).map(b"/".join).filter(is_allowed)
FEW_NAMES = st.sampled_from(
    [b"a", b"a", b"b", b"a!", b"\xff", SELF, EMPTY, b".s3~q..", *path_of(LONG), b".versions", b".s3~zz"]
)
FEW_PATHS = st.lists(FEW_NAMES, min_size=1, max_size=3).map(tuple)
BODIES = st.one_of(st.just(b""), contents(max_size=3000, seeds=50))
NOTHING = st.just(b"")
Call = tuple[str, bytes | Path, bytes | Path]


def calls(keys: st.SearchStrategy[bytes], paths: st.SearchStrategy[Path]) -> st.SearchStrategy[list[Call]]:
    """Of the door about such keys, and of the mount about such paths."""
    return st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["put", "create", "upload"]), keys, BODIES),
            st.tuples(st.just("copy"), keys, keys),
            st.tuples(st.just("delete"), keys, NOTHING),
            st.tuples(st.sampled_from(["mkdir", "remove"]), paths, NOTHING),
            st.tuples(st.just("write"), paths, contents(max_size=3000, min_size=1, seeds=50)),
            st.tuples(st.just("rename"), paths, paths),
            st.tuples(st.sampled_from(["remount", "crash", "sync"]), NOTHING, NOTHING),
        ),
        max_size=25,
    )


@st.composite
def calls_about_any_keys(draw: st.DrawFn) -> list[Call]:
    """A few keys, any that S3 allows, those beside, above and below them, and any names of the mount."""
    drawn = draw(st.lists(ANY_KEYS, min_size=1, max_size=4))
    beside = [
        found for key in drawn for found in (key, key + b"/", key + b"/x", key.rpartition(b"/")[0] + b"/")
    ]
    keys = sorted(filter(is_allowed, beside))
    above = {path_of(key)[:length] for key in keys for length in range(1, len(path_of(key)) + 1)}
    strange = draw(st.lists(ANY_NAMES, max_size=2))
    below = {(*path[:-1], name) for path in above for name in strange}
    return draw(calls(st.sampled_from(keys), st.sampled_from(sorted(above | below))))


@dataclass
class Folder:
    implied: bool
    marker: bool = False


class RefusedError(Exception):
    """The mount's folder is where a body belongs."""


@dataclass
class Model:
    """The bucket's folder: what is there by names, and which keys that is."""

    files: dict[Path, bytes] = field(default_factory=dict)
    folders: dict[Path, Folder] = field(default_factory=lambda: {(): Folder(False)})

    def children(self, folder: Path) -> list[Path]:
        return [path for path in (*self.files, *self.folders) if path and path[:-1] == folder]

    # Calls of the door

    def put(self, key: bytes, data: bytes) -> None:
        path = path_of(key)
        if (*path, SELF) in self.folders:
            is_marker = key.endswith(b"/") and not data
            if not is_marker:
                raise RefusedError
        self._make_way(path)
        marker = self.folders[path[:-1]] if key.endswith(b"/") else None
        if marker is not None:
            marker.marker = not data
        place = (*path, SELF) if path in self.folders else path
        self.files.pop(place, None)
        if marker is None or data:
            self.files[place] = data

    def _make_way(self, path: Path) -> None:
        for length in range(1, len(path)):
            folder = path[:length]
            if folder in self.files:
                self.files[(*folder, SELF)] = self.files.pop(folder)
            elif folder in self.folders:
                continue
            self.folders[folder] = Folder(implied=True)

    def delete(self, key: bytes) -> None:
        path = path_of(key)
        for place in (path, (*path, SELF)):
            if place in self.files:
                del self.files[place]
                self._prune(place[:-1])
                return
        folder = path[:-1]
        if key.endswith(b"/") and self._is_marker(folder):
            self.folders[folder].marker = False
            if not self._others(folder):
                self._take_away(folder)

    def _others(self, folder: Path) -> list[Path]:
        body = (*folder, SELF)
        return [path for path in self.children(folder) if path != body or path in self.folders]

    def _is_marker(self, folder: Path) -> bool:
        known = self.folders.get(folder)
        if known is None or not folder:
            return False
        return known.marker or (not known.implied and not self._others(folder))

    def _take_away(self, folder: Path) -> None:
        del self.folders[folder]
        body = self.files.pop((*folder, SELF), None)
        if body is None:
            self._prune(folder[:-1])
        else:
            self.files[folder] = body

    def _prune(self, folder: Path) -> None:
        known = self.folders[folder]
        if folder and known.implied and not known.marker and not self._others(folder):
            self._take_away(folder)

    # What is seen

    def keys(self) -> list[bytes]:
        found = [self._key(path) for path in self.files if not self._is_hidden(path)]
        for folder in self.folders:
            has_body = self._body((*folder, EMPTY)) is not None
            if self._is_marker(folder) and not has_body and SELF not in folder[1:]:
                found.append(key_of(folder) + b"/")
        return sorted(key for key in found if is_allowed(key))

    def _is_hidden(self, path: Path) -> bool:
        folder = path[:-1] if path[-1] == SELF and len(path) > 1 else path
        return SELF in folder[1:]

    @staticmethod
    def _key(path: Path) -> bytes:
        return key_of(path[:-1] if path[-1] == SELF and len(path) > 1 else path)

    def _body(self, path: Path) -> bytes | None:
        return self.files.get(path, self.files.get((*path, SELF)))

    def get(self, key: bytes) -> bytes:
        return self._body(path_of(key)) or b""


async def locate(drive: Drive, path: Path) -> int:
    inode = drive.lookup(ROOT_INODE, BUCKET.encode()).inode
    for name in path:
        inode = drive.lookup(inode, name).inode
    return inode


async def by_mount(drive: Drive, model: Model, call: str, path: Path, other: Path | bytes) -> None:
    """A call of the mount, where the model says that it can be."""
    above = path[:-1]
    if above not in model.folders:
        return
    directory = await locate(drive, above)
    is_free = path not in model.files and path not in model.folders
    if call == "mkdir" and is_free:
        await drive.make_node(directory, path[-1], S_IFDIR, 0, 0, 0)
        model.folders[path] = Folder(implied=False)
    elif call == "write" and isinstance(other, bytes) and path not in model.folders:
        if is_free:
            await make_file(drive, path[-1], other, directory)
            model.files[path] = other
        else:
            await drive.write(await locate(drive, path), 0, other)
            model.files[path] = other + model.files[path][len(other) :]
    elif call == "remove" and path in model.files:
        await drive.unlink(directory, path[-1])
        del model.files[path]
    elif call == "remove" and path in model.folders and not model.children(path):
        await drive.remove_directory(directory, path[-1])
        del model.folders[path]
    elif call == "rename" and isinstance(other, tuple):
        await rename(drive, model, path, other)


async def rename(drive: Drive, model: Model, path: Path, other: Path) -> None:
    if other[:-1] not in model.folders or other in model.files or other in model.folders:
        return
    if other[: len(path)] == path or not (path in model.files or path in model.folders):
        return
    await drive.rename(await locate(drive, path[:-1]), path[-1], await locate(drive, other[:-1]), other[-1])
    _move(model.files, path, other)
    _move(model.folders, path, other)


def _move(known: dict[Path, T], path: Path, other: Path) -> None:
    for each in [each for each in known if each[: len(path)] == path]:
        known[other + each[len(path) :]] = known.pop(each)


async def by_door(layer: ObjectLayer, model: Model, call: str, key: bytes, other: bytes) -> None:
    """A call of the door; `other` is the body, or the key of a copy."""
    if call == "delete":
        await layer.delete(BUCKET, key)
        model.delete(key)
        return
    known = model.keys()
    if call == "copy" and key not in known:
        assert await code_of(layer.copy(Source(BUCKET, key), BUCKET, other)) == "NoSuchKey"
        return
    code = await code_of(_put_by(layer, call, key, other))
    if call == "create" and key in known:
        assert code == "PreconditionFailed"
        return
    written, data = (other, model.get(key)) if call == "copy" else (key, other)
    try:
        model.put(written, data)
    except RefusedError:
        assert code == "InvalidRequest"
    else:
        assert code == ""


async def _put_by(layer: ObjectLayer, call: str, key: bytes, other: bytes) -> None:
    """One of the ways to make an object."""
    if call == "copy":
        await layer.copy(Source(BUCKET, key), BUCKET, other)
    elif call == "upload":
        upload = (BUCKET, key, (await layer.create_upload(BUCKET, key, Metadata())).upload_id)
        part = await layer.put_part(*upload, 1, body_of(other), len(other), accepting)
        await layer.complete(*upload, [PartToJoin(1, part.etag)], lambda _: accepting(""))
    else:
        none = ("*",) if call == "create" else None
        await put(layer, key, other, conditions=Conditions(if_none_match=none))


async def check(layer: ObjectLayer, drive: Drive, model: Model) -> None:
    wanted = model.keys()
    assert len({*wanted}) == len(wanted)
    for page in (1000, 2):
        assert await keys(layer, page=page) == wanted
    for key in wanted:
        assert await get(layer, key) == model.get(key)
        assert layer.head(BUCKET, key).size == len(model.get(key))
    for path, data in model.files.items():
        assert await content(drive, await locate(drive, path)) == data
    for path in model.folders:
        names = [entry.name for entry in drive.entries(await locate(drive, path), 0, 1000)]
        assert sorted(names) == sorted(each[-1] for each in model.children(path))


@settings(max_examples=60, deadline=None)
@given(calls(FEW_KEYS, FEW_PATHS))
async def test_one_tree(calls: list[Call]) -> None:
    with TemporaryDirectory() as folder:
        await run(pathlib.Path(folder), calls)


@settings(max_examples=60, deadline=None)
@given(calls_about_any_keys())
async def test_one_tree_of_any_keys_and_names(calls: list[Call]) -> None:
    with TemporaryDirectory() as folder:
        await run(pathlib.Path(folder), calls)


async def run(folder: pathlib.Path, calls: list[Call]) -> None:
    upstream, model = MemoryUpstream(), Model()
    waiting = list(calls)
    while True:
        ending: list[str] = []
        async with layer_on(folder, upstream, crash=lambda ending=ending: ending == ["crash"]) as (
            layer,
            drive,
        ):
            while waiting and not ending:
                call, first, second = waiting.pop(0)
                if call in ("remount", "crash"):
                    ending.append(call)
                elif call == "sync":
                    await drive.sync()
                elif isinstance(first, tuple):
                    await by_mount(drive, model, call, first, second)
                else:
                    assert isinstance(second, bytes)
                    await by_door(layer, model, call, first, second)
            await check(layer, drive, model)
        if not ending:
            return
