"""What is left of one node beside what jobs hold of it: worked out once, when asked for. Pure.

The allocator counts devices by keys withheld, and CPUs by what a node says it has. So held CPUs
are told by a node that has fewer: cores and NUMA nodes are cut with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from operator import attrgetter
from typing import Any

from cluster.allocate import Request
from cluster.cpu import CpuBudget
from cluster.device import Device, DeviceKind, Node
from cluster.fabric import RULES, fabric_of
from cluster.offer import Offer, offer_of
from orchestrator.queueing.held import Held

Sort = tuple[Any, ...]
Shelf = tuple[str, int | None]
"""Kind and CPUs per rank: requests that agree in those find the same nodes alike."""

_REMEMBERED = 32
"""So many ways to hold parts of a node are remembered, for the next pass."""


class Left:
    """A node less what is held of it. Nothing here changes; the others give another one."""

    def __init__(
        self,
        node: Node,
        barred: Mapping[str, str],
        held: tuple[Held, ...] = (),
        whole: Left | None = None,
    ) -> None:
        self.node = node
        self.held = held
        self._barred = barred
        self._whole = whole or self
        self._known: dict[tuple[Held, ...], Left] = {}  # used of the whole node only
        self._free: dict[str, tuple[Device, ...]] = {}
        self._worth: dict[str, Sort] = {}
        self._sorts: dict[Shelf, Sort | None] = {}
        self._offers: dict[tuple[Any, ...], Offer] = {}

    def holding(self, held: tuple[Held, ...]) -> Left:
        """What is left when just this is held. Several may hold the same."""
        if not held:
            return self._whole
        known = self._whole._known
        left = known.get(held)
        if left is None:
            if len(known) >= _REMEMBERED:
                known.clear()
            left = known[held] = Left(self.node, self._barred, held, self._whole)
        return left

    def but(self, held: Held) -> Left:
        """What is left when this is held as well."""
        return self.holding((*self.held, held))

    def without(self, held: Held) -> Left:
        """What is left when this very value is held no more."""
        return self.holding(tuple([one for one in self.held if one is not held]))

    def free(self, kind: DeviceKind) -> tuple[Device, ...]:
        """Devices that are neither held nor barred, by index."""
        free = self._free.get(kind.value)
        if free is None:
            free = self._free[kind.value] = self._found(kind)
        return free

    def _found(self, kind: DeviceKind) -> tuple[Device, ...]:
        if self._whole is not self:
            taken = self.taken(kind)
            return tuple([d for d in self._whole.free(kind) if d.index not in taken])
        found = sorted((d for d in self.node.devices if d.kind is kind), key=attrgetter("index"))
        start = f"{self.node.name}/{kind.value}:"
        return tuple(d for d in found if f"{start}{d.index}" not in self._barred)

    def has(self, kind: DeviceKind) -> bool:
        """Whether jobs of the kind can run here at all."""
        return kind.is_slot or any(device.kind is kind for device in self.node.devices)

    def taken(self, kind: DeviceKind) -> frozenset[int]:
        """Devices, or slots, that are held, by index."""
        return frozenset().union(*[one.devices for one in self.held if one.kind is kind])

    @cached_property
    def cpus(self) -> tuple[int, ...]:
        """CPUs that are not held."""
        taken = frozenset().union(*[one.cpus for one in self.held])
        cpus = self.node.cpus.cpus
        return tuple([cpu for cpu in cpus if cpu not in taken]) if taken else cpus

    @cached_property
    def budget(self) -> CpuBudget:
        """The same with its topology."""
        kept, whole = frozenset(self.cpus), self.node.cpus
        numa = (replace(n, cpus=tuple(c for c in n.cpus if c in kept)) for n in whole.numa)
        cores = (tuple(c for c in core if c in kept) for core in whole.cores)
        return replace(
            whole,
            cpus=self.cpus,
            numa=tuple(node for node in numa if node.cpus),
            cores=tuple(core for core in cores if core),
        )

    def sort(self, shelf: Shelf) -> Sort | None:
        """All that `select` asks of a node but its name; None if it has nothing to give."""
        try:
            return self._sorts[shelf]
        except KeyError:
            self._sorts[shelf] = sort = self._sort(DeviceKind(shelf[0]), shelf[1])
            return sort

    def _sort(self, kind: DeviceKind, cpus_per_rank: int | None) -> Sort | None:
        free = () if kind.is_slot else self.free(kind)
        if not free and not kind.is_slot:
            return None  # most nodes, and no need to look at their CPUs
        room = math.inf if cpus_per_rank is None else len(self.cpus) // cpus_per_rank
        if not self.cpus or not room:
            return None
        if kind.is_slot:
            return room, self._shown.cpus.usable_cores
        if kind.value not in self._worth:
            self._worth[kind.value] = self._worth_of(free)
        return min(room, len(free)), self._worth[kind.value]

    def _worth_of(self, free: tuple[Device, ...]) -> Sort:
        """What the fabric's rule makes of free devices: all that `select` asks of them."""
        kind = free[0].kind
        fabric = fabric_of(device for device in self.node.devices if device.kind is kind)
        costs = [RULES[fabric].cost(free, count) for count in range(1, len(free) + 1)]
        return fabric.value, RULES[fabric].most(free), *costs

    def offer(self, request: Request) -> Offer:
        """What the node offers; the same for all requests that ask alike of one node."""
        if request.withheld:
            own = {**self.withheld(request.kind), **request.withheld}
            return offer_of(self._shown, replace(request, withheld=own))
        kind = request.kind
        key = kind.value, request.cpus_per_rank, request.ranks if kind.is_slot else None
        if key not in self._offers:
            asked = replace(request, withheld=self.withheld(kind))
            self._offers[key] = offer_of(self._shown, asked)
        return self._offers[key]

    @cached_property
    def _shown(self) -> Node:
        """The node as far as an offer looks: its CPUs are only counted."""
        if not self.held:
            return self.node
        return replace(self.node, cpus=CpuBudget(self.cpus, self.node.cpus.quota))

    def withheld(self, kind: DeviceKind) -> Mapping[str, str]:
        """Devices of the kind that nobody can have now, each with the reason."""
        start = f"{self.node.name}/{kind.value}:"
        held = [one for one in self.held if one.kind is kind]
        used = {f"{start}{i}": f"in use by job {one.job}" for one in held for i in one.devices}
        return {**used, **self._barred}
