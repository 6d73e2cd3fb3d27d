"""The run's private Ray, from the controller's side: its events become messages, devices are held.

Ray runs in a process of its own (`cluster.ray_node`), so that neither its start-up nor its
death is felt here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

from cluster.allocate import Placement
from cluster.ray_client import (
    Closed,
    Event,
    Failed,
    RayLost,
    RayNode,
    Ready,
    Reserved,
    Start,
    Unreserved,
)
from cluster.reservation import bundles_of, widened
from orchestrator import processes
from orchestrator.job_ray import NodeError, Pump
from orchestrator.layout import RunDirectory, Spool
from orchestrator.link import Message

_RESERVE_TIMEOUT = 120.0
_CLOSE_TIMEOUT = 15.0


class PrivateRay:
    """Ray for one run on this machine.

    `there` is whether a Ray is there, or coming, that can be asked; `ended`, that none will be.
    """

    def __init__(
        self,
        *,
        job: str,
        directory: RunDirectory,
        spool: Spool,
    ) -> None:
        self._job = job
        self._log = directory.ray_log
        self._temp_dir = str(spool.ray)
        self._resources: dict[str, float] = {}
        self._simulated = False
        self._node: RayNode | None = None
        self._bundles: tuple[Mapping[str, float], ...] = ()
        self._answer: Reserved | Unreserved | None = None
        self.there = False
        self.ended = False

    def fileno(self) -> int:
        """A descriptor that is readable when `messages` has something."""
        assert self._node is not None
        return self._node.fileno()

    def start(self, supervisor: Start, resources: Mapping[str, float], *, simulated: bool) -> None:
        """Begin to start Ray with these resources, and on it a supervisor; returns at once.

        `simulated` says that the devices among them are those of a rehearsal node.
        """
        self._resources, self._simulated = dict(resources), simulated
        self._node = RayNode.start(
            temp_dir=self._temp_dir,
            job=self._job,
            resources=self._resources,
            start=supervisor,
            log=self._log,
        )
        self.there = True

    def start_supervisor(self, supervisor: Start) -> None:
        """Ask for another supervisor, and for another Ray if this one is lost.

        Raises NodeError when there is nobody to ask.
        """
        if self._node is None or self.ended:
            raise NodeError(f"Ray is gone for good; see {self._log}")
        self._node.start_supervisor(supervisor)

    def reserve(self, placement: Placement, pump: Pump, timeout: float = _RESERVE_TIMEOUT) -> None:
        """Have Ray hold the very devices of `placement`, and no others, for the job.

        Costs nothing when it does already. Raises NodeError when it cannot. While Ray is lost
        the ranks go on without it: the next one, which comes with the next supervisor, holds
        the devices.
        """
        bundles = bundles_of(placement, self._resources["CPU"], simulated=self._simulated)
        if bundles == self._bundles or self._node is None:
            return
        self._bundles, self._answer = bundles, None
        self._resources = widened(self._resources, bundles)
        self._node.reserve(bundles, self._resources)
        refusal = self._await_refusal(pump, time.monotonic() + timeout)
        if refusal:
            self._bundles = ()
            raise NodeError(f"Ray does not reserve the devices: {refusal}; see {self._log}")

    def _await_refusal(self, pump: Pump, deadline: float) -> str:
        """Why the bundles are not held, if they are not; empty too when Ray is lost meanwhile."""
        while self.there and self._answer is None:
            if time.monotonic() > deadline:
                return "no answer in time"
            pump(0.1)
        match self._answer:
            case Unreserved(reason) if self.there:
                return reason
        return ""

    def messages(self, *, supervised: bool) -> list[Message]:
        """What has happened. Raises NodeError when the node remains without a supervisor."""
        if self._node is None:
            return []
        return [m for event in self._node.poll() for m in self._told(event, supervised)]

    def _told(self, event: Event, supervised: bool) -> list[Message]:
        match event:
            case Failed(reason) if supervised:
                return [{"event": "note", "text": f"Ray: {reason}"}]
            case Failed(reason):
                raise NodeError(f"Ray does not start the supervisor: {reason}")
            case Ready(seconds=seconds):
                self.there = True
                text = f"a supervisor asked for, {sum(seconds.values()):.1f} s"
                return [{"event": "ray_ready", "text": text, "seconds": dict(seconds)}]
            case Reserved(seconds):
                self._answer = event
                text = f"Ray holds the devices of {len(self._bundles)} ranks, {seconds:.2f} s"
                return [{"event": "note", "text": text, "seconds": {"reserve": seconds}}]
            case Unreserved(reason) if not self.there:
                return [{"event": "note", "text": f"Ray does not hold the devices: {reason}"}]
            case Unreserved():
                self._answer = event
            case RayLost(reason):
                self.there = False
                text = f"Ray was lost ({reason}); the ranks go on"
                return [{"event": "ray_lost", "text": text}]
            case Closed():
                self.there, self.ended = False, True
                text = f"Ray's keeper ended; the ranks go on; see {self._log}"
                return [{"event": "ray_lost", "text": text}]
        return []

    def raylets(self) -> tuple[int, ...]:
        """The raylet of this Ray: what a drill kills."""
        found = processes.mentioning(self._temp_dir)
        return tuple(pid for pid in found if processes.name_of(pid) == "raylet")

    def close(self) -> None:
        """Take Ray down; after a time-out it goes on ending by itself."""
        if self._node is not None:
            with contextlib.suppress(TimeoutError):
                self._node.close(_CLOSE_TIMEOUT)
