"""Devices kept for jobs that cannot start yet, and the room that others see beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.allocate import Placement
from cluster.device import DeviceKind
from orchestrator.queueing.held import Held
from orchestrator.queueing.quotas import passes
from orchestrator.queueing.room import Room
from orchestrator.queueing.values import Shape, Waiting

Which = tuple[int, ...]
"""Some of what is kept, by number."""


@dataclass(frozen=True)
class Kept:
    """What `job` is to start on at `at`; `held` None: nobody knows, and it may be any."""

    job: str
    at: float
    kind: DeviceKind
    held: Mapping[str, Held] | None


class Reserve:
    """What is free, and what of it is left when some of the kept devices are not touched.

    During a pass room only shrinks: a shape that was refused once is refused again.
    """

    def __init__(self, free: Room) -> None:
        self.free = free
        self.kept: list[Kept] = []
        self._rooms: dict[Which, Room] = {(): free}
        self._refused: set[tuple[Which, Shape]] = set()
        self._fits: set[Shape] = set()  # until the next start
        self._which: dict[float, Which] = {}

    def to_leave(self, ends: float) -> Which:
        """What a job that ends then may not touch."""
        if ends not in self._which:
            numbered = enumerate(self.kept)
            self._which[ends] = tuple(n for n, one in numbered if not passes(ends, one.at))
        return self._which[ends]

    def keep(self, one: Kept) -> None:
        """Keep devices for a job from now on."""
        self.kept.append(one)
        self._which.clear()

    def place(self, job: Waiting, which: Which) -> Placement | None:
        """A place beside what is kept there."""
        if (which, job.shape) in self._refused or ((), job.shape) in self._refused:
            return None
        placement = self._beside(which).place(job.request)
        if placement is None:
            self._refused.add((which, job.shape))
        return placement

    def full(self, job: Waiting) -> bool:
        """Whether there is no room for the job, whatever it may touch."""
        if job.shape in self._fits:
            return False
        if ((), job.shape) in self._refused or self.free.select(job.request) is None:
            self._refused.add(((), job.shape))
            return True
        self._fits.add(job.shape)
        return False

    def take(self, held: Mapping[str, Held]) -> None:
        """A job has started there."""
        self._fits.clear()
        for room in self._rooms.values():
            room.hold(held)

    def unkept(self) -> Room:
        """What is free and kept for nobody."""
        return self._beside(tuple(range(len(self.kept))))

    def _beside(self, which: Which) -> Room:
        if which not in self._rooms:
            room = self._rooms[which] = self.free.copy()
            for one in (self.kept[number] for number in which):
                if one.held is None:
                    room.close(one.kind)
                else:
                    room.hold(one.held)
        return self._rooms[which]
