"""What is free of a cluster, kept up to date while a pass gives and takes.

The allocator's answer depends on a node by few things: what its best sets would cost and how many
devices and CPUs are free. Nodes that agree in those differ by their names alone, and among equals
the first name wins. So of each sort of alike nodes only the first few are shown to the allocator,
as many as the request can use, and its answer is that for the whole cluster: tested against it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

from cluster.allocate import Placement, Request, allocate
from cluster.device import DeviceKind, Inventory
from cluster.refusal import why_not
from cluster.selection import Share, select
from orchestrator.queueing.fair import fairly
from orchestrator.queueing.held import Held
from orchestrator.queueing.left import Left, Shelf, Sort
from orchestrator.queueing.values import Cluster, Running


class _Index:
    """The nodes that have something for requests of one shelf, by sort and then by name."""

    def __init__(self, shelf: Shelf, changed: Iterable[str]) -> None:
        self.changed = set(changed)
        self._shelf = shelf
        self._sort_of: dict[str, Sort] = {}
        self._alike: defaultdict[Sort, list[str]] = defaultdict(list)

    def copy(self) -> _Index:
        other = _Index(self._shelf, self.changed)
        other._sort_of = dict(self._sort_of)
        other._alike.update({sort: list(names) for sort, names in self._alike.items()})
        return other

    def look(self, left: Mapping[str, Left]) -> None:
        """Note what the nodes that have changed are like now."""
        shelf, known = self._shelf, self._sort_of
        for name in self.changed:
            sort = left[name].sort(shelf) if name in left else None
            before = known.get(name)
            if sort is not before and sort != before:
                self._put(name, sort, before)
        self.changed.clear()

    def _put(self, name: str, sort: Sort | None, before: Sort | None) -> None:
        """None: it has nothing."""
        if before is not None:
            names = self._alike[before]
            del names[bisect_left(names, name)], self._sort_of[name]
        if sort is not None:
            self._sort_of[name] = sort
            insort(self._alike[sort], name)

    def first(self, most: int, own: frozenset[str]) -> Iterator[str]:
        """Up to `most` nodes of each sort, those in `own` not counted and always there."""
        yield from own & self._sort_of.keys()
        for names in self._alike.values():
            others = (name for name in names if name not in own) if own else names
            yield from islice(others, most)


class Room:
    """The nodes of a cluster and what is left of them."""

    def __init__(self, left: Mapping[str, Left], having: Mapping[str, frozenset[str]]) -> None:
        """`having` has the nodes that could be used for each kind, whatever is held of them."""
        self._left = dict(left)
        self._having = having
        self._indexes: dict[Shelf, _Index] = {}

    @classmethod
    def empty(cls, cluster: Cluster) -> Room:
        """The room in which nothing runs; not to be changed. ValueError: two nodes of one name."""
        if "room" not in cluster.worked_out:
            nodes = {node.name: node for node in cluster.inventory.nodes}
            if len(nodes) < len(cluster.inventory.nodes):
                raise ValueError("two nodes of the cluster have the same name")
            barred: defaultdict[str, dict[str, str]] = defaultdict(dict)
            for key, why in cluster.withheld.items():
                barred[key.rpartition("/")[0]][key] = why
            left = {name: Left(nodes[name], barred.get(name, {})) for name in sorted(nodes)}
            having = {
                kind.value: frozenset(name for name in left if left[name].has(kind))
                for kind in DeviceKind
            }
            cluster.worked_out["room"] = cls(left, having)
        room: Room = cluster.worked_out["room"]
        return room

    def copy(self) -> Room:
        """The same room, to be changed on its own."""
        other = Room(self._left, self._having)
        other._indexes = {shelf: index.copy() for shelf, index in self._indexes.items()}
        return other

    def beside(self, running: Iterable[Running]) -> Room:
        """Another room, in which these hold what they hold and nobody else does."""
        held: defaultdict[str, list[Held]] = defaultdict(list)
        for one in running:
            for name, here in one.held.items():
                held[name].append(here)
        known = held.keys() & self._left.keys()
        taken = {name: self._left[name].holding(tuple(held[name])) for name in known}
        return Room({**self._left, **taken}, self._having)

    def hold(self, held: Mapping[str, Held]) -> None:
        """Take what a job holds; nodes that nobody knows are passed over."""
        self._put({name: self._left[name].but(held[name]) for name in held if name in self._left})

    def close(self, kind: DeviceKind) -> None:
        """Keep whole every node that could be used for `kind`."""
        closed = self._having[kind.value]
        for name in closed:
            self._left.pop(name, None)
        self._changed(closed)

    @contextmanager
    def without(self, gone: Iterable[Running]) -> Iterator[None]:
        """The room as if these had gone."""
        now: dict[str, Left] = {}
        for one in gone:
            for name in one.held.keys() & self._left.keys():
                now[name] = now.get(name, self._left[name]).without(one.held[name])
        before = {name: self._left[name] for name in now}
        self._put(now)
        try:
            yield
        finally:
            self._put(before)

    def _put(self, changed: Mapping[str, Left]) -> None:
        self._left.update(changed)
        self._changed(changed)

    def _changed(self, names: Collection[str]) -> None:
        """Indexes look at these nodes again when they are asked."""
        for index in self._indexes.values():
            index.changed.update(names)  # also such as the index is not about: they have nothing

    def concerned(self, running: Iterable[Running], kind: DeviceKind) -> list[Running]:
        """Those that hold something of a node that could be used for `kind`."""
        nodes = self._having[kind.value]
        return [one for one in running if not nodes.isdisjoint(one.held)]

    def free_of(self, name: str, kind: DeviceKind) -> int:
        """How many devices of a node nobody holds."""
        return len(self._left[name].free(kind)) if name in self._left else 0

    def select(self, request: Request) -> list[Share] | None:
        """Nodes for the request, and how many ranks on each; None if there is no room."""
        own = frozenset(key.rpartition("/")[0] for key in request.withheld)
        each = request.ranks_per_node or 1
        names = self._index(request).first(-(-request.ranks // each), own)
        return select([self._left[name].offer(request) for name in sorted(names)], request)

    def place(self, request: Request) -> Placement | None:
        """What `allocate` answers for this room; None if it refuses.

        Where the gang shares a node with others and does not say how many CPUs it wants, it gets
        its fair part (`fairly`) and not all that are free.
        """
        shares = self.select(request)
        if shares is None:
            return None
        counts = {offer.node.name: count for offer, count in shares}
        left = {name: self._left[name] for name in counts}
        wanted, budgets = fairly(request, counts, left)
        shown = tuple(replace(left[name].node, cpus=budgets[name]) for name in counts)
        withheld = [left[name].withheld(request.kind).items() for name in counts]
        taken = {key: why for items in withheld for key, why in items}
        asked = replace(wanted, withheld={**taken, **request.withheld})
        answer = allocate(Inventory(shown), asked)
        return answer if isinstance(answer, Placement) else None

    def why(self, request: Request) -> str:
        """Why there is no room for the request, in the allocator's words."""
        return why_not([left.offer(request) for left in self._left.values()], request)

    def _index(self, request: Request) -> _Index:
        shelf = request.kind.value, request.cpus_per_rank
        index = self._indexes.get(shelf)
        if index is None:
            index = self._indexes[shelf] = _Index(shelf, self._having[request.kind.value])
        index.look(self._left)
        return index
