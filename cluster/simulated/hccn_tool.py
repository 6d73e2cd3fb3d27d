"""The simulated hccn_tool: `hccn_tool -i PHYSICAL_ID -ITEM -g` to text and exit code. Pure.

Texts come from documents and published test data of others. Exit codes, and what the tool says
of a device that is not there or to somebody without permission, are our guess.
"""

from __future__ import annotations

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
    if len(arguments) < 4 or arguments[0] != "-i" or arguments[-1] != "-g":
        return Answer(code=_FAILED, errors="hccn_tool: simulated are: -i N -ITEM -g\n")
    found = [d for d in node.listed if str(d.physical) == arguments[1]]
    item = " ".join(arguments[2:-1])
    if not found:
        return Answer(code=_FAILED, errors=f"hccn_tool: no device {arguments[1]} (simulated)\n")
    if item not in _ITEMS:
        known = ", ".join(_ITEMS)
        return Answer(code=_FAILED, errors=f"hccn_tool: {item} is not simulated, but {known}\n")
    if node.fault("hang", found[0].physical):
        return HANGS
    return Answer(_ITEMS[item](node, found[0]))


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


_ITEMS: dict[str, Callable[[SimulatedNode, SimulatedDevice], str]] = {
    "-ip": _ip,
    "-ip -inet6": lambda node, device: "",
    "-link": _link,
    "-net_health": _net_health,
    "-speed": _speed,
    "-fec": lambda node, device: "fec mode: rs FEC mode\n",
    "-tls": lambda node, device: (
        f"dev_id:{device.physical}, tls switch[0](0:disable, 1:enable), "
        "tls preconfigured[1](0:non-preset, 1:preset), tls alarm time threshold[60]days\n"
    ),
}
