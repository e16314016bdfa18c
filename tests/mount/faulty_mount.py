"""`mount.drivefs` whose nodes fail as a file says, which may change at any time: `Faults` writes it.

What a node suffers happens in the thread that does its I/O, as on a disk: so time-outs, retries, hedged reads
and the translation of errors are the real ones. A node that hangs does so until the file says otherwise.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from backend.nodes import directory_place
from backend.nodes.directory import DirectoryNode
from backend.nodes.identity import NodeIdentity
from backend.nodes.node import Space
from backend.nodes.open_files import OpenFile, OpenFiles
from backend.system import THIS_MACHINE, Environment, Threads
from tools import mount

VARIABLE: Final = "TEST_NODE_FAULTS"
_STEP: Final = 0.05

Result = TypeVar("Result")


class Faults:
    """The file, from the test's side. A fault is `delay` in seconds, `hang`, `error` (a name of `errno`),
    `short` (how many bytes reads lack), `full` (there is no room, and it says so); `calls`: "read" or
    "write", both if it is left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._by_node: dict[str, Mapping[str, Any]] = {}
        self.clear()

    def set(self, *numbers: int, **fault: Any) -> None:
        """The nodes of these numbers have this fault, in the place of any other."""
        self._by_node |= {f"node{number}": fault for number in numbers}
        self._write()

    def clear(self) -> None:
        """All nodes are well."""
        self._by_node = {}
        self._write()

    def _write(self) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self._by_node))
        new.rename(self.path)


class _NothingOpen(OpenFiles):
    """Every read goes to the disk."""

    def keep(self, key: str, file: OpenFile) -> None:
        return


class FaultyDirectoryNode(DirectoryNode):
    """See the module."""

    def __init__(
        self,
        path: str,
        identity: NodeIdentity,
        threads: Threads | None = None,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        super().__init__(path, identity, threads, environment)
        self._files = _NothingOpen()

    async def _run(self, what: str, work: Callable[[], Result], size: int = 0) -> Result:
        call = "read" if re.match("cannot (read|stat|list|ask)", what) else "write"
        return await super()._run(what, partial(self._suffer, call, work), size)

    def _space(self) -> Space:
        found = super()._space()
        return replace(found, free=0) if self._fault("write").get("full") else found

    def _fault(self, call: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(Path(os.environ[VARIABLE]).read_text()).get(self.name, {})
        return found if found.get("calls", call) == call else {}

    def _suffer(self, call: str, work: Callable[[], Result]) -> Result:
        time.sleep(self._fault(call).get("delay", 0))
        while self._fault(call).get("hang"):
            time.sleep(_STEP)
        fault = self._fault(call)
        name = "ENOSPC" if fault.get("full") and call == "write" else fault.get("error")
        if name is not None:
            number = getattr(errno, name)
            raise OSError(number, os.strerror(number))
        return _shortened(work(), fault.get("short", 0))


def _shortened(result: Result, by: int) -> Result:
    """What a read gives, without its last bytes; all else (a state, a tuple too) as it is."""
    if by and isinstance(result, bytes):
        return result[:-by]  # type: ignore[return-value]
    if by and isinstance(result, tuple) and isinstance(result[0], bytes):
        return (result[0][:-by], None)  # type: ignore[return-value]
    return result


def main() -> None:
    """The command."""
    vars(directory_place)["DirectoryNode"] = FaultyDirectoryNode
    mount.main()
