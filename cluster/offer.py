"""What a job asks of the allocator, and what a node offers it. Values, no effects."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter

from cluster.affinity import Bind
from cluster.closeness import Devices
from cluster.device import Device, DeviceKind, Fabric, Node
from cluster.fabric import RULES, Rule, fabric_of


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
class Offer:
    """One node before a request: its devices of the kind, those that are free and those not.

    Both are sorted by index, and empty for slots, of which there are as many as are asked for.
    `room` is how many ranks the node's CPUs allow; None: any number.
    """

    node: Node
    request: Request
    fabric: Fabric
    rule: Rule
    free: Devices
    withheld: Devices
    room: int | None

    @property
    def count(self) -> int:
        """Free devices, or slots."""
        return self.request.ranks if self.request.kind.is_slot else len(self.free)

    def cost(self, count: int) -> float | None:
        """The cost of `count` devices for a job on this node alone; None: it cannot have them."""
        if self.room is not None and count > self.room:
            return None
        return 0.0 if self.request.kind.is_slot else self.rule.cost(self.free, count)

    @cached_property
    def most(self) -> int:
        """How many devices it can give to a job on several nodes."""
        most = self.count if self.request.kind.is_slot else self.rule.most(self.free)
        if self.room is None or self.room >= most:
            return most
        return self.room - self.room % self.rule.unit

    def gives(self, count: int) -> bool:
        """Whether a job on several nodes can have `count` devices here."""
        return count <= self.most and count % self.rule.unit == 0

    def take(self, count: int) -> Devices:
        """The best `count` devices, by index; for counts that `cost` or `gives` allows."""
        if self.request.kind.is_slot:
            return tuple(itertools.islice(self._slots(), count))
        return self.free if count == len(self.free) else self.rule.take(self.free, count)

    def _slots(self) -> Iterator[Device]:
        """Slots that are not barred, without end."""
        for index in itertools.count():
            slot = Device(self.request.kind, self.node.name, index, label="slot")
            if slot.key not in self.request.withheld:
                yield slot


def offer_of(node: Node, request: Request) -> Offer:
    """What `node` offers."""
    kind = request.kind
    known = sorted((d for d in node.devices if d.kind is kind), key=attrgetter("index"))
    named = [d if d.node == node.name else replace(d, node=node.name) for d in known]
    barred = _barred(named, node, request)
    fabric = fabric_of(named)
    return Offer(
        node,
        request,
        fabric,
        RULES[fabric],
        free=tuple(d for d in named if d.index not in barred) if barred else tuple(named),
        withheld=tuple(d for d in named if d.index in barred),
        room=_room(node, request.cpus_per_rank),
    )


def _barred(devices: list[Device], node: Node, request: Request) -> set[int]:
    if not request.withheld:
        return set()
    # What `Device.key` says, put together once a node: there may be ten thousand devices.
    start = f"{node.name}/{request.kind.value}:"
    return {d.index for d in devices if f"{start}{d.index}" in request.withheld}


def _room(node: Node, cpus_per_rank: int | None) -> int | None:
    if not node.cpus.cpus:
        return 0
    return None if cpus_per_rank is None else len(node.cpus.cpus) // cpus_per_rank
