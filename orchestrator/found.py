"""The nodes that a job can be given: devices that were found here, or assumed ones for a plan."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cluster import cpu
from cluster.ascend.place import find
from cluster.ascend.probe import probe
from cluster.ascend.report import NodeReport, codes_of, devices_of
from cluster.ascend.table_facts import server_facts
from cluster.device import Device, DeviceKind, Inventory, Node
from cluster.device_leases import held_by_others
from cluster.gpu import probe as gpu
from cluster.gpu.report import GpuNodeReport
from cluster.gpu.report import devices_of as gpus_of
from cluster.measured import Measured, Memory
from cluster.rank_table import ServerFacts
from orchestrator.device_book import BadBook, DeviceBook, book_for

LOCAL = "local"
SIMULATED = "simulated"
"""The name of this machine in a run of its own, and of a rehearsal node that stands in for it."""


@dataclass(frozen=True)
class Found:
    """An inventory, devices in it that may not be used, and what a reader should know of it.

    `withheld`, `unwell` (those of them whose tools call them faulty) and `concerns` go by the
    device's key, `facts` (for rank tables) by the node's name. `simulated` is the directory of
    a rehearsal node. `missing` says why devices of the kind that was asked for cannot be looked
    for, `silent` why there may be some of which nothing could be learnt. Empty otherwise.
    """

    inventory: Inventory
    withheld: Mapping[str, str] = field(default_factory=dict)
    unwell: Mapping[str, str] = field(default_factory=dict)
    concerns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    facts: Mapping[str, ServerFacts] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    simulated: str = ""
    missing: str = ""
    silent: str = ""
    occupied: Mapping[str, str] = field(default_factory=dict)
    """By key: devices whose memory is in use though no process is listed that uses it."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices that were found, withheld ones too."""
        return tuple(device for node in self.inventory.nodes for device in node.devices)

    @property
    def told(self) -> tuple[str, ...]:
        """What a reader should know: the notes, and which devices are not used for what reason."""
        return (*self.notes, *(f"not used: {key}: {why}" for key, why in self.withheld.items()))

    def concerns_of(self, devices: Iterable[Device]) -> list[str]:
        """What may hinder these devices, those that share it named together."""
        groups: dict[str, list[str]] = {}
        for device in devices:
            for text in self.concerns.get(device.key, ()):
                groups.setdefault(text, []).append(device.key)
        return [f"{', '.join(keys)}: {text}" for text, keys in groups.items()]


def find_nodes(kind: DeviceKind, environment: Mapping[str, str]) -> Found:
    """This machine with its devices of `kind`; barred ones and other runs' are withheld.

    Takes as long as their tools do. Raises cluster.ascend.place.NoSuchNode for a rehearsal node
    that is not there.
    """
    found = look_for(kind, environment)
    barred = with_bars(found, book_for(found.simulated, environment), time.time())
    return withholding(barred, held_by_others(barred.devices, barred.simulated))


def look_for(kind: DeviceKind, environment: Mapping[str, str]) -> Found:
    """The same without regard to bars; faults that were seen are recorded for them."""
    here = Node(LOCAL, own_address(), cpu.measure())
    if kind is DeviceKind.ASCEND:
        return _ascend(here, environment)
    if kind is DeviceKind.GPU:
        return of_gpus(gpu.probe(environment), here)
    return Found(Inventory((here,)))


def _ascend(here: Node, environment: Mapping[str, str]) -> Found:
    report = probe(find(environment), environment)
    if report.tool is None:
        return Found(Inventory((here,)), missing="npu-smi was not found")
    unrecorded = note(book_for(report.simulated, environment), codes_of(report), time.time())
    found = of_report(report, here)
    return replace(found, notes=(*found.notes, *filter(None, [unrecorded])))


def note(book: DeviceBook, look: Mapping[str, tuple[str, ...]], now: float) -> str:
    """Record the faults that a look saw, for the rules that count them; why not, if it failed."""
    try:
        book.note(look, now)
    except BadBook:
        return ""  # whoever asks it for bars says so
    except OSError as error:
        return f"{book.path}: faults that were seen cannot be recorded: {error.strerror}"
    return ""


def with_bars(found: Found, book: DeviceBook, now: float) -> Found:
    """What was found, with the devices that are barred withheld too.

    Where the book cannot be read nobody knows what is barred: every device is withheld then.
    """
    try:
        bars = [book.withheld(node, now) for node in found.inventory.nodes]
        barred = {key: why for one in bars for key, why in one.items()}
    except (BadBook, OSError) as error:
        barred = {device.key: str(error) for device in found.devices}
    return withholding(found, barred)


def withholding(found: Found, more: Mapping[str, str]) -> Found:
    """What was found, with more devices withheld; one that was already has both reasons."""
    both = {
        key: "; ".join(filter(None, [found.withheld.get(key), why])) for key, why in more.items()
    }
    return replace(found, withheld={**found.withheld, **both})


def of_report(report: NodeReport, here: Node) -> Found:
    """The machine `here` with the Ascend devices of a report."""
    if report.simulated:
        here = replace(here, name=SIMULATED)
    devices, withheld = devices_of(report, here.name)
    reports = {one.physical: one for one in report.devices}
    named = [(device.key, reports[device.index]) for device in devices]
    notes = (
        f"simulated node {report.simulated} with the CPUs of this machine: "
        "no device of it is hardware, ranks run on the CPU backend",
    )
    return Found(
        Inventory((replace(here, devices=devices),)),
        withheld,
        # Of devices that nothing was said of, nobody says that they are ill.
        {key: one.why for key, one in named if report.answered and not one.usable},
        {key: one.concerns for key, one in named},
        {here.name: server_facts(report, here.address)},
        notes if report.simulated else (),
        report.simulated,
        silent="" if report.answered else "; ".join(report.problems),
        occupied=_occupied((key, one.memory, one.processes) for key, one in named),
    )


def of_gpus(report: GpuNodeReport, here: Node) -> Found:
    """The machine `here` with the GPUs of a report."""
    if not report.devices and not report.failed:
        return Found(Inventory((here,)), missing=report.why)
    devices, withheld = gpus_of(report, here.name)
    named = [(d.key, one) for d, one in zip(devices, report.devices, strict=True)]
    return Found(
        Inventory((replace(here, devices=devices),)),
        withheld,
        {key: one.verdict.why for key, one in named if not one.verdict.usable},
        {key: one.concerns for key, one in named if one.concerns},
        notes=tuple(filter(None, (report.why, *report.problems))),
        silent=report.why if report.failed else "",
        occupied=_occupied((key, one.gpu.memory, one.gpu.processes) for key, one in named),
    )


def _occupied(
    seen: Iterable[tuple[str, Measured[Memory], Measured[tuple[object, ...]]]],
) -> dict[str, str]:
    return {
        key: str(memory)
        for key, memory, processes in seen
        if isinstance(memory, Memory) and not memory.free and processes == ()
    }


def own_address() -> str:
    """This machine's address as others see it: that of the way out; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_socket:
        try:
            probe_socket.connect(("192.0.2.1", 9))  # a documentation address (RFC 5737)
            return str(probe_socket.getsockname()[0])
        except OSError:
            return "127.0.0.1"
