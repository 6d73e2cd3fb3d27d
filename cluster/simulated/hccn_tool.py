"""The simulated hccn_tool: `hccn_tool -i PHYSICAL_ID -ITEM -g` to text and exit code. Pure.

Texts come from documents and published test data of others. Exit codes, and what the tool says
of a device that is not there or to somebody without permission, are our guess; so is what a ping
says that nobody answers. Every device has a gateway, its subnet's first address, that answers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from cluster.simulated.answer import HANGS, Answer
from cluster.simulated.node import SimulatedDevice, SimulatedNode

_FAILED = 1


def answer(node: SimulatedNode, arguments: Sequence[str]) -> Answer:
    """What `hccn_tool ARGUMENTS` does on this node."""
    if node.fault("hang"):
        return HANGS
    if node.fault("denied"):
        return Answer(code=_FAILED, errors="hccn_tool: Operation not permitted (simulated)\n")
    if len(arguments) < 4 or arguments[0] != "-i":
        return Answer(code=_FAILED, errors="hccn_tool: simulated are: -i N -ITEM -g\n")
    found = [d for d in node.listed if str(d.physical) == arguments[1]]
    if found and tuple(arguments[2:5]) == _PING and len(arguments) == 6:
        return _ping(node, found[0], arguments[5])
    if arguments[-1] != "-g":
        return Answer(code=_FAILED, errors="hccn_tool: simulated are: -i N -ITEM -g\n")
    item = " ".join(arguments[2:-1])
    if not found:
        return Answer(code=_FAILED, errors=f"hccn_tool: no device {arguments[1]} (simulated)\n")
    if item not in _ITEMS:
        known = ", ".join(_ITEMS)
        return Answer(code=_FAILED, errors=f"hccn_tool: {item} is not simulated, but {known}\n")
    if node.fault("hang", found[0].physical):
        return HANGS
    return Answer(_ITEMS[item](node, found[0]))


def _ping(node: SimulatedNode, device: SimulatedDevice, address: str) -> Answer:
    """Three echoes, or none."""
    if node.fault("hang", device.physical):
        return HANGS
    received = 3 if _reaches(node, device, address) else 0
    lines = [
        f"device {device.physical} PING {address}",
        *(f"recv seq={number},time=0.114000ms" for number in range(received)),
        f"3 packets transmitted, {received} received, {0 if received else 100:.2f}% packet loss",
    ]
    return Answer("\n".join([*lines, ""]))


def _reaches(node: SimulatedNode, device: SimulatedDevice, address: str) -> bool:
    """Gateways answer, and devices whose port is well, to a device whose port is well."""
    peers = [d for d in node.listed if d.ip == address]
    known = peers or address in {_gateway(d) for d in node.listed if d.ip}
    return bool(known) and all(_connected(node, one) for one in (device, *peers))


def _connected(node: SimulatedNode, device: SimulatedDevice) -> bool:
    faults = ("link-down", "unreachable", "no-ip", "dashes-ip")
    return bool(device.ip) and not any(node.fault(kind, device.physical) for kind in faults)


def _gateway(device: SimulatedDevice) -> str:
    return str(ipaddress.ip_network(f"{device.ip}/24", strict=False)[1])


def _ip(node: SimulatedNode, device: SimulatedDevice) -> str:
    if node.fault("dashes-ip", device.physical):
        return "ipaddr:-.-.-.-\nnetmask:-.-.-.-\n"
    if not device.ip or node.fault("no-ip", device.physical):
        return ""
    return f"ipaddr:{device.ip}\nnetmask:255.255.255.0\n"


def _link(node: SimulatedNode, device: SimulatedDevice) -> str:
    return f"link status: {'DOWN' if _down(node, device) else 'UP'}\n"


def _net_health(node: SimulatedNode, device: SimulatedDevice) -> str:
    bad = node.fault("unreachable", device.physical)
    return f"net health status: {'Unreachable' if bad else 'Success'}\n"


def _speed(node: SimulatedNode, device: SimulatedDevice) -> str:
    return "Speed: Unknown!\n" if _down(node, device) else "Speed: 100000 Mb/s\n"


def _down(node: SimulatedNode, device: SimulatedDevice) -> bool:
    return node.fault("link-down", device.physical) is not None


_PING = ("-ping", "-g", "address")
_ITEMS: dict[str, Callable[[SimulatedNode, SimulatedDevice], str]] = {
    "-ip": _ip,
    "-ip -inet6": lambda node, device: "",
    "-link": _link,
    "-net_health": _net_health,
    "-speed": _speed,
    "-gateway": lambda node, device: (
        f"default gateway:{_gateway(device)}, Iface:eth{device.physical}\n" if device.ip else ""
    ),
    "-netdetect": lambda node, device: (
        f"netdetect address: {_gateway(device)}\n" if device.ip else ""
    ),
    "-fec": lambda node, device: "fec mode: rs FEC mode\n",
    "-tls": lambda node, device: (
        f"dev_id:{device.physical}, tls switch[0](0:disable, 1:enable), "
        "tls preconfigured[1](0:non-preset, 1:preset), tls alarm time threshold[60]days\n"
    ),
}
