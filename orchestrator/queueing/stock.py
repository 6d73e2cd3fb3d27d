"""What the nodes of a cluster have, whoever holds it: looked up often, worked out once. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import KeysView, Mapping
from copy import copy
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from cluster.device import Device, DeviceKind, Fabric, Node
from cluster.fabric import RULES, Rule, fabric_of
from cluster.offer import Offer, Request
from orchestrator.queueing.held import Held, cpus_left
from orchestrator.queueing.values import Cluster


@dataclass(frozen=True)
class _Shelf:
    """A node's devices of a kind by index, those of them that are not barred, and its fabric."""

    known: tuple[Device, ...]
    devices: tuple[Device, ...]
    fabric: Fabric

    @property
    def rule(self) -> Rule:
        return RULES[self.fabric]


_NOTHING = _Shelf((), (), Fabric.UNKNOWN)


class Stock:
    """Nodes by name and their devices by kind; nothing here changes during a pass."""

    def __init__(self, cluster: Cluster) -> None:
        """ValueError if two nodes have the same name."""
        self.nodes: dict[str, Node] = {node.name: node for node in cluster.inventory.nodes}
        if len(self.nodes) < len(cluster.inventory.nodes):
            raise ValueError("two nodes of the cluster have the same name")
        self._barred = _by_node(cluster.withheld)
        self._shelves: dict[DeviceKind, dict[str, _Shelf]] = {}
        self._offered: dict[tuple[str, DeviceKind, tuple[Held, ...]], tuple[Any, ...]] = {}
        self.offers: dict[tuple[Any, ...], Offer] = {}
        self._cpus: dict[tuple[str, tuple[Held, ...]], int] = {}

    def fresh(self) -> Stock:
        """The same nodes for another pass, without what only the last one held."""
        other = copy(self)
        other._offered, other._cpus, other.offers = {}, {}, {}
        return other

    def having(self, kind: DeviceKind) -> KeysView[str]:
        """The nodes that have devices of the kind; all of them for slots."""
        return self.nodes.keys() if kind.is_slot else self._of(kind).keys()

    def barred(self, name: str) -> Mapping[str, str]:
        """What nobody may have of a node, and why."""
        return self._barred.get(name, {})

    def own(self, request: Request) -> frozenset[str]:
        """The nodes of devices that this request alone may not have."""
        return frozenset(_by_node(request.withheld)) if request.withheld else frozenset()

    def cpus(self, name: str, held: tuple[Held, ...]) -> int:
        """How many CPUs of a node are left beside these."""
        if (name, held) not in self._cpus:
            self._cpus[name, held] = cpus_left(self.nodes[name].cpus, held)
        return self._cpus[name, held]

    def offered(self, name: str, kind: DeviceKind, held: tuple[Held, ...]) -> tuple[Any, ...]:
        """What the devices of a node that are free beside these are worth to `select`.

        How many, then the fabric's family, what the best set of each size costs, and how many it
        gives to a gang on several nodes: all that a `Rule` tells of them.
        """
        key = (name, kind, held)
        if key not in self._offered:
            shelf = self._of(kind)[name]
            taken = frozenset[int]().union(*(one.devices for one in held if one.kind is kind))
            free = tuple(d for d in shelf.devices if d.index not in taken)
            self._offered[key] = _worth(shelf.rule, free)
        return self._offered[key]

    def offer(self, node: Node, request: Request, held: tuple[Held, ...]) -> Offer:
        """What `offer_of` says of accelerators, from what is known of the node already.

        `node` has the CPUs that are left; `request` withholds no more than is held and barred.
        """
        shelf = self._of(request.kind).get(node.name, _NOTHING)
        taken = frozenset[int]().union(*(one.devices for one in held if one.kind is request.kind))
        free = tuple(d for d in shelf.devices if d.index not in taken) if taken else shelf.devices
        left = {d.index for d in free}
        out = (
            tuple(d for d in shelf.known if d.index not in left)
            if len(left) < len(shelf.known)
            else ()
        )
        cpus, each = len(node.cpus.cpus), request.cpus_per_rank
        room = 0 if not cpus else None if each is None else cpus // each
        return Offer(node, request, shelf.fabric, shelf.rule, free, out, room)

    def _of(self, kind: DeviceKind) -> Mapping[str, _Shelf]:
        if kind not in self._shelves:
            having = {n.name: [d for d in n.devices if d.kind is kind] for n in self.nodes.values()}
            self._shelves[kind] = {
                name: self._shelf(name, kind, found) for name, found in having.items() if found
            }
        return self._shelves[kind]

    def _shelf(self, name: str, kind: DeviceKind, found: list[Device]) -> _Shelf:
        barred, start = self.barred(name), f"{name}/{kind.value}:"
        named = [d if d.node == name else replace(d, node=name) for d in found]
        known = tuple(sorted(named, key=attrgetter("index")))
        good = tuple(d for d in known if f"{start}{d.index}" not in barred) if barred else known
        return _Shelf(known, good, fabric_of(known))


def _worth(rule: Rule, free: tuple[Device, ...]) -> tuple[Any, ...]:
    costs = tuple(rule.cost(free, count) for count in range(1, len(free) + 1))
    return len(free), id(rule), costs, rule.most(free)


def _by_node(withheld: Mapping[str, str]) -> dict[str, dict[str, str]]:
    nodes: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for key, why in withheld.items():
        nodes[key.rpartition("/")[0]][key] = why
    return dict(nodes)
