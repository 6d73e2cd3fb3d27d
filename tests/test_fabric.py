"""Which devices of one node a job gets: rings, pairs, a mesh, links, and nothing known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.allocate import Refusal, Request, allocate
from cluster.closeness import EXACT_SETS, by_links
from cluster.device import Device, DeviceKind, Fabric, Inventory
from tests.fabrics import Links, gpus, mesh, node, nodes_of, pairs, placed, rings, taken, withheld


@pytest.mark.parametrize(
    ("count", "first", "second", "expected"),
    [
        # One device: a ring with 1 free, then 3, 2, 4.
        (1, [0], [4, 5, 6], [0]),
        (1, [0, 1, 2], [4], [4]),
        (1, [0, 1], [4, 5, 6], [6]),  # alone on its NUMA node
        (1, [0, 1, 2, 3], [4, 5, 6], [6]),
        (1, [0, 1, 2, 3], [4, 5], [4]),
        (1, [0, 1, 2, 3], [4, 5, 6, 7], [0]),
        # Two: a ring with 2 free, then 4, 3.
        (2, [0, 1, 2, 3], [5, 7], [5, 7]),
        (2, [0, 1, 2], [5, 7], [5, 7]),
        (2, [0, 1, 2], [4, 5, 6, 7], [4, 5]),
        (2, [0, 1, 2], [4], [0, 1]),
        (2, [3], [4, 5, 6, 7], [4, 5]),
        # Four: a whole ring. Eight: the node.
        (4, [0, 1, 2], [4, 5, 6, 7], [4, 5, 6, 7]),
        (4, [0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]),
        (8, [0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_rings_are_preferred_as_documented(
    count: int, first: list[int], second: list[int], expected: list[int]
) -> None:
    """The documented order of rings by their free devices, inside one ring always."""
    busy = set(range(8)) - {*first, *second}
    assert taken(rings(), count, busy) == expected


def test_the_ring_decides_over_the_node() -> None:
    """A ring with one free device serves a job of one, though another node has fewer free."""
    cluster = Inventory((node("a", *rings([0, 1, 2])), node("b", *rings([0, 4, 5, 6, 7]))))
    (got,) = placed(cluster, Request(DeviceKind.ASCEND, 1)).assignments
    assert (got.node, got.device.index) == ("b", 0)


@pytest.mark.parametrize("count", [3, 5, 6, 7, 9, 12])
def test_other_counts_do_not_go_into_rings(count: int) -> None:
    """Refused whatever is free, with what is allowed."""
    cluster = Inventory((node("a", *rings()), node("b", *rings())))
    answer = allocate(cluster, Request(DeviceKind.ASCEND, count))
    assert isinstance(answer, Refusal)
    assert "1, 2 or 4 in one ring, or whole nodes of 8" in answer.reason


def test_jobs_on_several_nodes_take_whole_nodes_of_rings() -> None:
    """Sixteen ranks are two whole nodes; four on each of two is refused."""
    cluster = Inventory(tuple(node(name, *rings()) for name in "abc"))
    assert nodes_of(placed(cluster, Request(DeviceKind.ASCEND, 16))) == {"a": 8, "b": 8}
    answer = allocate(cluster, Request(DeviceKind.ASCEND, 8, ranks_per_node=4))
    assert isinstance(answer, Refusal) and "has 8 on each" in answer.reason


def test_a_device_of_unknown_ring_serves_alone_or_with_all() -> None:
    """It is the last choice for one rank, none for two, and one of eight."""
    lost = [Device(DeviceKind.ASCEND, "", 0, fabric=Fabric.RINGS), *rings(range(1, 8))]
    assert taken(lost, 1) == [1]
    assert taken(lost, 1, busy=range(1, 8)) == [0]
    assert taken(lost, 2, busy=[1, 2]) == [4, 5]
    assert taken(lost, 8) == list(range(8))
    request = Request(DeviceKind.ASCEND, 2, withheld=withheld("a", range(2, 8)))
    answer = allocate(Inventory((node("a", *lost),)), request)
    assert isinstance(answer, Refusal)
    assert "a has 2 free but 1 in ring 0, 1 of unknown ring" in answer.reason


def test_a_lost_device_does_not_hide_the_rings() -> None:
    """One that tells no model leaves the node's rule as it is."""
    lost = Device(DeviceKind.ASCEND, "", 7)
    answer = allocate(
        Inventory((node("a", *rings(range(7)), lost),)),
        Request(DeviceKind.ASCEND, 6, withheld=withheld("a", [7])),
    )
    assert isinstance(answer, Refusal) and "in one ring" in answer.reason


def test_rings_and_others_are_not_one_job() -> None:
    """A gang over a 910A and a 910B is refused: they do not compute together."""
    cluster = Inventory((node("a", *rings()), node("b", *mesh([0] * 8))))
    assert isinstance(allocate(cluster, Request(DeviceKind.ASCEND, 16)), Refusal)


@pytest.mark.parametrize(
    ("count", "busy", "expected"),
    [
        (1, [], [0]),
        (1, [5], [4]),
        (1, [0, 13], [1]),
        (2, [0], [2, 3]),
        (2, [0, 2, 4], [6, 7]),
        (4, [0, 4], [8, 9, 10, 11]),
        (8, [2], [4, 5, 6, 7, 8, 9, 10, 11]),
        (16, [], list(range(16))),
    ],
)
def test_pairs_stay_together(count: int, busy: list[int], expected: list[int]) -> None:
    """One die from a card that is broken up; an even number in whole cards, near each other."""
    assert taken(pairs(), count, busy) == expected


def test_odd_counts_do_not_go_into_pairs() -> None:
    """Three dies would be a card and a half."""
    answer = allocate(Inventory((node("a", *pairs()),)), Request(DeviceKind.ASCEND, 3))
    assert isinstance(answer, Refusal)
    assert answer.reason.endswith("a job has 1 die, or whole cards of two")


def test_broken_cards_are_told() -> None:
    """Enough dies are free, and no two of them are a card."""
    request = Request(DeviceKind.ASCEND, 4, withheld=withheld("a", range(0, 16, 2)))
    answer = allocate(Inventory((node("a", *pairs()),)), request)
    assert isinstance(answer, Refusal)
    assert "a has 8 free but no card with both dies free" in answer.reason


@pytest.mark.parametrize("fabric", [Fabric.MESH, Fabric.UNKNOWN])
@pytest.mark.parametrize(
    ("numa", "count", "expected"),
    [
        ([6, 6, 4, 4, 0, 0, 2, 2], 2, [0, 1]),  # a published 910B: NUMA order is not id order
        ([6, 6, 4, 4, 0, 0, 2, 2], 1, [0]),
        ([6, 4, 4, 0, 6, 0, 2, 2], 2, [0, 4]),
        ([1, 0, 0, 0], 1, [0]),  # the fuller NUMA node stays whole
        ([0, 0, 0, 1, 1], 2, [3, 4]),
        ([0, 0, 0, 1, 1], 4, [0, 1, 2, 3]),
        ([0, 1, None, 1], 2, [1, 3]),
        ([None, None, None], 2, [0, 1]),
        ([None, 3], 1, [1]),
    ],
)
def test_any_set_goes_where_numa_nodes_are_shared(
    fabric: Fabric, numa: list[int | None], count: int, expected: list[int]
) -> None:
    """The fewest NUMA nodes, the tightest of them, then the lowest ids."""
    devices = [
        Device(DeviceKind.ASCEND, "", i, numa=home, fabric=fabric) for i, home in enumerate(numa)
    ]
    assert taken(devices, count) == expected


BRIDGES: Links = {(0, 1): 6, (2, 3): 6, (4, 5): 6, (6, 7): 6}


@pytest.mark.parametrize(
    ("count", "busy", "expected"),
    [
        (2, [], [0, 1]),
        (2, [0], [2, 3]),
        (1, [], [0]),
        (1, [0], [1]),  # its bridge is broken already
        (1, [7], [6]),
        (3, [7], [0, 1, 6]),  # two of a bridge, and the one that breaks none
        (4, [2], [0, 1, 4, 5]),
    ],
)
def test_bridges_are_used_and_left_whole(count: int, busy: list[int], expected: list[int]) -> None:
    """Pairs joined by a bridge go together; a job that gains nothing breaks none."""
    assert taken(gpus(8, BRIDGES), count, busy) == expected


def test_the_weakest_pair_decides_before_the_sum() -> None:
    """A triangle of middling links beats two excellent ones with a poor third."""
    links = {(0, 1): 9, (1, 2): 9, (0, 2): 1, (3, 4): 4, (4, 5): 4, (3, 5): 4}
    assert taken(gpus(6, links), 3) == [3, 4, 5]


def test_links_that_are_equal_leave_it_to_numa() -> None:
    """Where every pair is as close, the set shares NUMA nodes and leaves the fuller one whole."""
    assert taken(gpus(5, {}, [0, 1, 1, 0, 0]), 2) == [1, 2]
    assert taken(gpus(5, {}, [0, 1, 2, 2, 2]), 2) == [2, 3]


def test_the_node_with_the_better_links_is_preferred() -> None:
    """Two ranks go to a node with a bridge, though another would be filled up by them."""
    cluster = Inventory((node("a", *gpus(2, {})), node("b", *gpus(4, BRIDGES))))
    assert nodes_of(placed(cluster, Request(DeviceKind.GPU, 2))) == {"b": 2}


def test_ends_of_a_link_that_differ_count_as_the_worse() -> None:
    """What one end alone tells is believed; where both tell, the lower."""
    near = [((1, 9), (2, 5)), ((0, 1),), ()]
    devices = tuple(
        Device(DeviceKind.GPU, "a", i, fabric=Fabric.LINKS, near=told)
        for i, told in enumerate(near)
    )
    assert [d.index for d in by_links(devices, 2)[0]] == [0, 2]


@st.composite
def linked(draw: st.DrawFn, most: int = 8) -> tuple[Device, ...]:
    """GPUs with one of two closenesses for any pair: many sets are equal."""
    count = draw(st.integers(1, most))
    links = {pair: draw(st.integers(0, 1)) for pair in combinations(range(count), 2)}
    numa = draw(st.lists(st.none() | st.integers(0, 1), min_size=count, max_size=count))
    return tuple(gpus(count, links, numa))


def quality(devices: Sequence[Device]) -> tuple[int, int, int]:
    """Weakest pair, sum and (negative) NUMA nodes of a set, told anew from `near`."""
    indexes = {d.index for d in devices}
    ends = [c for d in devices for peer, c in d.near if peer in indexes]
    homes = len({d.numa for d in devices if d.numa is not None})
    homes += sum(d.numa is None for d in devices)
    return min(ends, default=0), sum(ends), -homes


@given(linked(), st.data())
def test_the_best_subset_is_that_of_brute_force(
    devices: tuple[Device, ...], data: st.DataObject
) -> None:
    """Up to 8 devices no other set is closer, by links and then by NUMA."""
    count = data.draw(st.integers(1, len(devices)))
    got, weakest = by_links(devices, count)
    best = max(map(quality, combinations(devices, count)))
    assert quality(got) == best and weakest == best[0]


@given(linked(most=16), st.data())
def test_among_many_devices_the_search_is_bounded(
    devices: tuple[Device, ...], data: st.DataObject
) -> None:
    """The set has its size, no device twice, and grows around a best link where two are wanted."""
    count = data.draw(st.integers(1, len(devices)))
    got, _ = by_links(devices, count)
    assert len({d.index for d in got}) == count and set(got) <= set(devices)
    assert [d.index for d in got] == sorted(d.index for d in got)


def test_two_islands_of_sixteen_are_found() -> None:
    """Beyond what is compared one by one, eight of a kind are still taken together."""
    odd = {pair: 5 for pair in combinations(range(1, 16, 2), 2)}
    even = {pair: 4 for pair in combinations(range(0, 16, 2), 2)}
    assert EXACT_SETS < 12870
    assert taken(gpus(16, odd | even), 8) == list(range(1, 16, 2))
