"""A pass of the queue: 10 000 jobs wait for 1250 nodes of 8 devices, nearly all in use.

The scene: 1000 nodes of Ascend 910B and 250 of GPUs with links, one device barred. Jobs ask for
NPUs, GPUs or CPU slots, for 1 to 64 ranks, a third of them with a number of CPUs; half have a
`limits.run`, some a `limits.wait`. Four queues, two with quotas; five priorities among those that
wait and those that run, and most running jobs may be stopped for a higher one. The cluster was
filled by the queue itself, and the figures are of passes that follow each other: before each,
what it decided is done, some running jobs end and as many are submitted as have started.

`schedule_10k`: the next pass; values of what has not changed are kept, as the service keeps them.
`schedule_10k_cold`: the same passes from records, with every value made anew, that included: the
first pass of a head. `schedule_10k_empty`: the first pass after a cluster came up, which fills all
of it. `schedule_10k_reasons`: all 10 000 reasons in words, as `ps` asks for them after a pass.
There is no peer: Kueue's scheduler admits through a Kubernetes API server, which is another thing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

from cluster.allocate import Request
from cluster.cpu import CpuBudget, NumaNode
from cluster.device import Device, DeviceKind, Fabric, Inventory, Node
from orchestrator.queueing import Cluster, Decisions, Quota, Running, Start, Waiting, schedule
from tests.benchmarks import placements
from tests.benchmarks.bench import Bench, BenchmarkError
from tests.benchmarks.figures import Measurement, Summary
from tests.benchmarks.rank_tables import timed

NAMES = ("schedule_10k", "schedule_10k_cold", "schedule_10k_empty", "schedule_10k_reasons")

ROUNDS = 20
JOBS, NODES, GPU_NODES, DEVICES, GPU_CPUS = 10_000, 1250, 250, 8, 128
ENDING, PASS_SECONDS, STOP_PASSES = 25, 5.0, 2
KINDS = (DeviceKind.ASCEND,) * 7 + (DeviceKind.GPU,) * 2 + (DeviceKind.CPU,)
SIZES = (1, 1, 2, 2, 4, 4, 8, 8, 8, 16, 32, 64)
CPUS = (None, None, None, None, 4, 8)
LIMITS = (None, None, None, 3600.0, 14400.0, 86400.0)
WAITS = (None, None, None, 604800.0)
QUEUES = ("default", "default", "vision", "speech", "night")
PRIORITIES = (30, 50, 50, 50, 60, 70, 90)
QUOTAS = (
    Quota("vision", {DeviceKind.ASCEND: 2000, DeviceKind.GPU: 400}),
    Quota("night", {DeviceKind.ASCEND: 300, DeviceKind.CPU: 50}),
)


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """All from the same passes."""
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    with bench.progress.doing(f"{ROUNDS} passes over {JOBS} jobs"):
        for _ in range(3):
            seconds[NAMES[2]].append(timed(Day(seed=7).decide))
        day = settled()
        for _ in range(ROUNDS):
            seconds[NAMES[1]].append(timed(day.decide_anew))
            seconds[NAMES[0]].append(timed(day.decide))
            seconds[NAMES[3]].append(timed(day.tell))
            day.go_on()
    return {name: Measurement("s", Summary.of(seconds[name])) for name in NAMES if name in wanted}


def settled() -> Day:
    """A day some passes after its beginning."""
    day = Day(seed=7)
    for _ in range(12):
        day.decide()
        day.go_on()
    return day


class Day:
    """A queue that lives: what a pass decides is done before the next."""

    def __init__(self, seed: int) -> None:
        self.now = 1_000_000.0
        self._draw = random.Random(seed)
        self._number = 0
        self.cluster = cluster()
        self.line = {one.job: one for one in self._submitted(JOBS)}
        self.running: dict[str, Running] = {}
        self._by_name: dict[str, Waiting] = {}
        self._gone_at: dict[str, float] = {}
        self.decided = Decisions()

    def decide(self) -> None:
        """One pass."""
        args = (self.line.values(), self.running.values(), QUOTAS, self.cluster, self.now)
        self._check(schedule(*args))

    def decide_anew(self) -> None:
        """One pass upon values that nobody has looked at yet."""
        fresh = replace(self.cluster)
        line = [replace(one) for one in self.line.values()]
        running = [replace(one) for one in self.running.values()]
        self._check(schedule(line, running, QUOTAS, fresh, self.now))

    def tell(self) -> None:
        """Every reason in words."""
        if not all(self.decided.reasons.values()):
            raise BenchmarkError("a job waits for no reason")

    def go_on(self) -> None:
        """Do what was decided; some jobs end and others are submitted."""
        for start in self.decided.starts:
            job = self._by_name[start.job] = self.line.pop(start.job)
            self.running[start.job] = self._as_running(job, start)
        self.now += PASS_SECONDS
        for one in self.decided.preemptions:
            self.running[one.job] = replace(self.running[one.job], stopping=True)
            self._gone_at[one.job] = self.now + STOP_PASSES * PASS_SECONDS
        for name in [name for name, at in self._gone_at.items() if at <= self.now]:
            del self._gone_at[name], self.running[name]
            self.line[name] = replace(self._by_name[name], front=True, since=self.now)
        staying = [name for name in self.running if name not in self._gone_at]
        for name in self._draw.sample(staying, ENDING):
            del self.running[name]
        for one in self._submitted(JOBS - len(self.line)):
            self.line[one.job] = one

    def _as_running(self, job: Waiting, start: Start) -> Running:
        return Running(
            job=job.job,
            assignments=start.placement.assignments,
            started_at=self.now,
            priority=job.priority,
            queue=job.queue,
            run_limit=job.run_limit,
            preemptible=int(job.place) % 10 > 0,
        )

    def _check(self, decided: Decisions) -> None:
        told = len(decided.starts) + len(decided.reasons) + len(decided.expired)
        if told != len(self.line):
            raise BenchmarkError(f"{told} of {len(self.line)} jobs are accounted for")
        self.decided = decided

    def _submitted(self, number: int) -> Iterable[Waiting]:
        for _ in range(number):
            self._number += 1
            yield waiting(self._number, self.now, self._draw)


def waiting(number: int, now: float, draw: random.Random) -> Waiting:
    """A job of any shape."""
    kind, ranks = draw.choice(KINDS), draw.choice(SIZES)
    return Waiting(
        job=f"job-{number:05d}",
        request=Request(kind, ranks, min(ranks, DEVICES), draw.choice(CPUS)),
        place=number,
        since=now,
        priority=draw.choice(PRIORITIES),
        queue=draw.choice(QUEUES),
        wait_limit=draw.choice(WAITS),
        run_limit=draw.choice(LIMITS),
    )


def cluster() -> Cluster:
    """Every node's values are its own, as if it had been probed."""
    nodes = [gpu_node(n) if n < GPU_NODES else placements.node(n) for n in range(NODES)]
    return Cluster(Inventory(tuple(nodes)), {f"{nodes[-1].name}/ascend:3": "barred: it is lost"})


def gpu_node(number: int) -> Node:
    """Two sockets, 128 cores, 8 GPUs: pairs on a bridge, four on a switch."""
    name, cores = f"node-{number:05d}", tuple(range(GPU_CPUS))
    half = GPU_CPUS // 2
    numa = (NumaNode(0, cores[:half]), NumaNode(1, cores[half:]))
    budget = CpuBudget(cores, numa=numa, cores=tuple((core,) for core in cores))
    devices = tuple(gpu(name, index) for index in range(DEVICES))
    return Node(name, f"10.1.{number // 250}.{number % 250 + 1}", budget, devices)


def gpu(name: str, index: int) -> Device:
    """One of eight; the nearer a peer, the higher the number."""
    near = tuple(
        (peer, 3 if peer // 2 == index // 2 else 2 if peer // 4 == index // 4 else 1)
        for peer in range(DEVICES)
        if peer != index
    )
    home = index // 4
    return Device(DeviceKind.GPU, name, index, "GPU", home, fabric=Fabric.LINKS, near=near)
