"""One pass over the queue: who starts now, who is stopped for whom, and why the others wait. Pure.

Higher priority first; first in, first out inside a priority. Quotas come before devices. Whoever
cannot start, and could if others ended, has devices kept: those of jobs that are being stopped,
else those of lower priorities, which are stopped for it, else those that are free the earliest by
`limits.run` of the running; the last for the first job of each kind of device only. A later job
passes if it has gone by then or takes none of those. Where no limit says when, any device may be
needed: only a job with a limit passes, or one on nodes that the first cannot use.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter

from cluster.affinity import Bind
from cluster.allocate import Placement
from cluster.device import DeviceKind
from orchestrator.queueing import words
from orchestrator.queueing.held import held_by
from orchestrator.queueing.outlook import fewest, fits, in_place, victims
from orchestrator.queueing.quotas import Quotas
from orchestrator.queueing.reasons import Reasons, Why
from orchestrator.queueing.reserve import Kept, Reserve, Which
from orchestrator.queueing.room import Room
from orchestrator.queueing.values import (
    Cluster,
    Decisions,
    Group,
    Preemption,
    Quota,
    Running,
    Shape,
    Start,
    Waiting,
    as_running,
)

DEPTH = 32
"""So many jobs that differ in their request are looked at for whom to stop or wait for."""

STOPS = 4
"""For so many waiting jobs a pass looks whom it could stop; the next pass goes on."""


def schedule(
    waiting: Iterable[Waiting],
    running: Iterable[Running],
    quotas: Iterable[Quota],
    cluster: Cluster,
    now: float,
) -> Decisions:
    """Decide for every waiting job; the order of the arguments' members means nothing.

    ValueError if a job would be started twice as two have one id, or two nodes one name.
    """
    one_pass = _Pass(sorted(running, key=attrgetter("job")), quotas, cluster, now)
    one_pass.consider(sorted(waiting, key=attrgetter("rank")))
    return one_pass.decisions()


class _Pass:
    def __init__(
        self, running: Sequence[Running], quotas: Iterable[Quota], cluster: Cluster, now: float
    ) -> None:
        self._now = now
        self._unknown = cluster.unknown
        self._empty = Room.empty(cluster)
        self._reserve = Reserve(self._empty.beside(running))
        self._quotas = Quotas(quotas, running, now)
        self._running = list(running)  # with those that this pass starts
        self._stopping = {one.job for one in running if one.stopping}
        self._preemptible = [
            one for one in running if one.preemptible and one.kind not in cluster.unknown
        ]
        self._lowest = min((one.priority for one in self._preemptible), default=math.inf)
        self._tries = 0
        # Room only shrinks during a pass: who waits like one before it gets the same answer.
        self._settled: dict[Group, Why] = {}
        self._heads: set[DeviceKind] = set()
        self._looked: set[Shape] = set()
        self._never: dict[Shape, words.Refused | None] = {}
        self._refused: dict[Shape, words.Refused] = {}
        self._starts: list[Start] = []
        self._preemptions: list[Preemption] = []
        self._expired: list[str] = []
        self._whys: dict[str, Why] = {}

    def consider(self, line: Iterable[Waiting]) -> None:
        """Go through the line: most jobs get the answer of one before them."""
        for job in line:
            why = self._settled.get(job.group)
            if why is None:
                self._consider(job)
            elif job.wait_limit is None:
                self._whys[job.job] = why
            else:
                self._wait(job, why)

    def _consider(self, job: Waiting) -> None:
        """Start the job, or note why it waits and keep for it what it is to have."""
        if self._unknown and job.request.kind in self._unknown:
            seen = self._unknown[job.request.kind]
            self._settle(job, partial(words.unknown, job.request, seen))
        elif not self._quotas.allow(job, job.ends(self._now)):
            self._lacks_quota(job)
        else:
            self._with_quota(self._forgiving(job))

    def decisions(self) -> Decisions:
        """What was decided; reasons tell the state after all starts."""
        if len({one.job for one in self._running}) < len(self._running):
            raise ValueError("two jobs have the same id, or one both waits and runs")
        reasons = Reasons(self._whys)
        return Decisions(
            tuple(self._starts), tuple(self._preemptions), reasons, tuple(self._expired)
        )

    def _wait(self, job: Waiting, why: Why) -> None:
        if job.overdue(self._now):
            self._expired.append(job.job)
        else:
            self._whys[job.job] = why

    def _settle(self, job: Waiting, why: Why) -> None:
        self._settled[job.group] = why
        self._wait(job, why)

    def _forgiving(self, job: Waiting) -> Waiting:
        """Without the devices that it blames, unless it cannot do without them."""
        if job.request.withheld and self._hopeless(job):
            return replace(job, request=replace(job.request, withheld={}))
        return job

    def _with_quota(self, job: Waiting) -> None:
        why = self._refused.get(job.shape)
        if why is not None and self._looked_at(job):
            return self._settle(job, why)
        which = self._reserve.to_leave(job.ends(self._now))
        placement = self._reserve.place(job, which)
        if placement is not None:
            self._start(job, placement)
        elif job.overdue(self._now):
            self._expired.append(job.job)
        else:
            self._lacks_devices(job, which)
        return None

    def _start(self, job: Waiting, placement: Placement) -> None:
        started = as_running(job, placement, self._now)
        self._reserve.take(started.held)
        self._quotas.start(job, job.ends(self._now))
        self._running.append(started)
        self._starts.append(Start(job.job, placement))

    def _lacks_quota(self, job: Waiting) -> None:
        most = self._quotas.most(job)
        used, first = self._quotas.used(job), self._quotas.first(job)
        self._settle(job, partial(words.no_quota, job, used, most, first))
        if job.request.ranks <= most and not job.overdue(self._now):
            self._quotas.wait(job)

    def _lacks_devices(self, job: Waiting, which: Which) -> None:
        why: Why | None = self._hopeless(job)
        if why is not None:
            return self._settle(job, partial(words.never, why))
        full = self._reserve.full(job)
        if full:
            new = words.Refused(self._reserve.free, job.request)
            why = self._refused.setdefault(job.shape, new)
        else:
            first = self._reserve.kept[which[0]].job
            why = partial(words.in_the_way, first, limited=job.run_limit is not None)
        kept = None if self._looked_at(job) else self._look(job, why, full=full)
        return self._settle(job, why) if kept is None else self._wait(job, kept)

    def _looked_at(self, job: Waiting) -> bool:
        return job.shape in self._looked or len(self._looked) >= DEPTH

    def _look(self, job: Waiting, why: Why, *, full: bool) -> Why | None:
        """See what can be kept for the job; says why it waits then, None if nothing is."""
        kept = (self._by_stops(job) if full else None) or self._as_head(job, why)
        if kept is None:
            self._looked.add(job.shape)  # those behind it may stop even fewer
        return kept

    def _hopeless(self, job: Waiting) -> words.Refused | None:
        """What the allocator says if it would not start though nothing else ran."""
        if job.shape not in self._never:
            refused = self._empty.select(job.request) is None
            said = words.Refused(self._empty, job.request)
            self._never[job.shape] = said if refused else None
        return self._never[job.shape]

    def _by_stops(self, job: Waiting) -> Why | None:
        """Keep for the job what leaves soon, if need be because it is stopped for it."""
        if self._tries >= STOPS or (not self._stopping and self._lowest >= job.priority):
            return None
        room = self._reserve.unkept()
        going = [one for one in self._running if one.job in self._stopping]
        stopped: list[Running] = []
        if not going or not fits(room, going, job.request):
            self._tries += 1
            with room.without(going):
                stopped = victims(room, self._lower(room, job), job.request, self._now)
            going = [*going, *stopped] if stopped else []
        with room.without(going):
            placement = room.place(job.request)
        if placement is None:
            return None
        self._stop(stopped, job)
        self._keep(job, self._now, placement)
        return partial(words.stops, in_place(going, placement))

    def _lower(self, room: Room, job: Waiting) -> list[Running]:
        """Those that may be stopped for the job."""
        lower = (one for one in self._preemptible if one.priority < job.priority)
        staying = [one for one in lower if one.job not in self._stopping]
        return room.concerned(staying, job.request.kind)

    def _stop(self, stopped: Iterable[Running], job: Waiting) -> None:
        for one in sorted(stopped, key=attrgetter("job")):
            self._stopping.add(one.job)
            self._preemptions.append(Preemption(one.job, job.job))

    def _as_head(self, job: Waiting, why: Why) -> Why | None:
        """Keep for the first job of a kind what is free the earliest by the limits of others."""
        if job.request.kind in self._heads:
            return None
        self._heads.add(job.request.kind)
        room = self._reserve.unkept()
        concerned = room.concerned(self._running, job.request.kind)
        ends = {one.job: self._ends(one) for one in concerned}
        timed = [one for one in concerned if ends[one.job] < math.inf]
        timed.sort(key=lambda one: (ends[one.job], one.job))
        number = fewest(room, timed, job.request)
        placement, at = None, math.inf
        if number is not None:
            at = ends[timed[number - 1].job]
            with room.without(timed[:number]):
                placement = room.place(job.request)
        self._keep(job, at, placement)
        refused = isinstance(why, words.Refused)
        return partial(words.next_up, why, at - self._now) if refused else why

    def _ends(self, one: Running) -> float:
        return self._now if one.job in self._stopping else one.ends(self._now)

    def _keep(self, job: Waiting, at: float, placement: Placement | None) -> None:
        bound = job.request.bind is not Bind.NONE
        ranks = None if placement is None else placement.assignments
        held = None if ranks is None else held_by(job.job, ranks, bound=bound, kept=True)
        self._reserve.keep(Kept(job.job, at, job.request.kind, held))
        self._quotas.claim(job, at)
