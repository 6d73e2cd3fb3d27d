"""Which queue may have how many devices of a kind. Looked at before any device is."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable

from orchestrator.queueing.values import Quota, Running, Waiting

_Pot = tuple[str, str]
_Part = tuple[float, int]
"""So many devices, until or from that moment."""


class Quotas:
    """What each queue holds and may hold during one pass.

    A job that cannot start yet claims its part: a later one of its queue may use it only if it
    ends before. `wait` claims for the first job of a queue that lacks quota, and `claim` is
    called for every job that devices are kept for.
    """

    def __init__(self, quotas: Iterable[Quota], running: Iterable[Running], now: float) -> None:
        """A queue that is named twice has the smaller quota."""
        self._most: dict[_Pot, int] = {}
        for quota in quotas:
            for kind, number in quota.devices.items():
                pot = (quota.queue, kind.value)
                self._most[pot] = min(number, self._most.get(pot, number))
        self._queues = {queue for queue, _ in self._most}
        self._used: Counter[_Pot] = Counter()
        self._ends: defaultdict[_Pot, list[_Part]] = defaultdict(list)
        self._claims: defaultdict[_Pot, list[_Part]] = defaultdict(list)
        self._first: dict[_Pot, str] = {}
        self._short: set[_Pot] = set()
        for one in running:
            if one.queue in self._queues and one.kind is not None:
                self._charge((one.queue, one.kind.value), len(one.assignments), one.ends(now))

    def most(self, job: Waiting) -> float:
        """How many devices the job's queue may have."""
        return self._most.get(_pot(job), math.inf)

    def used(self, job: Waiting) -> int:
        """How many it holds."""
        return self._used[_pot(job)]

    def allow(self, job: Waiting, ends: float) -> bool:
        """Whether its queue may have the devices that the job asks for, until then."""
        if job.queue not in self._queues:
            return True
        pot = _pot(job)
        if pot not in self._most:
            return True
        claimed = sum(number for at, number in self._claims[pot] if not passes(ends, at))
        return self._used[pot] + job.request.ranks + claimed <= self._most[pot]

    def first(self, job: Waiting) -> str | None:
        """The first job of its queue that has a claim."""
        return self._first.get(_pot(job))

    def start(self, job: Waiting, ends: float) -> None:
        """The job has its devices until then."""
        self._charge(_pot(job), job.request.ranks, ends)

    def claim(self, job: Waiting, at: float) -> None:
        """The job starts at that moment, or is to be able to."""
        self._claims[_pot(job)].append((at, job.request.ranks))
        self._first.setdefault(_pot(job), job.job)

    def wait(self, job: Waiting) -> None:
        """The job lacks quota: if it is the first of its queue, no other may delay it."""
        pot = _pot(job)
        if pot in self._short:
            return
        self._short.add(pot)
        too_many = self._used[pot] + job.request.ranks - self._most[pot]
        for at, number in sorted(self._ends[pot]):
            too_many -= number
            if too_many <= 0:
                return self.claim(job, at)
        return self.claim(job, math.inf)

    def _charge(self, pot: _Pot, number: int, ends: float) -> None:
        if pot in self._most:
            self._used[pot] += number
            self._ends[pot].append((ends, number))


def passes(ends: float, at: float) -> bool:
    """Whether a job that ends then is out of the way at `at`; one without a limit never is."""
    return ends <= at and ends < math.inf


def _pot(job: Waiting) -> _Pot:
    return job.queue, job.request.kind.value
