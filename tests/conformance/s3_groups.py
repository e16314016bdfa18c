"""What a test of ceph/s3-tests is about, by its file, its marks and its name (docs/s3_tests.md)."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Rule:
    """A group has the tests of a file, those with one of the marks, and those with one of the words in their
    names."""

    group: str
    file: str = ""
    marks: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()

    def holds(self, file: str, name: str, marks: frozenset[str]) -> bool:
        """Of the test `name` of `file`."""
        return file == self.file or bool(marks & self.marks) or any(word in name for word in self.words)


RULES: Final = (
    Rule("iam", file="test_iam"),
    Rule("sts", file="test_sts"),
    Rule("headers, auth", file="test_headers"),
    Rule("post policy", words=("test_post_object",)),
    Rule("sse", marks=frozenset({"encryption", "sse_s3", "bucket_encryption"}), words=("sse", "encrypt")),
    Rule("lock", words=("object_lock",)),
    Rule("cloud", marks=frozenset({"cloud_transition", "cloud_restore"})),
    Rule(
        "lifecycle",
        marks=frozenset({"lifecycle", "lifecycle_expiration", "lifecycle_transition"}),
        words=("lifecycle",),
    ),
    Rule("cors", words=("cors",)),
    Rule(
        "policy, PAB",
        marks=frozenset({"bucket_policy"}),
        words=("policy", "block_public", "public_block", "ignore_public"),
    ),
    Rule("acl, ownership", marks=frozenset({"object_ownership"}), words=("acl", "grant", "ownership")),
    Rule("conditional write", marks=frozenset({"conditional_write"})),
    Rule("checksum", marks=frozenset({"checksum"})),
    Rule("multipart", words=("multipart", "upload")),
    Rule("copy", words=("copy",)),
    Rule("tagging", marks=frozenset({"tagging"}), words=("_tag",)),
    Rule("versioning", marks=frozenset({"delete_marker"}), words=("versioning", "versioned")),
    Rule("anon, presigned", words=("anon", "raw", "presign", "access_bucket", "authenticated")),
    Rule("list", words=("test_bucket_list", "test_bucketv2", "test_basic_key")),
    Rule("object", words=("object", "ranged", "atomic")),
    Rule("bucket", words=("",)),
)
"""The first that holds counts."""


def marks_of(checkout: Path, file: str) -> dict[str, frozenset[str]]:
    """The marks of each test of a file, by its name."""
    tree = ast.parse((checkout / "s3tests" / "functional" / f"{file}.py").read_text())
    return {
        node.name: frozenset(filter(None, map(_mark, node.decorator_list)))
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


def _mark(decorator: ast.expr) -> str:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    text = ast.unparse(called)
    return text.removeprefix("pytest.mark.") if text.startswith("pytest.mark.") else ""


def table(checkout: Path, outcomes: Mapping[str, str], not_on_aws: Collection[str]) -> str:
    """How many tests of each group pass, of how many; in brackets without those of `not_on_aws`."""
    files = {name.partition("::")[0] for name in outcomes}
    known = {file: marks_of(checkout, file) for file in files}
    groups: dict[str, list[tuple[bool, bool]]] = {rule.group: [] for rule in RULES}
    for name, outcome in outcomes.items():
        file, _, test = name.partition("::")
        marks = known[file].get(test.partition("[")[0], frozenset())
        group = next(rule.group for rule in RULES if rule.holds(file, test, marks))
        groups[group].append((outcome == "passed", name not in not_on_aws))
    lines = [_line(group, found) for group, found in groups.items() if found]
    whole = [each for found in groups.values() for each in found]
    return "\n".join(("| group | all | pass |", "|---|---|---|", *lines, _line("total", whole)))


def _line(group: str, found: Iterable[tuple[bool, bool]]) -> str:
    everything = list(found)
    on_aws = [passes for passes, is_on_aws in everything if is_on_aws]
    passing = sum(passes for passes, _ in everything)
    return f"| {group} | {len(everything)} ({len(on_aws)}) | {passing} ({sum(on_aws)}) |"
