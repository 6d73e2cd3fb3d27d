"""Whether a job that runs on fewer devices than it asked for may have them all now. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from cluster.allocate import Placement, Refusal
from orchestrator.queueing.schedule import schedule
from orchestrator.queueing.values import Cluster, Quota, Running, Waiting


def grown(
    job: Waiting,
    waiting: Iterable[Waiting],
    running: Iterable[Running],
    quotas: Iterable[Quota],
    cluster: Cluster,
    now: float,
) -> Placement | Refusal:
    """Where the queue would start `job` if it stood in line with all its ranks, or why not.

    It stands behind all of its priority, since it runs and they do not; what it holds counts as
    free, and nobody is stopped for it. So it takes neither what is kept for who is next nor what
    its queue may not have.
    """
    line = list(waiting)
    last = replace(job, place=math.inf, front=False, wait_limit=None)
    others = [replace(one, preemptible=False) for one in running if one.job != job.job]
    decisions = schedule([*line, last], others, quotas, cluster, now)
    for start in decisions.starts:
        if start.job == job.job:
            return start.placement
    ahead = {one.job for one in line if one.rank < last.rank}
    first = next((one.job for one in decisions.starts if one.job in ahead), None)
    if first is not None:
        return Refusal(f"job {first} waits for devices and goes before it")
    return Refusal(decisions.reasons[job.job])
