"""Which of several devices are close to each other: by NUMA node, or by their links. Pure.

Units and devices come sorted by index; where nothing else decides, the lowest ids are taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations

from cluster.device import Device

Devices = tuple[Device, ...]

EXACT_SETS = 300
"""So many sets are compared one by one: every choice among 8 devices (at most 70), and more."""

_Home = tuple[int, int]
_Shape = tuple[tuple[int, int | None, tuple[tuple[int, int], ...]], ...]
_Matrix = Sequence[Sequence[int]]


def by_numa(units: Iterable[Devices], count: int) -> Devices:
    """`count` of the units, on the fewest NUMA nodes; the last of these is the tightest fit.

    A unit is taken whole. One whose NUMA node is unknown shares it with no other.
    """
    homes: dict[_Home, list[Devices]] = {}
    for unit in units:
        homes.setdefault(_home(unit), []).append(unit)
    taken: list[Device] = []
    while count:
        held = homes.pop(_next_home(homes, count))[:count]
        taken += [device for unit in held for device in unit]
        count -= len(held)
    return tuple(sorted(taken, key=lambda device: device.index))


def _home(unit: Devices) -> _Home:
    nodes = {device.numa for device in unit}
    numa = nodes.pop() if len(nodes) == 1 else None
    return (1, unit[0].index) if numa is None else (0, numa)


def _next_home(homes: dict[_Home, list[Devices]], count: int) -> _Home:
    def lowest(home: _Home) -> int:
        return homes[home][0][0].index

    enough = [home for home, units in homes.items() if len(units) >= count]
    if enough:
        return min(enough, key=lambda home: (home[0], len(homes[home]), lowest(home)))
    return min(homes, key=lambda home: (-len(homes[home]), lowest(home)))


def by_links(free: Devices, count: int) -> tuple[Devices, int]:
    """The `count` devices with the best links, and the closeness of the weakest pair of them.

    The best set has the strongest weakest pair, then the largest sum over its pairs, then the
    fewest NUMA nodes; among equal ones it leaves the best links to those that stay behind.
    The best of all sets where there are at most `EXACT_SETS`; beyond that the best of those
    that grow from each device by the nearest next one. A single device has no pair: 0.
    """
    shape = tuple((device.index, device.numa, device.near) for device in free)
    places, weakest = _best(shape, count)
    return tuple(free[place] for place in places), weakest


# Nodes are alike: one answer serves all that look the same.
@lru_cache(maxsize=4096)
def _best(shape: _Shape, count: int) -> tuple[tuple[int, ...], int]:
    links = _matrix(shape)
    sets = _candidates(links, count)
    scores = [_score(links, one) for one in sets]
    top = max(scores)
    equal = [one for one, score in zip(sets, scores, strict=True) if score == top]
    if len(equal) > 1:
        equal.sort(key=lambda one: (*_left_behind(shape, links, one), one))
    return equal[0], top[0]


def _matrix(shape: _Shape) -> _Matrix:
    """Closeness by places; where the two ends tell differently the lower, and 0 where none does."""
    place = {index: number for number, (index, _, _) in enumerate(shape)}
    told: dict[tuple[int, int], int] = {}
    for one, (_, _, near) in enumerate(shape):
        for peer, closeness in near:
            if peer in place and place[peer] != one:
                pair = min(one, place[peer]), max(one, place[peer])
                told[pair] = min(told.get(pair, closeness), closeness)
    size = range(len(shape))
    return [[told.get((min(a, b), max(a, b)), 0) for b in size] for a in size]


def _candidates(links: _Matrix, count: int) -> list[tuple[int, ...]]:
    if math.comb(len(links), count) <= EXACT_SETS:
        return list(combinations(range(len(links)), count))
    return sorted({_grown(links, seed, count) for seed in range(len(links))})


def _grown(links: _Matrix, seed: int, count: int) -> tuple[int, ...]:
    grown = [seed]
    weakest, total = list(links[seed]), list(links[seed])
    left = [place for place in range(len(links)) if place != seed]
    while len(grown) < count:
        nearest = max(left, key=lambda place: (weakest[place], total[place], -place))
        left.remove(nearest)
        grown.append(nearest)
        for place in left:
            weakest[place] = min(weakest[place], links[nearest][place])
            total[place] += links[nearest][place]
    return tuple(sorted(grown))


def _score(links: _Matrix, places: tuple[int, ...]) -> tuple[int, int]:
    pairs = [links[a][b] for a, b in combinations(places, 2)]
    return min(pairs, default=0), sum(pairs)


def _left_behind(shape: _Shape, links: _Matrix, places: tuple[int, ...]) -> tuple[int, int, int]:
    """NUMA nodes of the set, links that it cuts, and devices it leaves on its NUMA nodes."""
    others = [place for place in range(len(shape)) if place not in places]
    homes = [shape[place][1] for place in places]
    known = {home for home in homes if home is not None}
    cut = sum(links[a][b] for a in places for b in others)
    beside = sum(shape[place][1] in known for place in others)
    return len(known) + homes.count(None), cut, beside
