"""What NVML states of one GPU, as values. No judgement: that is `rules`."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.measured import Measured, Memory


@dataclass(frozen=True)
class Switch:
    """A mode of a GPU that may change at its next reset."""

    on: bool
    after_reset: bool


@dataclass(frozen=True)
class RemappedRows:
    """Rows of memory replaced by spare ones, of which only errors of the second kind lose data."""

    correctable: int
    uncorrectable: int
    pending: bool
    failed: bool


@dataclass(frozen=True)
class NvLinks:
    """How many of a GPU's NVLinks are active."""

    active: int
    total: int


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds a GPU; `memory` in MB. The name is empty if /proc does not tell it."""

    pid: int
    name: str
    use: str
    memory: Measured[int]


@dataclass(frozen=True)
class Failure:
    """What NVML answers of no GPU that is well; `kind` is its name for the error."""

    kind: str
    text: str


@dataclass(frozen=True)
class Gpu:
    """One GPU. `index` counts in the order of PCI bus ids, as NVML and nvidia-smi do.

    `bus_id` is written as the kernel does. `uncorrected` counts ECC errors since the driver was
    loaded, `uncorrected_ever` in the GPU's life. `recovery` is what the driver asks for to be
    done with it, empty for nothing. `near` has the closeness of others, by `topology`.
    """

    index: int
    name: Measured[str]
    uuid: Measured[str]
    bus_id: Measured[str]
    numa: Measured[int]
    memory: Measured[Memory]
    ecc: Measured[Switch]
    uncorrected: Measured[int]
    uncorrected_ever: Measured[int]
    retired_pages: Measured[int]
    retirement_pending: Measured[bool]
    remapped_rows: Measured[RemappedRows]
    recovery: Measured[str]
    fabric: Measured[str]
    xid: Measured[tuple[int, ...]]
    temperature: Measured[int]
    slowed_by: Measured[tuple[str, ...]]
    mig: Measured[Switch]
    persistence: Measured[bool]
    compute_mode: Measured[str]
    nvlinks: Measured[NvLinks]
    processes: Measured[tuple[GpuProcess, ...]]
    near: tuple[tuple[int, int], ...] = ()
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()
