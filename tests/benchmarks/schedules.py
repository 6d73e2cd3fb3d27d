"""A pass of the queue: 10 000 jobs wait for 1250 nodes of 8 devices, most of which are in use.

`schedule_10k`: in the middle of the day: a few nodes are free, jobs differ in size, priority,
queue and limits, two queues have a quota, some start and one is the next; nobody of a lower
priority runs. `schedule_10k_empty`:
the first pass after a cluster came up, which fills all of it. `schedule_10k_preempt`: a gang of
a high priority comes, and others have to be stopped. There is no peer: Kueue's scheduler admits
through a Kubernetes API server, which is another thing than a pass.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from cluster.allocate import Placement, Request, allocate
from cluster.device import DeviceKind, Inventory, Node
from orchestrator.queueing import Cluster, Decisions, Quota, Running, Waiting, schedule
from tests.benchmarks.bench import Bench, BenchmarkError
from tests.benchmarks.figures import Measurement, Summary
from tests.benchmarks.placements import DEVICES, NODES, node
from tests.benchmarks.rank_tables import timed

NAMES = ("schedule_10k", "schedule_10k_empty", "schedule_10k_preempt")

ROUNDS = {"schedule_10k": 20, "schedule_10k_empty": 5, "schedule_10k_preempt": 10}
JOBS, FREE, NOW = 10_000, 8, 1_000_000.0
SIZES = (1, 2, 4, 8, 8, 8, 16, 32, 64, 128)
LIMITS = (None, 3600.0, 14400.0, 86400.0, 172800.0)

Pass = Callable[[], Decisions]


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """Each in turn; a pass decides the same each time."""
    passes = scenes()
    found = {}
    for name in (name for name in NAMES if name in wanted):
        with bench.progress.doing(f"{ROUNDS[name]} passes over {JOBS} jobs"):
            seconds = [timed(partial(check, name, passes[name])) for _ in range(ROUNDS[name])]
        found[name] = Measurement("s", Summary.of(seconds))
    return found


def scenes() -> dict[str, Pass]:
    """What each benchmark decides."""
    nodes = [node(number) for number in range(NODES)]
    cluster = Cluster(Inventory(tuple(nodes)), {f"{nodes[7].name}/ascend:3": "barred: it is lost"})
    line, running = waiting(), busy(nodes[FREE:])
    urgent = Waiting(
        job="urgent",
        request=Request(DeviceKind.ASCEND, 512, DEVICES),
        place=0,
        since=NOW,
        priority=100,
    )
    quotas = [Quota("vision", {DeviceKind.ASCEND: 6000}), Quota("speech", {DeviceKind.ASCEND: 500})]
    return {
        NAMES[0]: lambda: schedule(line, running, quotas, cluster, NOW),
        NAMES[1]: lambda: schedule(line, [], quotas, cluster, NOW),
        NAMES[2]: lambda: schedule([*line, urgent], running, quotas, cluster, NOW),
    }


def waiting() -> list[Waiting]:
    """Jobs of every size in three queues, in no order."""
    draw = random.Random(5)
    return [
        Waiting(
            job=f"job-{number:05d}",
            request=request(draw.choice(SIZES), draw.choice((None, None, None, 8))),
            place=number,
            since=NOW - draw.randrange(100_000),
            priority=draw.choice((30, 50, 50, 50, 70)),
            queue=draw.choice(("default", "vision", "speech")),
            run_limit=draw.choice(LIMITS),
        )
        for number in range(JOBS)
    ]


def request(ranks: int, cpus: int | None) -> Request:
    """A gang on as few nodes as can be."""
    return Request(DeviceKind.ASCEND, ranks, min(ranks, DEVICES), cpus)


def busy(nodes: Sequence[Node]) -> list[Running]:
    """Jobs on all of these nodes: on whole ones, on several, and two or four on one."""
    draw, found, left = random.Random(6), list[Running](), list(nodes)
    while left:
        share = draw.choice((2, 4, 8, 8, 8))
        several = draw.choice((1, 1, 2, 4)) if share == DEVICES else 1
        taken = [left.pop() for _ in range(min(several, len(left)))]
        cut = 0 if share == DEVICES else draw.choice((0, 0, 0, 0, 0, 1))
        found += running_on(taken, share, DEVICES // share - cut, draw)
    return found


def running_on(nodes: Sequence[Node], share: int, times: int, draw: random.Random) -> list[Running]:
    """So many jobs on these nodes, each with a share of the devices of every node."""
    held: dict[str, str] = {}
    found = []
    asked = Request(DeviceKind.ASCEND, share * len(nodes), share, 24)
    shown = list(nodes)
    for number in range(times):
        answer = allocate(Inventory(tuple(shown)), replace(asked, withheld=held))
        if not isinstance(answer, Placement):
            raise BenchmarkError(f"not placed: {answer}")
        held |= {one.device.key: "in use" for one in answer.assignments}
        cpus = {cpu for one in answer.assignments for cpu in one.cpus}
        shown = [
            replace(n, cpus=replace(n.cpus, cpus=tuple(sorted({*n.cpus.cpus} - cpus))))
            for n in shown
        ]
        found.append(
            Running(
                job=f"running-{nodes[0].name}-{number}",
                assignments=answer.assignments,
                started_at=NOW - draw.randrange(80_000),
                priority=70,
                queue=draw.choice(("default", "vision")),
                run_limit=draw.choice(LIMITS),
            )
        )
    return found


def check(name: str, one_pass: Pass) -> None:
    """BenchmarkError unless every job is accounted for, and the pass decided what it is to."""
    decisions = one_pass()
    told = len(decisions.starts) + len(decisions.reasons) + len(decisions.expired)
    if told not in (JOBS, JOBS + 1) or not decisions.starts:
        raise BenchmarkError(f"{name}: {told} jobs accounted for, {len(decisions.starts)} started")
    if name.endswith("preempt") and not decisions.preemptions:
        raise BenchmarkError(f"{name}: nothing is stopped")
