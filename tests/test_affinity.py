"""CPU sets for the ranks of one node."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.affinity import Bind, BindingImpossible, bind
from cluster.cpu import NumaNode


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
    """Sets are subsets, equal in size, disjoint unless said, and threads fit set and quota."""
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
    assert len({len(s) for s in got.sets}) == 1
    used = Counter(c for s in got.sets for c in s)
    assert set(used) <= set(machine.cpus)
    assert got.shared == (max(used.values()) > 1)
    assert 1 <= got.threads <= len(got.sets[0])
    if quota is not None:
        assert got.threads == 1 or got.threads * ranks <= quota
    if mode is not Bind.NONE and got.shared:
        assert len(machine.cpus) < ranks
        assert max(used.values()) - min(used.values()) <= 1
        assert set(used) == set(machine.cpus)
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


@given(topologies(), st.integers(1, 24))
def test_whole_cores_while_there_are_enough(machine: Topology, ranks: int) -> None:
    """No two ranks share a physical core while there is one for each."""
    got = bind(machine.cpus, ranks, numa=machine.numa, siblings=machine.cores, mode=Bind.CORES)
    if ranks <= len(machine.cores):
        for core in machine.cores:
            assert sum(bool(set(core) & set(s)) for s in got.sets) <= 1


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
    """With more ranks than cores, every core has a rank before a second thread is used."""
    machine = regular(1, 4, 2)
    got = bind(machine.cpus, 5, numa=machine.numa, siblings=machine.cores)
    assert got.sets == ((0,), (1,), (2,), (3,), (4,))


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
