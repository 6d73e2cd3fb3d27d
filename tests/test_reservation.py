"""What a node offers to Ray and what a placement asks of it: the very devices, never too much."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.allocate import Placement, Refusal, Request, allocate
from cluster.cpu import CpuBudget, NumaNode
from cluster.device import Device, DeviceKind, Inventory, Node
from cluster.reservation import (
    Book,
    bundles_of,
    by_count,
    lacking,
    part_of_node,
    resources_of,
    widened,
)

HARDWARE = [DeviceKind.ASCEND, DeviceKind.GPU]


def node(kind: DeviceKind, devices: int, *, cpus: int = 8, quota: float | None = None) -> Node:
    """A node with so many devices."""
    ids = tuple(range(cpus))
    budget = CpuBudget(ids, quota, numa=(NumaNode(0, ids),), cores=tuple((i,) for i in ids))
    held = () if kind.is_slot else tuple(Device(kind, "n", index) for index in range(devices))
    return Node("n", "n.local", budget, held)


def place(on: Node, request: Request) -> Placement:
    """The placement, where there must be one."""
    answer = allocate(Inventory((on,)), request)
    assert isinstance(answer, Placement), answer
    return answer


def test_ascend_devices_are_offered_by_count_and_by_name_without_the_withheld() -> None:
    """Ray's NPU counts what may be used; each has a name; a barred device has none."""
    offered = resources_of(node(DeviceKind.ASCEND, 4), {"n/ascend:2": "ECC"})
    devices = {"muster_ascend_0": 1, "muster_ascend_1": 1, "muster_ascend_3": 1}
    assert offered == {"CPU": 8, "NPU": 3, **devices}


def test_a_bundle_asks_for_the_device_that_was_chosen() -> None:
    """A rank on the fourth device asks for that one, one NPU, and its share of the CPUs."""
    on = node(DeviceKind.ASCEND, 4, cpus=8)
    barred = {f"n/ascend:{index}": "ECC" for index in (0, 2)}
    placement = place(on, Request(DeviceKind.ASCEND, 2, withheld=barred))
    assert bundles_of(placement, 8) == (
        {"CPU": 4, "NPU": 1, "muster_ascend_1": 1},
        {"CPU": 4, "NPU": 1, "muster_ascend_3": 1},
    )


def test_gpus_go_by_the_name_that_ray_has_for_them() -> None:
    """GPU is the count, and each has a name of ours."""
    on = node(DeviceKind.GPU, 1, cpus=1)
    assert resources_of(on) == {"CPU": 1, "GPU": 1, "muster_gpu_0": 1}
    placement = place(on, Request(DeviceKind.GPU, 1))
    assert bundles_of(placement, 1) == ({"CPU": 1, "GPU": 1, "muster_gpu_0": 1},)


@pytest.mark.parametrize("kind", HARDWARE)
def test_rehearsal_devices_are_never_taken_for_hardware(kind: DeviceKind) -> None:
    """Neither Ray's name nor that of a real device is offered or asked for."""
    on = node(kind, 2)
    placement = place(on, Request(kind, 2))
    names = set(resources_of(on, simulated=True))
    assert names == {"CPU", f"muster_simulated_{kind.value}_0", f"muster_simulated_{kind.value}_1"}
    assert set().union(*bundles_of(placement, 8, simulated=True)) == names


def test_cpu_ranks_share_whole_cpus() -> None:
    """Ray counts whole CPUs, ranks may be more: 8 ranks on a quota of 1.5 have a quarter each."""
    on = node(DeviceKind.CPU, 0, cpus=4, quota=1.5)
    offered = resources_of(on)
    assert offered == {"CPU": 2}
    placement = place(on, Request(DeviceKind.CPU, 8))
    assert bundles_of(placement, offered["CPU"]) == ({"CPU": 0.25},) * 8


@st.composite
def cases(draw: st.DrawFn) -> tuple[Node, Request, bool]:
    """A node of any kind, and a request for some of what it has."""
    kind = draw(st.sampled_from(DeviceKind))
    quota = draw(st.none() | st.floats(0.1, 64))
    on = node(kind, draw(st.integers(0, 16)), cpus=draw(st.integers(1, 40)), quota=quota)
    withheld = draw(st.sets(st.integers(0, 15)))
    request = Request(
        kind,
        draw(st.integers(1, 50)),
        withheld={f"n/{kind.value}:{index}": "barred" for index in withheld},
    )
    return on, request, draw(st.booleans())


@given(cases(), st.randoms(use_true_random=False))
def test_what_is_asked_is_there_and_says_which_devices(
    case: tuple[Node, Request, bool], shuffler: random.Random
) -> None:
    """One bundle a rank, in rank order; never beyond the resources; equal for equal placements."""
    on, request, simulated = case
    offered = resources_of(on, request.withheld, simulated=simulated)
    placement = allocate(Inventory((on,)), request)
    if isinstance(placement, Refusal):
        return
    bundles = bundles_of(placement, offered["CPU"], simulated=simulated)
    assert len(bundles) == request.ranks
    assert lacking(bundles, offered) == ""
    assert widened(offered, bundles) == offered
    if not request.kind.is_slot:
        for bundle, assignment in zip(bundles, placement.assignments, strict=True):
            ours = [name for name in bundle if name.startswith("muster")]
            assert [int(name.rpartition("_")[2]) for name in ours] == [assignment.device.index]
    mixed = list(on.devices)
    shuffler.shuffle(mixed)
    again = place(replace(on, devices=tuple(mixed)), request)
    assert bundles_of(again, offered["CPU"], simulated=simulated) == bundles
    assert resources_of(replace(on, devices=tuple(mixed)), request.withheld, simulated=simulated)


def test_equal_numbers_of_other_devices_are_another_reservation() -> None:
    """Bundles on the same number of devices differ when the devices do."""
    on = node(DeviceKind.ASCEND, 2)
    first, second = (
        bundles_of(place(on, Request(DeviceKind.ASCEND, 1, withheld={f"n/ascend:{out}": ""})), 8)
        for out in (0, 1)
    )
    assert first != second


def test_what_does_not_fit_is_said_in_numbers() -> None:
    """Every resource that is short is named, with what is asked and what there is."""
    said = lacking(
        [{"CPU": 0.7, "NPU": 1}, {"CPU": 0.7, "muster_ascend_9": 1}], {"CPU": 1, "NPU": 4}
    )
    assert said == "1.4 CPU (there is 1), 1 muster_ascend_9 (there is 0)"


@given(st.integers(1, 300), st.integers(1, 300))
def test_shares_of_cpus_fit_in_rays_own_counting(ranks: int, cpus: int) -> None:
    """However a whole number of CPUs is divided, rounding never asks for more of them."""
    placement = place(node(DeviceKind.CPU, 0), Request(DeviceKind.CPU, ranks))
    bundles = bundles_of(placement, cpus)
    assert sum(round(bundle["CPU"] * 10_000) for bundle in bundles) <= cpus * 10_000
    assert lacking(bundles, {"CPU": cpus}) == ""


def test_a_device_that_became_well_is_added_to_the_resources() -> None:
    """Only what was never offered is added, the count with it; CPUs stay what they were."""
    before = {"CPU": 2.0, "NPU": 1.0, "muster_ascend_0": 1.0}
    bundles = [
        {"CPU": 1.0, "NPU": 1.0, "muster_ascend_0": 1.0},
        {"CPU": 1.0, "NPU": 1.0, "muster_ascend_1": 1.0},
    ]
    after = widened(before, bundles)
    assert after == {"CPU": 2, "NPU": 2, "muster_ascend_0": 1, "muster_ascend_1": 1}
    assert lacking(bundles, after) == ""


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), max_size=12))
def test_what_a_book_promises_to_all_fits_into_what_it_offers(
    orders: list[tuple[str, int]],
) -> None:
    """Whatever jobs come and go, in any order, their bundles together are never too much."""
    on = node(DeviceKind.CPU, 0, cpus=3)
    book = Book(resources_of(on))
    for job, ranks in orders:
        if ranks:
            book.take(job, place(on, Request(DeviceKind.CPU, ranks)))
        else:
            book.release(job)
        held = [bundle for bundles in book.held.values() for bundle in bundles]
        assert lacking(held, book.resources) == ""


def test_who_comes_late_has_the_cpus_that_are_left() -> None:
    """Nobody is refused for CPUs by our own jobs; with none left only devices are held."""
    on = node(DeviceKind.ASCEND, 2, cpus=4)
    book = Book(resources_of(on))
    first = place(on, Request(DeviceKind.ASCEND, 1, withheld={"n/ascend:1": "taken"}))
    second = place(on, Request(DeviceKind.ASCEND, 1, withheld={"n/ascend:0": "taken"}))
    assert book.take("first", first) == ({"CPU": 4, "NPU": 1, "muster_ascend_0": 1},)
    assert book.take("second", second) == ({"NPU": 1, "muster_ascend_1": 1},)
    assert book.take("third", place(on, Request(DeviceKind.CPU, 8))) == ()
    book.release("first")
    assert book.take("second", second) == ({"CPU": 4, "NPU": 1, "muster_ascend_1": 1},)


def test_a_book_offers_a_device_that_is_asked_for_though_it_was_withheld() -> None:
    """It is well again: the Ray after this one has it."""
    on = node(DeviceKind.GPU, 2)
    book = Book(resources_of(on, {"n/gpu:1": "Xid"}))
    book.take("job", place(on, Request(DeviceKind.GPU, 2)))
    assert book.resources == resources_of(on)


def test_a_ray_of_others_is_asked_by_count() -> None:
    """It knows neither our names nor rehearsal devices, of which nothing is left to ask for."""
    assert by_count([{"CPU": 1, "NPU": 1, "muster_ascend_3": 1}]) == [{"CPU": 1, "NPU": 1}]
    assert by_count([{"muster_simulated_ascend_3": 1}]) == []


@pytest.mark.parametrize(
    ("devices", "refused"), [(0, False), (1, True), (7, True), (8, False), (9, False)]
)
def test_a_part_of_a_node_is_not_to_be_had_of_a_ray_of_others(devices: int, refused: bool) -> None:
    """It would not say which devices; more than there are is for it to refuse."""
    bundles = [{"CPU": 0.5, "NPU": 1.0}] * devices or [{"CPU": 1.0}]
    why = part_of_node(bundles, {"CPU": 8, "NPU": 8})
    assert bool(why) is refused
    assert not refused or f"all 8 NPU of this node or none, not {devices}" in why
