"""Devices kept for jobs that cannot start yet, and the room that others see beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.allocate import Placement, Request
from cluster.device import DeviceKind
from orchestrator.queueing.held import Held
from orchestrator.queueing.quotas import passes
from orchestrator.queueing.room import Room

Which = tuple[int, ...]


@dataclass(frozen=True)
class Kept:
    """What `job` is to start on at `at`; None: nobody knows, and it may be any."""

    job: str
    at: float
    kind: DeviceKind
    held: Mapping[str, Held] | None


class Rooms:
    """What is free, and what of it is left when some of the kept devices are not touched."""

    def __init__(self, room: Room) -> None:
        self.kept: list[Kept] = []
        self._rooms: dict[Which, Room] = {(): room}
        self._refused: set[tuple[Which, object]] = set()
        self._fits: set[object] = set()  # until the next start
        self._which: dict[float, Which] = {}

    @property
    def free(self) -> Room:
        """Everything that no job holds."""
        return self._rooms[()]

    def to_leave(self, ends: float) -> Which:
        """What a job that ends then may not touch, as numbers in `kept`."""
        if ends not in self._which:
            self._which[ends] = tuple(
                number for number, one in enumerate(self.kept) if not passes(ends, one.at)
            )
        return self._which[ends]

    def beside(self, which: Which) -> Room:
        """The room without the devices kept there."""
        if which not in self._rooms:
            self._rooms[which] = self.keeping(self.free.copy(), which)
        return self._rooms[which]

    def keeping(self, room: Room, which: Iterable[int] | None = None) -> Room:
        """The same room after these, or all, kept devices are taken out."""
        for number in range(len(self.kept)) if which is None else which:
            one = self.kept[number]
            if one.held is None:
                room.close(one.kind)
            else:
                room.hold(one.held)
        return room

    def keep(self, one: Kept) -> None:
        """Keep devices for a job from now on."""
        self.kept.append(one)
        self._which.clear()

    def place(self, request: Request, shape: object, which: Which) -> Placement | None:
        """A place beside what is kept there; None, at once, where an equal request had none."""
        if (which, shape) in self._refused:
            return None
        if which and self.place_refused(request, shape):
            return None
        placement = self.beside(which).place(request)
        if placement is None:
            self._refused.add((which, shape))
        return placement

    def place_refused(self, request: Request, shape: object) -> bool:
        """Whether there is no room at all, whatever may be touched."""
        if ((), shape) in self._refused:
            return True
        if shape not in self._fits:
            refused = self.free.select(request) is None
            (self._refused.add(((), shape)) if refused else self._fits.add(shape))
        return shape not in self._fits

    def take(self, held: Mapping[str, Held]) -> None:
        """A job has started there."""
        self._fits.clear()
        for room in self._rooms.values():
            room.hold(held)


def end_of(now: float, run_limit: float | None) -> float:
    """When a job that starts now has gone; never without a limit."""
    return math.inf if run_limit is None else now + run_limit
