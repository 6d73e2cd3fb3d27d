"""A memory cgroup for one rank, in which the kernel kills it for real (cgroup v1 and v2).

A group below the rank's own is made, given little, and the rank put into it: what it takes from
then on is counted there. Where that is not allowed, nothing is changed.
Source: kernel documentation, cgroup-v1/memory, cgroup-v2.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

LIMIT = 32 << 20
BEYOND = 256 << 20
"""Bytes that a rank tries to take, so that it comes far beyond the limit."""

PREFIX = "muster-drill-"
_PATIENCE = 60.0
_ROOT = Path("/sys/fs/cgroup")


@dataclass
class Group:
    """A group with one process; removed when that is gone."""

    path: Path
    until: float

    def over(self) -> bool:
        return not self._members() or time.monotonic() > self.until

    def end(self) -> None:
        """Give a process that lives back to the group above, and remove this one."""
        with contextlib.suppress(OSError):
            for pid in self._members():
                (self.path.parent / "cgroup.procs").write_text(pid)
            self.path.rmdir()

    def _members(self) -> list[str]:
        try:
            return (self.path / "cgroup.procs").read_text().split()
        except OSError:
            return []


def confine(pid: int) -> Group | None:
    """Put a process into a group with little memory; None where no group can be made."""
    for parent, limit in _places(str(pid)):
        group = Group(parent / f"{PREFIX}{pid}", time.monotonic() + _PATIENCE)
        try:
            group.path.mkdir()
            (group.path / limit).write_text(str(LIMIT))
            (group.path / "cgroup.procs").write_text(str(pid))
        except OSError:
            group.end()
            continue
        return group
    return None


def killed(pid: int | None) -> bool:
    """Whether the kernel has killed a process in the group that a drill made for it.

    Version 1 counts a kill nowhere else.
    """
    for parent, _ in _places("self"):
        for name in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(OSError):
                text = (parent / f"{PREFIX}{pid}" / name).read_text()
                if any(re.fullmatch(r"oom_kill [1-9]\d*", line) for line in text.splitlines()):
                    return True
    return False


def _places(pid: str) -> list[tuple[Path, str]]:
    """Groups of the process that may count memory, with the name of their limit."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return []
    places = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        below = path.lstrip("/")
        if "memory" in controllers.split(","):
            places += [(_ROOT / "memory" / below, "memory.limit_in_bytes")]
            places += [(_ROOT / "memory", "memory.limit_in_bytes")]
        elif controllers == "":
            places.append((_ROOT / below, "memory.max"))
    return [(parent, limit) for parent, limit in places if (parent / "cgroup.procs").exists()]
