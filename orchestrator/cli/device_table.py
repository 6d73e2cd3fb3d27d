"""The tables of `muster devices`, for people."""

from __future__ import annotations

import enum
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.ascend.report import DeviceReport, NodeReport
from cluster.ascend.values import Health, Unmeasured
from cluster.cpu import CpuBudget, format_cpu_list
from cluster.gpu.report import GpuNodeReport
from cluster.simulated.directory import VARIABLE
from cluster.simulated.faults import KINDS
from orchestrator.cli import gpu_table

_HEALTH_STYLES = {Health.OK: "green", Health.WARNING: "yellow"}
_PIPE_WIDTH = 160
_WIDE = 128
"""Columns of a terminal that hold the whole table; in a narrower one it is two."""


def show(
    report: NodeReport,
    cpus: CpuBudget,
    gpus: GpuNodeReport | None = None,
    withheld: Iterable[Mapping[str, str]] = (),
) -> None:
    """All devices, the CPUs, and what keeps devices from jobs; `withheld` by the device's name."""
    console = _console()
    if report.tool is None:
        console.print("No Ascend devices: npu-smi was not found. Looked for")
        for place in report.looked_for:
            console.print(f"  {place}", highlight=False, markup=False)
    else:
        _show_devices(console, report)
    if gpus is not None:
        gpu_table.show(console, gpus)
    for name, why in (pair for reasons in withheld for pair in reasons.items()):
        _say(console, f"not to be used: {name}: {why}", "red")
    _show_cpus(console, cpus)


def _console() -> Console:
    """As wide as the terminal; wide enough for a table where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)


def _show_devices(console: Console, report: NodeReport) -> None:
    if report.simulated:
        _say(console, f"simulated node {report.simulated}: nothing here is hardware", "yellow")
    if report.devices:
        _show_tables(console, report)
    elif report.answered:
        _say(console, "npu-smi lists no device")
    for names, why in _grouped((d, d.withheld) for d in report.devices):
        _say(console, f"not to be used: {names}: {why}", "red")
    for names, why in _grouped((d, c) for d in report.devices for c in d.concerns):
        _say(console, f"{names}: {why}", "yellow")
    told = {device.withheld for device in report.devices}
    for problem in report.problems:
        if problem not in told:
            _say(console, problem, "yellow")


def _show_tables(console: Console, report: NodeReport) -> None:
    """One table, or two where one would not fit."""
    kind = "simulated" if report.simulated else "hardware"
    whole = tuple(dict.fromkeys(_STATE + _PLACE))
    for columns in (whole,) if console.width >= _WIDE else (_STATE, _PLACE):
        table = Table(*columns, "kind", box=None, header_style="bold")
        for device in report.devices:
            table.add_row(*(_cell(_COLUMNS[name](device)) for name in columns), Text(kind))
        console.print(table)


def _memory(device: DeviceReport) -> object:
    memory = device.memory
    if isinstance(memory, Unmeasured):
        return memory
    return f"{memory.used / 1024:.1f}/{memory.total / 1024:.0f} GB"


def _address(device: DeviceReport) -> object:
    """The address; one that only a file names says so."""
    written = device.ip_source.startswith("/")
    return f"{device.ip} (file)" if written else device.ip


def _processes(device: DeviceReport) -> object:
    if isinstance(device.processes, Unmeasured):
        return device.processes
    return ", ".join(f"{p.name} {p.pid}".strip() for p in device.processes) or "-"


def _name(device: DeviceReport) -> str:
    """The physical id, and the logical one where processes here know it by another."""
    name = f"ascend:{_text(device.physical)}"
    if device.logical == device.physical or isinstance(device.logical, Unmeasured):
        return name
    return f"{name} (here {device.logical})"


_COLUMNS: dict[str, Callable[[DeviceReport], object]] = {
    "device": _name,
    "model": lambda device: device.model,
    "health": lambda device: device.health,
    "level": lambda device: device.level,
    "memory": _memory,
    "NUMA": lambda device: device.numa,
    "ring": lambda device: device.ring,
    "ip": _address,
    "link": lambda device: device.link,
    "network": lambda device: device.net_health,
    "processes": _processes,
}
_STATE = ("device", "model", "health", "level", "memory", "processes")
_PLACE = ("device", "NUMA", "ring", "ip", "link", "network")


def _cell(value: object) -> Text:
    if isinstance(value, Unmeasured):
        return Text("?", style="dim")
    style = _HEALTH_STYLES.get(value, "red") if isinstance(value, Health) else ""
    return Text(_text(value), style=style)


def _text(value: object) -> str:
    if isinstance(value, Unmeasured):
        return "?"
    return str(value.value if isinstance(value, enum.Enum) else value)


def _grouped(reasons: Iterable[tuple[DeviceReport, str]]) -> Iterable[tuple[str, str]]:
    """Devices that share a reason, named together."""
    groups: dict[str, list[str]] = {}
    for device, why in reasons:
        if why:
            groups.setdefault(why, []).append(_text(device.physical))
    return ((f"ascend:{','.join(names)}", why) for why, names in groups.items())


def _show_cpus(console: Console, cpus: CpuBudget) -> None:
    nodes = ", ".join(f"node {n.index}: {format_cpu_list(n.cpus)}" for n in cpus.numa)
    quota = "" if cpus.quota is None else f", time for {cpus.quota:g} of them"
    _say(console, f"CPUs: {len(cpus.cpus)}{quota} (NUMA {nodes or 'unknown'})")
    for what in cpus.unmeasured:
        _say(console, f"could not be measured: {what}", "dim")


def show_rehearsal(root: Path, document: dict[str, Any], *, created: bool) -> None:
    """What a rehearsal node is now, and after it was made how to use it."""
    console = _console()
    faults = ", ".join(document["faults"]) or "none"
    count = len(document["devices"])
    _say(console, f"simulated node of {count} devices, {document['model']}, in {root}")
    _say(console, f"faults: {faults}")
    if not created:
        return
    folder = shlex.quote(str(root))
    for line in (
        f"export {VARIABLE}={folder}",
        "muster devices",
        "muster plan jobs/yolov3_res2net50_8p_ascend.yaml",
        "muster run jobs/rehearsal_8p_ascend.yaml",
        f"muster devices simulate --dir {folder} --fault alarm:0=80E01801",
        f"muster devices simulate --dir {folder} --clear all",
        f"export PATH={folder}/bin:$PATH    # for other programs",
    ):
        _say(console, f"  {line}")
    _say(console, "faults, each KIND[:DEVICE][=VALUE]:")
    for name, kind in KINDS.items():
        where = {"must": ":N", "may": "[:N]", "none": ""}[kind.device]
        value = f"={kind.default}" if kind.default else ""
        _say(console, f"  {name + where + value:<32} {kind.does}", "dim")


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)
