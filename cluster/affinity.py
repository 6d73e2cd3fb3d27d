"""Which CPUs each rank of a node is bound to. A pure function of the node's topology.

`numa`, the usual way, hands out whole physical cores with all their SMT siblings, nearest to the
rank's device first (`core_shares`), and takes memory from the NUMA nodes that a set lies on.
`blocks` is what launch scripts do: equal runs of the allowed CPUs by number, whatever they are.

All that may be used is used. What does not divide evenly goes to some ranks as one core more, but
all have the same number of threads (`OMP_NUM_THREADS`): the slowest rank of a gang sets the pace,
and a resumed run gives the same bits only with the same threads. The core more serves what runs
beside them, data loading above all. Two cores stay free where there are many (`for_interrupts`).
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cluster.core_shares import share_out
from cluster.cpu_topology import NumaNode
from cluster.kernel_text import format_cpu_list

Cpus = tuple[int, ...]
_Core = tuple[int, ...]

MANY_CORES = 32
"""From here on two cores for interrupts are a sixteenth or less of what there is."""
LEAST_CORES = 5
"""Cores that a rank must keep when two are left out (what vLLM on Ascend asks for an NPU)."""
FOR_INTERRUPTS = 2

_SAME, _SAME_SOCKET, _OTHER_SOCKET, _UNKNOWN = 10, 15, 20, 255
"""Distances where the kernel tells none; 255 is its own word for unreachable."""


class Bind(enum.Enum):
    """How ranks are bound; the values are the words of `launch.bind` in a job file."""

    NUMA = "numa"
    BLOCKS = "blocks"
    NONE = "none"


class BindingImpossible(ValueError):
    """The CPUs asked for each rank are more than there are."""


@dataclass(frozen=True)
class Binding:
    """CPU sets by local rank, and threads per rank (`OMP_NUM_THREADS`, at least 1).

    `shared` is True when two ranks may run on the same CPU; `note` says in sentences what a
    reader would not expect, or is empty. `memory` has the NUMA nodes that each rank's memory is
    to come from, none where it need not be bound; `reserved` are CPUs left for interrupts.
    """

    sets: tuple[Cpus, ...]
    threads: int
    shared: bool
    note: str
    memory: tuple[tuple[int, ...], ...] = ()
    reserved: Cpus = ()


def bind(
    cpus: Sequence[int],
    ranks: int,
    *,
    cpus_per_rank: int | None = None,
    numa: Sequence[NumaNode] = (),
    siblings: Sequence[Cpus] = (),
    mode: Bind = Bind.NUMA,
    quota: float | None = None,
    near: Sequence[int | None] = (),
) -> Binding:
    """Give each of `ranks` local ranks a CPU set.

    `siblings` are physical cores (CPUs listed nowhere stand alone), `quota` is in cores
    for all ranks together and caps their threads, `near` is the NUMA node wanted by each
    rank (that of its device). Raises BindingImpossible when `cpus_per_rank` cannot be
    had by every rank without sharing, ValueError when `cpus` or `ranks` is empty.
    """
    pool = tuple(sorted(set(cpus)))
    if not pool or ranks < 1:
        raise ValueError(f"cannot bind {ranks} ranks to {len(pool)} CPUs")
    _check_size(pool, ranks, cpus_per_rank)
    nothing: tuple[tuple[int, ...], ...] = ((),) * ranks
    if mode is Bind.NONE:
        size = cpus_per_rank or len(pool) // ranks
        threads = _threads(size, pool, ranks, quota)
        return Binding((pool,) * ranks, threads, ranks > 1, "", nothing)
    cores = cores_of(pool, siblings)
    if ranks > len(pool):
        return _share(cores, ranks)
    left: Cpus = ()
    if mode is Bind.BLOCKS:
        sets = _blocks(pool, ranks, cpus_per_rank)
    else:
        left = for_interrupts(cores, ranks, numa, cpus_per_rank)
        wanted = [*near[:ranks], *[None] * (ranks - len(near))]
        sets = _near_sets([c for c in cores if c[0] not in left], numa, wanted, cpus_per_rank)
    threads = _threads(min(map(len, sets)), pool, ranks, quota)
    memory = _memory(sets, numa) if mode is Bind.NUMA else nothing
    note = _note(sets, threads, left, cores, numa if mode is Bind.NUMA else (), quota)
    return Binding(sets, threads, False, note, memory, left)


def for_interrupts(
    cores: Sequence[_Core],
    ranks: int,
    numa: Sequence[NumaNode],
    cpus_per_rank: int | None = None,
) -> Cpus:
    """CPUs of the two cores that no rank gets, so that interrupts and daemons have a place.

    The first core of each of two sockets, or the first two: there the kernel puts what nobody
    steers (steering interrupts needs root, so muster does not). Only where that costs little:
    of MANY_CORES cores or more, with at least LEAST_CORES left a rank; `cpus_per_rank` goes first.
    """
    if len(cores) < max(MANY_CORES, FOR_INTERRUPTS + LEAST_CORES * ranks):
        return ()
    socket = {cpu: node.socket for node in numa for cpu in node.cpus}
    first: dict[int | None, _Core] = {}
    for core in cores:
        first.setdefault(socket.get(core[0]), core)
    chosen = [*dict.fromkeys((*first.values(), *cores))][:FOR_INTERRUPTS]
    held = tuple(sorted(cpu for core in chosen for cpu in core))
    left = sum(map(len, cores)) - len(held)
    return held if cpus_per_rank is None or cpus_per_rank * ranks <= left else ()


def _check_size(pool: Cpus, ranks: int, asked: int | None) -> None:
    if asked is not None and (asked < 1 or asked * ranks > len(pool)):
        raise BindingImpossible(
            f"{ranks} ranks with cpus_per_rank {asked} need {ranks * asked} CPUs, "
            f"but {len(pool)} may be used"
        )


def _threads(size: int, pool: Cpus, ranks: int, quota: float | None) -> int:
    fair = len(pool) if quota is None else min(float(len(pool)), quota)
    return max(1, math.floor(min(size, fair / ranks)))


def cores_of(pool: Cpus, siblings: Sequence[Cpus]) -> tuple[_Core, ...]:
    """Physical cores cut to `pool`, by their first CPU."""
    left = dict.fromkeys(pool)
    cores: list[_Core] = []
    for core in (*siblings, *((cpu,) for cpu in pool)):
        held = tuple(sorted({cpu for cpu in core if cpu in left}))
        for cpu in held:
            del left[cpu]
        if held:
            cores.append(held)
    return tuple(sorted(cores))


def _blocks(pool: Cpus, ranks: int, asked: int | None) -> tuple[Cpus, ...]:
    """Runs of CPUs by number, the first ones longer by one where they do not divide evenly."""
    size, over = (len(pool) // ranks, len(pool) % ranks) if asked is None else (asked, 0)
    ends = [size * rank + min(rank, over) for rank in range(ranks + 1)]
    return tuple(pool[start:end] for start, end in pairwise(ends))


def _near_sets(
    cores: Sequence[_Core],
    numa: Sequence[NumaNode],
    wanted: Sequence[int | None],
    asked: int | None,
) -> tuple[Cpus, ...]:
    """Disjoint sets of whole cores, or of single CPUs where there are not enough cores."""
    width = max(map(len, cores))
    full = [core for core in cores if len(core) == width]
    each = len(cores) // len(wanted)
    if asked is not None:
        each = -(-asked // width)
        cores = full if each * len(wanted) <= len(full) else _single(cores)
        each = each if cores is full else asked
    elif not each:
        cores = _single(cores)
        each = len(cores) // len(wanted)
    homes = _homes(cores, numa)
    numbers = {home: len(held) for home, held in homes.items()}
    shares = share_out(numbers, wanted, each, _distance(numa), remainder=asked is None)
    sets = _cut(homes, shares)
    # Of a core that was begun, the threads that nobody asked for stay idle.
    return sets if asked is None else tuple(map(_first(asked, cores), sets))


def _single(cores: Iterable[_Core]) -> list[_Core]:
    """Each CPU for itself, siblings side by side."""
    return [(cpu,) for core in cores for cpu in core]


def _first(asked: int, cores: Iterable[_Core]) -> Callable[[Cpus], Cpus]:
    """Cuts a set to so many CPUs, core by core."""
    place = {cpu: number for number, (cpu,) in enumerate(_single(cores))}
    return lambda held: tuple(sorted(sorted(held, key=place.__getitem__)[:asked]))


def _homes(cores: Sequence[_Core], numa: Sequence[NumaNode]) -> dict[int, list[_Core]]:
    """Cores by NUMA node; those that no node lists form a home of their own, -1."""
    node_of = {cpu: node.index for node in numa for cpu in node.cpus}
    homes: dict[int, list[_Core]] = {}
    for core in cores:
        homes.setdefault(node_of.get(core[0], -1), []).append(core)
    return homes


def _distance(numa: Sequence[NumaNode]) -> Callable[[int, int], int]:
    """The kernel's distances; where it tells none, the same socket is nearer than another."""
    nodes = {node.index: node for node in numa}
    known = {(a, b): far for a, node in nodes.items() for b, far in node.distances}

    def between(a: int, b: int) -> int:
        if (a, b) in known:
            return known[a, b]
        if a == b:
            return _SAME
        if a not in nodes or b not in nodes:
            return _UNKNOWN
        mine = nodes[a].socket
        return _SAME_SOCKET if mine is not None and mine == nodes[b].socket else _OTHER_SOCKET

    return between


def _cut(homes: dict[int, list[_Core]], shares: Sequence[dict[int, int]]) -> tuple[Cpus, ...]:
    """The cores themselves: in each home, runs in the order of ranks."""
    taken = Counter[int]()
    sets = []
    for share in shares:
        held: list[int] = []
        for home, count in share.items():
            for core in homes[home][taken[home] : taken[home] + count]:
                held.extend(core)
            taken[home] += count
        sets.append(tuple(sorted(held)))
    return tuple(sets)


def _memory(sets: Sequence[Cpus], numa: Sequence[NumaNode]) -> tuple[tuple[int, ...], ...]:
    """Nodes that the memory of each set is bound to, as `numactl --membind` would do it.

    Those that the set lies on and that have memory; the kernel takes the one nearest to the thread
    first. Nothing is bound where that would be all of them, or where memory was not measured.
    """
    having = {node.index for node in numa if node.memory}
    if any(node.memory is None for node in numa) or len(having) < 2:
        return ((),) * len(sets)
    nodes = sorted((node.index, frozenset(node.cpus)) for node in numa if node.memory)
    found = (tuple(index for index, held in nodes if not held.isdisjoint(s)) for s in sets)
    return tuple(() if len(mine) == len(having) else mine for mine in found)


def _share(cores: Sequence[_Core], ranks: int) -> Binding:
    """Fewer CPUs than ranks: one CPU each, in turn, second threads of cores last."""
    ranked = sorted((place, cpu) for core in cores for place, cpu in enumerate(core))
    order = [cpu for _, cpu in ranked]
    most = -(-ranks // len(order))
    note = (
        f"{ranks} ranks share {_many(len(order), 'CPU')}: "
        f"up to {most} ranks on one CPU, one thread each."
    )
    sets = tuple((order[rank % len(order)],) for rank in range(ranks))
    return Binding(sets, 1, True, note, ((),) * ranks)


def _note(
    sets: Sequence[Cpus],
    threads: int,
    left: Cpus,
    cores: Sequence[_Core],
    numa: Sequence[NumaNode],
    quota: float | None,
) -> str:
    size, larger = min(map(len, sets)), sum(len(s) > min(map(len, sets)) for s in sets)
    spanning = sum(not any(set(node.cpus).issuperset(s) for node in numa) for s in sets)
    core_of = {cpu: core for core in cores for cpu in core}
    users = Counter(core for s in sets for core in {core_of[cpu] for cpu in s})
    split = sum(any(users[core_of[cpu]] > 1 for cpu in s) for s in sets)
    parts = []
    if threads < size and quota is not None:
        parts.append(
            f"A CPU quota of {_many(quota, 'core')} allows {_many(threads, 'thread')} a rank "
            f"on the {size} CPUs it is bound to."
        )
    if larger:
        parts.append(
            f"{_ranks_have(larger)} more CPUs than the others, for data loading: "
            f"all compute with {_many(threads, 'thread')}."
        )
    if spanning and numa:
        parts.append(f"{_ranks_have(spanning)} CPUs on more than one NUMA node.")
    if split:
        parts.append(f"{_ranks_have(split)} physical cores (SMT) in common with others.")
    if left:
        parts.append(f"CPUs {format_cpu_list(left)} are left for interrupts.")
    return " ".join(parts)


def _many(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _ranks_have(number: int) -> str:
    return f"{_many(number, 'rank')} {'has' if number == 1 else 'have'}"
