"""Allocation: all or nothing, deterministic, never a device twice."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import affinity
from cluster.affinity import Bind
from cluster.allocate import Placement, Refusal, Request, allocate
from cluster.cpu import NumaNode
from cluster.device import Device, DeviceKind, Inventory, Node
from tests import fabrics
from tests.fabrics import nodes_of, placed


def node(name: str, *, ascend: int = 0, gpu: int = 0, cpus: int = 16) -> Node:
    """A node with so many accelerators, of which nobody knows how they are joined."""
    devices = [Device(DeviceKind.ASCEND, name, i, "Ascend910B") for i in range(ascend)]
    devices += [Device(DeviceKind.GPU, name, i, "H200") for i in range(gpu)]
    return fabrics.node(name, *devices, cpus=cpus)


@st.composite
def clusters(draw: st.DrawFn) -> Inventory:
    """Up to five nodes of different sizes."""
    return Inventory(
        tuple(
            node(
                f"n{i}",
                ascend=draw(st.integers(0, 8)),
                gpu=draw(st.integers(0, 3)),
                cpus=draw(st.integers(0, 9)),
            )
            for i in range(draw(st.integers(0, 5)))
        )
    )


requests = st.builds(
    Request,
    kind=st.sampled_from(DeviceKind),
    ranks=st.integers(1, 20),
    ranks_per_node=st.none() | st.integers(1, 8),
    cpus_per_rank=st.none() | st.integers(1, 3),
    bind=st.sampled_from(Bind),
    withheld=st.dictionaries(
        st.builds("n{}/{}:{}".format, st.integers(0, 4), st.sampled_from(["ascend", "cpu"]),
                  st.integers(0, 7)),
        st.just("barred"),
        max_size=6,
    ),
)  # fmt: skip


@given(clusters(), requests, st.randoms(use_true_random=False))
def test_any_answer_is_whole_legal_and_independent_of_order(
    inventory: Inventory, request: Request, shuffle: random.Random
) -> None:
    """Each rank gets one unbarred device of the right kind; order changes nothing."""
    answer = allocate(inventory, request)
    mixed = []
    for one in shuffle.sample(inventory.nodes, len(inventory.nodes)):
        devices = tuple(shuffle.sample(one.devices, len(one.devices)))
        mixed.append(Node(one.name, one.address, one.cpus, devices))
    assert allocate(Inventory(tuple(mixed)), request) == answer
    if isinstance(answer, Refusal):
        assert str(request.ranks) in answer.reason
        return
    got = answer.assignments
    assert [a.rank for a in got] == list(range(request.ranks))
    keys = [a.device.key for a in got]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & request.withheld.keys()
    assert all(a.device.kind is request.kind and a.device.node == a.node for a in got)
    for name in nodes_of(answer):
        here = [a for a in got if a.node == name]
        assert [a.local_rank for a in here] == list(range(len(here)))
        assert [a.device.index for a in here] == sorted(a.device.index for a in here)
        assert [a.rank for a in here] == list(range(here[0].rank, here[0].rank + len(here)))
        assert len(here) <= (request.ranks_per_node or len(here))
        assert all(a.cpus and a.threads >= 1 for a in here)


@given(clusters(), requests)
def test_a_refusal_means_there_are_too_few(inventory: Inventory, request: Request) -> None:
    """With no wish about nodes or CPUs, every free device of the cluster can be had."""
    plain = Request(request.kind, request.ranks, withheld=request.withheld)
    answer = allocate(inventory, plain)
    usable = [n for n in inventory.nodes if n.cpus.cpus]
    if plain.kind is DeviceKind.CPU:
        assert isinstance(answer, Placement) == bool(usable)
        return
    free = [d for n in usable for d in n.devices if d.kind is plain.kind]
    enough = sum(d.key not in plain.withheld for d in free) >= plain.ranks
    assert isinstance(answer, Placement) == enough


def test_one_node_offers_any_number_of_cpu_slots() -> None:
    """Eight ranks fit on two CPUs: slots are not cores, and the note says they share."""
    answer = placed(Inventory((node("laptop", cpus=2),)), Request(DeviceKind.CPU, 8))
    assert [a.device.key for a in answer.assignments] == [f"laptop/cpu:{i}" for i in range(8)]
    assert [a.cpus for a in answer.assignments] == [(0,), (1,)] * 4
    assert answer.notes == (
        "laptop: 8 ranks share 2 CPUs: up to 4 ranks on one CPU, one thread each.",
    )


def test_a_barred_device_is_stepped_over() -> None:
    """The gang moves to the node that is still whole; alone, the bad node is refused."""
    bad, good = node("a", ascend=8), node("b", ascend=8)
    request = Request(DeviceKind.ASCEND, 8, withheld={"a/ascend:3": "ECC twice"})
    assert nodes_of(placed(Inventory((bad, good)), request)) == {"b": 8}
    answer = allocate(Inventory((bad,)), request)
    assert answer == Refusal("needs 8 free NPUs in one node; a has 7: NPU 3 ECC twice")


def test_the_tightest_node_is_taken_first() -> None:
    """A small job does not break up a large node."""
    cluster = Inventory((node("big", ascend=8), node("small", ascend=2)))
    assert nodes_of(placed(cluster, Request(DeviceKind.ASCEND, 2))) == {"small": 2}
    assert nodes_of(placed(cluster, Request(DeviceKind.ASCEND, 9))) == {"big": 8, "small": 1}


def test_ranks_per_node_is_kept() -> None:
    """Sixteen ranks, eight a node, need two nodes of eight."""
    request = Request(DeviceKind.ASCEND, 16, ranks_per_node=8)
    two = Inventory((node("b", ascend=8), node("a", ascend=8), node("c", ascend=7)))
    assert nodes_of(placed(two, request)) == {"a": 8, "b": 8}
    assert isinstance(allocate(Inventory(two.nodes[1:]), request), Refusal)


def test_cpus_per_rank_bounds_a_node() -> None:
    """A node with devices but too few CPUs takes fewer ranks, or none."""
    request = Request(DeviceKind.ASCEND, 8, cpus_per_rank=2)
    assert placed(Inventory((node("a", ascend=8, cpus=16),)), request)
    answer = allocate(Inventory((node("a", ascend=8, cpus=15),)), request)
    assert isinstance(answer, Refusal)
    assert answer.reason == (
        "needs 8 free NPUs in one node, 2 CPUs a rank; a has 8 free but 15 CPUs, enough for 7 ranks"
    )


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Request(DeviceKind.CPU, 0), "at least 1"),
        (Request(DeviceKind.CPU, 1, ranks_per_node=0), "at least 1"),
        (Request(DeviceKind.CPU, 1, cpus_per_rank=0), "cpus_per_rank is 0"),
    ],
)
def test_senseless_requests_are_refused(request_: Request, why: str) -> None:
    """Zero ranks, ranks a node or CPUs are refused in words."""
    answer = allocate(Inventory((node("a"),)), request_)
    assert isinstance(answer, Refusal) and why in answer.reason


def test_two_nodes_of_one_name_are_refused() -> None:
    """Device keys would be ambiguous."""
    answer = allocate(Inventory((node("a"), node("a"))), Request(DeviceKind.CPU, 1))
    assert answer == Refusal("the inventory has two nodes named a")


def test_two_devices_of_one_name_are_refused() -> None:
    """One of them would be given twice."""
    twins = fabrics.node("a", *fabrics.mesh([0, 0]), *fabrics.mesh([1]))
    answer = allocate(Inventory((twins,)), Request(DeviceKind.ASCEND, 1))
    assert answer == Refusal("the inventory has two devices named a/ascend:0")


def test_the_rest_of_a_job_takes_the_tightest_node() -> None:
    """Two whole nodes and two ranks more: those leave the third large node alone."""
    sizes = {"a": 8, "b": 8, "c": 8, "d": 3, "e": 4}
    cluster = Inventory(tuple(node(name, ascend=n) for name, n in sizes.items()))
    assert nodes_of(placed(cluster, Request(DeviceKind.ASCEND, 18))) == {"a": 8, "b": 8, "d": 2}


def test_equal_notes_of_many_nodes_are_one() -> None:
    """What is worth reading once is not said for every node."""
    cluster = Inventory(tuple(node(f"n{i}", ascend=8, cpus=4) for i in range(5)))
    placement = placed(cluster, Request(DeviceKind.ASCEND, 40))
    (note,) = placement.notes
    assert note.startswith("n0, n1, n2 and 2 more: 8 ranks share 4 CPUs")


def test_nodes_that_are_alike_get_the_same_cpus() -> None:
    """CPU sets follow each node's own topology, although they are worked out once for many."""
    few, many = (fabrics.node(f"{n}", *fabrics.mesh([0] * 8), cpus=n) for n in (8, 16))
    alike = fabrics.node("8-b", *fabrics.mesh([0] * 8), cpus=8)
    got = placed(Inventory((few, many, alike)), Request(DeviceKind.ASCEND, 24)).assignments
    sizes = {a.node: len(a.cpus) for a in got}
    assert sizes == {"8": 1, "8-b": 1, "16": 2}


def test_cpu_sets_are_worked_out_once_for_nodes_that_are_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twenty nodes with equal CPUs, measured each on its own, cost as much as one."""
    calls = []

    def counted(*arguments: Any, **options: Any) -> affinity.Binding:
        calls.append(arguments)
        return affinity.bind(*arguments, **options)

    monkeypatch.setattr("cluster.allocate.bind", counted)
    cluster = Inventory(tuple(node(f"n{i:02}", ascend=8) for i in range(20)))
    placed(cluster, Request(DeviceKind.ASCEND, 160))
    assert len(calls) == 1


def test_nodes_that_differ_in_numa_alone_are_not_alike() -> None:
    """The same CPUs on other NUMA nodes are other sets."""
    one = fabrics.node("a", *fabrics.mesh([0, 1]), cpus=4)
    halves = {"b": ((0, 1), (2, 3)), "c": ((0, 2), (1, 3))}
    nodes = [
        replace(one, name=name, cpus=replace(one.cpus, numa=(NumaNode(0, p), NumaNode(1, q))))
        for name, (p, q) in halves.items()
    ]
    got = placed(Inventory(tuple(nodes)), Request(DeviceKind.ASCEND, 4)).assignments
    assert [a.cpus for a in got] == [(0, 1), (2, 3), (0, 2), (1, 3)]


def test_a_slot_can_be_barred() -> None:
    """There is always another one."""
    request = Request(DeviceKind.CPU, 2, withheld={"a/cpu:0": "x", "a/cpu:2": "x"})
    got = placed(Inventory((node("a"),)), request).assignments
    assert [a.device.index for a in got] == [1, 3]
