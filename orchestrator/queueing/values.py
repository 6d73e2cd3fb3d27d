"""What the queue decides upon, and what it decides. Values only; times are seconds since the epoch.

Everything is told by the caller: no clock is read and no device is looked for here. A value that
stays the same from pass to pass is best kept and given again: what was worked out of it stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from sys import intern
from typing import Any

from cluster.affinity import Bind
from cluster.allocate import Assignment, Placement, Request
from cluster.device import DeviceKind, Inventory
from orchestrator.queueing.held import Held, held_by

Shape = str
Group = str
"""Both are texts because thousands of jobs are looked up by them: the hash of a text is kept."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A job that wants devices; `job` is its unique id.

    `place` orders those that wait within a priority, `front` ones first: they held devices
    before and lost them. `since` is when this wait began: `wait_limit` counts from then.
    `request.withheld` has devices that this job alone is better off without (it blames them).
    """

    job: str
    request: Request
    place: float
    since: float
    priority: int = 50
    queue: str = "default"
    wait_limit: float | None = None
    run_limit: float | None = None
    front: bool = False
    rank: tuple[int, float, str] = field(init=False, repr=False, compare=False)
    """Its place in the line: the lower, the sooner."""
    shape: Shape = field(init=False, repr=False, compare=False)
    """Requests of one shape get one answer; how ranks are bound makes no difference to it."""
    group: Group = field(init=False, repr=False, compare=False)
    """Jobs of one group differ in their place alone."""

    def __post_init__(self) -> None:
        shape = _shape(self.request)
        known: dict[str, Any] = self.__dict__  # frozen for everyone else
        known["shape"] = shape
        known["group"] = intern(f"{shape} {self.queue} {self.priority} {self.run_limit}")
        known["rank"] = -2 * self.priority - self.front, self.place, self.job

    def overdue(self, now: float) -> bool:
        """Whether it has waited as long as it may."""
        return self.wait_limit is not None and now - self.since >= self.wait_limit

    def ends(self, now: float) -> float:
        """When it has gone at the latest if it starts now."""
        return math.inf if self.run_limit is None else now + self.run_limit


def _shape(asked: Request) -> Shape:
    counts = f"{asked.kind.value} {asked.ranks} {asked.ranks_per_node} {asked.cpus_per_rank}"
    return intern(f"{counts} {sorted(asked.withheld)}" if asked.withheld else counts)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A job that holds devices, from the decision to start it until its last process has gone.

    `run_limit` counts from `started_at`; None: it may run for ever. `preemptible`: it may be
    stopped for a higher priority (it has budget left for that). `stopping`: it is being stopped
    already, for whatever reason. `bound`: its ranks are bound to the CPUs in the assignments;
    otherwise they take as many (`launch.bind: none`).
    """

    job: str
    assignments: tuple[Assignment, ...]
    started_at: float
    priority: int = 50
    queue: str = "default"
    run_limit: float | None = None
    preemptible: bool = True
    stopping: bool = False
    bound: bool = True

    @property
    def kind(self) -> DeviceKind | None:
        """What it runs on; None if it holds nothing."""
        return self.assignments[0].device.kind if self.assignments else None

    @cached_property
    def held(self) -> Mapping[str, Held]:
        """What it holds, by node."""
        return held_by(self.job, self.assignments, bound=self.bound)

    def ends(self, now: float) -> float:
        """When it has gone at the latest: `now` for one being stopped, else by its limit."""
        if self.stopping:
            return now
        return math.inf if self.run_limit is None else max(now, self.started_at + self.run_limit)


def as_running(job: Waiting, placement: Placement, now: float) -> Running:
    """A job that the queue has just started: not to be stopped in the same pass."""
    return Running(
        job=job.job,
        assignments=placement.assignments,
        started_at=now,
        priority=job.priority,
        queue=job.queue,
        run_limit=job.run_limit,
        preemptible=False,
        bound=job.request.bind is not Bind.NONE,
    )


@dataclass(frozen=True)
class Quota:
    """How many devices of each kind the jobs of a queue may hold together.

    For CPU slots it counts ranks. A kind, or a queue, that is not named has no quota.
    """

    queue: str
    devices: Mapping[DeviceKind, int]


@dataclass(frozen=True)
class Cluster:
    """All nodes that can be given work, and devices that nobody may have, each with the reason.

    What running jobs hold is not in `withheld`: it follows from `Running`. `unknown` has the
    kinds of which nobody could see what there is, and why: nothing is decided about those.
    """

    inventory: Inventory
    withheld: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[DeviceKind, str] = field(default_factory=dict)

    @cached_property
    def worked_out(self) -> dict[str, Any]:
        """What passes found of these values alone: the next with the same value needs not."""
        return {}


@dataclass(frozen=True)
class Start:
    """A job that is to be started, on these devices and no others."""

    job: str
    placement: Placement


@dataclass(frozen=True)
class Preemption:
    """A running job that is to be stopped gracefully, and the job that needs its devices."""

    job: str
    needed_by: str


@dataclass(frozen=True)
class Decisions:
    """What is to be done now, in order.

    `reasons` has one sentence for every job that goes on waiting, in the order in which they
    wait; it is put into words when asked for, from any thread. `expired` are those whose
    `limits.wait` is over. Each job that waited is in exactly one of `starts`, `reasons` and
    `expired`.
    """

    starts: tuple[Start, ...] = ()
    preemptions: tuple[Preemption, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    expired: tuple[str, ...] = ()

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """The place in the whole line, from 1, of every job that goes on waiting."""
        return {job: position for position, job in enumerate(self.reasons, 1)}
