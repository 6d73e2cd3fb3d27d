"""How many CPUs a gang gets that shares its nodes with others and does not say. Pure.

The allocator gives all CPUs of a node to the ranks that it puts there, which is right where a
run has the node to itself. In a cluster, a gang on two of eight devices would leave six without
a CPU. So it gets what its devices stand for: of each node the CPUs divided by all accelerators,
and for all ranks the least of these, as they go at the pace of the slowest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cluster.allocate import Request
from cluster.cpu import CpuBudget
from orchestrator.queueing.left import Left


def fairly(
    request: Request, counts: Mapping[str, int], left: Mapping[str, Left]
) -> tuple[Request, Mapping[str, CpuBudget]]:
    """The request with `cpus_per_rank` filled in, and the CPUs of each node that it may have.

    `counts` are its ranks by node. All stays as it is for a gang that says how many it wants,
    for slots (they take what is free), for one that has its nodes to itself, and where there
    are fewer CPUs than accelerators: they are shared then.
    """
    all_free = {name: left[name].budget for name in counts}
    devices = {name: len(left[name].node.devices) for name in counts}
    if request.cpus_per_rank is not None or request.kind.is_slot or devices == dict(counts):
        return request, all_free
    each = min(
        min(len(left[n].node.cpus.cpus) // devices[n], len(left[n].cpus) // count)
        for n, count in counts.items()
    )
    parts = {n: _part(all_free[n], count / devices[n]) for n, count in counts.items()}
    return (replace(request, cpus_per_rank=each) if each else request), parts


def _part(budget: CpuBudget, part: float) -> CpuBudget:
    """A CPU quota is shared by all that runs on the node: it is divided as well."""
    return budget if budget.quota is None else replace(budget, quota=budget.quota * part)
