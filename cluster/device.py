"""What a cluster has: devices, nodes and the inventory of both. Values only."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cluster.cpu import CpuBudget


class DeviceKind(enum.Enum):
    """What a rank runs on; the values are the words of a job file."""

    ASCEND = "ascend"
    GPU = "gpu"
    CPU = "cpu"

    @property
    def has_rank_table(self) -> bool:
        """Whether ranks on this device can find each other by a rank table."""
        return self is DeviceKind.ASCEND

    @property
    def visible_variable(self) -> str | None:
        """The variable that lists the devices a process may see, if the kind has one."""
        return {
            DeviceKind.ASCEND: "ASCEND_RT_VISIBLE_DEVICES",
            DeviceKind.GPU: "CUDA_VISIBLE_DEVICES",
        }.get(self)

    @property
    def is_slot(self) -> bool:
        """True when a node offers as many of them as are asked for: no hardware is counted."""
        return self is DeviceKind.CPU


class Fabric(enum.Enum):
    """How the devices of a node reach each other, and so which of them belong together."""

    UNKNOWN = "unknown"
    MESH = "mesh"
    """Each reaches each alike (910B by HCCS, GPUs on an NVSwitch): any set will do."""
    RINGS = "rings"
    """910A: rings of four; a job of 1, 2 or 4 stays in one ring, a larger one takes all 8."""
    PAIRS = "pairs"
    """A3: two dies on a card; an even number of ranks takes whole cards."""
    LINKS = "links"
    """GPUs: `Device.near` tells how close any two are."""


@dataclass(frozen=True)
class Device:
    """One device of one node; `index` is its physical id there.

    `logical` is the id by which processes ask for it where that differs, as in containers
    that number devices anew; None: `index`. `ring` counts HCCS rings of the node, `card` names
    the card of a die. `near` has the closeness of other devices of the node by their index, a
    higher number for a better link; `uuid` is the name that a GPU keeps for ever.
    """

    kind: DeviceKind
    node: str
    index: int
    label: str = ""
    numa: int | None = None
    logical: int | None = None
    fabric: Fabric = Fabric.UNKNOWN
    ring: int | None = None
    card: int | None = None
    near: tuple[tuple[int, int], ...] = ()
    uuid: str | None = None

    @property
    def asked_for(self) -> int:
        """The number that stands for the device in its kind's `visible_variable`."""
        return self.index if self.logical is None else self.logical

    @property
    def key(self) -> str:
        """The device's name within the cluster, e.g. `node-0/ascend:3`: what gets barred."""
        return f"{self.node}/{self.kind.value}:{self.index}"


@dataclass(frozen=True)
class Node:
    """One machine. CPU slots are not listed in `devices`: they are made when allocated."""

    name: str
    address: str
    cpus: CpuBudget
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """The nodes that can be given work, in any order."""

    nodes: tuple[Node, ...]
