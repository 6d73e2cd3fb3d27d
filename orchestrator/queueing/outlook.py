"""How many must go before a job has room: the earliest start, and whom to stop for it. Pure.

More room never hurts: what fits still fits when another job has gone. So the moment is found by
doubling steps and halving them, not by trying each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import combinations
from math import comb

from cluster.allocate import Placement, Request
from orchestrator.queueing.room import Room
from orchestrator.queueing.values import Running

EXACT_SETS = 64
"""So many sets of victims are tried one by one; among more the best of a few orders is taken."""


def fits(room: Room, gone: Iterable[Running], request: Request) -> bool:
    """Whether the request has room when these have gone."""
    with room.without(gone):
        return room.select(request) is not None


def fewest(room: Room, going: Sequence[Running], request: Request) -> int | None:
    """How many of `going`, in this order, must go before the request has room; None: more than all.

    It has none as long as nobody goes.
    """
    low, step = 0, 1
    with ExitStack() as gone:
        while not fits(room, going[low : low + step], request):
            gone.enter_context(room.without(going[low : low + step]))
            low, step = low + step, step * 2
            if low >= len(going):
                return None
        counts = range(1, min(step, len(going) - low) + 1)
        return (
            low
            + 1
            + bisect_left(
                counts, True, key=lambda count: fits(room, going[low : low + count], request)
            )
        )


def victims(
    room: Room, candidates: Sequence[Running], request: Request, now: float
) -> list[Running]:
    """Whom to stop to make room for the request; empty if that would not do.

    The fewest devices are stopped, then the fewest jobs, those of the lowest priority, and the
    youngest. No job of the answer can be spared. It is the best of all answers where there are
    few to try (`EXACT_SETS`); else what the nodes suggest where the least has to go.
    """
    if not fits(room, candidates, request):
        return []
    young = sorted(candidates, key=lambda one: (one.priority, _lost(one, now), one.job))
    likely = [] if request.kind.is_slot else _by_nodes(room, young, request, now)
    order = list({one.job: one for one in (*likely, *young)}.values())
    best = _pruned(room, order[: fewest(room, order, request)], request)
    return min([best, *_exact(room, young, request)], key=lambda found: _price(found, now))


def in_place(going: Iterable[Running], placement: Placement) -> list[str]:
    """Those that a place waits for: they hold its devices, or else CPUs of its nodes."""
    keys = {one.device.key for one in placement.assignments}
    nodes = {one.node for one in placement.assignments}
    holding = [v.job for v in going if any(a.device.key in keys for a in v.assignments)]
    beside = [v.job for v in going if any(a.node in nodes for a in v.assignments)]
    return sorted(holding or beside)


def _by_nodes(
    room: Room, young: Iterable[Running], request: Request, now: float
) -> Iterator[Running]:
    """What would have to go from each node for its part of the gang, the cheapest node first."""
    each = min(request.ranks, request.ranks_per_node or request.ranks)
    on_node: defaultdict[str, list[Running]] = defaultdict(list)
    for one in young:
        if one.kind is request.kind:
            for name in one.held:
                on_node[name].append(one)
    groups = []
    for name, here in on_node.items():
        group = _enough(name, here, each - room.free_of(name, request.kind))
        groups.append((_price(group, now), name, group))
    for _, _, group in sorted(groups, key=lambda entry: entry[:2]):
        yield from group


def _enough(name: str, here: list[Running], lacking: int) -> list[Running]:
    """Of these jobs on a node some that hold as many devices there as are lacking, or all."""
    one = min((v for v in here if _on(v, name) >= lacking), key=_size, default=None)
    if one is not None:
        return [one]
    found = []
    for victim in sorted(here, key=lambda v: (_size(v) > _on(v, name), -_on(v, name))):
        if lacking > 0:
            found.append(victim)
            lacking -= _on(victim, name)
    return found


def _on(one: Running, name: str) -> int:
    return len(one.held[name].here)


def _pruned(room: Room, stopped: list[Running], request: Request) -> list[Running]:
    """Of these jobs, which make room, only those that cannot be spared."""
    with room.without(stopped):
        nodes = {offer.node.name for offer, _ in room.select(request) or []}
    stopped = [one for one in stopped if nodes & one.held.keys()]
    for one in sorted(stopped, key=_size, reverse=True):
        others = [other for other in stopped if other is not one]
        if fits(room, others, request):
            stopped = others
    return stopped


def _exact(room: Room, candidates: Sequence[Running], request: Request) -> list[list[Running]]:
    """The sets that make room, smaller ones first, as far as there are few to try."""
    fitting, tried = [], 0
    for size in range(1, len(candidates) + 1):
        tried += comb(len(candidates), size)
        if tried > EXACT_SETS:
            break
        sets = (list(some) for some in combinations(candidates, size))
        fitting += [one for one in sets if fits(room, one, request)]
    return fitting


def _price(stopped: Sequence[Running], now: float) -> tuple[object, ...]:
    lost = sum(_lost(one, now) for one in stopped)
    highest = max((one.priority for one in stopped), default=0)
    names = sorted(one.job for one in stopped)
    return sum(map(_size, stopped)), len(stopped), highest, lost, names


def _size(one: Running) -> int:
    return len(one.assignments)


def _lost(one: Running, now: float) -> float:
    """Device seconds since it started: more is at stake in an old job and in a large one."""
    return _size(one) * max(0.0, now - one.started_at)
