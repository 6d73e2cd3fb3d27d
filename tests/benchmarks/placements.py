"""Placements among 10 000 devices: 1250 nodes of 8, with CPU sets for every rank.

`placement_10k`: a job that takes all of them; `placement_10k_job`: one of 8 ranks, while a third
of the nodes have some device taken. Every node's values are its own, as if it had been probed:
none are shared with another. There is no peer: what others do at this size is a scheduler's
work and not a function.
"""

from __future__ import annotations

from cluster.allocate import Placement, Request, allocate
from cluster.cpu import CpuBudget, NumaNode
from cluster.device import Device, DeviceKind, Fabric, Inventory, Node
from tests.benchmarks.bench import Bench, BenchmarkError
from tests.benchmarks.figures import Measurement, Summary
from tests.benchmarks.rank_tables import timed

NAMES = ("placement_10k", "placement_10k_job")

ROUNDS = 20
NODES, DEVICES, CPUS, NUMA = 1250, 8, 192, 4


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """Both in turn; the placement is the same each time."""
    inventory = Inventory(tuple(node(number) for number in range(NODES)))
    whole = Request(DeviceKind.ASCEND, NODES * DEVICES, ranks_per_node=DEVICES)
    taken = {
        f"{one.name}/ascend:{number % DEVICES}": "in use by another job"
        for number, one in enumerate(inventory.nodes)
        if number % 3 == 0
    }
    one = Request(DeviceKind.ASCEND, DEVICES, withheld=taken)
    alls, ones = [], []
    with bench.progress.doing(f"{ROUNDS} placements in {NODES * DEVICES} devices"):
        for _ in range(ROUNDS):
            alls.append(timed(lambda: place(inventory, whole)))
            ones.append(timed(lambda: place(inventory, one)))
    times = zip(NAMES, (alls, ones), strict=True)
    found = {name: Measurement("s", Summary.of(seconds)) for name, seconds in times}
    return {name: found[name] for name in NAMES if name in wanted}


def node(number: int) -> Node:
    """Two sockets, 192 cores, 8 devices of a 910B: two on each NUMA node."""
    name = f"node-{number:05d}"
    each = CPUS // NUMA
    cores = tuple(range(CPUS))
    numa = tuple(NumaNode(n, cores[n * each : (n + 1) * each]) for n in range(NUMA))
    budget = CpuBudget(cores, numa=numa, cores=tuple((core,) for core in cores))
    devices = tuple(
        Device(
            DeviceKind.ASCEND,
            name,
            index,
            "910B3",
            numa=index * NUMA // DEVICES,
            fabric=Fabric.MESH,
            card=index,
        )
        for index in range(DEVICES)
    )
    return Node(name, f"10.0.{number // 250}.{number % 250 + 1}", budget, devices)


def place(inventory: Inventory, request: Request) -> None:
    """BenchmarkError unless every rank has a device of its own, and CPUs."""
    placement = allocate(inventory, request)
    if not isinstance(placement, Placement) or len(placement.assignments) != request.ranks:
        raise BenchmarkError(f"not placed: {placement}")
