"""What could be read of a table, with the places it was read from; None where nothing could."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cluster.rank_table.values import Extra, RankTable, TableDevice, TableServer
from cluster.rank_table.writing import NIC

Fields = Mapping[str, object]

_OF_DEVICE = frozenset({"device_id", "device_ip", "rank_id", "super_device_id"})
_OF_SERVER = frozenset({"server_id", "device"})


@dataclass(frozen=True, slots=True)
class DraftDevice:
    """A device; `fields` is the whole object of the file."""

    path: str
    device_id: int | None
    rank: int | None
    sdid: int | None
    fields: Fields

    def text(self, name: str) -> str | None:
        """A field, if it is there and a text."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class DraftServer:
    """A server; `fields` is the whole object of the file."""

    path: str
    server_id: str | None
    devices: tuple[DraftDevice, ...]
    fields: Fields


@dataclass(frozen=True, slots=True)
class DraftPod:
    """A super-pod: the servers that it names, with their places."""

    path: str
    pod_id: str | None
    servers: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Draft:
    """A table as far as it could be read; the legacy form is of version 1.0.

    `pods` is None if the table has none that count. `whole` is False if a list, or a part of one,
    was lost: what is missing then may have been in it.
    """

    version: str
    servers: tuple[DraftServer, ...]
    pods: tuple[DraftPod, ...] | None
    whole: bool

    def devices(self) -> Iterator[DraftDevice]:
        """All devices, as listed."""
        return (device for server in self.servers for device in server.devices)

    def table(self) -> RankTable | None:
        """The table, if nothing of it is missing."""
        pods = {name: pod.pod_id for pod in self.pods or () for _, name in pod.servers}
        servers = tuple(_server(server, pods.get(server.server_id)) for server in self.servers)
        complete = tuple(server for server in servers if server is not None)
        return RankTable(self.version, complete) if len(complete) == len(servers) else None


def _server(server: DraftServer, pod: str | None) -> TableServer | None:
    devices = tuple(device for device in map(_device, server.devices) if device is not None)
    if server.server_id is None or len(devices) < len(server.devices):
        return None
    return TableServer(server.server_id, devices, pod, _extra(server.fields, _OF_SERVER))


def _device(device: DraftDevice) -> TableDevice | None:
    if device.device_id is None or device.rank is None:
        return None
    text = device.text("device_ip")
    ips = () if text is None else tuple(text.split(","))
    extra = _extra(device.fields, _OF_DEVICE)
    return TableDevice(device.device_id, device.rank, ips, device.sdid, extra)


def _extra(fields: Fields, own: frozenset[str]) -> Extra:
    """Single values that have no place of their own; a number becomes the text it should be."""
    further = ((name, value) for name, value in fields.items() if name not in own)
    texts = (
        (name, str(value))
        for name, value in further
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    )
    return tuple(pair for pair in texts if pair != NIC)
