"""Calls: questions to a mounted drive by name, with the types of the question and of the answer.

Both sides know the `Call`; the side that answers has a `Service`. Tables of calls are made of these.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cache.errors import InvalidArgumentError
from cache.messages.coding import MessageError, from_plain, to_plain

Question = TypeVar("Question")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Nothing:
    """There is nothing to ask, or to answer."""


@dataclass(frozen=True, slots=True)
class Call(Generic[Question, Answer]):
    """`question` and `answer` are messages (`cache.messages.coding`)."""

    name: str
    question: type[Question]
    answer: type[Answer]


@dataclass(frozen=True, slots=True)
class Service(Generic[Question, Answer]):
    """A call, and what answers it. That runs on the event-loop thread and raises `DriveError` or
    `FileSystemError`, with one line for a person."""

    call: Call[Question, Answer]
    answer: Callable[[Question], Awaitable[Answer]]

    async def __call__(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a question, both as plain values. `InvalidArgumentError` if it is none."""
        try:
            asked = from_plain(self.call.question, question)
        except MessageError as error:
            raise InvalidArgumentError(str(error)) from None
        answer: Mapping[str, Any] = to_plain(await self.answer(asked))
        return answer


Services = Mapping[str, Service[Any, Any]]


def by_name(services: Iterable[Service[Any, Any]]) -> Services:
    """The table of these services."""
    return {service.call.name: service for service in services}
