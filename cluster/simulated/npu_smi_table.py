"""The main table of the simulated npu-smi, in both widths that exist. Pure.

Form a is 98 columns wide (tools up to about 25.5, all samples found), form b one more (source
of 2026). The field `Version` says that it is simulated: a real tool prints only numbers there.
"""

from __future__ import annotations

from collections.abc import Iterator

from cluster.simulated.health import health_of
from cluster.simulated.node import SimulatedDevice, SimulatedNode

VERSIONS = {"a": "24.1.rc3", "b": "26.0.rc1"}
_WIDTHS = {"a": (27, 15, 52), "b": (27, 15, 53)}


def main_table(node: SimulatedNode) -> str:
    """What `npu-smi info` prints: devices, then processes by card."""
    return "\n".join([*_devices(node), *_processes(node), ""])


def _devices(node: SimulatedNode) -> Iterator[str]:
    wide = node.form == "b"
    version = VERSIONS[node.form]
    yield _line(node)
    title = f"| npu-smi {version:<24} Version: {version + ' (simulated by muster)':<52} "
    yield title + (" |" if wide else "|")
    yield _rule(node, "-")
    yield _row(
        node,
        "NPU   Name",
        "Health",
        "Power(W)    Temp(C)           Hugepages-Usage(page)",
    )
    first = "Chip  Phy-ID" if node.model.chips > 1 else "Chip"
    yield _row(node, first, "Bus-Id", "AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)")
    yield _rule(node, "=")
    for device in node.listed:
        yield from _device(node, device)
        last = device.chip == node.model.chips - 1
        yield _rule(node, "=") if last else _line(node)


def _device(node: SimulatedNode, device: SimulatedDevice) -> Iterator[str]:
    power = "-" if device.chip else "101.8"
    pages = f"{0:<6}/ {0:<13}" if node.form == "b" else f"{0:<5}/ {0:<13}"
    yield (
        f"| {node.shown_card(device):<5} {node.model.table_name:<20}"
        f"| {health_of(node, device)[0]:<13} | {power:<11} {43:<17} {pages} |"
    )
    ids = f"{device.chip:<26}"
    if node.model.chips > 1:
        ids = f"{device.chip:<5} {device.physical:<20}"
    used, total = node.model.ddr
    extra = " " if node.form == "b" else ""
    yield (
        f"| {ids}| {device.bus_id:<13} | {0:<11} {used:<5}/ {total:<10} "
        f"{node.memory(device):<5}/ {node.model.hbm:<13}{extra} |"
    )


def _processes(node: SimulatedNode) -> Iterator[str]:
    wide = node.form == "b"
    memory = 24 if wide else 23
    yield _rule(node, "-")
    yield (
        "| NPU     Chip              | Process id    | Process name             "
        f"| {'Process memory(MB)':<{memory}} |"
    )
    yield _rule(node, "=")
    for card in sorted({node.shown_card(device) for device in node.listed}):
        chips = [d for d in node.listed if node.shown_card(d) == card]
        rows = [(d.chip, process) for d in chips for process in node.processes(d)]
        for chip, process in rows:
            yield (
                f"| {card:<7} {chip:<18}| {process.pid:<13} | {process.name:<24} "
                f"| {process.memory:<{memory}} |"
            )
        if not rows:
            yield f"| No running processes found in NPU {card:<7}{'':<{55 if wide else 54}}|"
        yield _rule(node, "=")


def _row(node: SimulatedNode, *cells: str) -> str:
    widths = _WIDTHS[node.form]
    held = (f" {cell:<{width - 1}}" for cell, width in zip(cells, widths, strict=True))
    return "|" + "|".join(held) + "|"


def _rule(node: SimulatedNode, stroke: str) -> str:
    return "+" + "+".join(stroke * width for width in _WIDTHS[node.form]) + "+"


def _line(node: SimulatedNode) -> str:
    return "+" + "-" * (sum(_WIDTHS[node.form]) + 2) + "+"
