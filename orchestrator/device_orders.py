"""Keeping devices of this machine from jobs, and giving them back: for a person's order."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.ascend.place import NoSuchNode, find
from cluster.bars import Bar, name_of
from cluster.device import Device, DeviceKind
from orchestrator.device_book import BadBook, DeviceBook, book_for
from orchestrator.found import find_nodes
from orchestrator.jobfile.units import LONGEST, parse_duration

_DEVICE = re.compile(r"(ascend|gpu):(0|[1-9][0-9]{0,3})", re.ASCII)
_LONGEST_WHY = 200


class BadOrder(ValueError):
    """What was asked for cannot be done so: every mistake, one a line."""


class NotBarred(LookupError):
    """Devices that are to be given back are not barred; nothing was changed."""


class NoBook(RuntimeError):
    """The record of bars cannot be read or written."""


@dataclass(frozen=True)
class Barred:
    """The new bars, and what was not certain about their devices."""

    bars: tuple[Bar, ...]
    notes: tuple[str, ...]
    at: float


def bar(
    devices: Sequence[str], length: str | None, why: str, environment: Mapping[str, str]
) -> Barred:
    """Keep devices of one kind from jobs for a time, or until they are given back.

    Takes as long as the devices' tools do. Raises BadOrder, NoBook.
    """
    seconds, mistakes = _length(length)
    mistakes += _names(devices) + _text(why)
    if mistakes:
        raise BadOrder("\n".join(mistakes))
    known, notes = _known(devices, environment)
    now = time.time()
    until = None if seconds is None else now + seconds
    bars = [Bar(name, why.strip(), now, until, uuid=_uuid(known[name])) for name in known]
    book = _book(devices[0], environment)
    try:
        book.bar(*bars)
    except (BadBook, OSError) as error:
        raise _no_book(book, error) from error
    return Barred(tuple(bars), tuple(notes), now)


def unbar(devices: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Give barred devices back; what was counted against them is forgotten. Returns their names.

    Raises BadOrder, NotBarred, NoBook.
    """
    mistakes = _names(devices)
    if mistakes:
        raise BadOrder("\n".join(mistakes))
    names = list(dict.fromkeys(devices))
    now = time.time()
    book = _book(names[0], environment)
    try:
        barred = sorted({one.device for one in book.bars(now)})
        free = [name for name in names if name not in barred]
        if free:
            held = ", ".join(barred) or "none"
            raise NotBarred(
                f"{', '.join(free)}: not barred; barred are: {held}. Nothing was changed."
            )
        book.unbar(names, now)
    except (BadBook, OSError) as error:
        raise _no_book(book, error) from error
    return names


def _length(text: str | None) -> tuple[float | None, list[str]]:
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


def _known(
    names: Sequence[str], environment: Mapping[str, str]
) -> tuple[dict[str, Device | None], list[str]]:
    """The devices of one kind by name, as found here. Raises BadOrder for one that is not here.

    None where nothing of the kind can be looked for: who bars a device then knows more than we.
    """
    try:
        found = find_nodes(DeviceKind(names[0].partition(":")[0]), environment)
    except NoSuchNode as error:
        raise BadOrder(str(error)) from error
    here = {name_of(d): d for node in found.inventory.nodes for d in node.devices}
    absent = ", ".join(name for name in dict.fromkeys(names) if name not in here)
    if absent and not found.missing:
        has = ", ".join(here) or "none of that kind"
        raise BadOrder(f"{absent}: not on this node; it has {has}")
    notes = [f"{absent}: not looked for: {found.missing}"] if absent else []
    return {name: here.get(name) for name in names}, notes


def _uuid(device: Device | None) -> str:
    return "" if device is None else device.uuid or ""


def _book(device: str, environment: Mapping[str, str]) -> DeviceBook:
    """The book that holds such a device: a rehearsal node, which has Ascend devices, has its own.

    Raises BadOrder if a rehearsal node is named that is not there.
    """
    try:
        place = find(environment) if device.startswith("ascend:") else None
    except NoSuchNode as error:
        raise BadOrder(str(error)) from error
    return book_for(str((place and place.simulated) or ""), environment)


def _no_book(book: DeviceBook, error: Exception) -> NoBook:
    if isinstance(error, OSError):
        return NoBook(f"{error.filename or book.path}: {error.strerror}")
    return NoBook(str(error))
