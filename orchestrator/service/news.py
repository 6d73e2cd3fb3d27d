"""Word that something has happened to a job, for those who wait for it. From and to any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

Listener = Callable[[str, int], None]
"""Is told the job's id and the sequence number of its newest event. Must not block or raise."""


class News:
    """Listeners, told of every recorded event in the thread that recorded it."""

    def __init__(self) -> None:
        self._listeners: dict[int, Listener] = {}
        self._next = 0
        self._lock = threading.Lock()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` from now on, until the returned function is called."""
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._listeners = {**self._listeners, number: listener}

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = {k: v for k, v in self._listeners.items() if k != number}

        return unsubscribe

    def tell(self, job: str, sequence: int) -> None:
        """Something was recorded of `job`."""
        for listener in tuple(self._listeners.values()):
            listener(job, sequence)
