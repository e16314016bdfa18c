"""`drivefs s3`: serve a drive as an object store, its access keys, and uploads that are not complete.

A path is where the drive is mounted, or its folder. If a process has the drive open (a mount, or
`drivefs s3 serve`), it is asked; otherwise the drive is opened here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from cache.messages import (
    S3_KEY_ADD,
    S3_KEY_POLICY,
    S3_KEY_REMOVE,
    S3_KEYS,
    S3_SERVE,
    S3_UPLOAD_ABORT,
    S3_UPLOAD_KEEP,
    S3_UPLOADS,
    Call,
    Nothing,
    S3DoorWanted,
    S3KeyNamed,
    S3KeyWanted,
    S3PolicyWanted,
    S3Served,
    S3UploadNamed,
    S3UploadShown,
    S3UploadsKept,
)
from tools import fsck, s3_serving
from tools.commands.subcommand import add_command, add_json, show
from tools.control_client import ControlClient, NoAnswerError
from tools.errors import Parser
from tools.host import mounts
from tools.hub_address import drive_on_nodes
from tools.quantities import FOREVER, counted, format_age, format_moment, format_size, parse_age
from tools.terminal import say

ADDRESS: Final = "127.0.0.1:9000"
Question = TypeVar("Question")
Answer = TypeVar("Answer")


def register(commands: Any) -> None:
    """Add `s3 ...` to the subcommands of `drivefs`."""
    s3 = commands.add_parser(
        "s3", help="the drive as an object store: serve it; its access keys, its uploads"
    )
    actions = s3.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    _add_serve(actions)
    _add_keys(actions)
    _add_uploads(actions)


def _add_keys(actions: Any) -> None:
    key = actions.add_parser("key", help="access keys: add, list, remove, policy")
    kinds = key.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    add = _add(kinds, "add", "a new access key; its secret is shown once", _key_add)
    add.add_argument("--user", metavar="NAME", default="", help="whose it is; default: drive")
    add.add_argument("--note", metavar="TEXT", default="", help="for people")
    add.add_argument("--policy", metavar="F", help="a file with an identity policy (JSON)")
    listed = _add(kinds, "list", "the access keys, without their secrets", _key_list)
    add_json(listed)
    _add(kinds, "remove", "an access key counts no more", _key_remove).add_argument("key", metavar="KEY")
    policy = _add(kinds, "policy", "give an access key another policy", _key_policy)
    policy.add_argument("key", metavar="KEY")
    policy.add_argument("policy", metavar="F", help="a file with the policy (JSON); an empty one: none")


def _add_uploads(actions: Any) -> None:
    upload = actions.add_parser("upload", help="uploads that are not complete: list, abort, keep")
    kinds = upload.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    listed = _add(kinds, "list", "what was begun, and until when it is kept", _upload_list)
    add_json(listed)
    abort = _add(kinds, "abort", "an upload goes, with its parts", _upload_abort)
    abort.add_argument("upload", metavar="UPLOAD")
    keep = _add(kinds, "keep", "how long a bucket keeps an upload to which nothing comes", _upload_keep)
    keep.add_argument("bucket", metavar="BUCKET")
    keep.add_argument("time", metavar="TIME", help="for example 30d, or forever; 7d, unless it was said")
    for parser in (listed, abort, keep):
        _add_root(parser)


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", metavar="FOLDER", default="", help="of the drive; its folders are the buckets"
    )


def _add(kinds: Any, name: str, text: str, run: Callable[[argparse.Namespace], int]) -> Parser:
    parser = add_command(kinds, name, text, run)
    parser.add_argument("drive", metavar="DRIVE|MOUNTPOINT")
    _add_folders(parser)
    return parser


def _add_folders(parser: argparse.ArgumentParser) -> None:
    fsck.add_secret_options(parser)
    parser.add_argument("--cache-dir", metavar="D", help="as the mount option cache_dir")
    parser.add_argument("--state-dir", metavar="D", help="as the mount option state_dir")


def _add_serve(actions: Any) -> None:
    serve = _add(actions, "serve", "answer the S3 API", _serve)
    add = serve.add_argument
    add("--listen", metavar="ADDRESS", default=ADDRESS, help=f"HOST:PORT; default: {ADDRESS}")
    _add_root(serve)
    add("--region", metavar="NAME", default="us-east-1")
    add("--domain", metavar="NAME", action="append", help="BUCKET.NAME is a bucket; default: localhost")
    add("--external", metavar="HOST", default="", help="the host that clients sign, behind a proxy")
    add("--certificate", metavar="F", default="", help="PEM; the door speaks TLS then")
    add("--key", metavar="F", default="", help="of the certificate, if it is in another file")
    add("--durability", choices=("local", "stored"), default="local", help="when a PUT is answered")


def _serve(options: argparse.Namespace) -> int:
    wanted = S3DoorWanted(
        options.listen,
        options.root,
        options.region,
        tuple(options.domain or ("localhost",)),
        options.external,
        certificate=_absolute(options.certificate),
        key=_absolute(options.key),
        durability=options.durability,
    )
    client = _client(options)
    if client is None:
        return s3_serving.serve(_where(options), wanted)
    for address in client.call(S3_SERVE, wanted).addresses:
        say(f"{options.drive} is served at {_url(wanted, address)} until it is unmounted")
    return 0


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path else ""


def _url(wanted: S3DoorWanted, address: str) -> str:
    return f"{'https' if wanted.certificate else 'http'}://{address}"


def _key_add(options: argparse.Namespace) -> int:
    policy = Path(options.policy).read_text() if options.policy else ""
    made = _ask(options, S3_KEY_ADD, S3KeyWanted(options.user, options.note, policy))
    say(f"aws_access_key_id = {made.key_id}", f"aws_secret_access_key = {made.secret}")
    return 0


def _key_list(options: argparse.Namespace) -> int:
    found = _ask(options, S3_KEYS, Nothing())
    lines = (
        f"{key.key_id}  {format_moment(key.created_ns)}  {key.user:<12}  "
        f"{'policy' if key.policy else 'all   '}  {key.note}".rstrip()
        for key in found.keys
    )
    return show(found, options.json, lines) if found.keys or options.json else 0


def _key_remove(options: argparse.Namespace) -> int:
    _ask(options, S3_KEY_REMOVE, S3KeyNamed(options.key))
    say(f"{options.key}: removed")
    return 0


def _key_policy(options: argparse.Namespace) -> int:
    policy = Path(options.policy).read_text()
    _ask(options, S3_KEY_POLICY, S3PolicyWanted(options.key, policy.strip()))
    say(f"{options.key}: has {'another policy' if policy.strip() else 'no policy'} now")
    return 0


def _upload_list(options: argparse.Namespace) -> int:
    found = _ask(options, S3_UPLOADS, S3Served(options.root))
    lines = map(_upload_line, found.uploads)
    return show(found, options.json, lines) if found.uploads or options.json else 0


def _upload_line(upload: S3UploadShown) -> str:
    is_kept = upload.kept >= FOREVER
    until = "forever" if is_kept else format_moment(upload.touched_ns + upload.kept * 10**9)
    return (
        f"{upload.upload_id}  {format_moment(upload.begun_ns)}  kept until {until}  "
        f"{counted(upload.parts, 'part')}, {format_size(upload.size)}  "
        f"{upload.bucket or '(its bucket is gone)'}/{upload.key}"
    )


def _upload_abort(options: argparse.Namespace) -> int:
    _ask(options, S3_UPLOAD_ABORT, S3UploadNamed(options.root, options.upload))
    say(f"{options.upload}: aborted")
    return 0


def _upload_keep(options: argparse.Namespace) -> int:
    seconds = parse_age(options.time)
    _ask(options, S3_UPLOAD_KEEP, S3UploadsKept(options.root, options.bucket, seconds))
    say(f"{options.bucket}: keeps an upload to which nothing comes {_for(seconds)}")
    return 0


def _for(seconds: int) -> str:
    return "forever" if seconds >= FOREVER else f"for {format_age(seconds)}"


def _ask(options: argparse.Namespace, call: Call[Question, Answer], question: Question) -> Answer:
    """The answer of who has the drive open, or of the drive opened here."""
    client = _client(options)
    if client is not None:
        return client.call(call, question)
    return s3_serving.answer(_where(options), call, question)


def _client(options: argparse.Namespace) -> ControlClient | None:
    """Of the process that has the drive open; None if there is none."""
    found = mounts.find(options.drive)
    if found is not None and found.type == mounts.FILE_SYSTEM_TYPE:
        return ControlClient.of_mount(options.drive)
    for mount in mounts.drives():
        if mount.source == os.path.abspath(options.drive):
            return ControlClient.of_mount(mount.mountpoint)
    client = ControlClient(os.fspath(_where(options).folders().control))
    try:
        client.process_id()
    except NoAnswerError:
        return None
    return client


def _where(options: argparse.Namespace) -> s3_serving.Where:
    return s3_serving.Where(
        os.path.abspath(drive_on_nodes(options.drive)),
        options.passphrase_file,
        options.key_file,
        options.passphrase_command,
        options.cache_dir,
        options.state_dir,
    )
