"""Leases of devices: what one run of muster holds, no other on this machine gives out.

A lease is an abstract Unix socket named after the device, as a port's is (`cluster.ports`): the
kernel drops it when its holder dies. A second socket beside it has the holder's pid in its name,
so that others can tell who it is. Both are seen within a network namespace: containers that share
devices and not the network know of each other only by what the devices' tools list.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path

from cluster.device import Device

_NAMES = Path("/proc/net/unix")
_HOLDER = re.compile(r"@(muster-device-\S+)=(\d+)$", re.MULTILINE)


class Leases:
    """The devices that this process holds for one purpose."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[socket.socket, socket.socket]] = {}

    def take(self, devices: Iterable[Device], scope: str = "") -> dict[str, str]:
        """Hold these devices, and none else any more.

        Returns who holds some of them already, by key; what is held stays as it was then. `scope`
        is the rehearsal node that they are of, empty for hardware. They are asked for by index:
        of two runs that want the same devices one gets them. Raises OSError.
        """
        wanted = {_name(d, scope): d for d in sorted(devices, key=attrgetter("index"))}
        got: dict[str, tuple[socket.socket, socket.socket]] = {}
        taken: list[str] = []
        for name in wanted:
            sockets = None if name in self._held else _bound(name)
            if sockets is not None:
                got[name] = sockets
            elif name not in self._held:
                taken.append(name)
        if taken:
            _close(got)
            holders = _holders()
            return {wanted[name].key: _by(holders.get(name)) for name in taken}
        _close({name: self._held.pop(name) for name in self._held.keys() - wanted.keys()})
        self._held |= got
        return {}

    def release(self) -> None:
        """Give all back; a second call does nothing."""
        _close(self._held)
        self._held = {}


def held_by_others(devices: Iterable[Device], scope: str = "") -> dict[str, str]:
    """Who holds which of the devices, by key; what this process holds is left out."""
    holders = _holders()
    named = {device.key: holders.get(_name(device, scope)) for device in devices}
    return {key: _by(pid) for key, pid in named.items() if pid is not None and pid != os.getpid()}


def _by(pid: int | None) -> str:
    return "in use by another run of muster" + ("" if pid is None else f" (pid {pid})")


def _name(device: Device, scope: str) -> str:
    """The same for everybody who means this device; short enough for a socket's name."""
    where = hashlib.sha256(scope.encode()).hexdigest()[:16] if scope else "hardware"
    return f"muster-device-{where}-{device.kind.value}-{device.uuid or device.index}"


def _holders() -> dict[str, int]:
    """Pids by the names of leases, as the kernel lists them."""
    try:
        listed = _NAMES.read_text(errors="replace")
    except OSError:
        return {}
    return {name: int(pid) for name, pid in _HOLDER.findall(listed)}


def _bound(name: str) -> tuple[socket.socket, socket.socket] | None:
    """The lease's two sockets, or None where somebody holds it."""
    lease = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lease.bind(f"\0{name}")
        holder.bind(f"\0{name}={os.getpid()}")
    except OSError as error:
        lease.close()
        holder.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return lease, holder


def _close(held: dict[str, tuple[socket.socket, socket.socket]]) -> None:
    for sockets in held.values():
        for one in sockets:
            one.close()
