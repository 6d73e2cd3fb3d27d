"""What hccn_tool and /etc/hccn.conf say of a device's network port. Pure; nothing raises.

hccn_tool's source is not public: these formats come from documents and published test data of
others. Empty output is a failure to state something. Where an address was asked for, it and
`-.-.-.-` mean that none is configured; other words are those of a tool that failed.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from dataclasses import dataclass
from typing import TypeVar

from cluster.ascend.values import Absent, Link, Measured, NetHealth, Unmeasured

_Word = TypeVar("_Word", bound=enum.Enum)
_DASHES = "-.-.-.-"
_PING = re.compile(r"(\d{1,6}) packets transmitted, (\d{1,6}) received", re.ASCII)
_KEY = re.compile(r"address_(\d{1,6})", re.ASCII)


def parse_address(text: str) -> Measured[str]:
    """The address of `hccn_tool -i N -ip -g`; Absent if it says that there is none."""
    found = _values(text, "ipaddr")
    if found == [_DASHES]:
        return Absent(f"hccn_tool prints {_DASHES}: none is configured")
    if len(found) == 1:
        return _address(found[0])
    if not text.strip():
        return Absent("hccn_tool prints no address: none is configured")
    return Unmeasured(f"hccn_tool prints no address: {text.strip()[:60]!r}")


def parse_link(text: str) -> Measured[Link]:
    """The state of `hccn_tool -i N -link -g`."""
    return _stated(text, "link status", Link, "link")


def parse_net_health(text: str) -> Measured[NetHealth]:
    """The word of `hccn_tool -i N -net_health -g`."""
    return _stated(text, "net health status", NetHealth, "health of the network")


@dataclass(frozen=True)
class Ping:
    """Echoes that a device's port sent to an address, and how many came back."""

    address: str
    sent: int
    received: int


def parse_gateway(text: str) -> Measured[str]:
    """The address of `hccn_tool -i N -gateway -g`."""
    return _one_address([value.partition(",")[0] for value in _values(text, "default gateway")])


def parse_netdetect(text: str) -> Measured[str]:
    """The address of `hccn_tool -i N -netdetect -g`, which net_health asks."""
    return _one_address(_values(text, "netdetect address"))


def _one_address(found: list[str]) -> Measured[str]:
    return _address(found[0]) if len(found) == 1 else Unmeasured("none is configured")


def parse_ping(text: str, address: str) -> Measured[Ping]:
    """The counts of `hccn_tool -i N -ping -g address A`; the times of echoes are left out."""
    found = _PING.findall(text)
    if len(found) != 1 or int(found[0][1]) > int(found[0][0]):
        return Unmeasured(f"hccn_tool states no result of a ping: {text.strip()[:60]!r}")
    return Ping(address, int(found[0][0]), int(found[0][1]))


def _stated(text: str, key: str, kind: type[_Word], what: str) -> Measured[_Word]:
    """The one word of `kind` that `text` gives for `key`."""
    found = _values(text, key)
    for word in kind:
        if found == [word.value]:
            return word
    return Unmeasured(f"hccn_tool states no {what}: {text.strip()[:60]!r}")


def parse_configuration(text: str) -> tuple[dict[int, str], tuple[str, ...]]:
    """Addresses by physical id of /etc/hccn.conf, and its mistakes; other keys are not ours."""
    addresses: dict[int, str] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        key, _, value = line.partition("=")
        match = _KEY.fullmatch(key.strip())
        if match is None:
            continue
        device, address = int(match[1]), _address(value.strip())
        if isinstance(address, Unmeasured):
            problems.append(f"/etc/hccn.conf, line {number}: {address.why}")
        elif addresses.setdefault(device, address) != address:
            problems.append(f"/etc/hccn.conf, line {number}: another address for device {device}")
    return addresses, tuple(problems[:50])


def _values(text: str, label: str) -> list[str]:
    split = (line.partition(":") for line in text.splitlines())
    return [value.strip() for name, _, value in split if name.strip() == label]


def _address(text: str) -> Measured[str]:
    """IPv4 or IPv6, but none that a port cannot have."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return Unmeasured(f"{text[:40]!r} is not an address")
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        return Unmeasured(f"{text[:40]!r} is not the address of a port")
    return str(address)
