"""What muster remembers of a machine's devices: bars, and the faults that earlier looks saw.

One JSON file. It is read without a lock, since it only ever appears whole; it is changed under a
lock file, so that of two writers neither loses the other's word.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from cluster.bars import Bar, Episode, escalate, observe, reasons, renew
from cluster.device import Device, Node
from orchestrator.layout import HOME_VARIABLE, device_book, lock_beside, write_json

_T = TypeVar("_T", Bar, Episode)
_MAX_BYTES = 1 << 22
_LOCK_SECONDS = 10.0
_TEXTS = {"device", "why", "by", "code", "uuid"}
_OPTIONAL = {"until", "ended"}


class BadBook(ValueError):
    """The book cannot be read or held: names the file and the way out."""


@dataclass(frozen=True)
class _Pages:
    bars: tuple[Bar, ...] = ()
    episodes: tuple[Episode, ...] = ()


def book_for(simulated: str, environment: Mapping[str, str]) -> DeviceBook:
    """The book of this machine, or of the rehearsal node in the directory `simulated`."""
    return DeviceBook(device_book(simulated, environment))


class DeviceBook:
    """The book in one file, which need not be there yet.

    Every method raises BadBook for a file that is damaged, and OSError where it cannot be read
    or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def bars(self, now: float) -> tuple[Bar, ...]:
        """The bars in force, by device."""
        held = (bar for bar in self._read().bars if bar.in_force(now))
        return tuple(sorted(held, key=lambda bar: (bar.device, bar.since, bar.by)))

    def barred(self, devices: Iterable[Device], now: float) -> dict[str, tuple[Bar, ...]]:
        """The bars in force of those devices that have any, by their keys."""
        bars = self.bars(now)
        found = {d.key: tuple(bar for bar in bars if bar.holds_for(d)) for d in devices}
        return {key: held for key, held in found.items() if held}

    def withheld(self, node: Node, now: float) -> dict[str, str]:
        """Why barred devices of the node may not be used, by their keys."""
        return {key: reasons(held, now) for key, held in self.barred(node.devices, now).items()}

    def bar(self, *bars: Bar) -> None:
        """Add bars; one by the same on the same device and for the same fault is replaced."""
        now = max((bar.since for bar in bars), default=0.0)

        def change(pages: _Pages) -> _Pages:
            held = [bar for bar in pages.bars if bar.in_force(now)]
            return _Pages(_added(held, bars), pages.episodes)

        self._change(change)

    def unbar(self, devices: Collection[str], now: float) -> tuple[str, ...]:
        """Lift all bars of these devices and forget their faults; returns those that had one."""
        had: list[str] = []

        def change(pages: _Pages) -> _Pages:
            barred = {bar.device for bar in pages.bars if bar.in_force(now)}
            had[:] = [device for device in devices if device in barred]
            return _Pages(
                tuple(bar for bar in pages.bars if bar.device not in devices),
                # Counted again, they would bar the device at the next look.
                tuple(one for one in pages.episodes if one.device not in devices),
            )

        self._change(change)
        return tuple(had)

    def note(self, look: Mapping[str, Collection[str]], now: float) -> tuple[Bar, ...]:
        """Record a look, the codes of each device that stated them; returns the new bars."""
        new: list[Bar] = []

        def change(pages: _Pages) -> _Pages:
            episodes = observe(pages.episodes, look, now)
            held = [renew(bar, look, now) for bar in pages.bars if bar.in_force(now)]
            known = {_place(bar) for bar in held}
            new[:] = [bar for bar in escalate(episodes, now) if _place(bar) not in known]
            return _Pages(_added(held, new), episodes)

        # Where nothing was or is wrong, nobody needs to be able to write.
        pages = self._read()
        if change(pages) != pages:
            self._change(change)
        return tuple(new)

    def _change(self, change: Callable[[_Pages], _Pages]) -> None:
        self._found()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            before = self._read()
            after = change(before)
            if after != before:
                write_json(self.path, {"schema": 1, **asdict(after)})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock file; the kernel lets go of it when this process dies."""
        deadline = time.monotonic() + _LOCK_SECONDS
        with open(lock_beside(self.path), "a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise BadBook(
                            f"{self.path}: another process has held it for {_LOCK_SECONDS:g} s "
                            f"(the lock is {file.name}); end that process"
                        ) from None
                    time.sleep(0.01)
            yield

    def _found(self) -> None:
        """Raises BadBook where nobody can say where the book lies."""
        if not self.path.is_absolute():
            raise BadBook(
                f"{self.path}: there is no such home directory, so nobody knows what is barred; "
                f"set {HOME_VARIABLE} to a directory of this machine"
            )

    def _read(self) -> _Pages:
        self._found()
        try:
            with open(self.path, "rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return _Pages()
        try:
            if len(data) > _MAX_BYTES:
                raise ValueError("larger than 4 MiB")
            return _pages(json.loads(data))
        except (ValueError, RecursionError) as error:
            raise BadBook(
                f"{self.path}: the record of barred devices is damaged ({error}); nothing is "
                "taken for free meanwhile. Repair it, or move it away to begin without bars"
            ) from None


def _place(bar: Bar) -> tuple[str, str, str]:
    return bar.device, bar.by, bar.code


def _added(bars: Iterable[Bar], new: Iterable[Bar]) -> tuple[Bar, ...]:
    return tuple({_place(bar): bar for bar in (*bars, *new)}.values())


def _pages(document: Any) -> _Pages:
    if not isinstance(document, dict) or document.get("schema") != 1:
        raise ValueError("not a book of schema 1")
    return _Pages(
        tuple(_entry(Bar, one) for one in _list(document, "bars")),
        tuple(_entry(Episode, one) for one in _list(document, "episodes")),
    )


def _list(document: dict[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    if not isinstance(value, list):
        raise ValueError(f"{name}: expected a list")
    return value


def _entry(kind: type[_T], entry: Any) -> _T:
    names = {field.name for field in fields(kind)}
    if not isinstance(entry, dict) or entry.keys() != names:
        raise ValueError(f"an entry of {kind.__name__} does not have its fields")
    wrong = [name for name in sorted(names) if not _fits(name, entry[name])]
    if wrong:
        raise ValueError(f"{kind.__name__}.{wrong[0]}: {str(entry[wrong[0]])[:40]!r}")
    return kind(**entry)


def _fits(name: str, value: Any) -> bool:
    if name in _TEXTS:
        return isinstance(value, str)
    number = type(value) in (int, float) and 0 <= value < 1e11
    return number or (name in _OPTIONAL and value is None)
