"""XML that clients send: small, without DOCTYPE, and nothing in it expands.

Pure. `S3Error` (`MalformedXML`) for anything else. Names are taken without their namespace, as clients differ
in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from gateway.s3.objects import S3Error

MAX_DOCUMENT: Final = 1 << 20
MAX_LIST: Final = 8 << 20
"""Of documents that name a thousand keys, or ten thousand parts."""


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

    def children(self, name: str = "") -> Iterator[Node]:
        """Those of this name, or all."""
        nodes = map(Node, self._element)
        return (node for node in nodes if not name or node.name == name)

    def child(self, name: str) -> Node | None:
        """The first of this name."""
        return next(self.children(name), None)

    def value(self, name: str) -> str | None:
        """The text of the child of this name."""
        node = self.child(name)
        return None if node is None else node.text

    def attribute(self, name: str) -> str:
        """The attribute whose name ends so."""
        return next((value for key, value in self._element.items() if key.rpartition("}")[2] == name), "")

    def required(self, name: str) -> str:
        """The text of a child that must be there."""
        text = self.value(name)
        if text is None:
            raise malformed()
        return text


def parse(data: bytes, name: str) -> Node:
    """The document, whose outermost element is `name`."""
    try:
        node = Node(fromstring(data, forbid_dtd=True))
    except (ParseError, DefusedXmlException, ValueError, LookupError):
        raise malformed() from None
    if node.name != name:
        raise malformed()
    return node


def malformed() -> S3Error:
    """For documents that have another form than asked for."""
    return S3Error("MalformedXML")
