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
from cluster.device import Node


def fairly(
    request: Request,
    counts: Mapping[str, int],
    nodes: Mapping[str, Node],
    left: Mapping[str, CpuBudget],
) -> tuple[Request, Mapping[str, CpuBudget]]:
    """The request with `cpus_per_rank` filled in, and the CPUs of each node that it may have.

    `counts` are its ranks by node, `left` the CPUs that no other job holds. All stays as it is
    for a gang that says how many it wants, for slots (they take what is free), for one that has
    its nodes to itself, and where there are fewer CPUs than accelerators: they are shared then.
    """
    whole = all(count == len(nodes[name].devices) for name, count in counts.items())
    if request.cpus_per_rank is not None or request.kind.is_slot or whole:
        return request, left
    shares = (
        min(len(nodes[n].cpus.cpus) // len(nodes[n].devices), len(left[n].cpus) // count)
        for n, count in counts.items()
    )
    each = min(shares)
    budgets = {n: _part(left[n], nodes[n], count) for n, count in counts.items()}
    return (replace(request, cpus_per_rank=each) if each else request), budgets


def _part(left: CpuBudget, node: Node, count: int) -> CpuBudget:
    """A CPU quota is divided as well: it is shared by all that runs on the node."""
    if left.quota is None or node.cpus.quota is None:
        return left
    return replace(left, quota=min(left.quota, node.cpus.quota * count / len(node.devices)))
