"""How many cores of which NUMA node each rank of a node gets. Numbers only, pure.

A rank is served from its own home outwards: all that it can have where its device is, the rest
from the nearest node that has some left. Ranks that crowd a node share it evenly, each with a part
elsewhere: in a gang the slowest rank sets the pace, and one that is wholly far away would be that.
Two NPUs on a NUMA node of 24 cores with an idle neighbour of 24 thus have 12 near and 12 next
door each, where `msrun` gives one all that is near and the other all that is far. To leave the idle
neighbour alone would keep memory nearer, but halve the cores that decode images; the main thread
and a loader that is bound by memory find room near the device either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

Shares = list[dict[int, int]]
"""Cores by home, for each rank."""

_ANYWHERE = 1 << 20
"""The distance from a rank without a home: it takes what the others leave."""


def share_out(
    homes: Mapping[int, int],
    wanted: Sequence[int | None],
    each: int,
    distance: Callable[[int, int], int],
    *,
    remainder: bool,
) -> Shares:
    """Divide `homes` (cores by NUMA node) among ranks that want to be on `wanted`.

    Every rank gets `each` cores (their sum must be there); with `remainder`, what is over then
    goes to the ranks nearest to it, one core each. `distance` is between two homes.
    """
    left = dict(homes)
    got: Shares = [{} for _ in wanted]
    outwards = _outwards(homes, _settled(homes, wanted, each), distance)
    for home, ranks in outwards:
        _divide(left, home, ranks, each, got)
    if remainder:
        for home, ranks in outwards:
            lucky = [rank for rank in ranks if sum(got[rank].values()) == each]
            for rank in lucky[: left[home]]:
                _give(left, home, rank, 1, got)
    return got


def _settled(homes: Mapping[int, int], wanted: Sequence[int | None], each: int) -> list[int | None]:
    """The home of every rank: the wanted one, or any that can hold it whole, or None."""
    living = [home if home in homes else None for home in wanted]
    free = dict(homes)
    for home in living:
        if home is not None:
            free[home] = max(0, free[home] - each)
    waiting = [rank for rank, home in enumerate(living) if home is None]
    found: list[int] = []
    while len(found) < len(waiting):
        home = max(free, key=lambda index: (free[index], -index))
        if free[home] < each:
            break
        free[home] -= each
        found.append(home)
    # Neighbouring ranks on one node: sorted before they are handed out.
    for rank, home in zip(waiting, sorted(found), strict=False):
        living[rank] = home
    return living


def _outwards(
    homes: Mapping[int, int],
    living: Sequence[int | None],
    distance: Callable[[int, int], int],
) -> list[tuple[int, list[int]]]:
    """Homes with the ranks that are equally near to them, nearest first.

    Of homes that are as near the next by number comes first: devices sit at the node before it.
    """
    turn = max(homes) + 2
    pairs = sorted(
        (_ANYWHERE, home, home, rank)
        if lives is None
        else (0 if home == lives else distance(lives, home), (home - lives) % turn, home, rank)
        for rank, lives in enumerate(living)
        for home in homes
    )
    groups = groupby(pairs, key=lambda pair: pair[:3])
    return [(home, [pair[3] for pair in group]) for (_, _, home), group in groups]


def _divide(left: dict[int, int], home: int, ranks: Sequence[int], each: int, got: Shares) -> None:
    """Even shares for `ranks` of what a home has left, at most what each still needs.

    Their needs differ by one at most, as all they had so far was divided evenly; the larger part
    goes to who needs more.
    """
    need = {rank: each - sum(got[rank].values()) for rank in ranks}
    for place, rank in enumerate(sorted(ranks, key=lambda rank: -need[rank])):
        _give(left, home, rank, min(need[rank], -(-left[home] // (len(ranks) - place))), got)


def _give(left: dict[int, int], home: int, rank: int, cores: int, got: Shares) -> None:
    if cores > 0:
        left[home] -= cores
        got[rank][home] = got[rank].get(home, 0) + cores
