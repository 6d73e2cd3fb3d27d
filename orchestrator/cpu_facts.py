"""The CPUs of a node and whose they are, as `muster plan --json` tells them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.affinity import Bind, cores_of, for_interrupts
from cluster.allocate import Assignment
from cluster.cpu import CpuBudget, NumaNode
from cluster.device import DeviceKind

Facts = dict[str, Any]

_NAMES = {DeviceKind.ASCEND: "NPU", DeviceKind.GPU: "GPU"}


def facts(
    cpus: CpuBudget, placed: Sequence[Assignment], mode: Bind, cpus_per_rank: int | None
) -> Facts:
    """What `placed`, all ranks of one node, have of its CPUs, as JSON values.

    A core has its CPUs (SMT siblings), and the ranks that may run there. `free` are CPUs that may
    be used and that nobody has, `reserved` those left for interrupts. A `socket`, or whether a NUMA
    node has `memory`, is null where it was not measured.
    """
    cores = cores_of(cpus.cpus, cpus.cores)
    numa = mode is Bind.NUMA
    reserved = for_interrupts(cores, len(placed), cpus.numa, cpus_per_rank) if numa else ()
    used = {cpu for assignment in placed for cpu in assignment.cpus}
    ranks: dict[int, list[int]] = {}
    for assignment in placed:
        for cpu in assignment.cpus:
            ranks.setdefault(cpu, []).append(assignment.rank)
    nodes = cpus.numa or (NumaNode(0, cpus.cpus),)
    return {
        "bind": mode.value,
        "quota": cpus.quota,
        "sockets": len({node.socket for node in nodes} - {None}) or None,
        "numa": [_node_facts(node, cores, placed, ranks) for node in nodes],
        "memory": _memory_facts(placed),
        "reserved": list(reserved),
        "free": sorted(set(cpus.cpus) - used - set(reserved)),
        "unmeasured": list(cpus.unmeasured),
    }


def _node_facts(
    node: NumaNode,
    cores: Sequence[tuple[int, ...]],
    placed: Sequence[Assignment],
    ranks: dict[int, list[int]],
) -> Facts:
    inside = frozenset(node.cpus)
    near = [a.device for a in placed if a.device.numa == node.index and a.device.kind in _NAMES]
    return {
        "node": node.index,
        "socket": node.socket,
        "memory": node.memory,
        "devices": [f"{_NAMES[device.kind]} {device.index}" for device in near],
        "cores": [
            {"cpus": list(core), "ranks": sorted({r for cpu in core for r in ranks.get(cpu, ())})}
            for core in cores
            if core[0] in inside
        ],
    }


def _memory_facts(placed: Sequence[Assignment]) -> list[Facts]:
    """Ranks whose memory is bound, by where to."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for assignment in placed:
        if assignment.memory:
            groups.setdefault(assignment.memory, []).append(assignment.rank)
    return [{"ranks": ranks, "numa": list(numa)} for numa, ranks in groups.items()]
