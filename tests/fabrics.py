"""Nodes of every fabric for tests of allocation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from hypothesis import strategies as st

from cluster.allocate import Placement, Request, allocate
from cluster.cpu import CpuBudget, NumaNode
from cluster.device import Device, DeviceKind, Fabric, Inventory, Node

Links = Mapping[tuple[int, int], int]
NAMES = ("n0", "n1", "n2")


def budget(cpus: int, quota: float | None = None) -> CpuBudget:
    """A node's CPUs on one NUMA node without SMT."""
    ids = tuple(range(cpus))
    return CpuBudget(ids, quota, numa=(NumaNode(0, ids),), cores=tuple((i,) for i in ids))


def node(name: str, *devices: Device, cpus: int = 16) -> Node:
    """A node of these devices, which may have been made for another one."""
    return Node(name, f"{name}.local", budget(cpus), tuple(replace(d, node=name) for d in devices))


def rings(ids: Iterable[int] = range(8)) -> list[Device]:
    """Devices of a 910A: 0-3 are one ring, 4-7 the other."""
    return [_ascend(i, Fabric.RINGS, ring=i // 4, numa=i // 2) for i in ids]


def pairs(ids: Iterable[int] = range(16)) -> list[Device]:
    """Dies of an A3, two on a card."""
    return [_ascend(i, Fabric.PAIRS, card=i // 2, numa=i // 4) for i in ids]


def mesh(numa: Iterable[int | None]) -> list[Device]:
    """Devices of a 910B by their NUMA nodes."""
    return [_ascend(i, Fabric.MESH, numa=home) for i, home in enumerate(numa)]


def gpus(count: int, links: Links, numa: Iterable[int | None] = ()) -> list[Device]:
    """GPUs with the closeness of some pairs, told by both; the others are 1 apart."""
    homes = [*numa, *[None] * count]
    found = []
    for i in range(count):
        near = ((j, links.get((min(i, j), max(i, j)), 1)) for j in range(count) if j != i)
        found.append(
            Device(DeviceKind.GPU, "", i, "GPU", homes[i], fabric=Fabric.LINKS, near=tuple(near))
        )
    return found


def _ascend(
    index: int,
    fabric: Fabric,
    ring: int | None = None,
    card: int | None = None,
    numa: int | None = 0,
) -> Device:
    return Device(DeviceKind.ASCEND, "", index, "NPU", numa, fabric=fabric, ring=ring, card=card)


def withheld(
    name: str, ids: Iterable[int], kind: str = "ascend", why: str = "in use"
) -> dict[str, str]:
    """Reasons for some devices of a node."""
    return {f"{name}/{kind}:{i}": why for i in ids}


def placed(inventory: Inventory, request: Request) -> Placement:
    """The placement, where there must be one."""
    answer = allocate(inventory, request)
    assert isinstance(answer, Placement), answer
    return answer


def nodes_of(placement: Placement) -> dict[str, int]:
    """How many ranks each node got."""
    return dict(Counter(a.node for a in placement.assignments))


def taken(devices: Iterable[Device], count: int, busy: Iterable[int] = ()) -> list[int]:
    """Which devices of one node a job of `count` ranks gets, while some are in use."""
    one = node("a", *devices, cpus=64)
    kind = one.devices[0].kind
    request = Request(kind, count, withheld=withheld("a", busy, kind.value))
    return [a.device.index for a in placed(Inventory((one,)), request).assignments]


@st.composite
def clusters(draw: st.DrawFn) -> Inventory:
    """Up to three nodes, mostly of one fabric; some devices tell neither fabric, ring nor card."""
    common = draw(st.sampled_from(Fabric))
    found = []
    for name in NAMES[: draw(st.sampled_from([3, 3, 2, 2, 1, 0]))]:
        fabric = draw(st.sampled_from([common, common, *Fabric]))
        ids = draw(st.just(list(range(8))) | st.lists(st.integers(0, 7), unique=True))
        devices = [_some_device(draw, index, fabric) for index in ids]
        found.append(node(name, *devices, cpus=draw(st.sampled_from([16, 16, 9, 8, 3, 0]))))
    return Inventory(tuple(found))


def _some_device(draw: st.DrawFn, index: int, fabric: Fabric) -> Device:
    """One device; what is unknown of it is None."""
    known = draw(st.integers(0, 9)) > 0
    near = draw(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3)), max_size=3))
    return Device(
        DeviceKind.ASCEND,
        "",
        index,
        numa=draw(st.none() | st.integers(0, 1)),
        fabric=fabric if known or index else Fabric.UNKNOWN,
        ring=index // 4 if known else None,
        card=index // 2 if known else None,
        near=tuple(near),
    )


requests = st.builds(
    Request,
    kind=st.just(DeviceKind.ASCEND),
    ranks=st.sampled_from([16, 1, 2, 3, 4, 6, 8, 12, 16, 17, 24]),
    ranks_per_node=st.none() | st.sampled_from([1, 2, 3, 4, 8]),
    cpus_per_rank=st.none() | st.integers(1, 2),
    withheld=st.dictionaries(
        st.builds("{}/ascend:{}".format, st.sampled_from(NAMES), st.integers(0, 7)),
        st.sampled_from(["lost", "in use by python (pid 7)"]),
        max_size=6,
    ),
)
