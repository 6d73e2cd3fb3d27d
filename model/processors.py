"""How many threads are worth having: they follow the CPUs that this process may use.

Under muster that is the rank's CPU set; what comes out is the same for any number of threads.
"""

from __future__ import annotations

import os
from pathlib import Path

MOST_THREADS = 16
MOST_WORKERS = 8
"""Each holds a batch of its own, which may be some hundred megabytes."""


def usable_cpus(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many CPUs this process may keep busy: affinity and cgroup quota, at most sixteen."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = quota_file.read_text().split()
        cpus = min(cpus, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # "max", or another version of cgroups
        pass
    return max(1, min(cpus, MOST_THREADS))


def data_workers(asked: int | None) -> int:
    """Threads that prepare batches: as many as asked for, else one a CPU, at most eight.

    The original counts the machine's cores and divides them by the devices.
    """
    return min(usable_cpus(), MOST_WORKERS) if asked is None else asked
