"""How close two GPUs are, as one number: NVLinks between them, else where their PCIe paths meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.device import Fabric
from cluster.measured import Measured, Unmeasured

NVLINK = 10
"""What one NVLink counts; any of them is above every way over PCIe."""

PCIE: dict[int, tuple[int, str]] = {
    0: (6, "one board"),
    10: (5, "PIX"),
    20: (4, "PXB"),
    30: (3, "PHB"),
    40: (2, "NODE"),
    50: (1, "SYS"),
}
"""Level of the common ancestor (nvmlGpuTopologyLevel_t): closeness, nvidia-smi's word for it."""

_WORDS = dict(PCIE.values())
_SWITCH = 2  # nvmlIntNvLinkDeviceType_t
_P2P_OK = 0


@dataclass(frozen=True)
class NvLink:
    """One link of a GPU: `kind` and `peer` (a bus id) of its other end, None if not stated."""

    active: bool
    kind: int | None
    peer: str | None


@dataclass(frozen=True)
class End:
    """One of two GPUs, as far as their closeness goes."""

    bus_id: Measured[str]
    links: Measured[tuple[NvLink, ...]]


def closeness(
    one: End, other: End, ancestor: Measured[int], over_nvlink: Measured[int]
) -> Measured[int]:
    """The number for a pair; higher is closer. `over_nvlink` is NVML's status of that way.

    Two GPUs on an NVSwitch are joined by all links that both have to it.
    """
    direct = max(_to(one, other), _to(other, one))
    switched = min(_to_switch(one), _to_switch(other)) if not _refused(over_nvlink) else 0
    unlisted = isinstance(one.links, Unmeasured) and over_nvlink == _P2P_OK
    links = max(direct, switched, int(unlisted))
    if links:
        return links * NVLINK
    if isinstance(ancestor, Unmeasured):
        return ancestor
    if ancestor not in PCIE:
        return Unmeasured(f"NVML names a level of topology unknown to muster: {ancestor}")
    return PCIE[ancestor][0]


def _active(end: End) -> tuple[NvLink, ...]:
    links = () if isinstance(end.links, Unmeasured) else end.links
    return tuple(link for link in links if link.active)


def _to(one: End, other: End) -> int:
    return sum(link.peer == other.bus_id for link in _active(one))


def _to_switch(end: End) -> int:
    return sum(link.kind == _SWITCH for link in _active(end))


def _refused(over_nvlink: Measured[int]) -> bool:
    return isinstance(over_nvlink, int) and over_nvlink != _P2P_OK


def describe(number: int) -> str:
    """A closeness for people."""
    count = number // NVLINK
    if count:
        return f"{count} NVLink{'s' if count > 1 else ''}"
    return _WORDS.get(number, str(number))


def fabric(near: Mapping[int, Iterable[tuple[int, int]]]) -> Fabric:
    """How the GPUs of a node are joined: a mesh if every pair is known and as close as any."""
    rows = {index: dict(row) for index, row in near.items()}
    numbers = {number for row in rows.values() for number in row.values()}
    complete = all(len(row) == len(rows) - 1 for row in rows.values())
    if rows and complete and len(numbers) <= 1:
        return Fabric.MESH
    return Fabric.LINKS if numbers else Fabric.UNKNOWN
