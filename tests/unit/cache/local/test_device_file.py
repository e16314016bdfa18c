"""cache.local.device_file: the bytes of the page, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import CorruptError, FormatError
from backend.system import THIS_MACHINE, open_sealed, seal
from cache.local.device_file import FILE, DeviceFile, DeviceIdentity, decode, encode, number_in
from cache.namespace.operations import MAX_DEVICE

KEY, DRIVE = b"k" * 32, b"d" * 16
DEVICE = DeviceIdentity(7, b"p" * 32)


@given(st.integers(1, MAX_DEVICE), st.binary(min_size=32, max_size=32))
def test_what_is_kept_comes_back(number: int, private: bytes) -> None:
    data = encode(DeviceIdentity(number, private), KEY, DRIVE)
    assert number_in(data) == number
    assert decode(data, KEY, DRIVE) == DeviceIdentity(number, private)


def test_the_bytes_are_those_of_the_page() -> None:
    header = b"DFDEVICE" + struct.pack("<HHI", 1, 0, 7)
    bound = b"drivefs device key 1\0" + DRIVE + header
    assert decode(header + seal(KEY, DEVICE.key, bound), KEY, DRIVE) == DEVICE
    data = encode(DEVICE, KEY, DRIVE)
    assert (len(data), data[:16]) == (76, header)
    assert open_sealed(KEY, data[16:], bound) == DEVICE.key


@given(st.integers(0, 75), st.integers(0, 7))
def test_no_bit_of_it_can_be_changed(at: int, bit: int) -> None:
    data = bytearray(encode(DEVICE, KEY, DRIVE))
    data[at] ^= 1 << bit
    with pytest.raises((CorruptError, FormatError)):
        decode(bytes(data), KEY, DRIVE)


def test_another_drive_or_key_does_not_open_it() -> None:
    data = encode(DEVICE, KEY, DRIVE)
    for key, drive in ((KEY, b"e" * 16), (b"l" * 32, DRIVE)):
        with pytest.raises(CorruptError):
            decode(data, key, drive)


@pytest.mark.parametrize("number", [0, MAX_DEVICE + 1])
def test_a_number_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(CorruptError):
        number_in(encode(DeviceIdentity(number, DEVICE.key), KEY, DRIVE))


@given(st.binary(max_size=90))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptError):
        decode(data, KEY, DRIVE)


def test_a_later_version_is_refused_with_its_number() -> None:
    data = bytearray(encode(DEVICE, KEY, DRIVE))
    data[8] = 2
    with pytest.raises(FormatError, match="version 2"):
        number_in(bytes(data))


def test_the_file_of_a_folder(tmp_path: Path) -> None:
    file = DeviceFile(tmp_path, THIS_MACHINE)
    assert (file.number(), file.load(KEY, DRIVE)) == (0, None)
    file.keep(DEVICE, KEY, DRIVE)
    assert (file.number(), file.load(KEY, DRIVE)) == (7, DEVICE)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / FILE).write_bytes(b"noise")
    assert file.number() == 0
    kept = file.set_aside()
    assert (kept.read_bytes(), file.load(KEY, DRIVE)) == (b"noise", None)
