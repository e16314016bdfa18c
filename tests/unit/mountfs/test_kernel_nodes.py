"""What the nodes of a mount show when others change the drive."""

from __future__ import annotations

from collections import Counter

import pytest

from cache.errors import StaleError
from cache.namespace import DOOR_INODES
from cache.sync import Replaced
from mountfs.kernel_nodes import Holding, KernelNodes, Look


class Drive:
    """It counts what is held."""

    def __init__(self) -> None:
        self.inodes = Counter[int]()
        self.commits = Counter[int]()
        self.nodes = KernelNodes(
            Holding(
                lambda inode: self.inodes.update([inode]),
                lambda inode: self.inodes.subtract([inode]),
                lambda commit: self.commits.update([commit]),
                lambda commit: self.commits.subtract([commit]),
            )
        )

    def held(self) -> tuple[dict[int, int], dict[int, int]]:
        return dict(+self.inodes), dict(+self.commits)

    def shows_past(self, node: int) -> tuple[int, int] | None:
        shown = self.nodes.shown(node)
        return (shown.inode, shown.commit) if isinstance(shown, Look) else None


@pytest.fixture
def drive() -> Drive:
    return Drive()


def test_a_node_is_its_inode_while_nobody_changes_it(drive: Drive) -> None:
    assert drive.nodes.node(7) == 7
    drive.nodes.hold(7, 2)
    drive.nodes.hold(7)
    assert drive.nodes.inode(7) == drive.nodes.known(7) == 7
    assert drive.held() == ({7: 1}, {})
    drive.nodes.release(7, 2)
    assert drive.nodes.known(7) == 7
    drive.nodes.release(7)
    assert drive.nodes.known(7) is None
    assert drive.held() == ({}, {})


def test_a_node_that_others_replaced_shows_the_past_and_the_inode_gets_an_alias(drive: Drive) -> None:
    drive.nodes.hold(7)
    drive.nodes.replace(Replaced(3, frozenset([7]), {}))
    assert drive.shows_past(7) == (7, 3)
    with pytest.raises(StaleError):
        drive.nodes.inode(7)
    alias = drive.nodes.node(7)
    assert alias >= DOOR_INODES
    assert drive.nodes.node(7) == alias
    drive.nodes.hold(alias)
    assert drive.nodes.known(7) == alias
    assert drive.held() == ({7: 1}, {3: 1})
    drive.nodes.replace(Replaced(5, frozenset([7]), {}))
    assert drive.shows_past(alias) == (7, 5)
    assert drive.shows_past(7) == (7, 3)
    assert drive.nodes.node(7) not in (7, alias)
    drive.nodes.release(7)
    drive.nodes.release(alias)
    assert drive.held() == ({}, {})


def test_the_number_is_the_inodes_again_when_the_kernel_has_forgotten_it(drive: Drive) -> None:
    drive.nodes.hold(7)
    drive.nodes.replace(Replaced(3, frozenset([7]), {}))
    drive.nodes.release(7)
    assert drive.nodes.node(7) == 7
    assert drive.nodes.inode(7) == 7


def test_what_the_kernel_does_not_know_is_not_kept(drive: Drive) -> None:
    drive.nodes.replace(Replaced(3, frozenset([7]), {8: 9}))
    assert drive.nodes.node(7) == 7
    assert drive.held() == ({}, {})


def test_a_node_goes_on_as_what_its_content_became(drive: Drive) -> None:
    drive.nodes.hold(7)
    drive.nodes.named(7, (1, b"f"))
    drive.nodes.replace(Replaced(3, frozenset([7]), {7: 20}))
    assert drive.nodes.inode(7) == 20
    assert drive.nodes.node(20) == 7
    assert drive.nodes.node(7) >= DOOR_INODES
    assert drive.held() == ({20: 1}, {})
    assert set(drive.nodes.left_names(7)) == {(1, b"f")}
    assert not set(drive.nodes.left_names(7))
    drive.nodes.release(7)
    assert drive.nodes.node(20) == 20
    assert drive.held() == ({}, {})


def test_two_nodes_of_one_inode(drive: Drive) -> None:
    """Both devices made a folder, and the kernel knows that of the other one already."""
    drive.nodes.hold(7)
    drive.nodes.hold(9)
    drive.nodes.replace(Replaced(3, frozenset(), {7: 9}))
    assert drive.nodes.inode(7) == drive.nodes.inode(9) == 9
    assert drive.nodes.node(9) == 9
    drive.nodes.release(7)
    assert drive.nodes.known(9) == 9
    assert drive.held() == ({9: 1}, {})


def test_what_nobody_has_any_more_is_nothing(drive: Drive) -> None:
    drive.nodes.hold(7)
    drive.nodes.replace(Replaced(3, frozenset([7]), {7: 0}))
    assert drive.shows_past(7) == (7, 0)
