"""Small clusters, jobs and lines of them for tests of the queue."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from hypothesis import strategies as st

from cluster.allocate import Placement, Request, allocate
from cluster.cpu import CpuBudget
from cluster.device import Device, DeviceKind, Inventory, Node
from orchestrator.queueing import Cluster, Decisions, Quota, Running, Waiting, schedule
from tests import fabrics

ASCEND, GPU, CPU = DeviceKind.ASCEND, DeviceKind.GPU, DeviceKind.CPU
NOW = 1000.0


def node(name: str, ascend: int = 0, gpu: int = 0, cpus: int = 16) -> Node:
    """A node of so many devices that are all alike."""
    devices = [Device(ASCEND, name, i) for i in range(ascend)]
    return fabrics.node(name, *devices, *(Device(GPU, name, i) for i in range(gpu)), cpus=cpus)


def cluster(*nodes: Node) -> Cluster:
    """Nothing is barred."""
    return Cluster(Inventory(nodes))


def job(
    name: str,
    ranks: int,
    each: int | None = None,
    *,
    kind: DeviceKind = ASCEND,
    cpus: int | None = None,
    at: float = 0.0,
    priority: int = 50,
    queue: str = "default",
    run: float | None = None,
    wait: float | None = None,
) -> Waiting:
    """A waiting job."""
    request = Request(kind, ranks, each or min(ranks, 8), cpus)
    return Waiting(
        job=name,
        request=request,
        place=at,
        since=at,
        priority=priority,
        queue=queue,
        wait_limit=wait,
        run_limit=run,
    )


def runs(where: Cluster, *jobs: Waiting, since: float = 900.0) -> list[Running]:
    """These jobs as they run, placed one after another in an empty cluster."""
    answer = schedule(jobs, [], [], where, since)
    assert len(answer.starts) == len(jobs), answer.reasons
    return started(jobs, answer, since)


def started(jobs: Iterable[Waiting], decisions: Decisions, now: float) -> list[Running]:
    """The jobs that the decisions start, as they run then."""
    by_name = {one.job: one for one in jobs}
    return [running(by_name[one.job], one.placement, now) for one in decisions.starts]


def running(one: Waiting, placement: Placement, now: float) -> Running:
    """A job that started now."""
    return Running(
        job=one.job,
        assignments=placement.assignments,
        started_at=now,
        priority=one.priority,
        queue=one.queue,
        run_limit=one.run_limit,
    )


def left(where: Cluster, running: Sequence[Running]) -> tuple[Inventory, dict[str, str]]:
    """The cluster without what these hold, said in the allocator's terms alone."""
    keys = {a.device.key: f"in use by job {r.job}" for r in running for a in r.assignments}
    nodes = []
    for one in where.inventory.nodes:
        taken = {cpu for r in running if one.name in r.held for cpu in r.held[one.name].cpus}
        free = tuple(cpu for cpu in one.cpus.cpus if cpu not in taken)
        nodes.append(replace(one, cpus=CpuBudget(free, one.cpus.quota)))
    return Inventory(tuple(nodes)), {**where.withheld, **keys}


def fits(where: Cluster, running: Sequence[Running], request: Request) -> bool:
    """Whether the allocator, asked about all nodes, finds a place beside these."""
    inventory, withheld = left(where, running)
    asked = replace(request, withheld={**withheld, **request.withheld})
    return isinstance(allocate(inventory, asked), Placement)


@st.composite
def scenes(
    draw: st.DrawFn,
) -> tuple[Cluster, list[Waiting], list[Running], list[Quota]]:
    """A cluster of up to three nodes, partly in use, with a line before it."""
    nodes = [
        node(
            f"n{i}",
            ascend=draw(st.sampled_from([8, 4, 2, 0])),
            gpu=draw(st.sampled_from([0, 0, 2])),
            cpus=draw(st.sampled_from([16, 16, 4, 1])),
        )
        for i in range(draw(st.integers(1, 3)))
    ]
    barred = {f"n0/ascend:{i}": "barred" for i in draw(st.sets(st.integers(0, 3), max_size=2))}
    where = Cluster(Inventory(tuple(nodes)), barred)
    first = draw(st.lists(jobs("r"), max_size=6, unique_by=lambda one: one.job))
    before = started(first, schedule(first, [], [], where, 900.0), 900.0)
    stopping = draw(st.sets(st.sampled_from([r.job for r in before] or ["none"]), max_size=1))
    fixed = draw(st.sets(st.sampled_from([r.job for r in before] or ["none"]), max_size=1))
    before = [
        replace(r, stopping=r.job in stopping, preemptible=r.job not in fixed) for r in before
    ]
    line = draw(st.lists(jobs("w"), max_size=8, unique_by=lambda one: one.job))
    quotas = [
        Quota(queue, {ASCEND: draw(st.integers(0, 12))})
        for queue in draw(st.sets(st.sampled_from(["a", "b"]), max_size=2))
    ]
    return where, line, before, quotas


@st.composite
def crowded(draw: st.DrawFn) -> tuple[Cluster, list[Waiting], list[Running], list[Quota]]:
    """Two nodes mostly in use, and a line in which small jobs stand behind large ones."""
    where = cluster(node("n0", 8, cpus=64), node("n1", 8, cpus=64))
    limits = st.sampled_from([None, 50.0, 200.0, 500.0])
    sizes = draw(st.lists(st.tuples(st.sampled_from([2, 4, 8]), limits), min_size=1, max_size=4))
    first = [job(f"r{i}", size, at=i, run=run) for i, (size, run) in enumerate(sizes)]
    before = started(first, schedule(first, [], [], where, 980.0), 980.0)
    wanted = draw(
        st.lists(st.tuples(st.sampled_from([8, 16, 1, 2, 4]), limits), min_size=2, max_size=6)
    )
    high = draw(st.sampled_from([50, 70]))
    line = [
        job(f"w{i}", size, at=i, run=run, priority=high) for i, (size, run) in enumerate(wanted)
    ]
    return where, line, before, []


def jobs(letter: str) -> st.SearchStrategy[Waiting]:
    """Jobs of any kind, size, priority and limit."""
    return st.builds(
        job,
        st.builds("{}{}".format, st.just(letter), st.integers(0, 30)),
        st.sampled_from([1, 2, 4, 8, 12, 16]),
        st.sampled_from([None, 1, 2, 4, 8]),
        kind=st.sampled_from([ASCEND, ASCEND, ASCEND, GPU, CPU]),
        cpus=st.sampled_from([None, None, 1, 2]),
        at=st.integers(0, 5).map(float),
        priority=st.sampled_from([30, 50, 70]),
        queue=st.sampled_from(["a", "b"]),
        run=st.sampled_from([None, 50.0, 200.0, 500.0]),
        wait=st.sampled_from([None, None, 1e6, 10.0]),
    )


def shuffled(shuffle: random.Random, values: Sequence[object]) -> list[object]:
    """The same values in another order."""
    return shuffle.sample(values, len(values))
