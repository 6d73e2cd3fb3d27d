"""What a node's probe found: a report of each device, each value measured or the reason why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.ascend.faults import Level
from cluster.ascend.topology import FIRST_GENERATION
from cluster.ascend.values import Health, Link, Measured, Memory, NetHealth, Process, Unmeasured
from cluster.device import Device, DeviceKind, Fabric
from cluster.measured import as_document

_NO_SUPER_POD = Unmeasured("only A3 has super-pods")


@dataclass(frozen=True)
class DeviceReport:
    """One device. `physical` is the N of /dev/davinciN, `logical` what processes ask for.

    `usable` is the judgement of health and codes, `why` its reason. `ip_source` names who
    said the address; `ring` counts the HCCS rings of the node from 0. `visible` is False for
    a device that ASCEND_RT_VISIBLE_DEVICES leaves out. `sdid` and `super_pod` are for A3.
    """

    physical: Measured[int]
    logical: Measured[int]
    card: Measured[int]
    chip: Measured[int]
    model: Measured[str]
    bus_id: Measured[str]
    health: Measured[Health]
    codes: Measured[tuple[str, ...]]
    level: Measured[Level]
    usable: bool
    why: str
    memory: Measured[Memory]
    numa: Measured[int]
    ring: Measured[int]
    ip: Measured[str]
    ip_source: str
    link: Measured[Link]
    net_health: Measured[NetHealth]
    processes: Measured[tuple[Process, ...]]
    visible: Measured[bool]
    notes: tuple[str, ...] = ()
    sdid: Measured[int] = _NO_SUPER_POD
    super_pod: Measured[int] = _NO_SUPER_POD

    @property
    def fabric(self) -> Fabric:
        """By the model's name: npu-smi calls the dies of an A3 card just Ascend910."""
        if isinstance(self.model, Unmeasured):
            return Fabric.UNKNOWN
        if self.model in FIRST_GENERATION:
            return Fabric.RINGS
        if self.model.startswith("910B"):
            return Fabric.MESH
        return Fabric.PAIRS if self.model == "Ascend910" else Fabric.UNKNOWN

    @property
    def withheld(self) -> str:
        """Why the device may not be given to a job; empty: it may."""
        if isinstance(self.physical, Unmeasured):
            return self.physical.why
        if not self.usable:
            return self.why
        if isinstance(self.visible, Unmeasured):
            return self.visible.why
        if not self.visible:
            return "left out by ASCEND_RT_VISIBLE_DEVICES"
        if isinstance(self.processes, tuple) and self.processes:
            held = ", ".join(f"{p.name or 'a process'} (pid {p.pid})" for p in self.processes)
            return f"in use by {held}"
        return ""

    @property
    def concerns(self) -> tuple[str, ...]:
        """What does not keep a job away, and may hinder it: codes to watch, and the network.

        Whether a fault of the network matters depends on the job (one server needs none on
        the 910B) and on how long it lasts, which one look cannot know.
        """
        found = [self.why] if self.usable and self.why else []
        if self.link is Link.DOWN:
            found.append("link DOWN")
        if isinstance(self.net_health, NetHealth) and not self.net_health.well:
            found.append(f"network {self.net_health.value}")
        return (*found, *self._unmeasured(), *self.notes)

    def _unmeasured(self) -> tuple[str, ...]:
        """What was asked of a device that answered, and was not stated, with the reason."""
        if isinstance(self.model, Unmeasured):
            return ()
        named = {
            "memory": self.memory,
            "NUMA node": self.numa,
            "ring": self.ring,
            "logical id": self.logical,
            "ip": self.ip,
            "link": self.link,
            "network": self.net_health,
            "processes": self.processes,
        }
        return tuple(
            f"{name} unknown: {value.why}"
            for name, value in named.items()
            if isinstance(value, Unmeasured)
        )


@dataclass(frozen=True)
class NodeReport:
    """All devices of a node. `simulated` is the directory of a rehearsal node, empty for hardware.

    `problems` hold what the tools failed to say and every line that made no sense; `answered`
    is False when npu-smi could not be asked at all.
    """

    tool: str | None
    simulated: str
    version: str
    answered: bool
    devices: tuple[DeviceReport, ...]
    looked_for: tuple[str, ...]
    problems: tuple[str, ...]

    def to_document(self) -> dict[str, Any]:
        """The report as JSON values; what was not measured is `{"unmeasured": why}`."""
        document = as_document(self)
        assert isinstance(document, dict)
        for device, values in zip(self.devices, document["devices"], strict=True):
            values |= {"withheld": device.withheld or None, "simulated": bool(self.simulated)}
        return document


def devices_of(report: NodeReport, node: str) -> tuple[tuple[Device, ...], dict[str, str]]:
    """The devices of a report for the inventory, and why some may not be used, by their keys.

    A device whose physical id is unknown cannot be named and is left out.
    """
    mark = " (simulated)" if report.simulated else ""
    found: list[Device] = []
    withheld: dict[str, str] = {}
    for one in report.devices:
        if isinstance(one.physical, Unmeasured):
            continue
        device = Device(
            kind=DeviceKind.ASCEND,
            node=node,
            index=one.physical,
            label=("unknown" if isinstance(one.model, Unmeasured) else one.model) + mark,
            numa=None if isinstance(one.numa, Unmeasured) else one.numa,
            logical=None if isinstance(one.logical, Unmeasured) else one.logical,
            fabric=one.fabric,
            ring=None if isinstance(one.ring, Unmeasured) else one.ring,
            card=None if isinstance(one.card, Unmeasured) else one.card,
        )
        found.append(device)
        if one.withheld:
            withheld[device.key] = one.withheld
    return tuple(found), withheld


def codes_of(report: NodeReport) -> dict[str, tuple[str, ...]]:
    """The error codes of each device that stated them, by names such as `ascend:3`."""
    return {
        f"{DeviceKind.ASCEND.value}:{one.physical}": one.codes
        for one in report.devices
        if isinstance(one.physical, int) and isinstance(one.codes, tuple)
    }
