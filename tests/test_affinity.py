"""CPU sets for the ranks of one node, on generated machines and on real ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.affinity import LEAST_CORES, MANY_CORES, Bind, Binding, BindingImpossible, bind
from cluster.cpu import NumaNode, format_cpu_list
from tests.topologies import CONTAINER_V1, CONTAINER_V2, KUNPENG_8P, LAPTOP, X86_8GPU, Machine


@dataclass(frozen=True)
class Topology:
    """A generated node: NUMA nodes of cores of one or two threads."""

    cpus: tuple[int, ...]
    cores: tuple[tuple[int, ...], ...]
    numa: tuple[NumaNode, ...]


def regular(nodes: int, cores: int, threads: int) -> Topology:
    """`nodes` x `cores` x `threads`, sibling threads numbered after all first threads."""
    total = nodes * cores
    made = tuple(tuple(c + t * total for t in range(threads)) for c in range(total))
    numa = tuple(
        NumaNode(n, tuple(sorted(c for core in made[n * cores : (n + 1) * cores] for c in core)))
        for n in range(nodes)
    )
    return Topology(tuple(range(total * threads)), made, numa)


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Any node, with some CPUs masked away."""
    whole = regular(draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 2)))
    kept = draw(st.sets(st.sampled_from(whole.cpus), min_size=1))
    return Topology(
        tuple(c for c in whole.cpus if c in kept),
        tuple(t for core in whole.cores if (t := tuple(c for c in core if c in kept))),
        tuple(
            NumaNode(n.index, t) for n in whole.numa if (t := tuple(c for c in n.cpus if c in kept))
        ),
    )


@given(
    topologies(),
    st.integers(1, 40),
    st.sampled_from(Bind),
    st.none() | st.floats(0.1, 99),
    st.data(),
)
def test_sets_are_legal_for_any_machine(
    machine: Topology, ranks: int, mode: Bind, quota: float | None, data: st.DataObject
) -> None:
    """Sets are subsets, alike in size, disjoint unless said, and threads fit set and quota."""
    near = data.draw(st.lists(st.none() | st.integers(0, 4), max_size=ranks))
    got = bind(
        machine.cpus,
        ranks,
        numa=machine.numa,
        siblings=machine.cores,
        mode=mode,
        quota=quota,
        near=near,
    )
    assert len(got.sets) == ranks
    assert len(got.memory) == ranks
    sizes = [cores_in(machine, s) if ranks <= len(machine.cores) else len(s) for s in got.sets]
    if mode is not Bind.BLOCKS:
        assert max(sizes) - min(sizes) <= 1
    used = Counter(c for s in got.sets for c in s)
    assert set(used) <= set(machine.cpus)
    assert got.shared == (max(used.values()) > 1)
    assert 1 <= got.threads <= min(map(len, got.sets))
    assert set(used) | set(got.reserved) == set(machine.cpus)
    assert not set(used) & set(got.reserved)
    if quota is not None:
        assert got.threads == 1 or got.threads * ranks <= quota
    if mode is not Bind.NONE and got.shared:
        assert len(machine.cpus) < ranks
        assert max(used.values()) - min(used.values()) <= 1
        assert got.note.endswith(".")


@given(topologies(), st.integers(1, 12), st.integers(1, 12), st.sampled_from(Bind))
def test_a_requested_size_is_met_or_refused(
    machine: Topology, ranks: int, size: int, mode: Bind
) -> None:
    """cpus_per_rank is given exactly and disjointly when there are enough, else refused."""
    call = dict(cpus_per_rank=size, numa=machine.numa, siblings=machine.cores, mode=mode)
    if ranks * size > len(machine.cpus):
        with pytest.raises(BindingImpossible, match=f"need {ranks * size} CPUs"):
            bind(machine.cpus, ranks, **call)  # type: ignore[arg-type]
        return
    got = bind(machine.cpus, ranks, **call)  # type: ignore[arg-type]
    assert got.threads == size
    if mode is not Bind.NONE:
        assert [len(s) for s in got.sets] == [size] * ranks
        assert len({c for s in got.sets for c in s}) == ranks * size


@given(topologies(), st.integers(1, 24), st.data())
def test_whole_cores_while_there_are_enough(
    machine: Topology, ranks: int, data: st.DataObject
) -> None:
    """Siblings stay together while there is a core for each rank, wherever the devices are."""
    near = data.draw(st.lists(st.none() | st.integers(0, 4), max_size=ranks))
    got = bind(machine.cpus, ranks, numa=machine.numa, siblings=machine.cores, near=near)
    if ranks <= len(machine.cores):
        for core in machine.cores:
            assert sum(bool(set(core) & set(s)) for s in got.sets) <= 1


@given(topologies(), st.integers(1, 24))
def test_blocks_are_runs_by_number(machine: Topology, ranks: int) -> None:
    """One after the other the sets are the allowed CPUs, and sizes differ by at most one."""
    if ranks > len(machine.cpus):
        return
    got = bind(
        machine.cpus, ranks, numa=machine.numa, siblings=machine.cores, mode=Bind.BLOCKS, near=[1]
    )
    assert tuple(cpu for s in got.sets for cpu in s) == machine.cpus
    sizes = [len(s) for s in got.sets]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1


@given(topologies(), st.integers(1, 24), st.data())
def test_a_rank_has_all_that_it_can_have_near(
    machine: Topology, ranks: int, data: st.DataObject
) -> None:
    """No rank has a core elsewhere while one is free, or a stranger's, on its device's node."""
    near = data.draw(st.lists(st.integers(0, 4), min_size=ranks, max_size=ranks))
    got = bind(machine.cpus, ranks, numa=machine.numa, siblings=machine.cores, near=near)
    if ranks > len(machine.cores):
        return
    cpus_of = {node.index: set(node.cpus) for node in machine.numa}
    least = min(cores_in(machine, s) for s in got.sets)
    for wish, mine in zip(near, got.sets, strict=True):
        home = cpus_of.get(wish, set())
        strangers = [
            other
            for other_wish, other in zip(near, got.sets, strict=True)
            if other_wish in cpus_of and other_wish != wish and set(other) & home
        ]
        elsewhere = cores_in(machine, set(mine) - home)
        if home and elsewhere and cores_in(machine, set(mine) & home) < least:
            assert not strangers


def cores_in(machine: Topology, cpus: object) -> int:
    """How many physical cores a set touches."""
    return sum(not set(core).isdisjoint(cpus) for core in machine.cores)  # type: ignore[call-overload]


@given(st.integers(1, 4), st.integers(1, 24), st.integers(1, 2), st.integers(1, 12))
def test_two_cores_stay_free_only_where_there_are_many(
    nodes: int, cores: int, threads: int, ranks: int
) -> None:
    """Whole cores, none below the threshold, and no rank is left with few for them."""
    machine = regular(nodes, cores, threads)
    got = bind(machine.cpus, ranks, numa=machine.numa, siblings=machine.cores)
    if not got.reserved:
        assert len(machine.cores) < MANY_CORES or (len(machine.cores) - 2) // ranks < LEAST_CORES
        return
    assert len(machine.cores) >= MANY_CORES
    assert cores_in(machine, got.reserved) == 2 and len(got.reserved) == 2 * threads
    assert min(cores_in(machine, s) for s in got.sets) >= LEAST_CORES


def test_a_requested_size_goes_before_interrupts() -> None:
    """All 32 CPUs asked for are given; with some to spare the first two cores are left alone."""
    assert bind(range(32), 4, cpus_per_rank=8).reserved == ()
    got = bind(range(32), 4, cpus_per_rank=7)
    assert got.reserved == (0, 1)
    assert got.sets[0] == tuple(range(2, 9))
    assert bind(range(32), 4, cpus_per_rank=7, mode=Bind.BLOCKS).sets[0] == tuple(range(7))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2))
def test_ranks_that_divide_evenly_stay_on_one_numa_node(
    nodes: int, per_node: int, each: int, threads: int
) -> None:
    """Every rank gets whole cores of one node, neighbours side by side, and all CPUs are used."""
    machine = regular(nodes, per_node * each, threads)
    got = bind(machine.cpus, nodes * per_node, numa=machine.numa, siblings=machine.cores)
    assert sum(len(s) for s in got.sets) == len(machine.cpus)
    homes = [[n.index for n in machine.numa if set(s) <= set(n.cpus)] for s in got.sets]
    assert homes == sorted([n] for n in range(nodes) for _ in range(per_node))
    assert got.note == ""


def test_ranks_follow_their_devices_numa_node() -> None:
    """A rank is bound beside its device, whatever its place in the order."""
    machine = regular(2, 4, 1)
    got = bind(machine.cpus, 4, numa=machine.numa, siblings=machine.cores, near=[1, 0, 1, 0])
    assert got.sets == ((4, 5), (0, 1), (6, 7), (2, 3))


def test_a_full_numa_node_overflows_to_the_other() -> None:
    """When all devices sit on one node, half of the ranks are bound on the other."""
    machine = regular(2, 2, 1)
    got = bind(machine.cpus, 4, numa=machine.numa, siblings=machine.cores, near=[0, 0, 0, 0])
    assert got.sets == ((0,), (1,), (2,), (3,))


def test_a_rank_across_nodes_is_mentioned() -> None:
    """Cores left over on two nodes make up the last rank, and the note says so."""
    machine = regular(2, 3, 1)
    got = bind(machine.cpus, 3, numa=machine.numa, siblings=machine.cores)
    assert got.sets[2] == (2, 5)
    assert "more than one NUMA node" in got.note


def test_eight_ranks_on_two_cpus_take_turns() -> None:
    """The rehearsal: eight ranks, two CPUs, four ranks on each, one thread."""
    got = bind((0, 1), 8)
    assert got.sets == ((0,), (1,)) * 4
    assert (got.threads, got.shared) == (1, True)
    assert got.note == "8 ranks share 2 CPUs: up to 4 ranks on one CPU, one thread each."


def test_siblings_are_used_last() -> None:
    """With more ranks than cores, as few of them as can be share one."""
    machine = regular(1, 4, 2)
    got = bind(machine.cpus, 5, numa=machine.numa, siblings=machine.cores)
    assert got.sets == ((0, 4), (1, 5), (2, 6), (3,), (7,))
    assert got.threads == 1
    assert "2 ranks have physical cores" in got.note


def test_what_does_not_divide_is_shared_out() -> None:
    """Seven CPUs for two ranks: one has more, and both compute with as many threads."""
    got = bind(range(7), 2)
    assert got.sets == ((0, 1, 2, 3), (4, 5, 6))
    assert got.threads == 3
    assert got.note == (
        "1 rank has more CPUs than the others, for data loading: all compute with 3 threads."
    )


def test_a_crowd_on_one_node_shares_what_is_near() -> None:
    """Both devices on node 0: each rank has two cores there, and two next door."""
    machine = regular(3, 4, 1)
    got = bind(machine.cpus[:8], 2, numa=machine.numa[:2], siblings=machine.cores, near=[0, 0])
    assert got.sets == ((0, 1, 4, 5), (2, 3, 6, 7))
    assert "2 ranks have CPUs on more than one NUMA node" in got.note


def test_the_nearest_neighbour_is_the_one_the_kernel_names() -> None:
    """By the kernel's distances, or else on the same socket, whatever the numbers."""
    cores = [NumaNode(n, (2 * n, 2 * n + 1), socket=n % 2) for n in range(4)]
    assert bind(range(8), 2, numa=cores, near=[0, 0]).sets == ((0, 2, 4, 6), (1, 3, 5, 7))
    assert bind(range(8), 1, cpus_per_rank=4, numa=cores, near=[0]).sets == ((0, 1, 4, 5),)
    far = tuple((n, 10 + 10 * abs(n - 3)) for n in range(4))
    cores[0] = replace(cores[0], distances=far)
    assert bind(range(8), 1, cpus_per_rank=4, numa=cores, near=[0]).sets == ((0, 1, 6, 7),)


def test_sets_are_in_order_also_where_a_core_was_begun() -> None:
    """Of five CPUs on cores of two the last core is half used; the set ascends all the same."""
    cores = [(n, n + 4) for n in range(4)]
    assert bind(range(8), 1, cpus_per_rank=5, siblings=cores).sets == ((0, 1, 2, 4, 5),)


def test_notes_count_in_words_that_fit_one() -> None:
    """A quota of one core allows one thread, not one threads."""
    assert "quota of 1 core allows 1 thread a rank" in bind(range(4), 1, quota=1).note


def test_memory_comes_from_where_the_cores_are() -> None:
    """From the set's nodes that have memory; from anywhere if that is all or not known."""
    nodes = [NumaNode(n, (2 * n, 2 * n + 1), memory=n != 1) for n in range(3)]

    def memory(numa: list[NumaNode], **options: object) -> tuple[tuple[int, ...], ...]:
        return bind(range(6), 3, numa=numa, **options).memory  # type: ignore[arg-type]

    assert memory(nodes) == ((0,), (), (2,))
    assert memory(nodes, mode=Bind.BLOCKS) == memory(nodes, mode=Bind.NONE) == ((), (), ())
    assert bind(range(6), 1, numa=nodes).memory == ((),)
    assert memory([*nodes[:2], replace(nodes[2], memory=None)]) == ((), (), ())
    assert memory([replace(node, memory=node.index == 0) for node in nodes]) == ((), (), ())


# -- real machines -------------------------------------------------------------------------------


def bound(machine: Machine, root: Path, ranks: int, mode: Bind) -> Binding:
    """Ranks on a machine that is measured from its files."""
    cpus = machine.measured(root)
    assert cpus.unmeasured == ()
    return bind(
        cpus.cpus, ranks, numa=cpus.numa, siblings=cpus.cores, mode=mode, quota=cpus.quota,
        near=machine.near,
    )  # fmt: skip


def short(got: Binding) -> list[str]:
    """The sets as the kernel writes them."""
    return [format_cpu_list(held) for held in got.sets]


BLOCKS_OF_192 = [f"{24 * rank}-{24 * rank + 23}" for rank in range(8)]


def test_kunpeng_with_eight_npus(tmp_path: Path) -> None:
    """Two NPUs share an even node and the odd one beside it; each socket leaves a core."""
    got = bound(KUNPENG_8P, tmp_path, 8, Bind.NUMA)
    assert short(got) == [
        "144-155,168-179", "156-167,180-191",
        "97-108,120-131", "109-119,132-143",
        "1-12,24-35", "13-23,36-47",
        "48-59,72-83", "60-71,84-95",
    ]  # fmt: skip
    assert got.reserved == (0, 96)
    assert got.threads == 23
    assert got.memory == ((6, 7),) * 2 + ((4, 5),) * 2 + ((0, 1),) * 2 + ((2, 3),) * 2


def test_kunpeng_in_blocks_is_what_the_original_script_does(tmp_path: Path) -> None:
    """24 CPUs a rank by number, wherever its NPU is."""
    got = bound(KUNPENG_8P, tmp_path, 8, Bind.BLOCKS)
    assert short(got) == BLOCKS_OF_192
    assert (got.threads, got.reserved, got.memory) == (24, (), ((),) * 8)


def test_x86_with_smt_and_eight_gpus(tmp_path: Path) -> None:
    """Four ranks a socket, both threads of every core, memory of that socket alone."""
    got = bound(X86_8GPU, tmp_path, 8, Bind.NUMA)
    assert short(got) == [
        "1-12,97-108", "13-24,109-120", "25-36,121-132", "37-47,133-143",
        "49-60,145-156", "61-72,157-168", "73-84,169-180", "85-95,181-191",
    ]  # fmt: skip
    assert got.reserved == (0, 48, 96, 144)
    assert got.threads == 22
    assert got.memory == ((0,),) * 4 + ((1,),) * 4


def test_x86_in_blocks_has_ranks_on_one_core(tmp_path: Path) -> None:
    """By number ranks 0 and 4 get the two threads of the same cores, and the note says so."""
    got = bound(X86_8GPU, tmp_path, 8, Bind.BLOCKS)
    assert short(got) == BLOCKS_OF_192
    assert got.note == "8 ranks have physical cores (SMT) in common with others."


@pytest.mark.parametrize("mode", [Bind.NUMA, Bind.BLOCKS])
def test_a_laptop_of_two_cores(tmp_path: Path, mode: Bind) -> None:
    """A core each for two ranks; eight take turns, four on a core."""
    two = bound(LAPTOP, tmp_path, 2, mode)
    assert (short(two), two.threads, two.note, two.memory) == (["0", "1"], 1, "", ((), ()))
    eight = bound(LAPTOP, tmp_path, 8, mode)
    assert short(eight) == ["0", "1"] * 4
    assert "8 ranks share 2 CPUs" in eight.note


@pytest.mark.parametrize("machine", [CONTAINER_V1, CONTAINER_V2], ids=["v1", "v2"])
@pytest.mark.parametrize("mode", [Bind.NUMA, Bind.BLOCKS])
def test_a_container_of_six_cores(tmp_path: Path, machine: Machine, mode: Bind) -> None:
    """Of the big machine only the cpuset counts; its quota caps threads, not cores."""
    four = bound(machine, tmp_path, 4, mode)
    assert (short(four), four.threads) == (["8-9", "10-11", "12", "13"], 1)
    two = bound(machine, tmp_path, 2, mode)
    assert (short(two), two.threads) == (["8-10", "11-13"], 2)
    assert "quota of 4.5 cores" in two.note
    eight = bound(machine, tmp_path, 8, mode)
    assert short(eight) == ["8", "9", "10", "11", "12", "13", "8", "9"]


def test_a_quota_caps_threads_not_cpus() -> None:
    """Two ranks on eight CPUs under a quota of three cores run one thread each."""
    got = bind(range(8), 2, quota=3.0)
    assert [len(s) for s in got.sets] == [4, 4]
    assert got.threads == 1
    assert "quota of 3 cores" in got.note


def test_unbound_ranks_may_run_anywhere() -> None:
    """`none` gives every rank every CPU but only its share of threads."""
    got = bind(range(8), 2, mode=Bind.NONE)
    assert got.sets == (tuple(range(8)),) * 2
    assert (got.threads, got.shared) == (4, True)


@pytest.mark.parametrize(("cpus", "ranks"), [((), 1), ((0,), 0)])
def test_nothing_to_bind_is_an_error(cpus: tuple[int, ...], ranks: int) -> None:
    """No CPU or no rank raises ValueError."""
    with pytest.raises(ValueError, match="cannot bind"):
        bind(cpus, ranks)
