"""Which CPUs each rank of a node is bound to. A pure function of the node's topology.

Whole physical cores come first, each rank inside one NUMA node where it fits, all ranks
with the same number of CPUs: in a gang the slowest rank sets the pace, so a larger share
for one of them is worth nothing. CPUs that do not divide evenly stay with the system.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.cpu import NumaNode

Cpus = tuple[int, ...]
_Core = tuple[int, ...]


class Bind(enum.Enum):
    """How ranks are bound; the values are the words of `launch.bind` in a job file."""

    NUMA = "numa"
    CORES = "cores"
    NONE = "none"


class BindingImpossible(ValueError):
    """The CPUs asked for each rank are more than there are."""


@dataclass(frozen=True)
class Binding:
    """CPU sets by local rank, and threads per rank (`OMP_NUM_THREADS`, at least 1).

    `shared` is True when two ranks may run on the same CPU; `note` is a sentence about
    what a reader would not expect, or empty.
    """

    sets: tuple[Cpus, ...]
    threads: int
    shared: bool
    note: str


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
    size = _cpus_each(pool, ranks, cpus_per_rank, _cores_of(pool, siblings))
    fair = len(pool) if quota is None else min(float(len(pool)), quota)
    threads = max(1, math.floor(min(size, fair / ranks)))
    if mode is Bind.NONE:
        return Binding((pool,) * ranks, threads, shared=ranks > 1, note="")
    if size == 0:
        return _share(pool, ranks, siblings)
    homes = _homes(pool, numa) if mode is Bind.NUMA else {0: frozenset(pool)}
    wanted = [*near[:ranks], *[None] * (ranks - len(near))]
    sets, spanning = _place(pool, size, siblings, homes, wanted)
    return Binding(sets, threads, shared=False, note=_note(size, threads, spanning, quota))


def _cpus_each(pool: Cpus, ranks: int, asked: int | None, cores: Sequence[_Core]) -> int:
    """CPUs per rank; 0 when there are fewer CPUs than ranks and none was asked for."""
    if asked is not None:
        if asked < 1 or asked * ranks > len(pool):
            raise BindingImpossible(
                f"{ranks} ranks with cpus_per_rank {asked} need {ranks * asked} CPUs, "
                f"but {len(pool)} may be used"
            )
        return asked
    even = len(pool) // ranks
    width = max(len(core) for core in cores)
    return even - even % width if even >= width else even


def _cores_of(pool: Cpus, siblings: Sequence[Cpus]) -> tuple[_Core, ...]:
    """Physical cores cut to `pool`, complete ones first: chunks of them then line up."""
    left = dict.fromkeys(pool)
    cores: list[_Core] = []
    for core in (*siblings, *((cpu,) for cpu in pool)):
        held = tuple(sorted({cpu for cpu in core if cpu in left}))
        for cpu in held:
            del left[cpu]
        if held:
            cores.append(held)
    return tuple(sorted(cores, key=lambda core: (-len(core), core)))


def _spread(cores: Iterable[_Core]) -> Cpus:
    """All CPUs, the first thread of every core before the second of any."""
    ranked = [(place, cpu) for core in cores for place, cpu in enumerate(core)]
    return tuple(cpu for _, cpu in sorted(ranked))


def _homes(pool: Cpus, numa: Sequence[NumaNode]) -> dict[int, frozenset[int]]:
    """CPUs by NUMA node; those that no node lists form a home of their own."""
    homes: dict[int, frozenset[int]] = {}
    left = frozenset(pool)
    for node in sorted(numa, key=lambda n: n.index):
        homes[node.index] = homes.get(node.index, frozenset()) | (left & frozenset(node.cpus))
        left -= homes[node.index]
    if left:
        homes[-1] = left
    return {index: held for index, held in homes.items() if held}


def _place(
    pool: Cpus,
    size: int,
    siblings: Sequence[Cpus],
    homes: dict[int, frozenset[int]],
    wanted: Sequence[int | None],
) -> tuple[tuple[Cpus, ...], int]:
    """Disjoint sets of `size` CPUs, and how many of them lie on more than one NUMA node."""
    by_home = {index: _cores_of(tuple(sorted(held)), siblings) for index, held in homes.items()}
    filled = _fill({i: list(cores) for i, cores in by_home.items()}, size, wanted)
    if filled is None:
        order = _spread if size == 1 else _in_turn
        single: dict[int, list[_Core]] = {
            i: [(cpu,) for cpu in order(cores)] for i, cores in by_home.items()
        }
        filled = _fill(single, size, wanted)
    # Single CPUs always suffice: size * ranks is at most the number of CPUs.
    assert filled is not None, (pool, size, wanted)
    spanning = sum(not any(homes[i].issuperset(s) for i in homes) for s in filled)
    return filled, spanning


def _in_turn(cores: Iterable[_Core]) -> Cpus:
    return tuple(cpu for core in cores for cpu in core)


def _fill(
    free: dict[int, list[_Core]], size: int, wanted: Sequence[int | None]
) -> tuple[Cpus, ...] | None:
    """A set for each rank: on its wanted node, else on any one node, else across nodes."""
    sets: list[Cpus] = [()] * len(wanted)
    for rank, home in enumerate(wanted):
        if home is not None and home in free and _count(free[home]) >= size:
            sets[rank] = _take(free[home], size)
    waiting = [rank for rank, held in enumerate(sets) if not held]
    found: list[tuple[int, Cpus]] = []
    while len(found) < len(waiting):
        home = max(free, key=lambda index: (_count(free[index]), -index))
        if _count(free[home]) < size:
            break
        found.append((home, _take(free[home], size)))
    # Neighbouring ranks on one node: sorted by node before they are handed out.
    local = [held for _, held in sorted(found)]
    rest = [core for index in sorted(free) for core in free[index]]
    for rank in waiting:
        if not local and _count(rest) < size:
            return None
        sets[rank] = local.pop(0) if local else _take(rest, size)
    return tuple(sets)


def _count(cores: Iterable[_Core]) -> int:
    return sum(len(core) for core in cores)


def _take(cores: list[_Core], size: int) -> Cpus:
    """Take whole cores until `size` CPUs are there; what is over stays idle."""
    held: list[int] = []
    while len(held) < size:
        held.extend(cores.pop(0))
    return tuple(sorted(held[:size]))


def _share(pool: Cpus, ranks: int, siblings: Sequence[Cpus]) -> Binding:
    """Fewer CPUs than ranks: one CPU each, in turn."""
    order = _spread(_cores_of(pool, siblings))
    most = -(-ranks // len(order))
    note = (
        f"{ranks} ranks share {len(order)} CPU{'s' if len(order) > 1 else ''}: "
        f"up to {most} ranks on one CPU, one thread each."
    )
    sets = tuple((order[rank % len(order)],) for rank in range(ranks))
    return Binding(sets, threads=1, shared=True, note=note)


def _note(size: int, threads: int, spanning: int, quota: float | None) -> str:
    parts = []
    if threads < size and quota is not None:
        parts.append(
            f"A CPU quota of {quota:g} cores allows {threads} threads a rank "
            f"on the {size} CPUs it is bound to."
        )
    if spanning:
        parts.append(f"{spanning} ranks have CPUs on more than one NUMA node.")
    return " ".join(parts)
