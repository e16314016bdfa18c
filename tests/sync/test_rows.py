"""The rows of the table in docs/conflicts.md, one by one: what is published first, what the second device
did, and the tree that both have then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from cache.attributes import CLAIM
from cache.namespace.operations import Pin, SetRetention, Unpin
from cache.rebase import COPY_OF, Row
from tests.sync.test_pairs import Stage, make_stage

BASE: Final = {
    "f": "F",
    "g": "G",
    "k": "K",
    "l": "K",
    "d": "/",
    "d/s": "/",
    "d/s/z": "Z",
    "d/x": "X",
    "d/y": "Y",
    "e": "/",
    "q": "Q",
    "q-wal": "W",
}
COPY: Final = "f (conflict 2023-11-14 dev3)"
IN_D: Final = ("d", "d/s", "d/s/z", "d/x", "d/y")
Q: Final = "q (conflict 2023-11-14 dev3)"
GONE: Final = dict.fromkeys(IN_D)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = make_stage(tmp_path_factory.mktemp("rows"), 2)
    yield made
    for device in made.devices:
        device.close()


def moved(to: str) -> dict[str, str | None]:
    """The folder d is there instead."""
    return {**GONE, **{to + path[1:]: BASE[path] for path in IN_D}}


@pytest.mark.parametrize(
    ("theirs", "ours", "changed", "rows"),
    [
        # The same result
        ("write the same to f", "write the same to f", {"f": "same"}, {Row.SAME}),
        ("save f the same", "save f the same", {"f": "same"}, {Row.SAME}),
        ("create h the same", "create h the same", {"h": "same"}, {Row.SAME}),
        ("mkdir h", "mkdir h", {"h": "/"}, {Row.FOLDERS_MERGED}),
        ("symlink h", "symlink h", {"h": "f"}, {Row.SAME}),
        ("unlink f", "unlink f", {"f": None}, set()),
        ("remove d", "remove d", GONE, set()),
        ("rename f to h", "rename f to h", {"f": None, "h": "F"}, {Row.SAME}),
        ("remove user.a of f", "remove user.a of f", {}, set()),
        # Contents
        ("write f", "write f", {"f": "f2", COPY: "f3"}, {Row.CONTENT_CONTENT}),
        (
            "write k",
            "write k",
            {"k": "k2", "l": "k2", "k (conflict 2023-11-14 dev3)": "k3"},
            {Row.CONTENT_CONTENT},
        ),
        ("unlink f", "write f", {"f": "f3"}, {Row.CONTENT_DELETE}),
        (
            "remove d",
            "write d/s/z",
            {**GONE, "d": "/", "d/s": "/", "d/s/z": "z3"},
            {Row.CONTENT_DELETE, Row.FOLDER_AGAIN},
        ),
        ("rename f to h", "write f", {"f": None, "h": "f3"}, set()),
        ("write f", "rename f to h", {"f": None, "h": "f2"}, set()),
        ("chmod f", "write f", {"f": "f3"}, set()),
        ("set user.a of f", "write f", {"f": "f3"}, set()),
        # Contents as editors save them
        ("write f", "save f", {"f": "f2", COPY: "saved3"}, {Row.SAVE_CONTENT, Row.NAME_TAKEN}),
        ("write f", "unlink and create f", {"f": "f2", COPY: "anew3"}, {Row.SAVE_CONTENT, Row.NAME_TAKEN}),
        ("save f", "write f", {"f": "saved2", COPY: "f3"}, {Row.CONTENT_DELETE, Row.NAME_TAKEN}),
        ("save f", "save f", {"f": "saved2", COPY: "saved3"}, {Row.SAVE_CONTENT, Row.NAME_TAKEN}),
        ("rename f to h", "save f", {"f": None, "h": "saved3"}, {Row.SAVE_RENAME}),
        ("save f", "rename f to h", {"f": None, "h": "saved2"}, {Row.RENAME_SAVE}),
        ("unlink f", "save f", {"f": "saved3"}, {Row.CONTENT_DELETE}),
        # Removed names
        ("write f", "unlink f", {"f": "f2"}, {Row.UNLINK_CONTENT}),
        ("save f", "unlink f", {"f": "saved2"}, {Row.UNLINK_CONTENT}),
        ("rename f to h", "unlink f", {"f": None, "h": "F"}, {Row.UNLINK_MOVED}),
        ("write k", "unlink l", {"k": "k2", "l": None}, set()),
        ("unlink k", "unlink l", {"k": None}, {Row.UNLINK_LAST}),
        ("write f", "link f, unlink f", {"f": None, "h": "f2"}, set()),
        # Renames
        ("rename f to h", "rename f to i", {"f": None, "h": "F"}, {Row.RENAME_RENAME}),
        ("rename d to h", "rename d into e", moved("h"), {Row.RENAME_RENAME}),
        ("unlink f", "rename f into e", {"f": None, "e/f": "F"}, {Row.RENAME_DELETE}),
        ("remove d", "rename d into e", moved("e/d"), {Row.RENAME_DELETE}),
        ("unlink f", "rename f to h", {"f": None}, {Row.RENAME_GONE}),
        ("rename d into e", "rename e into d", moved("e/d"), {Row.CYCLE}),
        ("write f", "exchange f and g", {"f": "f2"}, {Row.EXCHANGE}),
        ("write d/x", "exchange f and g", {"f": "G", "g": "F", "d/x": "x2"}, set()),
        # Names that are taken
        ("create h", "create h", {"h": "h2", "h (conflict 2023-11-14 dev3)": "h3"}, {Row.NAME_TAKEN}),
        (
            "create h",
            "rename f to h",
            {"f": None, "h": "h2", "h (conflict 2023-11-14 dev3)": "F"},
            {Row.NAME_TAKEN},
        ),
        ("create h", "link f to h", {"h": "h2", "h (conflict 2023-11-14 dev3)": "F"}, {Row.NAME_TAKEN}),
        (
            "mkdir h with a file",
            "mkdir h with a file",
            {"h": "/", "h/n": "n2", "h/n (conflict 2023-11-14 dev3)": "n3"},
            {Row.FOLDERS_MERGED, Row.NAME_TAKEN},
        ),
        (
            "mkdir h",
            "rename d to h",
            {"h": "/", **moved("h (conflict 2023-11-14 dev3)")},
            {Row.NAME_TAKEN},
        ),
        (
            "create h",
            "rename f leaving a whiteout",
            {"f": "", "h": "h2", "h (conflict 2023-11-14 dev3)": "F"},
            {Row.NAME_TAKEN},
        ),
        # Folders
        ("create d/h", "remove d", {**GONE, "d": "/", "d/h": "h2"}, {Row.FOLDER_KEPT}),
        (
            "write d/s/z",
            "remove d",
            {**GONE, "d": "/", "d/s": "/", "d/s/z": "z2"},
            {Row.FOLDER_KEPT, Row.UNLINK_CONTENT},
        ),
        ("rename d to h", "remove d", moved("h"), {Row.FOLDER_MOVED}),
        ("remove d", "create d/h", {**GONE, "d": "/", "d/h": "h3"}, {Row.FOLDER_AGAIN}),
        (
            "write f",
            "a folder for f",
            {"f": "f2", COPY: "/", f"{COPY}/new": "in3"},
            {Row.NAME_TAKEN, Row.UNLINK_CONTENT},
        ),
        ("write f", "f into its folder", {"f": "/", "f/f": "f2"}, set()),
        # Databases and what lies beside them
        ("write q", "write q-wal", {"q": "q2", Q: "Q", f"{Q}-wal": "w3"}, {Row.UNIT}),
        ("write q-wal", "write q", {"q-wal": "w2", Q: "q3", f"{Q}-wal": "W"}, {Row.UNIT}),
        ("write q", "checkpoint q", {"q": "q2", Q: "q3"}, {Row.UNIT}),
        ("checkpoint q", "write q-wal", {"q": "q2", "q-wal": None, Q: "Q", f"{Q}-wal": "w3"}, {Row.UNIT}),
        (
            "write q",
            "write q-journal",
            {"q": "q2", Q: "Q", f"{Q}-wal": "W", f"{Q}-journal": "j3"},
            {Row.UNIT},
        ),
        ("save q", "save q", {"q": "saved2", Q: "saved3", f"{Q}-wal": "W"}, {Row.UNIT}),
        ("write q", "remove q", {"q": "q2"}, {Row.UNIT}),
        ("remove q", "write q-wal", {"q": "Q", "q-wal": "w3"}, {Row.UNIT}),
        (
            "rename q",
            "write q-wal",
            {"q": "Q", "q-wal": "w3", "r": "Q", "r-wal": "W"},
            {Row.UNIT},
        ),
        (
            "write the same to q and q-wal",
            "write the same to q and q-wal",
            {"q": "qq", "q-wal": "ww"},
            {Row.SAME},
        ),
        ("remove q", "remove q", {"q": None, "q-wal": None}, set()),
        # Attributes and links
        ("chmod f", "chmod f", {}, {Row.FIELD}),
        ("chown f", "chown f", {}, {Row.FIELD}),
        ("set user.a of f", "set user.a of f", {}, {Row.FIELD}),
        ("write f", "touch f", {"f": "f2"}, {Row.TIMES}),
        ("write f", "link f to h", {"f": "f2", "h": "f2"}, set()),
        ("unlink f", "link f to h", {"f": None, "h": "F"}, {Row.LINK_DELETE}),
    ],
)
def test_row(stage: Stage, theirs: str, ours: str, changed: dict[str, str | None], rows: set[Row]) -> None:
    stage.hits.clear()
    expected = {path: text for path, text in {**BASE, **changed}.items() if text is not None}
    assert stage.run(theirs, ours) == dict(sorted(expected.items()))
    assert set(stage.hits) == rows


def row_of(stage: Stage, path: str) -> tuple[int, int]:
    row = stage.devices[0].namespace.inode(stage.devices[0].find(path))
    assert row is not None
    return row.mode & 0o7777, row.uid


def test_the_later_mode_and_owner_stand_field_by_field(stage: Stage) -> None:
    stage.run("chmod f", "chmod f")
    assert row_of(stage, "f") == (0o603, 0)
    stage.run("chown f", "chmod f")
    assert row_of(stage, "f") == (0o603, 1002)


@pytest.mark.parametrize(("theirs", "ours"), [("setuid f", "write f"), ("write f", "setuid f")])
def test_no_content_runs_with_rights_that_were_given_to_another(stage: Stage, theirs: str, ours: str) -> None:
    stage.run(theirs, ours)
    assert row_of(stage, "f") == (0o755, 0)


@pytest.mark.parametrize(
    ("theirs", "ours", "claim"),
    [
        ("write f with a claim", "claim f", b"of 2"),
        ("claim f", "write f with a claim", b"of 3"),
        ("claim f", "write f", None),
        ("write f", "claim f", None),
        ("claim f", "chmod f", b"of the base, 2"),
    ],
)
def test_no_claim_stands_on_bytes_that_it_was_not_made_of(
    stage: Stage, theirs: str, ours: str, claim: bytes | None
) -> None:
    stage.run(theirs, ours)
    first = stage.devices[0]
    assert first.namespace.xattr(first.find("f"), CLAIM) == claim


def test_a_saved_file_has_the_mode_that_others_gave_it(stage: Stage) -> None:
    stage.run("chmod f", "save f")
    assert row_of(stage, "f") == (0o602, 0)


def test_a_folder_that_is_made_again_has_its_mode(stage: Stage) -> None:
    stage.run("remove d", "chmod d and create d/h")
    assert row_of(stage, "d") == (0o700, 0)


def test_a_copy_says_what_it_is_of(stage: Stage) -> None:
    stage.run("write f", "write f")
    said = stage.devices[0].namespace.xattr(stage.devices[0].find(COPY), COPY_OF)
    assert said == b'{"of": "f", "base": 1, "by": "dev3"}'


def test_what_came_and_went_makes_no_commit(stage: Stage) -> None:
    stage.run("write f", "nothing that stays")
    assert len(stage.log) == 2


def test_the_later_pin_and_the_later_policy_count(stage: Stage) -> None:
    first, second = stage.devices
    for device in (first, second):
        device.reset(1)
    del stage.log[1:]
    first.do(Pin(b"p", 1), SetRetention(1, 0, 0, 0, 0))
    first.sync(stage.log)
    first.do(Pin(b"q", 1))
    first.sync(stage.log)
    second.do(Pin(b"p", 1), Pin(b"r", 1), Unpin(b"r"), SetRetention(2, 0, 0, 0, 0))
    second.sync(stage.log)
    assert second.namespace.points.pins() == {b"p": 1, b"q": 1}
    assert second.namespace.points.policy() == (2, 0, 0, 0, 0)
