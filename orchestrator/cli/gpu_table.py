"""The table of GPUs in `muster devices`, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.device import Fabric
from cluster.gpu import topology
from cluster.gpu.report import GpuNodeReport, GpuReport
from cluster.gpu.values import Gpu
from cluster.measured import Unmeasured

_WIDE = 170
"""Columns of a terminal that hold the whole table; in a narrower one it is two."""


def show(console: Console, report: GpuNodeReport) -> None:
    """One line where there is no GPU; else the table, how they are joined, what keeps them away."""
    if not report.devices:
        _say(console, f"No GPUs: {report.why}", "red" if report.failed else "")
        return
    _say(console, f"NVIDIA driver {_text(report.driver)}, for CUDA up to {_text(report.cuda)}")
    _show_tables(console, report)
    _say(console, f"joined: {_joined(report)}")
    for names, why in _grouped((one.gpu, one.withheld) for one in report.devices):
        _say(console, f"not to be used: {names}: {why}", "red")
    for names, why in _grouped((one.gpu, c) for one in report.devices for c in one.concerns):
        _say(console, f"{names}: {why}", "yellow")
    for problem in report.problems:
        _say(console, problem, "yellow")


def _show_tables(console: Console, report: GpuNodeReport) -> None:
    whole = tuple(dict.fromkeys(_STATE + _PLACE))
    for columns in (whole,) if console.width >= _WIDE else (_STATE, _PLACE):
        table = Table(box=None, header_style="bold")
        for name in columns:
            table.add_column(name, overflow="fold")
        for one in report.devices:
            table.add_row(*(_cell(_COLUMNS[name](one)) for name in columns))
        console.print(table)


def _memory(one: GpuReport) -> object:
    memory = one.gpu.memory
    if isinstance(memory, Unmeasured):
        return memory
    return f"{memory.used / 1024:.1f}/{memory.total / 1024:.0f} GB"


def _errors(one: GpuReport) -> object:
    """Uncorrected ECC errors since the driver was loaded, where ECC is on."""
    ecc = one.gpu.ecc
    return "off" if not isinstance(ecc, Unmeasured) and not ecc.on else one.gpu.uncorrected


def _temperature(one: GpuReport) -> object:
    degrees = one.gpu.temperature
    return degrees if isinstance(degrees, Unmeasured) else f"{degrees} °C"


def _links(one: GpuReport) -> object:
    links = one.gpu.nvlinks
    return links if isinstance(links, Unmeasured) else f"{links.active}/{links.total}"


def _processes(one: GpuReport) -> object:
    held = one.gpu.processes
    if isinstance(held, Unmeasured):
        return held
    return ", ".join(f"{p.name} {p.pid}".strip() for p in held) or "-"


_COLUMNS: dict[str, Callable[[GpuReport], object]] = {
    "device": lambda one: f"gpu:{one.gpu.index}",
    "model": lambda one: one.gpu.name,
    "for jobs": lambda one: "no" if one.withheld else "yes",
    "memory": _memory,
    "ECC errors": _errors,
    "temperature": _temperature,
    "processes": _processes,
    "NUMA": lambda one: one.gpu.numa,
    "bus id": lambda one: one.gpu.bus_id,
    "NVLinks": _links,
    "uuid": lambda one: one.gpu.uuid,
}
_STATE = ("device", "model", "for jobs", "memory", "ECC errors", "temperature", "processes")
_PLACE = ("device", "NUMA", "bus id", "NVLinks", "uuid")


def _joined(report: GpuNodeReport) -> str:
    """Every pair alike in one word; else each word with its pairs, the closest first."""
    pairs: dict[int, list[str]] = {}
    for one in report.devices:
        for other, number in one.gpu.near:
            if one.gpu.index < other:
                pairs.setdefault(number, []).append(f"{one.gpu.index}-{other}")
    if not pairs:
        return "alone" if len(report.devices) == 1 else "not measured"
    if report.fabric is Fabric.MESH:
        return f"every pair by {topology.describe(next(iter(pairs)))}"
    told = sorted(pairs.items(), reverse=True)
    return "; ".join(f"{topology.describe(number)}: {', '.join(held)}" for number, held in told)


def _grouped(reasons: Iterable[tuple[Gpu, str]]) -> Iterable[tuple[str, str]]:
    """GPUs that share a reason, named together."""
    groups: dict[str, list[str]] = {}
    for gpu, why in reasons:
        if why:
            groups.setdefault(why, []).append(str(gpu.index))
    return ((f"gpu:{','.join(names)}", why) for why, names in groups.items())


def _cell(value: object) -> Text:
    style = "dim" if isinstance(value, Unmeasured) else "red" if value == "no" else ""
    return Text(_text(value), style=style)


def _text(value: object) -> str:
    return "?" if isinstance(value, Unmeasured) else str(value)


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)
