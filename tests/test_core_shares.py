"""How many cores of which NUMA node each rank gets, in numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.core_shares import Shares, share_out


def by_number(a: int, b: int) -> int:
    """Homes are as far apart as their numbers."""
    return 10 + abs(a - b)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.lists(st.none() | st.integers(0, 6), min_size=1, max_size=12),
    st.booleans(),
)
def test_nothing_is_lost_and_nobody_is_short(
    cores: list[int], wanted: list[int | None], remainder: bool
) -> None:
    """Each rank gets its even part, one core more at most, and then no core is over."""
    homes = dict(enumerate(cores))
    each, over = divmod(sum(cores), len(wanted))
    got = share_out(homes, wanted, each, by_number, remainder=remainder)
    sizes = sorted(sum(share.values()) for share in got)
    more = over if remainder else 0
    assert sizes == [each] * (len(wanted) - more) + [each + 1] * more
    assert all(taken(got, home) <= held for home, held in homes.items())


def taken(got: Shares, home: int) -> int:
    """Cores of a home that were handed out."""
    return sum(share.get(home, 0) for share in got)


def test_who_has_less_near_gets_more_next_door() -> None:
    """Of three near and three next door two ranks have three each: 2 + 1 and 1 + 2."""
    got = share_out({0: 3, 1: 3, 2: 4}, [0, 0], 4, by_number, remainder=False)
    assert got == [{0: 2, 1: 1, 2: 1}, {0: 1, 1: 2, 2: 1}]


def test_a_crowd_has_equal_parts_near_and_far() -> None:
    """Three ranks on a home of seven: 3, 2 and 2 there, the rest next door, not two doors on."""
    got = share_out({0: 7, 1: 8, 2: 9}, [0, 0, 0], 5, by_number, remainder=False)
    assert got == [{0: 3, 1: 2}, {0: 2, 1: 3}, {0: 2, 1: 3}]


def test_ranks_without_a_wish_are_kept_whole_and_side_by_side() -> None:
    """They live where there is most room, and neighbours live together."""
    got = share_out({0: 4, 1: 6}, [None] * 5, 2, by_number, remainder=False)
    assert got == [{0: 2}, {0: 2}, {1: 2}, {1: 2}, {1: 2}]
