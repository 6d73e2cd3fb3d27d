"""What a job has of Ray, be it a Ray of its own or one that many jobs share.

Its events become messages, a placement's devices are held, supervisors are started. How Ray is
reached is behind a `Line`: `private_ray` has one for a Ray of the job's own, `service.shared_ray`
for the one of a service.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from cluster.allocate import Placement
from cluster.ray_client import (
    Closed,
    Event,
    Failed,
    RayLost,
    Ready,
    Reserved,
    Start,
    Unreserved,
    Up,
)
from orchestrator import processes
from orchestrator.link import Message

_RESERVE_TIMEOUT = 120.0

# Answers to requests of one job's former share must not be taken for its own.
_SERIALS = itertools.count(1)

Pump = Callable[[float], None]


class NodeError(RuntimeError):
    """The node cannot be used: Ray or the supervisor does not start, or devices are taken."""


class NodeRay(Protocol):
    """What `LocalNode` needs of a Ray; `JobRay` says it all."""

    @property
    def ended(self) -> bool:
        """Whether there is no Ray to be asked, and none will be."""

    def fileno(self) -> int:
        """A descriptor that is readable when `messages` has something."""

    def start(self, supervisor: Start, resources: Mapping[str, float], *, simulated: bool) -> None:
        """Have a first supervisor started."""

    def start_supervisor(self, supervisor: Start) -> None:
        """Have another supervisor started."""

    def reserve(self, placement: Placement, pump: Pump) -> None:
        """Have the devices of a placement held."""

    def hold(self, placement: Placement, *, simulated: bool) -> None:
        """Have them held for a gang that runs already; returns at once."""

    def messages(self, *, supervised: bool) -> list[Message]:
        """What has happened."""

    def raylets(self) -> tuple[int, ...]:
        """What a drill kills."""

    def close(self) -> None:
        """Give everything back."""


class Line(Protocol):
    """How one job reaches a Ray. No method waits, but `close` may."""

    def fileno(self) -> int:
        """A descriptor that is readable when `poll` has something."""

    def poll(self) -> tuple[Event, ...]:
        """What has happened to this job and to Ray."""

    def open(self, resources: Mapping[str, float]) -> bool:
        """Have a Ray come up with at least these resources; whether one is there, or coming."""

    def start_supervisor(self, start: Start, serial: int) -> None:
        """Answered by Ready or Failed of this serial."""

    def reserve(self, placement: Placement, serial: int, *, simulated: bool) -> None:
        """Answered by Reserved or Unreserved of this serial."""

    def raylets(self) -> tuple[int, ...]:
        """The raylets of a Ray of ours on this machine."""

    def close(self) -> None:
        """Give back what is held for the job; a Ray of its own goes down."""


class JobRay:
    """Starts supervisors on this node and holds devices for one job.

    `there` is whether a Ray is there, or coming, that can be asked; `ended`, that none will be.
    """

    def __init__(self, line: Line, log: Path, *, simulated: bool = False) -> None:
        self._line = line
        self._log = log
        self._simulated = simulated
        self._placement: Placement | None = None
        self._answer: Reserved | Unreserved | None = None
        self._asked: Start | None = None
        self._starts = 0
        self._reserves = 0
        self._waits = False
        self._again = False
        self._up_seconds: Mapping[str, float] = {}
        self._kept: list[Message] = []
        self.there = False
        self.ended = False

    def fileno(self) -> int:
        """A descriptor that is readable when `messages` has something; after `start`."""
        return self._line.fileno()

    def start(self, supervisor: Start, resources: Mapping[str, float], *, simulated: bool) -> None:
        """Have a supervisor started in a Ray that offers these resources; returns at once.

        `simulated` says that the devices among them are those of a rehearsal node.
        """
        self._simulated = simulated
        self.there = self._line.open(resources)
        self.start_supervisor(supervisor)

    def start_supervisor(self, supervisor: Start) -> None:
        """Ask for another supervisor, and for another Ray if this one is lost.

        Raises NodeError when there is nobody to ask.
        """
        if self.ended:
            raise NodeError(f"Ray is gone for good; see {self._log}")
        self._again = True
        self._ask(supervisor)

    def _ask(self, supervisor: Start) -> None:
        self._asked, self._starts = supervisor, next(_SERIALS)
        self._line.start_supervisor(supervisor, self._starts)

    def reserve(self, placement: Placement, pump: Pump, timeout: float = _RESERVE_TIMEOUT) -> None:
        """Have Ray hold the very devices of `placement`, and no others, for the job.

        Costs nothing when it does already. Raises NodeError when it cannot. While Ray is lost
        the ranks go on without it: the next one holds the devices.
        """
        if placement == self._placement or self.ended:
            return
        self.hold(placement, simulated=self._simulated)
        self._waits = True
        try:
            refusal = self._await_refusal(pump, time.monotonic() + timeout)
        finally:
            self._waits = False
        if refusal:
            self._placement = None
            raise NodeError(f"Ray does not reserve the devices: {refusal}; see {self._log}")

    def hold(self, placement: Placement, *, simulated: bool) -> None:
        """The same for a gang that runs already; whether Ray agrees is told and changes nothing."""
        self._simulated = simulated
        self._placement, self._answer, self._reserves = placement, None, next(_SERIALS)
        self._line.reserve(placement, self._reserves, simulated=simulated)

    def _await_refusal(self, pump: Pump, deadline: float) -> str:
        """Why the bundles are not held, if they are not; empty too when Ray is lost meanwhile."""
        while self.there and self._answer is None:
            if time.monotonic() > deadline:
                return "no answer in time"
            pump(0.1)
        match self._answer:
            case Unreserved(reason=reason) if self.there:
                return reason
        return ""

    def messages(self, *, supervised: bool) -> list[Message]:
        """What has happened. Raises NodeError when the node remains without a supervisor."""
        messages, self._kept = self._kept, []
        problem = None
        for event in self._line.poll():
            try:
                messages += self._told(event, supervised)
            except NodeError as error:
                problem = error
        if problem:
            self._kept = messages
            raise problem
        return messages

    def _told(self, event: Event, supervised: bool) -> list[Message]:
        match event:
            case Up(seconds=seconds):
                self.there = True
                self._up_seconds = seconds if self._asked else {}
            case Ready(seconds=seconds, serial=self._starts):
                return [self._ready(seconds)]
            case Failed(job="", reason=reason):
                coming, self.there = self.there, False
                return self._failed(reason, supervised, again=not coming)
            case Failed(reason=reason, serial=self._starts):
                return self._failed(reason, supervised, again=not self.there)
            case Reserved() | Unreserved():
                return self._answered(event)
            case RayLost(reason):
                self.there = False
                return [_lost(f"Ray was lost ({reason}); the ranks go on")]
            case Closed():
                self.there, self.ended = False, True
                return [_lost(f"Ray's keeper ended; the ranks go on; see {self._log}")]
        return []

    def _ready(self, more: Mapping[str, float]) -> Message:
        seconds, self._up_seconds, self._asked = {**self._up_seconds, **more}, {}, None
        text = f"a supervisor asked for, {sum(seconds.values()):.1f} s"
        return {"event": "ray_ready", "text": text, "seconds": seconds}

    def _answered(self, event: Reserved | Unreserved) -> list[Message]:
        """What was asked for last is held, or not; or a new Ray holds it again, or does not."""
        if event.serial not in (None, self._reserves):
            return []
        if event.serial is not None:
            self._answer = event
        match event:
            case Reserved(seconds=seconds):
                ranks = len(self._placement.assignments) if self._placement else 0
                text = f"Ray holds the devices of {ranks} ranks, {seconds:.2f} s"
                return [{"event": "note", "text": text, "seconds": {"reserve": seconds}}]
            case Unreserved(reason=reason) if not (self._waits and self.there and event.serial):
                return [{"event": "note", "text": f"Ray does not hold the devices: {reason}"}]
        return []

    def _failed(self, reason: str, supervised: bool, *, again: bool) -> list[Message]:
        """Asked once more where Ray was lost meanwhile; raises NodeError without a supervisor."""
        asked, self._asked = self._asked, None
        if asked is None or supervised:
            return [{"event": "note", "text": f"Ray: {reason}"}]
        if again and self._again and not self.ended:
            self._again = False
            self._ask(asked)
            return [{"event": "note", "text": f"a supervisor is asked for again: {reason}"}]
        raise NodeError(f"Ray does not start the supervisor: {reason}")

    def raylets(self) -> tuple[int, ...]:
        """The raylets of a Ray of ours on this machine: what a drill kills."""
        return self._line.raylets()

    def close(self) -> None:
        """Give back what is held for the job; nothing of a Ray of its own is left after it."""
        self._line.close()


def _lost(text: str) -> Message:
    return {"event": "ray_lost", "text": text}


def raylets_of(temp_dir: str) -> tuple[int, ...]:
    """The raylets whose session is below `temp_dir`."""
    found = processes.mentioning(temp_dir)
    return tuple(pid for pid in found if processes.name_of(pid) == "raylet")
