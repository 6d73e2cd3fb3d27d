"""What a rank table says, as values: servers, their devices, and which rank each is."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Extra = tuple[tuple[str, str], ...]
"""Further fields, name and text, in the order of the file."""


class Model(enum.Enum):
    """A generation of devices, by whose rules a table can be judged."""

    A910 = "910A"
    B910 = "910B"
    A3 = "A3"


@dataclass(frozen=True)
class TableDevice:
    """One device. `device_id` is physical: the N of /dev/davinciN; `sdid` is its super-pod id."""

    device_id: int
    rank: int
    ips: tuple[str, ...] = ()
    sdid: int | None = None
    extra: Extra = ()


@dataclass(frozen=True)
class TableServer:
    """One server with its devices, and the super-pod that it is in, if any."""

    server_id: str
    devices: tuple[TableDevice, ...]
    super_pod: str | None = None
    extra: Extra = ()

    @property
    def lowest_rank(self) -> int:
        """The first rank on it; 0 if it has no device."""
        return min((device.rank for device in self.devices), default=0)


@dataclass(frozen=True)
class RankTable:
    """A table of version 1.0 or 1.2. It holds what it is given: the check tells what is wrong."""

    version: str
    servers: tuple[TableServer, ...]

    @property
    def ranks(self) -> int:
        """How many there are."""
        return sum(len(server.devices) for server in self.servers)

    @property
    def pods(self) -> dict[str, list[str]]:
        """Super-pods with the ids of their servers, in the order of the servers."""
        pods: dict[str, list[str]] = {}
        for server in self.servers:
            if server.super_pod is not None:
                pods.setdefault(server.super_pod, []).append(server.server_id)
        return pods

    def each(self) -> Iterator[tuple[TableServer, TableDevice]]:
        """Every device with its server, as listed."""
        return ((server, device) for server in self.servers for device in server.devices)


@dataclass(frozen=True)
class ServerFacts:
    """What is known of a server before ranks are given out; `ips` and `sdids` go by device id."""

    server_id: str
    ips: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    sdids: Mapping[int, int] = field(default_factory=dict)
    super_pod: str | None = None
