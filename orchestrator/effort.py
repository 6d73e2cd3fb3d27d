"""What a process has needed so far: time on CPUs, time in line for one, time forbidden to it.

Standard library only (the supervisor uses it). Source: proc(5); kernel documentation,
sched-stats (`/proc/PID/task/*/schedstat`), cgroup-v2 and -v1 `cpu.stat`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")
_CGROUPS = "/sys/fs/cgroup"
_THROTTLED = {"throttled_usec": 1e-6, "throttled_time": 1e-9}  # cgroup v2, v1


@dataclass(frozen=True)
class Effort:
    """Seconds since the process began, those of all its threads together.

    `throttled` are those for which its cgroup was not allowed to run, whoever was in it;
    `stopped` those for which a signal stopped it.
    """

    cpu: float = 0.0
    queued: float = 0.0
    throttled: float = 0.0
    stopped: float = 0.0


class Meter:
    """Reads the counters of one process."""

    def __init__(self, pid: int) -> None:
        self._proc = f"/proc/{pid}"
        self._cgroup = next(filter(os.path.exists, _cpu_stats(self._proc)), None)

    def read(self, stopped: float = 0.0) -> Effort | None:
        """The counters now; None if it is gone. `stopped` is for its caller to know."""
        try:
            stat = _text(f"{self._proc}/stat")
            queued = self._queued()
        except OSError:
            return None
        # The command name stands in parentheses and may hold anything, so read from its end.
        fields = stat.rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / _TICKS
        return Effort(cpu, queued, self._throttled(), stopped)

    def _queued(self) -> float:
        """Threads that have ended take theirs with them."""
        total = 0
        for thread in os.listdir(f"{self._proc}/task"):
            with contextlib.suppress(OSError, IndexError):
                total += int(_text(f"{self._proc}/task/{thread}/schedstat").split()[1])
        return total * 1e-9

    def _throttled(self) -> float:
        if self._cgroup is None:
            return 0.0
        with contextlib.suppress(OSError, ValueError):
            for line in _text(self._cgroup).splitlines():
                name, _, value = line.partition(" ")
                if name in _THROTTLED:
                    return int(value) * _THROTTLED[name]
        return 0.0


def _cpu_stats(proc: str) -> Iterator[str]:
    """Where its cgroup's `cpu.stat` may be; a container often sees its own group as the root."""
    try:
        lines = _text(f"{proc}/cgroup").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            yield f"{_CGROUPS}{path.rstrip('/')}/cpu.stat"
            yield f"{_CGROUPS}/unified{path.rstrip('/')}/cpu.stat"
        elif "cpu" in controllers.split(","):
            yield f"{_CGROUPS}/{controllers}{path.rstrip('/')}/cpu.stat"
            yield f"{_CGROUPS}/cpu/cpu.stat"


def _text(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return file.read().decode(errors="replace")
