"""Virtual time: what stands in for the module `time`, and what is to happen when."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator

Action = Callable[[], None]

_BEGINS = 10_000.0
_UNIX = 1_790_000_000.0


class Clock:
    """Stands still while code runs; `advance` and `sleep` let time pass, and things happen.

    Has what our modules use of the module `time`, so it can be put in its place.
    """

    def __init__(self) -> None:
        self.now = _BEGINS
        self._agenda: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()

    def after(self, delay: float, action: Action) -> None:
        """Have something happen `delay` seconds from now."""
        heapq.heappush(self._agenda, (self.now + delay, next(self._numbers), action))

    @property
    def next_at(self) -> float:
        """When the next thing happens; infinity: nothing is to happen."""
        return self._agenda[0][0] if self._agenda else math.inf

    def step(self, until: float) -> bool:
        """Go to the next thing and let it happen, or to `until`; whether anything happened."""
        if self.next_at > until:
            self.now = max(self.now, until)
            return False
        at, _, action = heapq.heappop(self._agenda)
        self.now = max(self.now, at)
        action()
        return True

    def sleep(self, seconds: float) -> None:
        """Let everything happen that comes within `seconds`."""
        until = self.now + seconds
        while self.step(until):
            pass

    # -- as the module `time` ---------------------------------------------------------------

    strftime = staticmethod(time.strftime)

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic

    def time(self) -> float:
        return _UNIX + self.now

    def gmtime(self, seconds: float | None = None) -> time.struct_time:
        return time.gmtime(self.time() if seconds is None else seconds)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Within this block every module of `orchestrator` has this clock for `time`."""
        found = [
            module
            for name, module in sys.modules.items()
            if name.startswith("orchestrator.") and getattr(module, "time", None) is time
        ]
        for module in found:
            module.time = self  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for module in found:
                module.time = time  # type: ignore[attr-defined]
