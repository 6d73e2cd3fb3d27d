"""The rehearsal node as a value: its devices, what they hold, and the faults that are on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cluster.simulated.faults import Fault
from cluster.simulated.models import MAX_CARDS, MODELS, Model

FORMS = ("a", "b")


class BadNode(ValueError):
    """A node that cannot be: every mistake, one a line."""


@dataclass(frozen=True)
class Process:
    """A process on a device; `memory` in MB."""

    pid: int
    name: str
    memory: int


@dataclass(frozen=True)
class SimulatedDevice:
    """One chip. `card` and `chip` are npu-smi's ids on the host; `ip` empty: none configured."""

    physical: int
    card: int
    chip: int
    bus_id: str
    numa: int
    ip: str
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True)
class SimulatedNode:
    """A node: its devices, the faults that are on, and how its npu-smi draws tables.

    `visible` holds the physical ids that a container sees, renumbered from 0; None: a host.
    """

    model: Model
    devices: tuple[SimulatedDevice, ...]
    faults: tuple[Fault, ...] = ()
    form: str = "a"
    visible: tuple[int, ...] | None = None

    def fault(self, kind: str, device: int | None = None) -> Fault | None:
        """The fault of this kind that is on for the device (None: for the whole node)."""
        for fault in self.faults:
            if (fault.kind, fault.device) == (kind, device):
                return fault
        return None

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(device.physical for device in self.devices)

    @property
    def seen(self) -> tuple[SimulatedDevice, ...]:
        """The devices whose /dev/davinciN is here, ascending."""
        return tuple(d for d in self.devices if self.visible is None or d.physical in self.visible)

    def shown_card(self, device: SimulatedDevice) -> int:
        """The NPU id under which npu-smi shows a device: its own, or its place in a container."""
        if self.visible is None:
            return device.card
        cards = sorted({one.card for one in self.seen})
        return cards.index(device.card)

    def logical(self, device: SimulatedDevice) -> int:
        """The device's place among those seen here."""
        return [one.physical for one in self.seen].index(device.physical)

    @property
    def listed(self) -> tuple[SimulatedDevice, ...]:
        """The devices that npu-smi lists: those seen here and not lost."""
        return tuple(d for d in self.seen if not self.fault("lost", d.physical))

    def processes(self, device: SimulatedDevice) -> tuple[Process, ...]:
        """Who holds the device, the foreign process included."""
        foreign = self.fault("foreign", device.physical)
        if foreign is None:
            return device.processes
        pid, name, memory = foreign.value.split("/")
        return (*device.processes, Process(int(pid), name, int(memory)))

    def memory(self, device: SimulatedDevice) -> int:
        """MB in use on the device."""
        held = sum(process.memory for process in self.processes(device))
        return min(self.model.hbm, self.model.idle + held)


def make(
    model: str, cards: int, *, form: str = "a", visible: Collection[int] | None = None
) -> SimulatedNode:
    """A well node. Raises BadNode for a model, a number of cards or ids that cannot be."""
    facts = MODELS.get(model)
    wrong = [] if facts else [f"model {model}: expected one of {', '.join(MODELS)}"]
    if not 1 <= cards <= MAX_CARDS:
        wrong.append(f"cards {cards}: expected 1 to {MAX_CARDS}")
    if wrong or facts is None:
        raise BadNode("\n".join(wrong))
    devices = tuple(_device(facts, number) for number in range(cards * facts.chips))
    strange = sorted(set(visible or ()) - {d.physical for d in devices})
    if strange or (visible is not None and not visible):
        raise BadNode(f"visible {strange or 'nothing'}: expected some of 0-{len(devices) - 1}")
    shown = None if visible is None else tuple(sorted(set(visible)))
    return SimulatedNode(facts, devices, form=form, visible=shown)


def _device(model: Model, number: int) -> SimulatedDevice:
    return SimulatedDevice(
        physical=number,
        card=number // model.chips,
        chip=number % model.chips,
        bus_id=f"0000:{model.buses[number]}:00.0",
        numa=model.numa[number],
        ip=f"192.168.{100 + number % 4}.{101 + number // 4}",
    )
