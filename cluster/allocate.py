"""Devices for a job: all that it asks for or none, the same answer whatever the order asked.

A pure function of the inventory and the request. Accelerators are counted; CPU slots are
not: a CPU node offers as many as are asked for, and its real CPUs are then shared out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cluster.affinity import Bind, bind
from cluster.device import Device, DeviceKind, Inventory, Node


@dataclass(frozen=True)
class Request:
    """What a job asks for.

    `ranks_per_node` None takes the fewest nodes, `cpus_per_rank` None an even share.
    `withheld` has the keys of devices that may not be used, each with the reason.
    """

    kind: DeviceKind
    ranks: int
    ranks_per_node: int | None = None
    cpus_per_rank: int | None = None
    bind: Bind = Bind.NUMA
    withheld: Mapping[str, str] = field(default_factory=dict)


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
    """Why nothing was allocated."""

    reason: str


@dataclass(frozen=True)
class _Offer:
    """What one node can give: the devices, and how many ranks its CPUs allow (None: any)."""

    node: Node
    devices: tuple[Device, ...]
    room: int | None
    barred: int

    @property
    def ranks(self) -> int:
        return len(self.devices) if self.room is None else min(len(self.devices), self.room)


def allocate(inventory: Inventory, request: Request) -> Placement | Refusal:
    """Choose devices and CPU sets for every rank of `request`, or say why it cannot be done."""
    per_node = request.ranks_per_node
    if request.ranks < 1 or (per_node is not None and per_node < 1):
        return Refusal("ranks and ranks_per_node must be at least 1")
    names = [node.name for node in inventory.nodes]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        return Refusal(f"the inventory has two nodes named {', '.join(twice)}")
    offers = [_offer(node, request) for node in inventory.nodes]
    chosen = _choose(offers, request)
    if chosen is None:
        return Refusal(_why_not(offers, request))
    return _place(chosen, request)


def _offer(node: Node, request: Request) -> _Offer:
    if request.kind.is_slot:
        # One slot more than asked for per barred one, so that barring never runs out of them.
        slots = range(request.ranks + len(request.withheld))
        known = [Device(request.kind, node.name, index, label="slot") for index in slots]
    else:
        known = sorted(
            {d.key: replace(d, node=node.name) for d in node.devices}.values(),
            key=lambda d: d.index,
        )
    kept = [d for d in known if d.kind is request.kind and d.key not in request.withheld]
    of_kind = sum(d.kind is request.kind for d in known)
    room = _room(node, request)
    limit = request.ranks if request.kind.is_slot else len(kept)
    return _Offer(node, tuple(kept[:limit]), room, of_kind - len(kept))


def _room(node: Node, request: Request) -> int | None:
    """How many ranks the node's CPUs allow; None, any number, where they may be shared."""
    if not node.cpus.cpus:
        return 0
    if request.cpus_per_rank is None:
        return None
    return len(node.cpus.cpus) // request.cpus_per_rank if request.cpus_per_rank > 0 else 0


def _choose(offers: Sequence[_Offer], request: Request) -> list[tuple[_Offer, int]] | None:
    """Nodes by name with the number of ranks on each, or None when they do not suffice."""
    left = request.ranks
    taken: list[tuple[_Offer, int]] = []
    for offer in _preferred(offers, request):
        count = min(left, request.ranks_per_node or offer.ranks)
        if count and offer.ranks >= count:
            taken.append((offer, count))
            left -= count
        if not left:
            return sorted(taken, key=lambda pair: (-pair[1], pair[0].node.name))
    return None


def _preferred(offers: Sequence[_Offer], request: Request) -> list[_Offer]:
    """The tightest fit first where one node will do, else the roomiest first."""
    need = min(request.ranks, request.ranks_per_node or request.ranks)
    fits = [o for o in offers if o.ranks >= need]
    if fits and not request.kind.is_slot:
        fits.sort(key=lambda o: (o.ranks, o.node.name))
    else:
        fits.sort(key=lambda o: (-o.node.cpus.usable_cores, o.node.name))
    rest = [o for o in offers if o.ranks < need]
    return fits + sorted(rest, key=lambda o: (-o.ranks, o.node.name))


def _place(chosen: Sequence[tuple[_Offer, int]], request: Request) -> Placement:
    assignments: list[Assignment] = []
    notes: list[str] = []
    for offer, count in chosen:
        devices = offer.devices[:count]
        cpus = offer.node.cpus
        binding = bind(
            cpus.cpus,
            count,
            cpus_per_rank=request.cpus_per_rank,
            numa=cpus.numa,
            siblings=cpus.cores,
            mode=request.bind,
            quota=cpus.quota,
            near=[device.numa for device in devices],
        )
        sets = zip(devices, binding.sets, binding.memory, strict=True)
        for local, (device, held, memory) in enumerate(sets):
            rank = len(assignments)
            assignments.append(
                Assignment(rank, offer.node.name, device, local, held, binding.threads, memory)
            )
        if binding.note:
            notes.append(f"{offer.node.name}: {binding.note}")
    return Placement(tuple(assignments), tuple(notes))


def _why_not(offers: Sequence[_Offer], request: Request) -> str:
    asked = f"{request.ranks} {request.kind.value} devices"
    if request.ranks_per_node:
        asked += f", {request.ranks_per_node} on a node"
    if request.cpus_per_rank is not None:
        asked += f", {request.cpus_per_rank} CPUs each"
    if not offers:
        return f"{asked}: there is no node"
    found = (_what(offer, request) for offer in sorted(offers, key=lambda o: o.node.name))
    return f"{asked}: not to be had; {'; '.join(found)}"


def _what(offer: _Offer, request: Request) -> str:
    parts = []
    if not request.kind.is_slot:
        parts.append(f"{len(offer.devices)} free {request.kind.value} devices")
        if offer.barred:
            parts.append(f"{offer.barred} barred or taken")
    parts.append(f"{len(offer.node.cpus.cpus)} CPUs")
    return f"{offer.node.name} has {', '.join(parts)}"
