"""Leases of devices, so that two runs on one machine never take the same one.

A device's tools show a process on it only once it has opened the device, long after it was chosen.
So a run leases its devices before it starts anything: abstract Unix sockets, like the leases of
`cluster.ports`, which the kernel drops when their holder dies. They hold within a network
namespace: containers that share devices must be given different ones from outside.
"""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Iterable
from operator import attrgetter

from cluster.bars import name_of
from cluster.device import Device

HELD = "held by another run of muster"
"""Why a device may not be used that another process has leased."""


class DeviceLeases:
    """The devices that this run has leased."""

    def __init__(self) -> None:
        self._held: dict[str, socket.socket] = {}

    def take(self, where: str, devices: Iterable[Device]) -> Device | None:
        """Lease these and give back all others, or change nothing and return one that is taken.

        `where` is the rehearsal node that they are of, empty for this machine. They are asked for
        by index: of two runs that want the same devices one gets them. Raises OSError.
        """
        new: dict[str, socket.socket] = {}
        wanted = set()
        for device in sorted(devices, key=attrgetter("index")):
            name = _name(where, device)
            wanted.add(name)
            if name in self._held:
                continue
            lease = _lease(name)
            if lease is None:
                _close(new)
                return device
            new[name] = lease
        _close({name: lease for name, lease in self._held.items() if name not in wanted})
        self._held = {name: (self._held | new)[name] for name in wanted}
        return None

    def release(self) -> None:
        """Give all of them back."""
        _close(self._held)
        self._held = {}


def _name(where: str, device: Device) -> str:
    """Short whatever `where` is: a socket's name has at most 107 bytes."""
    node = hashlib.sha256(where.encode()).hexdigest()[:16] if where else "here"
    return f"muster-device-{node}-{name_of(device)}"


def _lease(name: str) -> socket.socket | None:
    """The socket of that name, or None when another process has it."""
    lease = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lease.bind(f"\0{name}")
    except OSError as error:
        lease.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return lease


def _close(leases: dict[str, socket.socket]) -> None:
    for lease in leases.values():
        lease.close()
