"""A limit of the size of files (`ulimit -f`) is named by whoever meets it, and no disk is blamed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backend.nodes.identity import initialise_directory_node

ROOT = Path(__file__).parents[3]
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from pathlib import Path
"""
WRITERS = {
    "a node": """
import trio
from backend.nodes.directory import DirectoryNode
from backend.nodes.identity import NodeIdentity
node = DirectoryNode(sys.argv[2] + "/node0", NodeIdentity("node0", b"d" * 16, "zone"))
trio.run(node.put, "packs/a", [bytes(1 << 20)])
""",
    "the journal": """
from cache.journal.journal import Journal
journal = Journal(Path(sys.argv[2]) / "journal")
journal.begin_segment(1)
""",
    "the block index": """
from backend.blocks.sqlite_index import SqliteBlockIndex
index = SqliteBlockIndex(sys.argv[2] + "/blocks.db", b"d" * 16, 2)
""",
    "the namespace": """
from cache.namespace.namespace import Namespace
Namespace(sys.argv[2] + "/namespace.db")
""",
    "a command": """
from tools.errors import COMMAND_CODES, call
def main(_):
    Path(sys.argv[2], "file").write_bytes(bytes(1 << 20))
sys.exit(call("x", COMMAND_CODES, main, []))
""",
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("limit", [100, 5000])
def test_who_meets_the_limit_names_it(tmp_path: Path, writer: str, limit: int) -> None:
    initialise_directory_node(str(tmp_path / "node0"), b"d" * 16, "node0", "zone")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + WRITERS[writer], str(limit), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"no file may have more than {limit} bytes here" in done.stderr, done.stderr
