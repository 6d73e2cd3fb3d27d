"""What a node offers to Ray, and what a placement asks of it: bundles for the ids chosen.

Ray's bundles carry counts: `{"NPU": 1}` is any device. So every device is offered once more as
a resource of its own, `muster_ascend_3`, and a rank's bundle asks for the very device that the
allocator gave it. Devices of a rehearsal node are offered under names that nobody takes for
hardware, and never as `NPU` or `GPU`. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cluster.device import Device, DeviceKind

if TYPE_CHECKING:
    from cluster.allocate import Placement
    from cluster.device import Node

Resources = Mapping[str, float]

RAY_NAMES = {DeviceKind.ASCEND: "NPU", DeviceKind.GPU: "GPU"}
"""Ray's own names for counted devices."""

# Ray counts in ten-thousandths.
_UNITS = 10_000


def resources_of(
    node: Node, withheld: Iterable[str] = (), *, simulated: bool = False
) -> dict[str, float]:
    """What a Ray on `node` is started with: whole CPUs, devices by count and by name.

    `withheld` has the keys of devices that may not be used; they are not offered.
    """
    out = frozenset(withheld)
    found = {device.key: device for device in (replace(d, node=node.name) for d in node.devices)}
    offered = [found[key] for key in sorted(found) if key not in out]
    # Ray counts whole CPUs.
    cpus = float(max(1, math.ceil(node.cpus.usable_cores)))
    return _sum([{"CPU": cpus}, *(_names(device, simulated=simulated) for device in offered)])


def bundles_of(
    placement: Placement, cpus: float, *, simulated: bool = False
) -> tuple[dict[str, float], ...]:
    """One bundle a rank, in rank order, for a placement on one node that offers `cpus` CPUs.

    Ranks may be more than CPUs: every rank has an equal fraction of them, of none nothing. A
    rank that has nothing at all has no bundle.
    """
    ranks = sorted(placement.assignments, key=lambda one: one.rank)
    # Rounded down, for the sum of what Ray rounds must not be more than there is.
    share = math.floor(cpus / len(ranks) * _UNITS) / _UNITS
    held = {"CPU": share} if share > 0 else {}
    bundles = ({**held, **_names(one.device, simulated=simulated)} for one in ranks)
    return tuple(bundle for bundle in bundles if bundle)


def lacking(bundles: Sequence[Resources], resources: Resources) -> str:
    """What the bundles ask for beyond the resources, in words; empty when they fit."""
    return ", ".join(
        f"{count:g} {name} (there is {resources.get(name, 0):g})"
        for name, count in _sum(bundles).items()
        if _whole(count) > _whole(resources.get(name, 0))
    )


def by_count(bundles: Sequence[Resources]) -> list[dict[str, float]]:
    """The bundles for a Ray of others, which has counts and not our names for devices.

    Those of which nothing is left, as of a rehearsal device, are left out.
    """
    counted = [
        {name: count for name, count in bundle.items() if name in ("CPU", *RAY_NAMES.values())}
        for bundle in bundles
    ]
    return [bundle for bundle in counted if bundle]


def part_of_node(bundles: Sequence[Resources], resources: Resources) -> str:
    """Why a Ray of others cannot hold the devices of these bundles; empty when it can.

    It grants counts without naming devices, so who has a part of them knows not which.
    """
    asked = _sum(bundles)
    for name in RAY_NAMES.values():
        count, there = asked.get(name, 0), resources.get(name, 0)
        if 0 < count < there:
            return (
                f"the Ray cluster that was joined counts devices and does not name them, so a job "
                f"can have all {there:g} {name} of this node or none, not {count:g}; a Ray of "
                "muster's own (`muster up` without a Ray address) holds single devices"
            )
    return ""


def widened(resources: Resources, bundles: Sequence[Resources]) -> dict[str, float]:
    """The resources with the devices that bundles name and that were not offered so far.

    A device that was withheld when Ray came up may be well by the next attempt. Other counts
    than those of devices stay.
    """
    new = [
        {name: count for name, count in bundle.items() if name != "CPU"}
        for bundle in bundles
        if any(name not in resources for name in bundle)
    ]
    return _sum([resources, *new])


@dataclass
class Book:
    """What a Ray on one node offers, and the bundles that each job was promised of it.

    Jobs share CPUs without being refused any: which jobs run together is decided elsewhere, and
    Ray is told so that *other* work keeps off. Who comes late has what is left, maybe nothing.
    """

    resources: Resources
    held: dict[str, tuple[dict[str, float], ...]] = field(default_factory=dict)

    def take(
        self, job: str, placement: Placement, *, simulated: bool = False
    ) -> tuple[dict[str, float], ...]:
        """Write down the bundles of a job instead of any that it had; the resources grow along."""
        self.held.pop(job, None)
        taken = _sum(bundle for bundles in self.held.values() for bundle in bundles)
        left = (_whole(self.resources["CPU"]) - _whole(taken.get("CPU", 0))) / _UNITS
        bundles = bundles_of(placement, left, simulated=simulated)
        self.resources = widened(self.resources, bundles)
        self.held[job] = bundles
        return bundles

    def release(self, job: str) -> None:
        """Strike a job out."""
        self.held.pop(job, None)


def _names(device: Device, *, simulated: bool) -> dict[str, float]:
    """The resources that one device is, and that a rank on it asks for."""
    kind = device.kind
    if kind.is_slot:
        return {}
    if simulated:
        return {f"muster_simulated_{kind.value}_{device.index}": 1.0}
    return {RAY_NAMES[kind]: 1.0, f"muster_{kind.value}_{device.index}": 1.0}


def _sum(parts: Iterable[Resources]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for part in parts:
        for name, count in part.items():
            total[name] += _whole(count)
    return {name: count / _UNITS for name, count in total.items()}


def _whole(count: float) -> int:
    return round(count * _UNITS)
