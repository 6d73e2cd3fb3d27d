"""Allocation against exhaustive search on small clusters of every fabric."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations, product

from hypothesis import given
from hypothesis import strategies as st

from cluster.allocate import Assignment, Placement, Refusal, Request, allocate
from cluster.device import Device, Fabric, Inventory, Node
from tests.fabrics import clusters, requests

STRICTEST = (Fabric.RINGS, Fabric.PAIRS, Fabric.LINKS, Fabric.MESH, Fabric.UNKNOWN)


def fabric_of(one: Node) -> Fabric:
    """The strictest fabric that a device of the node tells."""
    return min((d.fabric for d in one.devices), key=STRICTEST.index, default=Fabric.UNKNOWN)


def legal(fabric: Fabric, devices: tuple[Device, ...], *, alone: bool) -> bool:
    """The rules in words of their own: rings, pairs, or any set."""
    size = len(devices)
    if fabric is Fabric.RINGS:
        in_ring = size in (2, 4) and len({d.ring for d in devices} - {None}) == 1
        in_ring = in_ring and all(d.ring is not None for d in devices)
        return size == 8 or (alone and (size == 1 or in_ring))
    if fabric is Fabric.PAIRS:
        cards = [d.card for d in devices]
        whole = None not in cards and all(cards.count(card) == 2 for card in cards)
        return whole or (alone and size == 1)
    return True


def counts(one: Node, request: Request, *, alone: bool) -> set[int]:
    """Every number of ranks that some legal set of free devices of the node serves."""
    free = [d for d in one.devices if d.key not in request.withheld]
    room = len(one.cpus.cpus) // (request.cpus_per_rank or 1)
    if request.cpus_per_rank is None and one.cpus.cpus:
        room = len(free)
    return {
        size
        for size in range(1, min(len(free), room) + 1)
        if any(legal(fabric_of(one), some, alone=alone) for some in combinations(free, size))
    }


def ways(inventory: Inventory, request: Request) -> Iterator[tuple[int, ...]]:
    """Every legal way to spread the ranks, as the numbers on the nodes that take part."""
    ranks, each = request.ranks, request.ranks_per_node
    alone = any(ranks in counts(one, request, alone=True) for one in inventory.nodes)
    if alone and (each is None or ranks <= each):
        yield (ranks,)
    if each is not None and ranks <= each:
        return
    wanted = None
    if each is not None:
        wanted = sorted(filter(None, [each] * (ranks // each) + [ranks % each]))
    for family in families(inventory):
        offers = [sorted({0} | counts(one, request, alone=False)) for one in family]
        for shares in product(*offers):
            used = sorted(filter(None, shares))
            if sum(used) == ranks and wanted in (None, used):
                yield tuple(used)


def families(inventory: Inventory) -> Iterable[list[Node]]:
    """Rings only with rings, pairs only with pairs, the others with one another."""
    strict = (Fabric.RINGS, Fabric.PAIRS)
    for one in strict:
        yield [n for n in inventory.nodes if fabric_of(n) is one]
    yield [n for n in inventory.nodes if fabric_of(n) not in strict]


@given(clusters(), requests)
def test_it_is_refused_only_if_there_is_no_way(inventory: Inventory, request: Request) -> None:
    """Exhaustive search finds a place exactly where `allocate` does, and on no fewer nodes."""
    answer = allocate(inventory, request)
    fewest = min(map(len, ways(inventory, request)), default=None)
    if isinstance(answer, Refusal):
        assert fewest is None, answer
        return
    assert len({a.node for a in answer.assignments}) == fewest


@given(clusters(), requests)
def test_what_is_given_is_legal(inventory: Inventory, request: Request) -> None:
    """Free devices once each, whole, by the rules of every node's fabric."""
    answer = allocate(inventory, request)
    if isinstance(answer, Refusal):
        return
    got = answer.assignments
    assert [a.rank for a in got] == list(range(request.ranks))
    assert len({a.device.key for a in got}) == request.ranks
    assert not {a.device.key for a in got} & request.withheld.keys()
    held = {one.name: [a for a in got if a.node == one.name] for one in inventory.nodes}
    alone = sum(map(bool, held.values())) == 1
    for one in inventory.nodes:
        here: list[Assignment] = held[one.name]
        devices = tuple(a.device for a in here)
        assert not here or legal(fabric_of(one), devices, alone=alone)
        assert set(devices) <= set(one.devices)
        assert len(here) <= (request.ranks_per_node or len(here))
        assert all(len(a.cpus) >= (request.cpus_per_rank or 1) for a in here)


@given(clusters(), requests, st.randoms(use_true_random=False))
def test_order_means_nothing(
    inventory: Inventory, request: Request, shuffle: random.Random
) -> None:
    """Nodes, devices and what they tell of each other may come in any order."""
    mixed = [
        replace(
            one,
            devices=tuple(
                replace(d, near=tuple(shuffle.sample(d.near, len(d.near))))
                for d in shuffle.sample(one.devices, len(one.devices))
            ),
        )
        for one in shuffle.sample(inventory.nodes, len(inventory.nodes))
    ]
    first, second = allocate(inventory, request), allocate(Inventory(tuple(mixed)), request)
    assert chosen(first) == chosen(second)


def chosen(answer: Placement | Refusal) -> object:
    """An answer without the order of what devices tell of their peers."""
    if isinstance(answer, Refusal):
        return answer.reason
    places = [(a.rank, a.device.key, a.local_rank, a.cpus, a.threads) for a in answer.assignments]
    return places, answer.notes
