"""Calls of one lane happen one after another, those of different lanes side by side.

Standard library only.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Lanes:
    """Threads by name; one lives only while its lane has something to do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._waiting: dict[str, deque[Callable[[], None]]] = {}

    def put(self, lane: str, call: Callable[[], None]) -> None:
        """Have `call`, which may raise nothing, made after all that the lane was given before."""
        with self._lock:
            if lane in self._waiting:
                self._waiting[lane].append(call)
                return
            self._waiting[lane] = deque([call])
        threading.Thread(target=self._work, args=(lane,), name=lane, daemon=True).start()

    def drain(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until nothing is left to do; whether nothing is."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._waiting, timeout)

    def _work(self, lane: str) -> None:
        while call := self._next(lane):
            call()

    def _next(self, lane: str) -> Callable[[], None] | None:
        with self._lock:
            if self._waiting[lane]:
                return self._waiting[lane].popleft()
            del self._waiting[lane]
            self._idle.notify_all()
            return None
