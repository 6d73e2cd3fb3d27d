"""The sizes that a job's world may have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.world import SETTLED, SETTLED_AT_MOST, World, settled_after, sizes

RANKS = st.integers(1, 4096)


@given(RANKS, RANKS)
def test_sizes_are_all_divisors_that_the_job_allows(ranks: int, least: int) -> None:
    """From the largest to the smallest, none left out, each with whole virtual ranks."""
    found = sizes(ranks, least)
    assert list(found) == sorted(set(found), reverse=True)
    assert set(found) == {n for n in range(1, ranks + 1) if ranks % n == 0 and n >= least}
    for size in found:
        world = World(ranks, size)
        assert world.virtual * size == ranks
        assert world.whole is (world.virtual == 1) is (size == ranks)


def test_a_job_that_may_not_shrink_has_one_size() -> None:
    """By default `min_ranks` is the number of ranks."""
    assert sizes(8, 8) == (8,)
    assert sizes(8, 4) == (8, 4)
    assert sizes(8, 1) == (8, 4, 2, 1)
    assert sizes(6, 2) == (6, 3, 2)


@given(st.integers(0, 10_000))
def test_a_world_that_was_left_in_vain_is_left_later(growths: int) -> None:
    """The pause doubles up to an hour, and never shrinks."""
    now, later = settled_after(growths), settled_after(growths + 1)
    assert SETTLED <= now <= later <= SETTLED_AT_MOST
    assert later in (2 * now, SETTLED_AT_MOST)


def test_a_world_is_told_in_devices_and_virtual_ranks() -> None:
    """As `status` shows it."""
    assert str(World(8, 4)) == "4 of 8 ranks' devices (2 virtual ranks each)"
    assert str(World(8, 8)) == "8 ranks on devices of their own"
