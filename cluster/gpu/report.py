"""What the probe of GPUs found: each with its verdict, and the devices for the inventory."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from cluster.device import Device, DeviceKind, Fabric
from cluster.gpu import topology
from cluster.gpu.rules import Verdict
from cluster.gpu.values import Gpu
from cluster.gpu.visible import VARIABLE
from cluster.measured import Measured, Unmeasured, as_document


class Driver(enum.Enum):
    """What became of asking the NVIDIA driver."""

    ABSENT = "absent"
    FAILED = "failed"
    """It is there, and could not be asked."""
    ANSWERS = "answers"


@dataclass(frozen=True)
class GpuReport:
    """One GPU and the verdict on it. `visible` is False if CUDA_VISIBLE_DEVICES leaves it out."""

    gpu: Gpu
    verdict: Verdict
    visible: bool

    @property
    def withheld(self) -> str:
        """Why the GPU may not be given to a job; empty: it may."""
        if not self.verdict.usable:
            return self.verdict.why
        if not self.visible:
            return f"left out by {VARIABLE}"
        held = self.gpu.processes
        if isinstance(held, tuple) and held:
            return f"in use by {', '.join(f'{p.name or p.use} (pid {p.pid})' for p in held)}"
        return ""

    @property
    def concerns(self) -> tuple[str, ...]:
        """What does not keep a job away, and may hinder it."""
        named = {
            "memory": self.gpu.memory,
            "NUMA node": self.gpu.numa,
            "processes": self.gpu.processes,
        }
        unknown = (
            f"{name} unknown: {value.why}"
            for name, value in named.items()
            if isinstance(value, Unmeasured) and self.verdict.usable
        )
        return (*self.verdict.concerns, *unknown, *self.gpu.notes)


@dataclass(frozen=True)
class GpuNodeReport:
    """All GPUs of a node. `why` says why there are none, or why none could be asked.

    `cuda` is the newest version that the driver serves, not one that is installed.
    """

    state: Driver
    why: str
    driver: Measured[str]
    cuda: Measured[str]
    nvml: Measured[str]
    devices: tuple[GpuReport, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether there may be GPUs of which nothing could be learnt."""
        return self.state is Driver.FAILED

    @property
    def fabric(self) -> Fabric:
        """How the GPUs reach each other."""
        return topology.fabric({one.gpu.index: one.gpu.near for one in self.devices})

    def to_document(self) -> dict[str, Any]:
        """The report as JSON values; what was not measured is `{"unmeasured": why}`."""
        document = as_document(self)
        assert isinstance(document, dict)
        document["fabric"] = self.fabric.value
        document["devices"] = [_document(one) for one in self.devices]
        return document


def _document(one: GpuReport) -> dict[str, Any]:
    return {
        **as_document(one.gpu),
        "near": {str(index): number for index, number in one.gpu.near},
        "usable": one.verdict.usable,
        "why": one.verdict.why,
        "visible": one.visible,
        "withheld": one.withheld or None,
        "concerns": list(one.concerns),
    }


def devices_of(report: GpuNodeReport, node: str) -> tuple[tuple[Device, ...], dict[str, str]]:
    """The GPUs for the inventory, and why some may not be used, by their keys."""
    devices = tuple(_device(one.gpu, node, report.fabric) for one in report.devices)
    withheld = {
        device.key: one.withheld
        for device, one in zip(devices, report.devices, strict=True)
        if one.withheld
    }
    return devices, withheld


def _device(gpu: Gpu, node: str, fabric: Fabric) -> Device:
    return Device(
        kind=DeviceKind.GPU,
        node=node,
        index=gpu.index,
        label="unknown" if isinstance(gpu.name, Unmeasured) else gpu.name,
        numa=None if isinstance(gpu.numa, Unmeasured) else gpu.numa,
        fabric=fabric,
        near=gpu.near,
        uuid=None if isinstance(gpu.uuid, Unmeasured) else gpu.uuid,
    )
