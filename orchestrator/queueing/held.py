"""What jobs hold of one node, and what that leaves of its CPUs. Pure.

The allocator counts devices by keys withheld, and CPUs by what a node says it has. So held CPUs
are told by a node that has fewer: cores, NUMA nodes and the quota are cut with them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.allocate import Assignment
from cluster.cpu import CpuBudget
from cluster.device import DeviceKind


@dataclass(frozen=True, eq=False)
class Held:
    """What `job` holds of a node: devices and slots by index, CPUs by number or only by count.

    `cpus` is empty where the ranks have to share CPUs with one another: others may then share
    them as well, or accelerators would lie idle. `threads` is what they take of a CPU quota.
    """

    job: str
    kind: DeviceKind
    devices: frozenset[int]
    cpus: frozenset[int]
    floating: int
    threads: int


def held_by(
    job: str, assignments: Iterable[Assignment], *, bound: bool = True, kept: bool = False
) -> Mapping[str, Held]:
    """What a job holds, by node. CPUs that are `kept` for it are not shared with others."""
    nodes: defaultdict[str, list[Assignment]] = defaultdict(list)
    for one in assignments:
        nodes[one.node].append(one)
    return {name: _on_node(job, here, bound=bound, kept=kept) for name, here in nodes.items()}


def _on_node(job: str, here: Sequence[Assignment], *, bound: bool, kept: bool) -> Held:
    kind = here[0].device.kind
    threads = sum(one.threads for one in here)
    cpus = frozenset[int]().union(*(one.cpus for one in here))
    shared = len(cpus) < len(here) and not kind.is_slot and not kept
    devices = frozenset(one.device.index for one in here)
    if shared or not bound:
        return Held(job, kind, devices, frozenset(), 0 if shared else threads, threads)
    return Held(job, kind, devices, cpus, 0, threads)


def cpus_left(budget: CpuBudget, held: Sequence[Held]) -> int:
    """How many CPUs of a node are not held."""
    if not held:
        return len(budget.cpus)
    floating = sum(one.floating for one in held)
    return max(0, len(frozenset(budget.cpus) - _taken(held)) - floating)


def budget_left(budget: CpuBudget, held: Sequence[Held]) -> CpuBudget:
    """The CPUs of a node that are not held; ranks that are not bound count as on the last ones.

    A CPU quota is only a limit of threads: one core is always left of it.
    """
    if not held:
        return budget
    taken = _taken(held)
    left = tuple(cpu for cpu in budget.cpus if cpu not in taken)[: cpus_left(budget, held)]
    kept = frozenset(left)
    numa = (replace(n, cpus=tuple(c for c in n.cpus if c in kept)) for n in budget.numa)
    cores = (tuple(c for c in core if c in kept) for core in budget.cores)
    return replace(
        budget,
        cpus=left,
        quota=quota_left(budget.quota, held),
        numa=tuple(node for node in numa if node.cpus),
        cores=tuple(core for core in cores if core),
    )


def quota_left(quota: float | None, held: Iterable[Held]) -> float | None:
    """Cores of a CPU quota that threads of others do not use; None: there is no quota."""
    threads = sum(one.threads for one in held)
    return quota if quota is None or not threads else max(1.0, quota - threads)


def _taken(held: Iterable[Held]) -> frozenset[int]:
    return frozenset[int]().union(*(one.cpus for one in held))
