"""`drivefs doctor --durability`: how likely this drive is to lose data, with all that was assumed for it.

It reads only: the drive file, where the nodes' folders lie, what they hold, and how fast the last repair was.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backend.care import SHARES, repair_record
from backend.cluster import DriveFile, check_nodes
from backend.coding import Profile
from backend.errors import UsageError
from backend.nodes import NodePlace
from tools import drive_nodes
from tools.commands.durability import (
    YEAR,
    FatalSets,
    failures_per_year,
    fatal_sets,
    losses_per_year,
    nines,
    probability,
)
from tools.host import disks, places
from tools.mount_options import DEFAULT_SCRUB_INTERVAL
from tools.quantities import format_size, parse_duration, parse_size

ANNUAL_FAILURES: Final = 0.0157
"""Of all disks of Backblaze, in 2024 ("Backblaze Drive Stats for 2024")."""
SILENT_DAMAGE: Final = 0.01
"""An assumption on the safe side of field studies; see docs/durability.md."""
REPLACED_AFTER: Final = 24 * 3600.0
ASSUMED_RATE: Final = 32 << 20
_OPTIONS: Final = ("afr", "silent", "replaced_after", "repair_rate", "scrub_interval")


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What the figures rest on: shares of disks in a year, seconds, bytes a second. `source` says where the
    repair rate is from; `scrub_interval` 0: never by itself."""

    afr: float
    silent: float
    replaced_after: float
    repair_rate: float
    source: str
    scrub_interval: float
    scrubs: int
    """until all is read"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """To those of `drivefs doctor`."""
    add = parser.add_argument
    add("--durability", action="store_true", help="how likely the drive is to lose data, by a model")
    add("--afr", type=_share, metavar="P", help="disks that fail within a year, in percent (default: 1.57)")
    add(
        "--silent",
        type=_share,
        metavar="P",
        help="disks with silent damage within a year, in percent (default: 1)",
    )
    add(
        "--replaced-after",
        type=parse_duration,
        metavar="TIME",
        help="until a failed disk is noticed and replaced (default: 24h)",
    )
    add(
        "--repair-rate",
        type=parse_size,
        metavar="SIZE",
        help="bytes rebuilt a second (default: as in the last repair)",
    )
    add(
        "--scrub-interval",
        type=parse_duration,
        metavar="TIME",
        help="as the mount option (default: 336h; 0: never)",
    )
    add("--cache-dir", metavar="D", help="as the mount option cache_dir")


def asked(options: argparse.Namespace) -> bool:
    """Whether the report is wanted. `UsageError` for its options without it, or without a drive."""
    if options.durability and not options.drives:
        raise UsageError("--durability needs a DRIVE")
    own = [name for name in _OPTIONS if name != "scrub_interval" or not options.cost]
    given = [name for name in own if getattr(options, name) is not None]
    if given and not options.durability:
        raise UsageError(f"--{given[0].replace('_', '-')} is for --durability")
    return bool(options.durability)


def report(options: argparse.Namespace) -> list[str]:
    """The lines, for people. Reads the sizes of all fragments: seconds for a large drive. `NotFoundError`,
    `FormatError` as reading the drive raises them."""
    folder = os.path.abspath(options.drive)
    file = check_nodes.survey(folder).file
    cache = Path(places.cache_folder(file.id.hex(), options.cache_dir, os.environ))
    scrubs = SHARES if drive_nodes.far_nodes(folder, file) else 1
    assumed = _assumptions(options, cache, scrubs)
    found = {entry.name: _disks(entry.place(folder), entry.name) for entry in file.nodes}
    fullest = max(entry.place(folder).stored_bytes() for entry in file.nodes)
    return [*_about(folder, file, found), *_figures(file, found, fullest, assumed)]


def _share(text: str) -> float:
    """Percent as a share."""
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent < 100:
        raise UsageError(f"'{text}' is not a share: write for example 1.57 or 1.57%")
    return percent / 100


def _assumptions(options: argparse.Namespace, cache: Path, scrubs: int) -> Assumptions:
    record = repair_record.load(cache)
    if options.repair_rate:
        rate, source = float(options.repair_rate), "as given"
    elif record is not None:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.finished_ns / 1e9))
        rate, source = record.rate, f"measured by the repair that ended {when}"
    else:
        rate, source = float(ASSUMED_RATE), "assumed: no repair was measured here yet"

    def given(name: str, default: float) -> float:
        value = getattr(options, name)
        return default if value is None else float(value)

    return Assumptions(
        given("afr", ANNUAL_FAILURES),
        given("silent", SILENT_DAMAGE),
        given("replaced_after", REPLACED_AFTER),
        rate,
        source,
        given("scrub_interval", DEFAULT_SCRUB_INTERVAL),
        scrubs,
    )


def _disks(place: NodePlace, name: str) -> frozenset[str]:
    """A node that is away was on a disk of its own, as far as anyone can tell."""
    try:
        if place.folder is None:
            return frozenset({str(place.failure_domain())})
        return disks.disks_of(place.folder)
    except OSError:
        return frozenset({f"the disk of {name}, which is away"})


def _about(folder: str, file: DriveFile, found: Mapping[str, frozenset[str]]) -> Iterator[str]:
    spare = Profile.parse(file.profile).m
    together = disks.groups(found)
    yield (
        f"{folder}: profile {file.profile}, {len(file.nodes)} nodes on {len(together)} "
        f"disk{'s' if len(together) > 1 else ''}; "
        f"{spare} nodes may be lost at a time"
    )
    for names in together:
        if len(names) == len(file.nodes):
            yield "ALL NODES ARE ON ONE DISK: they protect against no disk failure at all"
        elif len(names) > spare:
            yield f"THE LOSS OF ONE DISK LOSES DATA: {', '.join(names)} are on one"
        elif len(names) > 1:
            yield f"on one disk: {', '.join(names)}"


def _figures(
    file: DriveFile, found: Mapping[str, frozenset[str]], fullest: int, assumed: Assumptions
) -> Iterator[str]:
    on_disks = [len(names) for names in disks.groups(found)]
    sets = fatal_sets(on_disks, Profile.parse(file.profile).m)
    repair = max(on_disks) * fullest / assumed.repair_rate
    yield (
        f"a disk fails: {100 * assumed.afr:g} % of them in a year; it is replaced after "
        f"{format_time(assumed.replaced_after)}"
    )
    yield (
        f"repair: {format_time(repair)} for {format_size(max(on_disks) * fullest)} at "
        f"{format_size(int(assumed.repair_rate))}/s ({assumed.source})"
    )
    failures = failures_per_year(assumed.afr)
    down = failures * (assumed.replaced_after + repair) / YEAR
    yield f"loss of data by failing disks: {_chance(sets, failures, down)}"
    yield from _silent(sets, failures, down, repair, assumed)
    yield (
        "for independent failures only: fire, theft, a bad series of disks, and mistakes are not in these "
        "figures; keep a copy elsewhere"
    )


def _silent(
    sets: FatalSets, failures: float, down: float, repair: float, assumed: Assumptions
) -> Iterator[str]:
    """With silent damage, as if each had hit all that the disk holds: no worse can be."""
    if not assumed.scrub_interval:
        yield "no scrub by itself: silent damage is found when somebody reads; there is no figure for it"
        return
    found_after = assumed.scrub_interval * assumed.scrubs / 2
    damages = failures_per_year(assumed.silent)
    damaged = damages * (found_after + repair) / YEAR
    yield (
        f"silent damage: {100 * assumed.silent:g} % of disks in a year; a scrub every "
        f"{format_time(assumed.scrub_interval)} finds it after {format_time(found_after)} on average"
    )
    yield f"with silent damage, at worst: {_chance(sets, failures + damages, down + damaged)}"


def _chance(sets: FatalSets, failures: float, down: float) -> str:
    chance = probability(losses_per_year(sets, failures, down))
    if chance <= 0:
        return "none in this model"
    return f"{100 * chance:.2g} % a year ({nines(chance):.1f} nines)"


def format_time(seconds: float) -> str:
    """For people: `45 s`, `12 min`, `3.4 h`, `14 days`."""
    steps: Sequence[tuple[float, str]] = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))
    for size, unit in steps:
        if seconds >= (2 * size if unit == "days" else size):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
