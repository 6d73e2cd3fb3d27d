"""Rules about ranks."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from itertools import pairwise

from cluster.rank_table.draft import Draft, DraftDevice
from cluster.rank_table.findings import Found
from cluster.rank_table.quoting import shown

Ranked = list[tuple[int, int, DraftDevice]]
"""Rank, number of the server in its list, device."""


def ranks(draft: Draft) -> Iterator[Found]:
    """Ranks are numbers from 0, each of one device, and those of a server follow each other."""
    ranked: Ranked = [
        (device.rank, number, device)
        for number, server in enumerate(draft.servers)
        for device in server.devices
        if device.rank is not None
    ]
    twice = list(_twice(ranked))
    yield from twice
    if not draft.whole or len(ranked) < sum(len(server.devices) for server in draft.servers):
        return  # what is not read might fill a gap
    ranked.sort(key=lambda one: one[:2])
    gaps = list(_gaps(ranked))
    yield from gaps
    if twice:
        return
    places = ((number, (f"{one.path}.rank_id", str(rank))) for rank, number, one in ranked)
    apart = [("RT403", where, found) for where, found in returns(places)]
    yield from apart
    if not gaps and not apart:
        yield from _against_names(draft, ranked)


def returns(places: Iterable[tuple[Hashable, tuple[str, str]]]) -> Iterator[tuple[str, str]]:
    """Places where a group begins again after others have come between."""
    left: set[Hashable] = set()
    last: Hashable = None
    for group, place in places:
        if group != last:
            left.add(last)
            if group in left:
                yield place
        last = group


def _twice(ranked: Ranked) -> Iterator[Found]:
    seen: dict[int, DraftDevice] = {}
    for rank, _, device in ranked:
        first = seen.setdefault(rank, device)
        if first is not device:
            yield "RT401", f"{device.path}.rank_id", f"{rank}, as {first.path}.rank_id"


def _gaps(ranked: Ranked) -> Iterator[Found]:
    """One finding a gap, at the rank after it."""
    expected = 0
    for rank, _, device in ranked:
        if rank > expected:
            yield "RT402", f"{device.path}.rank_id", f"{rank}, but there is no rank {expected}"
        expected = rank + 1


def _against_names(draft: Draft, ranked: Ranked) -> Iterator[Found]:
    """Servers in the order of their ranks, each beside the one before."""
    order = list(dict.fromkeys(number for _, number, _ in ranked))
    for before, after in pairwise(draft.servers[number] for number in order):
        one, other = before.server_id, after.server_id
        if one is not None and other is not None and one > other:
            yield "RT404", f"{after.path}.server_id", f"{shown(other)} after {shown(one)}"
