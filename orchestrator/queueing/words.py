"""Why a job waits, in a sentence for `muster ps`: the allocator's own where devices are missing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.allocate import Request
from cluster.device import DeviceKind
from cluster.refusal import short_list
from orchestrator.queueing.values import Decisions, Waiting

_NOUNS = {DeviceKind.ASCEND: "NPU", DeviceKind.GPU: "GPU", DeviceKind.CPU: "CPU slot"}


@dataclass(frozen=True)
class Line:
    """A waiting job in `muster ps`: its place in the whole line, from 1, and why it waits."""

    position: int
    job: str
    queue: str
    priority: int
    reason: str


def lines(waiting: Iterable[Waiting], decisions: Decisions) -> list[Line]:
    """Every job that goes on waiting, first in line first."""
    jobs = {one.job: one for one in waiting}
    return [
        Line(position, job, jobs[job].queue, jobs[job].priority, reason)
        for position, (job, reason) in enumerate(decisions.reasons.items(), 1)
    ]


def devices(number: int, kind: DeviceKind) -> str:
    """`1 NPU`, `8 GPUs`."""
    return f"{number} {_NOUNS[kind]}{'' if number == 1 else 's'}"


def no_quota(job: Waiting, used: int, most: float, first: str | None) -> str:
    """The queue may not have as many devices as the job asks for."""
    need = f"needs {devices(job.request.ranks, job.request.kind)}"
    if job.request.ranks > most:
        return f"{need}; the quota of queue {job.queue} is {most:g}: it can never start so"
    has = f"queue {job.queue} holds {used} of its quota of {most:g}"
    if used + job.request.ranks <= most and first is not None:
        return f"{need}; {has}, and job {first} before it needs the rest"
    return f"{need}; {has}"


def in_the_way(first: str, *, limited: bool) -> str:
    """It would fit, but would take what a job before it needs."""
    why = "its limits.run ends too late" if limited else "it has no limits.run"
    return f"behind job {first}: would fit now, but may delay it ({why})"


def stops(jobs: Iterable[str]) -> str:
    """Its devices are kept for it as soon as those have stopped."""
    names = list(jobs)
    return f"waits for the stop of job{'s' if len(names) > 1 else ''} {short_list(names)}"


def next_up(refusal: str, seconds: float) -> str:
    """The first for which devices are missing."""
    if math.isinf(seconds):
        return f"{refusal}; next in line, as soon as jobs without limits.run end"
    return f"{refusal}; next in line, in {_duration(seconds)} at the latest by limits.run of others"


def never(refusal: str) -> str:
    """It would not fit if nothing else ran."""
    return f"{refusal}; not even if nothing else ran"


def not_together(request: Request, first: str | None) -> str:
    """So many different requests were refused before it that its own is not put into words."""
    behind = f"behind job {first}: " if first is not None else ""
    return f"{behind}needs {devices(request.ranks, request.kind)}, not free together now"


def _duration(seconds: float) -> str:
    whole = math.ceil(seconds)
    for unit, size, part, small in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size}{unit} {rest}{part}" if rest else f"{whole // size}{unit}"
    return f"{-(-whole // 60)}m" if whole >= 60 else f"{whole}s"
