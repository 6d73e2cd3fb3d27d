"""Whether the kernel killed a process for memory: by its counters, and by what it logged.

The log names the process; the counters of a cgroup tell only that somebody in it was killed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cluster.kernel_messages import KERNEL_LOG, records

_WORDS = (b"Killed process ", b"oom-kill:")
_VICTIM = re.compile(r"Killed process (\d+) \(|oom-kill:.*\bpid=(\d+),uid=")
_RECORD = re.compile(r"\d+,\d+,(?P<microseconds>\d+),[^;]*;(?P<text>[^\n]*)")
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of the kernel
_CLOCK_SLACK = 5.0


def kill_logged(
    pid: int,
    since: float,
    *,
    log: Path = KERNEL_LOG,
    namespace: Path = Path("/proc/self/ns/pid"),
) -> str:
    """What the kernel logged when it killed `pid` for memory, not before `since`.

    `since` is CLOCK_MONOTONIC, which is the log's clock but for little. Empty: nothing, or nobody
    here may read it, or pids here are not those that the kernel writes (a container's).
    """
    try:
        if os.readlink(namespace) != _FIRST_PID_NAMESPACE:
            return ""
        told = records(log, _WORDS)
    except OSError:
        return ""
    return next((text for record in told if (text := _about(record, pid, since))), "")


def _about(record: str, pid: int, since: float) -> str:
    parsed = _RECORD.match(record)
    if parsed is None or int(parsed["microseconds"]) / 1e6 < since - _CLOCK_SLACK:
        return ""
    victim = _VICTIM.search(parsed["text"])
    return parsed["text"].strip() if victim and str(pid) in victim.groups() else ""


def kills_counted() -> int | None:
    """OOM kills counted by this process's memory cgroup so far (v2, v1); None if unreadable.

    Source: kernel documentation, cgroup-v2 `memory.events`, cgroup-v1 `memory.oom_control`.
    """
    for path in _counters():
        try:
            text = path.read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def _counters() -> list[Path]:
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    root = Path("/sys/fs/cgroup")
    files = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        below = path.lstrip("/")
        if controllers == "":
            files.append(root / below / "memory.events")
        elif "memory" in controllers.split(","):
            # A container often sees its own group mounted at the controller's root.
            files.append(root / "memory" / below / "memory.oom_control")
            files.append(root / "memory" / "memory.oom_control")
    return files
