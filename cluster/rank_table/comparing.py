"""What two rank tables say differently, whatever the order they list it in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cluster.rank_table.values import Extra, RankTable, TableDevice, TableServer


@dataclass(frozen=True)
class Difference:
    """One thing that differs; None where a table has nothing."""

    where: str
    what: str
    left: str | None
    right: str | None

    def __str__(self) -> str:
        left, right = ("nothing" if text is None else text for text in (self.left, self.right))
        return f"{self.where}: {self.what}: {left} → {right}"


def differences(left: RankTable, right: RankTable) -> tuple[Difference, ...]:
    """Every difference, servers in the order of the left table; none if both mean the same."""
    return tuple(_tables(left, right))


def _tables(left: RankTable, right: RankTable) -> Iterator[Difference]:
    yield from _fields("table", {"version": left.version}, {"version": right.version})
    ours = {server.server_id: server for server in left.servers}
    theirs = {server.server_id: server for server in right.servers}
    for name in ours | theirs:
        yield from _servers(f"server {_shown(name)}", ours.get(name), theirs.get(name))


def _servers(
    where: str, left: TableServer | None, right: TableServer | None
) -> Iterator[Difference]:
    if left is None or right is None:
        yield Difference(where, "server", _size(left), _size(right))
        return
    yield from _fields(where, _of_server(left), _of_server(right))
    ours = {device.device_id: device for device in left.devices}
    theirs = {device.device_id: device for device in right.devices}
    for number in ours | theirs:
        yield from _devices(f"{where} device {number}", ours.get(number), theirs.get(number))


def _devices(
    where: str, left: TableDevice | None, right: TableDevice | None
) -> Iterator[Difference]:
    if left is None or right is None:
        yield Difference(where, "device", _rank(left), _rank(right))
        return
    yield from _fields(where, _of_device(left), _of_device(right))


def _fields(where: str, left: Mapping[str, str], right: Mapping[str, str]) -> Iterator[Difference]:
    for name in {**left, **right}:
        one, other = left.get(name), right.get(name)
        if one != other:
            yield Difference(where, _shown(name), _maybe(one), _maybe(other))


def _of_server(server: TableServer) -> dict[str, str]:
    return _given(server.extra, super_pod=server.super_pod)


def _of_device(device: TableDevice) -> dict[str, str]:
    sdid = None if device.sdid is None else str(device.sdid)
    ips = ",".join(device.ips) or None
    return _given(device.extra, rank_id=str(device.rank), device_ip=ips, super_device_id=sdid)


def _given(extra: Extra, **fields: str | None) -> dict[str, str]:
    return {**dict(extra), **{name: text for name, text in fields.items() if text is not None}}


def _size(server: TableServer | None) -> str | None:
    if server is None:
        return None
    number = len(server.devices)
    return "1 device" if number == 1 else f"{number} devices"


def _rank(device: TableDevice | None) -> str | None:
    return None if device is None else f"rank {device.rank}"


def _maybe(text: str | None) -> str | None:
    return None if text is None else _shown(text)


def _shown(text: str) -> str:
    """As it is, or escaped if it would upset a terminal."""
    return text if text.isprintable() else repr(text)
