"""What tests of S3 clients share: the files that these put, and how their programs are started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.contents import content
from tests.unit.gateway.s3.served import REGION, Served

MIB: Final = 1 << 20
FILES: Final[Mapping[str, bytes]] = {
    "a b": content("text", 10, 1),
    "é+%": content("log", 5000, 1),
    "big": content("half-compressible", 12 * MIB, 1),
    "empty": b"",
}
"""`big` is more than one part of every client."""


def made(folder: Path) -> Path:
    """The folder, with `FILES` in it."""
    folder.mkdir(exist_ok=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


def holds(folder: Path) -> dict[str, bytes]:
    """All files of a folder and of those below it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def program(name: str) -> str:
    """Its path, or the test is skipped."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def succeed(*command: str | Path, environment: Mapping[str, str] | None = None, seconds: float = 120) -> str:
    """Both outputs of a command that ends with 0. It sees no setting of AWS's clients but those given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        command,
        env={**inherited, **(environment or {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def aws_environment(served: Served) -> dict[str, str]:
    """What clients of AWS's making read: the key and the door, and nothing of who runs the test."""
    return {
        "AWS_ACCESS_KEY_ID": served.user.key_id,
        "AWS_SECRET_ACCESS_KEY": served.user.secret,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": served.url,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
