"""Processes as /proc shows them: identity that survives pid reuse, descendants, marks.

Standard library only (the supervisor uses it). Source: proc(5), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Identity:
    """A process for ever: pid, start time in clock ticks since boot, and the boot."""

    pid: int
    start_time: int
    boot_id: str

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        if self.boot_id != boot_id():
            return False
        status = _stat(self.pid)
        return status is not None and status.start_time == self.start_time and status.state != "Z"

    def kill(self) -> None:
        """SIGKILL to this very process; none to another that has its pid since."""
        if self.alive():
            kill_quietly(self.pid)


@dataclass(frozen=True)
class _Stat:
    pid: int
    parent: int
    state: str
    start_time: int


@cache
def boot_id() -> str:
    """This boot of the machine."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Identity | None:
    """The identity of a running process, None if there is none with that pid."""
    status = _stat(pid)
    return Identity(pid, status.start_time, boot_id()) if status else None


def state_of(pid: int) -> str | None:
    """One letter of proc(5): R, S, D (uninterruptible), Z, T …; None if it is gone."""
    status = _stat(pid)
    return status.state if status else None


def descendants(root: int) -> list[int]:
    """All living processes below `root`, zombies left out."""
    children: dict[int, list[_Stat]] = {}
    for pid in _pids():
        status = _stat(pid)
        if status:
            children.setdefault(status.parent, []).append(status)
    found: list[int] = []
    queue = [root]
    while queue:
        for child in children.get(queue.pop(), ()):
            queue.append(child.pid)
            if child.state != "Z":
                found.append(child.pid)
    return found


def marked(variable: str, value: str) -> list[int]:
    """Processes of this user that were started with `variable=value` in their environment."""
    entry = f"{variable}={value}".encode()
    found = []
    for pid in _pids():
        try:
            environment = (_PROC / str(pid) / "environ").read_bytes()
        except OSError:
            continue
        if entry in environment.split(b"\0"):
            found.append(pid)
    return found


def clear_marked(variable: str, value: str, timeout: float) -> list[int]:
    """Kill every process with that mark but this one and its parent, until none is left.

    Returns those that do not die within `timeout` seconds.
    """
    keep = {os.getpid(), os.getppid()}
    deadline = time.monotonic() + timeout
    while True:
        left = [
            pid
            for pid in marked(variable, value)
            if pid not in keep and state_of(pid) not in (None, "Z")
        ]
        if not left or time.monotonic() > deadline:
            return left
        for pid in left:
            kill_quietly(pid)
        time.sleep(0.02)


def mentioning(text: str) -> list[int]:
    """Processes whose command line holds `text`."""
    found = []
    for pid in _pids():
        try:
            command = (_PROC / str(pid) / "cmdline").read_bytes()
        except OSError:
            continue
        if text.encode() in command:
            found.append(pid)
    return found


def kill_quietly(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone already."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def become_subreaper() -> None:
    """Adopt orphaned descendants: whatever a rank leaves behind becomes our child."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` dies; leave if it is dead already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


# Loaded once: a child between fork and exec must not import anything.
_LIBC = ctypes.CDLL(None, use_errno=True)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]


def _stat(pid: int) -> _Stat | None:
    try:
        raw = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The command name stands in parentheses and may hold any bytes, so read from its end.
    fields = raw[raw.rindex(b")") + 2 :].split()
    return _Stat(pid, int(fields[1]), fields[0].decode(), int(fields[19]))


def name_of(pid: int) -> str:
    """The command name of a process (at most 15 characters); empty if it is gone."""
    try:
        return (_PROC / str(pid) / "comm").read_bytes().decode(errors="replace").strip()
    except OSError:
        return ""
