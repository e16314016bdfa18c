"""A person at a terminal, who answers what a command asks."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Sequence
from pathlib import Path


def converse(module: str, arguments: Sequence[str], answers: Sequence[str]) -> tuple[int, str]:
    """Run the `main` of the module on a terminal of its own, give an answer to each prompt; exit code and all
    that it said."""
    root = str(Path(__file__).parents[1])
    program = f"import sys; sys.path.insert(0, {root!r}); from {module} import main; main()"
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, "-c", program, *arguments])
    said, prompts = "", 0
    while True:
        try:
            said += os.read(terminal, 1000).decode()
        except OSError:  # EIO: the other side has closed the terminal
            break
        if said.endswith(": ") and prompts < len(answers):
            os.write(terminal, f"{answers[prompts]}\n".encode())
            prompts += 1
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said
