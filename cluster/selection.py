"""On which nodes a job goes, and how many ranks on each. Pure.

A job that fits into one node goes into one: that with the best set of devices, then the tightest
fit, so that roomy nodes stay whole. Else it takes the fewest nodes, or `ranks_per_node` on each.
Names decide between equals, never the order of the inventory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cluster.device import Fabric
from cluster.offer import Offer, Request

Share = tuple[Offer, int]
"""A node and the number of ranks on it."""


def select(offers: Sequence[Offer], request: Request) -> list[Share] | None:
    """The nodes, those with more ranks first, then by name; None: they do not suffice."""
    per_node = request.ranks_per_node
    if per_node is None or request.ranks <= per_node:
        one = _on_one(offers, request.ranks)
        if one is not None:
            return [one]
    if per_node is not None and request.ranks <= per_node:
        return None
    tried = [_on_several(family, request) for family in families(offers)]
    found = min((shares for shares in tried if shares), key=len, default=None)
    return found and sorted(found, key=lambda share: (-share[1], share[0].node.name))


def families(offers: Iterable[Offer]) -> list[list[Offer]]:
    """Nodes that can work together: 910A and A3 only with their like, all others with another."""
    found: dict[str, list[Offer]] = {}
    for offer in offers:
        name = offer.fabric.value if offer.rule.alike else Fabric.UNKNOWN.value
        found.setdefault(name, []).append(offer)
    return [found[name] for name in sorted(found)]


def _on_one(offers: Iterable[Offer], count: int) -> Share | None:
    costs = ((offer.cost(count), offer) for offer in offers)
    fitting = [(cost, offer) for cost, offer in costs if cost is not None]
    if not fitting:
        return None
    _, best = min(fitting, key=lambda pair: (pair[0], _fit(pair[1], count)))
    return best, count


def _on_several(offers: Sequence[Offer], request: Request) -> list[Share] | None:
    if request.ranks_per_node is None:
        return _on_fewest(offers, request.ranks)
    full, rest = divmod(request.ranks, request.ranks_per_node)
    shares = _tightest(offers, request.ranks_per_node, full)
    if rest:
        # What holds a full share holds the rest as well: choosing those first costs nothing.
        used = {offer.node.name for offer, _ in shares}
        shares += _tightest([o for o in offers if o.node.name not in used], rest, 1)
    return shares if len(shares) == full + bool(rest) else None


def _tightest(offers: Iterable[Offer], count: int, nodes: int) -> list[Share]:
    fitting = [offer for offer in offers if offer.gives(count)]
    fitting.sort(key=lambda offer: _fit(offer, count))
    return [(offer, count) for offer in fitting[:nodes]]


def _on_fewest(offers: Iterable[Offer], ranks: int) -> list[Share] | None:
    """The roomiest nodes whole, and the tightest that holds the rest."""
    roomy = sorted(
        (offer for offer in offers if offer.most),
        key=lambda offer: (-offer.most, _fit(offer, offer.most)),
    )
    shares: list[Share] = []
    for number, offer in enumerate(roomy):
        if offer.most >= ranks:
            last = _tightest(roomy[number:], ranks, 1)
            return [*shares, *last] if last else None
        shares.append((offer, offer.most))
        ranks -= offer.most
    return None


def _fit(offer: Offer, count: int) -> tuple[Any, ...]:
    """The lower, the better: few devices left over; for slots the most CPU time."""
    if offer.request.kind.is_slot:
        return -offer.node.cpus.usable_cores, offer.node.name
    return offer.count - count, offer.node.name
