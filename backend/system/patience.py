"""Asking disks that may never answer, from where no event loop runs: tools, before they begin.

A process cannot take back a system call that hangs in the kernel. So each question has a thread of its own,
which is left behind when its time is over. It is a daemon, so the process may end without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

SECONDS: Final = 10.0
"""A disk that wakes up takes less."""

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def ask(
    questions: Mapping[Question, Callable[[], Answer]], seconds: float | None = None
) -> dict[Question, Answer]:
    """The answers within `seconds` (None: `SECONDS`) to all questions at once; late answers are missing.
    The first error that a question raises is raised."""
    answers: dict[Question, Answer] = {}
    errors: list[BaseException] = []

    def put(question: Question, call: Callable[[], Answer]) -> None:
        try:
            answers[question] = call()
        except BaseException as error:
            errors.append(error)

    deadline = time.monotonic() + (SECONDS if seconds is None else seconds)
    threads = [threading.Thread(target=put, args=each, daemon=True) for each in questions.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    if errors:
        raise errors[0]
    return {question: answers[question] for question in questions if question in answers}
