"""SQLite's errors as this project's: which class each becomes, and with which sentence."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from backend.errors import CorruptError, DriveError, NoSpaceError, TransientError
from backend.system import database_errors

SENTENCES = database_errors.Sentences(full="no room", damaged="damaged", subject="the index")


@pytest.mark.parametrize(
    ("error", "expected", "sentence"),
    [
        (apsw.FullError("x"), NoSpaceError, "no room"),
        (apsw.CorruptError("x"), CorruptError, "damaged (x)"),
        (apsw.NotADBError("x"), CorruptError, "damaged (x)"),
        (apsw.IOError("x"), TransientError, "the index: x"),
        (apsw.BusyError("x"), TransientError, "the index: x"),
        (apsw.CantOpenError("x"), TransientError, "the index: x"),
    ],
)
def test_each_error_has_its_class(error: Exception, expected: type[DriveError], sentence: str) -> None:
    translated = database_errors.translation(error, SENTENCES)
    assert type(translated) is expected
    assert str(translated).startswith(sentence)


def test_the_mistake_of_a_statement_is_no_error_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(apsw.SQLError) as caught:
        apsw.Connection(str(tmp_path / "db")).execute("no SQL")
    assert not isinstance(caught.value, database_errors.MACHINE_ERRORS)
