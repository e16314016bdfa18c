"""Each error of the drive becomes the errno that a process expects, and none ends the mount."""

from __future__ import annotations

import errno
import inspect
import logging
import os
from pathlib import Path
from typing import Any, cast

import pyfuse3
import pytest

from backend import errors as backend_errors
from cache import errors as cache_errors
from cache.drive import Drive
from cache.services import VersionsView
from mountfs import errno_table
from mountfs.errno_table import ERRNO, errno_of, is_expected, is_known
from mountfs.request_handlers import RequestHandlers
from mountfs.xattr_handlers import CONTROL_ATTRIBUTE, SELINUX_ATTRIBUTE
from tests.mount.memory_drive import MemoryDrive


def _errors_of(module: Any) -> list[type[Exception]]:
    return [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", _errors_of(cache_errors))
def test_every_refusal_has_a_number_of_its_own_entry(kind: type[Exception]) -> None:
    assert kind in ERRNO


def test_the_number_is_the_one_that_the_class_names() -> None:
    # cache/errors.py opens each class's docstring with its errno.
    for kind in _errors_of(cache_errors):
        if kind is not cache_errors.FileSystemError:
            names = (kind.__doc__ or "").split(":")[0].split(" / ")
            assert errno.errorcode[errno_of(kind("x"))].replace("ENOTSUP", "EOPNOTSUPP") in names


def test_no_handler_chooses_an_errno_of_its_own() -> None:
    """They raise what the drive raises, and one place asks the table."""
    modules = Path(errno_table.__file__).parent.glob("*.py")
    assert [path.name for path in modules if "FUSEError(" in path.read_text()] == ["answered.py"]


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (backend_errors.UnavailableError("x", ["a"]), errno.EIO),
        (backend_errors.CorruptError("x"), errno.EIO),
        (backend_errors.NoSpaceError("x"), errno.ENOSPC),
        (backend_errors.QuotaError("x"), errno.ENOSPC),
        (backend_errors.AwayError("x"), errno.ENETDOWN),
        (backend_errors.ReadOnlyError("x"), errno.EROFS),
        (backend_errors.FencedError("x"), errno.EIO),
        (backend_errors.TransientError("x"), errno.EIO),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError(errno.EACCES, "journal"), errno.EIO),
        (OSError("no number"), errno.EIO),
        (MemoryError(), errno.ENOMEM),
        (KeyError("a bug"), errno.EIO),
        (ExceptionGroup("g", [KeyError("a bug")]), errno.EIO),
    ],
)
def test_faults_below_the_namespace(error: Exception, number: int) -> None:
    assert errno_of(error) == number


def test_a_subclass_takes_its_base_class_number() -> None:
    class Vanished(cache_errors.NoEntryError):
        pass

    assert errno_of(Vanished("x")) == errno.ENOENT


def test_what_is_worth_a_log_line() -> None:
    assert is_expected(cache_errors.NotEmptyError("x"))
    assert not is_expected(cache_errors.InputOutputError("x"))
    assert not is_expected(backend_errors.CorruptError("x"))
    assert is_known(backend_errors.CorruptError("x"))
    assert not is_known(ValueError("x"))


def _operations() -> tuple[MemoryDrive, RequestHandlers]:
    memory = MemoryDrive()
    drive = cast(Drive, memory)
    return memory, RequestHandlers(drive, b"/c", access_times=True, view=VersionsView(drive))


class _Context:
    uid = gid = 1000
    pid = 1
    umask = 0


_ROOT = pyfuse3.ROOT_INODE
_context: Any = _Context()


async def _number(call: Any) -> int:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await call
    return int(caught.value.errno)


@pytest.mark.logs_warnings
async def test_a_read_that_cannot_be_had_is_logged_with_its_inode_and_nodes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    drive, operations = _operations()
    _, entry = await operations.create(_ROOT, b"a", 0o644, 0, _context)
    drive.broken[entry.st_ino] = backend_errors.UnavailableError("2 of 6 nodes answer", ["node3", "node5"])
    assert await _number(operations.read(entry.st_ino, 0, 1)) == errno.EIO
    (record,) = caplog.records
    assert f"inode {entry.st_ino}" in record.getMessage()
    assert "node3, node5" in record.getMessage()
    assert record.exc_info is None


@pytest.mark.logs_warnings
async def test_a_bug_is_logged_with_its_traceback_and_is_an_input_output_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    drive, operations = _operations()
    _, entry = await operations.create(_ROOT, b"a", 0o644, 0, _context)
    drive.broken[entry.st_ino] = KeyError("a bug")
    assert await _number(operations.read(entry.st_ino, 0, 1)) == errno.EIO
    assert caplog.records[0].levelno == logging.ERROR
    assert caplog.records[0].exc_info is not None


async def test_entries_hold_and_forget_releases() -> None:
    drive, operations = _operations()
    _, entry = await operations.create(_ROOT, b"a", 0o644, 0, _context)
    inode = entry.st_ino
    assert drive.held(inode) == 2
    await operations.lookup(_ROOT, b"a", _context)
    await operations.link(inode, _ROOT, b"b", _context)
    assert drive.held(inode) == 4
    await operations.release(inode)
    await operations.unlink(_ROOT, b"a", _context)
    await operations.unlink(_ROOT, b"b", _context)
    await operations.forget([(inode, 2)])
    assert inode in drive.inodes()
    await operations.forget([(inode, 1)])
    assert inode not in drive.inodes()


async def test_a_missing_name_is_a_cacheable_answer() -> None:
    _, operations = _operations()
    entry = await operations.lookup(_ROOT, b"none", _context)
    assert entry.st_ino == 0
    assert entry.entry_timeout > 0


async def test_unknown_rename_flags_and_attribute_classes_are_refused() -> None:
    _, operations = _operations()
    whiteout, unknown = 4, 8
    exchange, no_replace = pyfuse3.RENAME_EXCHANGE, pyfuse3.RENAME_NOREPLACE
    for flags in (unknown, exchange | no_replace, exchange | whiteout):
        assert await _number(operations.rename(_ROOT, b"a", _ROOT, b"b", flags, _context)) == errno.EINVAL
    for name in (b"system.posix_acl_access", b"foo.bar"):
        assert await _number(operations.getxattr(_ROOT, name, _context)) == errno.EOPNOTSUPP
        assert await _number(operations.setxattr(_ROOT, name, b"x", _context)) == errno.EOPNOTSUPP
        assert await _number(operations.removexattr(_ROOT, name, _context)) == errno.EOPNOTSUPP


async def test_the_control_path_is_there_unlisted_and_cannot_be_changed() -> None:
    _, operations = _operations()
    assert await operations.getxattr(_ROOT, CONTROL_ATTRIBUTE, _context) == b"/c"
    assert CONTROL_ATTRIBUTE not in await operations.listxattr(_ROOT, _context)
    assert await _number(operations.setxattr(_ROOT, CONTROL_ATTRIBUTE, b"x", _context)) == errno.EPERM
    assert await _number(operations.removexattr(_ROOT, CONTROL_ATTRIBUTE, _context)) == errno.EPERM


async def test_trusted_attributes_are_listed_to_root_only() -> None:
    drive, operations = _operations()
    await drive.set_xattr(_ROOT, b"trusted.x", b"1")
    await drive.set_xattr(_ROOT, b"user.x", b"1")
    assert await operations.listxattr(_ROOT, _context) == [b"user.x"]


@pytest.mark.skipif(os.path.exists("/sys/fs/selinux"), reason="a system with SELinux labels its files")
async def test_there_are_no_labels_without_selinux_unless_one_was_kept() -> None:
    drive, operations = _operations()
    assert await _number(operations.getxattr(_ROOT, SELINUX_ATTRIBUTE, _context)) == errno.EOPNOTSUPP
    assert await _number(operations.getxattr(_ROOT, b"security.other", _context)) == errno.ENODATA
    await drive.set_xattr(_ROOT, SELINUX_ATTRIBUTE, b"label")
    assert await operations.getxattr(_ROOT, SELINUX_ATTRIBUTE, _context) == b"label"
