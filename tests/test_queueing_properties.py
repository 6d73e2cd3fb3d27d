"""What holds of every pass over a queue, whatever waits and runs."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.allocate import Placement, Request, allocate
from cluster.device import DeviceKind, Inventory
from orchestrator.queueing import Cluster, Decisions, Quota, Running, Waiting, schedule
from orchestrator.queueing.room import Room
from tests import fabrics, queues
from tests.queues import NOW, crowded, fits, scenes

UNHURRIED = settings(deadline=None)
"""A busy machine may take longer for a scene than hypothesis allows."""

Scene = tuple[Cluster, list[Waiting], list[Running], list[Quota]]


def decided(scene: Scene) -> tuple[Decisions, list[Running]]:
    """What is decided, and the jobs that are started, as they run."""
    where, line, before, quotas = scene
    decisions = schedule(line, before, quotas, where, NOW)
    return decisions, queues.started(line, decisions, NOW)


@UNHURRIED
@given(scenes())
def test_every_job_starts_or_expires_or_has_a_reason(scene: Scene) -> None:
    """Each waiting job is told of exactly once, and no reason is empty."""
    _, line, _, _ = scene
    decisions, _ = decided(scene)
    told = [*(s.job for s in decisions.starts), *decisions.reasons, *decisions.expired]
    assert sorted(told) == sorted(one.job for one in line)
    assert all(decisions.reasons.values())
    overdue = {one.job for one in line if one.overdue(NOW)}
    assert overdue.isdisjoint(decisions.reasons)
    assert overdue.issuperset(decisions.expired)
    rank = {one.job: one.rank for one in line}
    assert list(decisions.reasons) == sorted(decisions.reasons, key=rank.__getitem__)
    assert [s.job for s in decisions.starts] == sorted(
        (s.job for s in decisions.starts), key=rank.__getitem__
    )


@UNHURRIED
@given(scenes())
def test_nothing_is_given_twice_and_gangs_are_whole(scene: Scene) -> None:
    """Devices and slots once over running and started; CPUs are shared only within a gang."""
    where, line, before, _ = scene
    decisions, starts = decided(scene)
    keys = [a.device.key for one in (*before, *starts) for a in one.assignments]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & where.withheld.keys()
    asked = {one.job: one.request for one in line}
    for start in decisions.starts:
        request = asked[start.job]
        assert [a.rank for a in start.placement.assignments] == list(range(request.ranks))
        assert all(len(a.cpus) >= (request.cpus_per_rank or 1) for a in start.placement.assignments)
    cpus = [
        (node, cpu)
        for one in (*before, *starts)
        for node, held in one.held.items()
        for cpu in held.cpus
    ]
    assert len(set(cpus)) == len(cpus)


@UNHURRIED
@given(scenes())
def test_no_queue_gets_above_its_quota(scene: Scene) -> None:
    """What a queue holds stays within its quota, or as it was."""
    _, _, before, quotas = scene
    _, starts = decided(scene)
    for quota in quotas:
        for kind, most in quota.devices.items():
            held, more = (
                sum(len(r.assignments) for r in some if r.queue == quota.queue and r.kind is kind)
                for some in (before, starts)
            )
            assert not more or held + more <= most


@UNHURRIED
@given(scenes())
def test_no_job_takes_what_a_startable_one_before_it_needed(scene: Scene) -> None:
    """Whoever waits for devices found none before those behind it were looked at."""
    where, line, before, _ = scene
    decisions, starts = decided(scene)
    rank = {one.job: one.rank for one in line}
    for one in line:
        why = decisions.reasons.get(one.job, "quota")
        if "quota" in why or "would fit now" in why:
            continue
        ahead = [s for s in starts if rank[s.job] < one.rank]
        assert not fits(where, [*before, *ahead], one.request), why


def earliest(where: Cluster, jobs: Sequence[Running], one: Waiting) -> float:
    """The first moment at which it fits, if each job ends by its limit."""
    moments = sorted({NOW, *(job.ends(NOW) for job in jobs)} - {math.inf})
    for at in moments:
        if fits(where, [job for job in jobs if job.ends(NOW) > at], one.request):
            return at
    return math.inf


@UNHURRIED
@given(scenes() | crowded())
def test_passing_does_not_delay_the_next_in_line(scene: Scene) -> None:
    """The first that devices are kept for starts as early as if nobody had passed it.

    For the first of another kind those count as taken, so that it may be promised a later time.
    """
    where, line, before, quotas = scene
    before = [replace(one, preemptible=False, stopping=False) for one in before]
    decisions, starts = decided((where, line, before, quotas))
    rank = {one.job: one.rank for one in line}
    waits = sorted(line, key=lambda one: one.rank)
    for one in [w for w in waits if "next in line" in decisions.reasons.get(w.job, "")][:1]:
        ahead = [s for s in starts if rank[s.job] < one.rank]
        behind = [s for s in starts if rank[s.job] > one.rank]
        without = earliest(where, [*before, *ahead], one)
        assert earliest(where, [*before, *starts], one) <= without
        if without == math.inf:
            assert all(s.run_limit is not None or apart(where, s, one) for s in behind)


def apart(where: Cluster, started: Running, other: Waiting) -> bool:
    """Whether it runs on nodes that have nothing for the other."""
    kind = other.request.kind
    has = {n.name for n in where.inventory.nodes if any(d.kind is kind for d in n.devices)}
    return not kind.is_slot and has.isdisjoint(started.held)


@UNHURRIED
@given(scenes() | crowded())
def test_only_lower_priorities_are_stopped_and_only_if_it_helps(scene: Scene) -> None:
    """The job has room when its victims have gone, has none before, and needs each of them.

    Devices kept for a job before it are no room for it: the last is not looked at then.
    """
    where, line, before, _ = scene
    decisions, starts = decided(scene)
    by_name, wanted = {one.job: one for one in before}, {one.job: one for one in line}
    stopped = [by_name[one.job] for one in decisions.preemptions]
    assert len({one.job for one in stopped}) == len(stopped)
    assert all(one.preemptible and not one.stopping for one in stopped)
    for one in decisions.preemptions:
        assert by_name[one.job].priority < wanted[one.needed_by].priority
        assert "waits for the stop of" in decisions.reasons[one.needed_by]
    if not stopped:
        return
    first = wanted[decisions.preemptions[0].needed_by]
    own = [by_name[one.job] for one in decisions.preemptions if one.needed_by == first.job]
    jobs = [one for one in (*before, *starts) if not one.stopping]
    assert fits(where, [one for one in jobs if one not in own], first.request)
    for spared in [] if kept_before(first, line, decisions) else own:
        rest = [one for one in jobs if one is spared or one not in own]
        assert not fits(where, rest, first.request)


def kept_before(one: Waiting, line: Sequence[Waiting], decisions: Decisions) -> bool:
    """Whether devices are kept for a job that is further to the front."""
    reasons = [decisions.reasons.get(other.job, "") for other in line if other.rank < one.rank]
    signs = ("waits for the stop", "next in line", "would fit now")
    return any(sign in why for why in reasons for sign in signs)


@UNHURRIED
@given(scenes(), st.randoms(use_true_random=False))
def test_order_means_nothing(scene: Scene, shuffle: random.Random) -> None:
    """The same values in any order give the same decisions."""
    where, line, before, quotas = scene
    nodes = [
        replace(one, devices=tuple(shuffle.sample(one.devices, len(one.devices))))
        for one in shuffle.sample(where.inventory.nodes, len(where.inventory.nodes))
    ]
    again = schedule(
        shuffle.sample(line, len(line)),
        shuffle.sample(before, len(before)),
        shuffle.sample(quotas, len(quotas)),
        Cluster(
            Inventory(tuple(nodes)),
            dict(shuffle.sample([*where.withheld.items()], len(where.withheld))),
        ),
        NOW,
    )
    first = schedule(line, before, quotas, where, NOW)
    assert again == first
    assert list(again.reasons) == list(first.reasons)


@UNHURRIED
@given(scenes(), scenes())
def test_values_that_are_kept_change_nothing(scene: Scene, other: Scene) -> None:
    """A cluster and jobs that passes have seen before are decided upon as if they were new."""
    where, line, before, quotas = scene
    new = schedule(line, before, quotas, where, NOW)
    kept = [[*before], [], before[:1], [*before]]
    for running in kept:
        last = schedule(line, running, quotas, where, NOW)
    assert last == new
    _, others, _, _ = other
    schedule(others, before, [], where, NOW)
    fresh = Cluster(where.inventory, where.withheld)
    copies = [replace(one) for one in before]
    assert schedule(line, copies, quotas, fresh, NOW) == schedule(line, before, quotas, where, NOW)


@UNHURRIED
@given(fabrics.clusters(), fabrics.requests)
def test_a_room_answers_as_the_allocator_does(inventory: Inventory, request: Request) -> None:
    """Looking at a few nodes of each sort finds what looking at all of them does."""
    more = [replace(one, name=f"{one.name}-{i}") for one in inventory.nodes for i in range(3)]
    every = Inventory((*inventory.nodes, *more))
    asked = replace(request, cpus_per_rank=request.cpus_per_rank or 1)
    assert_same(every, asked)


def assert_same(inventory: Inventory, request: Request) -> None:
    """The same devices and CPUs, or a refusal in the same words."""
    answer, room = allocate(inventory, request), Room.empty(Cluster(inventory))
    if isinstance(answer, Placement):
        assert room.place(request) == answer
    else:
        assert room.place(request) is None
        assert room.why(request) == answer.reason


@UNHURRIED
@given(scenes())
def test_a_held_room_is_refused_as_the_allocator_would(scene: Scene) -> None:
    """What running jobs hold is out of the room, and given back it is in again."""
    where, line, before, _ = scene
    room = Room.empty(where).beside(before)
    for job in line:
        assert (room.select(job.request) is not None) == fits(where, before, job.request)
    for job in line:
        with room.without(before):
            assert (room.select(job.request) is not None) == fits(where, [], job.request)


@given(st.integers(0, 1000))
@settings(max_examples=5, deadline=None)
def test_everything_that_can_run_comes_to_run_and_ends(seed: int) -> None:
    """Some hundred jobs on a clock of their own: all end, though others come before them."""
    draw = random.Random(seed)
    where = queues.cluster(*(queues.node(f"n{i}", ascend=8, cpus=32) for i in range(3)))
    arriving = [
        queues.job(
            f"j{i:03d}",
            draw.choice([1, 2, 4, 8, 16, 24]),
            at=float(draw.randrange(2000)),
            priority=draw.choice([30, 50, 70]),
            queue=draw.choice("ab"),
            run=draw.choice([None, 40.0, 100.0]),
        )
        for i in range(120)
    ]
    work = {one.job: draw.uniform(1, one.run_limit or 80.0) for one in arriving}
    ended = simulated(where, arriving, work, [Quota("a", {DeviceKind.ASCEND: 24})])
    assert Counter(ended.keys()) == Counter(one.job for one in arriving)


def simulated(
    where: Cluster, jobs: list[Waiting], work: dict[str, float], quotas: list[Quota]
) -> dict[str, float]:
    """When each job ends, where a pass follows every arrival and end; a stop takes 5 s."""
    by_name, left = {one.job: one for one in jobs}, dict(work)
    coming = sorted(jobs, key=lambda one: one.place)
    line: list[Waiting] = []
    active: dict[str, tuple[Running, float]] = {}
    ended: dict[str, float] = {}
    now = 0.0
    for _ in range(20 * len(jobs)):
        events = [one.place for one in coming[:1]] + [end for _, end in active.values()]
        if not events:
            break
        now = min(events)
        while coming and coming[0].place <= now:
            line.append(coming.pop(0))
        for name, (one, end) in [*active.items()]:
            if end <= now:
                del active[name]
                left[name] -= now - one.started_at
                if left[name] <= 1e-6:
                    ended[name] = now
                else:
                    line.append(replace(by_name[name], front=True))
        decisions = schedule(line, [one for one, _ in active.values()], quotas, where, now)
        for one in queues.started(line, decisions, now):
            active[one.job] = one, now + left[one.job]
        for stop in decisions.preemptions:
            one, end = active[stop.job]
            active[stop.job] = replace(one, stopping=True), min(end, now + 5.0)
        line = [one for one in line if one.job in decisions.reasons]
    return ended
