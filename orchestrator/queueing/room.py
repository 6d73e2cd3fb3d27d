"""What is free of a cluster, kept up to date while a pass gives and takes. For one pass only.

The allocator's answer depends on a node by few things: what its best sets would cost and how many
devices and CPUs are free. Nodes that agree in those differ by their names alone, and among equals
the first name wins. So of each sort of alike nodes only the first few are shown to the allocator,
as many as the request can use, and its answer is that for the whole cluster: tested against it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cluster.allocate import Placement, Refusal, Request, allocate
from cluster.cpu import CpuBudget
from cluster.device import DeviceKind, Inventory, Node
from cluster.offer import Offer, offer_of
from cluster.refusal import why_not
from cluster.selection import Share, select
from orchestrator.queueing.fair import fairly
from orchestrator.queueing.held import Held, budget_left, quota_left
from orchestrator.queueing.stock import Stock
from orchestrator.queueing.values import Cluster

_Sort = tuple[Any, ...]
_Shelf = tuple[DeviceKind, int | None]
"""Requests of one kind and `cpus_per_rank` find the same nodes alike."""


class _Index:
    """The nodes that have something for requests of one shelf, by sort and then by name."""

    def __init__(self, changed: Iterable[str] = ()) -> None:
        self.changed = set(changed)
        self._sort_of: dict[str, _Sort] = {}
        self._alike: dict[_Sort, list[str]] = {}

    def copy(self) -> _Index:
        other = _Index(self.changed)
        other._sort_of = dict(self._sort_of)
        other._alike = {sort: list(names) for sort, names in self._alike.items()}
        return other

    def put(self, name: str, sort: _Sort | None) -> None:
        """Note what the node is like now; None: it has nothing."""
        before = self._sort_of.get(name)
        if sort == before:
            return
        if before is not None:
            names = self._alike[before]
            del names[bisect_left(names, name)]
        if sort is None:
            del self._sort_of[name]
        else:
            self._sort_of[name] = sort
            insort(self._alike.setdefault(sort, []), name)

    def first(self, most: int, besides: frozenset[str]) -> Iterator[str]:
        """Up to `most` nodes of each sort, those in `besides` not counted and always there."""
        yield from sorted(besides & self._sort_of.keys())
        for names in self._alike.values():
            others = (name for name in names if name not in besides)
            yield from (name for name, _ in zip(others, range(most), strict=False))


class Room:
    """What is free; `hold` and `release` change it, `copy` costs little."""

    def __init__(self, cluster: Cluster) -> None:
        """ValueError if two nodes have the same name."""
        self._stock = Stock(cluster)
        self._held: dict[str, tuple[Held, ...]] = {}
        self._closed: frozenset[str] = frozenset()
        self._indexes: dict[_Shelf, _Index] = {}

    @classmethod
    def empty(cls, cluster: Cluster) -> Room:
        """The room of a cluster in which nothing runs; not to be changed. Raises as `Room`."""
        room: Room = cluster.worked_out.get("empty") or cls(cluster)
        return cluster.worked_out.setdefault("empty", room)  # type: ignore[no-any-return]

    def fresh(self) -> Room:
        """A copy for one pass: what is found of held nodes goes with it."""
        other = self.copy()
        other._stock = self._stock.fresh()
        return other

    def copy(self) -> Room:
        """The same room, to be changed on its own."""
        other = object.__new__(Room)
        other._stock = self._stock
        other._held = dict(self._held)
        other._closed = self._closed
        other._indexes = {shelf: index.copy() for shelf, index in self._indexes.items()}
        return other

    def hold(self, held: Mapping[str, Held]) -> None:
        """Take what a job holds. Several may hold the same: it is free when none does."""
        known = held.keys() & self._stock.nodes.keys()
        for name in known:
            self._held[name] = (*self._held.get(name, ()), held[name])
        self._changed(known)

    def release(self, held: Mapping[str, Held]) -> None:
        """Give back what was taken, the very same values."""
        known = held.keys() & self._held.keys()
        for name in known:
            self._held[name] = tuple(one for one in self._held[name] if one is not held[name])
        self._changed(known)

    def close(self, kind: DeviceKind) -> None:
        """Keep whole every node that could be used for `kind`."""
        names = frozenset(self._stock.having(kind))
        self._closed |= names
        self._changed(names)

    def free_of(self, name: str, kind: DeviceKind) -> int:
        """How many devices of a node nobody holds."""
        held = self._held.get(name, ())
        return self._stock.offered(name, kind, held)[0] if name not in self._closed else 0

    def select(self, request: Request) -> list[Share] | None:
        """Nodes for the request, and how many ranks on each; None if there is no room."""
        if _senseless(request):
            return None
        names = self._index(request).first(_most_nodes(request), self._stock.own(request))
        return select([self._offer(name, request) for name in sorted(names)], request)

    def place(self, request: Request) -> Placement | None:
        """What `allocate` answers for this room; None if it refuses.

        Where the gang shares a node with others and does not say how many CPUs it wants, it gets
        its fair part (`fairly`) and not all that are free.
        """
        shares = self.select(request)
        if shares is None:
            return None
        counts = {offer.node.name: count for offer, count in shares}
        nodes = {name: self._stock.nodes[name] for name in counts}
        left = {name: self._budget(name) for name in counts}
        wanted, budgets = fairly(request, counts, nodes, left)
        shown = tuple(replace(nodes[name], cpus=budgets[name]) for name in counts)
        answer = allocate(Inventory(shown), self._asked(wanted, counts))
        return answer if isinstance(answer, Placement) else None

    def why(self, requests: Sequence[Request]) -> list[str]:
        """Why each of these is refused, in the allocator's words; one shelf, no devices of own."""
        first, names = requests[0], sorted(self._stock.nodes)
        if first.kind.is_slot or first.withheld or any(map(_senseless, requests)):
            return [self._refusal(names, request) for request in requests]
        asked = self._asked(first, names)
        offers = [self._accelerators(name, asked) for name in names]
        return [why_not(offers, request) for request in requests]

    def _refusal(self, names: list[str], request: Request) -> str:
        shown = Inventory(tuple(self._small(name) for name in names))
        answer = allocate(shown, self._asked(request, names))
        return answer.reason if isinstance(answer, Refusal) else ""

    def _index(self, request: Request) -> _Index:
        shelf = request.kind, request.cpus_per_rank
        if shelf not in self._indexes:
            self._indexes[shelf] = _Index(self._stock.having(request.kind))
        index = self._indexes[shelf]
        for name in index.changed & self._stock.having(request.kind):
            index.put(name, self._sort(name, shelf))
        index.changed.clear()
        return index

    def _changed(self, names: Collection[str]) -> None:
        """Sorts are looked at again when they are asked for."""
        for index in self._indexes.values():
            index.changed.update(names)

    def _sort(self, name: str, shelf: _Shelf) -> _Sort | None:
        """All that `select` asks of a node but its name; None if it has nothing to give."""
        kind, cpus_per_rank = shelf
        if name in self._closed:
            return None
        held = self._held.get(name, ())
        offered = () if kind.is_slot else self._stock.offered(name, kind, held)
        if offered and not offered[0]:
            return None  # most nodes, and no need to look at their CPUs
        cpus = self._stock.cpus(name, held)
        room = math.inf if cpus_per_rank is None else cpus // max(cpus_per_rank, 1)
        if not cpus or not room:
            return None
        if kind.is_slot:
            return room, self._small(name).cpus.usable_cores
        return min(room, offered[0]), offered

    def _offer(self, name: str, request: Request) -> Offer:
        if request.kind.is_slot or request.withheld or name in self._closed:
            return offer_of(self._small(name), self._asked(request, (name,)))
        # Of a request that names no devices the offer of accelerators knows kind and CPUs only.
        key = (name, request.kind.value, request.cpus_per_rank, self._held.get(name, ()))
        if key not in self._stock.offers:
            self._stock.offers[key] = self._accelerators(name, request)
        return self._stock.offers[key]

    def _accelerators(self, name: str, request: Request) -> Offer:
        """The offer of a node; where it has none that is free, its CPUs say nothing."""
        held, stock = self._held.get(name, ()), self._stock
        some = name in stock.having(request.kind) and stock.offered(name, request.kind, held)[0]
        return stock.offer(self._small(name) if some else stock.nodes[name], request, held)

    def _small(self, name: str) -> Node:
        """The node as far as `select` and `why_not` look: its CPUs are only counted."""
        node, held = self._stock.nodes[name], self._held.get(name, ())
        if not held and name not in self._closed:
            return node
        count = 0 if name in self._closed else self._stock.cpus(name, held)
        quota = quota_left(node.cpus.quota, held)
        return replace(node, cpus=CpuBudget(node.cpus.cpus[:count], quota))

    def _budget(self, name: str) -> CpuBudget:
        return budget_left(self._stock.nodes[name].cpus, self._held.get(name, ()))

    def _asked(self, request: Request, names: Iterable[str]) -> Request:
        """The request with all that is withheld on these nodes, each with the reason."""
        withheld: dict[str, str] = {}
        for name in names:
            for held in self._held.get(name, ()):
                if held.kind is request.kind:
                    start, why = f"{name}/{held.kind.value}:", f"in use by job {held.job}"
                    withheld.update({f"{start}{index}": why for index in held.devices})
            withheld.update(self._stock.barred(name))
        return replace(request, withheld={**withheld, **request.withheld})


def _senseless(request: Request) -> bool:
    numbers = (request.ranks, request.ranks_per_node, request.cpus_per_rank)
    return any(number is not None and number < 1 for number in numbers)


def _most_nodes(request: Request) -> int:
    if request.ranks_per_node is None:
        return request.ranks
    return -(-request.ranks // request.ranks_per_node)
