"""Why a request cannot be met now and what would have to change, in one line of bounded length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.cpu import format_cpu_list
from cluster.device import DeviceKind
from cluster.offer import Offer, Request
from cluster.selection import families

_NAMED = 3
"""Nodes, names and reasons that are told one by one; the rest is counted."""
_REASON, _NAME = 90, 64

_NOUNS = {DeviceKind.ASCEND: "NPU", DeviceKind.GPU: "GPU", DeviceKind.CPU: "CPU slot"}


@dataclass(frozen=True)
class _Goal:
    """What is needed: so many on each of so many nodes, `each` 0 where they may lie anyhow."""

    request: Request
    each: int
    nodes: int

    @property
    def noun(self) -> str:
        return _NOUNS[self.request.kind]

    def possible(self, offer: Offer) -> bool:
        """Whether the node's fabric has sets of this size at all."""
        if self.nodes == 1:
            return offer.rule.legal(self.each)
        return (self.each or self.request.ranks) % offer.rule.unit == 0

    def met(self, offer: Offer) -> bool:
        """Whether the node gives all that could be asked of it."""
        if self.nodes == 1:
            return offer.cost(self.each) is not None
        if self.each:
            return offer.gives(self.each)
        return offer.most == _known(offer)


def why_not(offers: Sequence[Offer], request: Request) -> str:
    """Why `select` finds no place for the request among these offers."""
    noun = _NOUNS[request.kind]
    if not offers:
        return f"needs {_many(request.ranks, noun)}; there is no node"
    having = [offer for offer in offers if offer.count or offer.withheld]
    if not having:
        where = short_list(offer.node.name for offer in offers)
        return f"needs {_many(request.ranks, noun)}; {where} {_has(len(offers))} none"
    goal = _goal(having, request)
    if not any(map(goal.possible, having)):
        return _never(goal, having)
    short = sorted((o for o in having if not goal.met(o)), key=_nearness(goal))
    told = [_state(offer, goal) for offer in short[:_NAMED]]
    return "; ".join([_needs(goal, having, short), *told, *_rest(short[_NAMED:], goal)])


def short_list(names: Iterable[str], most: int = _NAMED) -> str:
    """The first few names, and how many there are more."""
    listed = [_clip(name, _NAME) for name in names]
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")


def _goal(having: Sequence[Offer], request: Request) -> _Goal:
    ranks, each = request.ranks, request.ranks_per_node
    if each is not None:
        return _Goal(request, min(ranks, each), -(-ranks // each))
    # Whether it could be spread over nodes, had they devices enough or were there more of them.
    spread = [o for o in having if ranks % o.rule.unit == 0 and ranks > o.rule.unit]
    several = any(len(family) > 1 or _known(family[0]) < ranks for family in families(spread))
    return _Goal(request, 0, 0) if several else _Goal(request, ranks, 1)


def _never(goal: _Goal, having: Sequence[Offer]) -> str:
    number = _many(goal.each or goal.request.ranks, goal.noun)
    if goal.nodes > 1:
        allowed = sorted({offer.rule.on_each for offer in having})
        job = f"{number} on each of {goal.nodes} nodes: a job on several nodes has"
        return f"{job} {' or '.join(allowed)} on each"
    allowed = sorted({offer.rule.allowed for offer in having})
    return f"{number} cannot go together here: a job has {'; or '.join(allowed)}"


def _needs(goal: _Goal, having: Sequence[Offer], short: Sequence[Offer]) -> str:
    request = goal.request
    cpus = request.cpus_per_rank
    suffix = "" if cpus is None else f", {_many(cpus, 'CPU')} a rank"
    free = "" if request.kind.is_slot else "free "
    if goal.nodes == 1:
        likeliest = min(having, key=_nearness(goal))
        where = likeliest.rule.together(goal.each)
        return f"needs {goal.each} {free}{_plural(goal.each, goal.noun)} {where}{suffix}"
    if goal.each:
        rest = request.ranks % goal.each
        last = f", {rest} on the last" if rest else ""
        each = f"{goal.each} {free}{_plural(goal.each, goal.noun)} on each of {goal.nodes} nodes"
        have = len(having) - len(short)
        met = f"{have} of {len(having)} {_has(have)} them"
        return f"needs {each}{last} for {request.ranks} ranks{suffix}; {met}"
    number = f"{request.ranks} {free}{_plural(request.ranks, goal.noun)}"
    return f"needs {number}{suffix}; {_together(families(filter(goal.possible, having)))}"


def _together(found: Sequence[Sequence[Offer]]) -> str:
    total = max(sum(offer.most for offer in family) for family in found)
    if len(found) > 1:
        return f"nodes that can work together give {total} at most"
    return f"{'all nodes together' if len(found[0]) > 1 else 'the one node'} can give {total}"


def _nearness(goal: _Goal) -> Callable[[Offer], tuple[Any, ...]]:
    def key(offer: Offer) -> tuple[Any, ...]:
        if not goal.each:
            lost = _known(offer) - offer.most
            return not goal.possible(offer), -lost, offer.node.name
        missing = max(goal.each - _usable(offer), 0)
        return not goal.possible(offer), missing, offer.node.name

    return key


def _known(offer: Offer) -> int:
    """Its devices, free or not; of slots as many as were asked for."""
    return offer.count + len(offer.withheld)


def _usable(offer: Offer) -> int:
    return offer.count if offer.room is None else min(offer.count, offer.room)


def _state(offer: Offer, goal: _Goal) -> str:
    """What one node lacks."""
    name = _clip(offer.node.name, _NAME)
    if not goal.possible(offer):
        several = goal.nodes != 1
        return f"{name} gives {offer.rule.on_each if several else offer.rule.allowed}"
    if offer.request.kind.is_slot:
        return f"{name} has {_cpus(offer)}"
    known = _known(offer)
    total = f" of {known}" if known < goal.each or not goal.each else ""
    obstacles = [
        *([_cpus(offer)] if offer.room is not None and offer.room < offer.count else []),
        *([offer.rule.apart(offer.free)] if _in_pieces(offer, goal) else []),
    ]
    but = f" free but {' and '.join(obstacles)}" if obstacles else ""
    why = f": {_reasons(offer)}" if offer.withheld else ""
    return f"{name} has {offer.count}{total}{but}{why}"


def _in_pieces(offer: Offer, goal: _Goal) -> bool:
    """Whether enough are free, and no legal set is among them."""
    if not goal.each or offer.count < goal.each:
        return False
    if goal.nodes == 1:
        return offer.rule.cost(offer.free, goal.each) is None
    return offer.rule.most(offer.free) < goal.each


def _cpus(offer: Offer) -> str:
    cpus = len(offer.node.cpus.cpus)
    if not cpus:
        return "no CPU that may be used"
    return f"{_many(cpus, 'CPU')}, enough for {_many(offer.room or 0, 'rank')}"


def _reasons(offer: Offer) -> str:
    """Each reason once, with the devices that it keeps away."""
    grouped: dict[str, list[int]] = {}
    for device in offer.withheld:
        why = " ".join(offer.request.withheld[device.key].split())
        grouped.setdefault(_clip(why, _REASON) or "withheld", []).append(device.index)
    noun = _NOUNS[offer.request.kind]
    told = [f"{noun} {format_cpu_list(ids)} {why}" for why, ids in list(grouped.items())[:_NAMED]]
    more = sum(len(ids) for ids in list(grouped.values())[_NAMED:])
    return ", ".join(told) + (f" and {more} more withheld" if more else "")


def _rest(offers: Sequence[Offer], goal: _Goal) -> list[str]:
    if not offers:
        return []
    best = max(_usable(offer) for offer in offers)
    return [f"{_many(len(offers), 'more node')} with at most {best} will not do either"]


def _clip(text: str, most: int) -> str:
    """The text, not too long, and without what would break the line or move a cursor."""
    clipped = text if len(text) <= most else f"{text[: most - 1]}…"
    return "".join(sign if sign.isprintable() else "?" for sign in clipped)


def _plural(number: int, noun: str) -> str:
    return noun if number == 1 else f"{noun}s"


def _many(number: int, noun: str) -> str:
    return f"{number} {_plural(number, noun)}"


def _has(number: int) -> str:
    return "has" if number == 1 else "have"
