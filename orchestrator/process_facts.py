"""What the kernel tells of a process that does not get on: states, waits, CPU time, handlers.

Everything is read from /proc and bounded; what cannot be read is empty or None, never a guess.
Standard library only. Source: proc(5).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from orchestrator import processes

_PROC = Path("/proc")
_THREADS_SHOWN = 64
_STACK_LINES = 32
_TICKS = os.sysconf("SC_CLK_TCK")


def facts(pid: int, *, with_threads: bool = True) -> dict[str, Any]:
    """State, wait channel, kernel stack, CPU seconds, context switches and threads of a process.

    Only `pid` if it is gone.
    """
    folder = _PROC / str(pid)
    status = _status(folder)
    if not status:
        return {"pid": pid}
    return {
        "pid": pid,
        "state": status.get("State", "")[:1],
        "wchan": _wchan(folder),
        "kernel_stack": _text(folder / "stack").splitlines()[:_STACK_LINES],
        "cpu_seconds": cpu_seconds(pid),
        "switches": [
            _number(status.get("voluntary_ctxt_switches")),
            _number(status.get("nonvoluntary_ctxt_switches")),
        ],
        "thread_count": _number(status.get("Threads")),
        "threads": _threads(folder) if with_threads else [],
    }


def cpu_seconds(pid: int) -> float | None:
    """User and system time of all threads of a process so far."""
    return _cpu(_PROC / str(pid))


def stopped(pid: int) -> bool:
    """Whether it was stopped by a signal or a debugger: it could not answer."""
    return processes.state_of(pid) in ("T", "t")


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal. False where that cannot be read."""
    mask = _status(_PROC / str(pid)).get("SigCgt", "0")
    try:
        return bool(int(mask, 16) >> (number - 1) & 1)
    except ValueError:
        return False


def nearest_that_catches(pid: int, number: int) -> int | None:
    """The process itself, or the topmost below it (a shell's child), that handles a signal."""
    if catches(pid, number):
        return pid
    return next((one for one in processes.descendants(pid) if catches(one, number)), None)


def _threads(folder: Path) -> list[dict[str, Any]]:
    try:
        names = sorted(os.listdir(folder / "task"), key=int)[:_THREADS_SHOWN]
    except (OSError, ValueError):
        return []
    return [
        {
            "tid": int(name),
            "name": _text(folder / "task" / name / "comm").strip(),
            "state": _status(folder / "task" / name).get("State", "")[:1],
            "wchan": _wchan(folder / "task" / name),
            "cpu_seconds": _cpu(folder / "task" / name),
        }
        for name in names
    ]


def _wchan(folder: Path) -> str:
    """The kernel function that a thread sleeps in; empty where it does not or nobody may know."""
    name = _text(folder / "wchan").strip()
    return "" if name == "0" else name


def _cpu(folder: Path) -> float | None:
    # The command name stands in parentheses and may hold any character.
    fields = _text(folder / "stat").rpartition(")")[2].split()
    try:
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (IndexError, ValueError):
        return None


def _status(folder: Path) -> dict[str, str]:
    pairs = (line.partition(":") for line in _text(folder / "status").splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
