"""What CPUs this process may really use: affinity, cgroup v1 and v2 limits, topology.

Counting `/proc/cpuinfo` lies in a container. Here the affinity mask is cut by the cpuset of
the process's own cgroup and every visible ancestor, and the smallest CPU quota on that path
is kept beside it. "Not limited" and "could not be measured" are told apart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.cpu_topology import NumaNode, numa_nodes, physical_cores
from cluster.kernel_text import format_cpu_list, parse_cpu_list, read

__all__ = ["CpuBudget", "NumaNode", "format_cpu_list", "measure", "parse_cpu_list"]

_CONTROLLERS = frozenset({"cpu", "cpuset"})


@dataclass(frozen=True)
class CpuBudget:
    """The CPUs a process may use.

    `quota` is in cores, None when there is none. `sources` says what set the limits,
    `unmeasured` what could not be found out (a limit may exist there). `cores` groups
    `cpus` by physical core; `numa` by memory node.
    """

    cpus: tuple[int, ...]
    quota: float | None = None
    sources: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()
    numa: tuple[NumaNode, ...] = ()
    cores: tuple[tuple[int, ...], ...] = ()

    @property
    def usable_cores(self) -> float:
        """How many CPUs' worth of time there is: the smaller of CPU count and quota."""
        return len(self.cpus) if self.quota is None else min(float(len(self.cpus)), self.quota)


@dataclass(frozen=True)
class _Group:
    """One cgroup directory on the path from a process's own group to what is mounted."""

    directory: Path
    version: int


@dataclass(frozen=True)
class _Mount:
    root: str
    point: str
    version: int
    controllers: frozenset[str]


def measure(
    *, root: Path = Path("/"), affinity: Iterable[int] | None = None, pid: str = "self"
) -> CpuBudget:
    """Measure what process `pid` may use; never raises for what it cannot read.

    `root` holds `proc` and `sys` and is prefixed to mount points, so that a test can build
    a machine in a folder. `affinity` stands in for `sched_getaffinity`.
    """
    unmeasured: list[str] = []
    mask = frozenset(_own_affinity(pid) if affinity is None else affinity)
    groups = tuple(_groups(root, pid, unmeasured))
    sources = [f"affinity: {len(mask)} CPUs"]
    cpus = _cut_by_cpusets(mask, groups, sources, unmeasured)
    quota = _tightest_quota(groups, sources, unmeasured)
    ordered = tuple(sorted(cpus))
    return CpuBudget(
        cpus=ordered,
        quota=quota,
        numa=numa_nodes(root, ordered, pid, unmeasured),
        cores=physical_cores(root, ordered, unmeasured),
        sources=tuple(sources),
        unmeasured=tuple(unmeasured),
    )


def _own_affinity(pid: str) -> set[int]:
    return os.sched_getaffinity(0 if pid == "self" else int(pid))


def _cut_by_cpusets(
    mask: frozenset[int], groups: Iterable[_Group], sources: list[str], unmeasured: list[str]
) -> frozenset[int]:
    cpus = mask
    for group in groups:
        name = "cpuset.cpus.effective" if group.version == 2 else "cpuset.cpus"
        allowed = read(group.directory / name, parse_cpu_list, unmeasured)
        # An empty list is a v1 group that was never set up; no process can run in one.
        if not allowed or cpus <= frozenset(allowed):
            continue
        if not cpus & frozenset(allowed):
            unmeasured.append(f"{group.directory / name}: shares no CPU with the affinity mask")
            continue
        cpus &= frozenset(allowed)
        sources.append(f"{group.directory / name}: {format_cpu_list(allowed)}")
    return cpus


def _tightest_quota(
    groups: Iterable[_Group], sources: list[str], unmeasured: list[str]
) -> float | None:
    best: tuple[float, str] | None = None
    for group in groups:
        reader = _quota_v2 if group.version == 2 else _quota_v1
        quota = reader(group.directory, unmeasured)
        if quota is not None and (best is None or quota < best[0]):
            best = (quota, f"{group.directory}: quota of {quota:g} cores")
    if best is None:
        return None
    sources.append(best[1])
    return best[0]


def _quota_v2(directory: Path, unmeasured: list[str]) -> float | None:
    return read(directory / "cpu.max", _parse_cpu_max, unmeasured) or None


def _quota_v1(directory: Path, unmeasured: list[str]) -> float | None:
    quota = read(directory / "cpu.cfs_quota_us", _microseconds, unmeasured)
    if quota is None or quota <= 0:
        return None
    period = read(directory / "cpu.cfs_period_us", _microseconds, unmeasured)
    return quota / period if period and period > 0 else None


def _parse_cpu_max(text: str) -> float:
    """Cores of a `cpu.max`; 0 for `max`, which limits nothing."""
    quota, _, period = text.strip().partition(" ")
    if quota == "max":
        return 0.0
    value = _microseconds(quota) / _microseconds(period or "100000")
    if value <= 0:
        raise ValueError(f"not a quota: {text.strip()!r}")
    return value


def _microseconds(text: str) -> int:
    """A whole number of the kernel's, -1 being one; no larger than it can have."""
    value = int(text)
    if abs(value) >> 63:
        raise ValueError(f"not a time: {text[:40].strip()!r}")
    return value


def _groups(root: Path, pid: str, unmeasured: list[str]) -> Iterator[_Group]:
    """Every visible group that can limit the CPUs of `pid`, innermost first."""
    process = root / "proc" / pid
    lines = read(process / "cgroup", str.splitlines, unmeasured)
    mounts = read(process / "mountinfo", _parse_mounts, unmeasured)
    if lines is None or mounts is None:
        unmeasured.append(f"cgroup limits: {process}/cgroup or mountinfo cannot be read")
        return
    for line in lines:
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        wanted = frozenset(names.split(",")) & _CONTROLLERS
        version = 2 if number == "0" and not names else 1
        if version == 2 or wanted:
            fitting = [m for m in mounts if m.version == version and wanted <= m.controllers]
            yield from _walk(root, path, version, fitting, unmeasured)


def _walk(
    root: Path, path: str, version: int, mounts: list[_Mount], unmeasured: list[str]
) -> Iterator[_Group]:
    for mount in mounts:
        inside = _below(path, mount.root)
        if inside is None:
            continue
        top = root / mount.point.lstrip("/")
        if mount.root != "/":
            unmeasured.append(f"{top}: groups above {mount.root} are not mounted here")
        group = top / inside if inside else top
        while True:
            if group.is_dir():
                yield _Group(group, version)
            if group == top:
                return
            group = group.parent
    unmeasured.append(f"cgroup v{version} group {path}: not visible in any mount")


def _below(path: str, mount_root: str) -> str | None:
    """`path` relative to `mount_root`, or None when it is not below it."""
    if ".." in path.split("/"):
        return None
    parts = [p for p in path.split("/") if p]
    head = [p for p in mount_root.split("/") if p]
    return "/".join(parts[len(head) :]) if parts[: len(head)] == head else None


def _parse_mounts(text: str) -> list[_Mount]:
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(tail) < 3 or tail[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if tail[0] == "cgroup2" else 1
        controllers = frozenset(tail[2].split(",")) & _CONTROLLERS
        found.append(_Mount(_unescape(fields[3]), _unescape(fields[4]), version, controllers))
    return found


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)
