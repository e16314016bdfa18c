"""The format of a lease record: what is read, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.commits import lease_record
from backend.commits.lease_record import Claim, Holder, LeaseRecord
from backend.errors import (
    CorruptError,
    FormatError,
)
from tests.leases import RECORD, SECRET


@given(
    st.builds(
        LeaseRecord,
        st.text(max_size=32),
        st.integers(0, 2**63),
        st.booleans(),
        st.integers(0, 2**63),
        st.text(max_size=32),
        st.text(max_size=32),
        st.integers(0, 2**63),
        st.builds(Claim, st.integers(0, 2**63), st.integers(0, 2**63), st.binary(min_size=32, max_size=32)),
        st.floats(0, 1e6),
        st.integers(0, 2**63),
        st.builds(
            Holder,
            st.text(max_size=9),
            st.text(max_size=9),
            st.text(max_size=9),
            st.integers(0, 2**63),
            st.integers(0, 2**63),
            st.text(max_size=9),
        ),
    )
)
def test_record_round_trip(record: LeaseRecord) -> None:
    data = lease_record.encode(record, SECRET)
    assert lease_record.decode(data) == record
    assert lease_record.is_sealed(data, SECRET)
    assert not lease_record.is_sealed(data, bytes(32))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b'"format": 3', b'"format": 2', FormatError),
        (b'"format": 3', b'"former": 3', FormatError),
        (b'"epoch": 3', b'"epoch": "3"', CorruptError),
        (b'"epoch": 3', b'"epoch": true', CorruptError),
        (b'"epoch": 3', b'"epoch": -3', CorruptError),
        (b'"seconds": 30.0', b'"seconds": NaN', CorruptError),
        (b'"held": true', b'"held": 1', CorruptError),
        (b'"head_hash": "00', b'"head_hash": "0', CorruptError),
        (b'"head": 0', b'"head": -1', CorruptError),
        (b'"pid": 7', b'"pid": null', CorruptError),
        (b'"pid": 7,', b"", CorruptError),
        (b"{", b"[", CorruptError),
        (b"{", b" " * 4096 + b"{", CorruptError),
    ],
)
def test_a_record_that_is_not_one_is_refused(old: bytes, new: bytes, error: type[Exception]) -> None:
    data = lease_record.encode(RECORD, SECRET)
    assert old in data
    with pytest.raises(error):
        lease_record.decode(data.replace(old, new, 1))


@given(st.binary(max_size=100))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises((CorruptError, FormatError)):
        lease_record.decode(noise)
