"""The nodes that `muster plan` plans on: devices that were found, or assumed ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.device import Device, Inventory
from orchestrator.spec import DeviceKind, JobSpec


@dataclass(frozen=True)
class Nodes:
    """An inventory, devices in it that may not be used, and what a reader should know of it.

    `simulated` is the directory of a rehearsal node. `concerns` are by key of the device.
    """

    inventory: Inventory
    withheld: dict[str, str]
    concerns: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()
    assumed: bool = False
    simulated: str | None = None

    def concerns_of(self, devices: Iterable[Device]) -> list[str]:
        """What may hinder these devices, those that share it named together."""
        groups: dict[str, list[str]] = {}
        for device in devices:
            for text in self.concerns.get(device.key, ()):
                groups.setdefault(text, []).append(device.key)
        return [f"{', '.join(keys)}: {text}" for text, keys in groups.items()]


def nodes_for(spec: JobSpec, here: Inventory) -> Nodes:
    """CPU slots of this machine, its Ascend devices if there is an npu-smi, else assumed ones."""
    kind = spec.resources.device
    if kind is DeviceKind.CPU:
        return Nodes(here, {}, {})
    if kind is DeviceKind.ASCEND:
        found = _found(here)
        if found is not None:
            return found
    return _assumed(spec, here)


def _assumed(spec: JobSpec, here: Inventory) -> Nodes:
    from orchestrator.plan import assume_devices

    kind = spec.resources.device
    why = (
        "npu-smi was not found"
        if kind is DeviceKind.ASCEND
        else f"muster cannot look for {kind.value} devices yet"
    )
    note = (
        f"{why}: nodes with the CPUs of this machine and the devices that the job asks for "
        "are assumed"
    )
    return Nodes(assume_devices(spec, here), {}, {}, (note,), assumed=True)


def _found(here: Inventory) -> Nodes | None:
    from dataclasses import replace

    from cluster.ascend.report import devices_of
    from orchestrator.cli.devices import look

    report = look()
    if report.tool is None:
        return None
    local = here.nodes[0]
    name = "simulated" if report.simulated else local.name
    devices, withheld = devices_of(report, name)
    concerns = {
        device.key: one.concerns
        for device in devices
        for one in report.devices
        if one.physical == device.index
    }
    notes = [f"not used: {key}: {why}" for key, why in withheld.items()]
    if report.simulated:
        notes.insert(
            0,
            f"planned on the simulated node {report.simulated} with the CPUs of this machine: "
            "no device in this plan is hardware",
        )
    inventory = Inventory((replace(local, name=name, devices=devices),))
    return Nodes(inventory, withheld, concerns, tuple(notes), simulated=report.simulated or None)
