"""Is a rank slower than its peers, and why? Pure decisions over what each of them needed.

In lockstep all ranks show the same time for a step, since the fast ones wait in the collective
for the slow one. So ranks are compared by what each needed itself: time on CPUs, in line for
one, stopped, and waiting for data. Where ranks do not wait for each other the times of their
steps differ, and are compared too. Seconds; `at` is CLOCK_MONOTONIC.

What a device needs for a step is not visible here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median_low

from orchestrator.effort import Effort
from orchestrator.heartbeat import Heartbeat

WINDOW_SECONDS = 10.0
WINDOW_STEPS = 20
PATIENCE = 30.0
"""A rank is a straggler when it was slow over every window for so long."""

_BUSY = 0.5
"""The share of its step that a rank must need itself: else the gang does not wait for it."""

_LEAST = 0.01  # of a step: below it, factors between needs say nothing


@dataclass(frozen=True)
class Point:
    """One rank at one moment."""

    at: float
    step: int
    trains_since: float | None  # None: it is in another phase, or before its first step
    effort: Effort
    waited: float  # for data, since its first step


@dataclass(frozen=True)
class Stretch:
    """What a rank needed for some steps of training."""

    seconds: float
    steps: int
    cpu: float
    queued: float
    throttled: float
    stopped: float
    waited: float

    @property
    def own(self) -> float:
        """What it needed itself."""
        return self.cpu + self.queued + self.stopped + self.waited

    def per_step(self) -> Stretch:
        """The mean of its steps."""
        return Stretch(*(value / self.steps for value in vars(self).values()))


@dataclass(frozen=True)
class Slow:
    """How many times as much as its peers a rank needs for a step, and the likely reason."""

    factor: float
    reason: str


@dataclass(frozen=True)
class News:
    """A rank has become a straggler, or is none any more."""

    rank: int
    slow: Slow
    seconds: float
    """For how long it was slow."""
    over: bool


def between(earlier: Point, later: Point) -> Stretch | None:
    """The stretch from one point to another; None unless nothing was done but training."""
    if earlier.trains_since is None or later.trains_since is None:
        return None
    if later.trains_since > earlier.at or later.step < earlier.step:
        return None
    before, after = earlier.effort, later.effort
    spent = (
        after.cpu - before.cpu,
        after.queued - before.queued,
        after.throttled - before.throttled,
        after.stopped - before.stopped,
        later.waited - earlier.waited,
    )
    # The waiting of a thread that has ended is not counted any more.
    return Stretch(
        later.at - earlier.at, later.step - earlier.step, *(max(0.0, one) for one in spent)
    )


def joined(stretches: Iterable[Stretch]) -> Stretch:
    """Several stretches as one."""
    return Stretch(*map(sum, zip(*(vars(one).values() for one in stretches), strict=True)))


def compare(windows: Mapping[int, Stretch]) -> dict[int, Slow]:
    """How slow each rank is beside the others; 1 is as fast as the middle one.

    Of two ranks in the middle the faster is taken: so with two in all the faster is the measure.
    """
    means = {rank: window.per_step() for rank, window in windows.items()}
    if len(means) < 2:
        return {}
    middle = Stretch(
        *map(median_low, zip(*(vars(m).values() for m in means.values()), strict=True))
    )
    own = median_low([mean.own for mean in means.values()])
    return {rank: _slow(mean, own, middle) for rank, mean in means.items()}


def _slow(mean: Stretch, own: float, middle: Stretch) -> Slow:
    by_time = mean.seconds / middle.seconds if middle.seconds > 0 else 1.0
    by_need = mean.own / max(own, _LEAST * middle.seconds, 1e-9)
    if mean.own < _BUSY * mean.seconds:
        by_need = min(by_need, 1.0)
    factor = max(by_time, by_need)
    return Slow(round(factor, 2), _reason(mean, middle) if factor > 1 else "")


UNKNOWN = "not determined"
COMPUTES = "it computes longer than its peers do; why: not determined"


def _reason(mean: Stretch, middle: Stretch) -> str:
    """What it needs more of than the middle rank does, if that is most of the difference."""
    queued = max(0.0, mean.queued - middle.queued)
    throttled = mean.throttled - middle.throttled > 0.5 * queued > 0
    more = {
        "its cgroup has used up its share of the CPUs (throttled)"
        if throttled
        else "CPU contention: its threads wait in line for the CPUs of its set": queued,
        "its process is stopped by signals": mean.stopped - middle.stopped,
        "it waits for its data": mean.waited - middle.waited,
        COMPUTES: mean.cpu - middle.cpu,
    }
    reason = max(more, key=lambda name: more[name])
    whole = sum(value for value in more.values() if value > 0)
    difference = max(whole, mean.seconds - middle.seconds)
    return reason if more[reason] > 0.5 * difference > 0 else UNKNOWN


class Stragglers:
    """Watches the ranks of one attempt; `look` tells what is new."""

    def __init__(self, ranks: Iterable[int], factor: float | None) -> None:
        """`factor`: how slow a rank may be; None: nobody is told of any."""
        self._factor = factor
        self._end_factor = (1.0 + factor) / 2 if factor is not None else math.inf
        self._windows: dict[int, deque[Stretch]] = {rank: deque() for rank in ranks}
        self._points: dict[int, Point] = {}
        self._steps: dict[int, int] = {}
        self._waited: dict[int, float] = dict.fromkeys(self._windows, 0.0)
        self._since: dict[int, float] = {}
        self._told: dict[int, Slow] = {}
        self._at = -math.inf
        self._looked_at = -math.inf

    def restore(self, told: Mapping[int, Slow]) -> None:
        """Go on where an earlier controller was killed, who had told of these."""
        self._told = dict(told)

    def beat(self, rank: int, beat: Heartbeat) -> None:
        """A heartbeat: the steps that nobody saw count as long in waiting as the last one."""
        steps = beat.step - self._steps.get(rank, beat.step)
        self._steps[rank] = beat.step
        if steps > 0 and not math.isnan(beat.data_wait):
            self._waited[rank] += steps * beat.data_wait

    def effort(self, rank: int, at: float, effort: Effort, beat: Heartbeat | None) -> None:
        """What a rank had needed at a moment, and its heartbeat then."""
        if beat is None:
            return
        since = beat.phase_at if beat.phase == "train" and beat.step > 0 else None
        point = Point(at, beat.step, since, effort, self._waited[rank])
        before, self._points[rank] = self._points.get(rank), point
        self._at = max(self._at, at)
        stretch = between(before, point) if before is not None else None
        if stretch is not None:
            window = self._windows[rank]
            window.append(stretch)
            while _full(list(window)[1:]):
                window.popleft()

    def look(self) -> list[News]:
        """Who has become a straggler since the last look, and who is none any more."""
        if self._factor is None or self._at <= self._looked_at:
            return []
        if not all(_full(window) for window in self._windows.values()):
            return []
        self._looked_at = self._at
        compared = compare({rank: joined(window) for rank, window in self._windows.items()})
        return [news for rank, slow in compared.items() if (news := self._judge(rank, slow))]

    def _judge(self, rank: int, slow: Slow) -> News | None:
        told = self._told.get(rank)
        assert self._factor is not None
        if slow.factor > (self._factor if told is None else self._end_factor):
            since = self._since.setdefault(rank, self._at)
            if told is not None or self._at - since < PATIENCE:
                return None
            self._told[rank] = slow
            return News(rank, slow, self._at - since, over=False)
        since = self._since.pop(rank, self._at)
        self._told.pop(rank, None)
        return None if told is None else News(rank, told, self._at - since, over=True)


def _full(window: Iterable[Stretch]) -> bool:
    seconds = steps = 0.0
    for one in window:
        seconds, steps = seconds + one.seconds, steps + one.steps
    return seconds >= WINDOW_SECONDS and steps >= WINDOW_STEPS
