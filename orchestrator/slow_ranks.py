"""Makes stragglers known: when a rank has become one, with the likely reason, and when it is over.

Where nothing of the process explains it, the tools are asked about its device, in the background.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

from orchestrator.devices import Devices
from orchestrator.found import Found
from orchestrator.gang import Gang
from orchestrator.plan import RankPlan
from orchestrator.recorder import Recorder
from orchestrator.stragglers import COMPUTES, UNKNOWN, News


class SlowRanks:
    """The controller's voice about stragglers."""

    def __init__(self, recorder: Recorder, devices: Devices) -> None:
        self._recorder = recorder
        self._devices = devices
        self._asked: list[tuple[int, News, Future[Found]]] = []

    def tell(self, gang: Gang) -> None:
        """Record what is new; what waits for an answer of the tools is told with it."""
        for news in gang.stragglers():
            unexplained = not news.over and news.slow.reason in (COMPUTES, UNKNOWN)
            asked = self._devices.ask() if unexplained else None
            if asked is None:
                self._record(gang, news)
            else:
                self._asked.append((gang.plan.attempt.number, news, asked))
        for attempt, news, asked in [one for one in self._asked if one[2].done()]:
            self._asked.remove((attempt, news, asked))
            if attempt == gang.plan.attempt.number:
                self._record(gang, _explained(news, gang, asked))

    def _record(self, gang: Gang, news: News) -> None:
        place = _place(gang, news.rank).assignment
        state = "is as fast as the others again, after" if news.over else "has been for"
        times = f"rank {news.rank} needed {news.slow.factor:g} times as long as its peers"
        reason = f"{times} ({news.slow.reason}); it {state} {news.seconds:.0f} s"
        self._recorder.record(
            "straggler",
            reason,
            rank=news.rank,
            factor=news.slow.factor,
            likely=news.slow.reason,
            seconds=round(news.seconds, 1),
            over=news.over,
            node=place.node,
            device=f"{place.device.kind.value}:{place.device.index}",
        )


def _explained(news: News, gang: Gang, asked: Future[Found]) -> News:
    """With what the tools say of its device, if they say anything."""
    if asked.cancelled() or asked.exception() is not None:
        return news
    found = asked.result()
    key = _place(gang, news.rank).assignment.device.key
    told = [*filter(None, [found.unwell.get(key)]), *found.concerns.get(key, ())]
    if not told:
        return news
    return replace(news, slow=replace(news.slow, reason=f"its device: {'; '.join(told)}"))


def _place(gang: Gang, rank: int) -> RankPlan:
    return next(one for one in gang.plan.ranks if one.assignment.rank == rank)
