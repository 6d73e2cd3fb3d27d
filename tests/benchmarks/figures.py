"""Figures: what was measured, how many times better it is, the table, and bench.json."""

from __future__ import annotations

import enum
import os
import platform
import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cluster import cpu
from orchestrator.layout import read_json, write_json

Entry = dict[str, Any]
"""One benchmark in bench.json: unit, ours, peer, peer_name, ratio, machine.

`peak_memory_gb` (ours, peer) is there where a benchmark measures it.
"""


class Better(enum.Enum):
    """Which of two figures is the better one."""

    LOWER = "lower"
    HIGHER = "higher"


@dataclass(frozen=True)
class Summary:
    """Several measurements of one thing."""

    median: float
    min: float
    max: float
    n: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary:
        """Summarise samples, of which there is at least one (ValueError otherwise)."""
        if not samples:
            raise ValueError("no sample was measured")
        return cls(statistics.median(samples), min(samples), max(samples), len(samples))


@dataclass(frozen=True)
class PeakMemory:
    """The most memory that a process of either side held, in GB."""

    ours: float
    peer: float | None = None


@dataclass(frozen=True)
class Measurement:
    """What a benchmark found. `verdict` is for one that is right or wrong, and not fast or slow."""

    unit: str
    ours: Summary
    peer: Summary | None = None
    peer_name: str | None = None
    better: Better = Better.LOWER
    verdict: bool | None = None
    memory: PeakMemory | None = None

    @property
    def ratio(self) -> float | None:
        """How many times better ours is, by the medians; 1 or 0 for a verdict."""
        if self.verdict is not None:
            return 1.0 if self.verdict else 0.0
        if self.peer is None:
            return None
        ours, peer = self.ours.median, self.peer.median
        good, bad = (peer, ours) if self.better is Better.LOWER else (ours, peer)
        return good / bad if bad else None

    def entry(self, machine: Mapping[str, Any]) -> Entry:
        """The measurement as bench.json holds it."""
        entry = {
            "unit": self.unit,
            "ours": _rounded(self.ours),
            "peer": _rounded(self.peer) if self.peer else None,
            "peer_name": self.peer_name,
            "ratio": None if self.ratio is None else _significant(self.ratio),
            "machine": dict(machine),
        }
        return entry | ({"peak_memory_gb": asdict(self.memory)} if self.memory else {})


def this_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """CPU model, usable cores, and the load (one-minute average) at this moment."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        match = None
    model = match[1].strip() if match else platform.processor() or platform.machine()
    return {"cpu": model, "cores": cpu.measure().usable_cores, "load": round(os.getloadavg()[0], 2)}


class FiguresFile:
    """bench.json. Raises ValueError where something else lies under that name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read()

    def read(self) -> dict[str, Entry]:
        """All entries; none where there is no file yet."""
        document = read_json(self.path)
        if document is None and not self.path.exists():
            return {}
        if not isinstance(document, dict):
            raise ValueError(f"{self.path} holds no JSON object; give another --out")
        return document

    def put(self, entries: Mapping[str, Entry]) -> None:
        """Replace these entries and no others, whole or not at all."""
        write_json(self.path, {**self.read(), **entries})

    def keep_only(self, names: Collection[str]) -> None:
        """Drop entries of benchmarks that there are no more."""
        write_json(self.path, {k: v for k, v in self.read().items() if k in names})


def table(entries: Mapping[str, Entry]) -> Table:
    """The entries for people, one row each."""
    result = Table(title="ratio = how many times better ours is")
    for name in ("benchmark", "ours", "peer", "measured against"):
        result.add_column(name, overflow="fold")
    for name in ("ratio", "load"):
        result.add_column(name, justify="right")
    for name, entry in entries.items():
        result.add_row(
            name,
            _text(entry["ours"], entry["unit"]),
            _text(entry["peer"], entry["unit"]),
            entry["peer_name"] or "–",
            "–" if entry["ratio"] is None else f"{entry['ratio']:.3g}",
            f"{entry['machine']['load']:g}",
        )
    return result


def _text(summary: Mapping[str, Any] | None, unit: str) -> str:
    if summary is None:
        return "–"
    low, high = summary["min"], summary["max"]
    spread = f" ({low:.3g}–{high:.3g})" if low != high else ""
    return f"{summary['median']:.3g} {unit}{spread} n={summary['n']}"


def _rounded(summary: Summary) -> dict[str, float]:
    return {name: _significant(value) for name, value in asdict(summary).items()}


def _significant(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.5g}")
