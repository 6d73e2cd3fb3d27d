"""Leases of TCP ports that no other muster process of this network namespace will take.

A lease is an abstract Unix socket named after the port. The kernel drops it when its last
holder dies, so nothing is left behind and nothing goes stale. Ports lie outside the
ephemeral range, from which the kernel gives ports to outgoing connections. A port may still
be taken by a stranger between the test and its use: whoever starts the server retries.
Standard library only: supervisors import this.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

DEFAULT_CANDIDATES = range(20000, 30000)
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LINUX_DEFAULT = range(32768, 61000)


class NoFreePort(OSError):
    """Every candidate port is leased, in use, or in the ephemeral range."""


class PortLease:
    """A port that is ours until `release`, the end of the `with` block, or our death.

    A forked child that does not exec shares the lease.
    """

    def __init__(self, port: int, holder: socket.socket) -> None:
        self.port = port
        self._holder = holder

    def release(self) -> None:
        """Give the port back; a second call does nothing."""
        self._holder.close()

    def __enter__(self) -> PortLease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def lease_port(
    host: str = "127.0.0.1",
    *,
    candidates: Iterable[int] = DEFAULT_CANDIDATES,
    range_file: Path = _RANGE_FILE,
    shuffle: random.Random | None = None,
) -> PortLease:
    """Lease a port that can be bound on `host` now, tried from a random start.

    Raises NoFreePort when no candidate will do, OSError (EADDRNOTAVAIL, EAI) when `host`
    is not an address of this machine.
    """
    family, address = _resolve(host)
    ephemeral = ephemeral_ports(range_file)
    ports = [port for port in candidates if port not in ephemeral]
    start = (shuffle or random.SystemRandom()).randrange(len(ports)) if ports else 0
    for port in (*ports[start:], *ports[:start]):
        holder = _hold(port)
        if holder is None:
            continue
        try:
            if _bindable(family, address, port):
                return PortLease(port, holder)
        except OSError:
            holder.close()
            raise
        holder.close()
    raise NoFreePort(
        errno.EADDRINUSE,
        f"no free port on {host} among {_describe(ports)} (ephemeral range "
        f"{ephemeral.start}-{ephemeral.stop - 1} excluded)",
    )


def ephemeral_ports(range_file: Path = _RANGE_FILE) -> range:
    """The ports the kernel gives to outgoing connections; Linux's default if unreadable."""
    try:
        low, high = (int(word) for word in range_file.read_text().split())
    except (OSError, ValueError):
        return _LINUX_DEFAULT
    return range(low, high + 1)


def _describe(ports: list[int]) -> str:
    return f"{len(ports)} ports {ports[0]}-{ports[-1]}" if ports else "0 candidate ports"


def _resolve(host: str) -> tuple[socket.AddressFamily, str]:
    info = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return info[0][0], str(info[0][4][0])


def _hold(port: int) -> socket.socket | None:
    """The lease socket of `port`, or None when somebody holds it."""
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(f"\0muster-port-{port}")
    except OSError as error:
        holder.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return holder


def _bindable(family: socket.AddressFamily, address: str, port: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise OSError(error.errno, f"{address}: {os.strerror(error.errno or 0)}") from error
    return True
