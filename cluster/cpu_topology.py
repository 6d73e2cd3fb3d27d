"""How CPUs belong together: physical cores, NUMA nodes with their memory, sockets. From sysfs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cluster.kernel_text import format_cpu_list, parse_cpu_list, read

_Cpus = tuple[int, ...]

_NODE = re.compile(r"node[0-9]{1,6}")


@dataclass(frozen=True)
class NumaNode:
    """One NUMA node and those of its CPUs that may be used.

    `socket` is the package of its CPUs, None where that is unknown or they are on several.
    `memory` says whether the node has memory that this process may use; None: not measured.
    `distances` has the kernel's relative distances to nodes, 10 being the node itself.
    """

    index: int
    cpus: tuple[int, ...]
    socket: int | None = None
    memory: bool | None = None
    distances: tuple[tuple[int, int], ...] = ()


def numa_nodes(root: Path, cpus: _Cpus, pid: str, unmeasured: list[str]) -> tuple[NumaNode, ...]:
    """The NUMA nodes that hold `cpus`; CPUs that no node claims are put in the first."""
    listed = (root / "sys/devices/system/node").glob("node[0-9]*")
    folders = {int(path.name[4:]): path for path in listed if _NODE.fullmatch(path.name)}
    held = {number: _listed(path, cpus, unmeasured) for number, path in folders.items()}
    orphans = set(cpus) - {cpu for found in held.values() for cpu in found}
    if orphans:
        unmeasured.append(f"NUMA node of CPUs {format_cpu_list(orphans)}")
        first = min((n for n, found in held.items() if found), default=0)
        held[first] = tuple(sorted({*held.get(first, ()), *orphans}))
    sockets = _sockets(root, cpus, unmeasured)
    memory = _memory(root, [n for n in held if held[n]], pid, unmeasured)
    order = sorted(folders)
    return tuple(
        NumaNode(
            number,
            held[number],
            _only({sockets.get(cpu) for cpu in held[number]}),
            memory.get(number),
            _distances(folders.get(number), order, unmeasured),
        )
        for number in sorted(held)
        if held[number]
    )


def physical_cores(root: Path, cpus: _Cpus, unmeasured: list[str]) -> tuple[_Cpus, ...]:
    """`cpus` grouped by physical core; a CPU whose siblings are unknown stands alone."""
    cores: dict[int, _Cpus] = {}
    unknown = []
    for cpu in cpus:
        if cpu in cores:
            continue
        siblings = read(_of_cpu(root, cpu, "thread_siblings_list"), parse_cpu_list, unmeasured)
        if siblings is None:
            unknown.append(cpu)
        held = tuple(c for c in cpus if c == cpu or (c in (siblings or ()) and c not in cores))
        cores.update(dict.fromkeys(held, held))
    if unknown:
        unmeasured.append(f"SMT siblings of CPUs {format_cpu_list(unknown)}")
    return tuple(dict.fromkeys(cores[cpu] for cpu in cpus))


def _of_cpu(root: Path, cpu: int, name: str) -> Path:
    return root / f"sys/devices/system/cpu/cpu{cpu}/topology/{name}"


def _listed(node: Path, cpus: _Cpus, unmeasured: list[str]) -> _Cpus:
    listed = frozenset(read(node / "cpulist", parse_cpu_list, unmeasured) or ())
    return tuple(cpu for cpu in cpus if cpu in listed)


def _sockets(root: Path, cpus: _Cpus, unmeasured: list[str]) -> dict[int, int]:
    """Package by CPU; the kernel says -1 where firmware does not tell."""
    found = {cpu: read(_of_cpu(root, cpu, "physical_package_id"), int, unmeasured) for cpu in cpus}
    known = {cpu: number for cpu, number in found.items() if number is not None and number >= 0}
    if len(known) < len(cpus):
        unmeasured.append(f"socket of CPUs {format_cpu_list(set(cpus) - set(known))}")
    return known


def _memory(root: Path, nodes: list[int], pid: str, unmeasured: list[str]) -> dict[int, bool]:
    """Whether each node has memory that `cpuset.mems` allows; nodes that do not tell are absent."""
    allowed = read(root / "proc" / pid / "status", _allowed_nodes, unmeasured)
    found = {}
    for number in nodes:
        path = root / f"sys/devices/system/node/node{number}/meminfo"
        size = read(path, _total, unmeasured)
        if size is None:
            unmeasured.append(f"memory of NUMA node {number}")
        else:
            found[number] = size > 0 and (allowed is None or number in allowed)
    return found


def _allowed_nodes(status: str) -> _Cpus:
    match = re.search(r"^Mems_allowed_list:(.*)$", status, re.MULTILINE)
    if match is None:
        raise ValueError("it has no Mems_allowed_list")
    return parse_cpu_list(match[1])


def _total(meminfo: str) -> int:
    match = re.search(r"MemTotal:\s*(\d+) kB", meminfo)
    if match is None:
        raise ValueError("it has no MemTotal")
    return int(match[1])


def _distances(
    node: Path | None, order: list[int], unmeasured: list[str]
) -> tuple[tuple[int, int], ...]:
    """Distance by node: the file has one number for each node that is online, ascending."""
    if node is None:
        return ()
    found = read(node / "distance", lambda text: [int(word) for word in text.split()], unmeasured)
    return tuple(zip(order, found, strict=True)) if found and len(found) == len(order) else ()


def _only(values: set[int | None]) -> int | None:
    return next(iter(values)) if len(values) == 1 else None
