"""This machine's devices with what keeps them from jobs, as `muster devices --json` tells them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster import cpu
from cluster.ascend.report import NodeReport, codes_of, devices_of
from cluster.bars import Bar, name_of, reasons
from cluster.cpu import CpuBudget
from cluster.device import Device
from cluster.device_leases import held_by_others
from cluster.gpu.report import GpuNodeReport
from cluster.gpu.report import devices_of as gpus_of
from orchestrator.device_book import book_for
from orchestrator.found import note

SCHEMA = 1


@dataclass(frozen=True)
class Bars:
    """What a list of devices shows: bars by the device's name; why they cannot be told, if so."""

    held: Mapping[str, tuple[Bar, ...]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    unreadable: bool = False


@dataclass(frozen=True)
class Listing:
    """What was found. `held` has who uses a device, by its name; `problems` are for people."""

    report: NodeReport
    gpus: GpuNodeReport
    cpus: CpuBudget
    ascend_bars: Bars
    gpu_bars: Bars
    held: Mapping[str, str]

    @property
    def problems(self) -> list[str]:
        """What cannot be told of bars."""
        both = (self.ascend_bars.problem, self.gpu_bars.problem)
        return list(dict.fromkeys(filter(None, both)))

    @property
    def failed(self) -> bool:
        """Whether something that is there could not be asked."""
        unreadable = self.ascend_bars.unreadable or self.gpu_bars.unreadable
        silent = self.report.tool is not None and not self.report.answered
        return unreadable or self.gpus.failed or silent


def listing(report: NodeReport, gpus: GpuNodeReport, environment: Mapping[str, str]) -> Listing:
    """The reports with bars, after the faults that they show have been recorded."""
    npus, _ = devices_of(report, "")
    cards, _ = gpus_of(gpus, "")
    in_use = held_by_others(npus, report.simulated) | held_by_others(cards)
    return Listing(
        report,
        gpus,
        cpu.measure(),
        _bars_of(npus, environment, report.simulated, codes_of(report)),
        _bars_of(cards, environment),
        {name_of(d): in_use[d.key] for d in (*npus, *cards) if d.key in in_use},
    )


def document(found: Listing) -> dict[str, Any]:
    """The list as JSON values."""
    budget = {**vars(found.cpus), "numa": [vars(node) for node in found.cpus.numa]}
    told = {**found.report.to_document(), "gpus": found.gpus.to_document(), "cpus": budget}
    npus = {f"ascend:{one['physical']}": one for one in told["devices"]}
    cards = {f"gpu:{one['index']}": one for one in told["gpus"]["devices"]}
    for entries, bars in ((npus, found.ascend_bars), (cards, found.gpu_bars)):
        for name, entry in entries.items():
            entry["barred"] = _barred(name, bars)
            entry["held"] = found.held.get(name)
    return {"schema": SCHEMA, **told, "bars_unknown": "; ".join(found.problems) or None}


def _bars_of(
    devices: Iterable[Device],
    environment: Mapping[str, str],
    simulated: str = "",
    codes: Mapping[str, tuple[str, ...]] | None = None,
) -> Bars:
    book, now = book_for(simulated, environment), time.time()
    problem = note(book, codes or {}, now)
    listed = list(devices)
    try:
        barred = book.barred(listed, now)
    except (ValueError, OSError) as error:
        return Bars(problem=str(error), unreadable=True)
    held = {name_of(d): barred[d.key] for d in listed if d.key in barred}
    return Bars(held, {name: reasons(bars, now) for name, bars in held.items()}, problem)


def _barred(name: str, bars: Bars) -> dict[str, Any] | None:
    """The bars of a device, null where it has none."""
    held = bars.held.get(name)
    if not held:
        return None
    ends = [one.until for one in held if one.until is not None]
    return {
        "reason": bars.reasons[name],
        "until": max(ends) if len(ends) == len(held) else None,
        "bars": [asdict(one) for one in held],
    }
