"""The simulated npu-smi: a node and arguments to text and exit code. Pure.

Formats and exit codes follow the tool's published source. Not verified on hardware, and our
guess: the text of a refusal for want of permission, the code for a card that is not there,
the matrix of a 910A across its rings, the spelling of `spod-info`, and what a container that
renumbers devices is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.simulated.answer import HANGS, Answer
from cluster.simulated.node import SimulatedDevice, SimulatedNode
from cluster.simulated.npu_smi_table import main_table
from cluster.simulated.npu_smi_types import A3_TYPES, TYPES

# What a shell sees of the tool's negative codes: modulo 256.
_INVALID = 215  # -9001
_NOT_PERMITTED = 214  # -9002
_NO_DEVICE = 208  # -9008
_NOT_SUPPORTED = 217  # -9255
_DRIVER_DOWN = 187  # -8005

_USAGE = "Usage: npu-smi info <watch|proc|-h|-m|-l|-t type> [Options...]\n"


def answer(node: SimulatedNode, arguments: Sequence[str]) -> Answer:
    """What `npu-smi ARGUMENTS` does on this node."""
    if node.fault("hang"):
        return HANGS
    if node.fault("driver-down"):
        return Answer("dcmi module initialize failed. ret is -8005\n", _DRIVER_DOWN)
    if node.fault("denied"):
        return Answer("Operation not permitted.\n", _NOT_PERMITTED)
    if not arguments or arguments[0] != "info":
        return Answer(_USAGE, _INVALID)
    options = _options(arguments[1:])
    if options is None:
        return Answer(_USAGE, _INVALID)
    if options in _PLAIN:
        return Answer(_PLAIN[options](node))
    return _typed(node, dict(options))


def _options(arguments: Sequence[str]) -> tuple[tuple[str, str], ...] | None:
    """Options in any order as sorted pairs; None where one is not understood."""
    found: dict[str, str] = {}
    waiting = list(arguments)
    while waiting:
        name = waiting.pop(0)
        takes = name in ("-t", "-i", "-c")
        if (not takes and name not in ("-l", "-m")) or (takes and not waiting):
            return None
        found[name] = waiting.pop(0) if takes else ""
    return tuple(sorted(found.items()))


def _typed(node: SimulatedNode, options: dict[str, str]) -> Answer:
    kind = options.get("-t", "")
    if kind == "topo" and set(options) == {"-t"}:
        return Answer(_topology(node))
    types = TYPES | A3_TYPES if node.model.chips > 1 else TYPES
    if kind not in types:
        return Answer(f"This device does not support querying {kind}.\n", _NOT_SUPPORTED)
    chips = _chips(node, options.get("-i"), options.get("-c"))
    if not chips:
        return Answer(f"Invalid card id.\nError parameter of -i\n{_USAGE}", _INVALID)
    if any(node.fault("hang", device.physical) for device in chips):
        return HANGS
    return Answer(types[kind](node, chips, "-c" in options))


def _chips(node: SimulatedNode, card: str | None, chip: str | None) -> list[SimulatedDevice]:
    return [
        device
        for device in node.listed
        if str(node.shown_card(device)) == card and chip in (None, str(device.chip))
    ]


def _listing(node: SimulatedNode) -> str:
    cards = sorted({node.shown_card(device) for device in node.listed})
    if not cards:
        return "\tThere is no NPU card on this server.\n"
    rows = [_pair("Total Count", len(cards)), "\n"]
    for card in cards:
        rows += [_pair("NPU ID", card), _pair("Chip Count", node.model.chips), "\n"]
    return "".join(rows)


def _mapping(node: SimulatedNode) -> str:
    """Ids of all chips, with a row for each card's management unit."""
    a3 = node.model.chips > 1
    columns = ["NPU ID", "Chip ID", "Chip Logic ID", *(["Chip Phy-ID"] if a3 else []), "Chip Name"]
    rows = [columns]
    for device in node.listed:
        card, physical = node.shown_card(device), [str(device.physical)] if a3 else []
        rows.append(
            [str(card), str(device.chip), str(node.logical(device)), *physical, node.model.map_name]
        )
        if device.chip == node.model.chips - 1:
            rows.append([str(card), str(device.chip + 1), "-", *(["-"] if a3 else []), "Mcu"])
    return "".join("\t" + " ".join(f"{cell:<30}" for cell in row) + "\n" for row in rows)


def _topology(node: SimulatedNode) -> str:
    """The matrix of all devices; on A3 by physical ids and without CPUs."""
    a3 = node.model.chips > 1
    names = [f"Phy-ID{d.physical:<5}" if a3 else f"NPU{node.shown_card(d):<8}" for d in node.listed]
    lines = ["\t   " + "".join(names) + ("" if a3 else "CPU Affinity")]
    for name, device in zip(names, node.listed, strict=True):
        cells = "".join(f"{_joined(node, device, other):<11}" for other in node.listed)
        first = device.numa * 24
        lines.append("\t" + name + cells + ("" if a3 else f"{first}-{first + 23}"))
    return "\n".join([*lines, "", "Legend:", "", "\tX    = Self", "\tHCCS = ring", ""])


def _joined(node: SimulatedNode, one: SimulatedDevice, other: SimulatedDevice) -> str:
    if one is other:
        return "X"
    if node.model.chips > 1:
        return "SIO" if one.card == other.card else "HCCS_SW"
    return "HCCS" if one.physical // node.model.ring == other.physical // node.model.ring else "SYS"


def _pair(label: str, value: object) -> str:
    return f"\t{label:<30} : {value}\n"


_PLAIN: dict[tuple[tuple[str, str], ...], Callable[[SimulatedNode], str]] = {
    (): main_table,
    (("-l", ""),): _listing,
    (("-m", ""),): _mapping,
}
