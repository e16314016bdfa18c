"""XML that clients send: small, without DOCTYPE, and nothing in it expands.

Pure. `S3Error` (`MalformedXML`) for anything else. Names are taken without their namespace, as clients differ
in it. Documents are parsed on the event loop, and some before it is known that their senders may do anything:
so elements and attributes are counted before that, at a thousandth of the cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from gateway.s3.objects import S3Error

MAX_DOCUMENT: Final = 1 << 20
MAX_LIST: Final = 8 << 20
"""Of documents that name a thousand keys, or ten thousand parts."""
MOST_ELEMENTS: Final = 2000
_ATTRIBUTE: Final = re.compile(rb"=[\s\0]*[\"']")
"""Also in UTF-16. The other encodings that the parser knows are ASCII, as far as markup goes."""


class Node:
    """An element."""

    def __init__(self, element: Element) -> None:
        self._element = element

    @property
    def name(self) -> str:
        """Without its namespace."""
        return str(self._element.tag).rpartition("}")[2]

    @property
    def text(self) -> str:
        """Its own text."""
        return self._element.text or ""

    def children(self, name: str) -> Iterator[Node]:
        """Those of this name."""
        return (node for node in map(Node, self._element) if node.name == name)

    def child(self, name: str) -> Node | None:
        """The first of this name."""
        return next(self.children(name), None)

    def value(self, name: str) -> str | None:
        """The text of the child of this name."""
        node = self.child(name)
        return None if node is None else node.text

    def required(self, name: str) -> str:
        """The text of a child that must be there."""
        text = self.value(name)
        if text is None:
            raise malformed()
        return text


def parse(data: bytes, name: str, most: int = MOST_ELEMENTS) -> Node:
    """The document, whose outermost element is `name`, with `most` elements."""
    _check_count(data, most)
    try:
        node = Node(fromstring(data, forbid_dtd=True))
    except (ParseError, DefusedXmlException, ValueError, LookupError):
        raise malformed() from None
    if node.name != name:
        raise malformed()
    return node


def _check_count(data: bytes, most: int) -> None:
    """An element has a start and an end; so many attributes has no document that is meant."""
    attributes = sum(1 for _ in islice(_ATTRIBUTE.finditer(data), most + 1))
    if data.count(b"<") > 2 * most or attributes > most:
        raise malformed()


def malformed() -> S3Error:
    """For documents that have another form than asked for."""
    return S3Error("MalformedXML")
