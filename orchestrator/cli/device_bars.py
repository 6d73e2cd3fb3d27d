"""`muster devices bar` and `unbar`: devices that are kept from jobs, and how lists show them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import click

from orchestrator.cli import EXIT_FAILED, EXIT_NOT_FOUND
from orchestrator.cli.common import fail, json_option, print_json

if TYPE_CHECKING:
    from cluster.bars import Bar
    from cluster.device import Device
    from orchestrator.device_book import DeviceBook
    from orchestrator.found import Found

_DEVICE = re.compile(r"(ascend|gpu):(0|[1-9][0-9]{0,3})", re.ASCII)
_LONGEST_WHY = 200


@click.command()
@click.argument("devices", metavar="DEVICE...", nargs=-1, required=True)
@click.option("--for", "length", metavar="TIME", help="90, 30m, 24h, 2d. Default: until unbarred.")
@click.option("--why", required=True, metavar="TEXT", help="What is wrong; shown to everybody.")
@json_option
def bar(devices: tuple[str, ...], length: str | None, why: str, as_json: bool) -> None:
    """Keep devices of this node, e.g. ascend:3, from all jobs."""
    from cluster.bars import Bar, reason

    seconds, mistakes = _length(length)
    mistakes += _names(devices) + _text(why)
    if mistakes:
        fail("\n".join(mistakes))
    known, notes = _known(devices)
    now = time.time()
    until = None if seconds is None else now + seconds
    bars = [Bar(name, why.strip(), now, until, uuid=_uuid(known.get(name))) for name in known]
    book = _book(devices[0])
    try:
        book.bar(*bars)
    except (ValueError, OSError) as error:
        _cannot(book, error)
    for note in notes:
        click.echo(note, err=True)
    if as_json:
        print_json({"schema": 1, "barred": [_document(one) for one in bars], "notes": notes})
        return
    for one in bars:
        click.echo(f"{one.device}: {reason(one, now)}")
    click.echo(f"next: muster devices; to lift it: muster devices unbar {' '.join(known)}")


@click.command()
@click.argument("devices", metavar="DEVICE...", nargs=-1, required=True)
@json_option
def unbar(devices: tuple[str, ...], as_json: bool) -> None:
    """Give barred devices back to jobs; what was counted against them is forgotten."""
    mistakes = _names(devices)
    if mistakes:
        fail("\n".join(mistakes))
    names = list(dict.fromkeys(devices))
    now = time.time()
    book = _book(names[0])
    try:
        barred = sorted({one.device for one in book.bars(now)})
        free = [name for name in names if name not in barred]
        if free:
            held = ", ".join(barred) or "none"
            fail(
                f"{', '.join(free)}: not barred; barred are: {held}. Nothing was changed.",
                EXIT_NOT_FOUND,
            )
        book.unbar(names, now)
    except (ValueError, OSError) as error:
        _cannot(book, error)
    if as_json:
        print_json({"schema": 1, "unbarred": names})
        return
    click.echo(f"{', '.join(names)}: no longer barred")
    click.echo(f"next: muster devices check {' '.join(names)}")


def _length(text: str | None) -> tuple[float | None, list[str]]:
    from orchestrator.jobfile.units import LONGEST, parse_duration

    if text is None:
        return None, []
    seconds = parse_duration(text)
    if seconds is None or not 0 < seconds <= LONGEST:
        return None, [f"--for {text[:40]}: expected a time up to ten years: 90, 30m, 24h, 1h30m"]
    return seconds, []


def _names(devices: Iterable[str]) -> list[str]:
    wrong = [name for name in devices if not _DEVICE.fullmatch(name)]
    mistakes = [f"{name[:40]}: expected ascend:N or gpu:N, e.g. ascend:3" for name in wrong]
    kinds = {name.partition(":")[0] for name in devices if name not in wrong}
    if len(kinds) > 1:
        mistakes.append(f"devices of {' and '.join(sorted(kinds))}: name those of one kind")
    return mistakes


def _text(why: str) -> list[str]:
    if why.strip() and why.isprintable() and len(why) <= _LONGEST_WHY:
        return []
    return [f"--why: expected a line of 1 to {_LONGEST_WHY} characters, e.g. 'ECC twice'"]


def _known(names: Sequence[str]) -> tuple[dict[str, Device | None], list[str]]:
    """The devices of one kind by name, as found here; ends with code 2 for one that is not here.

    None where nothing of the kind can be looked for: who bars a device then knows more than we.
    """
    from cluster.bars import name_of

    found = _find(names[0].partition(":")[0])
    here = {name_of(d): d for node in found.inventory.nodes for d in node.devices}
    absent = ", ".join(name for name in dict.fromkeys(names) if name not in here)
    if absent and not found.missing:
        fail(f"{absent}: not on this node; it has {', '.join(here) or 'none of that kind'}")
    notes = [f"{absent}: not looked for: {found.missing}"] if absent else []
    return {name: here.get(name) for name in names}, notes


def _find(kind: str) -> Found:
    from cluster.ascend.place import NoSuchNode
    from cluster.device import DeviceKind
    from orchestrator.cli.progress import progress
    from orchestrator.found import find_nodes

    try:
        with progress("looking for devices"):
            return find_nodes(DeviceKind(kind), os.environ)
    except NoSuchNode as error:
        fail(str(error))


def _uuid(device: Device | None) -> str:
    return "" if device is None else device.uuid or ""


def _book(device: str) -> DeviceBook:
    """The book that holds such a device: a rehearsal node, which has Ascend devices, has its own.

    Ends with code 2 if a rehearsal node is named that is not there.
    """
    from cluster.ascend.place import NoSuchNode, find
    from orchestrator.device_book import book_for

    try:
        place = find(os.environ) if device.startswith("ascend:") else None
    except NoSuchNode as error:
        fail(str(error))
    return book_for(str((place and place.simulated) or ""), os.environ)


def _cannot(book: DeviceBook, error: Exception) -> NoReturn:
    """End because a book cannot be had."""
    if isinstance(error, OSError):
        fail(f"{error.filename or book.path}: {error.strerror}", EXIT_FAILED)
    fail(str(error), EXIT_FAILED)


@dataclass(frozen=True)
class Bars:
    """What a list of devices shows: bars by the device's name; why they cannot be told, if so."""

    held: Mapping[str, tuple[Bar, ...]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    unreadable: bool = False


def bars_of(
    devices: Iterable[Device],
    simulated: str = "",
    codes: Mapping[str, tuple[str, ...]] | None = None,
) -> Bars:
    """The bars of these devices, after the faults that the look saw have been recorded."""
    from cluster.bars import name_of, reasons
    from orchestrator.device_book import book_for
    from orchestrator.found import note

    book, now = book_for(simulated, os.environ), time.time()
    problem = note(book, codes or {}, now)
    listed = list(devices)
    try:
        barred = book.barred(listed, now)
    except (ValueError, OSError) as error:
        return Bars(problem=str(error), unreadable=True)
    held = {name_of(d): barred[d.key] for d in listed if d.key in barred}
    return Bars(held, {name: reasons(bars, now) for name, bars in held.items()}, problem)


def mark(entries: Mapping[str, dict[str, Any]], bars: Bars) -> None:
    """Put `barred`, null or its bars, into the document of each device, given by its name."""
    for name, entry in entries.items():
        held = bars.held.get(name)
        entry["barred"] = held and {
            "reason": bars.reasons[name],
            "until": None if any(one.until is None for one in held) else _latest(held),
            "bars": [_document(one) for one in held],
        }


def _latest(bars: Iterable[Bar]) -> float:
    return max(one.until for one in bars if one.until is not None)


def _document(one: Bar) -> dict[str, Any]:
    return asdict(one)
