"""The answers of `npu-smi info -t TYPE -i N [-c C]`: a tab, a label, a colon, a value. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.simulated.health import health_of
from cluster.simulated.node import SimulatedDevice, SimulatedNode

_Answer = Callable[[SimulatedNode, Sequence[SimulatedDevice], bool], str]
_Pairs = list[tuple[str, object]]
_POD_SIZE, _POD, _SERVER_INDEX = 384, 0, 9


def _health(node: SimulatedNode, chips: Sequence[SimulatedDevice], one: bool) -> str:
    """With -c the health of a chip; without it a summary, whose order of labels is a guess."""
    if not one:
        rows: _Pairs = [*_head(node, chips)]
        for device in chips:
            rows += [("Health", health_of(node, device)[0]), ("Chip ID", device.chip)]
        return _text(rows)
    word, codes = health_of(node, chips[0])
    text = _text([("Health Status", word), ("Error Code", " ".join(codes) or "NA")])
    if not codes:
        return text + _text([("Error Information", "NA")])
    first, *rest = (f"simulated fault {code}" for code in codes)
    lines = (f"\t{'':<30} : {line}\n" for line in rest)
    return text + _text([("Error Information", first)]) + "".join(lines)


def _per_chip(figures: Callable[[SimulatedNode, SimulatedDevice], _Pairs]) -> _Answer:
    def answer(node: SimulatedNode, chips: Sequence[SimulatedDevice], one: bool) -> str:
        rows: _Pairs = [] if one else [*_head(node, chips)]
        for device in chips:
            rows += [*figures(node, device), ("Chip ID", device.chip)]
        return _text(rows)

    return answer


def _usages(node: SimulatedNode, device: SimulatedDevice) -> _Pairs:
    used, total = node.model.ddr
    return [
        ("DDR Capacity(MB)", total),
        ("DDR Usage Rate(%)", 100 * used // total if total else 0),
        ("DDR Hugepages Total(page)", 0),
        ("DDR Hugepages Usage Rate(%)", 0),
        ("HBM Capacity(MB)", node.model.hbm),
        ("HBM Usage Rate(%)", 100 * node.memory(device) // node.model.hbm),
        ("Aicore Usage Rate(%)", 0),
        ("Aicpu Usage Rate(%)", 0),
        ("Ctrlcpu Usage Rate(%)", 0),
        ("DDR Bandwidth Usage Rate(%)", 0),
        ("HBM Bandwidth Usage Rate(%)", 0),
    ]


def _memory(node: SimulatedNode, _: SimulatedDevice) -> _Pairs:
    return [
        ("DDR Capacity(MB)", node.model.ddr[1]),
        ("DDR Clock Speed(MHz)", 0),
        ("HBM Capacity(MB)", node.model.hbm),
        ("HBM Clock Speed(MHz)", 1600),
        ("HBM Temperature(C)", 52),
        ("HBM Manufacturer ID", "0x56"),
    ]


def _common(node: SimulatedNode, device: SimulatedDevice) -> _Pairs:
    return [
        ("Memory Usage Rate(%)", 0),
        ("HBM Usage Rate(%)", 100 * node.memory(device) // node.model.hbm),
        ("Aicore Usage Rate(%)", 0),
        ("Temperature(C)", 43),
        ("NPU Real-time Power(W)", 101.8),
    ]


def _board(node: SimulatedNode, chips: Sequence[SimulatedDevice], one: bool) -> str:
    device = chips[0]
    rows: _Pairs = [("NPU ID", node.shown_card(device))]
    if one and node.model.chips == 1:
        rows += [("Chip Type", "Ascend")]
    if one:
        rows += [("Chip Name", node.model.name)]
    else:
        rows += [
            ("Software Version", "24.1.rc3 (simulated by muster)"),
            ("PCI Vendor ID", "0x19E5"),
            ("PCI Device ID", node.model.pci_device),
            ("Chip Count", node.model.chips),
        ]
    return _text([*rows, ("PCIe Bus Info", device.bus_id)])


def _super_pod(node: SimulatedNode, chips: Sequence[SimulatedDevice], one: bool) -> str:
    """Labels by documentation, their spelling and order not verified; the numbers are made up."""
    rows: _Pairs = []
    for device in chips:
        rows += [] if one else [("NPU ID", node.shown_card(device)), ("Chip ID", device.chip)]
        rows += [
            ("SDID", sdid_of(device)),
            ("Super Pod Size", _POD_SIZE),
            ("Super Pod ID", _POD),
            ("Server Index", _SERVER_INDEX),
        ]
    return _text(rows)


def sdid_of(device: SimulatedDevice) -> int:
    """The bits of MindCluster's fault diagnosis: server 31-22, card 21-18, chip 17-16, id below.

    It puts the physical id into bits 15-2; the SDIDs of its documents have it in 15-0, as here.
    """
    return _SERVER_INDEX << 22 | device.card << 18 | device.chip << 16 | device.physical


def _processes(node: SimulatedNode, chips: Sequence[SimulatedDevice], one: bool) -> str:
    rows = [
        f"\tProcess id:{p.pid:<7} Process name:{p.name:<24} Process memory(MB):{p.memory}\n"
        for device in chips
        for p in node.processes(device)
    ]
    return "".join(rows) or "\tNo process in device.\n"


def _head(node: SimulatedNode, chips: Sequence[SimulatedDevice]) -> _Pairs:
    return [("NPU ID", node.shown_card(chips[0])), ("Chip Count", node.model.chips)]


def _text(rows: _Pairs) -> str:
    return "".join(f"\t{label:<30} : {value}\n" for label, value in rows)


TYPES: dict[str, _Answer] = {
    "health": _health,
    "usages": _per_chip(_usages),
    "memory": _per_chip(_memory),
    "common": _per_chip(_common),
    "board": _board,
    "proc-mem": _processes,
}
"""Type to its answer; the other types of the real tool are refused as not supported."""

A3_TYPES: dict[str, _Answer] = {"spod-info": _super_pod}
"""Types that other models refuse."""
