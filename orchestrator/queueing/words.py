"""Why a job waits, in a sentence for `muster ps`: the allocator's own where devices are missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property

from cluster.allocate import Request
from cluster.device import DeviceKind
from cluster.refusal import short_list
from orchestrator.queueing.room import Room
from orchestrator.queueing.values import Waiting

_NOUNS = {DeviceKind.ASCEND: "NPU", DeviceKind.GPU: "GPU", DeviceKind.CPU: "CPU slot"}


class Refused:
    """What the allocator says of a request that has no room, once for all that ask."""

    def __init__(self, room: Room, request: Request) -> None:
        self._room = room
        self._request = request

    def __call__(self) -> str:
        """The sentence."""
        return self._said

    @cached_property
    def _said(self) -> str:
        return self._room.why(self._request)


def devices(number: int, kind: DeviceKind) -> str:
    """`1 NPU`, `8 GPUs`."""
    return f"{number} {_NOUNS[kind]}{'' if number == 1 else 's'}"


def unknown(request: Request, why: str) -> str:
    """Nobody could see what there is of this kind."""
    return f"needs {devices(request.ranks, request.kind)}; how many there are is not known: {why}"


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


def next_up(refused: Callable[[], str], seconds: float) -> str:
    """The first for which devices are missing."""
    if math.isinf(seconds):
        return f"{refused()}; next in line, as soon as jobs without limits.run end"
    when = f"in {_duration(seconds)} at the latest by limits.run of others"
    return f"{refused()}; next in line, {when}"


def never(refused: Callable[[], str]) -> str:
    """It would not fit if nothing else ran."""
    return f"{refused()}; not even if nothing else ran"


def _duration(seconds: float) -> str:
    whole = math.ceil(seconds)
    for unit, size, part, small in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size}{unit} {rest}{part}" if rest else f"{whole // size}{unit}"
    return f"{-(-whole // 60)}m" if whole >= 60 else f"{whole}s"
