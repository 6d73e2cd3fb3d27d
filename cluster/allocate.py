"""Devices for a job: all that it asks for or none, the same answer whatever the order asked.

A pure function of the inventory and the request. Which nodes is `selection`'s, which devices of
a node `fabric`'s, which CPUs `affinity`'s. Accelerators are counted; CPU slots are not: a node
offers as many as are asked for, and its real CPUs are then shared out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from cluster.affinity import Binding, bind
from cluster.cpu import CpuBudget, NumaNode
from cluster.device import Device, Inventory
from cluster.offer import Offer, Request, offer_of
from cluster.refusal import short_list, why_not
from cluster.selection import Share, select

__all__ = ["Assignment", "Placement", "Refusal", "Request", "allocate"]

_Near = tuple[int | None, ...]
_Key = tuple[tuple[int, ...], float | None, _Near]
_Topology = tuple[tuple[NumaNode, ...], tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class Assignment:
    """One rank's place: `cpus` to be bound to, `threads` for OMP_NUM_THREADS.

    `memory` has the NUMA nodes that its memory is to come from; empty: it need not be bound.
    """

    rank: int
    node: str
    device: Device
    local_rank: int
    cpus: tuple[int, ...]
    threads: int
    memory: tuple[int, ...] = ()


@dataclass(frozen=True)
class Placement:
    """A place for every rank, in rank order, and sentences about it worth reading."""

    assignments: tuple[Assignment, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Why nothing was allocated, and what would have to change, in one line of bounded length."""

    reason: str


def allocate(inventory: Inventory, request: Request) -> Placement | Refusal:
    """Choose devices and CPU sets for every rank of `request`, or say why it cannot be done."""
    wrong = _senseless(request) or _twins((node.name for node in inventory.nodes), "nodes")
    if wrong:
        return Refusal(wrong)
    ordered = sorted(inventory.nodes, key=lambda node: node.name)
    offers = [offer_of(node, request) for node in ordered]
    if wrong := _twins(_suspicious(offers), "devices"):
        return Refusal(wrong)
    shares = select(offers, request)
    if shares is None:
        return Refusal(why_not(offers, request))
    return _place(shares, request)


def _senseless(request: Request) -> str:
    counts = {
        "ranks": request.ranks,
        "ranks_per_node": request.ranks_per_node,
        "cpus_per_rank": request.cpus_per_rank,
    }
    wrong = [f"{name} is {n}" for name, n in counts.items() if n is not None and n < 1]
    return f"{', '.join(wrong)}; at least 1 is needed" if wrong else ""


def _twins(names: Iterable[str], what: str) -> str:
    """Names that stand for two things: one of them would be given twice."""
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    return f"the inventory has two {what} named {short_list(twice)}" if twice else ""


def _suspicious(offers: Iterable[Offer]) -> Iterator[str]:
    """The devices of nodes where not all have an index of their own."""
    for offer in offers:
        devices = (*offer.free, *offer.withheld)
        if len({device.index for device in devices}) < len(devices):
            yield from (device.key for device in devices)


def _place(shares: Iterable[Share], request: Request) -> Placement:
    bound = _binder(request)
    assignments: list[Assignment] = []
    noted: dict[str, list[str]] = {}
    taken = [(offer.node, offer.take(count)) for offer, count in shares]
    bindings = [bound(node.cpus, tuple(d.numa for d in devices)) for node, devices in taken]
    # The gang goes at the pace of its slowest rank, and results depend on the threads of each.
    threads = min((binding.threads for binding in bindings), default=1)
    for (node, devices), binding in zip(taken, bindings, strict=True):
        name, sets = node.name, zip(devices, binding.sets, binding.memory, strict=True)
        for local, (device, held, memory) in enumerate(sets):
            rank = len(assignments)
            assignments.append(Assignment(rank, name, device, local, held, threads, memory))
        if binding.note:
            noted.setdefault(binding.note, []).append(name)
    notes = tuple(f"{short_list(names)}: {note}" for note, names in noted.items())
    return Placement(tuple(assignments), notes)


def _binder(request: Request) -> Callable[[CpuBudget, _Near], Binding]:
    """CPU sets for the devices of a node; worked out once for all nodes that are alike.

    They are alike if all is equal that `bind` is given. Topologies are long: they are compared
    where the rest agrees, instead of hashed.
    """
    known: dict[_Key, list[tuple[_Topology, Binding]]] = {}

    def bound(cpus: CpuBudget, near: _Near) -> Binding:
        alike = known.setdefault((cpus.cpus, cpus.quota, near), [])
        topology = numa, cores = cpus.numa, cpus.cores
        for other, binding in alike:
            if other == topology:
                return binding
        binding = bind(
            cpus.cpus,
            len(near),
            cpus_per_rank=request.cpus_per_rank,
            numa=numa,
            siblings=cores,
            mode=request.bind,
            quota=cpus.quota,
            near=near,
        )
        alike.append((topology, binding))
        return binding

    return bound
