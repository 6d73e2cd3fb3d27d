"""Rules about addresses of devices and hosts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from cluster.rank_table.draft import Draft, DraftDevice
from cluster.rank_table.findings import Found
from cluster.rank_table.quoting import shown

Address = IPv4Address | IPv6Address

_WORDS = re.compile(r"[-.:\s]+|none|null|n/?a|nan|.*(?:fail|error|not found|denied).*", re.I | re.S)
_LONGEST = 1000
"""Characters of a field that is looked into: a few addresses have fewer."""

_EVERYBODY = IPv4Address("255.255.255.255")


def present(draft: Draft) -> Iterator[Found]:
    """Whether devices have an address where they need one."""
    if draft.pods:
        code = "RT301" if len(draft.pods) > 1 else "RT303"
    else:
        code = "RT301" if len(draft.servers) > 1 else "RT302"
    for device in draft.devices():
        if "device_ip" not in device.fields:
            yield code, f"{device.path}.device_ip", "nothing"


def written(draft: Draft) -> Iterator[Found]:
    """Whether addresses are such."""
    for device in draft.devices():
        for name in ("device_ip", "backup_device_ip"):
            text = device.text(name)
            where = f"{device.path}.{name}"
            if text == "" and name == "device_ip":
                yield "RT304", where, "''"
            elif text:
                yield from _written(text, where)


def _written(text: str, where: str) -> Iterator[Found]:
    if _WORDS.fullmatch(text):
        yield "RT305", where, shown(text)
        return
    for part in _parts(text):
        address = parsed(part)
        if address is None:
            yield "RT306", where, shown(part)
        elif _is_nobodys(address):
            yield "RT307", where, shown(part)


def compared(draft: Draft) -> Iterator[Found]:
    """Addresses of all devices beside each other."""
    found = [(device, _addresses(device)) for device in draft.devices()]
    good = [(device, addresses) for device, addresses in found if addresses]
    yield from _twice(good)
    yield from _numbers(good)
    places = [
        (f"{device.path}.device_ip", address) for device, addresses in good for address in addresses
    ]
    yield from _families("RT310" if len(draft.servers) > 1 else "RT311", places)


def hosts(draft: Draft) -> Iterator[Found]:
    """Addresses of hosts, of which some tools write empty ones."""
    holders = [(server.path, server.fields) for server in draft.servers]
    holders += [(device.path, device.fields) for device in draft.devices()]
    places: list[tuple[str, Address]] = []
    for path, fields in holders:
        text = fields.get("host_ip")
        if not isinstance(text, str) or not text:
            continue
        if (address := parsed(text)) is None:
            yield "RT313", f"{path}.host_ip", shown(text)
        else:
            places.append((f"{path}.host_ip", address))
    if len(draft.servers) > 1:
        yield from _families("RT312", places)


def parsed(text: str) -> Address | None:
    """The address that a text is, all of it and nothing else."""
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None


def _addresses(device: DraftDevice) -> list[Address]:
    """Those of a device; none if one of them is not an address."""
    parts = [parsed(part) for part in _parts(device.text("device_ip") or "")]
    good = [address for address in parts if address is not None]
    return good if len(good) == len(parts) else []


def _parts(text: str) -> list[str]:
    return text.split(",") if len(text) <= _LONGEST else [text]


def _is_nobodys(address: Address) -> bool:
    special = address.is_unspecified or address.is_loopback or address.is_multicast
    return special or address == _EVERYBODY


def _twice(good: list[tuple[DraftDevice, list[Address]]]) -> Iterator[Found]:
    seen: dict[Address, DraftDevice] = {}
    for device, addresses in good:
        for address in addresses:
            if address in seen:
                where = f"{device.path}.device_ip"
                yield "RT308", where, f"{address}, as {seen[address].path}.device_ip"
            seen.setdefault(address, device)


def _numbers(good: list[tuple[DraftDevice, list[Address]]]) -> Iterator[Found]:
    common = Counter(len(addresses) for _, addresses in good).most_common(1)
    for device, addresses in good:
        if len(addresses) != common[0][0]:
            found = f"{len(addresses)}, elsewhere {common[0][0]}"
            yield "RT309", f"{device.path}.device_ip", found


def _families(code: str, places: list[tuple[str, Address]]) -> Iterator[Found]:
    """Those that are not of the commoner family."""
    common = Counter(address.version for _, address in places).most_common(1)
    for where, address in places:
        if address.version != common[0][0]:
            yield code, where, f"{address}, elsewhere IPv{common[0][0]}"
