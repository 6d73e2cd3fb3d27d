"""Asking NVML in a process with a time limit, and reading what the kernel shows of GPUs."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.command import Outcome, run
from cluster.gpu import ask
from cluster.gpu.assemble import assemble, bus_id
from cluster.gpu.kernel_log import read_xids
from cluster.gpu.report import GpuNodeReport
from cluster.gpu.transcript import Transcript, parse
from cluster.kernel_text import content, numa_node_of
from cluster.measured import Measured

BUDGET_SECONDS = 30.0
"""A node of 8 GPUs whose driver is not kept loaded takes some seconds for each."""

_GRACE_SECONDS = 5


def probe(
    environment: Mapping[str, str], *, budget: float = BUDGET_SECONDS, root: Path = Path("/")
) -> GpuNodeReport:
    """Report on the GPUs of this machine, within about `budget` seconds; never raises for them.

    `environment` is that of a process which would use the GPUs; `root` holds dev, proc and sys.
    """
    return assemble(gather(budget=budget, root=root), environment)


def gather(*, budget: float = BUDGET_SECONDS, root: Path = Path("/")) -> Transcript:
    """Ask everything."""
    alarm = str(math.ceil(budget) + _GRACE_SECONDS)
    outcome = run([sys.executable, "-P", ask.__file__, alarm], timeout=budget)
    said = parse(outcome.text, _failure(outcome, alarm, budget))
    if not _answers(said, "bus_id"):
        return said
    return replace(
        said, numa=_numa_nodes(root, said), names=_names(root, said), xid=read_xids(root)
    )


def _failure(outcome: Outcome, alarm: str, budget: float) -> str:
    """How the program ended, without its command line and the answers that it printed."""
    if outcome.timed_out:
        return f"NVML gave no answer within {budget:.3g} s (the driver hangs or loads slowly)"
    why = outcome.failure.partition(f" {alarm}: ")[2].partition(": {")[0] or outcome.failure
    return f"asking NVML: {why}" if why else ""


def _numa_nodes(root: Path, said: Transcript) -> dict[str, Measured[int]]:
    found: dict[str, Measured[int]] = {}
    for text in _answers(said, "bus_id"):
        try:
            address = bus_id(text)
        except (TypeError, ValueError):
            continue
        found[address] = numa_node_of(root, address)
    return found


def _names(root: Path, said: Transcript) -> dict[int, str]:
    """Names of processes that hold GPUs; none for one of another container."""
    pids = {
        row[0]
        for use in ("compute", "graphics")
        for listed in _answers(said, use)
        if isinstance(listed, list)
        for row in listed
        if isinstance(row, list) and row and isinstance(row[0], int)
    }
    texts = {pid: content(root / "proc" / str(pid) / "comm") for pid in pids}
    return {pid: text.strip() for pid, text in texts.items() if isinstance(text, str)}


def _answers(said: Transcript, asked: str) -> list[Any]:
    return [value for (_, question), value in said.answers.items() if question == asked]
