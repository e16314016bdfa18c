"""`drivefs doctor --cost`: the requests and bytes a month of a drive in object stores, for a described use.

It asks no store: of a drive it reads the drive file, of URLs what they say.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from backend.cluster import DriveFile
from backend.coding import ClusterNode, Profile, first_voters, require_nodes
from backend.errors import UsageError
from backend.keys import DRIVE_ID_SIZE
from backend.nodes import NodeEntry, is_folder
from tools import compose, drive_nodes
from tools.commands import cost
from tools.commands.cost import Layout, Traffic, Use
from tools.host import mounts
from tools.mount_options import DEFAULT_SCRUB_INTERVAL
from tools.node_options import DEFAULT_PROFILE, given_places
from tools.quantities import counted, format_duration, format_size, parse_duration, parse_size

_GIB: Final = 1 << 30
_OPTIONS: Final = ("stored", "written", "idle", "prices", "profile", "commit_interval")


def add_options(parser: argparse.ArgumentParser) -> None:
    """To those of `drivefs doctor`."""
    add = parser.add_argument
    add("--cost", action="store_true", help="requests and bytes a month in object stores, for this use:")
    add("--stored", type=parse_size, metavar="SIZE", help="what the drive holds (default: nothing)")
    add("--written", type=_per_day, metavar="SIZE/day", help="what is written, evenly over the day")
    add("--idle", action="store_true", default=None, help="nothing is written (the default)")
    add("--profile", type=Profile.parse, metavar="K+M", help="of a drive to be, at these URLs (default: 4+2)")
    add("--commit-interval", type=parse_duration, metavar="TIME", help="as the mount option")
    add(
        "--prices",
        type=_prices,
        metavar="W,R,S,B",
        help="of 1,000 requests that write or list, of 1,000 that read, of a GiB kept for a month, of a GiB "
        "that the store sends; in whatever currency",
    )


def asked(options: argparse.Namespace) -> bool:
    """Whether the report is wanted. `UsageError` for its options without it, without a drive, or against
    each other."""
    if options.cost and not options.drives:
        raise UsageError("--cost needs a DRIVE, or the URLs of nodes")
    if options.idle and options.written:
        raise UsageError("--idle and --written exclude each other")
    given = [name for name in _OPTIONS if getattr(options, name) is not None]
    if given and not options.cost:
        raise UsageError(f"--{given[0].replace('_', '-')} is for --cost")
    return bool(options.cost)


def report(options: argparse.Namespace) -> list[str]:
    """The lines, for people. What reading the drive raises; `UsageError`."""
    layout = _layout(options)
    use = Use(float(options.stored or 0), float(options.written or 0))
    parts = {what: each for what, each in cost.traffic(layout, use, cost.MONTH).items() if each != Traffic()}
    return [*_about(layout, use), *_table(parts), *_sums(layout, use, parts, options.prices)]


def _per_day(text: str) -> int:
    return parse_size(text.removesuffix("/day"))


def _prices(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(each) for each in text.split(","))
    except ValueError:
        found = ()
    if len(found) != 4 or not all(0 <= each < float("inf") for each in found):
        raise UsageError(f"'{text}' is not four prices: write for example 0.005,0.0004,0.023,0.09")
    return found


def layout_of(folder: str, file: DriveFile, options: argparse.Namespace) -> Layout:
    """Of the drive; `options` count more than what a mount would do by itself."""
    scrub = options.scrub_interval
    return Layout(
        Profile.parse(file.profile),
        drive_nodes.cluster_map(file),
        frozenset(entry.name for entry in drive_nodes.far_nodes(folder, file)),
        options.commit_interval or drive_nodes.commit_interval(folder, file),
        drive_nodes.lease_seconds(folder, file),
        DEFAULT_SCRUB_INTERVAL if scrub is None else scrub,
    )


def _layout(options: argparse.Namespace) -> Layout:
    if len(options.drives) > 1 or not is_folder(options.drives[0]):
        return layout_of(os.getcwd(), _planned(options), options)
    folder = mounts.drive_folder(options.drives[0])
    if options.profile is not None:
        raise UsageError("--profile is for URLs: a drive has one")
    return layout_of(folder, compose.load_drive(folder), options)


def _planned(options: argparse.Namespace) -> DriveFile:
    """The drive that mkfs would make at these places, if no two of them fail together."""
    profile = options.profile or Profile.parse(DEFAULT_PROFILE)
    entries = [
        NodeEntry(f"node{number}", place.url, f"zone{number}", settings=place.settings)
        for number, place in enumerate(given_places(options.drives, "anonymous"))
    ]
    chosen = first_voters((ClusterNode(entry.name, entry.zone) for entry in entries), profile.m)
    nodes = tuple(replace(entry, votes=entry.name in chosen) for entry in entries)
    file = DriveFile(bytes(DRIVE_ID_SIZE), "", str(profile), nodes, 1, (), datetime.now(UTC))
    require_nodes(drive_nodes.cluster_map(file), profile.total)
    return file


def _about(layout: Layout, use: Use) -> Iterator[str]:
    nodes = counted(len(layout.cluster.nodes), "node")
    yield (
        f"profile {layout.profile}, {nodes}, {len(layout.far)} in object stores ({layout.voters} vote); "
        f"a commit every {format_duration(layout.commit_interval)} while something is written, a lease of "
        f"{format_duration(layout.lease_seconds)}"
    )
    written = f"{format_size(int(use.written))} written a day, evenly" if use.written else "nothing written"
    yield f"used as described: mounted all the time, {format_size(int(use.stored))} stored, {written}"


def _table(parts: dict[str, Traffic]) -> Iterator[str]:
    yield f"{'in 30 days':<22}{'writes':>12}{'reads':>12}{'lists':>10}{'sent':>12}{'received':>12}"
    for what, each in [*parts.items(), ("all", cost.total([*parts.values()]))]:
        sent, received = format_size(int(each.sent)), format_size(int(each.received))
        counts = f"{each.writes:>12,.0f}{each.reads:>12,.0f}{each.lists:>10,.0f}"
        yield f"{what:<22}{counts}{sent:>12}{received:>12}"


def _sums(
    layout: Layout, use: Use, parts: dict[str, Traffic], prices: tuple[float, ...] | None
) -> Iterator[str]:
    kept = cost.stored_bytes(layout, use)
    yield f"stored there: {format_size(int(kept))}"
    if prices is not None:
        sums = cost.total([*parts.values()])
        amounts = (
            (sums.writes + sums.lists) / 1000,
            sums.reads / 1000,
            kept / _GIB,
            sums.received / _GIB,
        )
        price = sum(amount * each for amount, each in zip(amounts, prices, strict=True))
        yield f"at these prices: {price:,.2f} a month"
    yield (
        "not in this: what you read, what retention deletes and rewrites, repairs, snapshots of the names, "
        "requests that are tried again; contents count as if they could not be compressed"
    )
