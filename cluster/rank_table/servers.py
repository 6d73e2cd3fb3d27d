"""Rules about servers and the devices they use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from cluster.rank_table.draft import Draft, DraftDevice, DraftServer, Fields
from cluster.rank_table.findings import Found
from cluster.rank_table.quoting import shown

_LONGEST_ID = 64
_HIGHEST = 15
_HIGHEST_910A = 7
_RING = 4
_PORTS = ("device_port", "host_port", "backup_device_port")


def ids(draft: Draft) -> Iterator[Found]:
    """Ids of servers."""
    seen: dict[str, str] = {}
    if draft.whole and not draft.servers:
        yield "RT125", "server_list", "an empty list"
    for server in draft.servers:
        name, where = server.server_id, f"{server.path}.server_id"
        if name is None:
            continue
        if not name:
            yield "RT201", where, "''"
        elif len(name) > _LONGEST_ID:
            yield "RT202", where, shown(name)
        if seen.setdefault(name, where) != where:
            yield "RT203", where, f"{shown(name)}, as {seen[name]}"


def counts(draft: Draft) -> Iterator[Found]:
    """How many devices each server has."""
    for server in draft.servers:
        if not server.devices and server.fields.get("device") == []:
            yield "RT204", server.path, "an empty list"
    common = Counter(len(server.devices) for server in draft.servers).most_common(1)
    for server in draft.servers:
        if len(server.devices) != common[0][0]:
            yield "RT205", server.path, f"{len(server.devices)}, elsewhere {common[0][0]}"


def devices(draft: Draft) -> Iterator[Found]:
    """Ids of devices."""
    for server in draft.servers:
        seen: dict[int, str] = {}
        for device in server.devices:
            number, where = device.device_id, f"{device.path}.device_id"
            if number is None:
                continue
            if number > _HIGHEST_910A:
                yield "RT211" if number > _HIGHEST else "RT212", where, str(number)
            if seen.setdefault(number, where) != where:
                yield "RT213", where, f"{number}, as {seen[number]}"


def choices(draft: Draft) -> Iterator[Found]:
    """Which devices of a server are used together."""
    several = sum(len(server.devices) for server in draft.servers) > 1
    for server in draft.servers:
        used = [device.device_id for device in server.devices]
        known = {number for number in used if number is not None}
        if not known or len(known) < len(used):
            continue
        text = ", ".join(map(str, sorted(known)))
        if max(known) <= _HIGHEST_910A:
            if len(known) not in (1, 2, 4, 8):
                yield "RT206", server.path, f"{len(known)} devices: {text}"
            if len(known) < 2 * _RING and len({number // _RING for number in known}) > 1:
                yield "RT207", server.path, text
        alone = sorted(n for n in known if n <= _HIGHEST and n ^ 1 not in known)
        if alone and several:
            yield "RT208", server.path, f"{', '.join(map(str, alone))} alone"


def ports(draft: Draft) -> Iterator[Found]:
    """Ports of servers and devices."""
    for server in draft.servers:
        yield from _ports(server, server.fields)
        for device in server.devices:
            yield from _ports(device, device.fields)


def _ports(holder: DraftServer | DraftDevice, fields: Fields) -> Iterator[Found]:
    for name in _PORTS:
        text = fields.get(name)
        if not isinstance(text, str):
            continue
        digits = text.isascii() and text.isdigit() and len(text) <= len("65535")
        if not digits or not 1 <= int(text) <= 65535:
            yield "RT214", f"{holder.path}.{name}", shown(text)
        elif int(text) < 1024:
            yield "RT215", f"{holder.path}.{name}", text
