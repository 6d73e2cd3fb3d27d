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
from operator import attrgetter

from cluster.affinity import Bind
from cluster.allocate import Placement, Request
from cluster.device import DeviceKind
from orchestrator.queueing import words
from orchestrator.queueing.held import held_by
from orchestrator.queueing.kept import Kept, Rooms, Which, end_of
from orchestrator.queueing.outlook import fewest, victims, without
from orchestrator.queueing.quotas import Quotas
from orchestrator.queueing.reasons import Reasons, Shape, shape_of
from orchestrator.queueing.room import Room
from orchestrator.queueing.values import (
    Cluster,
    Decisions,
    Preemption,
    Quota,
    Running,
    Start,
    Waiting,
)

DEPTH = 32
"""So many jobs that differ in request or priority are looked at for whom to stop or wait for."""

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

    ValueError if two jobs have one id, or two nodes one name.
    """
    line = sorted(waiting, key=attrgetter("rank"))
    jobs = sorted(running, key=attrgetter("job"))
    if len({one.job for one in line} | {one.job for one in jobs}) < len(line) + len(jobs):
        raise ValueError("two jobs have the same id, or one both waits and runs")
    one_pass = _Pass(jobs, quotas, cluster, now)
    for job in line:
        one_pass.consider(job)
    return one_pass.decisions()


class _Pass:
    def __init__(
        self, running: Sequence[Running], quotas: Iterable[Quota], cluster: Cluster, now: float
    ) -> None:
        self._now = now
        self._empty = Room.empty(cluster)
        free = self._empty.fresh()
        for one in running:
            free.hold(one.held)
        self._rooms = Rooms(free)
        self._quotas = Quotas(quotas, running, now)
        self._running = list(running)  # with those that this pass starts
        self._stopping = {one.job for one in running if one.stopping}
        self._lowest = min((one.priority for one in running), default=math.inf)
        self._tries = 0
        self._kept_for: set[str] = set()
        # Room only shrinks during a pass: who waits like one before it gets the same answer.
        self._settled: dict[tuple[object, ...], str] = {}
        self._heads: dict[DeviceKind, str] = {}
        self._looked: set[tuple[Shape, int]] = set()
        self._never: dict[Shape, bool] = {}
        self._starts: list[Start] = []
        self._preemptions: list[Preemption] = []
        self._expired: list[str] = []
        self._reasons = Reasons()

    def consider(self, job: Waiting) -> None:
        """Start the job, or note why it waits and keep for it what it is to have."""
        shape = shape_of(job.request)
        group = (shape, job.queue, job.priority, job.limits.run)
        if group in self._settled and not job.overdue(self._now):
            return self._reasons.same(job.job, self._settled[group])
        ends = end_of(self._now, job.limits.run)
        if not self._quotas.allow(job, ends):
            self._lacks_quota(job)
        else:
            self._consider(job, shape, ends)
        if job.job in self._reasons and job.job not in self._kept_for:
            self._settled[group] = job.job
        return None

    def _consider(self, job: Waiting, shape: Shape, ends: float) -> None:
        which = self._rooms.to_leave(ends)
        placement = self._rooms.place(job.request, shape, which)
        if placement is not None:
            self._start(job, placement, ends)
        elif job.overdue(self._now):
            self._expired.append(job.job)
        else:
            self._lacks_devices(job, shape, which)

    def decisions(self) -> Decisions:
        """What was decided; the words are those of the state after all starts."""
        return Decisions(
            tuple(self._starts),
            tuple(self._preemptions),
            self._reasons.told(self._rooms.free, self._empty),
            tuple(self._expired),
        )

    def _start(self, job: Waiting, placement: Placement, ends: float) -> None:
        started = _as_running(job, placement, self._now)
        self._rooms.take(started.held)
        self._quotas.start(job, ends)
        self._running.append(started)
        self._starts.append(Start(job.job, placement))

    def _lacks_quota(self, job: Waiting) -> None:
        if job.overdue(self._now):
            self._expired.append(job.job)
            return
        used, most = self._quotas.used(job), self._quotas.most(job)
        first = self._quotas.first(job)
        self._reasons.say(job.job, words.no_quota(job, used, most, first))
        if job.request.ranks <= most:
            self._quotas.wait(job)

    def _lacks_devices(self, job: Waiting, shape: Shape, which: Which) -> None:
        behind = bool(which) and not self._rooms.place_refused(job.request, shape)
        first = self._heads.get(job.request.kind)
        if self._never.get(shape):
            self._reasons.never(job.job, job.request, shape)
        elif behind:
            first = self._rooms.kept[which[0]].job
            limited = job.limits.run is not None
            self._reasons.say(job.job, words.in_the_way(first, limited=limited))
        else:
            self._reasons.refused(job.job, job.request, shape, first)
        if (shape, job.priority) not in self._looked and len(self._looked) < DEPTH:
            self._look(job, shape, behind=behind)

    def _look(self, job: Waiting, shape: Shape, *, behind: bool) -> None:
        """See what can be kept for the job, and say so."""
        if self._hopeless(job.request, shape):
            self._reasons.never(job.job, job.request, shape)
        elif (behind or not self._by_stops(job)) and not self._as_head(job, shape, behind=behind):
            self._looked.add((shape, job.priority))

    def _hopeless(self, request: Request, shape: Shape) -> bool:
        """Whether it would not start if nothing else ran; then nothing is kept for it."""
        if shape not in self._never:
            self._never[shape] = self._empty.select(request) is None
        return self._never[shape]

    def _by_stops(self, job: Waiting) -> bool:
        """Keep for the job what leaves soon, if need be because it is stopped for it."""
        if self._tries >= STOPS or (not self._stopping and self._lowest >= job.priority):
            return False
        going = [one for one in self._running if one.job in self._stopping]
        room = self._rooms.keeping(without(self._rooms.free, going))
        if room.select(job.request) is None:
            lower = [
                one
                for one in self._running
                if one.preemptible and one.priority < job.priority and one.job not in self._stopping
            ]
            self._tries += 1
            stopped = victims(room, lower, job.request, self._now)
            if not stopped:
                return False
            room, going = without(room, stopped), stopped
        placement = room.place(job.request)
        if placement is None:
            return False
        if going[0].job not in self._stopping:
            self._stop(going, job)
        self._keep(job, self._now, placement)
        self._reasons.say(job.job, words.stops(_in_place(going, placement)))
        return True

    def _stop(self, stopped: Iterable[Running], job: Waiting) -> None:
        for one in sorted(stopped, key=attrgetter("job")):
            self._stopping.add(one.job)
            self._preemptions.append(Preemption(one.job, job.job))

    def _as_head(self, job: Waiting, shape: Shape, *, behind: bool) -> bool:
        """Keep for the first job of a kind what is free the earliest by the limits of others."""
        if job.request.kind in self._heads:
            return False
        self._heads[job.request.kind] = job.job
        ends = [(self._ends(one), one.job, one) for one in self._running]
        leaving = [(end, one) for end, _, one in sorted(ends, key=lambda e: e[:2])]
        timed = [one for end, one in leaving if end < math.inf]
        room = self._rooms.keeping(self._rooms.free.copy())
        number = fewest(room, timed, job.request)
        placement = number and without(room, timed[:number]).place(job.request)
        at = leaving[number - 1][0] if number and placement else math.inf
        self._keep(job, at, placement or None)
        if not behind:
            self._reasons.head(job.job, job.request, shape, at - self._now)
        return True

    def _ends(self, one: Running) -> float:
        return self._now if one.job in self._stopping else one.ends(self._now)

    def _keep(self, job: Waiting, at: float, placement: Placement | None) -> None:
        self._kept_for.add(job.job)
        bound = job.request.bind is not Bind.NONE
        ranks = None if placement is None else placement.assignments
        held = None if ranks is None else held_by(job.job, ranks, bound=bound, kept=True)
        self._rooms.keep(Kept(job.job, at, job.request.kind, held))
        self._quotas.claim(job, at)


def _as_running(job: Waiting, placement: Placement, now: float) -> Running:
    """The job once it has started; none is stopped in the pass that starts it."""
    return Running(
        job=job.job,
        assignments=placement.assignments,
        started_at=now,
        priority=job.priority,
        queue=job.queue,
        run_limit=job.limits.run,
        preemptible=False,
        bound=job.request.bind is not Bind.NONE,
    )


def _in_place(going: Iterable[Running], placement: Placement) -> list[str]:
    """Those that the place waits for: they hold its devices, or else CPUs of its nodes."""
    keys = {one.device.key for one in placement.assignments}
    nodes = {one.node for one in placement.assignments}
    holding = [v.job for v in going if any(a.device.key in keys for a in v.assignments)]
    beside = [v.job for v in going if any(a.node in nodes for a in v.assignments)]
    return sorted(holding or beside)
