"""Which devices of one node go together: a rule for each fabric, in one table. Pure.

The rules of rings and pairs are those of MindCluster's affinity scheduling. Where a node has
rings, a device whose ring is unknown serves alone or with all eight; where it has pairs, a die
whose card is unknown serves alone. Devices come sorted by index, and sets are returned so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cluster.closeness import Devices, by_links, by_numa
from cluster.device import Device, Fabric

WHOLE = 8
"""Devices of a node with rings: two rings of four."""
RING_PREFERENCE = {1: (1, 3, 2, 4), 2: (2, 4, 3), 4: (4,)}
"""Devices asked for → how many the ring to take them from has free, the best first."""

_STRICTEST = (Fabric.RINGS, Fabric.PAIRS, Fabric.LINKS, Fabric.MESH, Fabric.UNKNOWN)


@dataclass(frozen=True)
class Rule:
    """What a fabric allows.

    `cost` of the best set of so many free devices: the node where it is lowest is preferred, and
    None means that no set is legal. `take` gives that set. A node of a job on several gives a
    multiple of `unit`, at most `most`; with `alike` all those nodes have this fabric. `legal`
    tells which counts one node can have at all. In words: `allowed` is what a job can have,
    `on_each` what one on several nodes has on each, `together` how so many must lie, and
    `apart` how the free ones do.
    """

    cost: Callable[[Devices, int], float | None]
    take: Callable[[Devices, int], Devices]
    legal: Callable[[int], bool] = lambda count: True
    most: Callable[[Devices], int] = len
    unit: int = 1
    alike: bool = False
    allowed: str = "any number"
    on_each: str = "any number"
    together: Callable[[int], str] = lambda count: "in one node"
    apart: Callable[[Devices], str] = lambda free: ""


def fabric_of(devices: Iterable[Device]) -> Fabric:
    """The strictest fabric among a node's devices: one that is lost tells none."""
    found = [device.fabric for device in devices]
    return next((one for one in _STRICTEST if one in found), Fabric.UNKNOWN)


def rings_of(free: Devices) -> dict[int, Devices]:
    """The devices of each ring; those whose ring is unknown are left out."""
    known = sorted({device.ring for device in free if device.ring is not None})
    return {ring: tuple(d for d in free if d.ring == ring) for ring in known}


def whole_cards(free: Devices) -> list[Devices]:
    """Cards with both dies free."""
    return [dies for dies in _cards(free) if len(dies) == 2]


def _cards(free: Devices) -> list[Devices]:
    """The free dies of each card; a die whose card is unknown stands alone, behind them."""
    cards = dict.fromkeys(device.card for device in free if device.card is not None)
    known = [tuple(d for d in free if d.card == card) for card in cards]
    return known + [(device,) for device in free if device.card is None]


def _any_cost(free: Devices, count: int) -> float | None:
    return 0.0 if count <= len(free) else None


def _mesh_cost(free: Devices, count: int) -> float | None:
    """No set of a node with other links is closer; a single device has no link."""
    return _any_cost(free, count) if count == 1 or count > len(free) else -math.inf


def _any_set(free: Devices, count: int) -> Devices:
    return by_numa(((device,) for device in free), count)


def _link_cost(free: Devices, count: int) -> float | None:
    return -float(by_links(free, count)[1]) if count <= len(free) else None


def _closest(free: Devices, count: int) -> Devices:
    return by_links(free, count)[0]


def _ring_cost(free: Devices, count: int) -> float | None:
    if count == WHOLE:
        return 0.0 if len(free) >= WHOLE else None
    return min((cost for cost, _ in _ring_sets(free, count)), default=None)


def _one_ring(free: Devices, count: int) -> Devices:
    if count == WHOLE:
        return free[:WHOLE]
    _, ring = min(_ring_sets(free, count), key=lambda pair: pair[0])
    return _any_set(ring, count)


def _ring_sets(free: Devices, count: int) -> list[tuple[float, Devices]]:
    """Every ring with enough devices, the better one with the lower cost."""
    order = RING_PREFERENCE.get(count, ())
    found: list[tuple[float, Devices]] = [
        (order.index(len(ring)) if len(ring) in order else WHOLE + len(ring), ring)
        for ring in rings_of(free).values()
        if order and len(ring) >= count
    ]
    if count == 1:
        found += [(math.inf, (device,)) for device in free if device.ring is None]
    return found


def _pair_cost(free: Devices, count: int) -> float | None:
    if count == 1:
        return min((_die_cost(dies) for dies in _cards(free)), default=None)
    return 0.0 if count % 2 == 0 and count <= 2 * len(whole_cards(free)) else None


def _whole_pairs(free: Devices, count: int) -> Devices:
    if count == 1:
        return min(_cards(free), key=_die_cost)[:1]
    return by_numa(whole_cards(free), count // 2)


def _die_cost(dies: Devices) -> float:
    """A card that is broken up already, then one that nobody knows, then a whole one."""
    if dies[0].card is None:
        return 1.0
    return 0.0 if len(dies) == 1 else 2.0


def _by_ring(free: Devices) -> str:
    counts = {f"in ring {ring}": len(devices) for ring, devices in rings_of(free).items()}
    unknown = len(free) - sum(counts.values())
    if not unknown and len(counts) > 1 and len(set(counts.values())) == 1:
        return f"{next(iter(counts.values()))} in each ring"
    counts |= {"of unknown ring": unknown} if unknown else {}
    return ", ".join(f"{count} {where}" for where, count in counts.items())


def _by_card(free: Devices) -> str:
    number = len(whole_cards(free))
    return f"{number or 'no'} card{'s' if number > 1 else ''} with both dies free"


RULES: dict[Fabric, Rule] = {
    Fabric.UNKNOWN: Rule(_any_cost, _any_set),
    Fabric.MESH: Rule(_mesh_cost, _any_set),
    Fabric.LINKS: Rule(_link_cost, _closest),
    Fabric.RINGS: Rule(
        _ring_cost,
        _one_ring,
        legal=lambda count: count in RING_PREFERENCE or count == WHOLE,
        most=lambda free: WHOLE if len(free) >= WHOLE else 0,
        unit=WHOLE,
        alike=True,
        allowed="1, 2 or 4 in one ring, or whole nodes of 8",
        on_each="8",
        together=lambda count: "in one node" if count in (1, WHOLE) else "in one ring",
        apart=_by_ring,
    ),
    Fabric.PAIRS: Rule(
        _pair_cost,
        _whole_pairs,
        legal=lambda count: count == 1 or count % 2 == 0,
        most=lambda free: 2 * len(whole_cards(free)),
        unit=2,
        alike=True,
        allowed="1 die, or whole cards of two",
        on_each="whole cards of two dies",
        together=lambda count: "in one node" if count == 1 else "on whole cards of one node",
        apart=_by_card,
    ),
}
